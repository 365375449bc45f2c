//! The `[directory]` table of the master's configuration: read as written, then checked in one go.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::password::PasswordError;

/// How old an answer may be before it is asked again, when the configuration does not say.
const MAX_AGE: Duration = Duration::from_secs(5);

/// The largest `max-age`: past it a right that was taken away would be felt too late.
const MAX_AGE_MOST: Duration = Duration::from_secs(60);

/// The most that is read of a password, CA or directory file, in bytes.
const LONGEST_FILE: u64 = 16 * 1024 * 1024;

/// Where people, groups and rights are kept.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum DirectoryConfig {
    /// One TOML file: for a small site, and for trying things out.
    File(FileConfig),
    /// An LDAP server, by `ldaps://` alone.
    Ldap(LdapConfig),
}

impl DirectoryConfig {
    /// How old an answer may be before it is asked again.
    pub const fn max_age(&self) -> Duration {
        match self {
            Self::File(file) => file.max_age,
            Self::Ldap(ldap) => ldap.max_age,
        }
    }
}

/// `kind = "file"`
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FileConfig {
    /// The file; its form is described at the top of `directory/file.rs`.
    pub path: PathBuf,
    /// How old an answer may be before it is asked again. 5 s unless set, at most 60 s.
    #[serde(default = "default_max_age", deserialize_with = "span")]
    pub max_age: Duration,
}

/// `kind = "ldap"`
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LdapConfig {
    /// `ldaps://HOST[:PORT]`; the port is 636 unless given, and HOST is the name in the server's certificate.
    pub url: String,
    /// The CA certificates that the server's certificate must come from, in PEM. No others are trusted.
    pub ca: PathBuf,
    /// The DN under which people and groups are looked for.
    pub base: String,
    /// The DN of Reeve's own account, which reads and nothing more.
    pub bind_dn: String,
    /// A file with that account's password, readable by its owner alone. Read again at every connection.
    pub password_file: PathBuf,
    /// The group whose members may use Reeve at all: a name directly below the base, or a DN.
    #[serde(default = "default_staff_group")]
    pub staff_group: String,
    /// The OU of the managed servers: a name directly below the base, or a DN.
    #[serde(default = "default_servers_ou")]
    pub servers_ou: String,
    /// How old an answer may be before it is asked again. 5 s unless set, at most 60 s.
    #[serde(default = "default_max_age", deserialize_with = "span")]
    pub max_age: Duration,
}

const fn default_max_age() -> Duration {
    MAX_AGE
}

fn default_staff_group() -> String {
    "NOC Staff".to_owned()
}

fn default_servers_ou() -> String {
    "Managed Servers".to_owned()
}

fn span<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let span = humantime::parse_duration(&text)
        .map_err(|e| serde::de::Error::custom(format!("max-age {text:?} is no time such as 5s or 500ms: {e}")))?;
    if span > MAX_AGE_MOST {
        return Err(serde::de::Error::custom("max-age is at most 60s, so that a right taken away is felt in time"));
    }
    Ok(span)
}

