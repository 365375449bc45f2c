//! A request may be accepted for five minutes. A fan-out that takes longer signs again, for the servers that are left.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reeve_console::desk;
use reeve_console::operation::fanout::{AT_ONCE, Audience, Fanout, Sinks};
use reeve_console::operation::order::{Order, Work};
use reeve_console::operation::outcome::HostOutcome;
use reeve_console::operation::resolve::resolve;
use reeve_console::operation::round::Author;
use reeve_console::operation::run::Stop;
use reeve_console::show::Sink;
use reeve_link::tasks::Tasks;
use reeve_wire::id::OperationId;
use reeve_wire::time::Clock;

use crate::desk::Desk;
use crate::master::{Fault, Master};

struct Nobody;

impl Audience for Nobody {
    async fn done(&mut self, _: &HostOutcome, _: Option<Sink>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_whose_turn_comes_too_late_get_a_request_of_their_own() {
    let clock = Clock::fixed(Clock::system().now());
    let ours = Desk::of(Master::start_at(Fault::None, clock.clone()).await);
    let tasks = Tasks::new();
    let mut desk = desk::Desk::open(ours.config(), tasks.clone()).await.unwrap();
    let mut connection = desk.connect().await.unwrap();
    connection.clock = clock.clone();
    let order = Order {
        selector: "load/*".parse().unwrap(),
        work: Work::Raw(vec!["true".into()]),
        stdin: None,
        timeout: None,
        case: None,
        reason: None,
    };
    let operation = OperationId::random();
    let resolved = resolve(&connection, operation, &order).await.unwrap();
    // The last of the first that start finds the five minutes over.
    let begun = AtomicUsize::new(0);
    let later = clock.now().plus(Duration::from_secs(295));
    let sinks: Sinks = Arc::new(move |_| {
        if begun.fetch_add(1, Ordering::SeqCst) == AT_ONCE / 2 {
            clock.set(later);
        }
        Sink::kept()
    });

    let (author, stop) = (Author::Session, Stop::default());
    let fanout = Fanout { connection: &connection, order: &order, author: &author, stop: &stop, tasks: &tasks };
    let outcomes = fanout.run(operation, resolved, &sinks, &mut Nobody).await.unwrap();

    assert_eq!(outcomes.len(), 70);
    assert!(outcomes.iter().all(HostOutcome::is_success), "{outcomes:?}");
    let operations: BTreeSet<_> = outcomes.iter().map(|outcome| outcome.operation).collect();
    let requests = ours.master.seen.requests();
    assert_eq!(operations, requests.iter().map(|request| request.operation).collect());
    assert_eq!((operations.len(), requests[0].operation), (2, operation));
    assert!(requests[1].not_before == later);
}
