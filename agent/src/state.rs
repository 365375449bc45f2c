//! The agent's own directory: who may use it, and how its files are replaced.
//!
//! ```text
//! lock              held by the one agent that runs on it
//! journal/          the receipts
//! checkpoints/NAME  the newest checkpoint of each master's log
//! library           the newest signed library index
//! history-refused   there while a master's history is refused
//! evidence/         what must not have happened, as it came
//! status.json       what `reeve-agent status` shows
//! programs-started  how many programs the running agent has started
//! ```

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reeve_wire::id::Digest;
use reeve_wire::keyfile::write_secret;

use crate::config::Problem;

/// The most pieces of evidence that are kept: who shows more of them wants the disk to fill up.
const MAX_EVIDENCE: usize = 64;

/// How long a start waits for the directory: for an agent that is just ending, or for somebody who looks.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// How often it tries.
const LOCK_AGAIN: Duration = Duration::from_millis(20);

/// The state directory.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Keeps a second agent away; none for a reader.
    _lock: Option<File>,
}

impl StateDir {
    /// Makes the directory where it is missing, and takes it for the running agent.
    ///
    /// # Errors
    /// When others can use it, another agent runs on it, or it cannot be written.
    pub fn take(path: &Path) -> Result<Self, Problem> {
        for directory in [path, &path.join("checkpoints"), &path.join("evidence")] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
            made.map_err(|error| problem(path, format!("the directory cannot be made: {error}")))?;
        }
        Self::check(path)?;
        let lock = OpenOptions::new().create(true).append(true).open(path.join("lock"));
        let lock = lock.map_err(|error| problem(path, format!("the directory cannot be written: {error}")))?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { path: path.to_owned(), _lock: Some(lock) }),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_AGAIN),
                Err(TryLockError::WouldBlock) => {
                    return Err(problem(path, "another agent runs on it; stop that one first".into()));
                }
                Err(TryLockError::Error(error)) => {
                    return Err(problem(path, format!("it cannot be locked: {error}")));
                }
            }
        }
    }

    /// Whether an agent runs on it at the moment.
    ///
    /// # Errors
    /// The system's.
    pub fn in_use(&self) -> io::Result<bool> {
        let lock = match File::open(self.file("lock")) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        match lock.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Looks at the directory of an agent that may be running.
    ///
    /// # Errors
    /// When it is not there or others can use it.
    pub fn look(path: &Path) -> Result<Self, Problem> {
        Self::check(path)?;
        Ok(Self { path: path.to_owned(), _lock: None })
    }

    /// Checks that nobody else can read or change what is in there.
    fn check(path: &Path) -> Result<(), Problem> {
        let facts = std::fs::metadata(path).map_err(|source| Problem::Read { path: path.to_owned(), source })?;
        let me = rustix::process::geteuid().as_raw();
        if !facts.is_dir() {
            return Err(problem(path, "it is not a directory".into()));
        }
        if facts.uid() != me && facts.uid() != 0 {
            return Err(problem(
                path,
                format!("it belongs to user {}; run: chown {me} '{}'", facts.uid(), path.display()),
            ));
        }
        if facts.mode() & 0o077 != 0 {
            return Err(problem(path, format!("it can be used by others; run: chmod 700 '{}'", path.display())));
        }
        Ok(())
    }

    /// The path of one of its files.
    pub fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Keeps what must not have happened, byte for byte, in a directory that is named for what it is. The same thing
    /// again is kept once.
    ///
    /// # Errors
    /// The system's, or that there is too much evidence already.
    pub fn keep_evidence(&self, what: &str, files: &[(&str, &[u8])]) -> io::Result<PathBuf> {
        let all: Vec<u8> = files.iter().flat_map(|(_, bytes)| Digest::of(bytes).0).collect();
        let name: String = Digest::of(&all).to_string().chars().take(16).collect();
        let evidence = self.file("evidence");
        let directory = evidence.join(format!("{what}-{name}"));
        if directory.is_dir() {
            return Ok(directory);
        }
        if std::fs::read_dir(&evidence)?.count() >= MAX_EVIDENCE {
            return Err(io::Error::other(format!("{} holds {MAX_EVIDENCE} pieces already", evidence.display())));
        }
        let unfinished = evidence.join(format!(".{name}"));
        DirBuilder::new().recursive(true).mode(0o700).create(&unfinished)?;
        for (file, bytes) in files {
            store(&unfinished.join(file), bytes)?;
        }
        std::fs::rename(&unfinished, &directory)?;
        Ok(directory)
    }
}

fn problem(path: &Path, why: String) -> Problem {
    Problem::State { path: path.to_owned(), why }
}

/// Replaces a file in one step that survives a loss of power: written beside, synced, renamed, directory synced.
///
/// # Errors
/// The system's; the file is as it was.
pub fn store(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_secret(path, bytes)?;
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    File::open(directory)?.sync_all()
}

/// Reads a file that may not be there yet.
///
/// # Errors
/// The system's, other than that it is not there.
pub fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn one_agent_runs_on_a_directory_and_nobody_else_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let taken = StateDir::take(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
        assert!(StateDir::take(&path).unwrap_err().to_string().contains("another agent"));
        assert!(StateDir::look(&path).unwrap().in_use().unwrap());

        drop(taken);
        assert!(!StateDir::look(&path).unwrap().in_use().unwrap());
        assert!(StateDir::take(&path).is_ok());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o750)).unwrap();
        assert!(StateDir::take(&path).unwrap_err().to_string().contains("chmod 700"));
        assert!(StateDir::look(&path).unwrap_err().to_string().contains("chmod 700"));
    }

    #[test]
    fn evidence_is_kept_once_and_never_fills_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::take(&dir.path().join("state")).unwrap();
        let first = state.keep_evidence("history", &[("held", b"a"), ("shown", b"b")]).unwrap();
        assert_eq!(state.keep_evidence("history", &[("held", b"a"), ("shown", b"b")]).unwrap(), first);
        assert_eq!(std::fs::read(first.join("shown")).unwrap(), b"b");

        let kept = (0..100u8).filter(|n| state.keep_evidence("history", &[("shown", &[*n])]).is_ok()).count();
        assert_eq!(kept, MAX_EVIDENCE - 1);
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert_eq!(read_if_there(&path).unwrap(), None);
        store(&path, b"one").unwrap();
        store(&path, b"two").unwrap();

        assert_eq!(read_if_there(&path).unwrap().unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
