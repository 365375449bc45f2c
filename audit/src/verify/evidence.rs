//! What others signed, held against the records in which it stands. Their signatures need the trust bundle and are
//! not checked here; that each names the same operation, host, request, grant and leaf is.

use reeve_wire::grant::Grant;
use reeve_wire::id::Digest;
use reeve_wire::note::Vkey;
use reeve_wire::receipt::{Event, Receipt, StreamReceipt};
use reeve_wire::request::Header as RequestHeader;
use reeve_wire::signed::Signed;
use rusqlite::{Connection, OptionalExtension as _};

use crate::content::Pointer;
use crate::index::read_receipt;
use crate::reader::{ReadError, Reader};
use crate::record::{Body, Evidence, Header, Intent, Order, Record, Verdict};

/// Everything that does not fit, a sentence each.
pub(super) fn check(
    reader: &Reader,
    rebuilt: &Connection,
    log: &Vkey,
    record: &Record,
) -> Result<Vec<String>, ReadError> {
    match &record.body {
        Body::Header(header) => header_of(reader, header),
        Body::Intent(Intent { order, .. }) => order_of(reader, rebuilt, order),
        Body::Result(verdict) | Body::Late(verdict) => verdict_of(reader, log, verdict),
        Body::Refused(_) | Body::Receipts(_) | Body::Event(..) => Ok(Vec::new()),
    }
}

/// The bytes of something signed; none when they are not there, which is a finding of its own.
fn signed(reader: &Reader, evidence: &Evidence) -> Result<Option<Vec<u8>>, ReadError> {
    match reader.evidence(evidence) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(ReadError::Content(_)) if evidence.pointer().is_some() => Ok(None),
        Err(ReadError::Content(_)) => Ok(Some(Vec::new())),
        Err(other) => Err(other),
    }
}

fn header_of(reader: &Reader, header: &Header) -> Result<Vec<String>, ReadError> {
    let Some(bytes) = signed(reader, &header.request)? else { return Ok(Vec::new()) };
    let Ok(request) = Signed::from_wire(&bytes) else {
        return Ok(vec!["the signed request cannot be read".to_owned()]);
    };
    let says = request.peek_unverified::<RequestHeader>();
    let mut misfits = Vec::new();
    if request.digest() != header.digest {
        misfits.push("the signed request is not the one of its digest".to_owned());
    }
    match says {
        Ok(says) => {
            if says.operation != header.operation {
                misfits.push("the signed request is for another operation".to_owned());
            }
            if !same_input(reader, says.stdin, header.stdin)? {
                misfits.push("the standard input beside it is not the one that the request signs".to_owned());
            }
        }
        Err(error) => misfits.push(format!("the signed request cannot be read: {error}")),
    }
    Ok(misfits)
}

/// Input that was signed may be absent from the record; input that is there must be the signed one.
fn same_input(reader: &Reader, signed: Option<Digest>, recorded: Option<Pointer>) -> Result<bool, ReadError> {
    let Some(pointer) = recorded else { return Ok(true) };
    match reader.content(&pointer) {
        Ok(bytes) => Ok(signed == Some(Digest::of(&bytes))),
        Err(ReadError::Content(_)) => Ok(true),
        Err(other) => Err(other),
    }
}

