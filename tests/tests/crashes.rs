//! `kill -9` of master, agent and both while commands run, bursts, and output that tests every limit.
//!
//! `REEVE_LONG=1` makes the long variant: 50 rounds of 200 commands.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed, and says what it measured"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Child;
use std::time::Duration;

use reeve_lab::desk::{Done, TestSite, wait_for};
use reeve_lab::site::Site;
use reeve_lab::up::{DirectoryKind, Plan};
use serde_json::Value;

const FILE: Plan = Plan { agents: 0, directory: DirectoryKind::File };
const HOST: &str = "contoso/web01";

fn long() -> bool {
    std::env::var_os("REEVE_LONG").is_some()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// Appends its operation's id to a file: what really ran, and how often.
fn leave_a_mark(site: &TestSite) -> String {
    format!("echo $REEVE_OPERATION >>{}; sleep 0.0$((RANDOM % 8))", site.dir().join("marks").display())
}

fn marks(site: &TestSite) -> BTreeMap<String, usize> {
    let text = std::fs::read_to_string(site.dir().join("marks")).unwrap_or_default();
    text.lines().fold(BTreeMap::new(), |mut marks, line| {
        *marks.entry(line.to_owned()).or_default() += 1;
        marks
    })
}

#[test]
fn whatever_is_killed_nothing_acknowledged_is_lost_nothing_runs_unrecorded_and_nothing_runs_twice() {
    let (rounds, commands) = if long() { (50, 200) } else { (5, 60) };
    let mut site = TestSite::up(FILE);
    let agent = format!("agent:{HOST}");
    let mark = leave_a_mark(&site);
    let mut acknowledged = BTreeSet::new();
    for round in 0..rounds {
        let victims: &[&str] = match round % 3 {
            0 => &["master"],
            1 => &[&agent],
            _ => &["master", &agent],
        };
        let running = start_many(&site, commands, &mark);
        let at_least = marks(&site).len() + commands / 6;
        wait_for("some commands ran", Duration::from_secs(60), || marks(&site).len() >= at_least);
        for victim in victims {
            site.kill(victim).unwrap();
        }
        acknowledged.extend(running.into_iter().flat_map(|child| told(&Site::finish(child).unwrap())));
        for victim in victims {
            site.start(victim).unwrap();
        }
        wait_for("the host is back", Duration::from_secs(40), || {
            site.reeve("alice", ["exec", HOST, "--", "true"]).unwrap().status == 0
        });
        check(&site, &acknowledged, round);
    }
    println!("{rounds} rounds of {commands} commands, {} acknowledged", acknowledged.len());
}

fn start_many(site: &TestSite, count: usize, mark: &str) -> Vec<Child> {
    // One login for all, so that the burst is of commands.
    let ready = site.reeve("alice", ["whoami"]).unwrap();
    assert_eq!(ready.status, 0, "{ready:?}");
    (0..count).map(|_| site.spawn("alice", ["exec", HOST, "--json", "--", "bash", "-c", mark]).unwrap()).collect()
}

/// What a console was told of: operation, outcome and record.
fn told(done: &Done) -> Option<(String, String, u64)> {
    let said = done.json();
    let object = said.first()?;
    Some((text(object, "operation").to_owned(), text(object, "outcome").to_owned(), object["record"].as_u64()?))
}

fn check(site: &TestSite, acknowledged: &BTreeSet<(String, String, u64)>, round: usize) {
    let verified = site.verify().unwrap();
    assert_eq!(verified.status, 0, "round {round}: {verified:?}");
    let records = site.records().unwrap();
    let recorded: BTreeMap<_, _> = records
        .iter()
        .filter(|r| text(r, "kind") == "operation")
        .map(|r| (text(r, "operation").to_owned(), r))
        .collect();
    for (operation, outcome, record) in acknowledged {
        let story = recorded
            .get(operation)
            .unwrap_or_else(|| panic!("round {round}: {operation} was told and is not recorded"));
        let same = text(story, "outcome") == outcome || outcome == "unknown";
        assert!(
            same && story["record_result"].as_u64() >= Some(*record),
            "round {round}: told {outcome}, recorded {story}"
        );
    }
    for (operation, times) in marks(site) {
        assert_eq!(times, 1, "round {round}: {operation} ran {times} times");
        let story = recorded.get(&operation).unwrap_or_else(|| panic!("round {round}: {operation} ran unrecorded"));
        assert!(story["record_intent"].is_u64(), "round {round}: {operation} ran without an intent: {story}");
        assert_ne!(
            text(story, "outcome"),
            "unreachable",
            "round {round}: {operation} ran and is said not to have: {story}"
        );
    }
    let open: Vec<_> =
        recorded.values().filter(|story| story["outcome"].is_null() && text(story, "decision") == "allowed").collect();
    assert!(open.is_empty(), "round {round}: what is not known says so: {open:?}");
}

#[test]
fn three_bursts_of_a_hundred_are_all_answered_rightly_and_recorded_with_output() {
    let site = TestSite::up(FILE);
    assert_eq!(site.reeve("alice", ["whoami"]).unwrap().status, 0);
    let mut told = 0;
    for burst in 0..3 {
        let running: Vec<_> = (0..100)
            .map(|n| {
                let script = format!("echo burst {burst} command {n}; exit 3");
                site.spawn("alice", ["exec", HOST, "--json", "--", "sh", "-c", &script]).unwrap()
            })
            .collect();
        for (n, child) in running.into_iter().enumerate() {
            let done = Site::finish(child).unwrap();
            assert_eq!(done.status, 3, "burst {burst}, {n}: {done:?}");
            assert_eq!(text(&done.json()[0], "stdout"), format!("burst {burst} command {n}\n"));
            told += 1;
        }
    }
    let with_output = |record: &Value| record["exit_status"] == 3 && record["output_bytes"].as_u64() > Some(0);
    assert_eq!((told, site.count(with_output).unwrap()), (300, 300));

    std::thread::sleep(if long() { Duration::from_secs(20) } else { Duration::from_secs(2) });
    let next = site.reeve("alice", ["exec", HOST, "--json", "--", "sh", "-c", "echo after; exit 3"]).unwrap();
    assert_eq!(next.status, 3, "{next:?}");
    assert_eq!(site.count(with_output).unwrap(), 301);
    assert_eq!(site.verify().unwrap().status, 0);
}

#[test]
fn output_of_any_kind_is_recorded_exactly_in_bounded_memory() {
    let site = TestSite::up(FILE);
    let before = memory(&site);
    // 100 MB, one line of it without an end.
    let done = site.reeve("alice", ["exec", HOST, "--", "head", "-c", "100000000", "/dev/zero"]).unwrap();
    assert_eq!((done.status, done.stdout.len()), (0, 100_000_000), "{}", done.stderr);
    assert!(done.stdout.iter().all(|byte| *byte == 0));
    for (part, before, after) in
        before.iter().zip(memory(&site)).map(|((part, before), (_, after))| (part, before, after))
    {
        println!("{part}: {before} KiB before, {after} KiB at most");
        assert!(after < before + 160 * 1024, "{part} took {after} KiB for 100 MB of output");
    }
    let bytes: Vec<u8> = (0..=255).collect();
    let script = "i=0; while [ $i -lt 256 ]; do printf \"\\\\$(printf %03o $i)\"; i=$((i+1)); done";
    let done = site.reeve("alice", ["exec", HOST, "--json", "--", "sh", "-c", script]).unwrap();
    let object = &done.json()[0];
    assert!(object["stdout"].is_null(), "{object}");
    let operation = text(object, "operation").to_owned();
    let stored = site.audit(["show", &operation, "--output"]).unwrap();
    assert_eq!((stored.status, &stored.stdout), (0, &bytes), "{}", stored.stderr);
    let done = site.reeve("alice", ["exec", HOST, "--", "sh", "-c", script]).unwrap();
    assert_eq!(done.stdout, bytes, "a pipe gets the exact bytes");
}

/// The most memory that each part has had, in KiB.
fn memory(site: &TestSite) -> Vec<(String, u64)> {
    let parts = ["master".to_owned(), format!("agent:{HOST}")];
    let peak = |part: &String| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", site.pid(part)?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.split_whitespace().next()?.parse().ok()
    };
    parts.iter().map(|part| (part.clone(), peak(part).unwrap_or(0))).collect()
}

