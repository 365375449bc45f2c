//! Questions to the ledger. A reader never writes: a running master's file and a copy on read-only media both work.

use std::path::Path;

use reeve_wire::id::OperationId;
use reeve_wire::name::HostName;
use reeve_wire::note::Vkey;
use reeve_wire::receipt::Outcome;
use reeve_wire::strict::NotStrict;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::DatabaseError;
use crate::content::{ContentError, Pointer};
use crate::database;
use crate::record::{Body, Evidence, Header, Intent, Record, Verdict};

mod list;
#[cfg(test)]
mod tests;

pub use list::{Filter, Listed, rfc3339};

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be opened.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// SQLite refused.
    #[error("the ledger's database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The bytes of a record are not one.
    #[error("record {index} cannot be read: {source}")]
    Record {
        /// Which one.
        index: u64,
        /// Why.
        source: NotStrict,
    },
    /// The indexes name a record that is not there, or is another one.
    #[error("the index names record {0}, which is not what it should be; run `reeve-audit verify`")]
    Index(u64),
    /// Content cannot be read.
    #[error(transparent)]
    Content(#[from] ContentError),
}

/// A read-only view of the ledger. It blocks: async code calls it from a blocking task.
#[derive(Debug)]
pub struct Reader {
    database: Connection,
}

/// A record at its place.
#[derive(Clone, Debug, PartialEq)]
pub struct At<T> {
    /// Its index in the log.
    pub index: u64,
    /// The record, or a part of it.
    pub value: T,
}

/// An intent without a final result.
#[derive(Clone, Debug)]
pub struct OpenOperation {
    /// The intent.
    pub intent: At<Intent>,
    /// The result that says `unknown`, when one was recorded already.
    pub unknown: Option<u64>,
}

/// Everything that was recorded of one operation on one host.
#[derive(Clone, Debug)]
pub struct Story {
    /// The intent or the refusal.
    pub first: At<Record>,
    /// Its result.
    pub result: Option<At<Record>>,
    /// What resolved an unknown result.
    pub late: Option<At<Record>>,
}

impl Story {
    /// The last word on how it ended.
    pub fn verdict(&self) -> Option<&Verdict> {
        let last = self.late.as_ref().or(self.result.as_ref())?;
        match &last.value.body {
            Body::Result(verdict) | Body::Late(verdict) => Some(verdict),
            Body::Header(_) | Body::Intent(_) | Body::Refused(_) | Body::Receipts(_) | Body::Event(..) => None,
        }
    }
}

/// The newest entry of a host's receipt chain that the ledger holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LastReceipt {
    /// The generation of the chain.
    pub generation: u64,
    /// Its number in the chain.
    pub seq: u64,
    /// The entry as it was signed: two SSH strings.
    pub signed: Vec<u8>,
}

