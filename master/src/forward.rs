//! Sends what is recorded to its server, passes output on while recording it, and records how it ended.
//!
//! Three things go on at once: output flows from the agent to record and technician, the right to run it is asked for
//! again and again, and the technician may cancel. Only the first ends the operation; the other two ask the agent to.

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
use reeve_wire::level::Level;
use reeve_wire::message::{self, Answer, Part, PartKind};
use reeve_wire::receipt::Outcome;
use reeve_wire::signed::Signed;
use reeve_wire::strict::V1;

use self::recording::{Finished, Recording};
use crate::fleet::Agent;
use crate::ledger::Recorded;
use crate::master::Master;
use crate::policy::{self, Grounds, Question, Request, Work};

/// How old a permit's answer may be when its request leaves; older is asked for again.
const PERMIT_AGE: Duration = Duration::from_secs(5);
/// How long after its time limit, or after a cancel, the agent has to report the end.
const REPORT_WITHIN: Duration = Duration::from_secs(20);
/// How long a console that does not read may hold up the end of an operation that must end.
const CONSOLE_PATIENCE: Duration = Duration::from_secs(5);

/// The technician's side of one operation on one server.
#[derive(Debug)]
pub struct Audience {
    out: Sender,
    commands: Inbound,
    stdin: Option<Bytes>,
    session_level: Option<Level>,
    connection: Link,
}

impl Audience {
    pub(crate) const fn new(
        out: Sender,
        commands: Inbound,
        stdin: Option<Bytes>,
        session_level: Option<Level>,
        connection: Link,
    ) -> Self {
        Self { out, commands, stdin, session_level, connection }
    }
}

/// Spends the proof of a durable intent: sends the request to its server and records the result before it is told.
pub async fn forward(master: &Arc<Master>, recorded: Recorded, audience: Audience) {
    let asked_at = recorded.permit().asked_at();
    let trust = recorded.permit().trust();
    let (request, grounds, intent, leaf) = recorded.into_parts();
    let Audience { mut out, mut commands, stdin, session_level, connection } = audience;
    let _running = master.running.enter();

    let job = Job { master, request: &request, grounds: &grounds, intent, leaf, session_level };
    let finished = match job.last_look(asked_at, trust).await {
        Err(refusal) => Finished::refused(refusal),
        Ok(agent) => job.send_and_follow(&agent, stdin, &mut out, cancelled(&mut commands, &connection)).await,
    };
    let answer = job.close(finished).await;
    if let Ok(part) = Part::json(PartKind::Answer, &Answer::Ended(answer)) {
        let told = async { out.send_all(Content::Message, parts::pack(&[part])).await.and_then(|()| out.finish()) };
        if let Ok(Err(gone)) = tokio::time::timeout(CONSOLE_PATIENCE, told).await {
            tracing::debug!(%gone, "the console left before the end of its work");
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
    session_level: Option<Level>,
}

impl Job<'_> {
    /// The last check before a byte leaves: the agent is here and willing, and the permit is not out of date.
    async fn last_look(&self, asked_at: Instant, trust: u64) -> Result<Arc<Agent>, Refusal> {
        let agent = self.master.fleet.agent(self.request.host()).ok_or_else(|| Refusal::from(Code::Unreachable))?;
        if let Some(refusal) = &agent.refusal {
            return Err(refusal.clone());
        }
        if asked_at.elapsed() > PERMIT_AGE || self.master.trusted.bundle().number != trust {
            self.still_allowed().await?;
        }
        Ok(agent)
    }

    /// Decides again, from a fresh answer.
    async fn still_allowed(&self) -> Result<(), Refusal> {
        let technician = self.request.authored.technician();
        let answer = self.master.directory.standing(&technician.name).await;
        let question = Question {
            technician,
            session_level: self.session_level,
            host: self.request.host(),
            needs: self.request.work.needs(),
        };
        let now = (self.master.clock.now(), Instant::now());
        policy::decide(question, &answer, &self.master.trusted.bundle(), now).1
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
        out: &mut Sender,
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
        if let Err(lost) = to_agent.send_all(Content::Message, parts::pack(&said)).await {
            return Finished::unknown(format_args!("the connection to the server was lost: {lost}")).with_grant(&grant);
        }
        let mut recording = Recording::new(self.request, agent, grant.digest());
        let reading = Inbound::new(from_agent);
        let steering = self.steer(&mut to_agent, cancelled);
        let deadline = Duration::from_millis(self.request.authored.header().timeout_ms).saturating_add(REPORT_WITHIN);
        let finished = tokio::select! {
            finished = follow(reading, &mut recording, out) => finished,
            () = steering => Finished::unknown("the server did not report the end in time"),
            () = tokio::time::sleep(deadline) => Finished::unknown("the server did not report the end in time"),
        };
        if finished.outcome == Outcome::Unknown {
            cutter.cut(Reason::Cancelled);
        }
        let finished = finished.with_grant(&grant).with_recording(recording);
        self.note_anomaly(agent, &finished).await;
        finished
    }

    /// Waits for a reason to end what runs, asks the agent to, and gives it time to report. Returns when that is over.
    async fn steer(&self, to_agent: &mut Sender, cancelled: impl Future<Output = Refusal>) {
        let question = watch::Watched {
            master: self.master,
            technician: self.request.authored.technician(),
            session_level: self.session_level,
            host: self.request.host(),
            needs: self.request.work.needs(),
        };
        let why = tokio::select! {
            refusal = question.lost() => Refusal { code: Code::RightLost, reason: refusal.reason },
            refusal = cancelled => refusal,
        };
        if let Ok(cancel) = Part::json(PartKind::Cancel, &why)
            && let Err(gone) = parts::send(to_agent, &[cancel]).await
        {
            tracing::debug!(%gone, "the agent left before its work could be cancelled");
        }
        tokio::time::sleep(REPORT_WITHIN).await;
    }

    /// A server that reports what was not asked of it, or not what it sent, is noted.
    async fn note_anomaly(&self, agent: &Agent, finished: &Finished) {
        if let Some(anomaly) = &finished.anomaly {
            let key = reeve_wire::sshsig::fingerprint(&agent.identity.key);
            let party = Party::agent(agent.identity.host.clone(), Some(&key), None);
            let happened = Happened::anomaly(party, Code::Protocol.as_str(), anomaly);
            self.master.ledger.took_away(happened.of_operation(self.request.authored.header().operation)).await;
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

/// Output from the agent to record and technician, until the agent reports the end.
async fn follow(mut from_agent: Inbound, recording: &mut Recording, out: &mut Sender) -> Finished {
    let mut listening = true;
    loop {
        match from_agent.next().await {
            Ok(Some(Item::Part(part))) => match recording.part(&part) {
                Ok(Some(finished)) => return finished,
                Ok(None) => {
                    if part.kind == PartKind::Receipt && listening {
                        listening = parts::send(out, &[part]).await.is_ok();
                    }
                }
                Err(anomaly) => return Finished::anomaly(anomaly),
            },
            Ok(Some(Item::Bytes(content, bytes, credit))) => {
                if let Err(anomaly) = recording.output(content, &bytes) {
                    return Finished::anomaly(anomaly);
                }
                if listening {
                    listening = out.send_all(content, bytes).await.is_ok();
                }
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
