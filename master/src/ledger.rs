//! The record in the path of every operation: a [`Permit`] becomes a [`Recorded`] only when its intent is durable.
//!
//! Forwarding takes a `Recorded`, so a command that was never written down cannot be sent: the code that would send it
//! does not compile.

use std::time::Duration;

use reeve_audit::record::{Command, Draft, Ended, Happened, Item, Order, Stamp};
use reeve_audit::{Appended, Class, LedgerError};
use reeve_wire::code::{Code, Refusal};
use reeve_wire::id::Digest;
use reeve_wire::request::{Authored, Header, Kind};
use reeve_wire::signed::Signed;
use reeve_wire::time::Clock;

use crate::policy::{Grounds, Permit, Refused, Request, Work};

/// How long after its time limit a result may still be on its way before the operation counts as overdue.
const OVERDUE_AFTER: Duration = Duration::from_secs(120);

/// Proof that the intent to run one request on one server is durable.
///
/// Only [`Ledger::open`] makes one, and [`forward`](crate::forward::forward) spends it:
///
/// ```compile_fail,E0308
/// # use reeve_master::{forward::forward, ledger::Ledger, policy::Permit};
/// # async fn f(master: &std::sync::Arc<reeve_master::master::Master>, permit: Permit, out: reeve_master::forward::Audience) {
/// forward(master, permit, out).await;
/// # }
/// ```
///
/// ```compile_fail,E0382
/// # use reeve_master::{forward::forward, ledger::Recorded};
/// # async fn f(master: &std::sync::Arc<reeve_master::master::Master>, recorded: Recorded,
/// #     out: reeve_master::forward::Audience, again: reeve_master::forward::Audience) {
/// forward(master, recorded, out).await;
/// forward(master, recorded, again).await;
/// # }
/// ```
#[derive(Debug)]
pub struct Recorded {
    permit: Permit,
    intent: u64,
    leaf: Digest,
}

impl Recorded {
    /// What is permitted.
    pub const fn permit(&self) -> &Permit {
        &self.permit
    }

    /// Index of the intent's record.
    pub const fn intent(&self) -> u64 {
        self.intent
    }

    /// RFC 6962 leaf hash of the intent's record.
    pub const fn leaf(&self) -> Digest {
        self.leaf
    }

    /// Spends the proof.
    pub(crate) fn into_parts(self) -> (Request, Grounds, u64, Digest) {
        let (request, grounds) = self.permit.into_parts();
        (request, grounds, self.intent, self.leaf)
    }
}

/// The ledger as the broker uses it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ledger {
    inner: reeve_audit::Ledger,
    clock: Clock,
}

impl Ledger {
    /// Writes through `inner`.
    pub const fn new(inner: reeve_audit::Ledger, clock: Clock) -> Self {
        Self { inner, clock }
    }

    /// The ledger itself, for checkpoints and proofs.
    pub const fn inner(&self) -> &reeve_audit::Ledger {
        &self.inner
    }

    /// The record of an operation's signed request, once for all its servers, with the standard input it brings.
    ///
    /// # Errors
    /// [`Code::LedgerUnavailable`].
    pub fn header(&self, authored: &Authored, stdin: Option<&[u8]>) -> Result<Draft, Refusal> {
        let papers = authored.papers();
        let delegation = papers.delegation.as_ref().map(Signed::to_wire);
        let operation = authored.header().operation;
        let draft =
            Draft::header(self.stamp(), operation, &papers.header, delegation.as_deref(), &papers.certificate, stdin);
        draft.map_err(|error| Refusal::because(Code::LedgerUnavailable, error))
    }

    /// Records a header by itself, where several servers follow.
    ///
    /// # Errors
    /// [`Code::LedgerUnavailable`].
    pub async fn write_header(&self, header: Draft) -> Result<(), Refusal> {
        self.append(Class::Intent, vec![header]).await.map(drop)
    }

    /// Writes the intent down, with the header before it where that is still to be written, waits until both are
    /// durable, and trades the permit for the proof.
    ///
    /// # Errors
    /// [`Code::LedgerUnavailable`]; nothing may be forwarded then.
    pub async fn open(
        &self,
        permit: Permit,
        header: Option<Draft>,
        address: &str,
        agent: Option<String>,
    ) -> Result<Recorded, Refusal> {
        let request = permit.request();
        let mut order = order_of(request, permit.grounds(), address);
        order.agent = agent;
        let run = Duration::from_millis(request.authored.header().timeout_ms);
        let deadline = self.clock.now().plus(run).plus(OVERDUE_AFTER).0.saturating_mul(1000);
        let mut drafts: Vec<_> = header.into_iter().collect();
        drafts.push(Draft::intent(self.stamp(), order, deadline));
        let appended = self.append(Class::Intent, drafts).await?;
        Ok(Recorded { permit, intent: appended.index, leaf: Digest(appended.leaf_hash) })
    }

    /// Records a refusal: one record.
    ///
    /// # Errors
    /// [`Code::LedgerUnavailable`].
    pub async fn refuse(&self, refused: &Refused, header: Option<Draft>, address: &str) -> Result<u64, Refusal> {
        let order = order_of(&refused.request, &refused.grounds, address);
        let Refusal { code, reason } = &refused.refusal;
        let mut drafts: Vec<_> = header.into_iter().collect();
        drafts.push(Draft::refused(self.stamp(), order, code.as_str(), reason));
        Ok(self.append(Class::Intent, drafts).await?.index)
    }

