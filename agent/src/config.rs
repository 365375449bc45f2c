//! `agent.toml`: read as written, then turned into values that cannot be wrong.
//!
//! All problems are reported together, so that the file is mended in one go. A file that others could change is not
//! read: whoever can write it chooses the master and the program behind `@service-manager@`.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use reeve_wire::keyfile::SecretFileError;
use reeve_wire::name::{HostName, Name};
use serde::Deserialize;
use ssh_key::Fingerprint;

use crate::exec::DEFAULT_MAX_OUTPUT;

#[cfg(test)]
mod tests;

/// Where the configuration is when neither `--config` nor `REEVE_CONFIG` says.
pub const DEFAULT_PATH: &str = "/etc/reeve/agent.toml";

/// The port of a master that is named without one.
pub const DEFAULT_PORT: u16 = 443;

/// The program behind `@service-manager@` unless the configuration names another.
pub const DEFAULT_SERVICE_MANAGER: &str = "/usr/bin/systemctl";

/// The most masters of one configuration.
const MAX_MASTERS: usize = 16;

/// What the agent runs on. Holding one means that every rule below was met when it was read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// The site.
    pub site: Name,
    /// This server.
    pub host: HostName,
    /// The root's fingerprint, `SHA256:…`: all that is trusted to begin with.
    pub root: String,
    /// Where the newest trust bundle is kept.
    pub trust: PathBuf,
    /// The masters, `HOST:PORT`, in the order in which they are dialled.
    pub masters: Vec<String>,
    /// This server's private key, made by `reeve-agent keys`.
    pub key: PathBuf,
    /// Its certificate, by `reeve-pki issue agent`.
    pub certificate: PathBuf,
    /// Journal, checkpoints, library index and status.
    pub state: PathBuf,
    /// The most bytes of each output stream that are handed on.
    pub max_output: u64,
    /// The program behind `@service-manager@`.
    pub service_manager: PathBuf,
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
    /// A value that does not do.
    #[error("{key}: {why}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is the matter, and what to write.
        why: String,
    },
    /// A service has no useful working directory.
    #[error("{0} must be an absolute path: a service has no useful working directory")]
    Relative(&'static str),
    /// Others could change a file that decides what the agent does.
    #[error("{path} can be changed by others (owner {owner}, mode {mode:04o}); run: chown root '{path}' && chmod go-w '{path}'", path = .path.display())]
    Writable {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a plain file.
    #[error("{0} is not a regular file")]
    NotAFile(PathBuf),
    /// The key file must not be used.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// The certificate is not this server's.
    #[error("{path}: {why}", path = .path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is the matter.
        why: String,
    },
    /// A file of the agent's own does not hold what it should.
    #[error("{path}: {why}", path = .path.display())]
    State {
        /// The file or directory.
        path: PathBuf,
        /// What is the matter, and what to do.
        why: String,
    },
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Raw {
    site: String,
    host: String,
    root: String,
    trust: PathBuf,
    masters: Vec<String>,
    key: PathBuf,
    certificate: PathBuf,
    state: PathBuf,
    #[serde(default = "default_max_output")]
    max_output: u64,
    #[serde(default = "default_service_manager")]
    service_manager: PathBuf,
}

fn default_max_output() -> u64 {
    DEFAULT_MAX_OUTPUT
}

fn default_service_manager() -> PathBuf {
    DEFAULT_SERVICE_MANAGER.into()
}

impl Config {
    /// Reads the file, and looks at the service manager that it names.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn load(path: &Path) -> Result<Self, Vec<Problem>> {
        not_writable_by_others(path).map_err(|problem| vec![problem])?;
        let read = |source| vec![Problem::Read { path: path.to_owned(), source }];
        let text = std::fs::read_to_string(path).map_err(read)?;
        let config = Self::parse(&text)?;
        config.check_service_manager().map_err(|problem| vec![problem])?;
        Ok(config)
    }

    /// Reads the text of the file.
    ///
    /// # Errors
    /// Every problem in it at once.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let raw: Raw = toml::from_str(text).map_err(|error| vec![Problem::Syntax(error.to_string())])?;
        let mut problems = Vec::new();

        let site = value("site", &raw.site, &mut problems);
        let host = value("host", &raw.host, &mut problems);
        let root = keep(root(&raw.root), &mut problems);
        let masters = keep(masters(&raw.masters), &mut problems);
        if raw.max_output == 0 {
            problems.push(Problem::Value { key: "max-output", why: "it must be more than 0 bytes".into() });
        }
        let paths = [
            ("trust", &raw.trust),
            ("key", &raw.key),
            ("certificate", &raw.certificate),
            ("state", &raw.state),
            ("service-manager", &raw.service_manager),
        ];
        problems.extend(paths.iter().filter(|(_, path)| !path.is_absolute()).map(|(key, _)| Problem::Relative(key)));

        match (site, host, root, masters) {
            (Some(site), Some(host), Some(root), Some(masters)) if problems.is_empty() => Ok(Self {
                site,
                host,
                root,
                trust: raw.trust,
                masters,
                key: raw.key,
                certificate: raw.certificate,
                state: raw.state,
                max_output: raw.max_output,
                service_manager: raw.service_manager,
            }),
            _ => Err(problems),
        }
    }

    /// A server without systemd needs no stand-in for the default; a program that the file names must be there.
    fn check_service_manager(&self) -> Result<(), Problem> {
        let default = self.service_manager == Path::new(DEFAULT_SERVICE_MANAGER);
        if default && !self.service_manager.exists() {
            return Ok(());
        }
        not_writable_by_others(&self.service_manager)
    }
}

