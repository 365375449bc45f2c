//! A writer that is killed loses nothing that it acknowledged.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use reeve_audit::{Class, Draft, Ledger, Reader};
use reeve_wire::id::OperationId;
use reeve_wire::merkle::leaf_hash;
use tokio::task::JoinSet;

use crate::site::{self, NEVER, ended, order, settings, stamp, verified};

const ROUNDS: u32 = 20;

/// Appends from 64 tasks until it is killed, and says what was acknowledged.
#[ignore = "the process that the next test kills"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_until_killed() {
    let (ledger, _thread) = Ledger::open(settings(&site::child_ledger())).unwrap();
    let mut tasks = JoinSet::new();
    for worker in 0..64_u32 {
        let ledger = ledger.clone();
        tasks.spawn(async move {
            loop {
                let operation = OperationId::random();
                let draft = Draft::intent(stamp(), order(operation, "alice", "contoso/web01", &[b"uptime"]), NEVER);
                let intent = ledger.append(Class::Intent, draft).await.unwrap();
                site::say(&format!("wrote {} {}", intent.index, hex::encode(intent.leaf_hash)));
                let output = vec![b'x'; worker as usize * 100];
                let draft = Draft::result(stamp(), ended(operation, "contoso/web01", intent.index, &output)).unwrap();
                let result = ledger.append(Class::Result, draft).await.unwrap();
                site::say(&format!("wrote {} {}", result.index, hex::encode(result.leaf_hash)));
            }
        });
    }
    let mut checkpoints = ledger.checkpoints();
    while checkpoints.changed().await.is_ok() {
        let note = checkpoints.borrow_and_update().note.clone();
        site::say(&format!("signed {}", hex::encode(note)));
    }
}

#[test]
fn what_a_killed_writer_acknowledged_is_there_and_verifies() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.db");
    let mut all = BTreeMap::new();
    let mut rounds_with_load = 0;
    for round in 0..ROUNDS {
        let (acknowledged, newest) = kill_a_writer(&path);
        rounds_with_load += u32::from(!acknowledged.is_empty());
        all_are_there(&path, &acknowledged);
        all.extend(acknowledged);

        let head = directory.path().join("head.note");
        std::fs::File::create(&head).unwrap().write_all(newest.as_bytes()).unwrap();
        let heads: &[&Path] = if newest.is_empty() { &[] } else { &[&head] };
        let (status, printed) = verified(&path, heads);
        assert_eq!(status, 0, "round {round}: {printed}");
    }
    all_are_there(&path, &all);
    assert!(rounds_with_load >= ROUNDS / 2, "only {rounds_with_load} rounds were killed under load");
}

fn all_are_there(path: &Path, acknowledged: &BTreeMap<u64, String>) {
    let reader = Reader::open(path).unwrap();
    for (index, hash) in acknowledged {
        let bytes = reader.bytes(*index).unwrap().unwrap_or_else(|| panic!("record {index} is lost"));
        assert_eq!(&hex::encode(leaf_hash(&bytes)), hash, "record {index} is another one");
    }
}

/// Starts a writer and kills it some time later; what it acknowledged, and the newest head that it showed.
fn kill_a_writer(path: &Path) -> (BTreeMap<u64, String>, String) {
    let (mut child, lines) = site::child(&[], "crash::write_until_killed", path);
    let moment = Duration::from_millis(rand::random_range(50..400));
    let (killed, listen) = std::sync::mpsc::channel::<()>();
    let killer = std::thread::spawn(move || {
        // Nobody sends: either the moment comes, or the test is over and dropped the other end.
        listen.recv_timeout(moment).unwrap_err();
        child.kill().unwrap();
        child.wait().unwrap();
    });
    let said = site::said(lines);
    drop(killed);
    killer.join().unwrap();
    let (mut acknowledged, mut newest) = (BTreeMap::new(), String::new());
    for words in said {
        match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            // The last line may be cut off in the middle.
            ["wrote", index, hash] if hash.len() == 64 => {
                acknowledged.insert(index.parse().unwrap(), (*hash).to_owned());
            }
            ["signed", note] => {
                let note = hex::decode(note).ok().and_then(|note| String::from_utf8(note).ok());
                newest = note.filter(|note| note.ends_with('\n') && note.contains('—')).unwrap_or(newest);
            }
            _ => (),
        }
    }
    (acknowledged, newest)
}
