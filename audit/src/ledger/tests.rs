use reeve_wire::id::OperationId;
use reeve_wire::merkle::{leaf_hash, verify_consistency};
use reeve_wire::note::Checkpoint;
use reeve_wire::receipt::Outcome;
use tokio::time::{Instant, timeout};

use super::*;
use crate::record::{Body, Command, Ended, Happened, Order};
use crate::testing::{close, settings, stamp};
use crate::{Content, Reader};

const PATIENCE: Duration = Duration::from_secs(20);

fn order(operation: OperationId) -> Order {
    Order {
        host: Some("contoso/web01".parse().unwrap()),
        command: Some(Command::raw("raw", &["uptime"])),
        ..Order::new(operation, "alice".parse().unwrap())
    }
}

fn intent(operation: OperationId) -> Draft {
    Draft::intent(stamp(), order(operation), u64::MAX >> 12)
}

fn ended(operation: OperationId, intent: u64, outcome: Outcome) -> Ended {
    Ended::new(operation, "contoso/web01".parse().unwrap(), intent, outcome)
}

fn result(operation: OperationId, intent: u64, outcome: Outcome) -> Draft {
    Draft::result(stamp(), ended(operation, intent, outcome)).unwrap()
}

#[tokio::test]
async fn what_was_appended_is_there_after_a_restart_and_the_log_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let operation = OperationId::random();
    let (ledger, thread) = Ledger::open(settings(directory.path())).unwrap();
    let first = ledger.append(Class::Intent, intent(operation)).await.unwrap();
    assert_eq!(first.index, 0);
    close(ledger, thread);

    let (ledger, thread) = Ledger::open(settings(directory.path())).unwrap();
    let content = Content::new(reeve_wire::id::Salt::random(), b"up 3 days\n").unwrap();
    let pointer = *content.pointer();
    let draft = Draft::result(
        stamp(),
        Ended { stdout: Some(content), exit_status: Some(0), ..ended(operation, 0, Outcome::Exited) },
    );
    let second = ledger.append(Class::Result, draft.unwrap()).await.unwrap();
    assert_eq!(second.index, 1);

    let reader = Reader::open(ledger.path()).unwrap();
    assert_eq!(leaf_hash(&reader.bytes(0).unwrap().unwrap()), first.leaf_hash);
    assert_eq!(leaf_hash(&reader.bytes(1).unwrap().unwrap()), second.leaf_hash);
    assert_eq!(reader.content(&pointer).unwrap(), b"up 3 days\n");
    assert_eq!(reader.record(0).unwrap().value.number, Some(0));
    assert_eq!(reader.record(1).unwrap().value.number, Some(1));
    close(ledger, thread);
}

#[tokio::test]
async fn a_customers_records_are_numbered_without_gaps_whatever_is_refused_between() {
    let directory = tempfile::tempdir().unwrap();
    let (ledger, thread) = Ledger::open(settings(directory.path())).unwrap();
    let operation = OperationId::random();
    for _ in 0..3 {
        ledger.append(Class::Intent, intent(OperationId::random())).await.unwrap();
        let orphan = ledger.append(Class::Result, result(operation, 0, Outcome::Exited)).await;
        assert_eq!(orphan, Err(LedgerError::NoIntent));
        let other = Order { host: Some("fabrikam/mail01".parse().unwrap()), ..order(operation) };
        let refused = Draft::refused(stamp(), other, "level-too-low", "this needs level 3");
        ledger.append(Class::Intent, refused).await.unwrap();
        let event = Draft::event(stamp(), Happened::start("0.1.0")).unwrap();
        ledger.append(Class::Intent, event).await.unwrap();
    }
    let reader = Reader::open(ledger.path()).unwrap();
    let numbers: Vec<_> = (0..9).map(|index| reader.record(index).unwrap().value.number).collect();
    let expected = [Some(0), Some(0), None, Some(1), Some(1), None, Some(2), Some(2), None];
    assert_eq!(numbers, expected);
    close(ledger, thread);
}

