use rusqlite::ErrorCode;

use super::*;
use crate::testing::{close, settings, site};
use crate::{Ledger, Reader};

/// A line for each new idea. `append-only` says that our own trigger refused it.
const AGAINST_TRIGGERS: [&str; 24] = [
    "UPDATE leaf SET hash = zeroblob(32)",
    "UPDATE leaf SET idx = idx + 100",
    "DELETE FROM leaf",
    "DELETE FROM leaf WHERE idx = (SELECT MAX(idx) FROM leaf)",
    "REPLACE INTO leaf SELECT idx, zeroblob(32) FROM leaf",
    "REPLACE INTO leaf SELECT idx, zeroblob(32) FROM leaf ORDER BY idx DESC LIMIT 1",
    "INSERT OR REPLACE INTO leaf VALUES (3, zeroblob(32))",
    "INSERT OR IGNORE INTO leaf VALUES (3, zeroblob(32))",
    "INSERT INTO leaf VALUES (3, zeroblob(32)) ON CONFLICT (idx) DO UPDATE SET hash = zeroblob(32)",
    "INSERT INTO leaf VALUES (11, zeroblob(32))",
    "INSERT INTO leaf VALUES (-1, zeroblob(32))",
    "INSERT INTO leaf (hash) VALUES (zeroblob(32))",
    "UPDATE entry SET bytes = x'00'",
    "DELETE FROM entry",
    "REPLACE INTO entry VALUES (9, x'00')",
    "INSERT INTO entry VALUES (10, x'00')",
    "UPDATE checkpoint SET note = 'x'",
    "DELETE FROM checkpoint",
    "REPLACE INTO checkpoint VALUES (10, 'x')",
    "INSERT INTO checkpoint VALUES (11, 'x')",
    "UPDATE blob SET bytes = x'00'",
    "DELETE FROM blob",
    "REPLACE INTO blob SELECT address, NULL, x'00' FROM blob",
    "REPLACE INTO log VALUES (1, 'x', 'y')",
];

/// What passes no trigger, because it is no change of a row: the writer's connection does not even prepare it.
const AGAINST_THE_WRITER: [&str; 22] = [
    "DROP TRIGGER leaf_extends_the_log",
    "DROP TABLE leaf",
    "DROP INDEX operation_by_user",
    "ALTER TABLE leaf RENAME TO loaf",
    "CREATE TABLE extra (x)",
    "CREATE TEMP TABLE leaf (idx, hash)",
    "CREATE TEMP TRIGGER quiet BEFORE INSERT ON leaf BEGIN SELECT RAISE(IGNORE); END",
    "CREATE VIEW entries AS SELECT * FROM entry",
    "ATTACH DATABASE ':memory:' AS other",
    "DETACH DATABASE main",
    "PRAGMA writable_schema = ON",
    "PRAGMA writable_schema = RESET",
    "PRAGMA recursive_triggers = OFF",
    "PRAGMA foreign_keys = OFF",
    "PRAGMA synchronous = OFF",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA user_version = 2",
    "DELETE FROM operation",
    "DELETE FROM customer",
    "UPDATE event SET user = 'bob'",
    "VACUUM INTO '/dev/null'",
    "REINDEX",
];

async fn made(directory: &Path) -> std::path::PathBuf {
    let (ledger, thread) = Ledger::open(settings(directory)).unwrap();
    site(&ledger).await;
    close(ledger, thread);
    directory.join("audit.db")
}

#[tokio::test]
async fn history_cannot_be_rewritten_through_sql() {
    let directory = tempfile::tempdir().unwrap();
    let path = made(directory.path()).await;
    let stock = Connection::open(&path).unwrap();
    for attack in AGAINST_TRIGGERS {
        let refused = stock.execute_batch(attack).unwrap_err();
        assert!(refused.to_string().contains("append-only"), "{attack}: {refused}");
    }
    for malformed in [
        "INSERT INTO leaf VALUES (10, zeroblob(31))",
        "INSERT INTO leaf VALUES (10, NULL)",
        "INSERT INTO leaf VALUES (10, 'text that is thirty-two bytes ...')",
        "INSERT INTO blob VALUES (zeroblob(31), NULL, x'00')",
    ] {
        let refused = stock.execute_batch(malformed).unwrap_err();
        assert_eq!(refused.sqlite_error_code(), Some(ErrorCode::ConstraintViolation), "{malformed}");
    }
}

