//! Takes a signed request in, once for all its servers: who signed it, and is it whole?

use std::sync::Arc;

use bytes::Bytes;
use reeve_audit::record::{Draft, Order};
use reeve_link::Sender;
use reeve_link::parts::{self, Inbound, Item};
use reeve_wire::code::{Code, Refusal};
use reeve_wire::id::{Digest, OperationId};
use reeve_wire::library::Input;
use reeve_wire::message::{Answer, MessageError, Part, PartKind};
use reeve_wire::request::{Authored, MAX_STDIN, Papers};
use reeve_wire::signed::Signed;

use tokio::sync::OnceCell;

use super::{MOST_REQUESTS, Visit, finish, within};
use crate::ledger::Ledger;
use crate::policy::Work;

/// A request whose author is proved.
#[derive(Debug)]
pub(super) struct Submitted {
    pub(super) authored: Arc<Authored>,
    pub(super) work: Work,
    pub(super) stdin: Option<Bytes>,
    /// Set once the header is durable, or on its way with the only server's own record.
    header: OnceCell<()>,
}

impl Submitted {
    /// Sees to it that the signed request is in the record before or with the record of each server: for one of
    /// several it is durable when this returns, for a single one it is given back to go into the same transaction.
    ///
    /// # Errors
    /// When the ledger does not take it.
    pub(super) async fn header(&self, ledger: &Ledger, servers: u64) -> Result<Option<Draft>, Refusal> {
        if servers == 1 {
            return if self.header.set(()).is_ok() { Ok(Some(self.draft(ledger)?)) } else { Ok(None) };
        }
        let write = || async { ledger.write_header(self.draft(ledger)?).await };
        self.header.get_or_try_init(write).await.map(|()| None)
    }

    fn draft(&self, ledger: &Ledger) -> Result<Draft, Refusal> {
        ledger.header(&self.authored, self.stdin.as_deref())
    }
}

/// The parts of a submission as they came.
#[derive(Default)]
struct Arriving {
    request: Option<Signed>,
    delegation: Option<Signed>,
    certificate: Option<Vec<u8>>,
    stdin: Option<Vec<u8>>,
}

impl Visit {
    pub(super) async fn submit(&self, mut sender: Sender, mut inbound: Inbound, operation: OperationId) {
        let submitted = match self.try_submit(&mut inbound, operation).await {
            Ok(submitted) => submitted,
            Err(refusal) => {
                let answer = self.refuse(self.order(operation), refusal).await;
                return finish(sender, &answer).await;
            }
        };
        if let Err(refusal) = self.hand_in(operation, submitted) {
            let answer = self.refuse(self.order(operation), refusal).await;
            return finish(sender, &answer).await;
        }
        if let Ok(part) = Part::json(PartKind::Answer, &Answer::Submitted {})
            && parts::send(&mut sender, &[part]).await.is_ok()
        {
            // The request is good for as long as the console holds this stream.
            while let Ok(Some(Item::Part(_))) = inbound.next().await {}
        }
        self.requests().remove(&operation);
    }

    fn hand_in(&self, operation: OperationId, submitted: Submitted) -> Result<(), Refusal> {
        let mut requests = self.requests();
        if requests.contains_key(&operation) {
            return Err(Code::RequestReplayed.into());
        }
        if requests.len() >= MOST_REQUESTS {
            return Err(Code::Busy.into());
        }
        requests.insert(operation, Arc::new(submitted));
        Ok(())
    }

    /// Everything that can be said of a request without a server.
    async fn try_submit(&self, inbound: &mut Inbound, operation: OperationId) -> Result<Submitted, Refusal> {
        let arriving = within(Arriving::read(inbound)).await??;
        let (papers, stdin) = arriving.papers()?;
        let trust = self.master.trusted.bundle();
        let authored = papers.verify(&trust, &self.master.config.site, self.now())?;
        let header = authored.header();
        if header.operation != operation || authored.technician().name != self.technician.name {
            return Err(Code::RequestSignature.into());
        }
        self.signed_by_a_live_session(&authored)?;
        let work = match &header.item {
            None => Work::Raw,
            Some(wanted) => match self.master.trusted.item(&wanted.name)? {
                Work::Item { item, .. } if item != *wanted => return Err(Code::ItemMismatch.into()),
                work @ (Work::Raw | Work::Item { .. }) => work,
            },
        };
        let takes_input = match &work {
            Work::Raw => true,
            Work::Item { package, .. } => {
                package.values(&header.args)?;
                package.stdin == Input::Signed
            }
        };
        if stdin.as_deref().map(Digest::of) != header.stdin || (stdin.is_some() && !takes_input) {
            return Err(Code::StdinMismatch.into());
        }
        Ok(Submitted { authored: Arc::new(authored), work, stdin: stdin.map(Bytes::from), header: OnceCell::new() })
    }

    /// The delegation's session key must still be registered: a logout ends what it could sign.
    pub(super) fn signed_by_a_live_session(&self, authored: &Authored) -> Result<(), Refusal> {
        if let Some(delegation) = authored.delegation() {
            self.master.sessions.find(&self.technician.name, delegation.session_key.key(), self.now())?;
        }
        Ok(())
    }

    /// The record of a refused submission says what was asked as far as it is known.
    pub(super) fn order_of(&self, submitted: &Submitted) -> Order {
        let header = submitted.authored.header();
        Order {
            command: Some(crate::ledger::command_of(header, &submitted.work)),
            level_required: Some(submitted.work.needs()),
            request: Some(submitted.authored.digest()),
            ..self.order(header.operation)
        }
    }
}

impl Arriving {
    async fn read(inbound: &mut Inbound) -> Result<Result<Self, Refusal>, parts::PartsError> {
        let mut arriving = Self::default();
        loop {
            let part = inbound.part().await?;
            match arriving.take(part) {
                Ok(true) => return Ok(Ok(arriving)),
                Ok(false) => {}
                Err(refusal) => return Ok(Err(refusal)),
            }
        }
    }

    /// Takes one part; true at the last. Each may come once.
    fn take(&mut self, part: Part) -> Result<bool, Refusal> {
        let signed = |bytes: &[u8]| Signed::from_wire(bytes).map_err(|e| Refusal::because(Code::RequestMalformed, e));
        let twice = if part.kind == PartKind::Request {
            self.request.replace(signed(&part.bytes)?).is_some()
        } else if part.kind == PartKind::Delegation {
            self.delegation.replace(signed(&part.bytes)?).is_some()
        } else if part.kind == PartKind::Certificate {
            self.certificate.replace(part.bytes).is_some()
        } else if part.kind == PartKind::Stdin {
            if part.bytes.len() > MAX_STDIN {
                return Err(Code::StdinMismatch.into());
            }
            self.stdin.replace(part.bytes).is_some()
        } else if part.kind == PartKind::Go {
            return Ok(true);
        } else {
            return Err(MessageError::Unexpected(part.kind).into());
        };
        if twice { Err(Code::Protocol.into()) } else { Ok(false) }
    }

    fn papers(self) -> Result<(Papers, Option<Vec<u8>>), Refusal> {
        let missing = || Refusal::because(Code::RequestMalformed, "request or certificate is missing");
        let papers = Papers {
            header: self.request.ok_or_else(missing)?,
            delegation: self.delegation,
            certificate: self.certificate.ok_or_else(missing)?,
        };
        Ok((papers, self.stdin))
    }
}
