//! A master that lies: nothing secret reaches it, nothing is signed for it, and the technician is told.

use serde_json::Value;

use crate::desk::Desk;
use crate::master::{Fault, Seen};

const EXEC: [&str; 5] = ["exec", "contoso/web01", "--json", "--", "true"];

/// The one object of a command that was refused as a whole.
async fn refused(desk: &Desk, line: &[&str], status: i32) -> Value {
    let done = desk.reeve(line).await.ended_in(status);
    let objects = done.json();
    assert_eq!(objects.len(), 1, "{}", done.stdout);
    assert_eq!(objects[0]["operation"].as_str().map(str::len), Some(32));
    assert!(done.stderr.starts_with("reeve: "), "{}", done.stderr);
    objects[0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_of_another_authority_gets_neither_key_nor_password() {
    let desk = Desk::with(Fault::OtherAuthority).await;
    let seen = &desk.master.seen;

    let first = refused(&desk, &EXEC, 77).await;
    assert_eq!((&first["code"], &first["host"]), (&"master-untrusted".into(), &"contoso/web01".into()));
    assert!(!desk.path("trust-bundle").exists());

    desk.master.set(Fault::None);
    desk.reeve(&["login"]).await.ended_in(0);
    let (keys, passwords) = (Seen::count(&seen.keys), Seen::count(&seen.passwords));
    desk.master.set(Fault::OtherAuthority);
    for line in [&EXEC[..], &["exec", "contoso/*", "--json", "--", "true"]] {
        assert_eq!(refused(&desk, line, 77).await["code"], "master-untrusted");
    }
    desk.reeve(&["login"]).await.ended_in(77);
    assert_eq!((Seen::count(&seen.keys), Seen::count(&seen.passwords)), (keys, passwords));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_of_another_root_is_not_taken_at_the_first_contact() {
    let desk = Desk::with(Fault::OtherRoot).await;

    let told = refused(&desk, &EXEC, 77).await;

    assert_eq!(told["code"], "master-untrusted");
    assert!(told["reason"].as_str().unwrap().contains("not by the pinned root"), "{told}");
    assert!(!desk.path("trust-bundle").exists());
    assert_eq!(Seen::count(&desk.master.seen.keys), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_bundle_is_told_and_kept_as_evidence_while_the_newer_one_stays_in_force() {
    let desk = Desk::with(Fault::None).await;
    desk.reeve(&["login"]).await.ended_in(0);
    let held = std::fs::read(desk.path("trust-bundle")).unwrap();
    desk.master.set(Fault::OlderBundle);

    let done = desk.reeve(&["login"]).await.ended_in(0);

    assert!(done.stderr.contains("trust bundle 1 is older than bundle 2"), "{}", done.stderr);
    assert!(done.stderr.contains("trust-bundle.refused"), "{}", done.stderr);
    assert!(desk.path("trust-bundle.refused").is_file());
    assert_eq!(std::fs::read(desk.path("trust-bundle")).unwrap(), held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_not_typed_ends_it_before_anything_is_signed() {
    let desk = Desk::with(Fault::OtherHost).await;

    let single = refused(&desk, &EXEC, 77).await;
    assert_eq!((&single["code"], &single["outcome"]), (&"target-mismatch".into(), &"refused".into()));
    assert!(single["reason"].as_str().unwrap().contains("fabrikam/mail01"), "{single}");
    let several = refused(&desk, &["exec", "contoso/*", "--json", "--", "true"], 77).await;
    assert_eq!((&several["code"], &several["host"]), (&"target-mismatch".into(), &Value::Null));

    assert!(desk.master.seen.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_the_librarys_signer_did_not_sign_is_not_run() {
    let desk = Desk::with(Fault::OtherSigner).await;
    let line = ["run", "contoso/web01", "service-restart", "NAME=nginx", "--json"];

    for fault in [Fault::OtherSigner, Fault::OtherPackage] {
        desk.master.set(fault);
        assert_eq!(refused(&desk, &line, 77).await["code"], "item-mismatch", "{fault:?}");
    }

    assert!(desk.master.seen.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_the_place_of_an_answer_is_a_broken_protocol_and_nothing_ran() {
    let desk = Desk::with(Fault::GarbageAnswer).await;

    let told = refused(&desk, &EXEC, 70).await;

    assert_eq!((&told["code"], &told["outcome"]), (&"protocol".into(), &"refused".into()));
    assert!(desk.master.seen.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_the_middle_of_a_run_leaves_the_outcome_unknown() {
    let desk = Desk::with(Fault::GarbageRun).await;

    for fault in [Fault::GarbageRun, Fault::OutputBeforeStart] {
        desk.master.set(fault);
        let done = desk.reeve(&EXEC).await.ended_in(75);
        let told = &done.json()[0];
        assert_eq!((&told["outcome"], &told["code"]), (&"unknown".into(), &"protocol".into()), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_submission_is_one_object_for_all_its_servers() {
    let desk = Desk::with(Fault::RefusesSubmission).await;

    let told = refused(&desk, &["exec", "contoso/*", "--json", "--", "true"], 77).await;

    assert_eq!((&told["code"], &told["record"]), (&"delegation-level".into(), &40.into()));
    assert_eq!((&told["host"], &told["stdout"]), (&Value::Null, &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_yours_and_what_is_wrong_with_the_line_are_objects_too() {
    let desk = Desk::with(Fault::None).await;

    let unknown = refused(&desk, &["exec", "fabrikam/mail01", "--json", "--", "id"], 77).await;
    assert_eq!((&unknown["code"], &unknown["host"]), (&"not-yours".into(), &"fabrikam/mail01".into()));
    let nothing = refused(&desk, &["exec", "fabrikam/*", "--json", "--", "id"], 65).await;
    assert_eq!((&nothing["code"], &nothing["host"]), (&"nothing-matched".into(), &Value::Null));
    let line = refused(&desk, &["exec", "web01", "--json", "--", "id"], 64).await;
    assert_eq!(line["code"], "selector-invalid");
    desk.write("reeve.toml", "sight = 'noc'", 0o600);
    let config = refused(&desk, &EXEC, 78).await;
    assert_eq!(config["code"], "configuration");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_output_reaches_a_pipe_exactly_and_json_in_base64() {
    let desk = Desk::with(Fault::Hostile).await;

    let output = desk.command(&["exec", "contoso/web01", "--", "x"]).output().await.unwrap();
    assert_eq!(output.stdout, b"\x1b[2J\xff\n");
    let told = desk.reeve(&EXEC).await.ended_in(0).json().remove(0);
    assert_eq!((&told["stdout"], &told["stdout_base64"]), (&Value::Null, &"G1sySv8K".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_refused_and_leaves_no_session() {
    let desk = Desk::with(Fault::None).await;
    desk.write("password", "wrong", 0o600);

    let told = refused(&desk, &EXEC, 77).await;

    assert_eq!(told["code"], "login-failed");
    assert!(!desk.path("run/alice@noc.session").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_place_for_the_session_key_there_is_no_login() {
    let desk = Desk::with(Fault::None).await;
    desk.configure(&desk.path("home/run"));
    std::fs::create_dir(desk.path("home")).unwrap();

    let told = refused(&desk, &EXEC, 78).await;

    assert_eq!(told["code"], "configuration");
    assert!(told["reason"].as_str().unwrap().contains("under your home"), "{told}");
    assert_eq!(Seen::count(&desk.master.seen.keys), 0);
}
