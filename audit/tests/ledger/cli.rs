//! The program: what it prints, and its exit statuses.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::site::{self, HOSTILE, HOSTILE_OUTPUT, REFUSED, UPTIME, WAITING, made, program, verified};

fn asked(path: &Path, words: &[&str]) -> Output {
    program(&[&["--db", path.to_str().unwrap()], words].concat())
}

fn text(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn objects(output: &Output) -> Vec<Value> {
    text(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_list_has_a_line_for_each_operation_and_event() {
    let directory = tempfile::tempdir().unwrap();
    let path = made(directory.path()).await;

    let listed = objects(&asked(&path, &["list", "--json"]));
    let kinds: Vec<&str> = listed.iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["operation", "operation", "operation", "operation", "login-failed", "login"]);
    assert_eq!(listed[0]["operation"], REFUSED.to_string());
    assert_eq!((&listed[1]["operation"], &listed[1]["outcome"]), (&WAITING.to_string().into(), &Value::Null));
    assert_eq!(listed[2]["args"][1], "a,\"b\"\n\u{1b}[2J", "JSON has the exact words");

    let refused = objects(&asked(&path, &["list", "--decision", "refused", "--limit", "1", "--json"]));
    assert_eq!((refused.len(), &refused[0]["code"]), (1, &"level-too-low".into()));
    let open = objects(&asked(&path, &["open", "--json"]));
    assert_eq!(
        (open.len(), &open[0]["operation"], &open[0]["state"]),
        (1, &WAITING.to_string().into(), &"open".into())
    );
    for words in [["list", "--user", "nobody"], ["list", "--since", "2099-01-01"]] {
        assert_eq!(asked(&path, &words).status.code(), Some(65), "{words:?}");
    }
}

#[tokio::test]
async fn nothing_hostile_reaches_a_terminal_through_a_table_csv_or_show() {
    let directory = tempfile::tempdir().unwrap();
    let path = made(directory.path()).await;
    let hostile = format!("{}@fabrikam/mail01", HOSTILE);
    for words in [
        vec!["list"],
        vec!["list", "--csv"],
        vec!["list", "--json"],
        vec!["open"],
        vec!["show", &hostile],
        vec!["show", &hostile, "--json"],
        vec!["verify"],
    ] {
        let printed = text(&asked(&path, &words));
        let harmful = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(!printed.contains(harmful), "{words:?}: {printed:?}");
    }
    let csv = text(&asked(&path, &["list", "--csv"]));
    assert_eq!(csv.lines().count(), 7, "one line a record: {csv}");
    let table = text(&asked(&path, &["list"]));
    assert_eq!(table.lines().count(), 7, "one line a record: {table}");
    assert!(table.contains("\\u{1b}[31mroot"), "{table}");
}

#[tokio::test]
async fn output_comes_back_byte_for_byte_where_it_is_no_terminal() {
    let directory = tempfile::tempdir().unwrap();
    let path = made(directory.path()).await;

    let output = asked(&path, &["show", &HOSTILE.to_string(), "--output"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), HOSTILE_OUTPUT));
    let shown = text(&asked(&path, &["show", &UPTIME.to_string()[..8]]));
    for part in
        ["operation 1111", "contoso/web01", "alice (id-of-alice)", "uptime", "exited 0", "up 3 days", "result 3"]
    {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let whole = objects(&asked(&path, &["show", &UPTIME.to_string(), "--json"]));
    assert_eq!(whole[0]["first"]["record"]["kind"], "intent");
    assert_eq!(whole[0]["result"]["record"]["body"]["exit_status"], 0);
    for (words, status) in [
        (["show", "ffffffff"], 65),
        (["show", &format!("{UPTIME}@contoso/db01")], 65),
        (["show", "xyz"], 64),
        (["show", &format!("{UPTIME}@nowhere")], 64),
    ] {
        assert_eq!(asked(&path, &words).status.code(), Some(status), "{words:?}");
    }
}

/// `script` gives the program a terminal of its own and passes on what reaches it.
#[tokio::test]
async fn a_hosts_output_on_a_terminal_is_made_visible() {
    let directory = tempfile::tempdir().unwrap();
    let path = made(directory.path()).await;
    let program = env!("CARGO_BIN_EXE_reeve-audit");
    for words in ["show 2222 --output", "show 2222", "list --customer fabrikam --json"] {
        let line = format!("{program} --db {} {words}", path.display());
        let output = Command::new("script").args(["-qec", &line, "/dev/null"]).env("NO_COLOR", "1").output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{words}: {output:?}");
        let shown = String::from_utf8(output.stdout).unwrap();
        let harmful = |c: char| c.is_control() && !matches!(c, '\n' | '\r') || c == '\u{202e}';
        assert!(!shown.contains(harmful), "{words}: {shown:?}");
        assert!(shown.contains("\\u{1b}[2J") || shown.contains("\\u001b[2J"), "{words}: {shown:?}");
    }
}

#[tokio::test]
async fn verify_says_by_what_it_verified_and_what_it_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = made(directory.path()).await;

    let own = text(&asked(&path, &["verify"]));
    assert_eq!(own.lines().next(), Some("self-consistent under the key that this file names"));
    let (status, given) = verified(&path, &[]);
    assert_eq!((status, given.lines().next()), (0, Some("checked under the key that was given")));
    let key = text(&asked(&path, &["vkey"]));
    assert_eq!(key.trim(), site::vkey());
    let file = directory.path().join("log.vkey");
    std::fs::write(&file, &key).unwrap();
    let from_file = asked(&path, &["verify", "--vkey", file.to_str().unwrap(), "--json"]);
    assert_eq!(objects(&from_file)[0]["verified"], true);

    let owner = rusqlite::Connection::open(&path).unwrap();
    owner.execute_batch("DROP TRIGGER entry_is_never_changed").unwrap();
    owner.execute("UPDATE entry SET bytes = CAST(replace(bytes, 'alice', 'carol') AS BLOB) WHERE idx = 2", []).unwrap();
    drop(owner);
    let (status, printed) = verified(&path, &[]);
    assert_eq!(status, 10);
    assert!(printed.contains(&format!("10 record 2 (operation {UPTIME}@contoso/web01): it was modified")), "{printed}");
    assert!(printed.contains("17: trigger entry_is_never_changed is missing"), "{printed}");
    assert!(printed.contains("NOT verified: 2 findings"), "{printed}");
    let json = asked(&path, &["verify", "--json"]);
    let report: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(
        (json.status.code(), &report["status"], &report["findings"][1]["record"]),
        (Some(10), &10.into(), &2.into())
    );
}

#[tokio::test]
async fn a_cut_off_end_is_caught_against_a_head_that_was_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = made(directory.path()).await;
    let whole = rusqlite::Connection::open(&path).unwrap();
    let note: String =
        whole.query_row("SELECT note FROM checkpoint ORDER BY size DESC LIMIT 1", [], |row| row.get(0)).unwrap();
    drop(whole);
    let head = directory.path().join("kept.note");
    std::fs::write(&head, note).unwrap();
    assert_eq!(verified(&path, &[&head]).0, 0);

    let younger = tempfile::tempdir().unwrap();
    let (ledger, thread) = reeve_audit::Ledger::open(site::settings(&younger.path().join("audit.db"))).unwrap();
    site::close(ledger, thread);
    let (status, printed) = verified(&younger.path().join("audit.db"), &[&head]);
    assert_eq!(status, 11, "{printed}");
}

#[test]
fn mistakes_have_their_statuses_and_a_way_out() {
    let directory = tempfile::tempdir().unwrap();
    let text_file = directory.path().join("text");
    std::fs::write(&text_file, "not a ledger").unwrap();
    let (none, text_file) = (directory.path().join("none"), text_file.to_str().unwrap());
    let none = none.to_str().unwrap();
    for (words, status) in [
        (vec![], 64),
        (vec!["dance"], 64),
        (vec!["list", "--level", "4"], 64),
        (vec!["list", "--json", "--csv"], 64),
        (vec!["--db", none, "list", "--since", "yesterday"], 65),
        (vec!["list"], 64),
        (vec!["--db", none, "list"], 65),
        (vec!["--db", text_file, "verify"], 65),
        (vec!["--db", none, "--vkey", "nonsense", "verify"], 78),
        (vec!["--version"], 0),
        (vec!["verify", "--help"], 0),
        (vec!["completions", "bash"], 0),
        (vec!["man", "verify"], 0),
        (vec!["man", "dance"], 64),
    ] {
        let output = program(&words);
        assert_eq!(output.status.code(), Some(status), "{words:?}");
        assert_eq!(output.stderr.is_empty(), status == 0, "{words:?}");
    }
}
