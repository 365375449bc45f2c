//! What is read back when a ledger is opened, and what must hold before anything is appended to it.

use std::collections::HashMap;

use reeve_wire::merkle::{Hash, Tree, leaf_hash};
use reeve_wire::note::{Checkpoint, LogSigner, SignedCheckpoint};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::Head;
use crate::DatabaseError;
use crate::nodes::Nodes;
use crate::record::Record;

/// How many of the newest records are read whole and compared with their leaves.
const TAIL: u64 = 256;

/// Reads every leaf and the newest checkpoint, checks one against the other, and the newest records against their
/// leaves. Signs a checkpoint when the newest one does not reach the end.
pub(super) fn read(
    database: &mut Connection,
    signer: &LogSigner,
    nodes: &mut Nodes,
) -> Result<(Head, SignedCheckpoint), DatabaseError> {
    own(database, signer)?;
    let newest = newest_checkpoint(database, signer)?;
    let size = newest.as_ref().map_or(0, |signed| signed.checkpoint.size);
    let (tree, root_at_checkpoint) = read_leaves(database, nodes, size)?;
    if let Some(signed) = &newest {
        if tree.size() < size {
            return Err(tail(format!("{} records are there, and a checkpoint signs {size}", tree.size())));
        }
        if root_at_checkpoint != Some(signed.checkpoint.root) {
            return Err(tail(format!("the records do not give the root that the checkpoint of size {size} signs")));
        }
    }
    check_entries(database, tree.size())?;
    let customers = read_customers(database)?;
    let newest = match newest {
        Some(signed) if size == tree.size() => signed,
        _ => sign(database, signer, &tree)?,
    };
    Ok((Head { signed: tree.size(), tree, customers }, newest))
}

fn tail(what: String) -> DatabaseError {
    DatabaseError::Tail(what)
}

/// A fresh file becomes this log's; any other must be it already.
fn own(database: &Connection, signer: &LogSigner) -> Result<(), DatabaseError> {
    let ours = signer.vkey().to_string();
    let found: Option<String> = database.query_row("SELECT vkey FROM log", [], |row| row.get(0)).optional()?;
    match found {
        Some(found) if found == ours => Ok(()),
        Some(found) => Err(DatabaseError::WrongKey { found }),
        None => {
            let insert = "INSERT INTO log (one, origin, vkey) VALUES (1, ?1, ?2)";
            database.execute(insert, params![signer.vkey().name(), ours])?;
            Ok(())
        }
    }
}

fn newest_checkpoint(database: &Connection, signer: &LogSigner) -> Result<Option<SignedCheckpoint>, DatabaseError> {
    let select = "SELECT note FROM checkpoint ORDER BY size DESC LIMIT 1";
    let note: Option<String> = database.query_row(select, [], |row| row.get(0)).optional()?;
    let opened = note.map(|note| Checkpoint::open(note.as_bytes(), signer.vkey())).transpose();
    opened.map_err(|error| tail(format!("the newest checkpoint cannot be believed: {error}")))
}

/// Reads every leaf; also the root after the first `checkpoint` of them.
fn read_leaves(
    database: &Connection,
    nodes: &mut Nodes,
    checkpoint: u64,
) -> Result<(Tree, Option<Hash>), DatabaseError> {
    let mut tree = Tree::new();
    let mut root = (checkpoint == 0).then(|| tree.root());
    let mut select = database.prepare("SELECT idx, hash FROM leaf ORDER BY idx")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (index, hash): (u64, Hash) = (row.get(0)?, row.get(1)?);
        if index != tree.size() {
            return Err(tail(format!("record {} is missing", tree.size())));
        }
        tree.append(hash);
        nodes.append(hash);
        if tree.size() == checkpoint {
            root = Some(tree.root());
        }
    }
    Ok((tree, root))
}

fn check_entries(database: &Connection, size: u64) -> Result<(), DatabaseError> {
    let mut select = database.prepare(
        "SELECT leaf.idx, hash, bytes FROM leaf LEFT JOIN entry USING (idx) WHERE leaf.idx >= ?1 ORDER BY leaf.idx",
    )?;
    let mut rows = select.query([size.saturating_sub(TAIL)])?;
    while let Some(row) = rows.next()? {
        let (index, hash, bytes): (u64, Hash, Option<Vec<u8>>) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let bytes = bytes.ok_or_else(|| tail(format!("record {index} is missing")))?;
        if leaf_hash(&bytes) != hash {
            return Err(tail(format!("record {index} was modified")));
        }
        Record::parse(&bytes).map_err(|error| tail(format!("record {index} cannot be read: {error}")))?;
    }
    Ok(())
}

fn read_customers(database: &Connection) -> Result<HashMap<String, u64>, DatabaseError> {
    let mut select = database.prepare("SELECT name, records FROM customer")?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn sign(database: &Connection, signer: &LogSigner, tree: &Tree) -> Result<SignedCheckpoint, DatabaseError> {
    let origin = signer.vkey().name().to_owned();
    let signed = Checkpoint { origin, size: tree.size(), root: tree.root() }.sign(signer)?;
    let insert = "INSERT INTO checkpoint (size, note) VALUES (?1, ?2)";
    database.execute(insert, params![tree.size(), signed.note])?;
    Ok(signed)
}
