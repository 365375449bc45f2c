//! A disk without room, a file that may not grow, and media that cannot be written.
//!
//! The real file systems need a mount namespace of our own (`unshare -rm`, util-linux and the kernel's user
//! namespaces). Where the system forbids that, these tests say so and end.

use std::path::Path;
use std::process::{Command, Stdio};

use reeve_audit::{Class, Draft, Health, Ledger, LedgerError, Reader};
use reeve_wire::id::OperationId;

use crate::site::{self, NEVER, child_ledger, close, ended, log_key, order, settings, stamp, verified};

/// Whether this system lets us mount in a namespace of our own.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn may_mount() -> bool {
    let tried = Command::new("unshare")
        .args(["-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let may = tried.is_ok_and(|status| status.success());
    if !may {
        eprintln!("skipped: this system allows no mount namespace (unshare -rm)");
    }
    may
}

/// A shell line in a namespace of its own, before the child's words.
fn in_namespace(line: &str) -> [String; 5] {
    ["unshare".into(), "-rm".into(), "sh".into(), "-c".into(), format!("{line} && exec \"$0\" \"$@\"")]
}

fn run_child(wrapper: &[String], test: &str, path: &Path) -> Vec<Vec<String>> {
    let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    let (mut child, lines) = site::child(&wrapper, test, path);
    let said = site::said(lines);
    assert!(child.wait().unwrap().success(), "{said:?}");
    said
}

#[ignore = "runs on a file system of 16 MB that another test mounts"]
#[tokio::test]
async fn fill_the_disk() {
    let path = child_ledger();
    let (ledger, thread) = Ledger::open(settings(&path)).unwrap();
    let mut dispatched = Vec::new();
    let refused = loop {
        let operation = OperationId::random();
        let mut asked = order(operation, "alice", "contoso/web01", &[b"uptime"]);
        asked.reason_given = Some("x".repeat(1000).into());
        match ledger.append(Class::Intent, Draft::intent(stamp(), asked, NEVER)).await {
            Ok(appended) => dispatched.push((operation, appended.index)),
            Err(refused) => break refused,
        }
    };
    assert_eq!((refused, ledger.health()), (LedgerError::Full, Health::Full));
    assert!(dispatched.len() > 100, "full after {}", dispatched.len());
    for (operation, intent) in dispatched.iter().rev().take(50) {
        let draft = Draft::result(stamp(), ended(*operation, "contoso/web01", *intent, b"done\n")).unwrap();
        ledger.append(Class::Result, draft).await.unwrap();
    }
    let another = Draft::intent(stamp(), order(OperationId::random(), "bob", "contoso/db01", &[b"id"]), NEVER);
    assert_eq!(ledger.append(Class::Intent, another.clone()).await, Err(LedgerError::Full));

    std::fs::remove_file(path.with_file_name("ballast")).unwrap();
    let mut health = ledger.health_changes();
    let patience = std::time::Duration::from_secs(20);
    tokio::time::timeout(patience, health.wait_for(|health| *health == Health::Open)).await.unwrap().unwrap();
    ledger.append(Class::Intent, another).await.unwrap();
    close(ledger, thread);

    let reader = Reader::open(&path).unwrap();
    let key = Some(log_key().vkey().clone());
    let settings = reeve_audit::verify::Settings { vkey: key, ..Default::default() };
    let report = reeve_audit::verify::verify(&reader, &settings, |_, _| ()).unwrap();
    assert_eq!(report.findings, []);
    assert_eq!(report.open, dispatched.len() as u64 - 50 + 1);
    site::say("filled");
}

#[test]
fn a_full_disk_refuses_what_is_new_keeps_room_for_results_and_recovers() {
    if !may_mount() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path().to_str().unwrap();
    let mount = format!("mount -t tmpfs -o size=16m tmpfs {here} && head -c 4000000 /dev/zero > {here}/ballast");
    let said = run_child(&in_namespace(&mount), "disk::fill_the_disk", &directory.path().join("audit.db"));
    assert!(said.iter().any(|words| words == &["filled"]), "{said:?}");
}

#[ignore = "runs under a limit of the size of files that another test sets"]
#[tokio::test]
async fn write_against_a_limit() {
    let (ledger, thread) = Ledger::open(settings(&child_ledger())).unwrap();
    let mut last = 0;
    let refused = loop {
        let draft = Draft::intent(stamp(), order(OperationId::random(), "alice", "contoso/web01", &[b"id"]), NEVER);
        match ledger.append(Class::Intent, draft).await {
            Ok(appended) => last = appended.index,
            Err(refused) => break refused,
        }
    };
    assert_eq!((refused, ledger.health()), (LedgerError::Closed, Health::Closed));
    for class in [Class::Intent, Class::Result, Class::TakesAway] {
        let event = reeve_audit::record::Happened::start("0.1.0");
        let refused = ledger.append(class, Draft::event(stamp(), event).unwrap()).await;
        assert_eq!(refused, Err(LedgerError::Closed));
    }
    close(ledger, thread);
    site::say(&format!("last {last}"));
}

/// EFBIG is an I/O error to SQLite: not a full disk, so nothing more is taken.
#[test]
fn an_io_error_closes_the_ledger_and_loses_nothing_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.db");
    let limit = ["sh".into(), "-c".into(), "trap '' XFSZ; ulimit -f 7000; exec \"$0\" \"$@\"".into()];
    let said = run_child(&limit, "disk::write_against_a_limit", &path);
    let last = said.iter().find(|words| words[0] == "last").map(|words| words[1].parse::<u64>().unwrap()).unwrap();

    assert!(last > 20, "only {last} records");
    assert!(Reader::open(&path).unwrap().size().unwrap() > last);
    let (status, printed) = verified(&path, &[]);
    assert_eq!(status, 0, "{printed}");
    let (ledger, thread) = Ledger::open(settings(&path)).unwrap();
    assert_eq!(ledger.health(), Health::Open);
    close(ledger, thread);
}

#[tokio::test]
async fn a_copy_on_media_that_cannot_be_written_verifies() {
    if !may_mount() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = site::made(directory.path()).await;
    let here = directory.path().to_str().unwrap();
    let line = format!("mount --bind {here} {here} && mount -o remount,bind,ro {here} && ! touch {here}/x 2>/dev/null");
    let wrapper = in_namespace(&line);
    let program = env!("CARGO_BIN_EXE_reeve-audit");
    let words = [program, "--db", path.to_str().unwrap(), "--vkey", &site::vkey(), "verify"].map(ToOwned::to_owned);
    let output = Command::new(&wrapper[0]).args(&wrapper[1..]).args(words).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("verified: nothing is wrong"));
}
