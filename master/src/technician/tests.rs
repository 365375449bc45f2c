use reeve_audit::record::Body;
use reeve_link::parts::Item;
use reeve_wire::code::Code;
use reeve_wire::id::OperationId;
use reeve_wire::message::{Answer, Ask, PartKind};
use reeve_wire::receipt::{Event, Outcome};

use crate::testing::bench::{Bench, Work, answer, soon};

/// The reason why the master asks the agent to end what runs.
async fn cancelled(work: &mut Work) -> Code {
    match soon(work.inbound.next()).await.unwrap().unwrap() {
        Item::Part(part) => part.read::<reeve_wire::code::Refusal>(PartKind::Cancel).unwrap().code,
        Item::Bytes(..) => panic!("bytes for what takes none"),
    }
}

#[tokio::test]
async fn a_logout_ends_what_its_session_key_signed() {
    let bench = Bench::new();
    let (console, mut agent) = (bench.session(), bench.agent(1).await);
    bench.connected(&agent).await;
    let (operation, _submitted, mut asked) = console.start("sleep").await;
    let mut work = agent.work().await;
    let accepted = agent.receipt(&work, Event::Accepted, None);
    work.tell(&accepted).await;

    let mut logout = console.ask(&Ask::Logout {}, Vec::new()).await;
    assert!(matches!(answer(&mut logout).await, Answer::LoggedOut {}));
    assert_eq!(cancelled(&mut work).await, Code::RightLost);
    let ended = agent.receipt(&work, Event::Ended, Some(Outcome::Cancelled));
    work.tell(&ended).await;
    answer(&mut asked).await;
    assert_eq!(bench.outcome(operation), (Some(Outcome::Cancelled), 1));
    bench.end().await;
}

#[tokio::test]
async fn a_request_that_was_handed_in_dies_with_its_session() {
    let bench = Bench::new();
    let (console, own, agent) = (bench.session(), bench.technician(), bench.agent(1).await);
    bench.connected(&agent).await;
    let operation = OperationId::random();
    // Handed in on a connection that the session's end does not touch.
    let console = console.on(own.link.clone());
    let (_submitted, targets) = console.submit(operation, "true").await;
    console.end_session(&bench);
    let mut asked = console.run(operation, &targets).await;
    let Answer::Refused { refusal, record } = answer(&mut asked).await else { panic!("it is refused") };
    assert_eq!(refusal.code, Code::SessionUnknown);
    assert!(record.is_some());
    assert_eq!(agent.link.live(), 1, "the control stream alone");
    bench.end().await;
}

#[tokio::test]
async fn a_ca_that_leaves_the_bundle_takes_what_runs_and_what_was_handed_in() {
    let bench = Bench::new();
    let (console, mut agent) = (bench.technician(), bench.agent(1).await);
    bench.connected(&agent).await;
    let (_, _submitted, _asked) = console.start("sleep").await;
    let mut work = agent.work().await;
    let accepted = agent.receipt(&work, Event::Accepted, None);
    work.tell(&accepted).await;
    let waiting = OperationId::random();
    let (_also_submitted, targets) = console.submit(waiting, "true").await;

    bench.replace_ca(true);
    assert_eq!(cancelled(&mut work).await, Code::RightLost);
    let mut asked = console.run(waiting, &targets).await;
    let Answer::Refused { refusal, .. } = answer(&mut asked).await else { panic!("it is refused") };
    assert_eq!(refusal.code, Code::CertificateUntrusted);
    assert_eq!(agent.link.live(), 2, "the control stream, and what runs");
    bench.end().await;
}

#[tokio::test]
async fn one_operation_is_one_request() {
    let bench = Bench::new();
    let console = bench.technician();
    let operation = OperationId::random();
    let (submitted, targets) = console.submit(operation, "true").await;
    let mut asked = console.run(operation, &targets).await;
    assert!(matches!(answer(&mut asked).await, Answer::Started { .. }));
    drop(submitted);
    answer(&mut asked).await;

    // The first one is forgotten once its stream is over, and the same id comes again with another command.
    let (_submitted, targets) = loop {
        match console.try_submit(operation, "reboot").await {
            Ok(handed_in) => break handed_in,
            Err(refusal) => assert_eq!(refusal.code, Code::RequestReplayed),
        }
    };
    let mut asked = console.run(operation, &targets).await;
    let Answer::Refused { refusal, .. } = answer(&mut asked).await else { panic!("it is refused") };
    assert_eq!(refusal.code, Code::RequestReplayed);
    let intents = bench.records().into_iter().filter(|record| matches!(record.body, Body::Intent(_))).count();
    assert_eq!(intents, 1);
    bench.end().await;
}

#[tokio::test]
async fn a_server_that_breaks_the_order_of_receipts_is_not_believed() {
    use Event::{Accepted, Ended};
    for events in [&[Ended][..], &[Accepted, Accepted]] {
        let bench = Bench::new();
        let (console, mut agent) = (bench.technician(), bench.agent(1).await);
        bench.connected(&agent).await;
        let (operation, _submitted, mut asked) = console.start("true").await;
        let mut work = agent.work().await;
        for event in events {
            let receipt = agent.receipt(&work, *event, (*event == Ended).then_some(Outcome::Exited));
            work.tell(&receipt).await;
        }
        let Answer::Ended(ended) = answer(&mut asked).await else { panic!("it ended") };
        assert_eq!(ended.outcome, Outcome::Unknown, "{events:?}");
        assert_eq!(bench.outcome(operation), (Some(Outcome::Unknown), 1));
        assert_eq!(bench.anomalies(), 1);
        bench.end().await;
    }
}
