//! Signed heads: the checkpoints in the file, and those that were kept outside.

use std::collections::BTreeMap;

use reeve_wire::merkle::Hash;
use reeve_wire::note::Checkpoint;
use rusqlite::Connection;

use super::{Fault, Finding, KnownHead, Report};
use crate::reader::ReadError;

/// What the log's key has signed, by size.
#[derive(Debug, Default)]
pub(super) struct Heads {
    /// Roots that checkpoints in the file sign.
    pub(super) own: BTreeMap<u64, Hash>,
    /// Roots that heads from outside sign, and the files that say so.
    pub(super) outside: BTreeMap<u64, Vec<(Hash, String)>>,
}

/// Reads every checkpoint and every head from outside, and checks their signatures.
pub(super) fn read(file: &Connection, against: &[KnownHead], report: &mut Report) -> Result<Heads, ReadError> {
    let mut heads = Heads::default();
    let mut select = file.prepare("SELECT size, note FROM checkpoint ORDER BY size")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (size, note): (u64, String) = (row.get(0)?, row.get(1)?);
        report.checkpoints += 1;
        match Checkpoint::open(note.as_bytes(), &report.vkey) {
            Ok(signed) if signed.checkpoint.size == size => drop(heads.own.insert(size, signed.checkpoint.root)),
            Ok(signed) => {
                let what = format!("the checkpoint filed under size {size} signs size {}", signed.checkpoint.size);
                report.add(Finding::new(Fault::Malformed, what));
            }
            Err(error) => {
                report.add(Finding::new(Fault::Malformed, format!("the checkpoint of size {size}: {error}")));
            }
        }
    }
    for head in against {
        match Checkpoint::open(&head.note, &report.vkey) {
            Ok(signed) => {
                let roots = heads.outside.entry(signed.checkpoint.size).or_default();
                roots.push((signed.checkpoint.root, head.name.clone()));
            }
            Err(error) => report.add(Finding::new(Fault::Malformed, format!("the head in {}: {error}", head.name))),
        }
    }
    Ok(heads)
}

impl Heads {
    /// The sizes at which the root matters, lowest first.
    pub(super) fn sizes(&self) -> Vec<u64> {
        let mut sizes: Vec<u64> = self.own.keys().chain(self.outside.keys()).copied().collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    /// Compares what is signed at `size` with the root of the records. True when the file's own checkpoint holds.
    pub(super) fn compare(&self, size: u64, root: &Hash, report: &mut Report) -> Agreement {
        for (known, name) in self.outside.get(&size).into_iter().flatten() {
            if known != root {
                let what = format!(
                    "two histories: the head in {name} signs size {size} with root {}, the records give {}; \
                     keep that file and this database as evidence",
                    hex::encode(known),
                    hex::encode(root)
                );
                report.add(Finding::new(Fault::TwoHistories, what));
            }
        }
        match self.own.get(&size) {
            None => Agreement::Unsigned,
            Some(signed) if signed == root => Agreement::Holds,
            Some(_) => Agreement::Differs,
        }
    }

    /// Reports what is signed beyond the last of `records`.
    pub(super) fn beyond(&self, records: u64, report: &mut Report) {
        if let Some((size, _)) = self.own.last_key_value().filter(|(size, _)| **size > records) {
            let what = format!("a checkpoint in the file signs {size} records, and only {records} are there");
            report.add(Finding::new(Fault::Shorter, what));
        }
        for (size, heads) in self.outside.iter().filter(|(size, _)| **size > records) {
            for (_, name) in heads {
                let what = format!("the head in {name} signs {size} records, and only {records} are there");
                report.add(Finding::new(Fault::Shorter, what));
            }
        }
    }
}

/// How the file's own checkpoint of one size compares with the records.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Agreement {
    Unsigned,
    Holds,
    Differs,
}
