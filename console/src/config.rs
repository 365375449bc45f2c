//! `reeve.toml`: read as written, then turned into values that cannot be wrong.
//!
//! The file may name a program that prints a password, so a file that others can write is refused. Paths may be
//! absolute, begin with `~/`, or be relative to the folder of the file.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use reeve_wire::code::Code;
use reeve_wire::name::Name;
use serde::Deserialize;
use ssh_key::Fingerprint;

use crate::failure::Failure;

/// The largest file that is read, in bytes.
const MAX_CONFIG: u64 = 64 * 1024;

/// A technician's configuration. Holding one means that every rule below was met.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// The site.
    pub site: Name,
    /// The fingerprint of the site's root, `SHA256:…`.
    pub root: String,
    /// Where the newest trust bundle is kept.
    pub trust: PathBuf,
    /// The masters, `HOST:PORT`, in the order in which they are tried.
    pub masters: Vec<String>,
    /// The technician.
    pub name: Name,
    /// The technician's own private key.
    pub key: PathBuf,
    /// The certificate of that key.
    pub certificate: PathBuf,
    /// Prints the directory password; without it the technician is asked.
    pub password_command: Option<PasswordCommand>,
    /// Where the session key lives, if not where the system keeps such things.
    pub runtime_dir: Option<PathBuf>,
}

/// A program and its arguments. No shell reads them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PasswordCommand {
    /// The program.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// Something in the file that must be corrected.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Problem {
    /// A value that means nothing.
    #[error("{field}: {why}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What is wrong with it, and what would be right.
        why: String,
    },
    /// A field that must be there.
    #[error("{field} is missing; it is {meaning}")]
    Missing {
        /// Which field.
        field: &'static str,
        /// What belongs there.
        meaning: &'static str,
    },
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    Read(String),
    /// The file is no TOML, or has a field that nobody knows.
    #[error("{0}")]
    Syntax(String),
    /// Others could change what it says.
    #[error("others can change it, and it names a program to run; run: chmod go-w {0}")]
    Writable(String),
    /// It belongs to somebody else.
    #[error("it belongs to user {0}; it must be yours or root's")]
    Owner(u32),
}

impl Config {
    /// Where the file is when nothing else is said.
    pub fn default_path(home: Option<&Path>) -> PathBuf {
        home.unwrap_or(Path::new("/")).join(".config/reeve/reeve.toml")
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// Every problem at once, as one failure.
    pub fn load(path: &Path, home: Option<&Path>) -> Result<Self, Failure> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let read = read(path).map_err(|problem| vec![problem]);
        read.and_then(|text| Self::parse(&text, folder, home)).map_err(|problems| wrong(path, &problems))
    }

    /// Reads `text`, whose relative paths start at `folder` and whose `~/` at `home`.
    ///
    /// # Errors
    /// Every problem at once, so that the file is mended in one go.
    pub fn parse(text: &str, folder: &Path, home: Option<&Path>) -> Result<Self, Vec<Problem>> {
        let raw: Raw = toml::from_str(text).map_err(|error| vec![Problem::Syntax(error.to_string().trim().into())])?;
        let mut reading = Reading { folder, home, problems: Vec::new() };

        let site = reading.parsed("site", "the site's name", raw.site);
        let root = reading.checked("root", "the fingerprint of the site's root, \"SHA256:...\"", raw.root, fingerprint);
        let trust = reading.path("trust", "the file that keeps the trust bundle", raw.trust);
        let masters = reading.masters(raw.masters);
        let name = reading.parsed("name", "your own name", raw.name);
        let key = reading.path("key", "your private key's file", raw.key);
        let certificate = reading.path("certificate", "your certificate's file", raw.certificate);
        let password_command = reading.password_command(raw.password_command);
        let runtime_dir = raw.runtime_dir.and_then(|path| reading.resolved("runtime-dir", &path));

        let (Some(site), Some(root), Some(trust), Some(name)) = (site, root, trust, name) else {
            return Err(reading.problems);
        };
        let (Some(key), Some(certificate), true) = (key, certificate, reading.problems.is_empty()) else {
            return Err(reading.problems);
        };
        Ok(Self { site, root, trust, masters, name, key, certificate, password_command, runtime_dir })
    }