    /// Records a refusal of something that did not come as far as a request.
    ///
    /// # Errors
    /// [`Code::LedgerUnavailable`].
    pub async fn refuse_order(&self, order: Order, refusal: &Refusal) -> Result<u64, Refusal> {
        let draft = Draft::refused(self.stamp(), order, refusal.code.as_str(), &refusal.reason);
        Ok(self.append(Class::Intent, vec![draft]).await?.index)
    }

    /// Records how an intent ended. The reserve keeps room for it when the disk is full.
    ///
    /// # Errors
    /// [`Code::LedgerUnavailable`]; the operation stays open in the record then.
    pub async fn close(&self, ended: Ended) -> Result<u64, Refusal> {
        let draft =
            Draft::result(self.stamp(), ended).map_err(|error| Refusal::because(Code::LedgerUnavailable, error))?;
        Ok(self.append(Class::Result, vec![draft]).await?.index)
    }

    /// Records what became of an intent that nobody waits for any more; `unknown` is its result, when it has one that
    /// says so. `None` when somebody else has recorded it in the meantime.
    ///
    /// # Errors
    /// [`Code::LedgerUnavailable`].
    pub async fn settle(&self, unknown: Option<u64>, ended: Ended) -> Result<Option<u64>, Refusal> {
        let draft = match unknown {
            Some(resolves) => Draft::late(self.stamp(), resolves, ended),
            None => Draft::result(self.stamp(), ended),
        };
        let draft = draft.map_err(|error| Refusal::because(Code::LedgerUnavailable, error))?;
        match self.inner.append_all(Class::Result, vec![draft]).await {
            Ok(appended) => Ok(appended.last().map(|appended| appended.index)),
            Err(LedgerError::Ended) => Ok(None),
            Err(error) => Err(refused_record(error)),
        }
    }

    /// Records an event that gives something: it must be durable before it counts.
    ///
    /// # Errors
    /// [`Code::LedgerUnavailable`].
    pub async fn event(&self, happened: Happened) -> Result<u64, Refusal> {
        self.append_event(Class::Intent, happened).await
    }

    /// Records what somebody outside did amiss. It is refused while the disk is full: strangers must not eat the room
    /// that is kept for results.
    pub async fn amiss(&self, happened: Happened) {
        if let Err(refusal) = self.append_event(Class::Intent, happened).await {
            tracing::error!(code = %refusal.code, "what somebody did amiss could not be recorded");
        }
    }

    /// Records an event that only takes away, from the reserve if need be: it has happened already.
    pub async fn took_away(&self, happened: Happened) {
        if let Err(refusal) = self.append_event(Class::TakesAway, happened).await {
            tracing::error!(code = %refusal.code, "an event could not be recorded");
        }
    }

    async fn append_event(&self, class: Class, happened: Happened) -> Result<u64, Refusal> {
        let draft = Draft::event(self.stamp(), happened);
        let draft = draft.map_err(|error| Refusal::because(Code::LedgerUnavailable, error))?;
        Ok(self.append(class, vec![draft]).await?.index)
    }

    /// Appends all or none; gives the place of the last.
    async fn append(&self, class: Class, drafts: Vec<Draft>) -> Result<Appended, Refusal> {
        let appended = self.inner.append_all(class, drafts).await.map_err(refused_record)?;
        appended.last().copied().ok_or_else(|| Code::LedgerUnavailable.into())
    }

    fn stamp(&self) -> Stamp {
        Stamp::now(&self.clock)
    }
}

fn refused_record(error: LedgerError) -> Refusal {
    tracing::error!(%error, "the ledger refused a record");
    Refusal::because(Code::LedgerUnavailable, error)
}

/// The fields of an order that a request, its decision and the technician's address fill.
fn order_of(request: &Request, grounds: &Grounds, address: &str) -> Order {
    let authored = &request.authored;
    let header = authored.header();
    let technician = authored.technician();
    Order {
        host: Some(request.host().clone()),
        user_id: Some(technician.directory_id.clone()),
        key: Some(authored.signing_key()),
        address: Some(address.to_owned()),
        command: Some(command_of(header, &request.work)),
        level_required: Some(request.work.needs()),
        level_held: grounds.held,
        via_group: grounds.via_group.clone(),
        rule: Some("directory right within certificate ceiling".to_owned()),
        directory: grounds.directory.clone(),
        directory_age_ms: u64::try_from(grounds.age.as_millis()).ok(),
        case: header.case.as_deref().map(Into::into),
        reason_given: header.reason.as_deref().map(Into::into),
        request: Some(authored.digest()),
        target_salt: Some(request.target.salt),
        ..Order::new(header.operation, technician.name.clone())
    }
}

/// The command for a reader.
pub fn command_of(header: &Header, work: &Work) -> Command {
    match (header.kind, work) {
        (Kind::Item, Work::Item { item, .. }) => {
            let parameters: Vec<_> = header.args.iter().map(|(name, value)| (name, Some(&value.0))).collect();
            let item = Item { name: item.name.to_string(), version: item.version.to_string(), digest: item.digest };
            Command::item(item, &parameters)
        }
        (Kind::Raw | Kind::Item, Work::Raw | Work::Item { .. }) => {
            let argv: Vec<_> = header.argv.iter().flatten().map(|word| word.0.as_slice()).collect();
            Command::raw("raw", &argv)
        }
    }
}
