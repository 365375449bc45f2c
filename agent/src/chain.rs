//! The receipt chain: each entry is signed by the server's key, names the one before, and is in the journal before
//! anybody hears of it.
//!
//! One lock gives the number and appends, so that numbers never gap whatever runs side by side. [`Accepted`] is the
//! proof that an operation is written down: nothing starts without one, and only [`Chain::accept`] makes one, out of
//! a [`Permitted`] that it consumes.

mod draft;
mod recovery;

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reeve_wire::code::{Code, Refusal};
use reeve_wire::delegation::SKEW;
use reeve_wire::id::{Digest, OperationId};
use reeve_wire::message::{ChainEnd, JournalState};
use reeve_wire::name::{HostName, Name};
use reeve_wire::receipt::{Event, Outcome, Receipt, StreamReceipt};
use reeve_wire::request::ACCEPT_WITHIN;
use reeve_wire::signed::{Signed, SignedError};
use reeve_wire::time::Millis;
use ssh_key::PrivateKey;

use crate::handed::Named;
use crate::journal::{Journal, JournalError, Position};
use crate::verify::{Order, Permitted};

use draft::Draft;
pub use recovery::Recovered;

/// Stands for the operation of a stream that named none: a receipt of a refusal must name one.
pub const NO_OPERATION: OperationId = OperationId([0; 16]);

/// The latest entries whose digests are held, to be compared with what a master says it has.
const REMEMBERED: usize = 1024;

/// How many ids refusals alone may pile up before the outdated ones are forgotten. An acceptance may forget sooner: its
/// clock agreed with signed times.
const MOST_REMEMBERED: usize = 100_000;

/// How long after its receipt an id is remembered at the least: no request that could be accepted then is still good.
const REMEMBER_FOR: Duration = ACCEPT_WITHIN.saturating_add(SKEW).saturating_add(SKEW).saturating_add(SKEW);

/// The longest that an id is remembered for what a refused request says of itself.
const REMEMBER_AT_MOST: Duration = Duration::from_secs(24 * 3600);

/// How far ahead of its own a master's numbers can be and be believed. Beyond it they would soon use up what a JSON
/// number can hold.
const PLAUSIBLE: u64 = 1 << 32;

/// An entry cannot be added. Nothing may run then.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The journal takes nothing.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The key would not sign, or the entry is too large.
    #[error(transparent)]
    Signing(#[from] SignedError),
    /// An entry of the journal is no receipt of this server.
    #[error("journal entry {} is no receipt of this server: {why}; move the journal aside and tell the NOC", .position.0)]
    Foreign {
        /// Where it stands.
        position: Position,
        /// What is the matter.
        why: String,
    },
    /// The mark file cannot be used.
    #[error("{path}: {source}", path = .path.display())]
    Mark {
        /// The file.
        path: std::path::PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A master claims an entry that this server cannot have made.
    #[error("the master claims receipt {0}.{1}, which this server cannot have made")]
    Implausible(u64, u64),
}

impl ChainError {
    /// What the technician is told; the log has the cause.
    pub fn refusal(&self) -> Refusal {
        tracing::error!(error = %self, "The receipt chain cannot go on");
        Code::JournalFailed.into()
    }
}

/// The chain of this server's key.
#[derive(Debug)]
pub struct Chain {
    key: PrivateKey,
    site: Name,
    host: HostName,
    boot_id: String,
    journal: Journal,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    end: Option<ChainEnd>,
    latest: VecDeque<ChainEnd>,
    /// Operations that were accepted or refused, and until when they are remembered.
    used: HashMap<OperationId, Millis>,
    /// How many ids there may be before the outdated ones are thrown out.
    tidy_at: usize,
}

/// A permitted operation whose `accepted` is in the journal.
#[must_use = "what is accepted must run, or its end must be written"]
#[derive(Debug)]
pub struct Accepted {
    order: Order,
    receipt: Signed,
}

impl Accepted {
    /// What is to run.
    pub const fn order(&self) -> &Order {
        &self.order
    }

    /// What the receipts of its end refer to.
    pub const fn about(&self) -> About {
        About { operation: self.order.operation, request: self.order.request, grant: self.order.grant }
    }

    /// Spends it: what is to run, and the receipt that says so.
    pub fn into_parts(self) -> (Order, Signed) {
        (self.order, self.receipt)
    }
}

/// Which operation a receipt is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct About {
    /// The operation.
    pub operation: OperationId,
    /// SHA-256 over the signed request.
    pub request: Digest,
    /// SHA-256 over the signed grant.
    pub grant: Digest,
}

