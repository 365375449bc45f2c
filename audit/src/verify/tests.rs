use reeve_wire::id::Salt;
use reeve_wire::level::Level;
use reeve_wire::merkle::leaf_hash;
use reeve_wire::note::{Checkpoint, LogSigner};
use reeve_wire::receipt::{Event, Outcome, Receipt};
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::*;
use crate::record::{Draft, Ended};
use crate::testing::{self, NOON, Told, begin, close, log_key, settings, site, stamp, unsigned};
use crate::{Class, Content, Ledger};

/// A ledger that the real writer made, as its owner holds it: in memory, every trigger silent.
async fn made(fill: impl AsyncFnOnce(&Ledger)) -> Reader {
    let directory = tempfile::tempdir().unwrap();
    let (ledger, thread) = Ledger::open(settings(directory.path())).unwrap();
    fill(&ledger).await;
    close(ledger, thread);
    Reader::over(copy(&Connection::open(directory.path().join("audit.db")).unwrap()))
}

fn copy(file: &Connection) -> Connection {
    let mut memory = Connection::open_in_memory().unwrap();
    rusqlite::backup::Backup::new(file, &mut memory).unwrap().step(-1).unwrap();
    memory.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).unwrap();
    memory.pragma_update(None, "foreign_keys", "OFF").unwrap();
    memory
}

async fn whole_site() -> Reader {
    made(async |ledger| drop(site(ledger).await)).await
}

fn check(reader: &Reader) -> Report {
    check_against(reader, &[])
}

fn check_against(reader: &Reader, heads: &[(&str, &str)]) -> Report {
    let known = |(name, note): &(&str, &str)| KnownHead { name: (*name).into(), note: note.as_bytes().to_vec() };
    let against = heads.iter().map(known).collect();
    let settings = Settings { vkey: Some(log_key().vkey().clone()), against, now_us: NOON * 1000 };
    verify(reader, &settings, |_, _| ()).unwrap()
}

/// Verifies after `attack`, and puts everything back.
fn after(reader: &Reader, attack: &str) -> Report {
    reader.database().execute_batch("BEGIN").unwrap();
    reader.database().execute_batch(attack).unwrap();
    let report = check(reader);
    reader.database().execute_batch("ROLLBACK").unwrap();
    report
}

fn status(report: &Report) -> u8 {
    report.fault().map_or(0, Fault::exit_status)
}

#[tokio::test]
async fn an_honest_ledger_verifies() {
    let reader = whole_site().await;
    let report = check(&reader);

    assert_eq!(report.findings, []);
    assert_eq!((report.records, report.signed, report.open, report.unknown), (10, 10, 0, 0));
    assert_eq!(report.blobs, 4);
    assert!(report.key_from_outside);
    let without = verify(&reader, &Settings { now_us: NOON * 1000, ..Settings::default() }, |_, _| ()).unwrap();
    assert!(!without.key_from_outside && without.fault().is_none());
    let empty = made(async |_| ()).await;
    assert_eq!(status(&check(&empty)), 0, "an empty ledger");
}

/// A record of each sort in few bytes: every bit of them is tried.
async fn small_site(ledger: &Ledger) {
    let operation = OperationId::random();
    let order = || crate::record::Order {
        host: Some(testing::host("contoso/web01")),
        ..crate::record::Order::new(operation, "alice".parse().unwrap())
    };
    let start = Draft::event(stamp(), crate::record::Happened::start("0.1.0")).unwrap();
    let refused = Draft::refused(stamp(), order(), "level-too-low", "this needs level 3");
    let intent = Draft::intent(stamp(), order(), NOON * 2000);
    let places = ledger.append_all(Class::Intent, vec![start, refused, intent]).await.unwrap();
    let ended = Ended::new(operation, testing::host("contoso/web01"), places[2].index, Outcome::Exited);
    ledger.append(Class::Result, Draft::result(stamp(), ended).unwrap()).await.unwrap();
}

