//! The records themselves: every leaf from its bytes, every root from the leaves, every index from the records.

use std::collections::HashMap;
use std::iter::Peekable;
use std::vec::IntoIter;

use reeve_wire::merkle::{Tree, leaf_hash};
use reeve_wire::receipt::Outcome;
use rusqlite::{Connection, OptionalExtension as _};

use super::heads::{Agreement, Heads};
use super::{Fault, Finding, Report, evidence};
use crate::content::Pointer;
use crate::database;
use crate::index::{self, Placed, Unfit};
use crate::reader::{ReadError, Reader};
use crate::record::Record;

/// How often progress is reported, in records.
const PROGRESS: u64 = 1024;

struct Walk<'a> {
    reader: &'a Reader,
    heads: &'a Heads,
    sizes: Peekable<IntoIter<u64>>,
    rebuilt: &'a Connection,
    customers: HashMap<String, u64>,
    /// The index that comes next.
    next: u64,
    /// The tree up to there; none once a record was missing.
    tree: Option<Tree>,
    /// The size of the last checkpoint that held, until one does not.
    held: Option<u64>,
    /// Records whose own bytes and leaf already disagree.
    modified: u64,
}

/// Walks over every record. Returns the indexes as the records give them, and whether no record was modified: if one
/// was, they are not those that the writer made.
pub(super) fn check(
    reader: &Reader,
    heads: &Heads,
    report: &mut Report,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Connection, bool), ReadError> {
    let rebuilt = Connection::open("")?;
    database::create_schema(&rebuilt)?;
    rebuilt.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN")?;
    let total = reader.size()?;
    let sizes = heads.sizes().into_iter().peekable();
    let mut walk = Walk {
        reader,
        heads,
        sizes,
        rebuilt: &rebuilt,
        customers: HashMap::new(),
        next: 0,
        tree: Some(Tree::new()),
        held: Some(0),
        modified: 0,
    };
    walk.compare_root(report);

    let mut select = reader.database().prepare(
        "SELECT leaf.idx, leaf.hash, entry.bytes FROM leaf LEFT JOIN entry ON entry.idx = leaf.idx ORDER BY leaf.idx",
    )?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (index, hash): (u64, Vec<u8>) = (row.get(0)?, row.get(1)?);
        walk.skip_to(index, report)?;
        let bytes: Option<Vec<u8>> = row.get(2)?;
        walk.record(&hash, bytes.as_deref(), report)?;
        if index.is_multiple_of(PROGRESS) {
            progress(index, total);
        }
    }
    progress(total, total);
    report.records = walk.next;
    report.root = walk.tree.as_ref().map(Tree::root);
    report.signed = heads.own.keys().copied().rfind(|size| *size <= report.records).unwrap_or(0);
    heads.beyond(report.records, report);
    if report.records > 0 && heads.own.is_empty() {
        report.add(Finding::new(Fault::Malformed, "no checkpoint in the file signs any of the records"));
    }
    surplus_entries(reader.database(), report)?;
    let intact = walk.modified == 0;
    Ok((rebuilt, intact))
}

