//! The ledger of a real site: whatever is changed in it afterwards is found, what the command line says of it, and a
//! disk that is full.
//!
//! By default every 211th bit of the records is flipped; `REEVE_LONG=1` flips every one.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed, and says what it measured"
)]

mod disk;
mod evidence;
mod sql;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Instant;

use reeve_audit::Reader;
use reeve_audit::verify::{Fault, Report, Settings, verify};
use reeve_wire::time::Clock;
use rusqlite::Connection;
use serde_json::Value;

use evidence::{Evidence, WEB01, audit, unguarded};

/// What `list --json` prints of each line, and `list --csv` as its titles, in this order.
const FIELDS: [&str; 22] = [
    "kind",
    "operation",
    "time",
    "user",
    "user_id",
    "key",
    "customer",
    "host",
    "level_required",
    "level_held",
    "decision",
    "code",
    "reason",
    "command",
    "args",
    "outcome",
    "exit_status",
    "output_sha256",
    "output_bytes",
    "case",
    "record_intent",
    "record_result",
];

fn long() -> bool {
    std::env::var_os("REEVE_LONG").is_some()
}

fn settings(vkey: &str) -> Settings {
    let now_us = Clock::system().now().0 * 1000;
    Settings { vkey: Some(vkey.parse().unwrap()), against: Vec::new(), now_us }
}

fn check(reader: &Reader, settings: &Settings) -> Report {
    verify(reader, settings, |_, _| ()).unwrap()
}

#[test]
fn whatever_is_changed_in_the_ledger_of_a_real_site_is_found_and_named() {
    let evidence = Evidence::new();
    let untouched = evidence.doctored(|_| ());
    assert_eq!(untouched.verify(&[]).status, 0, "{:?}", untouched.verify(&[]));
    let kept = [evidence.early.to_str().unwrap(), evidence.newest.to_str().unwrap()];
    assert_eq!(untouched.verify(&["--against", kept[0], kept[1]]).status, 0);

    flipped_bits(&evidence);
    flipped_bits_by_the_program(&evidence);
    flipped_content_and_heads(&evidence);
    records_moved_about(&evidence);
    a_cut_off_end(&evidence);
    what_the_auditor_reads(&evidence);
}

