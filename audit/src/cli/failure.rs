//! One failure, two readers: a sentence with a way out for the person, an exit status for the script.

use std::fmt;

use reeve_audit::DatabaseError;
use reeve_audit::reader::ReadError;
use reeve_wire::code::exit;

/// Why the program could not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    status: u8,
    message: String,
    hint: Option<&'static str>,
    closed_pipe: bool,
}

impl Failure {
    fn new(status: u8, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), hint: None, closed_pipe: false }
    }

    /// The command line is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(exit::USAGE, message)
    }

    /// What was given or found is wrong, or nothing matched.
    pub(crate) fn data(message: impl Into<String>) -> Self {
        Self::new(exit::DATA, message)
    }

    /// What the environment or a configured file says is wrong.
    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::new(exit::CONFIG, message)
    }

    /// Adds the way out.
    #[must_use]
    pub(crate) const fn hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    pub(crate) const fn exit_status(&self) -> u8 {
        self.status
    }

    /// Whether whoever read the output has gone, as `head` does.
    pub(crate) const fn is_closed_pipe(&self) -> bool {
        self.closed_pipe
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reeve-audit: {}", self.message)?;
        if let Some(hint) = self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        let closed_pipe = error.kind() == std::io::ErrorKind::BrokenPipe;
        Self { closed_pipe, ..Self::new(exit::INTERNAL, format!("cannot write the output: {error}")) }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::new(exit::INTERNAL, format!("cannot write JSON: {error}"))
    }
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        let failure = Self::data(error.to_string());
        if matches!(error, DatabaseError::Missing(_)) {
            return failure.hint("the ledger's path is in the master's configuration");
        }
        failure
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        if let ReadError::Database(error) = error { error.into() } else { Self::data(error.to_string()) }
    }
}
