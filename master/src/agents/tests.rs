use reeve_link::Why;
use reeve_wire::code::Code;
use reeve_wire::id::OperationId;
use reeve_wire::message::{Answer, JournalState, Part, PartKind};
use reeve_wire::receipt::{Event, Outcome};

use crate::testing::bench::{Bench, answer, soon};

#[tokio::test]
async fn what_ran_on_an_older_connection_is_asked_for_on_the_newer_one() {
    let bench = Bench::new();
    let (console, mut old) = (bench.technician(), bench.agent(1).await);
    bench.connected(&old).await;
    let (operation, _submitted, mut asked) = console.start("sleep").await;
    let mut work = old.work().await;
    let accepted = old.receipt(&work, Event::Accepted, None);
    work.tell(&accepted).await;
    let ended = old.receipt(&work, Event::Ended, Some(Outcome::Exited));

    let mut new = bench.dial(1).await;
    new.ready(1).await;
    let queried = new.answer_query(JournalState::Ended, &[accepted, ended]).await;
    assert_eq!(queried, [operation]);
    bench.comes_to(operation, Outcome::Exited).await;

    assert_eq!(soon(old.link.closed()).await, Why::PeerGone, "the older one was cut");
    assert_eq!(bench.outcome(operation), (Some(Outcome::Exited), 2), "unknown, and then what is known");
    let Answer::Ended(told) = answer(&mut asked).await else { panic!("it ended") };
    assert_eq!(told.outcome, Outcome::Unknown);
    assert_eq!((bench.anomalies(), new.link.why_closed()), (0, None));
    bench.end().await;
}

#[tokio::test]
async fn an_operation_that_never_arrived_is_unreachable_and_one_of_another_process_unknown() {
    for (started, outcome, records) in [(1, Outcome::Unreachable, 2), (2, Outcome::Unknown, 1)] {
        let bench = Bench::new();
        let (console, old) = (bench.technician(), bench.agent(1).await);
        bench.connected(&old).await;
        let (operation, _submitted, mut asked) = console.start("true").await;
        old.work().await;
        old.link.kill(Why::Closed);
        answer(&mut asked).await;

        let mut new = bench.dial(started).await;
        new.ready(1).await;
        assert_eq!(new.answer_query(JournalState::Absent, &[]).await, [operation]);
        bench.connected(&new).await;
        assert_eq!(bench.outcome(operation), (Some(outcome), records), "process {started}");
        bench.end().await;
    }
}

#[tokio::test]
async fn an_end_that_comes_while_its_cut_stream_is_recorded_is_taken_and_the_connection_stays() {
    let bench = Bench::new();
    let (console, mut agent) = (bench.technician(), bench.agent(1).await);
    bench.connected(&agent).await;
    let (operation, _submitted, mut asked) = console.start("true").await;
    let mut work = agent.work().await;
    let accepted = agent.receipt(&work, Event::Accepted, None);
    work.tell(&accepted).await;
    let ended = agent.receipt(&work, Event::Ended, Some(Outcome::Exited));
    drop(work);
    agent.say(&[Part::new(PartKind::Receipt, accepted), Part::new(PartKind::Receipt, ended.clone())]).await;
    bench.comes_to(operation, Outcome::Exited).await;
    answer(&mut asked).await;

    // Told again, it changes nothing and nobody is blamed.
    agent.say(&[Part::new(PartKind::Receipt, ended)]).await;
    let (next, _also_submitted, mut also) = console.start("true").await;
    let mut work = agent.work().await;
    let accepted = agent.receipt(&work, Event::Accepted, None);
    work.tell(&accepted).await;
    let ended = agent.receipt(&work, Event::Ended, Some(Outcome::Exited));
    work.tell(&ended).await;
    answer(&mut also).await;
    assert_eq!(bench.outcome(operation), (Some(Outcome::Exited), 2));
    assert_eq!(bench.outcome(next), (Some(Outcome::Exited), 1));
    assert_eq!((bench.anomalies(), agent.link.why_closed()), (0, None));
    bench.end().await;
}

#[tokio::test]
async fn an_agent_that_does_not_take_the_bundle_gets_no_work() {
    let bench = Bench::new();
    let mut agent = bench.dial(1).await;
    agent.ready(0).await;
    bench.connected(&agent).await;
    let console = bench.technician();
    let (operation, _submitted, mut asked) = console.start("true").await;
    let Answer::Ended(ended) = answer(&mut asked).await else { panic!("it ended") };
    assert_eq!((ended.outcome, ended.code), (Outcome::Refused, Some(Code::TrustUnanswered)));
    assert_eq!(bench.outcome(operation), (Some(Outcome::Refused), 1));
    assert_eq!(agent.link.live(), 1, "the control stream alone");
    bench.end().await;
}

#[tokio::test]
async fn an_agent_that_reports_what_it_was_never_sent_is_cut_before_it_fills_the_ledger() {
    let bench = Bench::new();
    let (console, mut agent) = (bench.technician(), bench.agent(1).await);
    bench.connected(&agent).await;
    let (_, _submitted, _asked) = console.start("true").await;
    let mut work = agent.work().await;
    let reports: Vec<_> = (0..100)
        .map(|_| {
            work.operation = OperationId::random();
            Part::new(PartKind::Receipt, agent.receipt(&work, Event::Ended, Some(Outcome::Exited)))
        })
        .collect();
    agent.say(&reports).await;
    soon(agent.link.closed()).await;
    assert_eq!(bench.anomalies(), 8);
    bench.end().await;
}

#[tokio::test]
async fn an_agent_whose_ca_is_no_longer_in_the_bundle_is_cut() {
    let bench = Bench::new();
    let agent = bench.agent(1).await;
    bench.connected(&agent).await;
    bench.replace_ca(false);
    soon(agent.link.closed()).await;
    bench.end().await;
}
