//! The one path: judge → record → forward → record, for one server of a request.

use std::sync::Arc;

use bytes::Bytes;
use reeve_audit::record::Order;
use reeve_link::Sender;
use reeve_link::parts::{Inbound, PartsError};
use reeve_wire::code::{Code, Refusal};
use reeve_wire::id::OperationId;
use reeve_wire::level::Level;
use reeve_wire::message::{Answer, MessageError, PartKind};
use reeve_wire::name::HostName;
use reeve_wire::request::TargetPath;

use super::submit::Submitted;
use super::{Visit, both_clocks, finish, refused, within};
use crate::forward::{Audience, forward};
use crate::ledger::Recorded;
use crate::policy::{self, Request, Verdict};
use crate::running::OnItsWay;

/// A request whose intent is durable, and that counts as on its way since before it was.
struct Begun {
    recorded: Recorded,
    on_its_way: OnItsWay,
    stdin: Option<Bytes>,
}

impl Visit {
    pub(super) async fn run(&self, sender: Sender, mut inbound: Inbound, operation: OperationId, host: &HostName) {
        let Begun { recorded, on_its_way, stdin } = match self.judge_and_record(&mut inbound, operation, host).await {
            Ok(begun) => begun,
            Err(answer) => return finish(sender, &answer).await,
        };
        let audience = Audience::new(sender, inbound, stdin, self.link.clone(), on_its_way);
        forward(&self.master, recorded, audience).await;
    }

    /// Everything up to the durable intent. What is refused is answered and recorded in here.
    async fn judge_and_record(
        &self,
        inbound: &mut Inbound,
        operation: OperationId,
        host: &HostName,
    ) -> Result<Begun, Answer> {
        let submitted = match self.submitted(operation) {
            Ok(submitted) => submitted,
            Err(refusal) => {
                return Err(self.refuse(Order { host: Some(host.clone()), ..self.order(operation) }, refusal).await);
            }
        };
        let request = match self.request(inbound, &submitted, host).await {
            Ok(request) => request,
            Err(refusal) => {
                let order = Order { host: Some(host.clone()), ..self.order_of(&submitted) };
                return Err(self.refuse(order, refusal).await);
            }
        };
        let directory = &self.master.directory;
        let answer = if request.work.needs() == Level::Three {
            directory.standing_fresh(&self.technician.name).await
        } else {
            directory.standing(&self.technician.name).await
        };
        let Some(on_its_way) = self.master.running.enter(operation, host) else {
            let order = Order { host: Some(host.clone()), ..self.order_of(&submitted) };
            return Err(self.refuse(order, Refusal::because(Code::Busy, "the master is stopping")).await);
        };
        let header = submitted.header(&self.master.ledger, request.path.size).await.map_err(refused)?;
        let trust = self.master.trusted.bundle();
        match policy::judge(request, &answer, &trust, both_clocks(&self.master)) {
            Verdict::Refuse(refused_request) => {
                let record = self.master.ledger.refuse(&refused_request, header, &self.address).await;
                let refusal = refused_request.refusal;
                Err(record.map_or_else(refused, |record| Answer::Refused { refusal, record: Some(record) }))
            }
            Verdict::Allow(permit) => {
                let agent = self.master.fleet.agent(host).map(|agent| agent.hello.started.0.to_string());
                let recorded = self.master.ledger.open(permit, header, &self.address, agent).await.map_err(refused)?;
                Ok(Begun { recorded, on_its_way, stdin: submitted.stdin.clone() })
            }
        }
    }

    fn submitted(&self, operation: OperationId) -> Result<Arc<Submitted>, Refusal> {
        self.requests().get(&operation).cloned().ok_or_else(|| Code::RequestUnknown.into())
    }

    async fn request(&self, inbound: &mut Inbound, submitted: &Submitted, host: &HostName) -> Result<Request, Refusal> {
        let (leaf, path) = within(target(inbound)).await?;
        let request = Request::for_host(Arc::clone(&submitted.authored), submitted.work.clone(), leaf, path)?;
        if request.host() != host {
            return Err(Code::TargetMismatch.into());
        }
        self.signed_by_a_live_session(&submitted.authored)?;
        if !self.master.replay.use_once(&submitted.authored, host, self.now()) {
            return Err(Code::RequestReplayed.into());
        }
        Ok(request)
    }
}

async fn target(inbound: &mut Inbound) -> Result<(Vec<u8>, TargetPath), PartsError> {
    let leaf = inbound.part().await?;
    if leaf.kind != PartKind::Target {
        return Err(MessageError::Unexpected(leaf.kind).into());
    }
    let path = inbound.part().await?.read(PartKind::Path)?;
    let go = inbound.part().await?;
    if go.kind != PartKind::Go {
        return Err(MessageError::Unexpected(go.kind).into());
    }
    Ok((leaf.bytes, path))
}
