//! Sends what is recorded to its server, passes output on while recording it, and records how it ended.
//!
//! Three things go on at once: output flows from the agent to record and technician, the right to run it is asked for
//! again and again, and the technician may cancel. Only the first ends the operation; the other two ask the agent to.
//! No wait in here is without an end: a server that does not report and a console that does not read delay the
//! result, and never keep it out of the record.

mod recording;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reeve_audit::record::{Ended, Happened, Party};
use reeve_link::parts::{self, Inbound, Item};
use reeve_link::{Content, Link, Reason, Sender};
use reeve_wire::code::{Code, Refusal};
use reeve_wire::grant::{Factor, Grant, VALID_FOR};
use reeve_wire::message::{self, Answer, Part, PartKind};
use reeve_wire::receipt::Outcome;
use reeve_wire::signed::{MAX_SIGNED, Signed};
use reeve_wire::strict::V1;
use tokio_util::sync::CancellationToken;

use self::recording::{Finished, Recording};
use crate::fleet::Agent;
use crate::ledger::Recorded;
use crate::master::Master;
use crate::policy::{Grounds, Request, Work};
use crate::running::OnItsWay;

/// How old a permit's answer may be when its request leaves; older is asked for again.
const PERMIT_AGE: Duration = Duration::from_secs(5);
/// How long after its time limit, or after a cancel, the agent has to report the end.
const REPORT_WITHIN: Duration = Duration::from_secs(20);
/// How long the agent may take to take in a request and what comes with it.
const SEND_WITHIN: Duration = Duration::from_secs(20);
/// How long a console that does not read may hold up the end of an operation that must end.
const CONSOLE_PATIENCE: Duration = Duration::from_secs(5);

/// The technician's side of one operation on one server.
#[derive(Debug)]
pub struct Audience {
    out: Sender,
    commands: Inbound,
    stdin: Option<Bytes>,
    connection: Link,
    on_its_way: OnItsWay,
}

impl Audience {
    pub(crate) const fn new(
        out: Sender,
        commands: Inbound,
        stdin: Option<Bytes>,
        connection: Link,
        on_its_way: OnItsWay,
    ) -> Self {
        Self { out, commands, stdin, connection, on_its_way }
    }
}

/// Spends the proof of a durable intent: sends the request to its server and records the result before it is told.
pub async fn forward(master: &Arc<Master>, recorded: Recorded, audience: Audience) {
    let asked_at = recorded.permit().asked_at();
    let trust = recorded.permit().trust();
    let (request, grounds, intent, leaf) = recorded.into_parts();
    let Audience { out, mut commands, stdin, connection, mut on_its_way } = audience;
    let mut console = Console { out, reads: true, must_end: CancellationToken::new() };

    console.told(Answer::Started { record: intent }).await;
    let job = Job { master, request: &request, grounds: &grounds, intent, leaf };
    let finished = match job.last_look(asked_at, trust).await {
        Err(refusal) => Finished::refused(refusal),
        Ok(agent) => job.send_and_follow(&agent, stdin, &mut console, cancelled(&mut commands, &connection)).await,
    };
    let answer = job.close(finished).await;
    on_its_way.recorded();
    if !console.told(Answer::Ended(answer)).await || console.out.finish().is_err() {
        tracing::debug!("the console left before the end of its work");
    }
}

/// Where a technician reads along. Nothing that must end waits for a reader.
struct Console {
    out: Sender,
    /// Whether everything so far was taken. Once it was not, nothing more is sent: half an output must not pass for
    /// the whole.
    reads: bool,
    must_end: CancellationToken,
}

impl Console {
    /// Tells an answer, before or after what runs, when nobody has a reason to pause. False when it was not taken.
    async fn told(&mut self, answer: Answer) -> bool {
        if let Ok(part) = Part::json(PartKind::Answer, &answer) {
            let patience = tokio::time::sleep(CONSOLE_PATIENCE);
            self.send(Content::Message, parts::pack(&[part]), patience).await;
        }
        self.reads
    }

    /// Passes on what comes while it runs. Waits for a console that does not read, unless what runs must end.
    async fn pass_on(&mut self, content: Content, bytes: Bytes) {
        let must_end = self.must_end.clone();
        let patience = async move {
            must_end.cancelled().await;
            tokio::time::sleep(CONSOLE_PATIENCE).await;
        };
        self.send(content, bytes, patience).await;
    }

    async fn send(&mut self, content: Content, bytes: Bytes, patience: impl Future<Output = ()>) {
        if self.reads {
            self.reads = tokio::select! {
                biased;
                sent = self.out.send_all(content, bytes) => sent.is_ok(),
                () = patience => false,
            };
        }
    }
}

