//! Why the program stops: a sentence for the administrator, a way out where there is one, and an exit status.

use std::fmt;

use reeve_wire::code::exit;

/// A failure that ends the program.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    status: u8,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// The configuration, or a file that it names, is wrong.
    pub fn config(message: impl fmt::Display) -> Self {
        Self::new(exit::CONFIG, message)
    }

    /// The data that was found is not what it should be, or nothing was found.
    pub fn data(message: impl fmt::Display) -> Self {
        Self::new(exit::DATA, message)
    }

    /// The surroundings do not allow it, or a fault of Reeve's own.
    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(exit::INTERNAL, message)
    }

    fn new(status: u8, message: impl fmt::Display) -> Self {
        Self { status, message: message.to_string(), hint: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The exit status of the program.
    pub const fn status(&self) -> u8 {
        self.status
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_tells_the_way_out_and_has_one_exit_status() {
        let failure = Failure::config("no key").hint("make one with `reeve-agent keys`");

        assert_eq!(failure.to_string(), "no key\n  hint: make one with `reeve-agent keys`");
        assert_eq!(failure.status(), 78);
        assert_eq!(Failure::internal("x").status(), 70);
        assert_eq!(Failure::data("x").status(), 65);
    }
}
