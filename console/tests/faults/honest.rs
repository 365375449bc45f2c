//! What the console does with a master that does its part.

use reeve_wire::level::Level;
use reeve_wire::request::Kind;

use crate::desk::Desk;
use crate::master::{Fault, Seen};

#[tokio::test(flavor = "multi_thread")]
async fn the_first_command_fetches_the_bundle_logs_in_and_hands_the_output_on_byte_for_byte() {
    let desk = Desk::with(Fault::None).await;

    let done = desk.reeve(&["exec", "contoso/db01", "--case", "INC-7", "--reason", "disk", "--", "df", "-h"]).await;

    let done = done.ended_in(3);
    assert_eq!(done.stdout, "out of contoso/db01\n");
    assert_eq!(done.stderr, "err of contoso/db01\n");
    assert!(desk.path("trust-bundle").is_file());
    let requests = desk.master.seen.requests();
    let [request] = requests.as_slice() else { panic!("{requests:?}") };
    assert_eq!((request.kind, request.level, request.timeout_ms), (Kind::Raw, Level::Three, 300_000));
    assert_eq!((request.case.as_deref(), request.reason.as_deref()), (Some("INC-7"), Some("disk")));
    assert!(request.delegation.is_some() && request.stdin.is_none());
    assert_eq!(Seen::count(&desk.master.seen.passwords), 1);

    desk.reeve(&["exec", "contoso/web01", "--", "true"]).await.ended_in(0);
    assert_eq!(Seen::count(&desk.master.seen.passwords), 1, "the session is used again");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_servers_are_told_apart_and_their_table_stands_at_the_end() {
    let desk = Desk::with(Fault::None).await;

    let done = desk.reeve(&["exec", "contoso/*", "--", "hostname"]).await.ended_in(1);

    let mut lines: Vec<_> = done.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["contoso/db01  | out of contoso/db01", "contoso/web01 | out of contoso/web01"]);
    assert!(done.stderr.contains("contoso/web01 | err of contoso/web01\n"), "{}", done.stderr);
    let table = "HOST           OUTCOME  STATUS  WHY\ncontoso/db01   exited   3\ncontoso/web01  exited   0\n\
                 1 of 2 servers ended in status 0\n";
    assert!(done.stderr.ends_with(table), "{}", done.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn seventy_servers_run_side_by_side_in_one_request() {
    let desk = Desk::with(Fault::None).await;

    let done = desk.reeve(&["exec", "load/*", "--json", "--", "true"]).await.ended_in(0);

    let objects = done.json();
    assert_eq!(objects.len(), 70);
    for object in &objects {
        let host = object["host"].as_str().unwrap();
        assert_eq!(object["stdout"], format!("out of {host}\n"));
        assert_eq!((&object["outcome"], &object["record"]), (&"exited".into(), &2.into()));
    }
    assert_eq!(desk.master.seen.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_refused_server_among_several_is_one_object_and_status_1() {
    let desk = Desk::with(Fault::RefusesOne).await;

    let done = desk.reeve(&["exec", "contoso/*", "--json", "--", "true"]).await.ended_in(1);

    let objects = done.json();
    let refused = objects.iter().find(|object| object["host"] == "contoso/web01").unwrap();
    assert_eq!((&refused["outcome"], &refused["code"]), (&"refused".into(), &"level-too-low".into()));
    assert_eq!((&refused["record"], &refused["stdout"]), (&41.into(), &serde_json::Value::Null));

    let alone = desk.reeve(&["exec", "contoso/web01", "--", "true"]).await.ended_in(77);
    assert!(alone.stderr.starts_with("reeve: contoso/web01: this needs a higher level"), "{}", alone.stderr);
    assert!(alone.stderr.ends_with(" [level-too-low]\n"), "{}", alone.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_is_signed_as_the_librarys_index_names_it() {
    let desk = Desk::with(Fault::None).await;

    desk.reeve(&["run", "contoso/web01", "service-restart", "NAME=nginx", "--timeout", "10m"]).await.ended_in(0);

    let requests = desk.master.seen.requests();
    let [request] = requests.as_slice() else { panic!("{requests:?}") };
    assert_eq!((request.kind, request.level), (Kind::Item, Level::Two));
    assert_eq!(request.timeout_ms, 30_000, "the item's own limit holds");
    assert_eq!(request.item.as_ref().unwrap().version, 4);
    assert_eq!(request.args, [("NAME".to_owned(), "nginx".into())]);

    for arguments in [&["NAME=--now"][..], &[], &["NAME=a", "NAME=b"], &["OTHER=x", "NAME=a"]] {
        let line = [&["run", "contoso/web01", "service-restart"], arguments].concat();
        let refused = desk.reeve(&line).await.ended_in(65);
        assert!(refused.stderr.contains("[parameter-invalid]"), "{}", refused.stderr);
    }
    let refused = desk.reeve(&["run", "contoso/web01", "service-restart", "NAME=a", "--stdin", "/dev/null"]).await;
    assert!(refused.ended_in(77).stderr.contains("takes no input"));
    assert_eq!(desk.master.seen.requests().len(), 1, "nothing wrong was signed");
}

#[tokio::test(flavor = "multi_thread")]
async fn input_travels_with_its_digest_and_an_own_key_without_a_delegation() {
    let desk = Desk::with(Fault::None).await;
    let script = "echo hello\n".repeat(90_000);
    desk.write("fix.sh", &script, 0o644);

    let path = desk.path("fix.sh");
    let line = ["exec", "contoso/web01", "--own-key", "--stdin", path.to_str().unwrap(), "--", "sh"];
    desk.reeve(&line).await.ended_in(0);

    let requests = desk.master.seen.requests();
    assert_eq!((requests.len(), requests[0].delegation), (1, None));
    assert!(*desk.master.seen.stdin.lock().unwrap() == script.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_commands_at_once_log_in_once() {
    let desk = Desk::with(Fault::None).await;
    let children: Vec<_> =
        (0..100).map(|_| desk.command(&["exec", "contoso/web01", "--", "true"]).spawn().unwrap()).collect();

    for child in children {
        desk.finish(child).await.ended_in(0);
    }

    assert_eq!(Seen::count(&desk.master.seen.passwords), 1);
    assert_eq!(desk.master.seen.requests().len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_the_master_forgot_is_opened_again() {
    let desk = Desk::with(Fault::None).await;
    desk.reeve(&["login"]).await.ended_in(0);
    desk.master.forget_sessions();

    desk.reeve(&["exec", "contoso/web01", "--", "true"]).await.ended_in(0);

    assert_eq!(Seen::count(&desk.master.seen.passwords), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn logout_leaves_no_key_behind_even_when_the_master_is_away() {
    let desk = Desk::with(Fault::None).await;
    let file = desk.path("run/alice@noc.session");

    desk.reeve(&["login"]).await.ended_in(0);
    assert!(file.is_file());
    let done = desk.reeve(&["logout"]).await.ended_in(0);
    assert_eq!(done.stdout, "alice at noc: logged out\n");
    assert!(!file.exists());
    assert_eq!(desk.master.sessions(), 0);
    let again = desk.reeve(&["logout", "--json"]).await.ended_in(0);
    assert_eq!(again.json()[0]["ended"], false);

    desk.reeve(&["login"]).await.ended_in(0);
    let config = std::fs::read_to_string(desk.path("reeve.toml")).unwrap();
    let away = config.replace(&desk.master.address.to_string(), "127.0.0.1:1");
    desk.write("reeve.toml", &away, 0o600);
    let done = desk.reeve(&["logout"]).await.ended_in(69);
    assert!(done.stderr.contains("[master-unreachable]") && done.stderr.contains("hint: "), "{}", done.stderr);
    assert!(!file.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_are_tables_for_people_and_lines_for_scripts() {
    let desk = Desk::with(Fault::None).await;

    let table = desk.reeve(&["hosts", "contoso/*"]).await.ended_in(0);
    assert!(table.stdout.starts_with("HOST           LEVEL  AGENT"), "{}", table.stdout);
    assert_eq!(table.stdout.lines().count(), 3);
    let lines = desk.reeve(&["hosts", "--json"]).await.ended_in(0).json();
    assert_eq!((lines.len(), &lines[0]["host"], &lines[0]["level"]), (72, &"contoso/db01".into(), &3.into()));
    desk.reeve(&["hosts", "fabrikam/*"]).await.ended_in(65);
    desk.reeve(&["hosts", "web01"]).await.ended_in(64);

    let me = desk.reeve(&["whoami", "--json"]).await.ended_in(0).json();
    assert_eq!((&me[0]["name"], &me[0]["site"]), (&"alice".into(), &"noc".into()));
    let why = desk.reeve(&["why", "contoso/web01"]).await.ended_in(77);
    assert!(why.stderr.contains("[not-yours]"), "{}", why.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn verbs_that_need_no_master_need_no_configuration() {
    let desk = Desk::with(Fault::None).await;
    let run = async |arguments: &[&str]| {
        let mut command = desk.command(arguments);
        let output = command.env_remove("REEVE_CONFIG").output().await.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };

    let (status, help) = run(&[]).await;
    assert_eq!(status, Some(0));
    assert!(help.contains("Usage: reeve"), "{help}");
    let (status, script) = run(&["completions", "bash"]).await;
    assert!(status == Some(0) && script.contains("_reeve"), "{status:?}");
    let (status, page) = run(&["man"]).await;
    assert!(status == Some(0) && page.contains(".TH reeve"), "{status:?}");
    assert_eq!(run(&["hosts"]).await.0, Some(78));
    assert_eq!(run(&["exec", "contoso/web01"]).await.0, Some(64));
}
