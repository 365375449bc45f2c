//! Who may do what: the whole cast against every verb and item on every server, on a real OpenLDAP, each attempt with
//! exactly one story in the record; and what happens when a right is lost or the directory is gone.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed, and says what it measured"
)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use reeve_lab::cast::HOSTS;
use reeve_lab::desk::{Done, TestSite, wait_for};
use reeve_lab::site::Site;
use reeve_lab::up::{DirectoryKind, Plan};
use serde_json::Value;

const OPENLDAP: Plan = Plan { agents: 0, directory: DirectoryKind::Openldap };

/// The level that each technician holds on each server; 0 for none.
fn level(person: &str, host: &str) -> u8 {
    match (person, host) {
        ("alice", "contoso/web01" | "contoso/db01") => 3,
        ("bob", "contoso/web01") => 2,
        ("bob", "contoso/db01") | ("carol", "contoso/web01" | "contoso/db01") => 1,
        ("frank", "fabrikam/mail01") => 3,
        _ => 0,
    }
}

struct Work {
    name: &'static str,
    level: u8,
    arguments: &'static [&'static str],
}

const WORK: [Work; 5] = [
    Work { name: "exec", level: 3, arguments: &["exec", "HOST", "--json", "--", "true"] },
    Work { name: "uptime", level: 1, arguments: &["run", "HOST", "uptime", "--json"] },
    Work { name: "disk", level: 1, arguments: &["run", "HOST", "disk", "--json"] },
    Work { name: "service-restart", level: 2, arguments: &["run", "HOST", "service-restart", "NAME=demo", "--json"] },
    Work { name: "script", level: 3, arguments: &["run", "HOST", "script", "--stdin", "SCRIPT", "--json"] },
];

fn attempt(site: &TestSite, person: &str, host: &str, work: &Work) -> Done {
    let script = site.dir().join("script.sh");
    std::fs::write(&script, "echo from a script\n").unwrap();
    let script = script.display().to_string();
    let arguments = work.arguments.iter().map(|word| match *word {
        "HOST" => host,
        "SCRIPT" => script.as_str(),
        other => other,
    });
    site.reeve(person, arguments).unwrap()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

#[test]
fn every_attempt_of_the_cast_comes_out_as_the_levels_say_and_has_one_story() {
    let site = TestSite::up(OPENLDAP);
    for person in ["alice", "bob", "carol", "dave", "frank"] {
        for host in HOSTS {
            for work in &WORK {
                let before = site.programs_started(host);
                let journal = journal_length(&site, host);
                let done = attempt(&site, person, host, work);
                let case = format!("{person} {} {host}: {done:?}", work.name);
                let said = done.json();
                let [object] = said.as_slice() else { panic!("one object a host: {case}") };
                let allowed = level(person, host) >= work.level;

                assert_eq!(done.status, if allowed { 0 } else { 77 }, "{case}");
                assert_eq!(text(object, "outcome"), if allowed { "exited" } else { "refused" }, "{case}");
                if allowed {
                    wait_for("the program is counted", Duration::from_secs(5), || {
                        site.programs_started(host) == before + 1
                    });
                } else {
                    assert!(!text(object, "reason").is_empty(), "{case}");
                    let code = if level(person, host) == 0 { "not-yours" } else { "level-too-low" };
                    assert_eq!(text(object, "code"), code, "{case}");
                    assert_eq!(site.programs_started(host), before, "{case}");
                    assert_eq!(journal_length(&site, host), journal, "the agent received something: {case}");
                    for other in HOSTS.iter().filter(|other| **other != host && level(person, other) == 0) {
                        assert!(!done.text().contains(other) && !done.stderr.contains(other), "{case} names {other}");
                    }
                }
                one_story(&site, text(object, "operation"), person, host, allowed);
            }
        }
    }
    // mallory is not of the NOC staff, oscar's account is disabled: neither comes as far as a session.
    for (person, code) in [("mallory", "not-staff"), ("oscar", "login-failed")] {
        let done = attempt(&site, person, "contoso/web01", &WORK[0]);
        assert_eq!(done.status, 77, "{person}: {done:?}");
        let records = site.records().unwrap();
        let failed: Vec<_> = records
            .iter()
            .filter(|r| {
                text(r, "kind") == "login-failed" && text(r, "user") == format!("tech:{person}")
                    || text(r, "kind") == "login-failed" && text(r, "user") == person
            })
            .collect();
        assert_eq!(failed.len(), 1, "{person}: {failed:?}");
        assert_eq!(text(failed[0], "code"), code, "{person}");
    }
    assert_eq!(site.verify().unwrap().status, 0);
}

/// How many entries the customer's own record on `host` has: whatever reaches an agent leaves one.
fn journal_length(site: &TestSite, host: &str) -> usize {
    let mut log = std::process::Command::new(site.program("reeve-agent"));
    let config = &site.lab().agents[host].config;
    let log = log.arg("--config").arg(config).args(["log", "--json"]).output().unwrap();
    assert!(log.status.success(), "{log:?}");
    String::from_utf8_lossy(&log.stdout).lines().count()
}

fn one_story(site: &TestSite, operation: &str, person: &str, host: &str, allowed: bool) {
    let records = site.records().unwrap();
    let stories: Vec<_> = records.iter().filter(|record| text(record, "operation") == operation).collect();
    let [story] = stories.as_slice() else { panic!("one story, not {stories:?}") };
    assert_eq!(text(story, "kind"), "operation");
    assert_eq!(text(story, "user"), person);
    assert_eq!(text(story, "host"), host);
    assert_eq!(text(story, "decision"), if allowed { "allowed" } else { "refused" });
    assert_eq!(story["record_intent"].is_u64(), allowed, "{story}");
    assert!(story["record_result"].is_u64(), "{story}");
}

#[test]
fn a_right_that_is_lost_ends_what_runs_under_it_with_its_children() {
    let site = TestSite::up(OPENLDAP);
    let mark = format!("6{:03}.125", std::process::id() % 1000);
    let script = format!("sleep {mark} & sleep {mark}");
    let running = site.spawn("alice", ["exec", "contoso/web01", "--json", "--", "sh", "-c", &script]).unwrap();
    wait_for("the sleeps run", Duration::from_secs(20), || sleeping(&mark) == 2);

    let lost = Instant::now();
    let group = reeve_lab::openldap::group_dn("Contoso Administrators");
    let server = site.openldap().unwrap();
    server.add_member(&group, "cn=nobody,dc=noc,dc=example").unwrap();
    server.remove_member(&group, &reeve_lab::openldap::person_dn("alice")).unwrap();
    wait_for("the sleeps are gone", Duration::from_secs(5), || sleeping(&mark) == 0);
    println!("a lost right was felt after {:?}", lost.elapsed());

    let done = Site::finish(running).unwrap();
    assert_eq!(done.status, 130, "{done:?}");
    assert_eq!(text(&done.json()[0], "outcome"), "cancelled", "{done:?}");
    assert_eq!(text(&done.json()[0], "code"), "right-lost", "{done:?}");
    let next = site.reeve("alice", ["exec", "contoso/web01", "--json", "--", "true"]).unwrap();
    assert_eq!((next.status, text(&next.json()[0], "code")), (77, "not-yours"), "{next:?}");
}

/// How many `sleep MARK` processes there are.
fn sleeping(mark: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.starts_with(b"sleep\0") && line[6..].starts_with(mark.as_bytes())).count()
}

