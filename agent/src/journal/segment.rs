//! One file of the journal: `u32 length | u32 crc32 | entry`, big-endian, over and over. The CRC covers length and
//! entry.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use reeve_wire::time::Millis;

use super::{JournalError, Position};

/// The most bytes that one entry may have.
pub const MAX_ENTRY: usize = 64 * 1024;

/// Length and CRC.
const HEADER: usize = 8;

/// The file that is being written.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    file: Arc<File>,
    length: u64,
    next: Position,
}

impl Segment {
    /// Makes the file whose first entry will be `first`.
    pub(super) fn create(directory: &Path, first: Position) -> Result<Self, JournalError> {
        let path = path(directory, first);
        let file = private(File::options().read(true).append(true).create_new(true))
            .open(&path)
            .map_err(JournalError::io(&path))?;
        sync_directory(directory)?;
        Ok(Self { path, file: Arc::new(file), length: 0, next: first })
    }

    /// Opens the last file, cuts off an entry that was never finished, and puts the rest on the disk: an agent that was
    /// killed did not.
    pub(super) fn recover(directory: &Path, first: Position) -> Result<Self, JournalError> {
        let path = path(directory, first);
        let file = private(File::options().read(true).append(true)).open(&path).map_err(JournalError::io(&path))?;
        only_ours(&path, &file)?;
        let mut records = Records::new(&path, &file, first);
        let length = loop {
            match records.next() {
                Ok(Some(_)) => {}
                Ok(None) => break records.offset,
                Err(Unread::Io(source)) => return Err(JournalError::Io { path, source }),
                Err(Unread::Damaged) => break cut_tail(&path, &file, records.offset)?,
            }
        };
        let next = records.position;
        let segment = Self { file: Arc::new(file), path, length, next };
        segment.sync()?;
        Ok(segment)
    }

    /// Writes `entry`. When that fails, what was written of it is taken back where that is possible.
    pub(super) fn append(&mut self, entry: &[u8]) -> Result<Position, JournalError> {
        let record = encode(entry);
        if let Err(source) = (&*self.file).write_all(&record) {
            if let Err(error) = self.file.set_len(self.length) {
                tracing::warn!(%error, "An unfinished journal entry stays; the next start cuts it off");
            }
            return Err(JournalError::Io { path: self.path.clone(), source });
        }
        self.length = self.length.saturating_add(size(&record));
        let position = self.next;
        self.next = position.next();
        Ok(position)
    }

    /// Whether the file stays within `limit` with `entry`. An empty file takes any entry.
    pub(super) fn has_room_for(&self, entry: &[u8], limit: u64) -> bool {
        self.length == 0 || self.length.saturating_add(size(entry)).saturating_add(HEADER as u64) <= limit
    }

    pub(super) fn next(&self) -> Position {
        self.next
    }

    pub(super) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    pub(super) fn sync(&self) -> Result<(), JournalError> {
        self.file.sync_data().map_err(JournalError::io(&self.path))
    }

    #[cfg(test)]
    pub(super) fn replace_file(&mut self, file: File) {
        self.file = Arc::new(file);
    }
}

/// One entry and where it stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Its position.
    pub position: Position,
    /// What was appended.
    pub bytes: Vec<u8>,
}

/// Entries of the journal, oldest first, read as they are asked for.
#[derive(Debug)]
pub struct Entries {
    directory: PathBuf,
    /// Files still to be read, the oldest last.
    files: Vec<Position>,
    reading: Option<Records<File>>,
    from: Position,
    end: Position,
}

impl Entries {
    pub(super) fn new(directory: &Path, mut files: Vec<Position>, from: Position, end: Position) -> Self {
        files.reverse();
        while files.iter().rev().nth(1).is_some_and(|&second| second <= from) {
            files.pop();
        }
        Self { directory: directory.to_owned(), files, reading: None, from, end }
    }

