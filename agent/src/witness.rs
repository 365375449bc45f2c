//! The agent as a witness of the master's ledger: it keeps the newest checkpoint that it saw of each log, and refuses
//! a master whose log is shorter than that or does not begin with it.
//!
//! A refusal outlives connections and restarts, as a file that says why: the customer's administrator looks at the
//! evidence beside it and removes it. The kept checkpoint stays, so that a master that still shows the other history
//! is refused again.

use std::path::PathBuf;

use reeve_wire::code::{Code, Refusal};
use reeve_wire::merkle::{ProofError, verify_consistency};
use reeve_wire::message::Consistency;
use reeve_wire::name::Name;
use reeve_wire::note::{Checkpoint, Note, NoteError, SignedCheckpoint, Vkey};

use crate::config::Problem;
use crate::state::{StateDir, read_if_there, store};

/// The file that stands while a history is refused.
pub const REFUSED: &str = "history-refused";

/// Why a checkpoint is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Untaken {
    /// It is not a checkpoint that the log signed.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// A proof should have come with it.
    #[error("no proof came that the log of {shown} records begins with the {held} seen before")]
    NoProof {
        /// Size seen before.
        held: u64,
        /// Size shown.
        shown: u64,
    },
    /// The log shows a history that is not the one seen before.
    #[error("{0}")]
    OtherHistory(#[from] OtherHistory),
}

/// Two checkpoints of one log that cannot both be of one history.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OtherHistory {
    /// The log got shorter.
    #[error("the log has {shown} records, and {held} were seen before")]
    Shorter {
        /// Size seen before.
        held: u64,
        /// Size shown.
        shown: u64,
    },
    /// The same size, other records.
    #[error("the log of {0} records is not the log of {0} records seen before")]
    Fork(u64),
    /// Longer, and it does not begin with what was seen.
    #[error("the log of {shown} records does not begin with the {held} seen before: {why}")]
    Rewritten {
        /// Size seen before.
        held: u64,
        /// Size shown.
        shown: u64,
        /// What the proof lacks.
        why: ProofError,
    },
}

/// A checkpoint that the log signed, not yet compared.
#[derive(Clone, Debug)]
pub struct Shown(SignedCheckpoint);

/// What was seen of one master's log.
///
/// A checkpoint counts when it is taken and is on the disk soon after ([`unwritten`](Self::unwritten)): a busy master
/// signs hundreds a second, and the one on the disk is as good a witness of all that came before.
#[derive(Debug)]
pub struct Witness {
    path: PathBuf,
    held: Option<SignedCheckpoint>,
    /// The size that the file has.
    written: u64,
}

impl Witness {
    /// What is kept of the log of `master`.
    ///
    /// # Errors
    /// When what is kept cannot be read.
    pub fn open(state: &StateDir, master: &Name) -> Result<Self, Problem> {
        let path = state.file("checkpoints").join(master.as_str());
        let kept = read_if_there(&path).map_err(|source| Problem::Read { path: path.clone(), source })?;
        let held = kept.map(parse).transpose().map_err(|error| Problem::State {
            path: path.clone(),
            why: format!("the kept checkpoint is damaged ({error}); restore it from a backup"),
        })?;
        let written = held.as_ref().map_or(0, |held| held.checkpoint.size);
        Ok(Self { path, held, written })
    }

    /// How many records the log had; 0 before the first checkpoint.
    pub fn size(&self) -> u64 {
        self.held.as_ref().map_or(0, |held| held.checkpoint.size)
    }

    /// Reads a checkpoint and checks that the log signed it.
    ///
    /// # Errors
    /// When it did not.
    pub fn read(note: &[u8], log: &Vkey) -> Result<Shown, NoteError> {
        Checkpoint::open(note, log).map(Shown)
    }

    /// Whether a checkpoint needs a proof beside it.
    pub fn needs_proof(&self, shown: &Shown) -> bool {
        self.size() > 0 && shown.0.checkpoint.size > self.size()
    }

    /// Takes a checkpoint in the place of the one kept.
    ///
    /// # Errors
    /// When it does not extend the one kept.
    pub fn take(&mut self, shown: Shown, proof: Option<&Consistency>) -> Result<(), Untaken> {
        let Shown(shown) = shown;
        if let Some(held) = &self.held {
            extends(&held.checkpoint, &shown.checkpoint, proof)?;
        }
        self.held = Some(shown);
        Ok(())
    }