#[test]
fn without_the_directory_nothing_runs_and_with_it_everything_does_again() {
    let mut site = TestSite::up(OPENLDAP);
    assert_eq!(site.reeve("carol", ["run", "contoso/web01", "uptime"]).unwrap().status, 0);
    site.stop("directory").unwrap();

    let asked = Instant::now();
    wait_for("an answer that is still fresh is used up", Duration::from_secs(10), || {
        site.reeve("carol", ["run", "contoso/web01", "uptime"]).unwrap().status == 77
    });
    println!("without the directory the first refusal came after {:?}", asked.elapsed());
    let asked = Instant::now();
    let refused = site.reeve("carol", ["run", "contoso/web01", "uptime", "--json"]).unwrap();
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert_eq!((refused.status, text(&refused.json()[0], "code")), (77, "directory-unavailable"), "{refused:?}");

    site.start("directory").unwrap();
    wait_for("it works again", Duration::from_secs(5), || {
        site.reeve("carol", ["run", "contoso/web01", "uptime"]).unwrap().status == 0
    });
}

#[test]
fn an_agent_listens_on_nothing() {
    let site = TestSite::up(Plan { agents: 0, directory: DirectoryKind::File });
    for host in HOSTS {
        let pid = site.pid(&format!("agent:{host}")).unwrap();
        let sockets: BTreeSet<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .flatten()
            .filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .map(|target| target.display().to_string())
            .filter_map(|target| Some(target.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        assert!(!sockets.is_empty(), "{host} has a connection");
        for table in ["tcp", "tcp6", "udp", "udp6", "raw"] {
            let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
            let listening = text.lines().skip(1).filter(|line| {
                let fields: Vec<_> = line.split_whitespace().collect();
                let state_listens = !table.starts_with("tcp") || fields[3] == "0A";
                state_listens && sockets.contains(fields[9])
            });
            assert_eq!(listening.count(), 0, "{host} listens on {table}");
        }
    }
}
