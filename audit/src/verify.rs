//! Checks a ledger against one public key and against heads that were kept elsewhere.
//!
//! Nothing in the file is believed: leaves are recomputed from the records, roots from the leaves, and the indexes
//! are rebuilt and compared. The file alone proves that nothing up to its newest checkpoint was changed; that nothing
//! was cut off after it, only a head kept outside can prove.

use std::fmt;

use reeve_wire::id::OperationId;
use reeve_wire::merkle::Hash;
use reeve_wire::name::HostName;
use reeve_wire::note::Vkey;

use crate::reader::{ReadError, Reader};

mod evidence;
mod heads;
mod records;
mod structure;
#[cfg(test)]
mod tests;

/// The most findings that are kept with their texts; all are counted.
const MAX_FINDINGS: usize = 1000;

/// What is wrong. The number is the exit status of `reeve-audit verify`; of several findings the lowest counts.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Fault {
    /// A record was modified, removed or inserted.
    Modified = 10,
    /// The ledger is shorter than a head that is known.
    Shorter = 11,
    /// The ledger and a head that is known are two histories of one log.
    TwoHistories = 13,
    /// An operation is open past its deadline, and no record says `unknown`.
    Overdue = 14,
    /// Content beside the records is missing or wrong.
    Blob = 15,
    /// A request, grant or receipt does not belong to the record that it stands in.
    Receipt = 16,
    /// Something does not follow its form.
    Malformed = 17,
}

impl Fault {
    /// The exit status.
    pub const fn exit_status(self) -> u8 {
        self as u8
    }
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// What is wrong.
    pub fault: Fault,
    /// The index of the record, where one is known.
    pub index: Option<u64>,
    /// The operation of that record.
    pub operation: Option<OperationId>,
    /// The host of that record.
    pub host: Option<HostName>,
    /// The sentence.
    pub what: String,
}

impl Finding {
    pub(crate) fn new(fault: Fault, what: impl Into<String>) -> Self {
        Self { fault, index: None, operation: None, host: None, what: what.into() }
    }

    pub(crate) fn at(mut self, index: u64) -> Self {
        self.index = Some(index);
        self
    }

    pub(crate) fn of(mut self, operation: Option<OperationId>, host: Option<&HostName>) -> Self {
        self.operation = operation;
        self.host = host.cloned();
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.fault.exit_status())?;
        if let Some(index) = self.index {
            write!(f, " record {index}")?;
        }
        match (&self.operation, &self.host) {
            (Some(operation), Some(host)) => write!(f, " (operation {operation}@{host})")?,
            (Some(operation), None) => write!(f, " (operation {operation})")?,
            (None, Some(host)) => write!(f, " (host {host})")?,
            (None, None) => (),
        }
        write!(f, ": {}", self.what)
    }
}

/// A head that was kept outside: where it came from, and its note.
#[derive(Clone, Debug)]
pub struct KnownHead {
    /// The file, for messages.
    pub name: String,
    /// The note's bytes.
    pub note: Vec<u8>,
}

/// What to verify against.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The log's public key; without it the file is only compared with the key that it names itself.
    pub vkey: Option<Vkey>,
    /// Heads that were kept outside.
    pub against: Vec<KnownHead>,
    /// The present moment, in µs since 1970 UTC.
    pub now_us: u64,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Report {
    /// The key that was verified against.
    pub vkey: Vkey,
    /// Whether that key came from outside the file.
    pub key_from_outside: bool,
    /// How many records there are.
    pub records: u64,
    /// How many of them the newest checkpoint covers.
    pub signed: u64,
    /// How many checkpoints there are.
    pub checkpoints: u64,
    /// How many pieces of content were unpacked and compared.
    pub blobs: u64,
    /// How many operations have no result yet.
    pub open: u64,
    /// How many operations have an unknown outcome that nothing has resolved.
    pub unknown: u64,
    /// The root over all records; none when some are missing.
    pub root: Option<Hash>,
    /// What is wrong, at most a thousand of it.
    pub findings: Vec<Finding>,
    /// How much is wrong.
    pub found: u64,
    lowest: Option<Fault>,
}

impl Report {
    fn new(vkey: Vkey, key_from_outside: bool) -> Self {
        Self {
            vkey,
            key_from_outside,
            records: 0,
            signed: 0,
            checkpoints: 0,
            blobs: 0,
            open: 0,
            unknown: 0,
            root: None,
            findings: Vec::new(),
            found: 0,
            lowest: None,
        }
    }

    fn add(&mut self, finding: Finding) {
        self.found = self.found.saturating_add(1);
        self.lowest = Some(self.lowest.map_or(finding.fault, |lowest| lowest.min(finding.fault)));
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        }
    }

    /// The lowest number of all findings; none when the ledger verifies.
    pub const fn fault(&self) -> Option<Fault> {
        self.lowest
    }
}

/// Verifies the whole ledger in one snapshot. `progress` is called now and then with how many records are done, of
/// how many.
///
/// # Errors
///
/// When the file cannot be read at all, or names no key and none is given. What is wrong in it is a finding.
pub fn verify(reader: &Reader, settings: &Settings, mut progress: impl FnMut(u64, u64)) -> Result<Report, ReadError> {
    let database = reader.database();
    // One snapshot for everything; the transaction ends with the connection's use and never writes.
    let snapshot = if database.is_autocommit() { Some(database.unchecked_transaction()?) } else { None };
    let own = reader.vkey();
    let (vkey, from_outside) = match (&settings.vkey, &own) {
        (Some(vkey), _) => (vkey.clone(), true),
        (None, Ok(vkey)) => (vkey.clone(), false),
        (None, Err(_)) => return Err(own.map_or_else(ReadError::from, |_| ReadError::Index(0))),
    };
    let mut report = Report::new(vkey, from_outside);
    match own {
        Ok(own) if own == report.vkey => (),
        Ok(own) => report.add(Finding::new(Fault::Malformed, format!("the file names another key as its own: {own}"))),
        Err(error) => report.add(Finding::new(Fault::Malformed, format!("the file names no key of its own: {error}"))),
    }
    let checked = check(reader, settings, &mut report, &mut progress);
    match checked {
        Err(ReadError::Sqlite(error)) if is_damage(&error) => {
            report.add(Finding::new(Fault::Malformed, format!("the database file is damaged: {error}")));
        }
        other => other?,
    }
    drop(snapshot);
    Ok(report)
}

fn check(
    reader: &Reader,
    settings: &Settings,
    report: &mut Report,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), ReadError> {
    structure::check(reader.database(), report)?;
    let heads = heads::read(reader.database(), &settings.against, report)?;
    let (rebuilt, intact) = records::check(reader, &heads, report, progress)?;
    if intact {
        structure::compare_indexes(reader.database(), &rebuilt, report)?;
    }
    records::overdue(&rebuilt, settings.now_us, report)
}

/// Whether SQLite says that the file, not the question, is at fault.
fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    let damaged = error.sqlite_error_code().is_some_and(|code| matches!(code, DatabaseCorrupt | NotADatabase));
    damaged
        || matches!(
            error,
            FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..)
        )
}