/// How an operation ended, for its receipt.
#[derive(Clone, Debug)]
pub struct End {
    /// How it came out.
    pub outcome: Outcome,
    /// Exit status, where it has one.
    pub exit_status: Option<i32>,
    /// Signal, where one ended it.
    pub signal: Option<i32>,
    /// Why, where there is a why.
    pub why: Option<Refusal>,
    /// Its standard output.
    pub stdout: Option<StreamReceipt>,
    /// Its standard error.
    pub stderr: Option<StreamReceipt>,
}

impl End {
    /// An end of which nothing more is known.
    pub const fn new(outcome: Outcome) -> Self {
        Self { outcome, exit_status: None, signal: None, why: None, stdout: None, stderr: None }
    }
}

/// What the journal knows of one operation.
#[derive(Clone, Debug)]
pub struct Known {
    /// The operation.
    pub operation: OperationId,
    /// Its receipts up to its first end, oldest first.
    pub receipts: Vec<Signed>,
    /// What they come to.
    pub state: JournalState,
}

impl Chain {
    /// Opens the journal in `directory`, enters that the agent started, and closes what the last run left open.
    ///
    /// # Errors
    /// When the journal cannot be relied on.
    pub fn open(
        directory: &Path,
        key: &PrivateKey,
        site: &Name,
        host: &HostName,
        boot_id: &str,
        now: Millis,
    ) -> Result<(Self, Recovered), ChainError> {
        let (journal, _) = Journal::open(directory)?;
        let found = recovery::read(directory, &journal, key)?;
        let state = State { end: found.end, latest: found.latest, used: found.used, tidy_at: 0 };
        let chain = Self {
            key: key.clone(),
            site: site.clone(),
            host: host.clone(),
            boot_id: boot_id.to_owned(),
            journal,
            state: Mutex::new(state),
        };
        let started_at = chain.journal.next();
        let mut state = chain.state();
        chain.append(&mut state, Draft::restarted(boot_id), now)?;
        for about in &found.open {
            let why = Refusal::because(Code::OutcomeUnknown, "the agent stopped while it ran");
            let end = End { why: Some(why), ..End::new(Outcome::Unknown) };
            chain.append(&mut state, Draft::ended(*about, end), now)?;
        }
        drop(state);
        recovery::write_mark(directory, found.first_needed.map_or(started_at, |first| first.min(started_at)))?;
        let rebooted = found.boot_id.as_deref().is_some_and(|last| last != boot_id);
        let recovered = Recovered { rebooted, closed: found.open.len(), newest_accepted: found.newest_accepted };
        Ok((chain, recovered))
    }

    /// The last entry.
    pub fn end(&self) -> Option<ChainEnd> {
        self.state().end
    }

    /// Whether an operation was accepted or refused before.
    pub fn used(&self, operation: OperationId) -> bool {
        self.state().used.contains_key(&operation)
    }

    /// Whether nothing can be written any more.
    pub fn has_failed(&self) -> bool {
        self.journal.has_failed()
    }

