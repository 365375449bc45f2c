//! SQL against the guards of the file.

use reeve_lab::desk::TestSite;
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::evidence::{FILE, WEB01, audit, copy, keep_head, operation};

#[test]
fn history_cannot_be_rewritten_through_the_file_of_a_running_master() {
    let site = TestSite::up(FILE);
    let told = operation(&site, "alice", &["exec", WEB01, "--json", "--", "seq", "100000"], 0);
    keep_head(&site, "head.note");
    let live = &site.lab().master.audit_db;
    let before = site.audit(["show", &told, "--json"]).unwrap().stdout;

    let own = Connection::open(live).unwrap();
    let attached = Connection::open_in_memory().unwrap();
    attached.execute("ATTACH ?1 AS live", [live.to_str().unwrap()]).unwrap();
    REWRITES.iter().for_each(|statement| refused(&own, statement));
    REWRITES_FROM_ELSEWHERE.iter().for_each(|statement| refused(&attached, statement));
    assert_eq!(site.audit(["show", &told, "--json"]).unwrap().stdout, before);
    operation(&site, "alice", &["exec", WEB01, "--json", "--", "true"], 0);
    assert_eq!(site.verify().unwrap().status, 0);

    // Whoever takes the guards away, and puts them back, has changed history all the same.
    for trick in TRICKS {
        let copied = site.dir().join("tricked.db");
        copy(live, &copied);
        let database = Connection::open(&copied).unwrap();
        database.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false).unwrap();
        database.execute_batch(trick).unwrap_or_else(|error| panic!("{trick}: {error}"));
        drop(database);
        let done = audit(&site, &copied, ["--vkey", site.lab().master.vkey.as_str(), "verify"]);
        assert!((10..=17).contains(&done.status), "{trick}: {done:?}");
        assert!(done.text().contains("record 4") || done.status == 17, "{trick}: {done:?}");
        std::fs::remove_file(&copied).unwrap();
    }
}

fn refused(database: &Connection, statement: &str) {
    let refused = database.execute_batch(statement).unwrap_err().to_string();
    assert!(refused.contains("append-only") || refused.contains("constraint"), "{statement}: {refused}");
}

const REWRITES: [&str; 27] = [
    "UPDATE leaf SET hash = zeroblob(32)",
    "UPDATE leaf SET idx = idx + 1000",
    "UPDATE entry SET bytes = x'7b7d' WHERE idx = 4",
    "UPDATE entry SET bytes = bytes WHERE idx = 4",
    "UPDATE checkpoint SET note = 'none'",
    "UPDATE blob SET bytes = x'00'",
    "UPDATE blob SET key = 'mine'",
    "UPDATE log SET vkey = 'mine'",
    "DELETE FROM leaf",
    "DELETE FROM leaf WHERE idx = (SELECT MAX(idx) FROM leaf)",
    "DELETE FROM entry WHERE idx = 4",
    "DELETE FROM checkpoint",
    "DELETE FROM blob",
    "DELETE FROM log",
    "REPLACE INTO leaf (idx, hash) VALUES (4, zeroblob(32))",
    "REPLACE INTO entry (idx, bytes) VALUES (4, x'7b7d')",
    "REPLACE INTO checkpoint (size, note) VALUES (1, 'none')",
    "REPLACE INTO blob (address, bytes) SELECT address, x'00' FROM blob",
    "REPLACE INTO log (one, origin, vkey) VALUES (1, 'mine', 'mine')",
    "INSERT INTO leaf (idx, hash) VALUES (4, zeroblob(32)) ON CONFLICT (idx) DO UPDATE SET hash = excluded.hash",
    "INSERT INTO entry (idx, bytes) VALUES (4, x'7b7d') ON CONFLICT (idx) DO UPDATE SET bytes = excluded.bytes",
    "INSERT INTO leaf (idx, hash) SELECT MAX(idx) + 2, zeroblob(32) FROM leaf",
    "INSERT INTO leaf (idx, hash) VALUES (-1, zeroblob(32))",
    "INSERT INTO entry (idx, bytes) SELECT MAX(idx) + 1, x'7b7d' FROM entry",
    "INSERT INTO checkpoint (size, note) SELECT MAX(idx) + 100, 'none' FROM leaf",
    "INSERT INTO checkpoint (size, note) VALUES (1, 'none')",
    "INSERT INTO log (one, origin, vkey) VALUES (1, 'mine', 'mine')",
];

const REWRITES_FROM_ELSEWHERE: [&str; 4] = [
    "UPDATE live.entry SET bytes = x'7b7d'",
    "DELETE FROM live.leaf",
    "REPLACE INTO live.leaf (idx, hash) VALUES (4, zeroblob(32))",
    "REPLACE INTO live.entry (idx, bytes) VALUES (4, x'7b7d')",
];

const TRICKS: [&str; 6] = [
    "DROP TRIGGER entry_is_never_changed; UPDATE entry SET bytes = x'7b7d' WHERE idx = 4",
    "CREATE TEMP TABLE kept AS SELECT sql FROM sqlite_schema WHERE name = 'entry_is_never_changed';
     DROP TRIGGER entry_is_never_changed;
     UPDATE entry SET bytes = CAST(replace(CAST(bytes AS TEXT), 'a', 'b') AS BLOB) WHERE idx = 4;
     CREATE TRIGGER entry_is_never_changed BEFORE UPDATE ON entry
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;",
    "PRAGMA writable_schema = ON; DELETE FROM sqlite_schema WHERE type = 'trigger'; PRAGMA writable_schema = OFF",
    "PRAGMA writable_schema = ON;
     UPDATE sqlite_schema SET sql = replace(sql, 'BEFORE UPDATE ON entry', 'BEFORE UPDATE OF idx ON entry')",
    "DROP TRIGGER leaf_is_never_removed; DROP TRIGGER entry_is_never_removed; PRAGMA foreign_keys = OFF;
     DELETE FROM entry WHERE idx = 4; DELETE FROM leaf WHERE idx = 4",
    "ALTER TABLE entry RENAME TO old; CREATE TABLE entry (idx INTEGER PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
     INSERT INTO entry SELECT idx, CASE idx WHEN 4 THEN x'7b7d' ELSE bytes END FROM old; DROP TABLE old",
];
