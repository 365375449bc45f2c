//! The session: a key that lives for a shift, where no backup and no shared home ever sees it.
//!
//! The file holds the key and the delegation by the technician's own key, 0600 in a 0700 folder that is never under
//! the home. It is replaced in one step, so a reader sees a whole session or none; whoever logs in holds the lock, so
//! that a hundred commands at once log in once.

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reeve_wire::certificate::Technician;
use reeve_wire::code::Code;
use reeve_wire::delegation::{self, Delegation};
use reeve_wire::keyfile;
use reeve_wire::name::Name;
use reeve_wire::signed::{Signed, Verified};
use reeve_wire::strict::{self, V1};
use reeve_wire::time::Millis;
use serde::{Deserialize, Serialize};
use ssh_key::{LineEnding, PrivateKey};
use zeroize::{Zeroize as _, Zeroizing};

use crate::config::Config;
use crate::failure::Failure;

/// A session that ends within so long is not begun with.
const NEARLY_OVER: Duration = Duration::from_secs(10);
/// How often it is looked whether another command has logged in.
const LOOK: Duration = Duration::from_millis(20);
/// How long another command may take to log in: somebody may be typing.
const LOCK_WITHIN: Duration = Duration::from_secs(180);

/// A session key with the delegation that gives it its powers.
#[derive(Debug)]
pub struct Session {
    key: PrivateKey,
    delegation: Verified<Delegation>,
    until: Millis,
}

impl Session {
    /// Puts a key and its delegation together, if they belong together and `technician` made it.
    ///
    /// # Errors
    /// The first rule that they break.
    pub fn new(
        key: PrivateKey,
        delegation: Signed,
        technician: &Technician,
        site: &Name,
        now: Millis,
    ) -> Result<Self, Failure> {
        let delegation = delegation::verify(delegation, technician, site, now)?;
        if delegation.session_key.key() != key.public_key().key_data() {
            return Err(Failure::because(Code::DelegationInvalid, "it is for another key"));
        }
        let until = delegation.not_after.min(technician.not_after);
        Ok(Self { key, delegation, until })
    }

    /// The key.
    pub const fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// What the technician's own key signed.
    pub const fn delegation(&self) -> &Verified<Delegation> {
        &self.delegation
    }

    /// When it ends: the delegation or the certificate, whichever is first.
    pub const fn until(&self) -> Millis {
        self.until
    }

    /// Whether it is the same session as `other`.
    pub fn is(&self, other: &Self) -> bool {
        self.delegation.digest() == other.delegation.digest()
    }
}

/// The session as the file holds it.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    v: V1,
    key: String,
    delegation: String,
}

/// Where a session key may live.
#[derive(Clone, Debug)]
pub struct Places {
    /// The configuration's `runtime-dir`.
    pub configured: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub xdg: Option<PathBuf>,
    /// `/run/user/UID`.
    pub run_user: PathBuf,
    /// `HOME`: nothing below it will do.
    pub home: Option<PathBuf>,
}

impl Places {
    /// Those of this process.
    pub fn of_this_process(config: &Config) -> Self {
        let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Self {
            configured: config.runtime_dir.clone(),
            xdg: variable("XDG_RUNTIME_DIR"),
            run_user: format!("/run/user/{}", rustix::process::getuid().as_raw()).into(),
            home: variable("HOME"),
        }
    }

    /// The first that there is.
    ///
    /// # Errors
    /// [`Code::PolicyConfig`] when there is none, or it lies under the home.
    pub fn choose(&self) -> Result<PathBuf, Failure> {
        let below = |folder: &Path| folder.is_dir().then(|| folder.join("reeve"));
        let offered = self.configured.clone();
        let chosen = offered.or_else(|| self.xdg.as_deref().and_then(below)).or_else(|| below(&self.run_user));
        let Some(chosen) = chosen else {
            let sentence = "there is no place for a session key: neither XDG_RUNTIME_DIR nor /run/user has one";
            return Err(Failure::saying(Code::PolicyConfig, sentence).hint(
                "set runtime-dir in the configuration to a folder of yours in memory, such as /dev/shm/reeve-NAME",
            ));
        };
        if self.home.as_deref().is_some_and(|home| is_below(&chosen, home)) {
            let sentence = format!("{} lies under your home, where a session key must never be", chosen.display());
            return Err(Failure::saying(Code::PolicyConfig, sentence).hint(
                "set runtime-dir in the configuration to a folder of yours in memory, such as /dev/shm/reeve-NAME",
            ));
        }
        Ok(chosen)
    }
}

/// Whether `path` lies below `home`, links followed as far as either exists.
fn is_below(path: &Path, home: &Path) -> bool {
    home.parent().is_some() && real(path).starts_with(real(home))
}