#[test]
fn output_past_the_limit_is_cut_for_record_and_technician_alike_and_says_so() {
    let mut site = TestSite::up(FILE);
    let agent = format!("agent:{HOST}");
    let config = site.lab().agents[HOST].config.clone();
    site.stop(&agent).unwrap();
    let text_of = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text_of}max-output = 1000\n")).unwrap();
    site.start(&agent).unwrap();

    let done = site.reeve("alice", ["exec", HOST, "--json", "--", "sh", "-c", "yes | head -c 5000"]).unwrap();
    assert_eq!(done.status, 0, "{done:?}");
    let object = &done.json()[0];
    assert_eq!(text(object, "stdout").len(), 1000);
    let story = site.audit(["show", text(object, "operation"), "--json"]).unwrap();
    assert!(
        story.text().contains("\"truncated\":true") && story.text().contains("\"length\":5000"),
        "{}",
        story.text()
    );
}

#[test]
fn a_child_that_ignores_sigterm_ends_at_its_time_limit_and_on_cancel() {
    let site = TestSite::up(FILE);
    let script = "trap '' TERM; echo on; while :; do sleep 0.1; done";
    let done = site.reeve("alice", ["exec", HOST, "--timeout", "1s", "--json", "--", "sh", "-c", script]).unwrap();
    assert_eq!((done.status, text(&done.json()[0], "outcome")), (124, "timed-out"), "{done:?}");

    let mut running = site.spawn("alice", ["exec", HOST, "--json", "--", "sh", "-c", script]).unwrap();
    wait_for("it is recorded as begun", Duration::from_secs(20), || {
        site.count(|r| text(r, "kind") == "operation" && r["outcome"].is_null()).unwrap() == 1
    });
    let pid = rustix::process::Pid::from_child(&running);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    wait_for("the console ends", Duration::from_secs(20), || running.try_wait().unwrap().is_some());
    let done = Site::finish(running).unwrap();
    assert_eq!((done.status, text(&done.json()[0], "outcome")), (130, "cancelled"), "{done:?}");
}
