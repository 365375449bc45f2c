//! After a lost connection or a crash: what became of what was sent?
//!
//! The ledger says which intents of a server have no final result; the agent's journal says what it knows of them.
//! An operation that the journal does not know was never delivered if the agent was up all along; otherwise nobody can
//! say, and the record says so.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use reeve_audit::Reader;
use reeve_audit::reader::{At, OpenOperation};
use reeve_audit::record::{Body, Ended, Happened, Party};
use reeve_link::Sender;
use reeve_link::parts::Inbound;
use reeve_wire::certificate::AgentIdentity;
use reeve_wire::code::{Code, Refusal};
use reeve_wire::id::OperationId;
use reeve_wire::message::{AgentHello, ChainEnd, Found, JournalState, Part, PartKind, Query};
use reeve_wire::name::HostName;
use reeve_wire::receipt::{Event, Outcome, Receipt};
use reeve_wire::signed::{MAX_SIGNED, Signed};

use super::{Gone, STEP_WITHIN, say, within};
use crate::master::Master;

/// The most operations of one question.
const MOST_ASKED: usize = 1000;
/// The most operations that a server may report as running.
const MOST_RUNNING: usize = 4096;
/// So many anomalies end a connection.
const MOST_ANOMALIES: u32 = 8;

/// The last receipt of this server that the ledger holds.
pub(super) async fn last_receipt(master: &Arc<Master>, identity: &AgentIdentity) -> Result<Option<ChainEnd>, Refusal> {
    let host = identity.host.clone();
    let found = read(master, move |reader| reader.last_receipt(&host)).await?;
    Ok(found.and_then(|last| {
        let digest = Signed::from_wire(&last.signed).ok()?.digest();
        Some(ChainEnd { generation: last.generation, seq: last.seq, digest })
    }))
}

async fn read<T: Send + 'static>(
    master: &Arc<Master>,
    ask: impl FnOnce(&Reader) -> Result<T, reeve_audit::reader::ReadError> + Send + 'static,
) -> Result<T, Refusal> {
    let path = master.ledger.inner().path().to_owned();
    let unreadable = |error: &dyn std::fmt::Display| {
        tracing::error!(%error, "the ledger cannot be read");
        Refusal::from(Code::LedgerUnavailable)
    };
    let asked = master.tasks.spawn_blocking("ledger read", move || ask(&Reader::open(&path)?));
    asked.await.map_err(|error| unreadable(&error))?.map_err(|error| unreadable(&error))
}

/// Intents of `host` whose end the ledger does not know, but for those that are on their way.
async fn open_at(master: &Arc<Master>, host: &HostName) -> Result<Vec<OperationId>, Refusal> {
    let open = read(master, |reader| reader.open_operations(true)).await?;
    let here = open.into_iter().filter(|open| open.intent.value.order.host.as_ref() == Some(host));
    let operations = here.map(|open| open.intent.value.order.operation);
    Ok(operations.filter(|operation| !master.running.has(*operation, host)).collect())
}

/// What the ledger knows of one operation on one server.
enum Known {
    /// There is no intent of it.
    Never,
    /// Its end is known.
    Ended,
    /// Its end is not known.
    Open(Box<OpenOperation>),
}

async fn look_up(master: &Arc<Master>, operation: OperationId, host: &HostName) -> Result<Known, Refusal> {
    let host = host.clone();
    let stories = read(master, move |reader| reader.stories(operation, Some(&host))).await?;
    let mut known = Known::Never;
    for story in stories {
        let verdict = story.verdict().map(|verdict| verdict.outcome);
        let unknown = story.result.as_ref().map(|result| result.index);
        let Body::Intent(intent) = story.first.value.body else {
            continue;
        };
        if story.late.is_none() && verdict.is_none_or(|outcome| outcome == Outcome::Unknown) {
            let intent = At { index: story.first.index, value: intent };
            return Ok(Known::Open(Box::new(OpenOperation { intent, unknown })));
        }
        known = Known::Ended;
    }
    Ok(known)
}

/// Operations of one server whose end the ledger does not know, and what the server says of them on its control
/// stream. What is on its way on a stream of its own is left to that stream.
pub(super) struct Loose<'a> {
    master: &'a Arc<Master>,
    identity: &'a AgentIdentity,
    open: BTreeSet<OperationId>,
    /// Receipts that came and whose operation has not ended yet.
    receipts: HashMap<OperationId, Vec<Vec<u8>>>,
    anomalies: u32,
}