/// Something wrong with the directory's configuration or with a file that it names.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Problem {
    /// The password would cross the network in the clear.
    #[error("directory.url {0:?} is not encrypted: use ldaps://HOST")]
    Plaintext(String),
    /// Not `ldaps://HOST[:PORT]`.
    #[error("directory.url {0:?} is not ldaps://HOST[:PORT], with HOST as in the server's certificate")]
    Url(String),
    /// Not a distinguished name.
    #[error("directory.{key}: {why}")]
    Dn {
        /// Which key.
        key: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Outside the base.
    #[error("directory.{key} {dn:?} is not below directory.base")]
    OutsideBase {
        /// Which key.
        key: &'static str,
        /// What it says.
        dn: String,
    },
    /// A file that is not there, not a file, or cannot be read.
    #[error("directory.{key} {path} cannot be read: {why}", path = .path.display())]
    File {
        /// Which key.
        key: &'static str,
        /// What it says.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// A file that others can change.
    #[error("directory.{key} {path} can be changed by others than its owner: chmod go-w {path}", path = .path.display())]
    WritableByOthers {
        /// Which key.
        key: &'static str,
        /// What it says.
        path: PathBuf,
    },
    /// A secret that others can read.
    #[error("directory.{key} {path} holds secrets that others can read: chmod {mode} {path}", path = .path.display())]
    ReadableByOthers {
        /// Which key.
        key: &'static str,
        /// What it says.
        path: PathBuf,
        /// The mode to give it.
        mode: &'static str,
    },
    /// The CA file cannot be used.
    #[error("directory.ca {path}: {why}", path = .path.display())]
    Ca {
        /// What it says.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The password file holds no password.
    #[error("directory.password-file {path} holds no password", path = .path.display())]
    NoPassword {
        /// What it says.
        path: PathBuf,
    },
    /// The directory file is not TOML, or has an unknown key.
    #[error("{file}: {why}")]
    Syntax {
        /// The directory file.
        file: String,
        /// What the parser says.
        why: String,
    },
    /// A password in the directory file.
    #[error("{file}: people.{name}: {source}")]
    Password {
        /// The directory file.
        file: String,
        /// Whose.
        name: String,
        /// What is wrong with it.
        source: PasswordError,
    },
    /// A member that is neither a person nor a group.
    #[error("{file}: {place} names {member:?}, which is neither a person nor \"group:NAME\" of a group in this file")]
    UnknownMember {
        /// The directory file.
        file: String,
        /// Where it is named.
        place: String,
        /// The name.
        member: String,
    },
    /// An id that is empty or that two people have.
    #[error("{file}: people.{name} needs an id that is not empty and nobody else's")]
    Id {
        /// The directory file.
        file: String,
        /// Whose.
        name: String,
    },
}

/// Who may do what with a file that the configuration names.
#[derive(Clone, Copy)]
pub(super) enum Secrecy {
    /// Anyone may read it; only its owner may change it.
    Public,
    /// Its owner and group may read it.
    OwnerAndGroup,
    /// Only its owner may read it.
    OwnerOnly,
}

/// Reads a file whole, after its mode was found right. Mode and bytes are of the same file, whatever happens to the
/// path meanwhile.
pub(super) fn read_guarded(key: &'static str, path: &Path, secrecy: Secrecy) -> Result<(Vec<u8>, Metadata), Problem> {
    let unreadable = |why: String| Problem::File { key, path: path.to_owned(), why };
    let mut file = File::open(path).map_err(|e| unreadable(e.to_string()))?;
    let metadata = file.metadata().map_err(|e| unreadable(e.to_string()))?;
    if !metadata.is_file() {
        return Err(unreadable("it is not a file".to_owned()));
    }
    let (others_read, mode) = match secrecy {
        Secrecy::Public => (0, ""),
        Secrecy::OwnerAndGroup => (0o004, "o-rwx"),
        Secrecy::OwnerOnly => (0o044, "go-rwx"),
    };
    if metadata.mode() & 0o022 != 0 {
        return Err(Problem::WritableByOthers { key, path: path.to_owned() });
    }
    if metadata.mode() & others_read != 0 {
        return Err(Problem::ReadableByOthers { key, path: path.to_owned(), mode });
    }
    let mut bytes = vec![];
    let read = (&mut file).take(LONGEST_FILE + 1).read_to_end(&mut bytes).map_err(|e| unreadable(e.to_string()))?;
    if u64::try_from(read).unwrap_or(u64::MAX) > LONGEST_FILE {
        return Err(unreadable(format!("it is longer than {LONGEST_FILE} bytes")));
    }
    Ok((bytes, metadata))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Master {
        directory: DirectoryConfig,
    }

    fn parse(text: &str) -> Result<DirectoryConfig, String> {
        toml::from_str::<Master>(text).map(|master| master.directory).map_err(|e| e.to_string())
    }

    const LDAP: &str = "[directory]\nkind = 'ldap'\nurl = 'ldaps://ldap.noc.example'\nca = '/etc/reeve/ca.pem'\n\
        base = 'dc=noc,dc=example'\nbind-dn = 'cn=reeve,dc=noc,dc=example'\npassword-file = '/etc/reeve/ldap'\n";

    #[test]
    fn both_kinds_are_read_and_say_what_is_left_out() {
        let DirectoryConfig::Ldap(ldap) = parse(LDAP).unwrap() else { panic!("not ldap") };
        assert_eq!((ldap.staff_group.as_str(), ldap.servers_ou.as_str()), ("NOC Staff", "Managed Servers"));
        assert_eq!(ldap.max_age, Duration::from_secs(5));

        let file = parse("[directory]\nkind = 'file'\npath = '/etc/reeve/people.toml'\nmax-age = '500ms'").unwrap();
        assert_eq!(file.max_age(), Duration::from_millis(500));
    }

    #[test]
    fn a_misspelt_key_an_unknown_kind_and_a_long_max_age_are_errors() {
        for (text, says) in [
            (format!("{LDAP}max-aeg = '5s'"), "max-aeg"),
            ("[directory]\nkind = 'file'\npath = '/x'\nurl = 'ldaps://x'".to_owned(), "url"),
            ("[directory]\nkind = 'nis'\npath = '/x'".to_owned(), "nis"),
            (format!("{LDAP}max-age = '61s'"), "at most 60s"),
            (format!("{LDAP}max-age = 'soon'"), "max-age"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_file_is_read_only_when_its_mode_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, "s3cret\n").unwrap();
        let read = |mode: u32, secrecy| {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            read_guarded("password-file", &path, secrecy).map(|(bytes, _)| bytes)
        };
        use Secrecy::{OwnerAndGroup, OwnerOnly, Public};

        for (mode, secrecy, good) in [
            (0o600, OwnerOnly, true),
            (0o640, OwnerOnly, false),
            (0o604, OwnerOnly, false),
            (0o620, OwnerOnly, false),
            (0o640, OwnerAndGroup, true),
            (0o644, OwnerAndGroup, false),
            (0o660, OwnerAndGroup, false),
            (0o644, Public, true),
            (0o664, Public, false),
            (0o646, Public, false),
        ] {
            assert_eq!(read(mode, secrecy).is_ok(), good, "{mode:o}");
        }
        let problem = read(0o644, OwnerOnly).unwrap_err().to_string();
        assert!(problem.starts_with("directory.password-file /") && problem.contains("chmod go-rwx /"), "{problem}");
        assert!(read_guarded("ca", dir.path(), Public).unwrap_err().to_string().contains("not a file"));
    }
}
