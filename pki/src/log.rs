//! The issue log: JSON lines, one an act of the CA, each with the SHA-256 of the line before and of itself.
//!
//! It is the CA's only memory. A line that was changed, removed, added or moved is named when the log is opened, and
//! nothing is issued until it is put right. What was cut off at the end cannot be seen from within: `reeve-pki list`
//! prints the head, to be kept elsewhere. A last line without its end was never acted upon, and is dropped.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use reeve_wire::id::Digest;
use reeve_wire::keyfile::KeyLine;
use reeve_wire::level::Level;
use reeve_wire::name::{Name, Principal};
use reeve_wire::strict::{self, V1, present};
use reeve_wire::time::Millis;
use serde::{Deserialize, Serialize};

/// The log's name in the folder of the CA.
pub const FILE: &str = "issued.log";

/// The hash that stands in the first line for the line before.
const NONE_BEFORE: Digest = Digest([0; 32]);

/// What comes before a line's own hash, which ends the line: 64 hex digits, `"`, `}`.
const OWN: &str = ",\"sha256\":\"";

/// One line.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Format version.
    pub v: V1,
    /// The line's number, from 1.
    pub seq: u64,
    /// When.
    pub at: Millis,
    /// SHA-256 of the line before, without its newline.
    pub prev: Digest,
    /// What was done.
    pub act: Act,
}

/// Something that the CA did.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Act {
    /// The CA was made.
    Init(Box<Founding>),
    /// A certificate was issued.
    Issue(Box<Issued>),
    /// A key was made a library signer.
    LibrarySigner {
        /// The signer's public key.
        key: KeyLine,
    },
    /// The library was signed in the presence of the CA.
    SignLibrary {
        /// The index's version.
        version: u64,
        /// SHA-256 of the index's signed bytes.
        digest: Digest,
        /// Who signed.
        signer: KeyLine,
    },
    /// A trust bundle was signed.
    Trust {
        /// Its number.
        number: u64,
        /// SHA-256 of its signed bytes.
        digest: Digest,
        /// When agents begin to refuse levels 2 and 3.
        refresh_by: Millis,
    },
}

/// What a CA is.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Founding {
    /// The site that it speaks for.
    pub site: Name,
    /// The key that signs trust bundles.
    pub root: KeyLine,
    /// The key that signs technicians' certificates.
    pub technicians: KeyLine,
    /// The key that signs agents' certificates.
    pub agents: KeyLine,
    /// The key that signs masters' certificates.
    pub masters: KeyLine,
}

/// One certificate.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Issued {
    /// Its serial: one row of numbers for all three CA keys.
    pub serial: u64,
    /// Whose it is.
    pub principal: Principal,
    /// The key that it certifies.
    pub key: KeyLine,
    /// The CA key that signed it.
    pub ca: KeyLine,
    /// Valid from, in whole seconds.
    pub not_before: Millis,
    /// Valid until, in whole seconds.
    pub not_after: Millis,
    /// SHA-256 of its wire blob.
    pub certificate: Digest,
    /// For a technician: what the directory's rights are bounded by.
    #[serde(deserialize_with = "present")]
    pub bounds: Option<Bounds>,
    /// For a master: the verifier key of its ledger, when it was given.
    #[serde(deserialize_with = "present")]
    pub log: Option<String>,
}

/// The extensions of a technician's certificate.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// The person's id in the directory.
    pub directory_id: String,
    /// The highest level.
    pub max_level: Level,
    /// A comma list of customers, or `*`.
    pub customers: String,
}

