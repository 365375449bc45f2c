//! What ends a verb in the place of its answer: one stable code, one sentence, one way out, one exit status.

use std::fmt;

use reeve_link::parts::PartsError;
use reeve_link::{Ended, Reason};
use reeve_wire::code::{Code, Refusal};
use reeve_wire::message::MessageError;

/// A verb that did not come to its answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Failure {
    /// Something to tell.
    Told {
        /// Code and sentence.
        refusal: Refusal,
        /// What to do next, where the sentence does not say it already.
        hint: Option<String>,
        /// Index of the master's record of it, where there is one.
        record: Option<u64>,
    },
    /// Nobody reads our output any more: a quiet end.
    PipeClosed,
}

impl Failure {
    /// The code's own sentence.
    pub fn of(code: Code) -> Self {
        Refusal::from(code).into()
    }

    /// The code's sentence, and `detail` behind it.
    pub fn because(code: Code, detail: impl fmt::Display) -> Self {
        Refusal::because(code, detail).into()
    }

    /// A sentence of its own.
    pub fn saying(code: Code, sentence: impl Into<String>) -> Self {
        Refusal { code, reason: sentence.into() }.into()
    }

    /// With the master's record.
    #[must_use]
    pub fn recorded(self, index: Option<u64>) -> Self {
        match self {
            Self::Told { refusal, hint, .. } => Self::Told { refusal, hint, record: index },
            Self::PipeClosed => Self::PipeClosed,
        }
    }

    /// With what to do next.
    #[must_use]
    pub fn hint(self, way_out: impl Into<String>) -> Self {
        match self {
            Self::Told { refusal, record, .. } => Self::Told { refusal, hint: Some(way_out.into()), record },
            Self::PipeClosed => Self::PipeClosed,
        }
    }

    /// Code and sentence, unless there is nobody to tell.
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Told { refusal, .. } => Some(refusal),
            Self::PipeClosed => None,
        }
    }

    /// The exit status of the whole command.
    pub const fn exit_status(&self) -> u8 {
        match self {
            Self::Told { refusal, .. } => refusal.code.exit_status(),
            Self::PipeClosed => 0,
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Told { refusal, hint: None, record: None }
    }
}

impl From<Code> for Failure {
    fn from(code: Code) -> Self {
        Self::of(code)
    }
}

impl From<PartsError> for Failure {
    fn from(error: PartsError) -> Self {
        match error {
            PartsError::Ended(ended) => ended.into(),
            PartsError::Message(_) | PartsError::Short => Self::because(Code::Protocol, error),
        }
    }
}

impl From<Ended> for Failure {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Link(why) => {
                Self::saying(Code::MasterUnreachable, format!("the connection to the master ended: {why}"))
            }
            Ended::Reset(Reason::TooMany | Reason::Refused) => Self::because(Code::Busy, ended),
            Ended::Reset(_) => Self::because(Code::Protocol, ended),
            Ended::TooLong(_) => Self::because(Code::Internal, ended),
        }
    }
}

impl From<MessageError> for Failure {
    fn from(error: MessageError) -> Self {
        Refusal::from(error).into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Told { refusal, .. } => write!(f, "{refusal} [{}]", refusal.code),
            Self::PipeClosed => f.write_str("nobody reads the output any more"),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_has_the_exit_status_of_its_code() {
        for (code, status) in [
            (Code::SelectorInvalid, 64),
            (Code::NothingMatched, 65),
            (Code::MasterUnreachable, 69),
            (Code::Protocol, 70),
            (Code::LoginFailed, 77),
            (Code::MasterUntrusted, 77),
            (Code::PolicyConfig, 78),
        ] {
            assert_eq!(Failure::of(code).exit_status(), status, "{code}");
        }
        assert_eq!(Failure::PipeClosed.exit_status(), 0);
    }

    #[test]
    fn a_lost_connection_is_no_fault_of_ours() {
        let lost = Failure::from(PartsError::Ended(Ended::Link(reeve_link::Why::PeerGone)));
        assert_eq!(lost.exit_status(), 69);
        assert_eq!(lost.to_string(), "the connection to the master ended: the other side is gone [master-unreachable]");
    }
}