impl Walk<'_> {
    /// Reports records that are missing before `index`, and goes on from there without a tree.
    fn skip_to(&mut self, index: u64, report: &mut Report) -> Result<(), ReadError> {
        let next = self.next;
        if index == next {
            return Ok(());
        }
        let missing = match index.saturating_sub(1) {
            last if last == next => "it is missing".to_owned(),
            last => format!("it is missing, and so are all up to {last}"),
        };
        let finding = Finding::new(Fault::Modified, missing).at(next);
        report.add(self.named_by_index(finding, next)?);
        self.modified += 1;
        self.next = index;
        self.tree = None;
        Ok(())
    }

    fn record(&mut self, hash: &[u8], bytes: Option<&[u8]>, report: &mut Report) -> Result<(), ReadError> {
        let index = self.next;
        let computed = bytes.map(leaf_hash);
        let intact = computed.is_some_and(|computed| computed == hash);
        self.next += 1;
        if let Some(tree) = &mut self.tree {
            tree.append(hash.try_into().unwrap_or_default());
        }
        let parsed = bytes.map(Record::parse);
        if !intact {
            self.modified += 1;
            let what = if bytes.is_some() {
                "it was modified: its bytes are not those of its leaf"
            } else {
                "its bytes are missing"
            };
            let finding = Finding::new(Fault::Modified, what).at(index);
            let named = self.named_by_index(finding, index)?;
            report.add(match parsed.as_ref() {
                Some(Ok(record)) if named.operation.is_none() => named.of(record.body.operation(), record.body.host()),
                _ => named,
            });
        }
        match parsed {
            Some(Ok(record)) => self.parsed(index, &record, intact, report)?,
            Some(Err(error)) if intact => {
                report.add(Finding::new(Fault::Malformed, format!("it cannot be read: {error}")).at(index));
            }
            Some(Err(_)) | None => (),
        }
        self.compare_root(report);
        Ok(())
    }

    fn parsed(&mut self, index: u64, record: &Record, intact: bool, report: &mut Report) -> Result<(), ReadError> {
        let at = |finding: Finding| finding.at(index).of(record.body.operation(), record.body.host());
        if let Err(unfit) = index::check(self.rebuilt, &record.body)? {
            let what = match unfit {
                Unfit::NoIntent => "it ends an operation of which no intent was recorded",
                Unfit::Ended => "it ends an operation that had ended",
            };
            report.add(at(Finding::new(Fault::Malformed, what)));
        }
        index::enter(self.rebuilt, &Placed::of(index, record))?;
        if !intact {
            return Ok(());
        }
        self.number(index, record, report);
        for pointer in record.body.pointers() {
            if let Some(what) = self.blob(pointer)? {
                report.add(at(Finding::new(Fault::Blob, what)));
            }
            report.blobs += 1;
        }
        for what in evidence::check(self.reader, self.rebuilt, &report.vkey, record)? {
            report.add(at(Finding::new(Fault::Receipt, what)));
        }
        Ok(())
    }

    /// A customer's records are numbered from 0 without gaps.
    fn number(&mut self, index: u64, record: &Record, report: &mut Report) {
        let expected = record.customer.as_ref().map(|customer| {
            let next = self.customers.entry(customer.to_string()).or_insert(0);
            let expected = *next;
            *next = record.number.unwrap_or(expected).saturating_add(1);
            expected
        });
        if record.number != expected && self.modified == 0 {
            let what = "its number among the customer's records is not the next one";
            report.add(Finding::new(Fault::Malformed, what).at(index).of(record.body.operation(), record.body.host()));
        }
    }

    fn blob(&self, pointer: &Pointer) -> Result<Option<String>, ReadError> {
        match self.reader.content(pointer) {
            Ok(_) => Ok(None),
            Err(ReadError::Content(error)) => Ok(Some(format!("content {}: {error}", pointer.blob))),
            Err(other) => Err(other),
        }
    }

    /// Compares the root with whatever signs this size.
    fn compare_root(&mut self, report: &mut Report) {
        let size = self.next;
        let Some(tree) = &self.tree else { return };
        if self.sizes.next_if_eq(&size).is_none() {
            return;
        }
        match (self.heads.compare(size, &tree.root(), report), self.held) {
            (Agreement::Holds, Some(_)) => self.held = Some(size),
            (Agreement::Differs, Some(held)) => {
                self.held = None;
                if self.modified == 0 {
                    let last = size.saturating_sub(1);
                    let what = format!(
                        "a record from {held} to {last} was replaced: the checkpoint of size {size} signs another root"
                    );
                    report.add(Finding::new(Fault::Modified, what).at(held));
                }
            }
            (Agreement::Differs | Agreement::Holds, _) | (Agreement::Unsigned, _) => (),
        }
    }

    /// Names the operation of a record that may no longer say it itself, as the file's index has it.
    fn named_by_index(&self, finding: Finding, index: u64) -> Result<Finding, ReadError> {
        let select = "SELECT operation, host FROM operation WHERE ?1 IN (first, result, late)
                      UNION ALL SELECT operation, NULL FROM header WHERE idx = ?1 LIMIT 1";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, [u8; 16]>(0)?, row.get::<_, Option<String>>(1)?));
        let found = self.reader.database().query_row(select, [index], read).optional()?;
        let Some((operation, host)) = found else { return Ok(finding) };
        let host = host.and_then(|host| host.parse().ok());
        Ok(finding.of(Some(reeve_wire::id::OperationId(operation)), host.as_ref()))
    }
}

/// Records without a leaf are in no tree.
fn surplus_entries(file: &Connection, report: &mut Report) -> Result<(), ReadError> {
    let select = "SELECT idx FROM entry WHERE idx NOT IN (SELECT idx FROM leaf) ORDER BY idx LIMIT 1";
    let surplus: Option<i64> = file.query_row(select, [], |row| row.get(0)).optional()?;
    if let Some(index) = surplus {
        let finding = Finding::new(Fault::Modified, "it has no leaf: it was never part of the log");
        report.add(u64::try_from(index).map_or_else(|_| finding.clone(), |index| finding.clone().at(index)));
    }
    Ok(())
}

/// Counts what is open and what is unknown, and reports what is open past its deadline.
pub(super) fn overdue(rebuilt: &Connection, now_us: u64, report: &mut Report) -> Result<(), ReadError> {
    let count = "SELECT COUNT(*) FROM operation WHERE outcome = ?1 AND late IS NULL";
    report.unknown = rebuilt.query_row(count, [Outcome::Unknown.as_str()], |row| row.get(0))?;
    let mut select = rebuilt
        .prepare("SELECT first, operation, host, deadline FROM operation WHERE outcome IS NULL ORDER BY first")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        report.open += 1;
        let (index, operation, host, deadline): (u64, [u8; 16], Option<String>, u64) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        if deadline < now_us {
            let host = host.and_then(|host| host.parse().ok());
            let finding = Finding::new(Fault::Overdue, "it is open past its deadline, and no record says unknown");
            report.add(finding.at(index).of(Some(reeve_wire::id::OperationId(operation)), host.as_ref()));
        }
    }
    Ok(())
}
