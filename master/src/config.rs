//! `master.toml`: read as written, then turned into values that cannot be wrong. All problems are reported together.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use reeve_wire::certificate;
use reeve_wire::keyfile::{self, SecretFileError};
use reeve_wire::name::Name;
use reeve_wire::note::LogSigner;
use serde::Deserialize;
use ssh_key::{Certificate, PrivateKey};

use crate::directory::{self, DirectoryConfig};
use crate::trusted::{Trusted, TrustedError};

/// The port that agents and technicians dial when nothing else is said.
pub const DEFAULT_PORT: u16 = 443;

/// The file as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The site.
    pub site: Name,
    /// This master's name, as in its certificate.
    pub name: Name,
    /// The root's fingerprint, `SHA256:…`.
    pub root: String,
    /// Where to listen.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// The newest trust bundle.
    pub trust: PathBuf,
    /// The host key, made by `reeve-master keys`.
    pub key: PathBuf,
    /// The host certificate, by `reeve-pki issue master`.
    pub certificate: PathBuf,
    /// The ledger's key, made by `reeve-master keys`.
    pub log_key: PathBuf,
    /// The ledger.
    pub audit_db: PathBuf,
    /// Sessions and other state of this master's own.
    pub state: PathBuf,
    /// The folder that `reeve-pki sign-library` signed.
    pub library: Option<PathBuf>,
    /// Where people, groups and rights are kept.
    pub directory: DirectoryConfig,
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 0], DEFAULT_PORT))
}

/// Something wrong with the configuration or with a file that it names.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file cannot be read.
    #[error("{path} cannot be read: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML of the known keys.
    #[error("{0}")]
    Syntax(String),
    /// A service has no useful working directory.
    #[error("{0} must be an absolute path")]
    Relative(&'static str),
    /// A key file must not be used.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// The ledger's key cannot be read.
    #[error("{0} holds no ledger key; make one with `reeve-master keys`")]
    LogKey(PathBuf),
    /// The certificate is not this master's.
    #[error("{path}: {why}", path = .path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is the matter.
        why: String,
    },
    /// Bundle or library cannot be trusted.
    #[error(transparent)]
    Trusted(#[from] TrustedError),
    /// The directory's part is wrong.
    #[error(transparent)]
    Directory(#[from] directory::Problem),
}

/// The keys and documents that a master runs with; holding them means that they fit together.
#[derive(Debug)]
pub struct Identity {
    /// The host key.
    pub key: PrivateKey,
    /// The host certificate.
    pub certificate: Certificate,
    /// The ledger's key.
    pub log: LogSigner,
    /// Bundle and library.
    pub trusted: Trusted,
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// Every problem of the file itself.
    pub fn load(path: &Path) -> Result<Self, Vec<Problem>> {
        let read = |source| vec![Problem::Read { path: path.to_owned(), source }];
        let text = std::fs::read_to_string(path).map_err(read)?;
        let config: Self = toml::from_str(&text).map_err(|error| vec![Problem::Syntax(error.to_string())])?;
        let paths = [
            ("trust", &config.trust),
            ("key", &config.key),
            ("certificate", &config.certificate),
            ("log-key", &config.log_key),
            ("audit-db", &config.audit_db),
            ("state", &config.state),
        ];
        let library = config.library.iter().map(|path| ("library", path));
        let relative = paths.into_iter().chain(library).filter(|(_, path)| !path.is_absolute());
        let problems: Vec<_> = relative.map(|(name, _)| Problem::Relative(name)).collect();
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    /// Reads every key and document that the configuration names and checks that they fit together.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn identity(&self, now: reeve_wire::time::Millis) -> Result<Identity, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut keep = |result: Result<(), Problem>| problems.extend(result.err());

        let mut key = None;
        keep(keyfile::read_private_key(&self.key).map(|read| key = Some(read)).map_err(Problem::from));
        let mut log = None;
        keep(self.log_signer().map(|read| log = Some(read)));
        let mut trusted = None;
        let opened = Trusted::open(&self.trust, &self.root, self.library.as_deref());
        keep(opened.map(|read| trusted = Some(read)).map_err(Problem::from));
        let mut certificate = None;
        keep(self.read_certificate().map(|read| certificate = Some(read)));

        if let (Some(key), Some(log), Some(trusted), Some(certificate)) = (key, log, trusted, certificate) {
            match self.fits(&key, &log, &trusted, &certificate, now) {
                Ok(()) => return Ok(Identity { key, certificate, log, trusted }),
                Err(why) => problems.push(Problem::Certificate { path: self.certificate.clone(), why }),
            }
        }
        Err(problems)
    }

    /// The ledger's key.
    ///
    /// # Errors
    /// When the file must not be used or holds none.
    pub fn log_signer(&self) -> Result<LogSigner, Problem> {
        let text = keyfile::read_secret(&self.log_key)?;
        text.trim().parse().map_err(|_| Problem::LogKey(self.log_key.clone()))
    }

    /// The ledger's name.
    pub fn log_name(&self) -> String {
        format!("{}.reeve/{}", self.site, self.name)
    }

    fn read_certificate(&self) -> Result<Certificate, Problem> {
        let path = || self.certificate.clone();
        let text =
            std::fs::read_to_string(&self.certificate).map_err(|source| Problem::Read { path: path(), source })?;
        Certificate::from_openssh(text.trim())
            .map_err(|error| Problem::Certificate { path: path(), why: error.to_string() })
    }

    fn fits(
        &self,
        key: &PrivateKey,
        log: &LogSigner,
        trusted: &Trusted,
        certificate: &Certificate,
        now: reeve_wire::time::Millis,
    ) -> Result<(), String> {
        let trust = trusted.bundle();
        let master = certificate::master(certificate, &trust, now).map_err(|error| error.to_string())?;
        if master.name != self.name {
            return Err(format!("it is for the master {}, and this one is {}", master.name, self.name));
        }
        if master.key != *key.public_key().key_data() {
            return Err("it is for another key than the one in `key`".to_owned());
        }
        if trust.site != self.site {
            return Err(format!("the trust bundle is for site {}", trust.site));
        }
        if log.vkey().name() != self.log_name() || !trust.logs().contains(log.vkey()) {
            return Err(format!(
                "the trust bundle does not name this ledger's key {}; issue the certificate with --log and sign a new bundle",
                log.vkey()
            ));
        }
        Ok(())
    }
}