#[tokio::test]
async fn every_flipped_bit_of_every_leaf_and_entry_is_found_and_named() {
    let reader = made(async |ledger| small_site(ledger).await).await;
    let workers = std::thread::available_parallelism().unwrap().get();
    let copies: Vec<Reader> = (0..workers).map(|_| Reader::over(copy(reader.database()))).collect();
    let flips: usize = std::thread::scope(|scope| {
        let tries = copies.into_iter().enumerate();
        let tries = tries.map(|(worker, copy)| scope.spawn(move || flip_all(&copy, worker, workers)));
        tries.collect::<Vec<_>>().into_iter().map(|tried| tried.join().unwrap()).sum()
    });
    assert!(flips > 10_000, "only {flips} bits were tried");
    assert_eq!(status(&check(&reader)), 0);
}

/// Tries every `workers`-th bit from `worker` on; returns how many.
fn flip_all(reader: &Reader, worker: usize, workers: usize) -> usize {
    let database = reader.database();
    let mut flips = 0;
    for (table, column) in [("leaf", "hash"), ("entry", "bytes")] {
        for index in 0..reader.size().unwrap() {
            let select = format!("SELECT {column} FROM {table} WHERE idx = {index}");
            let original: Vec<u8> = database.query_row(&select, [], |row| row.get(0)).unwrap();
            let update = format!("UPDATE {table} SET {column} = ?1 WHERE idx = {index}");
            for bit in (worker..original.len() * 8).step_by(workers) {
                let mut flipped = original.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                database.execute_batch("BEGIN").unwrap();
                database.execute(&update, [flipped]).unwrap();
                let report = check(reader);
                database.execute_batch("ROLLBACK").unwrap();

                assert_eq!(status(&report), 10, "{table} {index}, bit {bit}");
                let named = report.findings.iter().any(|f| f.fault == Fault::Modified && f.index == Some(index));
                assert!(named, "{table} {index}, bit {bit}: {:?}", report.findings);
                flips += 1;
            }
        }
    }
    flips
}

#[tokio::test]
async fn a_modified_record_names_its_operation_even_when_it_no_longer_says_it() {
    let reader = made(async |ledger| {
        let told = begin(ledger, "alice", "contoso/web01", &["uptime"]).await;
        told.end(ledger, told.exited(1, b"up", b"")).await;
    })
    .await;
    for index in 0..3 {
        let report = after(&reader, &format!("UPDATE entry SET bytes = x'00' WHERE idx = {index}"));
        let finding = report.findings.iter().find(|f| f.index == Some(index)).unwrap();
        assert!(finding.operation.is_some(), "{finding}");
        assert!(finding.to_string().starts_with(&format!("10 record {index} (operation ")), "{finding}");
    }
}

#[tokio::test]
async fn every_flipped_bit_of_checkpoints_and_content_is_found() {
    let reader = whole_site().await;
    let database = reader.database();
    for (table, column, expected) in [("checkpoint", "note", 17), ("blob", "bytes", 15), ("blob", "address", 15)] {
        let rows: Vec<(i64, Vec<u8>)> = {
            let select = format!("SELECT rowid, CAST({column} AS BLOB) FROM {table}");
            let mut select = database.prepare(&select).unwrap();
            select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().collect::<Result<_, _>>().unwrap()
        };
        let cast = if column == "note" { "CAST(?1 AS TEXT)" } else { "?1" };
        for (row, original) in rows {
            for bit in 0..original.len() * 8 {
                let mut flipped = original.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                database.execute_batch("BEGIN").unwrap();
                let update = format!("UPDATE {table} SET {column} = {cast} WHERE rowid = {row}");
                database.execute(&update, [flipped]).unwrap();
                let report = check(&reader);
                database.execute_batch("ROLLBACK").unwrap();
                assert_eq!(status(&report), expected, "{table}.{column} {row}, bit {bit}: {:?}", report.findings);
            }
        }
    }
}