    fn read(&mut self) -> Result<Option<Entry>, JournalError> {
        loop {
            let Some(records) = &mut self.reading else {
                let Some(first) = self.files.pop() else { return Ok(None) };
                self.reading = Some(open(&self.directory, first)?);
                continue;
            };
            if records.position >= self.end {
                return Ok(None);
            }
            match records.next() {
                Ok(Some(entry)) if entry.position < self.from => {}
                Ok(Some(entry)) => return Ok(Some(entry)),
                Ok(None) => {
                    let missing = records.position;
                    if self.files.last().is_none_or(|&next| next != missing) {
                        let path =
                            self.files.last().map_or_else(|| records.path.clone(), |&p| path(&self.directory, p));
                        return Err(JournalError::Gap { path, missing });
                    }
                    self.reading = None;
                }
                Err(Unread::Io(source)) => return Err(JournalError::Io { path: records.path.clone(), source }),
                Err(Unread::Damaged) => {
                    return Err(JournalError::Damaged { path: records.path.clone(), offset: records.offset });
                }
            }
        }
    }
}

impl Iterator for Entries {
    type Item = Result<Entry, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.read().transpose();
        if !matches!(entry, Some(Ok(_))) {
            self.end = Position(0);
        }
        entry
    }
}

/// Reads one file from its beginning.
#[derive(Debug)]
struct Records<R: Read> {
    path: PathBuf,
    input: BufReader<R>,
    /// Where the next record begins.
    offset: u64,
    position: Position,
}

/// Why a record could not be read.
enum Unread {
    Io(io::Error),
    Damaged,
}

impl<R: Read> Records<R> {
    fn new(path: &Path, input: R, first: Position) -> Self {
        Self { path: path.to_owned(), input: BufReader::new(input), offset: 0, position: first }
    }

    /// The next record; none at the end of the file. After an error, `offset` is where the record that could not be
    /// read begins.
    fn next(&mut self) -> Result<Option<Entry>, Unread> {
        let mut header = [0; HEADER];
        match read_fully(&mut self.input, &mut header)? {
            0 => return Ok(None),
            HEADER => {}
            _ => return Err(Unread::Damaged),
        }
        let length = entry_length(header).ok_or(Unread::Damaged)?;
        let mut bytes = vec![0; length];
        if read_fully(&mut self.input, &mut bytes)? < length || checksum(&bytes) != stored_checksum(header) {
            return Err(Unread::Damaged);
        }
        let position = self.position;
        self.offset = self.offset.saturating_add(size(&bytes)).saturating_add(HEADER as u64);
        self.position = position.next();
        Ok(Some(Entry { position, bytes }))
    }
}

/// Reads until `buffer` is full or the input ends; how much it read.
fn read_fully(input: &mut impl Read, buffer: &mut [u8]) -> Result<usize, Unread> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match input.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Unread::Io(error)),
        }
    }
    Ok(filled)
}

/// Cuts `file` at `offset`, where an unreadable record begins, unless it was not the last write that was interrupted.
fn cut_tail(path: &Path, file: &File, offset: u64) -> Result<u64, JournalError> {
    if a_record_follows(file, offset).map_err(JournalError::io(path))? {
        return Err(JournalError::Damaged { path: path.to_owned(), offset });
    }
    tracing::warn!(path = %path.display(), offset, "Cutting an unfinished entry off the journal");
    file.set_len(offset).and_then(|()| file.sync_all()).map_err(JournalError::io(path))?;
    Ok(offset)
}

/// Whether a whole record begins anywhere after `offset`. A length that was damaged makes a record in the middle look
/// unfinished, so every later byte is tried as the beginning of one.
fn a_record_follows(mut file: &File, offset: u64) -> io::Result<bool> {
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(offset))?;
    file.read_to_end(&mut tail)?;
    Ok((1..tail.len()).any(|start| tail.get(start..).is_some_and(begins_with_record)))
}