/// Bits of every record's bytes and of every leaf's hash.
fn flipped_bits(evidence: &Evidence) {
    let began = Instant::now();
    let workers = std::thread::available_parallelism().unwrap().get();
    let flips: usize = std::thread::scope(|scope| {
        let workers = (0..workers).map(|worker| scope.spawn(move || flip_some(evidence, worker, workers)));
        workers.collect::<Vec<_>>().into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    println!("{flips} bits of records were flipped one by one in {:?}", began.elapsed());
}

/// One worker's share of the bits; gives how many.
fn flip_some(evidence: &Evidence, worker: usize, workers: usize) -> usize {
    let copy = evidence.doctored(|_| ());
    let database = unguarded(&copy.path);
    database.execute_batch("PRAGMA journal_mode = MEMORY").unwrap();
    let (reader, settings) = (Reader::open(&copy.path).unwrap(), settings(evidence.vkey()));
    let step = workers * if long() { 1 } else { 211 };
    let (mut flips, mut bits) = (0, worker);
    for (table, column) in [("leaf", "hash"), ("entry", "bytes")] {
        let update = format!("UPDATE {table} SET {column} = ?1 WHERE idx = ?2");
        for index in 0..reader.size().unwrap() {
            let select = format!("SELECT {column} FROM {table} WHERE idx = ?1");
            let original: Vec<u8> = database.query_row(&select, [index], |row| row.get(0)).unwrap();
            for bit in (0..original.len() * 8).filter(|bit| (bits + bit) % step == 0) {
                let mut flipped = original.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                database.execute(&update, (&flipped, index)).unwrap();
                let report = check(&reader, &settings);
                assert_eq!(report.fault(), Some(Fault::Modified), "{table} {index}, bit {bit}");
                let named = report.findings.iter().any(|f| f.fault == Fault::Modified && f.index == Some(index));
                assert!(named, "{table} {index}, bit {bit}: {:?}", report.findings);
                flips += 1;
            }
            bits += original.len() * 8;
            database.execute(&update, (&original, index)).unwrap();
        }
    }
    assert_eq!(check(&reader, &settings).findings, []);
    flips
}

/// The same by the program that an auditor has, first and last bit of each record.
fn flipped_bits_by_the_program(evidence: &Evidence) {
    let records = Reader::open(evidence.ledger()).unwrap().size().unwrap();
    for index in 0..records {
        let last = index % 2 == 0;
        let doctored = evidence.doctored(|database| {
            let select = "SELECT bytes FROM entry WHERE idx = ?1";
            let mut bytes: Vec<u8> = database.query_row(select, [index], |row| row.get(0)).unwrap();
            let at = if last { bytes.len() - 1 } else { 0 };
            bytes[at] ^= if last { 1 } else { 0x80 };
            database.execute("UPDATE entry SET bytes = ?1 WHERE idx = ?2", (bytes, index)).unwrap();
        });
        doctored.found("a bit of a record", 10, &format!("10 record {index}"));
    }
}

fn flipped_content_and_heads(evidence: &Evidence) {
    let change = |table: &str, column: &str, row: usize, at: fn(usize) -> usize| {
        evidence.doctored(|database| {
            let select =
                format!("SELECT rowid, CAST({column} AS BLOB) FROM {table} ORDER BY rowid LIMIT 1 OFFSET {row}");
            let (id, mut bytes): (i64, Vec<u8>) =
                database.query_row(&select, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            let at = at(bytes.len());
            bytes[at] ^= 1;
            let cast = if column == "note" { "CAST(?1 AS TEXT)" } else { "?1" };
            let update = format!("UPDATE {table} SET {column} = {cast} WHERE rowid = ?2");
            database.execute(&update, (bytes, id)).unwrap();
        })
    };
    let count = |table: &str| -> usize {
        let database = Connection::open(evidence.ledger()).unwrap();
        database.query_row(&format!("SELECT COUNT(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    };
    let places: [fn(usize) -> usize; 3] = [|_| 0, |length| length / 2, |length| length - 1];
    let (blobs, heads) = (count("blob"), count("checkpoint"));
    assert!(blobs >= 3 && heads >= 3, "{blobs} pieces of content, {heads} heads");
    for at in places {
        (0..blobs).for_each(|row| change("blob", "bytes", row, at).found("a bit of content", 15, "15 record"));
        (0..heads)
            .for_each(|row| change("checkpoint", "note", row, at).found("a bit of a head", 17, "17: the checkpoint"));
    }
    evidence.doctored_by("DELETE FROM blob WHERE rowid = (SELECT MAX(rowid) FROM blob)").found(
        "content gone",
        15,
        "15 record",
    );
    let swap = "CREATE TEMP TABLE two AS SELECT rowid AS id, bytes FROM blob ORDER BY rowid LIMIT 2;
                UPDATE blob SET bytes = (SELECT bytes FROM two WHERE id <> blob.rowid) WHERE rowid IN (SELECT id FROM two)";
    evidence.doctored_by(swap).found("content exchanged", 15, "15 record");
}

/// Records deleted, exchanged, inserted, replaced with leaves that fit.
fn records_moved_about(evidence: &Evidence) {
    for (what, expected, words, sql) in [
        ("a record without its leaf", 10, "10 record 5", "DELETE FROM leaf WHERE idx = 5"),
        ("a leaf without its record", 10, "10 record 5", "DELETE FROM entry WHERE idx = 5"),
        ("a record gone", 10, "10 record 5", "DELETE FROM entry WHERE idx = 5; DELETE FROM leaf WHERE idx = 5"),
        (
            "a record gone and the gap closed",
            10,
            "10 record",
            "DELETE FROM entry WHERE idx = 5; DELETE FROM leaf WHERE idx = 5;
             UPDATE leaf SET idx = idx + 9999 WHERE idx > 5; UPDATE leaf SET idx = idx - 10000 WHERE idx > 9999;
             UPDATE entry SET idx = idx + 9999 WHERE idx > 5; UPDATE entry SET idx = idx - 10000 WHERE idx > 9999",
        ),
        (
            "two records exchanged under their leaves",
            10,
            "10 record 6",
            "CREATE TEMP TABLE two AS SELECT * FROM entry WHERE idx IN (6, 9);
             UPDATE entry SET bytes = (SELECT bytes FROM two WHERE two.idx = 15 - entry.idx) WHERE idx IN (6, 9)",
        ),
        (
            "two records exchanged with their leaves",
            10,
            "was replaced",
            "CREATE TEMP TABLE two AS SELECT idx, bytes, hash FROM entry JOIN leaf USING (idx) WHERE idx IN (6, 9);
             UPDATE entry SET bytes = (SELECT bytes FROM two WHERE two.idx = 15 - entry.idx) WHERE idx IN (6, 9);
             UPDATE leaf SET hash = (SELECT hash FROM two WHERE two.idx = 15 - leaf.idx) WHERE idx IN (6, 9)",
        ),
        (
            "a record in the place of another",
            10,
            "was replaced",
            "UPDATE entry SET bytes = (SELECT bytes FROM entry WHERE idx = 6) WHERE idx = 9;
             UPDATE leaf SET hash = (SELECT hash FROM leaf WHERE idx = 6) WHERE idx = 9",
        ),
        (
            "a record twice",
            10,
            "10 record",
            "UPDATE leaf SET idx = idx + 9999 WHERE idx > 5; UPDATE leaf SET idx = idx - 9998 WHERE idx > 9999;
             UPDATE entry SET idx = idx + 9999 WHERE idx > 5; UPDATE entry SET idx = idx - 9998 WHERE idx > 9999;
             INSERT INTO leaf SELECT 6, hash FROM leaf WHERE idx = 5;
             INSERT INTO entry SELECT 6, bytes FROM entry WHERE idx = 5",
        ),
        ("a record that never had a leaf", 10, "10 record 900", "INSERT INTO entry VALUES (900, x'7b7d')"),
        (
            "a line hidden from lists",
            17,
            "17: the index operation",
            "DELETE FROM operation WHERE first = (SELECT MAX(first) FROM operation)",
        ),
        (
            "an event hidden from lists",
            17,
            "17: the index event",
            "DELETE FROM event WHERE idx = (SELECT MAX(idx) FROM event)",
        ),
        (
            "an outcome made up",
            17,
            "17: the index operation",
            "UPDATE operation SET outcome = 'exited' WHERE decision = 'refused'",
        ),
        ("another key named as its own", 17, "17:", "UPDATE log SET vkey = replace(vkey, 'A', 'B')"),
        ("all heads gone", 17, "17:", "DELETE FROM checkpoint"),
        ("a trigger gone", 17, "17: trigger", "DROP TRIGGER entry_is_never_changed"),
        ("a table more", 17, "17: table", "CREATE TABLE more (x)"),
    ] {
        evidence.doctored_by(sql).found(what, expected, words);
    }
}

/// Cut off with its checkpoints, the end is missed by nobody but a head that was kept elsewhere.
fn a_cut_off_end(evidence: &Evidence) {
    let cut = "CREATE TEMP TABLE cut AS SELECT MAX(idx) AS idx FROM event WHERE kind = 'stop';
               DELETE FROM event WHERE idx >= (SELECT idx FROM cut);
               DELETE FROM entry WHERE idx >= (SELECT idx FROM cut);
               DELETE FROM leaf WHERE idx >= (SELECT idx FROM cut);
               DELETE FROM checkpoint WHERE size > (SELECT idx FROM cut)";
    let folder = tempfile::tempdir().unwrap();
    let head = folder.path().join("last.note");
    let last = Reader::open(evidence.ledger()).unwrap().newest_checkpoint().unwrap().unwrap();
    std::fs::write(&head, last).unwrap();
    let head = head.to_str().unwrap();
    let cut = evidence.doctored_by(cut);
    assert_eq!(cut.verify(&[]).status, 0, "alone it verifies: {:?}", cut.verify(&[]));
    assert_eq!(cut.verify(&["--against", evidence.newest.to_str().unwrap()]).status, 0, "an older head is no witness");
    let caught = cut.verify(&["--against", head]);
    assert_eq!(caught.status, 11, "{caught:?}");
    assert!(caught.text().contains(head), "{caught:?}");

    // Yesterday's file in the place of today's.
    let (early, newest) = (evidence.early.to_str().unwrap(), evidence.newest.to_str().unwrap());
    let verify = |more: &[&str]| {
        let arguments = ["--vkey", evidence.vkey(), "verify"].into_iter().chain(more.iter().copied());
        audit(&evidence.site, &evidence.yesterday, arguments).status
    };
    assert_eq!((verify(&[]), verify(&["--against", early])), (0, 0));
    assert_eq!(verify(&["--against", early, newest]), 11);
    // A head of another log is no evidence for or against.
    let forged = folder.path().join("forged.note");
    std::fs::write(&forged, std::fs::read_to_string(newest).unwrap().replace("lab.reeve", "lab.other")).unwrap();
    assert_eq!(verify(&["--against", forged.to_str().unwrap()]), 17);
}

/// `list`, `show`, `open` and `vkey`.
fn what_the_auditor_reads(evidence: &Evidence) {
    let site = &evidence.site;
    let listed = site.audit(["list", "--json"]).unwrap();
    assert_eq!(listed.status, 0, "{listed:?}");
    let known: BTreeSet<&str> = FIELDS.into();
    let mut kinds = BTreeSet::new();
    for line in listed.json() {
        let fields: BTreeSet<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, known, "{line}");
        kinds.insert(line["kind"].as_str().unwrap().to_owned());
    }
    for kind in
        ["operation", "login", "login-failed", "session", "trust", "configuration", "connection", "start", "stop"]
    {
        assert!(kinds.contains(kind), "{kind} is not among {kinds:?}");
    }
    let csv = site.audit(["list", "--csv"]).unwrap();
    assert_eq!(csv.text().lines().next().unwrap(), FIELDS.join(","));
    assert_eq!(csv.text().lines().count(), listed.json().len() + 1);

    let lines = listed.json();
    let told = lines.iter().find(|line| line["operation"] == evidence.told.as_str()).unwrap();
    let expected = [
        ("kind", "operation"),
        ("user", "alice"),
        ("customer", "contoso"),
        ("host", WEB01),
        ("decision", "allowed"),
        ("outcome", "exited"),
        ("case", "C-1"),
    ];
    expected.iter().for_each(|(field, value)| assert_eq!(told[field], *value, "{told}"));
    let numbers = [("level_required", 3), ("level_held", 3), ("exit_status", 3), ("output_bytes", 20)];
    numbers.iter().for_each(|(field, value)| assert_eq!(told[field], *value, "{field} of {told}"));
    let both = Command::new("sh").args(["-c", "printf 'to stdout\\nto stderr\\n' | sha256sum"]).output().unwrap();
    let digest = String::from_utf8(both.stdout).unwrap();
    assert_eq!(told["output_sha256"].as_str().unwrap(), digest.split_whitespace().next().unwrap());
    assert!(told["record_intent"].as_u64() < told["record_result"].as_u64(), "{told}");

    let show = site.audit(["show", &evidence.told]).unwrap();
    for word in ["alice", WEB01, "C-1", "a test", "to stdout", "to stderr", "exited 3", "2 receipts"] {
        assert!(show.text().contains(word), "{word:?} is not in {}", show.text());
    }
    assert_eq!(site.audit(["show", &evidence.told, "--output"]).unwrap().stdout, b"to stdout\nto stderr\n");
    assert_eq!(site.audit(["show", &evidence.large, "--output"]).unwrap().stdout.len(), 300_000);
    let story = site.audit(["show", &evidence.told, "--json"]).unwrap().json().remove(0);
    let fields: BTreeSet<&str> = story.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["operation", "host", "header", "first", "result", "late"].into());
    assert_eq!(site.audit(["show", "0000000000000000"]).unwrap().status, 65);
    let open = site.audit(["open", "--json"]).unwrap();
    assert_eq!((open.status, open.text().as_str()), (0, ""));
    assert_eq!(site.audit(["vkey"]).unwrap().text().trim(), evidence.vkey());
    let refused = site.audit(["list", "--decision", "refused", "--user", "bob", "--json"]).unwrap().json();
    let refused: Vec<&Value> = refused.iter().filter(|line| line["kind"] == "operation").collect();
    assert_eq!(refused.len(), 1);
    assert_eq!((refused[0]["code"].as_str(), refused[0]["record_intent"].is_null()), (Some("level-too-low"), true));
}
