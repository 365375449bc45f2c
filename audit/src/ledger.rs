//! The way into the ledger: one queue, one writer thread, one answer each.
//!
//! An answer means that the record is on disk. Records that wait together are written in one transaction. When the
//! disk is full nothing new is begun and results still fit; after any other failed write nothing is taken until the
//! process has been started again: a gap in the ledger is worse than an outage.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use reeve_wire::merkle::{self, Hash, ProofError};
use reeve_wire::note::{LogSigner, SignedCheckpoint, Vkey};
use reeve_wire::time::Clock;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use crate::DatabaseError;
use crate::database;
pub use crate::nodes::NoProof;
use crate::nodes::Nodes;
use crate::record::Draft;
use crate::writer::{Writer, WriterThread};

#[cfg(test)]
mod tests;

/// How many appends may wait before callers wait to queue.
const QUEUE: usize = 4096;

/// What an append is for: what is refused first when room runs out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Class {
    /// It begins work or gives rights. Refused when the disk is full.
    Intent,
    /// It states what happened already. Fits into the reserve.
    Result,
    /// It states that rights were taken away, which took effect before. Fits into the reserve.
    TakesAway,
}

/// Whether the ledger takes records.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Health {
    /// It takes every record.
    Open,
    /// The disk is full: results fit into the reserve, and nothing is begun.
    Full,
    /// A write failed. Nothing is taken until the process has been started again.
    Closed,
}

/// Where a record is, durably.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Appended {
    /// Its index in the log.
    pub index: u64,
    /// Its RFC 6962 leaf hash, which a grant carries.
    pub leaf_hash: Hash,
}

/// Why a record was not written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LedgerError {
    /// A write failed earlier, or the process is ending.
    #[error("the ledger takes no records: look at the master's log, mend the cause and start the master again")]
    Closed,
    /// The disk is full.
    #[error("the ledger's disk is full: nothing is begun until there is room again")]
    Full,
    /// The record is larger than an entry may be.
    #[error("the record is larger than {} bytes", crate::record::MAX_RECORD)]
    TooLarge,
    /// A result points at no intent of its operation and host.
    #[error("the result belongs to no recorded intent")]
    NoIntent,
    /// The intent has a result already, or it is not unknown.
    #[error("the operation has a result already")]
    Ended,
}

/// What a ledger needs to know before it opens.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The database file; `-wal`, `-shm`, `.lock` and `.reserve` lie beside it.
    pub path: PathBuf,
    /// The key that signs its checkpoints and gives it its name.
    pub log_key: LogSigner,
    /// How soon after a record a checkpoint is signed, when nothing else brings one.
    pub checkpoint_every: Duration,
    /// After how many records a checkpoint is signed at once.
    pub checkpoint_records: u64,
    /// The room that is kept for results, in bytes.
    pub reserve: u64,
    /// The most bytes that the file may take, the reserve included; none for what the disk has.
    pub limit: Option<u64>,
    /// Where the time of the ledger's own records comes from.
    pub clock: Clock,
}

impl Settings {
    /// A ledger at `path` with the usual figures: a checkpoint a second or 256 records, 64 MiB of reserve, no limit.
    pub fn new(path: impl Into<PathBuf>, log_key: LogSigner) -> Self {
        Self {
            path: path.into(),
            log_key,
            checkpoint_every: Duration::from_secs(1),
            checkpoint_records: 256,
            reserve: 64 * 1024 * 1024,
            limit: None,
            clock: Clock::system(),
        }
    }
}

/// Records that are written together or not at all.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) class: Class,
    pub(crate) drafts: Vec<Draft>,
    pub(crate) answer: oneshot::Sender<Result<Vec<Appended>, LedgerError>>,
}

/// What the writer shows to everyone.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) nodes: RwLock<Nodes>,
    pub(crate) health: watch::Sender<Health>,
    pub(crate) checkpoint: watch::Sender<SignedCheckpoint>,
}