#[tokio::test]
async fn every_way_to_rewrite_the_file_is_found() {
    let reader = whole_site().await;
    for (attack, expected, named) in [
        ("DELETE FROM leaf WHERE idx = 4", 10, Some(4)),
        ("DELETE FROM entry WHERE idx = 4", 10, Some(4)),
        ("DELETE FROM leaf WHERE idx = 4; DELETE FROM entry WHERE idx = 4", 10, Some(4)),
        ("DELETE FROM leaf WHERE idx = 9; DELETE FROM entry WHERE idx = 9", 11, None),
        ("INSERT INTO entry SELECT 10, bytes FROM entry WHERE idx = 9", 10, Some(10)),
        (
            "UPDATE entry SET idx = 99 WHERE idx = 2; UPDATE entry SET idx = 2 WHERE idx = 4;
             UPDATE entry SET idx = 4 WHERE idx = 99",
            10,
            Some(2),
        ),
        (
            "UPDATE leaf SET idx = 99 WHERE idx = 2; UPDATE leaf SET idx = 2 WHERE idx = 4;
             UPDATE leaf SET idx = 4 WHERE idx = 99; UPDATE entry SET idx = 99 WHERE idx = 2;
             UPDATE entry SET idx = 2 WHERE idx = 4; UPDATE entry SET idx = 4 WHERE idx = 99",
            10,
            Some(0),
        ),
        ("UPDATE leaf SET idx = 4611686018427387904 WHERE idx = 9", 10, Some(9)),
        ("DELETE FROM checkpoint", 17, None),
        ("UPDATE checkpoint SET size = 9 WHERE size = 10", 17, None),
        ("DELETE FROM blob", 15, None),
        ("UPDATE blob SET key = 'k1'", 15, None),
        ("DELETE FROM operation WHERE first = 3", 17, None),
        ("UPDATE operation SET user = 'bob' WHERE first = 3", 17, None),
        ("UPDATE operation SET outcome = NULL, result = NULL WHERE first = 3", 17, None),
        ("DELETE FROM event", 17, None),
        ("DELETE FROM header", 17, None),
        ("UPDATE chain SET seq = 0", 17, None),
        ("UPDATE customer SET records = 0", 17, None),
        ("UPDATE log SET vkey = 'x'", 17, None),
        ("DELETE FROM log", 17, None),
        ("DROP TRIGGER leaf_extends_the_log", 17, None),
        ("DROP INDEX operation_by_user", 17, None),
        ("CREATE TABLE extra (x)", 17, None),
        ("CREATE TRIGGER quiet BEFORE INSERT ON entry BEGIN SELECT RAISE(IGNORE); END", 17, None),
    ] {
        let report = after(&reader, attack);
        assert_eq!(status(&report), expected, "{attack}: {:?}", report.findings);
        if named.is_some() {
            assert!(report.findings.iter().any(|f| f.index == named), "{attack}: {:?}", report.findings);
        }
    }
    assert_eq!(status(&check(&reader)), 0);
}

/// A thief of the file who keeps leaf and record in step is still held by the checkpoint.
#[tokio::test]
async fn a_record_replaced_together_with_its_leaf_is_found() {
    let reader = whole_site().await;
    for index in 0..10 {
        let bytes = String::from_utf8(reader.bytes(index).unwrap().unwrap()).unwrap();
        let forged = bytes.replace("alice", "carol").replace("contoso", "fabriko").replace("0.1.0", "0.1.1");
        if forged == bytes {
            continue;
        }
        let database = reader.database();
        database.execute_batch("BEGIN").unwrap();
        database.execute("UPDATE entry SET bytes = ?1 WHERE idx = ?2", (forged.as_bytes(), index)).unwrap();
        let hash = leaf_hash(forged.as_bytes());
        database.execute("UPDATE leaf SET hash = ?1 WHERE idx = ?2", (hash, index)).unwrap();
        let report = check(&reader);
        database.execute_batch("ROLLBACK").unwrap();
        assert_eq!(status(&report), 10, "record {index}: {:?}", report.findings);
    }
}

/// The tail and its checkpoints: nothing in the file remembers them.
const CUT: &str = "DELETE FROM checkpoint WHERE size > 5; DELETE FROM leaf WHERE idx >= 5;
    DELETE FROM entry WHERE idx >= 5; DELETE FROM operation WHERE first >= 5; DELETE FROM header WHERE idx >= 5;
    DELETE FROM chain WHERE idx >= 5; DELETE FROM customer WHERE name = 'fabrikam';
    UPDATE customer SET records = 2";