#[tokio::test]
async fn an_operation_has_one_result_and_only_an_unknown_one_is_resolved() {
    let directory = tempfile::tempdir().unwrap();
    let (ledger, thread) = Ledger::open(settings(directory.path())).unwrap();
    let (known, unknown) = (OperationId::random(), OperationId::random());
    let one = ledger.append(Class::Intent, intent(known)).await.unwrap().index;
    let two = ledger.append(Class::Intent, intent(unknown)).await.unwrap().index;

    let exited = ledger.append(Class::Result, result(known, one, Outcome::Exited)).await.unwrap().index;
    assert_eq!(
        ledger.append(Class::Result, result(known, one, Outcome::Unknown)).await,
        Err(LedgerError::Ended),
        "a second result"
    );
    let late = |resolves, operation, intent| {
        Draft::late(stamp(), resolves, ended(operation, intent, Outcome::Exited)).unwrap()
    };
    assert_eq!(ledger.append(Class::Result, late(exited, known, one)).await, Err(LedgerError::Ended));
    assert_eq!(ledger.append(Class::Result, late(exited, unknown, two)).await, Err(LedgerError::Ended));
    assert_eq!(
        ledger.append(Class::Result, result(known, two, Outcome::Exited)).await,
        Err(LedgerError::NoIntent),
        "another operation's intent"
    );

    let reader = Reader::open(ledger.path()).unwrap();
    assert_eq!(reader.open_operations(true).unwrap().len(), 1);
    let was = ledger.append(Class::Result, result(unknown, two, Outcome::Unknown)).await.unwrap().index;
    assert_eq!(reader.open_operations(false).unwrap().len(), 0);
    let open = reader.open_operations(true).unwrap();
    assert_eq!((open.len(), open[0].intent.index, open[0].unknown), (1, two, Some(was)));

    let resolved = ledger.append(Class::Result, late(was, unknown, two)).await.unwrap().index;
    assert_eq!(ledger.append(Class::Result, late(was, unknown, two)).await, Err(LedgerError::Ended));
    assert!(reader.open_operations(true).unwrap().is_empty());
    let story = &reader.stories(unknown, None).unwrap()[0];
    assert_eq!(story.result.as_ref().unwrap().index, was, "the unknown result stays");
    assert_eq!(story.late.as_ref().unwrap().index, resolved);
    assert_eq!(story.verdict().unwrap().outcome, Outcome::Exited);
    close(ledger, thread);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_together_is_committed_together_and_each_caller_gets_its_own_place() {
    let directory = tempfile::tempdir().unwrap();
    let (ledger, thread) = Ledger::open(settings(directory.path())).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let ledger = ledger.clone();
        let operation = OperationId::random();
        tasks.spawn(async move { (operation, ledger.append(Class::Intent, intent(operation)).await.unwrap()) });
    }
    let reader = Reader::open(ledger.path()).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    while let Some(done) = tasks.join_next().await {
        let (operation, appended) = done.unwrap();
        let record = reader.record(appended.index).unwrap().value;
        assert_eq!(record.body.operation(), Some(operation));
        assert!(seen.insert(appended.index));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), (0..1000).collect::<Vec<_>>());
    close(ledger, thread);
}

#[tokio::test]
async fn a_group_is_written_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let (ledger, thread) = Ledger::open(settings(directory.path())).unwrap();
    let operation = OperationId::random();
    let group = vec![intent(operation), result(operation, 7, Outcome::Exited)];
    assert_eq!(ledger.append_all(Class::Intent, group).await, Err(LedgerError::NoIntent));
    let fan_out: Vec<_> = (0..300).map(|_| intent(operation)).collect();
    let places = ledger.append_all(Class::Intent, fan_out).await.unwrap();
    assert_eq!(places.iter().map(|place| place.index).collect::<Vec<_>>(), (0..300).collect::<Vec<_>>());
    assert!(ledger.append_all(Class::Intent, Vec::new()).await.unwrap().is_empty());
    close(ledger, thread);
}

