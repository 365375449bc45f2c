//! After a lost connection or a crash: what became of what was sent?
//!
//! The ledger says which intents of a server have no final result; the agent's journal says what it knows of them.
//! An operation that the journal does not know was never delivered if the agent was up all along; otherwise nobody can
//! say, and the record says so.

use std::collections::HashMap;
use std::sync::Arc;

use reeve_audit::Reader;
use reeve_audit::reader::OpenOperation;
use reeve_audit::record::{Ended, Happened, Party};
use reeve_link::Sender;
use reeve_link::parts::{self, Inbound};
use reeve_wire::certificate::AgentIdentity;
use reeve_wire::code::{Code, Refusal};
use reeve_wire::id::OperationId;
use reeve_wire::message::{AgentHello, ChainEnd, Found, JournalState, Part, PartKind, Query};
use reeve_wire::name::HostName;
use reeve_wire::receipt::{Event, Outcome, Receipt};
use reeve_wire::signed::Signed;
use reeve_wire::time::Millis;

use super::{Gone, within};
use crate::master::Master;

/// The most operations of one question.
const MOST_ASKED: usize = 1000;

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

/// Intents of `host` whose end the ledger does not know.
async fn open_at(master: &Arc<Master>, host: &HostName) -> Result<Vec<OpenOperation>, Refusal> {
    let host = host.clone();
    let open = read(master, |reader| reader.open_operations(true)).await?;
    Ok(open.into_iter().filter(|open| open.intent.value.order.host.as_ref() == Some(&host)).collect())
}

/// Operations of one server whose end the ledger does not know.
pub(super) struct Loose<'a> {
    master: &'a Arc<Master>,
    identity: &'a AgentIdentity,
    open: HashMap<OperationId, OpenOperation>,
    /// Receipts that came and whose operation has not ended yet.
    receipts: HashMap<OperationId, Vec<Vec<u8>>>,
}

impl<'a> Loose<'a> {
    /// What the ledger holds open, leaving out what is on its way on another connection of the same server.
    pub(super) async fn of(master: &'a Arc<Master>, identity: &'a AgentIdentity) -> Result<Self, Refusal> {
        let open = open_at(master, &identity.host).await?;
        let open = open.into_iter().map(|open| (open.intent.value.order.operation, open)).collect();
        Ok(Self { master, identity, open, receipts: HashMap::new() })
    }