#[tokio::test]
async fn a_tail_that_was_cut_off_is_found_only_with_a_head_that_was_kept_outside() {
    let reader = made(async |ledger| {
        let mut checkpoints = ledger.checkpoints();
        testing::start_and_first_operation(ledger).await;
        checkpoints.wait_for(|signed| signed.checkpoint.size == 5).await.unwrap();
        testing::rest_of_site(ledger).await;
    })
    .await;
    let kept = reader.newest_checkpoint().unwrap().unwrap();
    reader.database().execute_batch(CUT).unwrap();

    assert_eq!(check(&reader).findings, [], "the file alone cannot know");
    let report = check_against(&reader, &[("kept.note", &kept)]);
    assert_eq!(status(&report), 11);
    assert!(report.findings[0].to_string().contains("kept.note signs 10 records"), "{}", report.findings[0]);

    let own = reader.newest_checkpoint().unwrap().unwrap();
    assert_eq!(status(&check_against(&reader, &[("own.note", &own)])), 0);
}

#[tokio::test]
async fn a_log_rewritten_with_the_stolen_key_is_two_histories() {
    let honest = whole_site().await;
    let kept = honest.newest_checkpoint().unwrap().unwrap();
    let forged = whole_site().await;
    assert_eq!(status(&check(&forged)), 0, "signed by the right key, it stands by itself");
    assert_eq!(status(&check_against(&forged, &[("kept.note", &kept)])), 13);
    assert_eq!(status(&check_against(&honest, &[("kept.note", &kept)])), 0);
}

#[tokio::test]
async fn a_head_or_a_key_that_is_not_the_logs_is_no_evidence() {
    let reader = whole_site().await;
    let other = LogSigner::from_seed("lab.reeve/master1", &[9; 32]).unwrap();
    let head = Checkpoint { origin: "lab.reeve/master1".into(), size: 1, root: [0; 32] }.sign(&other).unwrap();
    for note in [head.note.as_str(), "", "nonsense\n"] {
        assert_eq!(status(&check_against(&reader, &[("head", note)])), 17, "{note:?}");
    }
    let settings = Settings { vkey: Some(other.vkey().clone()), against: Vec::new(), now_us: 0 };
    let report = verify(&reader, &settings, |_, _| ()).unwrap();
    assert_eq!(status(&report), 17);
}

#[tokio::test]
async fn an_operation_open_past_its_deadline_is_reported_until_something_says_unknown() {
    let reader = made(async |ledger| drop(begin(ledger, "alice", "contoso/web01", &["sleep"]).await)).await;
    let at = |now_us| verify(&reader, &Settings { now_us, ..Settings::default() }, |_, _| ()).unwrap();
    let deadline = (NOON + 60_000) * 1000;

    assert_eq!((status(&at(deadline)), at(deadline).open), (0, 1));
    let report = at(deadline + 1);
    assert_eq!(status(&report), 14);
    assert_eq!(report.findings[0].index, Some(1));
    assert!(report.findings[0].operation.is_some());

    let marked = made(async |ledger| {
        let told = begin(ledger, "alice", "contoso/web01", &["sleep"]).await;
        told.end(ledger, Ended::new(told.operation, told.host.clone(), told.intent, Outcome::Unknown)).await;
    })
    .await;
    let report = verify(&marked, &Settings { now_us: u64::MAX, ..Settings::default() }, |_, _| ()).unwrap();
    assert_eq!((status(&report), report.open, report.unknown), (0, 0, 1));
}