impl Reader {
    /// Opens the file for reading.
    ///
    /// # Errors
    ///
    /// When there is no ledger at `path`, or it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, DatabaseError> {
        Ok(Self { database: database::open_reader(path)? })
    }

    pub(crate) const fn database(&self) -> &Connection {
        &self.database
    }

    #[cfg(test)]
    pub(crate) const fn over(database: Connection) -> Self {
        Self { database }
    }

    /// The public key that the file names as its own. It proves nothing about who wrote the file.
    ///
    /// # Errors
    ///
    /// When the file names none, or a malformed one.
    pub fn vkey(&self) -> Result<Vkey, DatabaseError> {
        let vkey: String = self.database.query_row("SELECT vkey FROM log", [], |row| row.get(0))?;
        Ok(vkey.parse()?)
    }

    /// How many records there are.
    ///
    /// # Errors
    ///
    /// When SQLite refuses.
    pub fn size(&self) -> Result<u64, ReadError> {
        Ok(self.database.query_row("SELECT IFNULL(MAX(idx), -1) + 1 FROM leaf", [], |row| row.get(0))?)
    }

    /// The newest signed checkpoint, as its note.
    ///
    /// # Errors
    ///
    /// When SQLite refuses.
    pub fn newest_checkpoint(&self) -> Result<Option<String>, ReadError> {
        let select = "SELECT note FROM checkpoint ORDER BY size DESC LIMIT 1";
        Ok(self.database.query_row(select, [], |row| row.get(0)).optional()?)
    }

    /// The exact bytes of a record.
    ///
    /// # Errors
    ///
    /// When SQLite refuses.
    pub fn bytes(&self, index: u64) -> Result<Option<Vec<u8>>, ReadError> {
        let mut select = self.database.prepare_cached("SELECT bytes FROM entry WHERE idx = ?1")?;
        Ok(select.query_row([index], |row| row.get(0)).optional()?)
    }

    /// A record.
    ///
    /// # Errors
    ///
    /// When it is not there or its bytes are not a record.
    pub fn record(&self, index: u64) -> Result<At<Record>, ReadError> {
        let bytes = self.bytes(index)?.ok_or(ReadError::Index(index))?;
        let value = Record::parse(&bytes).map_err(|source| ReadError::Record { index, source })?;
        Ok(At { index, value })
    }

    /// The signed request of an operation; the first one when its id was used again.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub fn header(&self, operation: OperationId) -> Result<Option<At<Header>>, ReadError> {
        let select = "SELECT idx FROM header WHERE operation = ?1 ORDER BY idx LIMIT 1";
        let found = self.database.query_row(select, [operation.0], |row| row.get(0)).optional()?;
        let Some(index) = found else { return Ok(None) };
        match self.record(index)?.value.body {
            Body::Header(value) => Ok(Some(At { index, value })),
            Body::Intent(_)
            | Body::Refused(_)
            | Body::Result(_)
            | Body::Late(_)
            | Body::Receipts(_)
            | Body::Event(..) => Err(ReadError::Index(index)),
        }
    }

    /// The operations whose id begins with these hex digits, at most two of them.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub fn operations_beginning(&self, digits: &str) -> Result<Vec<OperationId>, ReadError> {
        let (low, high) = (format!("{digits:0<32}").parse(), format!("{digits:f<32}").parse());
        let (Ok(OperationId(low)), Ok(OperationId(high))) = (low, high) else { return Ok(Vec::new()) };
        let mut select = self.database.prepare_cached(
            "SELECT DISTINCT operation FROM operation WHERE operation BETWEEN ?1 AND ?2 ORDER BY operation LIMIT 2",
        )?;
        let rows = select.query_map([low, high], |row| row.get(0).map(OperationId))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// What was recorded of an operation, on one host or on all, in the order of the records.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub fn stories(&self, operation: OperationId, host: Option<&HostName>) -> Result<Vec<Story>, ReadError> {
        let mut select = self.database.prepare_cached(
            "SELECT first, result, late FROM operation WHERE operation = ?1 AND (?2 IS NULL OR host = ?2) ORDER BY first",
        )?;
        let host = host.map(ToString::to_string);
        let rows = select.query_map(params![operation.0, host], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let rows: Vec<(u64, Option<u64>, Option<u64>)> = rows.collect::<Result<_, _>>()?;
        rows.into_iter().map(|(first, result, late)| self.story(first, result, late)).collect()
    }

    fn story(&self, first: u64, result: Option<u64>, late: Option<u64>) -> Result<Story, ReadError> {
        Ok(Story {
            first: self.record(first)?,
            result: result.map(|index| self.record(index)).transpose()?,
            late: late.map(|index| self.record(index)).transpose()?,
        })
    }

    /// The intents without a result, oldest first; with `unknown`, also those whose result is `unknown` to this day.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub fn open_operations(&self, unknown: bool) -> Result<Vec<OpenOperation>, ReadError> {
        let mut select = self.database.prepare_cached(
            "SELECT first, result FROM operation WHERE outcome IS NULL
             UNION ALL SELECT first, result FROM operation WHERE outcome = ?1 AND late IS NULL AND ?2
             ORDER BY first",
        )?;
        let rows =
            select.query_map(params![Outcome::Unknown.as_str(), unknown], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let rows: Vec<(u64, Option<u64>)> = rows.collect::<Result<_, _>>()?;
        let open = rows.into_iter().map(|(first, unknown)| {
            let Body::Intent(value) = self.record(first)?.value.body else { return Err(ReadError::Index(first)) };
            Ok(OpenOperation { intent: At { index: first, value }, unknown })
        });
        open.collect()
    }

    /// The newest entry of a host's receipt chain.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub fn last_receipt(&self, host: &HostName) -> Result<Option<LastReceipt>, ReadError> {
        let select = "SELECT generation, seq, idx, position FROM chain WHERE host = ?1";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
        let found = self.database.query_row(select, [host.to_string()], read).optional()?;
        let Some((generation, seq, index, position)) = found else { return Ok(None) };
        let position: u64 = position;
        let record = self.record(index)?.value;
        let receipts = match &record.body {
            Body::Result(verdict) | Body::Late(verdict) => verdict.receipts.as_slice(),
            Body::Receipts(receipts) => receipts.receipts.as_slice(),
            Body::Header(_) | Body::Intent(_) | Body::Refused(_) | Body::Event(..) => &[],
        };
        let at = usize::try_from(position).ok().and_then(|at| receipts.get(at)).ok_or(ReadError::Index(index))?;
        Ok(Some(LastReceipt { generation, seq, signed: self.evidence(at)? }))
    }

    /// The bytes of something signed, wherever they lie.
    ///
    /// # Errors
    ///
    /// When they are not there, or are not what the record commits to.
    pub fn evidence(&self, evidence: &Evidence) -> Result<Vec<u8>, ReadError> {
        match evidence.pointer() {
            Some(pointer) => self.content(pointer),
            None => Ok(evidence.inline_bytes().ok_or(ContentError::Unpack)?),
        }
    }

    /// Content, checked against what the record commits to.
    ///
    /// # Errors
    ///
    /// When it is not there, sealed, or not what the record commits to.
    pub fn content(&self, pointer: &Pointer) -> Result<Vec<u8>, ReadError> {
        let mut select = self.database.prepare_cached("SELECT key, bytes FROM blob WHERE address = ?1")?;
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, Option<String>>(0)?, row.get::<_, Vec<u8>>(1)?));
        let found = select.query_row([pointer.blob.0], read).optional()?;
        let (key, packed) = found.ok_or(ContentError::Missing)?;
        if key.is_some() {
            return Err(ContentError::Sealed.into());
        }
        Ok(pointer.open(&packed)?.1)
    }
}