impl<'a> Loose<'a> {
    /// What the ledger holds open. Call it when older connections of the server are cut: it waits until what was on
    /// its way there is recorded.
    pub(super) async fn of(master: &'a Arc<Master>, identity: &'a AgentIdentity) -> Result<Self, Refusal> {
        let host = &identity.host;
        let older = async {
            for operation in master.running.at(host) {
                master.running.over(operation, host).await;
            }
        };
        if tokio::time::timeout(STEP_WITHIN, older).await.is_err() {
            tracing::warn!(%host, "what was on its way on an older connection has not ended yet");
        }
        let open = open_at(master, host).await?.into_iter().collect();
        Ok(Self { master, identity, open, receipts: HashMap::new(), anomalies: 0 })
    }

    /// Asks the agent's journal about all of them and records what it says. What still runs stays loose.
    pub(super) async fn settle(
        mut self,
        sender: &mut Sender,
        inbound: &mut Inbound,
        hello: &AgentHello,
    ) -> Result<Self, Gone> {
        let asked: Vec<_> = std::mem::take(&mut self.open).into_iter().collect();
        for operations in asked.chunks(MOST_ASKED) {
            let query = Query { operations: operations.to_vec() };
            say(sender, &[Part::json(PartKind::Query, &query)?]).await?;
            let mut unanswered: BTreeSet<_> = operations.iter().copied().collect();
            while !unanswered.is_empty() {
                let part = within(inbound.part()).await?;
                if part.kind != PartKind::Found {
                    self.take(&part).await?;
                    continue;
                }
                let found: Found = part.read(PartKind::Found)?;
                if !unanswered.remove(&found.operation) {
                    return Err(Gone::Unasked(found.operation));
                }
                if found.state == JournalState::Absent {
                    self.absent(found.operation, hello).await?;
                }
            }
        }
        Ok(self)
    }

    /// Takes a receipt whose own stream was lost.
    pub(super) async fn take(&mut self, part: &Part) -> Result<(), Gone> {
        if part.kind != PartKind::Receipt {
            return Err(reeve_wire::message::MessageError::Unexpected(part.kind).into());
        }
        match self.read_receipt(&part.bytes) {
            Ok(receipt) => self.place(&receipt, part.bytes.clone()).await,
            Err(why) => self.note(None, &why, &part.bytes).await,
        }
    }

    fn read_receipt(&self, bytes: &[u8]) -> Result<Receipt, String> {
        let signed = Signed::from_wire(bytes).map_err(|error| error.to_string())?;
        let receipt = signed.verify::<Receipt>(&self.identity.key).map_err(|error| error.to_string())?;
        receipt.consistent().map_err(|refusal| refusal.reason)?;
        if receipt.host != self.identity.host || receipt.site != self.master.config.site {
            return Err("a receipt of another server".to_owned());
        }
        Ok(receipt.value().clone())
    }

    async fn place(&mut self, receipt: &Receipt, bytes: Vec<u8>) -> Result<(), Gone> {
        let Some(operation) = receipt.operation else {
            return Ok(());
        };
        let host = &self.identity.host;
        // Its own stream was cut a moment ago, and is still being recorded.
        if tokio::time::timeout(STEP_WITHIN, self.master.running.over(operation, host)).await.is_err() {
            let why = "it reports beside its own stream what is on its way there";
            return self.note(Some(operation), why, &bytes).await;
        }
        let open = match look_up(self.master, operation, host).await? {
            Known::Open(open) => open,
            Known::Ended => {
                tracing::debug!(%operation, "what a server reports late is on record already");
                return Ok(());
            }
            Known::Never => {
                let why = "it reports an operation that this master never sent it";
                return self.note(Some(operation), why, &bytes).await;
            }
        };
        if receipt.request.is_some_and(|request| open.intent.value.order.request != Some(request)) {
            let why = "its receipt is of another request than the one that was recorded";
            return self.note(Some(operation), why, &bytes).await;
        }
        match receipt.event {
            Event::Ended | Event::Refused => self.end(&open, receipt, bytes).await,
            Event::Accepted if self.receipts.contains_key(&operation) || self.receipts.len() >= MOST_RUNNING => {
                self.note(Some(operation), "it accepts the same operation again, or too many", &bytes).await
            }
            Event::Accepted => {
                self.receipts.insert(operation, vec![bytes]);
                Ok(())
            }
            Event::Restarted => Ok(()),
        }
    }