#[tokio::test]
async fn a_grant_or_receipt_of_something_else_is_found() {
    type Change = fn(&Told, &mut Ended);
    let changes: [(&str, Change); 12] = [
        ("unreadable grant", |_, ended| ended.grant = Some(b"x".to_vec())),
        ("another host's grant", |told, ended| {
            let grant = reeve_wire::grant::Grant { host: testing::host("contoso/db01"), ..told.grant() };
            ended.grant = Some(unsigned(&grant));
        }),
        ("another request's grant", |told, ended| {
            let grant = reeve_wire::grant::Grant { request: reeve_wire::id::Digest([9; 32]), ..told.grant() };
            ended.grant = Some(unsigned(&grant));
        }),
        ("a grant for another leaf", |told, ended| {
            let grant = reeve_wire::grant::Grant { leaf: reeve_wire::id::Digest([9; 32]), ..told.grant() };
            ended.grant = Some(unsigned(&grant));
        }),
        ("a grant for another log", |told, ended| {
            let grant = reeve_wire::grant::Grant { log: "lab.reeve/master2".into(), ..told.grant() };
            ended.grant = Some(unsigned(&grant));
        }),
        ("unreadable receipt", |_, ended| ended.receipts[1].truncate(20)),
        ("another outcome", |_, ended| ended.outcome = Outcome::Cancelled),
        ("another exit status", |_, ended| ended.exit_status = Some(3)),
        ("another output", |_, ended| ended.stdout = Some(Content::new(Salt::random(), b"lies").unwrap())),
        ("output without a commitment", |told, ended| {
            ended.receipts[1] = unsigned(&told.receipt(2, Event::Ended, Some(Outcome::Exited)));
        }),
        ("another host's receipt", |told, ended| {
            let receipt = Receipt { host: testing::host("contoso/db01"), ..told.receipt(1, Event::Accepted, None) };
            ended.receipts[0] = unsigned(&receipt);
        }),
        ("a receipt for another grant", |told, ended| {
            let receipt =
                Receipt { grant: Some(reeve_wire::id::Digest([9; 32])), ..told.receipt(1, Event::Accepted, None) };
            ended.receipts[0] = unsigned(&receipt);
        }),
    ];
    for (name, change) in changes {
        let reader = made(async |ledger| {
            let told = begin(ledger, "alice", "contoso/web01", &["uptime"]).await;
            let mut ended = told.exited(1, b"up", b"");
            change(&told, &mut ended);
            told.end(ledger, ended).await;
        })
        .await;
        let report = check(&reader);
        assert_eq!(status(&report), 16, "{name}: {:?}", report.findings);
        assert_eq!(report.findings[0].index, Some(2), "{name}");
    }
}

#[tokio::test]
async fn an_intent_without_its_signed_request_is_found() {
    let reader = made(async |ledger| {
        let operation = OperationId::random();
        let mut order = testing::order(operation, "alice", "contoso/web01", &["uptime"]);
        order.level_required = Some(Level::Three);
        order.request = Some(testing::request(operation, &["uptime"]).digest());
        let other = testing::request(operation, &["reboot"]);
        let header = Draft::header(stamp(), operation, &other, None, b"certificate", None).unwrap();
        let intent = Draft::intent(stamp(), order, NOON * 2000);
        ledger.append_all(Class::Intent, vec![header, intent]).await.unwrap();
    })
    .await;
    let report = check(&reader);
    assert_eq!((status(&report), report.findings[0].index), (16, Some(1)));
}

#[tokio::test]
async fn of_several_findings_the_lowest_number_counts_and_all_are_kept() {
    let reader = whole_site().await;
    let report =
        after(&reader, "DELETE FROM blob; UPDATE entry SET bytes = x'7b' WHERE idx = 1; DROP INDEX event_by_user");
    let faults: std::collections::BTreeSet<_> = report.findings.iter().map(|finding| finding.fault).collect();
    assert_eq!(status(&report), 10);
    assert_eq!(faults.into_iter().collect::<Vec<_>>(), [Fault::Modified, Fault::Blob, Fault::Malformed]);
    assert_eq!(report.found, report.findings.len() as u64);
}

#[tokio::test]
async fn a_damaged_database_file_is_a_finding_and_no_crash() {
    let directory = tempfile::tempdir().unwrap();
    let (ledger, thread) = Ledger::open(settings(directory.path())).unwrap();
    site(&ledger).await;
    close(ledger, thread);
    let path = directory.path().join("audit.db");
    let honest = std::fs::read(&path).unwrap();
    let mut refused = 0;
    for page in 0..honest.len() / 4096 {
        let mut damaged = honest.clone();
        damaged[page * 4096..][..200].fill(0xa5);
        std::fs::write(&path, damaged).unwrap();
        let settings = Settings { vkey: Some(log_key().vkey().clone()), now_us: NOON * 1000, ..Settings::default() };
        match Reader::open(&path).map_err(ReadError::from).and_then(|reader| verify(&reader, &settings, |_, _| ())) {
            Ok(report) => assert!(report.fault().is_some(), "page {page} was overwritten"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused < honest.len() / 4096, "every page refused: nothing was verified");
}
