//! The tables that make questions quick. What they say follows from the records alone, so they can be rebuilt, and
//! `verify` rebuilds them to compare.

use reeve_wire::receipt::{Outcome, Receipt};
use reeve_wire::signed::Signed;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::record::{Body, Evidence, Intent, Order, Record, Refused, Verdict};

/// A record at its place, as the indexes need it.
pub(crate) struct Placed<'a> {
    pub(crate) index: u64,
    pub(crate) time_us: u64,
    pub(crate) customer: Option<&'a str>,
    pub(crate) body: &'a Body,
}

impl<'a> Placed<'a> {
    pub(crate) fn of(index: u64, record: &'a Record) -> Self {
        let customer = record.customer.as_ref().map(|name| name.as_str());
        Self { index, time_us: record.stamp.time_us, customer, body: &record.body }
    }
}

/// What a verdict may not be attached to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Unfit {
    /// No intent of this operation and host lies where the verdict points.
    NoIntent,
    /// The intent has a result already, or a late result does not resolve its unknown one.
    Ended,
}

/// Checks that a result has an open intent, or a late one an unknown result.
pub(crate) fn check(database: &Connection, body: &Body) -> rusqlite::Result<Result<(), Unfit>> {
    let (Body::Result(verdict) | Body::Late(verdict)) = body else { return Ok(Ok(())) };
    let mut find = database.prepare_cached(
        "SELECT result, late, outcome FROM operation
         WHERE first = ?1 AND operation = ?2 AND host = ?3 AND decision = 'allowed'",
    )?;
    let found = find
        .query_row(params![verdict.intent, verdict.operation.0, verdict.host.to_string()], |row| {
            Ok((row.get::<_, Option<u64>>(0)?, row.get::<_, Option<u64>>(1)?, row.get::<_, Option<String>>(2)?))
        })
        .optional()?;
    let unknown = Outcome::Unknown.as_str();
    Ok(match (found, verdict.resolves) {
        (None, _) => Err(Unfit::NoIntent),
        (Some((None, _, _)), None) => Ok(()),
        (Some((Some(result), None, Some(outcome))), Some(resolves)) if result == resolves && outcome == unknown => {
            Ok(())
        }
        (Some(_), _) => Err(Unfit::Ended),
    })
}

/// Enters one record.
pub(crate) fn enter(database: &Connection, placed: &Placed<'_>) -> rusqlite::Result<()> {
    if let Some(customer) = placed.customer {
        let mut count = database.prepare_cached(
            "INSERT INTO customer (name, records) VALUES (?1, 1)
             ON CONFLICT (name) DO UPDATE SET records = records + 1",
        )?;
        count.execute([customer])?;
    }
    match placed.body {
        Body::Header(header) => {
            let mut insert = database.prepare_cached("INSERT INTO header (idx, operation) VALUES (?1, ?2)")?;
            insert.execute(params![placed.index, header.operation.0])?;
        }
        Body::Intent(Intent { order, deadline }) => enter_order(database, placed, order, Some(*deadline))?,
        Body::Refused(Refused { order, .. }) => enter_order(database, placed, order, None)?,
        Body::Result(verdict) => enter_verdict(database, placed, verdict, "result")?,
        Body::Late(verdict) => enter_verdict(database, placed, verdict, "late")?,
        Body::Receipts(receipts) => enter_receipts(database, placed, &receipts.receipts)?,
        Body::Event(..) => enter_event(database, placed)?,
    }
    Ok(())
}

fn enter_order(
    database: &Connection,
    placed: &Placed<'_>,
    order: &Order,
    deadline: Option<u64>,
) -> rusqlite::Result<()> {
    let allowed = deadline.is_some();
    let mut insert = database.prepare_cached(
        "INSERT INTO operation (first, operation, host, customer, user, time, level, decision, \"case\", command,
                                deadline, outcome)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?;
    insert.execute(params![
        placed.index,
        order.operation.0,
        order.host.as_ref().map(ToString::to_string),
        placed.customer,
        order.user.as_str(),
        placed.time_us,
        order.level_required.map(|level| level.number()),
        if allowed { "allowed" } else { "refused" },
        order.case.as_ref().map(|case| case.to_lossy()),
        order.command.as_ref().map(|command| command.text.to_lossy()),
        deadline,
        (!allowed).then_some(Outcome::Refused.as_str()),
    ])?;
    Ok(())
}

fn enter_verdict(database: &Connection, placed: &Placed<'_>, verdict: &Verdict, column: &str) -> rusqlite::Result<()> {
    let mut update = database.prepare_cached(&format!(
        "UPDATE operation SET {column} = ?1, outcome = ?2 WHERE first = ?3 AND operation = ?4 AND host = ?5"
    ))?;
    let host = verdict.host.to_string();
    update.execute(params![placed.index, verdict.outcome.as_str(), verdict.intent, verdict.operation.0, host])?;
    enter_receipts(database, placed, &verdict.receipts)
}

fn enter_event(database: &Connection, placed: &Placed<'_>) -> rusqlite::Result<()> {
    let Body::Event(kind, event) = placed.body else { return Ok(()) };
    let mut insert = database.prepare_cached(
        "INSERT INTO event (idx, kind, time, user, customer, host, operation) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    insert.execute(params![
        placed.index,
        kind.as_str(),
        placed.time_us,
        event.user.as_ref().map(|user| user.to_lossy()),
        placed.customer,
        event.host.as_ref().map(ToString::to_string),
        event.operation.map(|operation| operation.0),
    ])?;
    Ok(())
}

/// Keeps which receipt is the newest of the host's chain. A receipt that does not parse moves nothing.
fn enter_receipts(database: &Connection, placed: &Placed<'_>, receipts: &[Evidence]) -> rusqlite::Result<()> {
    let Some(host) = placed.body.host() else { return Ok(()) };
    for (position, receipt) in receipts.iter().enumerate() {
        let Some(read) = receipt.inline_bytes().and_then(|bytes| read_receipt(&bytes)) else { continue };
        let mut newest = database.prepare_cached(
            "INSERT INTO chain (host, generation, seq, idx, position) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (host) DO UPDATE SET generation = excluded.generation, seq = excluded.seq,
                                              idx = excluded.idx, position = excluded.position
             WHERE (excluded.generation, excluded.seq) > (generation, seq)",
        )?;
        newest.execute(params![host.to_string(), read.generation, read.seq, placed.index, position as u64])?;
    }
    Ok(())
}

/// What a receipt says; its signature was checked by whoever took it.
pub(crate) fn read_receipt(bytes: &[u8]) -> Option<Receipt> {
    Signed::from_wire(bytes).ok()?.peek_unverified().ok()
}
