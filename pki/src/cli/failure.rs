//! What a person is told when something failed, and the exit status that a script gets.

use reeve_wire::code::exit;

use crate::ca::CaError;
use crate::deliver::DeliveryError;
use crate::library::LibraryError;
use crate::log::LogError;
use crate::passphrase::PassphraseError;

/// A failure of one invocation.
#[derive(Debug)]
pub(super) struct Failure {
    /// The exit status.
    pub(super) status: u8,
    /// What went wrong and what to do next, on one or more lines.
    pub(super) message: String,
}

impl Failure {
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self { status: exit::USAGE, message: message.into() }
    }

    pub(super) fn data(message: impl Into<String>) -> Self {
        Self { status: exit::DATA, message: message.into() }
    }

    pub(super) fn internal(cause: impl std::fmt::Display) -> Self {
        Self { status: exit::INTERNAL, message: cause.to_string() }
    }
}

impl From<CaError> for Failure {
    fn from(error: CaError) -> Self {
        let status = match &error {
            CaError::NoCa(_)
            | CaError::Folder { .. }
            | CaError::NotEncrypted(_)
            | CaError::OtherKey(_)
            | CaError::Secret(_) => exit::CONFIG,
            CaError::Passphrase(error) => passphrase(error),
            CaError::Exists(_)
            | CaError::NotEmpty(_)
            | CaError::WrongPassphrase(_)
            | CaError::Key(_)
            | CaError::Order(_)
            | CaError::NotAdmitted(_)
            | CaError::NotASigner(_)
            | CaError::Log(LogError::Altered { .. }) => exit::DATA,
            CaError::Io { source, .. } => io(source),
            CaError::Busy(_)
            | CaError::Log(LogError::Io { .. })
            | CaError::Ssh(_)
            | CaError::Certificate(_)
            | CaError::Signature(_)
            | CaError::Signed(_)
            | CaError::Trust(_) => exit::INTERNAL,
        };
        Self { status, message: error.to_string() }
    }
}

impl From<PassphraseError> for Failure {
    fn from(error: PassphraseError) -> Self {
        Self { status: passphrase(&error), message: error.to_string() }
    }
}

impl From<DeliveryError> for Failure {
    fn from(error: DeliveryError) -> Self {
        Self::data(error.to_string())
    }
}

impl From<LibraryError> for Failure {
    fn from(error: LibraryError) -> Self {
        let status = match &error {
            LibraryError::Manifests(_)
            | LibraryError::Empty(_)
            | LibraryError::SameVersion { .. }
            | LibraryError::LowerVersion { .. }
            | LibraryError::LastIndex { .. }
            | LibraryError::OtherSite { .. }
            | LibraryError::WrongPassphrase(_)
            | LibraryError::Delivery(_) => exit::DATA,
            LibraryError::Key(_) => exit::CONFIG,
            LibraryError::Passphrase(error) => passphrase(error),
            LibraryError::Io { source, .. } => io(source),
            LibraryError::Busy(_) | LibraryError::Signed(_) | LibraryError::Encode(_) => exit::INTERNAL,
        };
        Self { status, message: error.to_string() }
    }
}

const fn passphrase(error: &PassphraseError) -> u8 {
    match error {
        PassphraseError::Empty | PassphraseError::Differ => exit::DATA,
        PassphraseError::File(_)
        | PassphraseError::Config { .. }
        | PassphraseError::Command { .. }
        | PassphraseError::NoTerminal(_) => exit::CONFIG,
    }
}

/// A name that leads nowhere is the caller's to mend, anything else the machine's.
fn io(error: &std::io::Error) -> u8 {
    use std::io::ErrorKind::{AlreadyExists, IsADirectory, NotADirectory, NotFound};
    let leads_nowhere = [NotFound, NotADirectory, IsADirectory, AlreadyExists].contains(&error.kind());
    if leads_nowhere { exit::DATA } else { exit::INTERNAL }
}
