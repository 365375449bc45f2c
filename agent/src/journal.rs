//! The agent's journal: what happened on this host, in a file that only grows.
//!
//! An entry is whatever the caller hands over, a signed receipt; this layer knows nothing of its meaning. It is in the
//! kernel's hands when [`Journal::append`] returns and so outlives the agent, and on the disk within
//! [`SYNCED_WITHIN`], which outlives the machine. What was cut off at the very end is removed at the next start; damage
//! anywhere else is an error and never passed over. After one failed write nothing is taken any more, because a
//! record with a hole is worse than an agent that refuses.
//!
//! The files of the directory are named for the position of their first entry and rotated at [`ROTATE_AT`].

mod segment;
#[cfg(test)]
mod tests;

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use reeve_wire::time::Millis;
use rustix::fs::{FlockOperation, flock};

pub use segment::{Entries, Entry, MAX_ENTRY};

use segment::Segment;

/// The size in bytes that no file of the journal grows beyond.
pub const ROTATE_AT: u64 = 64 * 1024 * 1024;

/// How long a full file is kept after its last entry.
pub const KEPT_FOR: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// Within this time of its append an entry is on the disk.
pub const SYNCED_WITHIN: Duration = Duration::from_millis(100);

/// How long the sync thread lets entries gather, so that many share one sync.
const GATHER: Duration = Duration::from_millis(50);

/// Where an entry stands in the journal: 0 is the first that was ever written.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Position(pub u64);

impl Position {
    /// The position after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Why the journal cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The system refused.
    #[error("journal {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is damage that no interrupted write explains.
    #[error(
        "journal {} is damaged at byte {offset}, and whole entries follow; move the journal aside and tell the NOC, \
         which holds a copy of every entry",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the damaged entry begins.
        offset: u64,
    },
    /// Entries are missing between two files.
    #[error("journal {} does not continue the file before it: entry {} is missing", path.display(), missing.0)]
    Gap {
        /// The later file.
        path: PathBuf,
        /// The first entry that no file has.
        missing: Position,
    },
    /// Others may read or write the file.
    #[error("journal {} has mode {mode:03o}; only its owner may have access: chmod 600", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another agent has it open.
    #[error("journal {} is in use by another agent", .0.display())]
    InUse(PathBuf),
    /// An entry of no bytes, or of more than [`MAX_ENTRY`].
    #[error("an entry of {0} bytes; the journal takes 1 to {MAX_ENTRY}")]
    EntrySize(usize),
    /// A write failed before.
    #[error(
        "the journal could not be written earlier and takes nothing more; make room on the disk and restart the agent"
    )]
    Closed,
}

impl JournalError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// The journal of one directory. Dropping it syncs what is still to be synced.
#[derive(Debug)]
pub struct Journal {
    shared: Arc<Shared>,
    sync_thread: Option<JoinHandle<()>>,
    /// Locked for as long as the journal is open.
    lock: File,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    writer: Mutex<Writer>,
    /// Signalled when there is something to sync, and when the journal is dropped.
    unsynced: Condvar,
}

#[derive(Debug)]
struct Writer {
    segment: Segment,
    rotate_at: u64,
    /// Everything before it is on the disk.
    synced: Position,
    failed: bool,
    stopping: bool,
}

impl Journal {
    /// Opens the journal in `directory`, which is made if it is missing, and gives the entries that it holds, oldest
    /// first. An entry that was being written when the agent or the machine went down is cut off.
    ///
    /// # Errors
    ///
    /// [`JournalError::Damaged`] when anything but the end of the last file is damaged there. Damage in older files
    /// shows when their entries are read.
    pub fn open(directory: &Path) -> Result<(Self, Entries), JournalError> {
        Self::open_rotating(directory, ROTATE_AT)
    }