/// One recorded request on its way.
struct Job<'a> {
    master: &'a Arc<Master>,
    request: &'a Request,
    grounds: &'a Grounds,
    intent: u64,
    leaf: reeve_wire::id::Digest,
}

impl Job<'_> {
    /// The last check before a byte leaves: the agent is here and willing, and the permit is not out of date.
    async fn last_look(&self, asked_at: Instant, trust: u64) -> Result<Arc<Agent>, Refusal> {
        let agent = self.master.fleet.agent(self.request.host()).ok_or_else(|| Refusal::from(Code::Unreachable))?;
        if let Some(refusal) = &agent.refusal {
            return Err(refusal.clone());
        }
        watch::session_stands(self.master, self.request)?;
        if asked_at.elapsed() > PERMIT_AGE || self.master.trusted.bundle().number != trust {
            watch::still_allowed(self.master, self.request).await?;
        }
        Ok(agent)
    }

    fn grant(&self) -> Result<Signed, Refusal> {
        let header = self.request.authored.header();
        let at = self.master.clock.now();
        let grant = Grant {
            v: V1,
            site: self.master.config.site.clone(),
            operation: header.operation,
            host: self.request.host().clone(),
            request: self.request.authored.digest(),
            leaf: self.leaf,
            log: self.master.config.log_name(),
            at,
            directory_age_ms: u64::try_from(self.grounds.age.as_millis()).unwrap_or(u64::MAX),
            factors: vec![Factor::Key, Factor::Password],
            not_after: at.plus(VALID_FOR),
        };
        Signed::make(&grant, &self.master.key).map_err(|error| Refusal::because(Code::Internal, error))
    }

    fn package(&self, grant: &Signed, stdin: Option<Bytes>) -> Result<Vec<Part>, Refusal> {
        let papers = self.request.authored.papers();
        let mut said = vec![Part::new(PartKind::Request, papers.header.to_wire())];
        said.extend(papers.delegation.iter().map(|signed| Part::new(PartKind::Delegation, signed.to_wire())));
        said.push(Part::new(PartKind::Certificate, papers.certificate.clone()));
        said.push(Part::new(PartKind::Target, self.request.leaf.clone()));
        said.push(Part::json(PartKind::Path, &self.request.path)?);
        if let Work::Item { bytes, .. } = &self.request.work {
            said.push(Part::new(PartKind::Package, bytes.to_vec()));
        }
        said.push(Part::new(PartKind::Grant, grant.to_wire()));
        said.push(Part::new(PartKind::MasterCertificate, self.master.certificate.clone()));
        said.extend(stdin.map(|bytes| Part::new(PartKind::Stdin, bytes.to_vec())));
        said.push(Part::new(PartKind::Go, []));
        Ok(said)
    }

    async fn send_and_follow(
        &self,
        agent: &Agent,
        stdin: Option<Bytes>,
        console: &mut Console,
        cancelled: impl Future<Output = Refusal>,
    ) -> Finished {
        let grant = match self.grant() {
            Ok(grant) => grant,
            Err(refusal) => return Finished::refused(refusal),
        };
        let said = match self.package(&grant, stdin) {
            Ok(said) => said,
            Err(refusal) => return Finished::refused(refusal),
        };
        let Ok(stream) = agent.link.open() else {
            return Finished::refused(Code::Unreachable.into());
        };
        let (mut to_agent, from_agent) = stream.split();
        let cutter = to_agent.cutter();
        let sending = to_agent.send_all(Content::Message, parts::pack(&said));
        match tokio::time::timeout(SEND_WITHIN, sending).await {
            Ok(Ok(())) => {}
            Ok(Err(lost)) => {
                let why = format_args!("the connection to the server was lost: {lost}");
                return Finished::unknown(why).with_grant(&grant);
            }
            // Its last frame, with the word to go, never left.
            Err(_) => {
                cutter.cut(Reason::Deadline);
                let refusal = Refusal::because(Code::NotDelivered, "it did not take it in time");
                return Finished::refused(refusal).with_grant(&grant);
            }
        }
        let mut recording = Recording::new(self.request, agent, grant.digest());
        let reading = Inbound::bounded(from_agent, MAX_SIGNED + 8);
        let steering = self.steer(agent, &mut to_agent, cancelled, console.must_end.clone());
        let finished = tokio::select! {
            finished = follow(reading, &mut recording, console) => finished,
            () = steering => Finished::unknown("the server did not report the end in time"),
        };
        if finished.outcome == Outcome::Unknown {
            cutter.cut(Reason::Cancelled);
        }
        let finished = finished.with_grant(&grant).with_recording(recording);
        self.note_anomaly(agent, &finished).await;
        finished
    }

    /// Waits for a reason why what runs must end, asks the agent to end it where that is the master's to ask, and gives
    /// it time to report. Returns when that is over.
    async fn steer(
        &self,
        agent: &Agent,
        to_agent: &mut Sender,
        cancelled: impl Future<Output = Refusal>,
        must_end: CancellationToken,
    ) {
        let time_limit = Duration::from_millis(self.request.authored.header().timeout_ms);
        let why = tokio::select! {
            refusal = watch::lost(self.master, self.request) => {
                Some(Refusal { code: Code::RightLost, reason: refusal.reason })
            }
            refusal = cancelled => Some(refusal),
            // The agent keeps the time limit itself, and nobody can be asked over a connection that is gone.
            () = tokio::time::sleep(time_limit) => None,
            _ = agent.link.closed() => None,
        };
        must_end.cancel();
        let asking = async {
            if let Some(why) = why
                && let Ok(cancel) = Part::json(PartKind::Cancel, &why)
                && let Err(gone) = parts::send(to_agent, &[cancel]).await
            {
                tracing::debug!(%gone, "the agent left before its work could be cancelled");
            }
            std::future::pending::<()>().await;
        };
        drop(tokio::time::timeout(REPORT_WITHIN, asking).await);
    }

    /// A server that reports what was not asked of it, or not what it sent, is noted.
    async fn note_anomaly(&self, agent: &Agent, finished: &Finished) {
        if let Some(anomaly) = &finished.anomaly {
            let key = reeve_wire::sshsig::fingerprint(&agent.identity.key);
            let party = Party::agent(agent.identity.host.clone(), Some(&key), None);
            let happened = Happened::anomaly(party, Code::Protocol.as_str(), anomaly);
            self.master.ledger.amiss(happened.of_operation(self.request.authored.header().operation)).await;
        }
    }

    /// Records the end; only then is it told.
    async fn close(&self, finished: Finished) -> message::Ended {
        let truncated = finished.truncated;
        let (outcome, exit_status, signal) = (finished.outcome, finished.exit_status, finished.signal);
        let (code, reason) = (finished.code, finished.reason.clone());
        let operation = self.request.authored.header().operation;
        let ended = Ended {
            exit_status,
            signal,
            code: code.map(|code| code.as_str().to_owned()),
            reason: reason.clone(),
            stdout: finished.stdout,
            stderr: finished.stderr,
            grant: finished.grant,
            receipts: finished.receipts,
            ..Ended::new(operation, self.request.host().clone(), self.intent, outcome)
        };
        match self.master.ledger.close(ended).await {
            Ok(record) => {
                message::Ended { outcome, exit_status, signal, code, reason, truncated, record: Some(record) }
            }
            Err(refusal) => message::Ended {
                outcome,
                exit_status,
                signal,
                code: Some(refusal.code),
                reason: Some(format!("it ended, but its result could not be recorded: {}", refusal.reason)),
                truncated,
                record: None,
            },
        }
    }
}