    /// Asks the agent's journal about all of them and records what it says. What still runs stays loose.
    pub(super) async fn settle(
        mut self,
        sender: &mut Sender,
        inbound: &mut Inbound,
        hello: &AgentHello,
    ) -> Result<Self, Gone> {
        let mut asked: Vec<_> = self.open.keys().copied().collect();
        asked.sort_unstable();
        for operations in asked.chunks(MOST_ASKED) {
            let query = Query { operations: operations.to_vec() };
            parts::send(sender, &[Part::json(PartKind::Query, &query)?]).await?;
            let mut answered = 0;
            while answered < operations.len() {
                let part = within(inbound.part()).await?;
                if part.kind == PartKind::Found {
                    answered += 1;
                    let found: Found = part.read(PartKind::Found)?;
                    if found.state == JournalState::Absent {
                        self.absent(found.operation, hello).await?;
                    }
                } else {
                    self.take(&part).await?;
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
            Err(why) => {
                let key = reeve_wire::sshsig::fingerprint(&self.identity.key);
                let party = Party::agent(self.identity.host.clone(), Some(&key), None);
                let happened = Happened::anomaly(party, Code::Protocol.as_str(), &why).evidence("receipt", &part.bytes);
                self.master.ledger.took_away(happened).await;
                Ok(())
            }
        }
    }

    fn read_receipt(&self, bytes: &[u8]) -> Result<Receipt, String> {
        let signed = Signed::from_wire(bytes).map_err(|error| error.to_string())?;
        let receipt = signed.verify::<Receipt>(&self.identity.key).map_err(|error| error.to_string())?;
        receipt.consistent().map_err(|refusal| refusal.reason)?;
        if receipt.host != self.identity.host {
            return Err("a receipt of another server".to_owned());
        }
        Ok(receipt.value().clone())
    }

    async fn place(&mut self, receipt: &Receipt, bytes: Vec<u8>) -> Result<(), Gone> {
        let Some(operation) = receipt.operation else {
            return Ok(());
        };
        if !self.open.contains_key(&operation) {
            self.adopt(operation).await?;
        }
        if !self.open.contains_key(&operation) {
            return self.never_asked(operation, &bytes).await;
        }
        self.receipts.entry(operation).or_default().push(bytes);
        match receipt.event {
            Event::Ended | Event::Refused => self.end(operation, receipt).await,
            Event::Accepted | Event::Restarted => Ok(()),
        }
    }

    /// An operation whose stream was lost after this connection began is in the ledger by the time its receipt comes.
    async fn adopt(&mut self, operation: OperationId) -> Result<(), Gone> {
        let open = open_at(self.master, &self.identity.host).await?;
        let found = open.into_iter().find(|open| open.intent.value.order.operation == operation);
        self.open.extend(found.map(|open| (operation, open)));
        Ok(())
    }

    async fn never_asked(&self, operation: OperationId, receipt: &[u8]) -> Result<(), Gone> {
        let key = reeve_wire::sshsig::fingerprint(&self.identity.key);
        let party = Party::agent(self.identity.host.clone(), Some(&key), None);
        let why = "it reports an operation that this master never sent it, or that has ended";
        let happened = Happened::anomaly(party, Code::Protocol.as_str(), why).of_operation(operation);
        self.master.ledger.took_away(happened.evidence("receipt", receipt)).await;
        Ok(())
    }

    async fn end(&mut self, operation: OperationId, receipt: &Receipt) -> Result<(), Gone> {
        let Some(open) = self.open.remove(&operation) else {
            return Ok(());
        };
        let outcome = receipt.outcome.unwrap_or(Outcome::Unknown);
        let ended = Ended {
            exit_status: receipt.exit_status,
            signal: receipt.signal,
            code: receipt.code.map(|code| code.as_str().to_owned()),
            reason: receipt.reason.clone(),
            receipts: self.receipts.remove(&operation).unwrap_or_default(),
            ..Ended::new(operation, self.identity.host.clone(), open.intent.index, outcome)
        };
        self.record(&open, ended).await
    }

    /// The journal does not know it.
    async fn absent(&mut self, operation: OperationId, hello: &AgentHello) -> Result<(), Gone> {
        let Some(open) = self.open.remove(&operation) else {
            return Ok(());
        };
        let host = self.identity.host.clone();
        let sent_at = Millis(open.intent.value.deadline / 1000);
        let up_all_along = open.intent.value.order.agent.as_deref() == Some(hello.started.0.to_string().as_str());
        let (outcome, refusal) = if up_all_along {
            (Outcome::Unreachable, Refusal::from(Code::NotDelivered))
        } else {
            let why = format_args!(
                "the server's agent was started again after it was sent, and its journal does not know it"
            );
            (Outcome::Unknown, Refusal::because(Code::OutcomeUnknown, why))
        };
        tracing::debug!(%operation, %outcome, due = %sent_at, "an operation is not in its server's journal");
        let ended = Ended {
            code: Some(refusal.code.as_str().to_owned()),
            reason: Some(refusal.reason),
            ..Ended::new(operation, host, open.intent.index, outcome)
        };
        self.record(&open, ended).await
    }

    /// An `unknown` that is already recorded stays; what is known by now points at it.
    async fn record(&self, open: &OpenOperation, ended: Ended) -> Result<(), Gone> {
        match (open.unknown, ended.outcome) {
            (Some(_), Outcome::Unknown) => {}
            (Some(unknown), _) => drop(self.master.ledger.late(unknown, ended).await?),
            (None, _) => drop(self.master.ledger.close(ended).await?),
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