    fn open_rotating(directory: &Path, rotate_at: u64) -> Result<(Self, Entries), JournalError> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(JournalError::io(directory))?;
        let lock = lock(directory)?;
        let segment = match segment::names(directory)?.last() {
            Some(&first) => Segment::recover(directory, first)?,
            None => Segment::create(directory, Position(0))?,
        };
        let synced = segment.next();
        let writer = Mutex::new(Writer { segment, rotate_at, synced, failed: false, stopping: false });
        let shared = Arc::new(Shared { directory: directory.to_owned(), writer, unsynced: Condvar::new() });

        let syncing = Arc::clone(&shared);
        let sync_thread = std::thread::Builder::new()
            .name("journal sync".into())
            .spawn(move || syncing.sync_in_background())
            .map_err(JournalError::io(directory))?;
        let journal = Self { shared, sync_thread: Some(sync_thread), lock };
        let entries = journal.since(Position(0))?;
        Ok((journal, entries))
    }

    /// Writes `entry` at the end and gives its position. It outlives the agent when this returns, and the machine
    /// within [`SYNCED_WITHIN`].
    ///
    /// # Errors
    ///
    /// After one failed write every later call fails too, with [`JournalError::Closed`].
    pub fn append(&self, entry: &[u8]) -> Result<Position, JournalError> {
        if entry.is_empty() || entry.len() > MAX_ENTRY {
            return Err(JournalError::EntrySize(entry.len()));
        }
        let mut writer = self.shared.lock();
        writer.append(&self.shared.directory, entry).inspect(|_| self.shared.unsynced.notify_one())
    }

    /// Returns when every entry is on the disk. Blocks for as long as the disk takes.
    ///
    /// # Errors
    ///
    /// When the disk refuses, and from then on.
    pub fn sync_now(&self) -> Result<(), JournalError> {
        let writer = self.shared.lock();
        if writer.failed {
            return Err(JournalError::Closed);
        }
        self.shared.sync(writer).1
    }

    /// The entries from `position` on that are there at this moment, oldest first.
    ///
    /// Entries that were pruned are passed over: the first that comes may have a later position.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read. Damage shows as an error among the entries, and ends them.
    pub fn since(&self, position: Position) -> Result<Entries, JournalError> {
        let end = self.next();
        Ok(Entries::new(&self.shared.directory, segment::names(&self.shared.directory)?, position, end))
    }

    /// The position that the next entry will have.
    pub fn next(&self) -> Position {
        self.shared.lock().segment.next()
    }

    /// The position before which everything is on the disk.
    pub fn synced(&self) -> Position {
        self.shared.lock().synced
    }

    /// Whether a write has failed, so that nothing is taken any more.
    pub fn has_failed(&self) -> bool {
        self.shared.lock().failed
    }

    /// Removes full files whose last entry is older than [`KEPT_FOR`] at `now`, and gives their number. The file that
    /// is being written always stays.
    ///
    /// `now` decides what is destroyed: give one that the local clock alone cannot push into the future.
    ///
    /// # Errors
    ///
    /// When a file cannot be removed.
    pub fn prune(&self, now: Millis) -> Result<usize, JournalError> {
        let mut names = segment::names(&self.shared.directory)?;
        names.pop();
        let mut pruned = 0;
        for first in names {
            if now.since(segment::last_written(&self.shared.directory, first)?) <= KEPT_FOR {
                break;
            }
            segment::remove(&self.shared.directory, first)?;
            pruned += 1;
        }
        Ok(pruned)
    }
}

/// The entries from `position` on in the journal of `directory`, which an agent may have open and write to meanwhile.
/// Nothing is locked or repaired: an entry that is just being written is left out.
///
/// # Errors
///
/// When the directory cannot be read. Damage shows as an error among the entries, and ends them.
pub fn look(directory: &Path, position: Position) -> Result<Entries, JournalError> {
    let files = segment::names(directory)?;
    let end = match files.last() {
        Some(&last) => segment::end(directory, last)?,
        None => Position(0),
    };
    Ok(Entries::new(directory, files, position, end))
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.unsynced.notify_all();
        if self.sync_thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("The journal's sync thread panicked; the last entries may not be on the disk");
        }
        // Closing alone would not do: a program that is being started at this moment still has a copy of it.
        if let Err(error) = flock(&self.lock, FlockOperation::Unlock) {
            tracing::warn!(%error, "The journal's lock could not be given up");
        }
    }
}

