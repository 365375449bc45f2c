use reeve_wire::level::Level;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::Ledger;
use crate::record::Draft;
use crate::testing::{NOON, Told, close, host, order, settings, site, stamp};
use crate::{Class, Text};

/// A closed ledger with [`site`] in it.
async fn made() -> (tempfile::TempDir, Reader, [Told; 2]) {
    let directory = tempfile::tempdir().unwrap();
    let (ledger, thread) = Ledger::open(settings(directory.path())).unwrap();
    let told = site(&ledger).await;
    close(ledger, thread);
    let reader = Reader::open(&directory.path().join("audit.db")).unwrap();
    (directory, reader, told)
}

impl From<ReadError> for Stop {
    fn from(error: ReadError) -> Self {
        panic!("{error}")
    }
}

#[derive(Debug)]
struct Stop;

fn lines(reader: &Reader, filter: &Filter) -> Vec<Listed> {
    let mut lines = Vec::new();
    let listed: Result<(), Stop> = reader.list(filter, |line| {
        lines.push(line);
        Ok(true)
    });
    listed.unwrap();
    lines
}

fn records(reader: &Reader, filter: &Filter) -> Vec<u64> {
    lines(reader, filter).iter().map(|line| line.record_intent.or(line.record_result).unwrap()).collect()
}

/// The fields of `list --json` are a contract, and so is their order.
#[tokio::test]
async fn a_line_has_exactly_the_fields_of_the_design() {
    let (_directory, reader, [known, _]) = made().await;
    let line = lines(&reader, &Filter { users: vec!["alice".into()], limit: Some(1), ..Filter::default() }).remove(0);
    let json = serde_json::to_string(&line).unwrap();
    let fields: Vec<&str> = "kind, operation, time, user, user_id, key, customer, host, level_required, level_held, decision, \
         code, reason, command, args, outcome, exit_status, output_sha256, output_bytes, case, record_intent, record_result"
        .split(", ")
        .collect();
    let mut at = 0;
    for field in &fields {
        let found =
            json[at..].find(&format!("\"{field}\":")).unwrap_or_else(|| panic!("{field} is missing or out of order"));
        at += found;
    }
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value.as_object().unwrap().len(), fields.len());
    assert_eq!(value["operation"], known.operation.to_string());
    assert_eq!(value["time"], "2026-03-01T12:00:00.000000Z");
    assert_eq!(value["output_sha256"], hex::encode(Sha256::digest(b"up 3 days\n")));
    assert_eq!(value["output_bytes"], 10);
    assert_eq!(
        (&value["level_required"], &value["exit_status"], &value["record_intent"]),
        (&3.into(), &0.into(), &3.into())
    );
    assert_eq!((&value["code"], &value["reason"]), (&serde_json::Value::Null, &serde_json::Value::Null));
}

#[tokio::test]
async fn each_filter_lets_through_what_it_says_and_nothing_else() {
    let (_directory, reader, _) = made().await;
    let none = Filter::default();
    let name = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let text = |text: &str| Filter { text: Some(text.into()), ..none.clone() };
    let noon = NOON * 1000;
    for (filter, expected) in [
        (none.clone(), vec![7, 5, 3, 1, 0]),
        (Filter { limit: Some(2), ..none.clone() }, vec![7, 5]),
        (Filter { limit: Some(0), ..none.clone() }, vec![]),
        (Filter { users: name(&["alice"]), ..none.clone() }, vec![3, 1]),
        (Filter { users: name(&["alice", "frank"]), ..none.clone() }, vec![7, 3, 1]),
        (Filter { users: name(&["alice' OR '1'='1"]), ..none.clone() }, vec![]),
        (Filter { hosts: name(&["contoso/web01"]), ..none.clone() }, vec![3]),
        (Filter { hosts: name(&["web01", "fabrikam/mail01"]), ..none.clone() }, vec![7, 3]),
        (Filter { hosts: name(&["b01"]), ..none.clone() }, vec![]),
        (Filter { hosts: name(&["%"]), ..none.clone() }, vec![]),
        (Filter { customers: name(&["contoso"]), ..none.clone() }, vec![5, 3]),
        (Filter { since_us: Some(noon), ..none.clone() }, vec![7, 5, 3, 1, 0]),
        (Filter { since_us: Some(noon + 1), ..none.clone() }, vec![]),
        (Filter { until_us: Some(noon), ..none.clone() }, vec![]),
        (Filter { until_us: Some(noon + 1), ..none.clone() }, vec![7, 5, 3, 1, 0]),
        (Filter { level: Some(Level::Three), ..none.clone() }, vec![7, 5, 3]),
        (Filter { level: Some(Level::One), ..none.clone() }, vec![]),
        (Filter { decision: Some("refused".into()), ..none.clone() }, vec![5]),
        (Filter { decision: Some("allowed".into()), ..none.clone() }, vec![7, 3, 1]),
        (Filter { outcome: Some("exited".into()), ..none.clone() }, vec![7, 3]),
        (Filter { outcome: Some("open".into()), ..none.clone() }, vec![]),
        (Filter { case: Some("C-1".into()), ..none.clone() }, vec![7, 5, 3]),
        (Filter { case: Some("c".into()), ..none.clone() }, vec![]),
        (text("uptime"), vec![3]),
        (text("PTIM"), vec![3]),
        (text("-rf"), vec![5]),
        (text("/ x"), vec![5]),
        (text("%"), vec![]),
        (text("u_time"), vec![]),
        (text("\\"), vec![]),
        (text("'"), vec![5]),
        (Filter { customers: name(&["contoso"]), users: name(&["carol"]), ..text("rm") }, vec![5]),
    ] {
        assert_eq!(records(&reader, &filter), expected, "{filter:?}");
    }
}

