//! How work on one server came out: what a script reads, and which exit status it gives.

use std::io::{self, Write};

use reeve_wire::code::{Code, Refusal, exit};
use reeve_wire::id::OperationId;
use reeve_wire::message::Ended;
use reeve_wire::name::HostName;
use reeve_wire::receipt::Outcome;
use serde::Serialize;

use crate::failure::Failure;
use crate::show::Captured;

/// Codes that say more than that it was refused.
const NOT_REFUSED: [(Code, Outcome); 10] = [
    (Code::Vetoed, Outcome::Vetoed),
    (Code::Unreachable, Outcome::Unreachable),
    (Code::NotDelivered, Outcome::Unreachable),
    (Code::MasterUnreachable, Outcome::Unreachable),
    (Code::CannotStart, Outcome::Failed),
    (Code::NotFound, Outcome::Failed),
    (Code::TimedOut, Outcome::TimedOut),
    (Code::Cancelled, Outcome::Cancelled),
    (Code::RightLost, Outcome::Cancelled),
    (Code::OutcomeUnknown, Outcome::Unknown),
];

/// The result of one operation on one server, or of one that was refused as a whole.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HostOutcome {
    /// The operation.
    pub operation: OperationId,
    /// The server; `None` when a selector that names no single one was refused.
    pub host: Option<HostName>,
    /// How it came out.
    pub outcome: Outcome,
    /// The command's own exit status, where it has one.
    pub exit_status: Option<i32>,
    /// The signal that ended it, where one did.
    pub signal: Option<i32>,
    /// The master's record: of the result, else of the intent.
    pub record: Option<u64>,
    /// Why, where there is a why.
    pub code: Option<Code>,
    /// The same in a sentence.
    pub reason: Option<String>,
    /// Whether output was cut at the limit.
    pub truncated: bool,
    /// Whether the master said that it was on its way to the server.
    pub started: bool,
}

impl HostOutcome {
    /// As the master's last word says.
    pub fn ended(operation: OperationId, host: HostName, intent: Option<u64>, ended: Ended) -> Self {
        let by_signal = ended.signal.map(|signal| format!("it was ended by signal {signal}"));
        let unrecorded = ended.record.is_none();
        let not_written = || unrecorded.then(|| "how it ended could not be recorded".to_owned());
        Self {
            operation,
            host: Some(host),
            outcome: ended.outcome,
            exit_status: ended.exit_status,
            signal: ended.signal,
            record: ended.record.or(intent),
            code: ended.code.or(unrecorded.then_some(Code::LedgerUnavailable)),
            reason: ended.reason.or(by_signal).or_else(not_written),
            truncated: ended.truncated,
            started: intent.is_some(),
        }
    }

    /// As a refusal or a fault says.
    pub fn of_refusal(operation: OperationId, host: Option<HostName>, record: Option<u64>, refusal: &Refusal) -> Self {
        let special = NOT_REFUSED.iter().find(|(code, _)| *code == refusal.code);
        Self {
            operation,
            host,
            outcome: special.map_or(Outcome::Refused, |(_, outcome)| *outcome),
            exit_status: None,
            signal: None,
            record,
            code: Some(refusal.code),
            reason: Some(refusal.reason.clone()),
            truncated: false,
            started: false,
        }
    }

    /// As what ended the whole command says; `None` for a quiet end.
    pub fn of_failure(operation: OperationId, host: Option<HostName>, failure: &Failure) -> Option<Self> {
        match failure {
            Failure::Told { refusal, record, .. } => Some(Self::of_refusal(operation, host, *record, refusal)),
            Failure::PipeClosed => None,
        }
    }

    /// That it was sent and nobody can say how it went on. `intent` is the record of its start, where there is one.
    pub fn unknown(operation: OperationId, host: HostName, intent: Option<u64>, refusal: &Refusal) -> Self {
        let told = Self::of_refusal(operation, Some(host), intent, refusal);
        Self { outcome: Outcome::Unknown, started: intent.is_some(), ..told }
    }

    /// The exit status of a command that concerned this one server.
    pub fn status(&self) -> u8 {
        let of_code = |otherwise| self.code.map_or(otherwise, Code::exit_status);
        match self.outcome {
            Outcome::Exited => self.exit_status.map_or(exit::INTERNAL, low_byte),
            Outcome::Signalled => self.signal.map_or(exit::INTERNAL, |signal| low_byte(signal.saturating_add(128))),
            Outcome::Failed => match self.exit_status {
                Some(status) if status == i32::from(exit::NOT_FOUND) => exit::NOT_FOUND,
                Some(_) => exit::CANNOT_START,
                None => of_code(exit::CANNOT_START),
            },
            Outcome::Refused => of_code(exit::REFUSED),
            Outcome::Vetoed => exit::REFUSED,
            Outcome::Unreachable => exit::UNREACHABLE,
            Outcome::TimedOut => exit::TIMED_OUT,
            Outcome::Cancelled => exit::CANCELLED,
            Outcome::Unknown => exit::UNKNOWN,
        }
    }

    /// Whether the command ran and ended in status 0.
    pub fn is_success(&self) -> bool {
        self.outcome == Outcome::Exited && self.exit_status == Some(0)
    }

    /// Whether output belongs to it at all: what never ran has none.
    fn has_output(&self) -> bool {
        match self.outcome {
            Outcome::Exited | Outcome::Signalled | Outcome::Failed | Outcome::TimedOut => true,
            Outcome::Cancelled | Outcome::Unknown => self.started,
            Outcome::Refused | Outcome::Vetoed | Outcome::Unreachable => false,
        }
    }

    /// Writes the one object that a script gets of this server, in one line.
    ///
    /// # Errors
    /// When `out` takes no more or what was captured cannot be read back.
    pub fn write_json(&self, out: &mut impl Write, output: Option<(&mut Captured, &mut Captured)>) -> io::Result<()> {
        field(out, "{", "operation", &self.operation)?;
        field(out, ",", "host", &self.host)?;
        field(out, ",", "outcome", &self.outcome)?;
        field(out, ",", "exit_status", &self.exit_status)?;
        match output {
            Some((stdout, stderr)) if self.has_output() || !stdout.is_empty() || !stderr.is_empty() => {
                stdout.write_json_field(out, "stdout")?;
                stderr.write_json_field(out, "stderr")?;
            }
            Some(_) | None => out.write_all(b",\"stdout\":null,\"stderr\":null")?,
        }
        field(out, ",", "record", &self.record)?;
        field(out, ",", "code", &self.code)?;
        field(out, ",", "reason", &self.reason)?;
        out.write_all(b"}\n")
    }
}

/// What a shell makes of a status: its low byte.
const fn low_byte(status: i32) -> u8 {
    status.to_le_bytes()[0]
}

fn field<T: Serialize>(out: &mut impl Write, before: &str, name: &str, value: &T) -> io::Result<()> {
    write!(out, "{before}\"{name}\":")?;
    serde_json::to_writer(&mut *out, value).map_err(io::Error::from)
}

/// The exit status of a fan-out.
pub fn status_of_all(outcomes: &[HostOutcome]) -> u8 {
    match outcomes {
        [one] => one.status(),
        all if all.iter().all(HostOutcome::is_success) => 0,
        _ => exit::SOME_FAILED,
    }
}

#[cfg(test)]
mod tests;