/// A handle to the ledger's writer. Cheap to clone; the writer ends when the last one is gone.
#[derive(Clone, Debug)]
pub struct Ledger {
    queue: mpsc::Sender<Group>,
    shown: Arc<Shown>,
    file: Arc<Mutex<Connection>>,
    path: Arc<PathBuf>,
    vkey: Vkey,
}

impl Ledger {
    /// Opens the ledger, checks its end and starts its writer. Blocks while it reads every leaf's hash (about a
    /// million a second).
    ///
    /// # Errors
    ///
    /// When the file cannot be opened, belongs to another key, is being written by another process, or does not
    /// verify at its end.
    pub fn open(settings: Settings) -> Result<(Self, WriterThread), DatabaseError> {
        let (queue, groups) = mpsc::channel(QUEUE);
        let (path, vkey) = (Arc::new(settings.path.clone()), settings.log_key.vkey().clone());
        let writer = Writer::open(settings)?;
        let shown = writer.shown();
        let file = Arc::new(Mutex::new(database::open_reader(&path)?));
        let thread = writer.start(groups)?;
        Ok((Self { queue, shown, file, path, vkey }, thread))
    }

    /// Writes one record with its content and waits until it is durable.
    ///
    /// The record is written even when the caller no longer waits.
    ///
    /// # Errors
    ///
    /// [`LedgerError`]; the record is then not in the ledger.
    pub async fn append(&self, class: Class, draft: Draft) -> Result<Appended, LedgerError> {
        let appended = self.append_all(class, vec![draft]).await?;
        appended.first().copied().ok_or(LedgerError::Closed)
    }

    /// Writes several records in their order, all or none, and waits until they are durable: the header and the
    /// intents of a fan-out.
    ///
    /// # Errors
    ///
    /// [`LedgerError`]; none of the records is then in the ledger.
    pub async fn append_all(&self, class: Class, drafts: Vec<Draft>) -> Result<Vec<Appended>, LedgerError> {
        match self.health() {
            Health::Closed => return Err(LedgerError::Closed),
            Health::Full if class == Class::Intent => return Err(LedgerError::Full),
            Health::Open | Health::Full => (),
        }
        let (answer, appended) = oneshot::channel();
        self.queue.send(Group { class, drafts, answer }).await.map_err(|_| LedgerError::Closed)?;
        appended.await.map_err(|_| LedgerError::Closed)?
    }

    /// The newest signed checkpoint, and every later one.
    pub fn checkpoints(&self) -> watch::Receiver<SignedCheckpoint> {
        self.shown.checkpoint.subscribe()
    }

    /// Whether it takes records.
    pub fn health(&self) -> Health {
        *self.shown.health.borrow()
    }

    /// Whether it takes records, and every change of that.
    pub fn health_changes(&self) -> watch::Receiver<Health> {
        self.shown.health.subscribe()
    }

    /// The public key of its checkpoints; its name is the log's.
    pub const fn vkey(&self) -> &Vkey {
        &self.vkey
    }

    /// The file, for a [`Reader`](crate::Reader).
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// The RFC 6962 proof that the log of `new` records begins with the log of `old`.
    ///
    /// # Errors
    ///
    /// [`NoProof::Proof`] when `old > new` or the log has fewer records than `new`.
    pub async fn consistency(&self, old: u64, new: u64) -> Result<Vec<Hash>, NoProof> {
        let (shown, file) = (Arc::clone(&self.shown), Arc::clone(&self.file));
        let made = tokio::task::spawn_blocking(move || {
            let file = file.lock().unwrap_or_else(PoisonError::into_inner);
            let nodes = shown.nodes.read().unwrap_or_else(PoisonError::into_inner);
            let size = nodes.size();
            if new > size {
                return Err(ProofError::NoSuchLeaf { index: new.saturating_sub(1), size }.into());
            }
            merkle::consistency_proof(old, new, |level, index| nodes.node(&file, level, index))
        });
        made.await.map_err(|_| NoProof::Closing)?
    }
}