    /// What is to be written down, if anything is. Tell [`wrote`](Self::wrote) once it is.
    pub fn unwritten(&self) -> Option<Unwritten> {
        let held = self.held.as_ref().filter(|held| held.checkpoint.size > self.written)?;
        Some(Unwritten { path: self.path.clone(), note: held.note.clone(), size: held.checkpoint.size })
    }

    /// A checkpoint is on the disk.
    pub fn wrote(&mut self, size: u64) {
        self.written = self.written.max(size);
    }

    /// Keeps both checkpoints as evidence and refuses all work from here on. Gives the refusal.
    pub fn refuse(&self, state: &StateDir, shown: &Shown, proof: Option<&Consistency>, why: &OtherHistory) -> Refusal {
        let held = self.held.as_ref().map_or("", |held| held.note.as_str());
        let proof = proof.and_then(|proof| serde_json::to_vec(proof).ok()).unwrap_or_default();
        let kept = state.keep_evidence(
            "history",
            &[("held", held.as_bytes()), ("shown", shown.0.note.as_bytes()), ("proof", &proof)],
        );
        let evidence = match kept {
            Ok(directory) => format!("both checkpoints are in {}", directory.display()),
            Err(error) => format!("the checkpoints could not be kept: {error}"),
        };
        let name = shown.0.checkpoint.origin.as_str();
        let text = format!("{name}: {why}\n{evidence}\n");
        tracing::error!(log = name, %why, %evidence, "The master shows another history; refusing all work");
        if let Err(error) = store(&state.file(REFUSED), text.as_bytes()) {
            tracing::error!(%error, "The refusal could not be written down; it lasts until the agent restarts");
        }
        Refusal::because(Code::HistoryRefused, format_args!("{name}: {why}"))
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        if let Some(unwritten) = self.unwritten()
            && let Err(error) = unwritten.write()
        {
            tracing::error!(%error, path = %self.path.display(), "The newest checkpoint could not be written");
        }
    }
}

/// A checkpoint that is not on the disk yet.
#[derive(Clone, Debug)]
pub struct Unwritten {
    path: PathBuf,
    note: String,
    size: u64,
}

impl Unwritten {
    /// Writes it, and gives its size. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self) -> std::io::Result<u64> {
        store(&self.path, self.note.as_bytes())?;
        Ok(self.size)
    }
}

/// The refusal that stands, if one does.
///
/// # Errors
/// When the file cannot be read.
pub fn standing_refusal(state: &StateDir) -> std::io::Result<Option<Refusal>> {
    let text = read_if_there(&state.file(REFUSED))?;
    Ok(text.map(|text| {
        let text = String::from_utf8_lossy(&text);
        Refusal::because(Code::HistoryRefused, text.lines().next().unwrap_or_default())
    }))
}

/// Reads a checkpoint that was kept, without a key.
///
/// # Errors
/// When it is none.
pub fn parse(note: Vec<u8>) -> Result<SignedCheckpoint, NoteError> {
    let checkpoint = Note::parse(&note)?.text().parse()?;
    let note = String::from_utf8(note).map_err(|_| NoteError::Malformed("it is not UTF-8"))?;
    Ok(SignedCheckpoint { checkpoint, note })
}

/// Whether the log of `shown` begins with the log of `held`.
fn extends(held: &Checkpoint, shown: &Checkpoint, proof: Option<&Consistency>) -> Result<(), Untaken> {
    let (old, new) = (held.size, shown.size);
    if new < old {
        return Err(OtherHistory::Shorter { held: old, shown: new }.into());
    }
    if new == old {
        return if held.root == shown.root { Ok(()) } else { Err(OtherHistory::Fork(new).into()) };
    }
    if old == 0 {
        return Ok(());
    }
    let proof = proof.filter(|proof| proof.from == old && proof.to == new);
    let proof = proof.ok_or(Untaken::NoProof { held: old, shown: new })?;
    let hashes: Vec<_> = proof.hashes.iter().map(|hash| hash.0).collect();
    verify_consistency(old, new, &held.root, &shown.root, &hashes)
        .map_err(|why| OtherHistory::Rewritten { held: old, shown: new, why }.into())
}

#[cfg(test)]
mod tests;