/// A log that cannot be relied on.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A line is not what was written there.
    #[error("{path}, line {line}: {why}; nothing is issued from a log that was altered: put back a copy of it", path = .path.display())]
    Altered {
        /// The log.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// The system refused.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The log.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The log, open for appending. The caller holds the lock of the CA's folder.
#[derive(Debug)]
pub struct IssueLog {
    path: PathBuf,
    file: File,
    entries: Vec<Entry>,
    head: Digest,
}

impl IssueLog {
    /// Starts a log.
    ///
    /// # Errors
    /// When there is one already, or it cannot be written.
    pub fn create(folder: &Path, at: Millis, founding: Founding) -> Result<Self, LogError> {
        let path = folder.join(FILE);
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|source| LogError::Io { path: path.clone(), source })?;
        let mut log = Self { path, file, entries: Vec::new(), head: NONE_BEFORE };
        log.append(at, Act::Init(Box::new(founding)))?;
        Ok(log)
    }

    /// Opens a log to add to it, and drops a last line that was never finished.
    ///
    /// # Errors
    /// When a line was altered, naming it, or the log cannot be read.
    pub fn open(folder: &Path) -> Result<Self, LogError> {
        let path = folder.join(FILE);
        let failed = |source| LogError::Io { path: path.clone(), source };
        let mut file = OpenOptions::new().read(true).append(true).open(&path).map_err(failed)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let (entries, head, whole) = check(&path, &bytes)?;
        if whole < bytes.len() {
            file.set_len(u64::try_from(whole).unwrap_or(u64::MAX)).map_err(failed)?;
            file.seek(SeekFrom::End(0)).map_err(failed)?;
        }
        Ok(Self { path, file, entries, head })
    }

    /// Reads a log without touching it: its lines and its head.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn read(folder: &Path) -> Result<(Vec<Entry>, Digest), LogError> {
        let path = folder.join(FILE);
        let bytes = std::fs::read(&path).map_err(|source| LogError::Io { path: path.clone(), source })?;
        let (entries, head, _) = check(&path, &bytes)?;
        Ok((entries, head))
    }

    /// Writes an act down; it is on disk when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn append(&mut self, at: Millis, act: Act) -> Result<(), LogError> {
        let failed = |source| LogError::Io { path: self.path.clone(), source };
        let seq = u64::try_from(self.entries.len()).unwrap_or(u64::MAX).saturating_add(1);
        let entry = Entry { v: V1, seq, at, prev: self.head, act };
        let line = written(&entry).map_err(|error| failed(error.into()))?;
        self.file.write_all(format!("{line}\n").as_bytes()).map_err(failed)?;
        self.file.sync_all().map_err(failed)?;
        self.head = Digest::of(line.as_bytes());
        self.entries.push(entry);
        Ok(())
    }

    /// The lines so far.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// SHA-256 of the last line: whoever keeps it elsewhere notices a log that was cut off.
    pub const fn head(&self) -> Digest {
        self.head
    }
}

/// An entry as its line: the JSON object, with the SHA-256 of the object without it as last field.
fn written(entry: &Entry) -> Result<String, serde_json::Error> {
    let object = serde_json::to_string(entry)?;
    let own = Digest::of(object.as_bytes());
    let open = object.strip_suffix('}').unwrap_or(&object);
    Ok(format!("{open}{OWN}{own}\"}}"))
}

/// The object of a line and the hash that the line gives for it.
fn taken_apart(line: &str) -> Option<(String, Digest)> {
    let at = line.len().checked_sub(OWN.len() + 64 + 2)?;
    let (open, own) = line.split_at_checked(at)?;
    let own = own.strip_prefix(OWN)?.strip_suffix("\"}")?;
    Some((format!("{open}}}"), own.parse().ok()?))
}