    /// Writes that a permitted operation is about to start. Of two that come at once with the same id, one is taken.
    ///
    /// # Errors
    /// [`Code::RequestReplayed`] or [`Code::JournalFailed`]; nothing may run then.
    pub fn accept(&self, permitted: Permitted, now: Millis) -> Result<Accepted, Refusal> {
        let order = permitted.into_order();
        let mut state = self.state();
        if state.used.contains_key(&order.operation) {
            return Err(Code::RequestReplayed.into());
        }
        let about = About { operation: order.operation, request: order.request, grant: order.grant };
        let receipt = self.append(&mut state, Draft::accepted(about), now).map_err(|error| error.refusal())?;
        state.remember(order.operation, order.not_after, now);
        state.tidy(now, REMEMBERED);
        drop(state);
        Ok(Accepted { order, receipt })
    }

    /// Writes how an accepted operation ended.
    ///
    /// # Errors
    /// When it cannot be written; nobody may be told of it then.
    pub fn ended(&self, about: About, end: End, now: Millis) -> Result<Signed, ChainError> {
        self.append(&mut self.state(), Draft::ended(about, end), now)
    }

    /// Writes that an operation was refused. Its id is used up: what the technician was told is final.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn refused(&self, named: Named, refusal: &Refusal, now: Millis) -> Result<Signed, ChainError> {
        let operation = named.operation.unwrap_or(NO_OPERATION);
        let mut state = self.state();
        let receipt = self.append(&mut state, Draft::refused(operation, named, refusal), now)?;
        if named.operation.is_some() {
            state.remember(operation, named.not_after.unwrap_or(now), now);
            state.tidy(now, MOST_REMEMBERED);
        }
        drop(state);
        Ok(receipt)
    }

    /// Compares the chain's end with the last entry that a master holds. When the master's is newer, or of the same
    /// place with other content, the end was lost here (a machine set back, a loss of power): a new generation begins
    /// that names it. True then.
    ///
    /// # Errors
    /// [`ChainError::Implausible`] for a claim that nobody need believe; else when the entry cannot be written.
    pub fn compare(&self, theirs: ChainEnd, now: Millis) -> Result<bool, ChainError> {
        let mut state = self.state();
        let own = state.end.unwrap_or(ChainEnd { generation: 0, seq: 0, digest: Digest([0; 32]) });
        let place = |end: &ChainEnd| (end.generation, end.seq);
        let other_content =
            |latest: &VecDeque<ChainEnd>| latest.iter().any(|end| place(end) == place(&theirs) && *end != theirs);
        if place(&theirs) <= place(&own) && !other_content(&state.latest) {
            return Ok(false);
        }
        if theirs.seq.saturating_sub(own.seq).max(theirs.generation.saturating_sub(own.generation)) > PLAUSIBLE {
            return Err(ChainError::Implausible(theirs.generation, theirs.seq));
        }
        tracing::warn!(
            own = %format_args!("{}.{}", own.generation, own.seq),
            theirs = %format_args!("{}.{}", theirs.generation, theirs.seq),
            "The end of the journal was lost here; a new generation begins"
        );
        let generation = own.generation.max(theirs.generation).saturating_add(1);
        let lost = ChainEnd { generation, ..theirs };
        state.end = Some(lost);
        let why =
            format!("the end of the journal was lost; the master holds entry {}.{}", theirs.generation, theirs.seq);
        let draft = Draft { reason: Some(why), ..Draft::restarted(&self.boot_id) };
        let entered = self.append(&mut state, draft, now);
        if entered.is_err() {
            state.end = Some(own);
        }
        entered.map(|_| true)
    }

    /// What the journal knows of `operations`. Reads the journal, so it blocks.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn find(&self, operations: &[OperationId]) -> Result<Vec<Known>, ChainError> {
        let wanted: HashSet<_> = operations.iter().copied().collect();
        let mut found: HashMap<OperationId, Known> = HashMap::new();
        for entry in self.journal.since(Position(0))? {
            let entry = entry?;
            let Some(operation) = operation_of(&entry.bytes).filter(|operation| wanted.contains(operation)) else {
                continue;
            };
            let (signed, receipt) = read(entry.position, &entry.bytes)?;
            let known = found.entry(operation).or_insert_with(|| Known::absent(operation));
            known.add(signed, receipt.event);
        }
        let known = |operation: &OperationId| found.remove(operation).unwrap_or_else(|| Known::absent(*operation));
        Ok(operations.iter().map(known).collect())
    }

    /// Removes what the journal need not keep any more. `now` must be one that the local clock cannot push forward.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn prune(&self, now: Millis) -> Result<usize, ChainError> {
        Ok(self.journal.prune(now)?)
    }

    fn append(&self, state: &mut State, draft: Draft, now: Millis) -> Result<Signed, ChainError> {
        let end = state.end;
        let generation = end.map_or(1, |end| end.generation);
        let seq = end.map_or(0, |end| end.seq).saturating_add(1);
        let receipt = draft.at(&self.site, &self.host, (generation, seq, end.map(|end| end.digest)), now);
        let signed = Signed::make(&receipt, &self.key)?;
        self.journal.append(&signed.to_wire())?;
        state.advance(ChainEnd { generation, seq, digest: signed.digest() });
        Ok(signed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn advance(&mut self, end: ChainEnd) {
        self.end = Some(end);
        remember_latest(&mut self.latest, end);
    }

    fn remember(&mut self, operation: OperationId, not_after: Millis, now: Millis) {
        let until = not_after.plus(SKEW).plus(SKEW).max(now.plus(REMEMBER_FOR)).min(now.plus(REMEMBER_AT_MOST));
        self.used.insert(operation, until);
    }

    /// Forgets ids that are of no use any more, when there are more than `most` and twice as many as the last time.
    fn tidy(&mut self, now: Millis, most: usize) {
        if self.used.len() > self.tidy_at.max(most) {
            self.used.retain(|_, until| *until >= now);
            self.tidy_at = self.used.len().saturating_mul(2);
        }
    }
}

impl Known {
    const fn absent(operation: OperationId) -> Self {
        Self { operation, receipts: Vec::new(), state: JournalState::Absent }
    }

    /// A repeat that was refused after the end is not the operation's.
    fn add(&mut self, receipt: Signed, event: Event) {
        if self.state == JournalState::Ended {
            return;
        }
        self.receipts.push(receipt);
        self.state = match event {
            Event::Accepted => JournalState::Running,
            Event::Refused if self.state == JournalState::Running => {
                self.receipts.pop();
                JournalState::Running
            }
            Event::Ended | Event::Refused | Event::Restarted => JournalState::Ended,
        };
    }
}

fn remember_latest(latest: &mut VecDeque<ChainEnd>, end: ChainEnd) {
    if latest.len() >= REMEMBERED {
        latest.pop_front();
    }
    latest.push_back(end);
}

/// From where the journal in `directory` must be read to know how it ends.
///
/// # Errors
/// When the mark cannot be read.
pub fn mark(directory: &Path) -> Result<Position, ChainError> {
    Ok(recovery::read_mark(directory)?.unwrap_or(Position(0)))
}

/// Reads one entry of the journal.
///
/// # Errors
/// [`ChainError::Foreign`] when it is no receipt.
pub fn read(position: Position, bytes: &[u8]) -> Result<(Signed, Receipt), ChainError> {
    let foreign = |error: SignedError| ChainError::Foreign { position, why: error.to_string() };
    let signed = Signed::from_wire(bytes).map_err(foreign)?;
    let receipt = signed.peek_unverified::<Receipt>().map_err(foreign)?;
    Ok((signed, receipt))
}

/// The operation of an entry, found without reading all of it: a long journal is searched for a few operations.
fn operation_of(entry: &[u8]) -> Option<OperationId> {
    const FIELD: &[u8] = b"\"operation\":\"";
    // Quotes within a JSON string are escaped, so these bytes stand nowhere but at the field itself.
    let start = entry.windows(FIELD.len()).position(|window| window == FIELD)?.checked_add(FIELD.len())?;
    let hex = entry.get(start..start.checked_add(32)?)?;
    std::str::from_utf8(hex).ok()?.parse().ok()
}