#[tokio::test]
async fn the_writers_connection_prepares_nothing_but_appends() {
    let directory = tempfile::tempdir().unwrap();
    let path = made(directory.path()).await;
    let mut writer = open_writer(&path).unwrap();
    lock_down(&mut writer).unwrap();

    for attack in AGAINST_THE_WRITER.iter().chain(&AGAINST_TRIGGERS) {
        assert!(writer.execute_batch(attack).is_err(), "{attack}");
    }
    let schema: Vec<String> = {
        let mut select = writer.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL").unwrap();
        select.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    assert!(writer.execute_batch("UPDATE sqlite_schema SET sql = ''").is_err());
    assert!(writer.execute_batch("DELETE FROM sqlite_schema").is_err());
    assert_eq!(schema.len(), SCHEMA.matches("CREATE ").count());
    let reader = Reader::open(&path).unwrap();
    let settings = crate::verify::Settings::default();
    assert_eq!(crate::verify::verify(&reader, &settings, |_, _| ()).unwrap().findings, []);
}

#[tokio::test]
async fn a_reader_cannot_write() {
    let directory = tempfile::tempdir().unwrap();
    let path = made(directory.path()).await;
    let reader = open_reader(&path).unwrap();
    for attack in AGAINST_TRIGGERS.iter().chain(&AGAINST_THE_WRITER[..4]) {
        assert!(reader.execute_batch(attack).is_err(), "{attack}");
    }
}

#[tokio::test]
async fn a_reader_sees_what_a_running_writer_has_made_durable() {
    let directory = tempfile::tempdir().unwrap();
    let (ledger, thread) = Ledger::open(settings(directory.path())).unwrap();
    let reader = Reader::open(ledger.path()).unwrap();
    assert_eq!(reader.size().unwrap(), 0);
    site(&ledger).await;
    assert_eq!(reader.size().unwrap(), 10);
    close(ledger, thread);
}

#[test]
fn what_is_no_ledger_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    assert!(matches!(open_reader(&at("none.db")), Err(DatabaseError::Missing(_))));
    std::fs::write(at("text.db"), "not a database, and longer than a header of one hundred bytes".repeat(4)).unwrap();
    std::fs::write(at("empty.db"), "").unwrap();
    Connection::open(at("other.db")).unwrap().execute_batch("CREATE TABLE leaf (x); PRAGMA user_version = 1").unwrap();
    for name in ["text.db", "empty.db", "other.db"] {
        assert!(matches!(open_reader(&at(name)), Err(DatabaseError::NotALedger(_))), "{name}");
    }
    for name in ["text.db", "other.db"] {
        assert!(open_writer(&at(name)).is_err(), "{name}");
    }

    let newer = open_writer(&at("newer.db")).unwrap();
    newer.pragma_update(None, "user_version", 2).unwrap();
    drop(newer);
    assert!(matches!(open_writer(&at("newer.db")), Err(DatabaseError::Version { found: 2 })));
    assert!(matches!(open_reader(&at("newer.db")), Err(DatabaseError::Version { found: 2 })));
}

#[test]
fn a_path_with_what_a_uri_gives_a_meaning_opens() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a?b#c%20d e.db");
    drop(open_writer(&path).unwrap());
    assert!(open_reader(&path).is_ok());
}

#[cfg(unix)]
#[test]
fn only_the_owner_reads_the_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.db");
    let writer = open_writer(&path).unwrap();
    for name in ["audit.db", "audit.db-wal", "audit.db-shm"] {
        let mode = std::fs::metadata(directory.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name} has mode {mode:o}");
    }
    drop(writer);
}