#[tokio::test]
async fn what_a_refusal_an_event_and_a_late_result_say() {
    let (_directory, reader, [_, late]) = made().await;
    let lines = lines(&reader, &Filter::default());
    let [resolved, refused, known, login, start] = lines.as_slice() else { panic!("{} lines", lines.len()) };

    assert_eq!(
        (resolved.outcome, resolved.record_intent, resolved.record_result),
        (Some(Outcome::Exited), Some(7), Some(9))
    );
    assert_eq!(resolved.operation, Some(late.operation));
    assert_eq!(
        (refused.kind, refused.decision, refused.code.as_deref()),
        ("operation", Some("refused"), Some("level-too-low"))
    );
    assert_eq!(
        (refused.outcome, refused.record_intent, refused.record_result),
        (Some(Outcome::Refused), None, Some(5))
    );
    assert_eq!((refused.level_required, refused.level_held), (Some(Level::Three), Some(Level::One)));
    assert_eq!(refused.output_bytes, None);
    assert_eq!(known.customer.as_deref(), Some("contoso"));
    assert_eq!((login.kind, login.decision, login.user_id.as_deref()), ("login", Some("allowed"), Some("id-of-alice")));
    assert_eq!(login.user, Some(Text::from("alice")));
    assert_eq!((start.kind, start.decision, start.operation), ("start", None, None));
}

#[tokio::test]
async fn an_operation_is_told_whole_on_one_host_or_on_all() {
    let directory = tempfile::tempdir().unwrap();
    let (ledger, thread) = Ledger::open(settings(directory.path())).unwrap();
    let operation = OperationId::random();
    for at in ["contoso/web01", "contoso/db01"] {
        let draft = Draft::intent(stamp(), order(operation, "alice", at, &["uptime"]), 1);
        ledger.append(Class::Intent, draft).await.unwrap();
    }
    let reader = Reader::open(ledger.path()).unwrap();
    assert_eq!(reader.stories(operation, None).unwrap().len(), 2);
    let one = reader.stories(operation, Some(&host("contoso/db01"))).unwrap();
    assert_eq!((one.len(), one[0].first.index), (1, 1));
    assert!(reader.stories(operation, Some(&host("contoso/web02"))).unwrap().is_empty());
    assert!(reader.stories(OperationId::random(), None).unwrap().is_empty());
    assert!(reader.header(operation).unwrap().is_none());
    assert_eq!(reader.open_operations(false).unwrap().len(), 2);
    close(ledger, thread);
}

#[tokio::test]
async fn the_last_receipt_of_a_host_is_the_highest_not_the_latest() {
    use reeve_wire::receipt::{Event, Receipt};
    let directory = tempfile::tempdir().unwrap();
    let (ledger, thread) = Ledger::open(settings(directory.path())).unwrap();
    let reader = Reader::open(ledger.path()).unwrap();
    let web01 = host("contoso/web01");
    assert_eq!(reader.last_receipt(&web01).unwrap(), None);

    let first = crate::testing::begin(&ledger, "alice", "contoso/web01", &["sleep"]).await;
    let second = crate::testing::begin(&ledger, "bob", "contoso/web01", &["uptime"]).await;
    second.end(&ledger, second.exited(3, b"", b"")).await;
    first.end(&ledger, first.exited(1, b"", b"")).await;
    let last = reader.last_receipt(&web01).unwrap().unwrap();
    assert_eq!((last.generation, last.seq), (1, 4));
    assert_eq!(crate::index::read_receipt(&last.signed).unwrap().operation, Some(second.operation));

    let restarted = Receipt {
        generation: 2,
        event: Event::Restarted,
        operation: None,
        request: None,
        grant: None,
        boot_id: Some("b".into()),
        ..first.receipt(1, Event::Restarted, None)
    };
    let receipts = [crate::testing::unsigned(&restarted), b"garbage".to_vec()];
    let draft = Draft::receipts(stamp(), web01.clone(), &receipts).unwrap();
    ledger.append(Class::Result, draft).await.unwrap();
    let last = reader.last_receipt(&web01).unwrap().unwrap();
    assert_eq!((last.generation, last.seq, last.signed), (2, 1, receipts[0].clone()));
    assert_eq!(reader.last_receipt(&host("contoso/db01")).unwrap(), None);
    close(ledger, thread);
}

#[tokio::test]
async fn output_whose_content_is_gone_has_no_digest_and_is_not_invented() {
    let (directory, reader, _) = made().await;
    drop(reader);
    let owner = Connection::open(directory.path().join("audit.db")).unwrap();
    owner.execute_batch("DROP TRIGGER blob_is_never_removed; DELETE FROM blob").unwrap();
    drop(owner);
    let reader = Reader::open(&directory.path().join("audit.db")).unwrap();
    let line = &lines(&reader, &Filter { text: Some("uptime".into()), ..Filter::default() })[0];
    assert_eq!((line.output_bytes, line.output_sha256), (Some(10), None));
}

#[tokio::test]
async fn a_list_stops_when_the_reader_of_it_does() {
    let (_directory, reader, _) = made().await;
    let mut seen = 0;
    let listed: Result<(), Stop> = reader.list(&Filter::default(), |_| {
        seen += 1;
        Ok(seen < 2)
    });
    listed.unwrap();
    assert_eq!(seen, 2);
}
