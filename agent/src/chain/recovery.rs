//! What the journal says at a start: where the chain ends, what was left open, and which ids must not come again.
//!
//! A mark beside the journal says from where it must be read for that. It only saves time: without it, or when it
//! points past the end, everything is read.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use reeve_wire::id::OperationId;
use reeve_wire::message::ChainEnd;
use reeve_wire::receipt::{Event, Receipt};
use reeve_wire::time::Millis;
use ssh_key::PrivateKey;

use super::{About, ChainError, REMEMBER_FOR, read as read_entry, remember_latest};
use crate::journal::{Entry, Journal, Position};
use crate::state::{read_if_there, store};

/// What a start found out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Recovered {
    /// The machine was started again since the last entry, so the journal's very end may be lost.
    pub rebooted: bool,
    /// How many operations were open and are closed as unknown.
    pub closed: usize,
    /// When the newest operation was accepted: time has not been before that since.
    pub newest_accepted: Option<Millis>,
}

#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) end: Option<ChainEnd>,
    pub(super) latest: VecDeque<ChainEnd>,
    pub(super) used: HashMap<OperationId, Millis>,
    /// Accepted and never ended, oldest first.
    pub(super) open: Vec<About>,
    /// Of the last start.
    pub(super) boot_id: Option<String>,
    pub(super) newest_accepted: Option<Millis>,
    /// The first entry whose id is still remembered.
    pub(super) first_needed: Option<Position>,
    ids: Vec<Id>,
}

/// An id that was used, where, and until when it is remembered.
#[derive(Clone, Copy, Debug)]
struct Id {
    operation: OperationId,
    position: Position,
    until: Millis,
}

pub(super) fn read(directory: &Path, journal: &Journal, key: &PrivateKey) -> Result<Found, ChainError> {
    let from = read_mark(directory)?.filter(|mark| *mark < journal.next()).unwrap_or(Position(0));
    let mut found = Found::default();
    let mut last = None;
    for entry in journal.since(from)? {
        let entry = entry?;
        let (_, receipt) = read_entry(entry.position, &entry.bytes)?;
        found.take(&entry, &receipt);
        last = Some((entry, receipt.at));
    }
    if let Some((last, at)) = last {
        ours(&last, key)?;
        found.remember_ids(at);
    }
    Ok(found)
}

/// The end of the journal must be signed by this server's key: an agent with another key begins another chain.
fn ours(last: &Entry, key: &PrivateKey) -> Result<(), ChainError> {
    let (signed, _) = read_entry(last.position, &last.bytes)?;
    let checked = signed.verify::<Receipt>(key.public_key().key_data());
    checked.map(|_| ()).map_err(|error| ChainError::Foreign { position: last.position, why: error.to_string() })
}

impl Found {
    fn take(&mut self, entry: &Entry, receipt: &Receipt) {
        let digest = reeve_wire::signed::Signed::from_wire(&entry.bytes).map(|signed| signed.digest());
        if let Ok(digest) = digest {
            let end = ChainEnd { generation: receipt.generation, seq: receipt.seq, digest };
            self.end = Some(end);
            remember_latest(&mut self.latest, end);
        }
        if let Some(operation) = receipt.operation.filter(|operation| *operation != super::NO_OPERATION) {
            self.ids.push(Id { operation, position: entry.position, until: receipt.at.plus(REMEMBER_FOR) });
        }
        match (receipt.event, receipt.operation) {
            (Event::Accepted, Some(operation)) => {
                if let (Some(request), Some(grant)) = (receipt.request, receipt.grant) {
                    self.open.push(About { operation, request, grant });
                }
                self.newest_accepted = self.newest_accepted.max(Some(receipt.at));
            }
            (Event::Ended, Some(operation)) => self.open.retain(|about| about.operation != operation),
            (Event::Restarted, _) => self.boot_id.clone_from(&receipt.boot_id),
            (Event::Accepted | Event::Ended | Event::Refused, _) => {}
        }
    }

    /// Keeps the ids whose requests could still be good. What is still good is not measured by this machine's clock,
    /// which may be wrong at a start, but by the newest acceptance, which signed times agreed with.
    fn remember_ids(&mut self, newest: Millis) {
        let since = self.newest_accepted.unwrap_or(newest);
        let ids = std::mem::take(&mut self.ids).into_iter().filter(|id| id.until >= since);
        for Id { operation, position, until } in ids {
            self.first_needed.get_or_insert(position);
            self.used.insert(operation, until);
        }
    }
}

fn mark_path(directory: &Path) -> PathBuf {
    directory.join("mark")
}

pub(super) fn read_mark(directory: &Path) -> Result<Option<Position>, ChainError> {
    let path = mark_path(directory);
    let bytes = read_if_there(&path).map_err(|source| ChainError::Mark { path, source })?;
    Ok(bytes.and_then(|bytes| String::from_utf8(bytes).ok()?.trim().parse().ok()).map(Position))
}

/// Everything that a later start needs stands at `position` or after.
pub(super) fn write_mark(directory: &Path, position: Position) -> Result<(), ChainError> {
    let path = mark_path(directory);
    let written: io::Result<()> = store(&path, format!("{}\n", position.0).as_bytes());
    written.map_err(|source| ChainError::Mark { path, source })
}
