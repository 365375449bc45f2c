//! One operation, from the first part that the master hands over to the receipt of its end.
//!
//! What the master sends is collected within bounds, judged, and written down; only then does anything run. Output
//! waits for the stream's credit, so a master that does not read holds up this program alone. When the connection is
//! lost the program goes on to its end: what it still writes is counted and dropped, and its receipt is told later.

mod incoming;
mod outlet;

use std::sync::Arc;
use std::time::Duration;

use reeve_link::{Sender, Stream};
use reeve_wire::code::{Code, Refusal};
use reeve_wire::message::{Part, PartKind, Salts};
use reeve_wire::receipt::{Outcome, StreamReceipt};
use reeve_wire::signed::Signed;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::agent::Agent;
use crate::chain::{Accepted, End, NO_OPERATION};
use crate::exec::{self, Environment, Job, StreamSummary};
use crate::handed::{Handed, Named};
use crate::running::Stop;
use crate::session::Session;
use crate::verify::Order;
use incoming::{Incoming, NotWhole};
use outlet::Outlet;

/// How long the master may take to hand an operation over.
const HANDED_WITHIN: Duration = Duration::from_secs(10);

/// How long a master that does not read holds up the report of an end.
const TOLD_WITHIN: Duration = Duration::from_secs(20);

/// How long the stream is kept for the master to read the end of it.
const SEEN_WITHIN: Duration = Duration::from_secs(10);

/// A place among the operations of this agent, held for as long as one takes.
#[derive(Debug)]
pub enum Slot {
    /// It may run.
    Free(OwnedSemaphorePermit),
    /// There are too many; it may be told so.
    Full(OwnedSemaphorePermit),
}

/// Serves a stream that the master opened for an operation.
pub async fn serve(agent: Arc<Agent>, session: Arc<Session>, stream: Stream, slot: Slot) {
    let (sender, receiver) = stream.split();
    let mut incoming = Incoming::new(receiver);
    let mut handed = Handed::default();
    let collected = timeout(HANDED_WITHIN, incoming.collect(&mut handed)).await;
    let named = handed.named();
    let judged = match collected {
        Ok(Ok(())) => match &slot {
            Slot::Free(_) => agent.accept(handed, &session),
            Slot::Full(_) => Err(Code::Busy.into()),
        },
        Ok(Err(NotWhole::Refused(refusal))) => Err(refusal),
        Ok(Err(NotWhole::Gone(why))) => {
            tracing::debug!(%why, "A stream ended before an operation was handed over");
            return;
        }
        Err(_) => Err(Refusal::because(Code::Protocol, "it was not handed over within 10 s")),
    };
    match judged {
        Ok(accepted) => run(&agent, accepted, &mut incoming, sender).await,
        Err(refusal) => refuse(&agent, named, &refusal, sender).await,
    }
    drop(slot);
    // Letting go of the stream at once would reset it behind what was said.
    drop(timeout(SEEN_WITHIN, incoming.over()).await);
}

/// Writes that an operation was refused, and tells the master.
async fn refuse(agent: &Agent, named: Named, refusal: &Refusal, sender: Sender) {
    tracing::info!(operation = %named.operation.unwrap_or(NO_OPERATION), code = %refusal.code, "An operation was refused");
    agent.refusals.pause().await;
    match agent.chain.refused(named, refusal, agent.now()) {
        Ok(receipt) => {
            if !told(Outlet::new(sender), &receipt).await {
                tracing::debug!("The master left before it was told of a refusal");
            }
        }
        Err(error) => tracing::error!(%error, "A refusal could not be written down"),
    }
}

/// Sends the last receipt and the end of the stream. Whether they were sent.
async fn told(outlet: Outlet, receipt: &Signed) -> bool {
    let last = [Part::new(PartKind::Receipt, receipt.to_wire())];
    matches!(timeout(TOLD_WITHIN, outlet.finish(&last)).await, Ok(true))
}

/// Spends the proof that an operation is accepted and written down: runs it, and writes its end before it is told.
async fn run(agent: &Agent, accepted: Accepted, incoming: &mut Incoming, sender: Sender) {
    let about = accepted.about();
    let (stop, mut cancelled) = Stop::new();
    let place = agent.running.enter(about.operation, stop.clone());
    let (order, receipt) = accepted.into_parts();
    tracing::debug!(operation = %order.operation, technician = %order.technician, level = %order.level, "An operation starts");

    let salts = exec::Salts::random();
    let outlet = Outlet::new(sender);
    outlet.begin(Salts { stdout: salts.stdout, stderr: salts.stderr }, &receipt).await;
    agent.programs.one_more();
    let job = job(agent, order, salts);
    let ended = {
        let mut running = std::pin::pin!(exec::run(job, &outlet, &mut cancelled));
        let listening = std::pin::pin!(incoming.listen(&stop));
        tokio::select! {
            biased;
            ended = &mut running => ended,
            () = listening => running.await,
        }
    };

    let end = end_of(ended, &stop);
    tracing::debug!(operation = %about.operation, outcome = %end.outcome, "An operation ended");
    let receipt = match agent.chain.ended(about, end, agent.now()) {
        Ok(receipt) => receipt,
        Err(error) => {
            tracing::error!(%error, operation = %about.operation, "The end of an operation could not be written down");
            return;
        }
    };
    if !told(outlet, &receipt).await {
        agent.late.add(about.operation, receipt);
    }
    drop(place);
}

fn job(agent: &Agent, order: Order, salts: exec::Salts) -> Job {
    let environment = Environment::new(&agent.account, order.operation, &order.technician, &agent.host());
    Job {
        argv: order.argv,
        stdin: order.stdin,
        timeout: order.timeout,
        max_output: agent.config.max_output,
        environment,
        directory: agent.account.directory().to_owned(),
        salts,
    }
}

/// What the receipt says of an end.
fn end_of(ended: exec::Ended, stop: &Stop) -> End {
    let streams = End {
        stdout: Some(stream_receipt(ended.stdout)),
        stderr: Some(stream_receipt(ended.stderr)),
        ..End::new(Outcome::Unknown)
    };
    match ended.outcome {
        exec::Outcome::Exited(status) => End { outcome: Outcome::Exited, exit_status: Some(status), ..streams },
        exec::Outcome::Signalled(signal) => End { outcome: Outcome::Signalled, signal: Some(signal), ..streams },
        exec::Outcome::Failed(not_started) => {
            let code = if not_started.exit_status == 127 { Code::NotFound } else { Code::CannotStart };
            End {
                outcome: Outcome::Failed,
                exit_status: Some(not_started.exit_status.into()),
                why: Some(Refusal::because(code, not_started)),
                ..streams
            }
        }
        exec::Outcome::TimedOut => End { outcome: Outcome::TimedOut, why: Some(Code::TimedOut.into()), ..streams },
        exec::Outcome::Cancelled(reason) => {
            let why = stop.why().cloned().unwrap_or_else(|| Refusal::because(Code::Cancelled, reason));
            End { outcome: Outcome::Cancelled, why: Some(why), ..streams }
        }
        exec::Outcome::Unknown => End { why: Some(Code::OutcomeUnknown.into()), ..streams },
    }
}

fn stream_receipt(summary: StreamSummary) -> StreamReceipt {
    StreamReceipt {
        commitment: summary.commitment,
        kept: summary.stored,
        length: summary.length,
        truncated: summary.truncated,
    }
}