fn order_of(reader: &Reader, rebuilt: &Connection, order: &Order) -> Result<Vec<String>, ReadError> {
    let Some(digest) = order.request else { return Ok(Vec::new()) };
    let mut select = rebuilt.prepare_cached("SELECT idx FROM header WHERE operation = ?1 ORDER BY idx")?;
    let headers: Vec<u64> = select.query_map([order.operation.0], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for index in headers {
        let read = reader.record(index);
        let same = read.is_ok_and(|at| matches!(at.value.body, Body::Header(header) if header.digest == digest));
        if same {
            return Ok(Vec::new());
        }
    }
    Ok(vec![format!("no signed request {digest} was recorded before it")])
}

fn verdict_of(reader: &Reader, log: &Vkey, verdict: &Verdict) -> Result<Vec<String>, ReadError> {
    let mut misfits = Vec::new();
    let Some((order, leaf)) = intent_of(reader, verdict.intent)? else { return Ok(misfits) };
    let mut grant_digest = None;
    if let Some(evidence) = &verdict.grant
        && let Some(bytes) = signed(reader, evidence)?
    {
        grant_digest = Signed::from_wire(&bytes).ok().map(|grant| grant.digest());
        let grant = Signed::from_wire(&bytes).ok().and_then(|grant| grant.peek_unverified::<Grant>().ok());
        match grant {
            None => misfits.push("the grant cannot be read".to_owned()),
            Some(grant) => grant_misfits(&grant, verdict, &order, leaf, log, &mut misfits),
        }
    }
    for (place, evidence) in verdict.receipts.iter().enumerate() {
        let Some(bytes) = signed(reader, evidence)? else { continue };
        match read_receipt(&bytes) {
            None => misfits.push(format!("receipt {} cannot be read", place + 1)),
            Some(receipt) => {
                let wrong = receipt_misfits(&receipt, verdict, &order, grant_digest);
                misfits.extend(wrong.into_iter().map(|what| format!("receipt {} {what}", place + 1)));
            }
        }
    }
    Ok(misfits)
}

/// What the verdict's intent asked, and its leaf; none when it is no intent, which is a finding of its own.
fn intent_of(reader: &Reader, index: u64) -> Result<Option<(Order, Digest)>, ReadError> {
    let hash: Option<Vec<u8>> =
        reader.database().query_row("SELECT hash FROM leaf WHERE idx = ?1", [index], |row| row.get(0)).optional()?;
    let leaf = hash.and_then(|hash| hash.try_into().ok()).map(Digest);
    match (reader.record(index), leaf) {
        (Ok(at), Some(leaf)) => match at.value.body {
            Body::Intent(intent) => Ok(Some((intent.order, leaf))),
            Body::Header(_)
            | Body::Refused(_)
            | Body::Result(_)
            | Body::Late(_)
            | Body::Receipts(_)
            | Body::Event(..) => Ok(None),
        },
        (Err(ReadError::Record { .. } | ReadError::Index(_)), _) | (Ok(_), None) => Ok(None),
        (Err(other), _) => Err(other),
    }
}

fn grant_misfits(grant: &Grant, verdict: &Verdict, order: &Order, leaf: Digest, log: &Vkey, misfits: &mut Vec<String>) {
    let checks = [
        (grant.operation == verdict.operation, "operation"),
        (grant.host == verdict.host, "host"),
        (order.request.is_none_or(|request| grant.request == request), "request"),
        (grant.leaf == leaf, "leaf"),
        (grant.log == log.name(), "log"),
    ];
    let wrong =
        checks.into_iter().filter(|(fits, _)| !fits).map(|(_, what)| format!("the grant is for another {what}"));
    misfits.extend(wrong);
}

fn receipt_misfits(receipt: &Receipt, verdict: &Verdict, order: &Order, grant: Option<Digest>) -> Vec<String> {
    let mut checks = vec![
        (receipt.host == verdict.host, "is of another host"),
        (receipt.operation == Some(verdict.operation), "is of another operation"),
        (both_or_equal(receipt.request, order.request), "is for another request"),
        (both_or_equal(receipt.grant, grant), "is for another grant"),
    ];
    if receipt.event == Event::Ended {
        checks.push((receipt.outcome == Some(verdict.outcome), "says another outcome"));
        checks.push((receipt.exit_status == verdict.exit_status, "says another exit status"));
        checks.push((same_stream(receipt.stdout, verdict.stdout), "commits to another standard output"));
        checks.push((same_stream(receipt.stderr, verdict.stderr), "commits to another standard error"));
    }
    checks.into_iter().filter(|(fits, _)| !fits).map(|(_, what)| what.to_owned()).collect()
}

/// Whether two digests are equal, where both are known.
fn both_or_equal(one: Option<Digest>, other: Option<Digest>) -> bool {
    one.zip(other).is_none_or(|(one, other)| one == other)
}

/// Output that was lost on its way leaves the receipt's commitment without content; content needs a commitment.
fn same_stream(receipt: Option<StreamReceipt>, recorded: Option<Pointer>) -> bool {
    match (receipt, recorded) {
        (Some(receipt), Some(recorded)) => receipt.commitment == recorded.commitment,
        (None | Some(_), None) => true,
        (None, Some(_)) => false,
    }
}