/// Checks every whole line; gives the entries, the head and how many bytes the whole lines have.
fn check(path: &Path, bytes: &[u8]) -> Result<(Vec<Entry>, Digest, usize), LogError> {
    let altered = |line: usize, why: &dyn std::fmt::Display| LogError::Altered {
        path: path.to_owned(),
        line,
        why: why.to_string(),
    };
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let lines = bytes.get(..whole).unwrap_or_default().split_inclusive(|byte| *byte == b'\n');
    let (mut entries, mut head) = (Vec::<Entry>::new(), NONE_BEFORE);
    for (number, line) in (1..).zip(lines) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let parts = std::str::from_utf8(line).ok().and_then(taken_apart);
        let (object, own) = parts.ok_or_else(|| altered(number, &"it is no line of an issue log"))?;
        if Digest::of(object.as_bytes()) != own {
            return Err(altered(number, &"it was changed: its hash is that of other content"));
        }
        let entry: Entry = strict::from_slice(object.as_bytes()).map_err(|error| altered(number, &error))?;
        if entry.prev != head || usize::try_from(entry.seq).ok() != Some(number) {
            return Err(altered(number, &"it does not follow the line before: one was changed, added or removed"));
        }
        if (number == 1) != matches!(entry.act, Act::Init(_)) {
            return Err(altered(number, &"a log begins with the founding of the CA, and only there"));
        }
        head = Digest::of(line);
        entries.push(entry);
    }
    if entries.is_empty() {
        return Err(altered(1, &"the log is empty"));
    }
    Ok((entries, head, whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use reeve_wire::sshsig;

    fn key() -> KeyLine {
        KeyLine::new(sshsig::generate("").unwrap().public_key().key_data().clone()).unwrap()
    }

    fn log_of_four(folder: &Path) -> IssueLog {
        let site = "lab".parse().unwrap();
        let founding = Founding { site, root: key(), technicians: key(), agents: key(), masters: key() };
        let mut log = IssueLog::create(folder, Millis(1_000), founding).unwrap();
        for number in 1..=3 {
            let digest = Digest::of(&[number]);
            log.append(Millis(2_000), Act::Trust { number: number.into(), digest, refresh_by: Millis(9_000) }).unwrap();
        }
        log
    }

    fn refused_line(folder: &Path) -> usize {
        match IssueLog::open(folder) {
            Err(LogError::Altered { line, .. }) => line,
            other => panic!("an altered log was opened: {other:?}"),
        }
    }

    #[test]
    fn a_log_comes_back_as_it_was_written_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let head = log_of_four(folder.path()).head();

        let mut log = IssueLog::open(folder.path()).unwrap();
        assert_eq!((log.entries().len(), log.head()), (4, head));
        log.append(Millis(3_000), Act::LibrarySigner { key: key() }).unwrap();

        let (entries, head) = IssueLog::read(folder.path()).unwrap();
        assert_eq!(entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!(head, log.head());
    }

    #[test]
    fn every_changed_byte_is_refused_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        log_of_four(folder.path());
        let path = folder.path().join(FILE);
        let good = std::fs::read(&path).unwrap();
        let last_line_end = good.len() - 1;
        for at in (0..last_line_end).step_by(7) {
            let mut bad = good.clone();
            bad[at] ^= 0x01;
            std::fs::write(&path, &bad).unwrap();
            let line = good[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
            assert_eq!(refused_line(folder.path()), line, "byte {at}");
        }
    }

    #[test]
    fn a_line_that_is_removed_moved_or_doubled_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        log_of_four(folder.path());
        let path = folder.path().join(FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        for (order, named) in [
            (vec![0, 2, 3], 2),
            (vec![1, 2, 3], 1),
            (vec![0, 2, 1, 3], 2),
            (vec![0, 1, 1, 2, 3], 3),
            (vec![0, 1, 2, 3, 0], 5),
            (vec![], 1),
        ] {
            let altered: String = order.iter().map(|line| format!("{}\n", lines[*line])).collect();
            std::fs::write(&path, altered).unwrap();
            assert_eq!(refused_line(folder.path()), named, "{order:?}");
        }
    }

    #[test]
    fn a_line_that_was_never_finished_is_dropped_and_the_log_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let head = log_of_four(folder.path()).head();
        let path = folder.path().join(FILE);
        let mut torn = std::fs::read(&path).unwrap();
        torn.extend_from_slice(b"{\"v\":1,\"seq\":5,\"at");
        std::fs::write(&path, torn).unwrap();

        assert_eq!(IssueLog::read(folder.path()).unwrap().1, head);
        let mut log = IssueLog::open(folder.path()).unwrap();
        log.append(Millis(3_000), Act::LibrarySigner { key: key() }).unwrap();
        assert_eq!(IssueLog::open(folder.path()).unwrap().entries().len(), 5);
    }
}