    /// Notes what no honest agent does. One that goes on with it is cut: each note costs a record.
    async fn note(&mut self, operation: Option<OperationId>, why: &str, receipt: &[u8]) -> Result<(), Gone> {
        let key = reeve_wire::sshsig::fingerprint(&self.identity.key);
        let party = Party::agent(self.identity.host.clone(), Some(&key), None);
        let mut happened = Happened::anomaly(party, Code::Protocol.as_str(), why);
        if let Some(operation) = operation {
            happened = happened.of_operation(operation);
        }
        if receipt.len() <= MAX_SIGNED + 8 {
            happened = happened.evidence("receipt", receipt);
        }
        self.master.ledger.amiss(happened).await;
        self.anomalies = self.anomalies.saturating_add(1);
        if self.anomalies < MOST_ANOMALIES { Ok(()) } else { Err(Gone::Anomalies) }
    }

    async fn end(&mut self, open: &OpenOperation, receipt: &Receipt, bytes: Vec<u8>) -> Result<(), Gone> {
        let operation = open.intent.value.order.operation;
        let outcome = receipt.outcome.unwrap_or(Outcome::Unknown);
        let mut receipts = self.receipts.remove(&operation).unwrap_or_default();
        receipts.push(bytes);
        let ended = Ended {
            exit_status: receipt.exit_status,
            signal: receipt.signal,
            code: receipt.code.map(|code| code.as_str().to_owned()),
            reason: receipt.reason.clone(),
            receipts,
            ..Ended::new(operation, self.identity.host.clone(), open.intent.index, outcome)
        };
        self.record(open, ended).await
    }

    /// The journal does not know it.
    async fn absent(&mut self, operation: OperationId, hello: &AgentHello) -> Result<(), Gone> {
        let host = self.identity.host.clone();
        let Known::Open(open) = look_up(self.master, operation, &host).await? else {
            return Ok(());
        };
        let up_all_along = open.intent.value.order.agent.as_deref() == Some(hello.started.0.to_string().as_str());
        let (outcome, refusal) = if up_all_along {
            (Outcome::Unreachable, Refusal::from(Code::NotDelivered))
        } else {
            let why = format_args!(
                "the server's agent was started again after it was sent, and its journal does not know it"
            );
            (Outcome::Unknown, Refusal::because(Code::OutcomeUnknown, why))
        };
        tracing::debug!(%operation, %outcome, "an operation is not in its server's journal");
        let ended = Ended {
            code: Some(refusal.code.as_str().to_owned()),
            reason: Some(refusal.reason),
            ..Ended::new(operation, host, open.intent.index, outcome)
        };
        self.record(&open, ended).await
    }

    /// An `unknown` that is already recorded stays; what is known by now points at it.
    async fn record(&self, open: &OpenOperation, ended: Ended) -> Result<(), Gone> {
        if open.unknown.is_some() && ended.outcome == Outcome::Unknown {
            return Ok(());
        }
        if self.master.ledger.settle(open.unknown, ended).await?.is_none() {
            tracing::debug!("another connection of the same server was first to say how an operation ended");
        }
        Ok(())
    }
}

/// After a start: every intent without a result is `unknown` until its server's agent says more.
///
/// # Errors
/// When the ledger cannot be read or written.
pub async fn mark_unknown(master: &Arc<Master>) -> Result<usize, Refusal> {
    let open = read(master, |reader| reader.open_operations(false)).await?;
    let mut marked = 0;
    for open in open.into_iter() {
        let order = &open.intent.value.order;
        let Some(host) = order.host.clone() else {
            continue;
        };
        let refusal = Refusal::because(Code::OutcomeUnknown, "the master stopped before the result was recorded");
        let ended = Ended {
            code: Some(refusal.code.as_str().to_owned()),
            reason: Some(refusal.reason),
            ..Ended::new(order.operation, host, open.intent.index, Outcome::Unknown)
        };
        master.ledger.close(ended).await?;
        marked += 1;
    }
    Ok(marked)
}