#[tokio::test]
async fn checkpoints_follow_the_records_and_are_consistent_with_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let every = Duration::from_millis(20);
    let (ledger, thread) = Ledger::open(Settings { checkpoint_every: every, ..settings(directory.path()) }).unwrap();
    let mut checkpoints = ledger.checkpoints();
    let mut seen = vec![checkpoints.borrow_and_update().clone()];
    assert_eq!(seen[0].checkpoint.size, 0, "an empty log has a signed head too");

    for round in 1..=40_u64 {
        let group = (0..round % 17 + 1).map(|_| intent(OperationId::random())).collect();
        let end = ledger.append_all(Class::Intent, group).await.unwrap().last().unwrap().index + 1;
        while checkpoints.borrow_and_update().checkpoint.size < end {
            timeout(PATIENCE, checkpoints.changed()).await.unwrap().unwrap();
        }
        seen.push(checkpoints.borrow().clone());
    }
    for new in &seen {
        assert_eq!(&Checkpoint::open(new.note.as_bytes(), ledger.vkey()).unwrap(), new);
        for old in seen.iter().filter(|old| old.checkpoint.size <= new.checkpoint.size) {
            let (old, new) = (&old.checkpoint, &new.checkpoint);
            let proof = ledger.consistency(old.size, new.size).await.unwrap();
            assert_eq!(verify_consistency(old.size, new.size, &old.root, &new.root, &proof), Ok(()));
        }
    }
    let size = seen.last().unwrap().checkpoint.size;
    assert!(ledger.consistency(0, size + 1).await.is_err());
    assert!(ledger.consistency(size, size - 1).await.is_err());
    close(ledger, thread);
}

#[tokio::test]
async fn a_full_ledger_refuses_what_is_new_and_still_takes_results() {
    let directory = tempfile::tempdir().unwrap();
    let limited = Settings { limit: Some(1024 * 1024), ..settings(directory.path()) };
    let (ledger, thread) = Ledger::open(limited.clone()).unwrap();
    let mut dispatched = Vec::new();
    let full = loop {
        let operation = OperationId::random();
        match ledger.append(Class::Intent, intent(operation)).await {
            Ok(appended) => dispatched.push((operation, appended.index)),
            Err(error) => break error,
        }
        assert!(dispatched.len() < 10_000, "the limit never came");
    };
    assert_eq!((full, ledger.health()), (LedgerError::Full, Health::Full));

    for (operation, index) in dispatched.iter().rev().take(100) {
        ledger.append(Class::Result, result(*operation, *index, Outcome::Exited)).await.unwrap();
        let again = ledger.append(Class::Intent, intent(OperationId::random())).await;
        assert_eq!(again, Err(LedgerError::Full));
    }
    let logout = Draft::event(stamp(), Happened::logout(Default::default(), "requested")).unwrap();
    ledger.append(Class::TakesAway, logout).await.unwrap();
    close(ledger, thread);

    let (ledger, thread) = Ledger::open(limited).unwrap();
    assert_eq!(ledger.health(), Health::Full, "it is still full after a restart");
    let left = dispatched.len() - 100;
    assert_eq!(Reader::open(ledger.path()).unwrap().open_operations(false).unwrap().len(), left);
    close(ledger, thread);

    let (ledger, thread) = Ledger::open(settings(directory.path())).unwrap();
    ledger.append(Class::Intent, intent(OperationId::random())).await.unwrap();
    close(ledger, thread);
}

