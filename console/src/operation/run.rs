//! One errand on one server, from its first frame to the master's last word.

use std::time::Duration;

use reeve_link::parts::{self, Inbound, Item, PartsError};
use reeve_link::{Content, Ended as StreamEnded, Link, Reason, Sender};
use reeve_wire::code::{Code, Refusal};
use reeve_wire::message::{Answer, Ended, MessageError, Part, PartKind};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::ask::ANSWER_WITHIN;
use super::outcome::HostOutcome;
use super::round::Errand;
use crate::show::Sink;

/// How long after its time limit a command may still be reported on.
const REPORT_WITHIN: Duration = Duration::from_secs(90);
/// How long after a cancel the end may still be reported.
const CANCEL_WITHIN: Duration = Duration::from_secs(60);

/// The technician's wish that it end. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Cancel what runs, and wait for how it ended.
    pub cancel: CancellationToken,
    /// Wait for nothing any more.
    pub give_up: CancellationToken,
}

/// Why there is no last word.
enum Broken {
    Parts(PartsError),
    Refused { refusal: Refusal, record: Option<u64> },
    Late,
    Output(std::io::Error),
}

impl<E: Into<PartsError>> From<E> for Broken {
    fn from(error: E) -> Self {
        Self::Parts(error.into())
    }
}

/// Runs `errand` and hands its output to `sink`. `stop` reaches the server; what it answers is waited for.
pub async fn run(link: &Link, errand: &Errand, sink: &mut Sink, stop: &Stop) -> HostOutcome {
    let (operation, host) = (errand.operation, errand.host.clone());
    let not_sent = |ended| {
        let refusal = match ended {
            StreamEnded::Link(why) => Refusal::because(Code::MasterUnreachable, why),
            StreamEnded::Reset(why) => Refusal::because(Code::Busy, why),
            StreamEnded::TooLong(_) => Refusal::because(Code::Internal, ended),
        };
        HostOutcome::of_refusal(operation, Some(host.clone()), None, &refusal)
    };
    if stop.cancel.is_cancelled() {
        let refusal = Refusal { code: Code::Cancelled, reason: "it was cancelled before its turn".into() };
        return HostOutcome::of_refusal(operation, Some(host), None, &refusal);
    }
    let (mut sender, receiver) = match link.open() {
        Ok(stream) => stream.split(),
        Err(ended) => return not_sent(ended),
    };
    if let Err(ended) = sender.send_all(Content::Message, errand.opening.clone()).await {
        return not_sent(ended);
    }
    let mut inbound = Inbound::new(receiver);
    let mut intent = None;
    let told = tokio::select! {
        told = follow(&mut inbound, sink, errand.timeout, &mut intent) => told,
        late = cancel_when_asked(&mut sender, &stop.cancel) => Err(late),
        () = stop.give_up.cancelled() => Err(Broken::Late),
    };
    match told {
        Ok(ended) => HostOutcome::ended(operation, host, intent, ended),
        Err(Broken::Refused { refusal, record }) => {
            HostOutcome::of_refusal(operation, Some(host), record.or(intent), &refusal)
        }
        Err(Broken::Parts(PartsError::Ended(StreamEnded::Reset(why @ (Reason::TooMany | Reason::Refused)))))
            if intent.is_none() =>
        {
            not_sent(StreamEnded::Reset(why))
        }
        Err(broken) => HostOutcome::unknown(operation, host, intent, &broken.refusal()),
    }
}

impl Broken {
    fn refusal(&self) -> Refusal {
        match self {
            Self::Parts(error @ PartsError::Ended(_)) => Refusal::because(Code::OutcomeUnknown, error),
            Self::Parts(error @ (PartsError::Message(_) | PartsError::Short)) => {
                Refusal::because(Code::Protocol, error)
            }
            Self::Refused { refusal, .. } => refusal.clone(),
            Self::Late => Refusal::because(Code::OutcomeUnknown, "the end was not waited for any longer"),
            Self::Output(error) => Refusal::because(Code::Internal, format_args!("output cannot be kept: {error}")),
        }
    }
}

/// Reads until the last word.
async fn follow(
    inbound: &mut Inbound,
    sink: &mut Sink,
    longest: Duration,
    intent: &mut Option<u64>,
) -> Result<Ended, Broken> {
    let mut deadline = Instant::now() + ANSWER_WITHIN;
    loop {
        // Time that our own reader took is not the master's.
        let patience = deadline.max(Instant::now() + ANSWER_WITHIN);
        let item = timeout_at(patience, inbound.next()).await.map_err(|_| Broken::Late)??;
        match item {
            None => return Err(PartsError::Short.into()),
            Some(Item::Bytes(content @ (Content::Stdout | Content::Stderr), bytes, credit)) if intent.is_some() => {
                sink.take(content, bytes, credit).await.map_err(Broken::Output)?;
            }
            Some(Item::Bytes(..)) => return Err(MessageError::Unexpected(PartKind::Stdin).into()),
            Some(Item::Part(part)) if part.kind == PartKind::Receipt && intent.is_some() => {}
            Some(Item::Part(part)) => match part.read::<Answer>(PartKind::Answer)? {
                Answer::Started { record } if intent.is_none() => {
                    *intent = Some(record);
                    deadline = Instant::now() + longest + REPORT_WITHIN;
                }
                Answer::Ended(ended) if intent.is_some() => return Ok(ended),
                Answer::Refused { refusal, record } => return Err(Broken::Refused { refusal, record }),
                Answer::Started { .. }
                | Answer::Ended(_)
                | Answer::Whoami(_)
                | Answer::Hosts { .. }
                | Answer::Resolved { .. }
                | Answer::Why(_)
                | Answer::Registered { .. }
                | Answer::LoggedOut {}
                | Answer::Submitted {} => return Err(MessageError::Unexpected(PartKind::Answer).into()),
            },
        }
    }
}

/// Sends the cancel when it is asked for; comes back only when no end is reported after it.
async fn cancel_when_asked(sender: &mut Sender, cancel: &CancellationToken) -> Broken {
    cancel.cancelled().await;
    let sent = match Part::json(PartKind::Cancel, &Refusal::from(Code::Cancelled)) {
        Ok(part) => parts::send(sender, &[part]).await,
        Err(error) => return error.into(),
    };
    if sent.is_err() {
        // The end of the stream is what the reader finds.
        return std::future::pending().await;
    }
    sleep(CANCEL_WITHIN).await;
    Broken::Late
}