fn value<T: FromStr<Err: std::fmt::Display>>(key: &'static str, text: &str, problems: &mut Vec<Problem>) -> Option<T> {
    keep(text.parse().map_err(|error: T::Err| Problem::Value { key, why: error.to_string() }), problems)
}

fn keep<T>(read: Result<T, Problem>, problems: &mut Vec<Problem>) -> Option<T> {
    read.map_err(|problem| problems.push(problem)).ok()
}

fn root(text: &str) -> Result<String, Problem> {
    match text.parse::<Fingerprint>() {
        Ok(fingerprint) if fingerprint.is_sha256() && fingerprint.to_string() == text => Ok(text.to_owned()),
        _ => Err(Problem::Value {
            key: "root",
            why: "it is no fingerprint; copy the line SHA256:... that `reeve-pki init` printed".into(),
        }),
    }
}

fn masters(listed: &[String]) -> Result<Vec<String>, Problem> {
    let bad = |why: String| Problem::Value { key: "masters", why };
    if listed.is_empty() || listed.len() > MAX_MASTERS {
        return Err(bad(format!("name 1 to {MAX_MASTERS} masters, each \"HOST\" or \"HOST:PORT\"")));
    }
    listed.iter().map(|text| address(text).ok_or_else(|| bad(format!("{text:?} is not HOST or HOST:PORT")))).collect()
}

/// `HOST:PORT` of a master that may be named without a port.
fn address(text: &str) -> Option<String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (literal, rest) = rest.split_once(']')?;
            literal.parse::<std::net::Ipv6Addr>().ok()?;
            (format!("[{literal}]"), rest.strip_prefix(':').or_else(|| rest.is_empty().then_some(""))?)
        }
        None => {
            let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-';
            if host.is_empty() || !host.bytes().all(allowed) || port == Some("") {
                return None;
            }
            (host.to_owned(), port.unwrap_or(""))
        }
    };
    let port = if port.is_empty() { DEFAULT_PORT } else { port.parse().ok().filter(|&port| port != 0)? };
    Some(format!("{host}:{port}"))
}

/// Checks that a regular file belongs to root or to us, and that nobody else can change it.
fn not_writable_by_others(path: &Path) -> Result<(), Problem> {
    let facts = std::fs::metadata(path).map_err(|source| Problem::Read { path: path.to_owned(), source })?;
    if !facts.is_file() {
        return Err(Problem::NotAFile(path.to_owned()));
    }
    let me = rustix::process::geteuid().as_raw();
    let owned = facts.uid() == 0 || facts.uid() == me;
    if owned && facts.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(Problem::Writable { path: path.to_owned(), owner: facts.uid(), mode: facts.mode() & 0o7777 })
}