#[tokio::test]
async fn after_a_failed_write_everything_is_refused_until_the_restart() {
    let directory = tempfile::tempdir().unwrap();
    let tight = Settings { limit: Some(600 * 1024), ..settings(directory.path()) };
    let (ledger, thread) = Ledger::open(tight).unwrap();
    let mut last = None;
    let started = Instant::now();
    while ledger.health() != Health::Closed {
        assert!(started.elapsed() < PATIENCE, "the reserve never ran out");
        let event = Draft::event(stamp(), Happened::start(&"x".repeat(4000))).unwrap();
        last = Some(ledger.append(Class::Result, event).await);
    }
    assert_eq!(last, Some(Err(LedgerError::Closed)));
    for class in [Class::Intent, Class::Result, Class::TakesAway] {
        let event = Draft::event(stamp(), Happened::start("0.1.0")).unwrap();
        assert_eq!(ledger.append(class, event).await, Err(LedgerError::Closed));
    }
    let size = Reader::open(ledger.path()).unwrap().size().unwrap();
    close(ledger, thread);

    let (ledger, thread) = Ledger::open(settings(directory.path())).unwrap();
    let event = Draft::event(stamp(), Happened::start("0.1.0")).unwrap();
    assert_eq!(ledger.append(Class::Intent, event).await.unwrap().index, size, "nothing half-written remains");
    close(ledger, thread);
}

#[tokio::test]
async fn a_ledger_has_one_writer_and_one_key() {
    let directory = tempfile::tempdir().unwrap();
    let (ledger, thread) = Ledger::open(settings(directory.path())).unwrap();
    assert!(matches!(Ledger::open(settings(directory.path())), Err(DatabaseError::InUse(_))));
    close(ledger, thread);

    let other = LogSigner::from_seed("lab.reeve/master1", &[8; 32]).unwrap();
    let stolen = Settings { log_key: other, ..settings(directory.path()) };
    assert!(matches!(Ledger::open(stolen), Err(DatabaseError::WrongKey { .. })));
    let (ledger, thread) = Ledger::open(settings(directory.path())).unwrap();
    close(ledger, thread);
}

#[tokio::test]
async fn a_file_that_does_not_verify_at_its_end_is_not_written() {
    for attack in [
        "UPDATE leaf SET hash = zeroblob(32) WHERE idx = 2",
        "UPDATE entry SET bytes = x'7b7d' WHERE idx = 3",
        "DELETE FROM entry WHERE idx = 3",
        "DELETE FROM leaf WHERE idx = 3",
        "UPDATE leaf SET idx = 9 WHERE idx = 3",
        "UPDATE checkpoint SET note = replace(note, 'reeve', 'reave')",
    ] {
        let directory = tempfile::tempdir().unwrap();
        let (ledger, thread) = Ledger::open(settings(directory.path())).unwrap();
        let group = (0..4).map(|_| intent(OperationId::random())).collect();
        ledger.append_all(Class::Intent, group).await.unwrap();
        close(ledger, thread);

        let owner = Connection::open(directory.path().join("audit.db")).unwrap();
        for table in ["leaf", "entry", "checkpoint"] {
            let drop = format!("DROP TRIGGER {table}_is_never_changed; DROP TRIGGER {table}_is_never_removed;");
            owner.execute_batch(&drop).unwrap();
        }
        owner.pragma_update(None, "foreign_keys", "OFF").unwrap();
        owner.execute_batch(attack).unwrap();
        drop(owner);
        assert!(matches!(Ledger::open(settings(directory.path())), Err(DatabaseError::Tail(_))), "{attack}");
    }
}

#[tokio::test]
async fn a_record_too_large_for_an_entry_is_refused_and_closes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (ledger, thread) = Ledger::open(settings(directory.path())).unwrap();
    let long = (0..30).fold(Happened::start("0.1.0"), |event, _| event.fact("name", "x".repeat(4096)));
    let refused = ledger.append(Class::Intent, Draft::event(stamp(), long).unwrap()).await;
    assert_eq!((refused, ledger.health()), (Err(LedgerError::TooLarge), Health::Open));

    let evidence = Happened::anomaly(Default::default(), "protocol", "it sent this").evidence("frame", &[0xff; 65_536]);
    let kept = ledger.append(Class::Intent, Draft::event(stamp(), evidence).unwrap()).await.unwrap();
    let reader = Reader::open(ledger.path()).unwrap();
    let Body::Event(_, event) = reader.record(kept.index).unwrap().value.body else { panic!("not an event") };
    assert_eq!(reader.evidence(&event.evidence[0].1).unwrap(), [0xff; 65_536], "long evidence lies beside the record");
    close(ledger, thread);
}
