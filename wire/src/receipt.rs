//! Receipts: what the server says it did, signed by its own key and chained so that none can be dropped.
//!
//! One chain an agent key: `seq` rises by one, `prev` is the SHA-256 of the entry before. A chain that lost its end
//! (a rolled-back snapshot) goes on in a new `generation`.

use serde::{Deserialize, Serialize};

use crate::code::{Code, Refusal};
use crate::id::{Digest, OperationId};
use crate::name::{HostName, Name};
use crate::signed::Document;
use crate::sshsig::Namespace;
use crate::strict::{Unused, V1, present};
use crate::time::Millis;

/// What an entry reports.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// The request was checked and is about to start.
    Accepted,
    /// It ended.
    Ended,
    /// It was not started: a failed check, or the customer's veto.
    Refused,
    /// The agent started; entries that it had left open follow as ended with [`Outcome::Unknown`].
    Restarted,
}

/// How an operation on one server came out.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It ran and ended by itself.
    Exited,
    /// A signal that Reeve did not send ended it.
    Signalled,
    /// It could not be started.
    Failed,
    /// The master or the agent refused it.
    Refused,
    /// The customer's own policy forbids it.
    Vetoed,
    /// It never reached the server.
    Unreachable,
    /// Its time limit ended it.
    TimedOut,
    /// It was cancelled, or the right to it was lost.
    Cancelled,
    /// Nobody can say.
    Unknown,
}

impl Outcome {
    /// The stable text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Signalled => "signalled",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Vetoed => "vetoed",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed-out",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What came out of one stream.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StreamReceipt {
    /// SHA-256(salt ‖ the bytes that were passed on). The salt travels beside the content, not in here.
    pub commitment: Digest,
    /// How many bytes were passed on.
    pub kept: u64,
    /// How many bytes the program wrote.
    pub length: u64,
    /// Whether `length` went past the limit.
    pub truncated: bool,
}

/// One entry of the chain.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// Format version.
    pub v: V1,
    /// The site.
    pub site: Name,
    /// The server.
    pub host: HostName,
    /// Rises when the chain lost its end.
    pub generation: u64,
    /// Rises by one an entry, from 1.
    pub seq: u64,
    /// SHA-256 of the entry before; null for the first.
    #[serde(deserialize_with = "present")]
    pub prev: Option<Digest>,
    /// The server's clock.
    pub at: Millis,
    /// What happened.
    pub event: Event,
    /// The operation; null for [`Event::Restarted`].
    #[serde(deserialize_with = "present")]
    pub operation: Option<OperationId>,
    /// SHA-256 over the signed request; null where none could be read.
    #[serde(deserialize_with = "present")]
    pub request: Option<Digest>,
    /// SHA-256 over the signed grant; null where none could be read.
    #[serde(deserialize_with = "present")]
    pub grant: Option<Digest>,
    /// How it came out, for [`Event::Ended`] and [`Event::Refused`].
    #[serde(deserialize_with = "present")]
    pub outcome: Option<Outcome>,
    /// Exit status, for [`Outcome::Exited`] and [`Outcome::Failed`].
    #[serde(deserialize_with = "present")]
    pub exit_status: Option<i32>,
    /// Signal, for [`Outcome::Signalled`].
    #[serde(deserialize_with = "present")]
    pub signal: Option<i32>,
    /// Why, where there is a why.
    #[serde(deserialize_with = "present")]
    pub code: Option<Code>,
    /// The same in a sentence.
    #[serde(deserialize_with = "present")]
    pub reason: Option<String>,
    /// Standard output, for [`Event::Ended`].
    #[serde(deserialize_with = "present")]
    pub stdout: Option<StreamReceipt>,
    /// Standard error, for [`Event::Ended`].
    #[serde(deserialize_with = "present")]
    pub stderr: Option<StreamReceipt>,
    /// The machine's boot id, for [`Event::Restarted`].
    #[serde(deserialize_with = "present")]
    pub boot_id: Option<String>,
    /// Key for end-to-end frames: not built.
    pub ephemeral: Unused,
}

impl Document for Receipt {
    const NAMESPACE: Namespace = Namespace::Receipt;
}

impl Receipt {
    /// Whether the fields belong to the event.
    ///
    /// # Errors
    /// [`Code::Protocol`] when they do not.
    pub fn consistent(&self) -> Result<(), Refusal> {
        let good = match self.event {
            Event::Accepted => {
                self.operation.is_some() && self.request.is_some() && self.grant.is_some() && self.outcome.is_none()
            }
            Event::Ended => {
                let ran = |outcome| !matches!(outcome, Outcome::Refused | Outcome::Vetoed | Outcome::Unreachable);
                self.operation.is_some()
                    && self.request.is_some()
                    && self.grant.is_some()
                    && self.outcome.is_some_and(ran)
            }
            Event::Refused => {
                let refused = matches!(self.outcome, Some(Outcome::Refused | Outcome::Vetoed));
                let output = self.stdout.is_some() || self.stderr.is_some();
                self.operation.is_some() && refused && self.code.is_some() && self.exit_status.is_none() && !output
            }
            Event::Restarted => self.operation.is_none() && self.outcome.is_none() && self.boot_id.is_some(),
        };
        if good { Ok(()) } else { Err(Code::Protocol.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(event: Event, outcome: Option<Outcome>) -> Receipt {
        Receipt {
            v: V1,
            site: "lab".parse().unwrap(),
            host: "contoso/web01".parse().unwrap(),
            generation: 1,
            seq: 1,
            prev: None,
            at: Millis(0),
            event,
            operation: Some(OperationId([1; 16])),
            request: Some(Digest([2; 32])),
            grant: Some(Digest([3; 32])),
            outcome,
            exit_status: None,
            signal: None,
            code: Some(Code::WrongHost),
            reason: None,
            stdout: None,
            stderr: None,
            boot_id: None,
            ephemeral: Unused,
        }
    }

    #[test]
    fn an_event_takes_the_outcomes_that_it_can_have() {
        use Outcome as O;
        let all = [
            O::Exited,
            O::Signalled,
            O::Failed,
            O::Refused,
            O::Vetoed,
            O::Unreachable,
            O::TimedOut,
            O::Cancelled,
            O::Unknown,
        ];
        let taken = |event| all.into_iter().filter(move |o| receipt(event, Some(*o)).consistent().is_ok());
        assert_eq!(taken(Event::Refused).collect::<Vec<_>>(), [O::Refused, O::Vetoed]);
        let ends = [O::Exited, O::Signalled, O::Failed, O::TimedOut, O::Cancelled, O::Unknown];
        assert_eq!(taken(Event::Ended).collect::<Vec<_>>(), ends);
        assert_eq!(taken(Event::Accepted).count() + taken(Event::Restarted).count(), 0);
        assert!(receipt(Event::Ended, None).consistent().is_err());
    }

    #[test]
    fn an_end_names_the_request_and_the_grant_and_a_refusal_ran_nothing() {
        let ended = receipt(Event::Ended, Some(Outcome::Exited));
        assert!(Receipt { request: None, ..ended.clone() }.consistent().is_err());
        assert!(Receipt { grant: None, ..ended }.consistent().is_err());
        let refused = receipt(Event::Refused, Some(Outcome::Refused));
        assert!(Receipt { request: None, grant: None, ..refused.clone() }.consistent().is_ok());
        assert!(Receipt { exit_status: Some(0), ..refused }.consistent().is_err());
    }
}