fn begins_with_record(bytes: &[u8]) -> bool {
    let Some((&header, rest)) = bytes.split_first_chunk::<HEADER>() else { return false };
    let entry = entry_length(header).and_then(|length| rest.get(..length));
    entry.is_some_and(|entry| checksum(entry) == stored_checksum(header))
}

fn encode(entry: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER + entry.len());
    record.extend_from_slice(&length_field(entry));
    record.extend_from_slice(&checksum(entry).to_be_bytes());
    record.extend_from_slice(entry);
    record
}

/// The length that a header states, when an entry can have it.
fn entry_length([a, b, c, d, ..]: [u8; HEADER]) -> Option<usize> {
    usize::try_from(u32::from_be_bytes([a, b, c, d])).ok().filter(|length| (1..=MAX_ENTRY).contains(length))
}

fn stored_checksum([.., a, b, c, d]: [u8; HEADER]) -> u32 {
    u32::from_be_bytes([a, b, c, d])
}

fn checksum(entry: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&length_field(entry));
    crc.update(entry);
    crc.finalize()
}

fn length_field(entry: &[u8]) -> [u8; 4] {
    u32::try_from(entry.len()).unwrap_or(u32::MAX).to_be_bytes()
}

fn size(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn path(directory: &Path, first: Position) -> PathBuf {
    directory.join(format!("{:020}.journal", first.0))
}

/// The first positions of the files in `directory`, oldest first.
pub(super) fn names(directory: &Path) -> Result<Vec<Position>, JournalError> {
    let mut names = Vec::new();
    for file in directory.read_dir().map_err(JournalError::io(directory))? {
        let name = file.map_err(JournalError::io(directory))?.file_name();
        let first = name.to_str().and_then(|name| name.strip_suffix(".journal")).filter(|digits| digits.len() == 20);
        names.extend(first.and_then(|digits| digits.parse().ok()).map(Position));
    }
    names.sort_unstable();
    Ok(names)
}

/// The position after the last whole entry of a file.
pub(super) fn end(directory: &Path, first: Position) -> Result<Position, JournalError> {
    let mut records = open(directory, first)?;
    loop {
        match records.next() {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(records.position),
            Err(Unread::Io(source)) => return Err(JournalError::Io { path: records.path, source }),
            // Damage is left to the reader to find. One that was half written just now it finds whole.
            Err(Unread::Damaged) => {
                let follows = a_record_follows(records.input.get_ref(), records.offset);
                let damaged = follows.map_err(JournalError::io(&records.path))?;
                return Ok(if damaged { records.position.next() } else { records.position });
            }
        }
    }
}

/// When the last entry of a file was written.
pub(super) fn last_written(directory: &Path, first: Position) -> Result<Millis, JournalError> {
    let path = path(directory, first);
    let written = path.metadata().and_then(|file| file.modified()).map_err(JournalError::io(&path))?;
    let since = written.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
}

pub(super) fn remove(directory: &Path, first: Position) -> Result<(), JournalError> {
    let path = path(directory, first);
    std::fs::remove_file(&path).map_err(JournalError::io(&path))?;
    sync_directory(directory)
}

fn open(directory: &Path, first: Position) -> Result<Records<File>, JournalError> {
    let path = path(directory, first);
    let file = private(File::options().read(true)).open(&path).map_err(JournalError::io(&path))?;
    only_ours(&path, &file)?;
    Ok(Records::new(&path, file, first))
}

/// No link is followed, and what is made belongs to its owner alone.
pub(super) fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.mode(0o600).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
}

fn only_ours(path: &Path, file: &File) -> Result<(), JournalError> {
    let mode = file.metadata().map_err(JournalError::io(path))?.permissions().mode() & 0o777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(JournalError::Exposed { path: path.to_owned(), mode }) }
}

/// Makes a file's name as durable as its content.
fn sync_directory(directory: &Path) -> Result<(), JournalError> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(JournalError::io(directory))
}