fn real(path: &Path) -> PathBuf {
    let known = path.ancestors().find_map(|part| Some((part.canonicalize().ok()?, path.strip_prefix(part).ok()?)));
    known.map_or_else(|| path.to_owned(), |(known, rest)| known.join(rest))
}

/// The folder of one technician's session at one site.
#[derive(Clone, Debug)]
pub struct Sessions {
    folder: PathBuf,
    site: Name,
    name: Name,
}

/// Held by the command that logs in or out.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Sessions {
    /// Opens the folder, and makes it when it is not there.
    ///
    /// # Errors
    /// [`Code::PolicyConfig`] when there is no place, or others could look into it.
    pub fn open(places: &Places, site: &Name, name: &Name) -> Result<Self, Failure> {
        let folder = places.choose()?;
        let unusable = |why: String| {
            Failure::saying(Code::PolicyConfig, format!("a session key cannot live in {}: {why}", folder.display()))
        };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(|error| unusable(error.to_string()))?;
        let facts = std::fs::symlink_metadata(&folder).map_err(|error| unusable(error.to_string()))?;
        if !facts.is_dir() {
            return Err(unusable("it is no folder".into()));
        }
        if facts.uid() != rustix::process::geteuid().as_raw() {
            return Err(unusable(format!("it belongs to user {}", facts.uid())));
        }
        if facts.mode() & 0o077 != 0 {
            return Err(unusable("others can look into it".into()).hint(format!("run: chmod 700 {}", folder.display())));
        }
        Ok(Self { folder, site: site.clone(), name: name.clone() })
    }

    /// The session that is kept here, if it is whole, `technician`'s, and not nearly over.
    pub fn load(&self, technician: &Technician, now: Millis) -> Option<Session> {
        let text = keyfile::read_secret(&self.file("session")).ok()?;
        let Stored { v: V1, key, delegation } = strict::from_slice(text.as_bytes()).ok()?;
        let key = PrivateKey::from_openssh(Zeroizing::new(key).as_str()).ok()?;
        let delegation = Signed::from_wire(&BASE64.decode(delegation).ok()?).ok()?;
        let session = Session::new(key, delegation, technician, &self.site, now).ok()?;
        (now.plus(NEARLY_OVER) < session.until).then_some(session)
    }

    /// Keeps `session`, in the place of the one before.
    ///
    /// # Errors
    /// [`Code::PolicyConfig`] when the file cannot be written.
    pub fn store(&self, session: &Session) -> Result<(), Failure> {
        let key = session.key.to_openssh(LineEnding::LF).map_err(|error| Failure::because(Code::Internal, error))?;
        let delegation = BASE64.encode(session.delegation.signed().to_wire());
        let mut stored = Stored { v: V1, key: key.to_string(), delegation };
        let text = serde_json::to_vec(&stored).map_err(|error| Failure::because(Code::Internal, error));
        stored.key.zeroize();
        let text = text?;
        let file = self.file("session");
        keyfile::write_secret(&file, &Zeroizing::new(text)).map_err(|error| unwritable(&file, &error))
    }

    /// Removes the session; there may be none.
    ///
    /// # Errors
    /// [`Code::PolicyConfig`] when it stays.
    pub fn remove(&self) -> Result<(), Failure> {
        let file = self.file("session");
        match std::fs::remove_file(&file) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(unwritable(&file, &error)),
        }
    }

    /// Waits until no other command logs in or out.
    ///
    /// # Errors
    /// [`Code::PolicyConfig`] when the file cannot be made, [`Code::Busy`] when another command keeps it.
    pub async fn lock(&self) -> Result<Lock, Failure> {
        let path = self.file("lock");
        let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(|error| unwritable(&path, &error))?;
        let take = async {
            loop {
                match file.try_lock() {
                    Ok(()) => return Ok(()),
                    Err(TryLockError::WouldBlock) => tokio::time::sleep(LOOK).await,
                    Err(TryLockError::Error(error)) => return Err(unwritable(&path, &error)),
                }
            }
        };
        let taken = tokio::time::timeout(LOCK_WITHIN, take).await;
        taken
            .map_err(|_| Failure::because(Code::Busy, "another command is logging in and does not come to an end"))??;
        Ok(Lock { _file: file })
    }

    /// `@` is in no name, so no two technicians or sites share a file.
    fn file(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("{}@{}.{kind}", self.name, self.site))
    }
}

fn unwritable(file: &Path, error: &std::io::Error) -> Failure {
    Failure::saying(Code::PolicyConfig, format!("{} cannot be written: {error}", file.display()))
}

#[cfg(test)]
mod tests;
