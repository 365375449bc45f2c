//! Why the lab could not do what was asked, with what to do next.

use std::path::PathBuf;
use std::time::Duration;

use reeve_wire::code::exit;

use crate::openldap::OpenLdapError;

/// A failure of the lab.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is a site there already.
    #[error("{dir} holds a site already ({state}); run `reeve-lab down {dir}` first", dir = .dir.display())]
    Taken {
        /// The folder.
        dir: PathBuf,
        /// What of it runs.
        state: String,
    },
    /// The folder holds something else.
    #[error("{0} is not empty and holds no site of the lab; name another folder")]
    NotEmpty(PathBuf),
    /// There is no site there.
    #[error("{0} holds no site; run `reeve-lab up {0}`")]
    NoSite(PathBuf),
    /// No such part.
    #[error("the site has no part {0:?}; its parts are master, directory and agent:CUSTOMER/HOST")]
    NoPart(String),
    /// A program of Reeve is not beside this one.
    #[error("{0} is not beside reeve-lab; build everything with `cargo build --workspace --bins`")]
    NoProgram(PathBuf),
    /// A program ended badly.
    #[error("{command} ended with {status}: {says}")]
    Program {
        /// What was run.
        command: String,
        /// How it ended.
        status: String,
        /// What it said.
        says: String,
    },
    /// Something was not ready in time.
    #[error("{what} after {after:?}; the end of {log}:\n{tail}", log = .log.display())]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
        /// The log that may say why.
        log: PathBuf,
        /// Its end.
        tail: String,
    },
    /// A file or process.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The directory's server.
    #[error(transparent)]
    OpenLdap(#[from] OpenLdapError),
}

impl Failure {
    /// The exit status that it gives.
    pub const fn exit_status(&self) -> u8 {
        match self {
            Self::Taken { .. } | Self::NotEmpty(_) | Self::NoSite(_) | Self::NoPart(_) => exit::DATA,
            Self::Late { .. } => exit::UNREACHABLE,
            Self::NoProgram(_) | Self::Program { .. } | Self::Io { .. } | Self::OpenLdap(_) => exit::INTERNAL,
        }
    }
}

/// Adds to a system's error what was being done.
pub(crate) trait During<T> {
    /// The same, with `what`.
    fn during(self, what: impl std::fmt::Display) -> Result<T, Failure>;
}

impl<T> During<T> for std::io::Result<T> {
    fn during(self, what: impl std::fmt::Display) -> Result<T, Failure> {
        self.map_err(|source| Failure::Io { what: what.to_string(), source })
    }
}