    /// The technician's SSH user name and certificate principal.
    pub fn principal(&self) -> String {
        reeve_wire::name::Principal::Technician(self.name.clone()).to_string()
    }
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Raw {
    site: Option<String>,
    root: Option<String>,
    trust: Option<String>,
    masters: Option<Vec<String>>,
    name: Option<String>,
    key: Option<String>,
    certificate: Option<String>,
    password_command: Option<Vec<String>>,
    runtime_dir: Option<String>,
}

/// Collects what is wrong while values are read.
struct Reading<'a> {
    folder: &'a Path,
    home: Option<&'a Path>,
    problems: Vec<Problem>,
}

impl Reading<'_> {
    fn checked<T>(
        &mut self,
        field: &'static str,
        meaning: &'static str,
        text: Option<String>,
        check: impl FnOnce(String) -> Result<T, String>,
    ) -> Option<T> {
        let Some(text) = text else {
            self.problems.push(Problem::Missing { field, meaning });
            return None;
        };
        check(text).map_err(|why| self.problems.push(Problem::Invalid { field, why })).ok()
    }

    fn parsed<T: FromStr<Err: ToString>>(
        &mut self,
        field: &'static str,
        meaning: &'static str,
        text: Option<String>,
    ) -> Option<T> {
        self.checked(field, meaning, text, |text| text.parse().map_err(|error: T::Err| error.to_string()))
    }

    fn path(&mut self, field: &'static str, meaning: &'static str, text: Option<String>) -> Option<PathBuf> {
        let text = self.checked(field, meaning, text, Ok)?;
        self.resolved(field, &text)
    }

    fn resolved(&mut self, field: &'static str, text: &str) -> Option<PathBuf> {
        let mut invalid = |why: &str| self.problems.push(Problem::Invalid { field, why: why.into() });
        match text.strip_prefix("~/") {
            None if text.is_empty() => {
                invalid("it is empty; name a file");
                None
            }
            None => Some(self.folder.join(text)),
            Some(rest) if self.home.is_some() => self.home.map(|home| home.join(rest)),
            Some(_) => {
                invalid("it begins with ~/, and HOME is not set; write the whole path");
                None
            }
        }
    }

    fn masters(&mut self, masters: Option<Vec<String>>) -> Vec<String> {
        let masters = masters.unwrap_or_default();
        if masters.is_empty() {
            self.problems.push(Problem::Missing { field: "masters", meaning: "a list such as [\"noc.example:443\"]" });
        }
        for address in &masters {
            let good = address
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
            if !good {
                let why = format!("{address:?} is no address; write HOST:PORT, such as noc.example:443");
                self.problems.push(Problem::Invalid { field: "masters", why });
            }
        }
        masters
    }

    fn password_command(&mut self, words: Option<Vec<String>>) -> Option<PasswordCommand> {
        let mut words = words?.into_iter();
        match words.next() {
            Some(program) if !program.is_empty() => Some(PasswordCommand { program, arguments: words.collect() }),
            Some(_) | None => {
                let why = "it names no program; write [\"PROGRAM\", \"ARGUMENT\", ...], or leave it out to be asked";
                self.problems.push(Problem::Invalid { field: "password-command", why: why.into() });
                None
            }
        }
    }
}

fn fingerprint(text: String) -> Result<String, String> {
    match text.parse::<Fingerprint>() {
        Ok(fingerprint) if fingerprint.is_sha256() => Ok(text),
        Ok(_) | Err(_) => Err("it is no SHA-256 fingerprint; `reeve-pki show` prints it".into()),
    }
}

fn read(path: &Path) -> Result<String, Problem> {
    let unreadable = |error: std::io::Error| Problem::Read(error.to_string());
    let file = File::open(path).map_err(unreadable)?;
    let facts = file.metadata().map_err(unreadable)?;
    let me = rustix::process::geteuid().as_raw();
    if facts.uid() != me && facts.uid() != 0 {
        return Err(Problem::Owner(facts.uid()));
    }
    if facts.is_file() && facts.mode() & 0o022 != 0 {
        return Err(Problem::Writable(path.display().to_string()));
    }
    let mut text = String::new();
    file.take(MAX_CONFIG).read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

fn wrong(path: &Path, problems: &[Problem]) -> Failure {
    let list: Vec<_> = problems.iter().map(|problem| format!("\n  {problem}")).collect();
    let failure =
        Failure::saying(Code::PolicyConfig, format!("the configuration {} is wrong:{}", path.display(), list.concat()));
    match problems {
        [Problem::Read(_)] => failure.hint("name the file with --config FILE or in REEVE_CONFIG"),
        _ => failure,
    }
}

#[cfg(test)]
mod tests;