/// Output from the agent to record and technician, until the agent reports the end. The technician gets what the
/// record keeps and no more.
async fn follow(mut from_agent: Inbound, recording: &mut Recording, console: &mut Console) -> Finished {
    loop {
        match from_agent.next().await {
            Ok(Some(Item::Part(part))) => match recording.part(&part) {
                Ok(Some(finished)) => return finished,
                Ok(None) => {
                    if part.kind == PartKind::Receipt {
                        console.pass_on(Content::Message, parts::pack(&[part])).await;
                    }
                }
                Err(anomaly) => return Finished::anomaly(anomaly),
            },
            Ok(Some(Item::Bytes(content, mut bytes, credit))) => {
                match recording.output(content, &bytes) {
                    Ok(kept) => bytes.truncate(kept),
                    Err(anomaly) => return Finished::anomaly(anomaly),
                }
                console.pass_on(content, bytes).await;
                drop(credit);
            }
            Ok(None) => return Finished::unknown("the server ended without saying how"),
            Err(lost) => return Finished::unknown(format_args!("the connection to the server was lost: {lost}")),
        }
    }
}

/// Waits until the technician cancels, by word or by leaving.
async fn cancelled(commands: &mut Inbound, connection: &Link) -> Refusal {
    let gone = || Refusal::because(Code::Cancelled, "the technician's connection ended");
    loop {
        match commands.next().await {
            Ok(Some(Item::Part(part))) if part.kind == PartKind::Cancel => return Code::Cancelled.into(),
            Ok(Some(Item::Part(_) | Item::Bytes(..))) => {}
            // A console that says no more may still listen.
            Ok(None) => {
                connection.closed().await;
                return gone();
            }
            Err(_) => return gone(),
        }
    }
}

#[cfg(test)]
mod tests;
