//! Lost connections, closed pipes and Ctrl-C: nothing is guessed, and nothing hangs.

use std::sync::atomic::Ordering;

use tokio::io::AsyncReadExt as _;
use tokio::process::Child;

use crate::desk::{Desk, interrupt, until};
use crate::master::{Fault, Seen};

/// Starts a command and waits until its output begins like this.
async fn running(desk: &Desk, arguments: &[&str], output: &str) -> Child {
    let mut child = desk.command(arguments).spawn().unwrap();
    let mut first = vec![0; output.len()];
    child.stdout.as_mut().unwrap().read_exact(&mut first).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&first), output);
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_in_the_middle_of_a_run_leaves_the_outcome_unknown_and_the_output_told() {
    let desk = Desk::with(Fault::HangsUp).await;
    let output = "out of contoso/web01\nlast words\n";
    let child = running(&desk, &["exec", "contoso/web01", "--", "sleep", "9"], output).await;
    desk.master.seen.cancels.store(1, Ordering::SeqCst);

    let done = desk.finish(child).await.ended_in(75);

    assert!(done.stderr.contains("reeve: contoso/web01: whether it ran to its end is not known"), "{}", done.stderr);
    assert!(done.stderr.ends_with("[outcome-unknown]\n"), "{}", done.stderr);

    let json = desk.reeve(&["exec", "contoso/web01", "--json", "--", "sleep", "9"]).await.ended_in(75).json();
    assert_eq!((&json[0]["outcome"], &json[0]["code"]), (&"unknown".into(), &"outcome-unknown".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_ctrl_c_cancels_on_the_server_and_waits_for_the_end() {
    let desk = Desk::with(Fault::RunsOn).await;
    let child = running(&desk, &["exec", "contoso/web01", "--", "sleep", "600"], "out").await;

    interrupt(&child);
    let done = desk.finish(child).await.ended_in(130);

    assert_eq!(Seen::count(&desk.master.seen.cancels), 1);
    assert!(done.stderr.contains("[cancelled]"), "{}", done.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_fan_out_tells_every_server() {
    let desk = Desk::with(Fault::RunsOn).await;
    let child = desk.command(&["exec", "load/*", "--json", "--", "sleep", "600"]).spawn().unwrap();
    until("the request is handed in", || desk.master.seen.requests().len() == 1).await;

    interrupt(&child);
    let done = desk.finish(child).await.ended_in(1);

    let objects = done.json();
    assert_eq!(objects.len(), 70, "{}", done.stderr);
    assert!(objects.iter().all(|object| object["outcome"] == "cancelled"), "{}", done.stdout);
    assert!(Seen::count(&desk.master.seen.cancels) <= 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_ctrl_c_waits_for_nothing() {
    let desk = Desk::with(Fault::Deaf).await;
    let child = running(&desk, &["exec", "contoso/web01", "--", "sleep", "600"], "out").await;

    interrupt(&child);
    until("the cancel arrives", || Seen::count(&desk.master.seen.cancels) == 1).await;
    interrupt(&child);

    desk.finish(child).await.ended_in(130);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_pipe_is_a_quiet_end_and_cancels_what_runs() {
    let desk = Desk::with(Fault::Endless).await;
    let mut child = running(&desk, &["exec", "contoso/web01", "--", "yes"], "out").await;

    drop(child.stdout.take());
    let done = desk.finish(child).await.ended_in(130);

    assert_eq!(Seen::count(&desk.master.seen.cancels), 1);
    assert_eq!(done.stderr, "err of contoso/web01\n", "nobody is told");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_into_a_closed_pipe_is_a_quiet_end() {
    let desk = Desk::with(Fault::None).await;
    desk.reeve(&["login"]).await.ended_in(0);
    for arguments in [&["hosts"][..], &["hosts", "--json"], &["whoami"], &[]] {
        let mut child = desk.command(arguments).spawn().unwrap();
        drop(child.stdout.take());
        let done = desk.finish(child).await.ended_in(0);
        assert_eq!(done.stderr, "", "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_is_away_is_unreachable_and_nothing_ran() {
    let desk = Desk::with(Fault::None).await;
    desk.reeve(&["login"]).await.ended_in(0);
    let config = std::fs::read_to_string(desk.path("reeve.toml")).unwrap();
    let away = config.replace(&desk.master.address.to_string(), "127.0.0.1:1");
    desk.write("reeve.toml", &away, 0o600);

    let done = desk.reeve(&["exec", "contoso/web01", "--json", "--", "true"]).await.ended_in(69);

    assert_eq!(done.json()[0]["outcome"], "unreachable");
    assert_eq!(done.json()[0]["code"], "master-unreachable");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_master_is_tried_when_the_first_is_away() {
    let desk = Desk::with(Fault::None).await;
    let config = std::fs::read_to_string(desk.path("reeve.toml")).unwrap();
    let master = format!("\"{}\"", desk.master.address);
    desk.write("reeve.toml", &config.replace(&master, &format!("\"127.0.0.1:1\", {master}")), 0o600);

    desk.reeve(&["exec", "contoso/web01", "--", "true"]).await.ended_in(0);
}
