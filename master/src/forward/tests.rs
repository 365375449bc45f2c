use reeve_link::tasks::Tasks;
use reeve_link::{Limits, memory};

use super::*;

/// A console of which the other end reads nothing, as full as its credit lets it be.
async fn full(tasks: &Tasks) -> (Console, reeve_link::Receiver, Link) {
    let (master, technician) = memory::pair(Limits::CONTROL, tasks);
    let (out, commands) = master.open().unwrap().split();
    let mut console = Console { out, reads: true, must_end: CancellationToken::new() };
    let filling = async { while console.out.send(Content::Stdout, Bytes::from_static(&[0; 1000])).await.is_ok() {} };
    assert!(tokio::time::timeout(Duration::from_millis(100), filling).await.is_err(), "it waits for credit");
    (console, commands, technician)
}

#[tokio::test]
async fn a_console_that_is_paused_is_waited_for_while_its_work_may_run() {
    let tasks = Tasks::new();
    let (mut console, _commands, _technician) = full(&tasks).await;
    let passing = console.pass_on(Content::Stdout, Bytes::from_static(&[0; 60_000]));
    assert!(tokio::time::timeout(Duration::from_millis(100), passing).await.is_err(), "it waits");
    assert!(console.reads);
}

#[tokio::test]
async fn what_must_end_waits_for_no_reader_and_half_an_output_never_passes_for_the_whole() {
    let tasks = Tasks::new();
    let (mut console, _commands, technician) = full(&tasks).await;
    console.must_end.cancel();
    let passing = console.pass_on(Content::Stdout, Bytes::from_static(&[0; 60_000]));
    tokio::time::timeout(2 * CONSOLE_PATIENCE, passing).await.unwrap();
    // The technician reads again, and there is room; but what was left out is left out.
    let (_sender, mut receiver) = technician.accept().await.unwrap().split();
    for _ in 0..200 {
        receiver.next().await.unwrap();
    }
    assert!(!console.told(Answer::LoggedOut {}).await);
}