impl Shared {
    /// A writer that panicked may have left half an entry: nothing is added to that.
    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(|poisoned| {
            let mut writer = poisoned.into_inner();
            writer.failed = true;
            writer
        })
    }

    /// Syncs what was written, without keeping others from appending meanwhile.
    fn sync<'a>(&'a self, writer: MutexGuard<'a, Writer>) -> (MutexGuard<'a, Writer>, Result<(), JournalError>) {
        let (file, next) = (writer.segment.file(), writer.segment.next());
        drop(writer);
        let synced = file.sync_data();
        let mut writer = self.lock();
        // A kernel reports a failed write-back once and then forgets it: asking again would get a false yes.
        match synced {
            Ok(()) => writer.synced = writer.synced.max(next),
            Err(_) => writer.failed = true,
        }
        (writer, synced.map_err(JournalError::io(&self.directory)))
    }

    fn sync_in_background(&self) {
        let mut writer = self.lock();
        loop {
            writer = wait_while(&self.unsynced, writer, Writer::is_idle);
            if !writer.has_unsynced() {
                return;
            }
            writer = wait_for(&self.unsynced, writer, GATHER, |writer| !writer.stopping);
            let (after, synced) = self.sync(writer);
            writer = after;
            if let Err(error) = synced {
                tracing::error!(%error, "Journal sync failed; refusing every operation from here on");
                return;
            }
        }
    }
}

impl Writer {
    fn append(&mut self, directory: &Path, entry: &[u8]) -> Result<Position, JournalError> {
        if self.failed {
            return Err(JournalError::Closed);
        }
        let appended = self.rotate_for(directory, entry).and_then(|()| self.segment.append(entry));
        if let Err(error) = &appended {
            self.failed = true;
            tracing::error!(%error, "Journal write failed; refusing every operation from here on");
        }
        appended
    }

    /// Begins the next file when `entry` does not fit into this one.
    fn rotate_for(&mut self, directory: &Path, entry: &[u8]) -> Result<(), JournalError> {
        if self.segment.has_room_for(entry, self.rotate_at) {
            return Ok(());
        }
        self.segment.sync()?;
        self.segment = Segment::create(directory, self.segment.next())?;
        self.synced = self.segment.next();
        Ok(())
    }

    fn has_unsynced(&self) -> bool {
        self.synced < self.segment.next()
    }

    fn is_idle(&self) -> bool {
        !self.has_unsynced() && !self.stopping && !self.failed
    }
}

fn lock(directory: &Path) -> Result<File, JournalError> {
    let path = directory.join("lock");
    let file = segment::private(File::options().write(true).create(true).truncate(false))
        .open(&path)
        .map_err(JournalError::io(&path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(JournalError::InUse(directory.to_owned())),
        Err(error) => Err(JournalError::Io { path, source: error.into() }),
    }
}

/// [`Condvar::wait_while`], also when another holder panicked: [`Shared::lock`] refuses writes from then on.
fn wait_while<'a>(
    condvar: &Condvar,
    writer: MutexGuard<'a, Writer>,
    condition: impl Fn(&Writer) -> bool,
) -> MutexGuard<'a, Writer> {
    condvar.wait_while(writer, |writer| condition(writer)).unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// As [`wait_while`], for at most `time`.
fn wait_for<'a>(
    condvar: &Condvar,
    writer: MutexGuard<'a, Writer>,
    time: Duration,
    condition: impl Fn(&Writer) -> bool,
) -> MutexGuard<'a, Writer> {
    match condvar.wait_timeout_while(writer, time, |writer| condition(writer)) {
        Ok((writer, _)) => writer,
        Err(poisoned) => poisoned.into_inner().0,
    }
}
