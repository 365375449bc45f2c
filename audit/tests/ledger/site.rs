//! What the tests share: a ledger with a few records, a writer in a process of its own, and the program itself.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use reeve_audit::record::{Command as Asked, Ended, Happened, Order, Party};
use reeve_audit::{Class, Content, Draft, Ledger, Settings, Stamp, WriterThread};
use reeve_wire::id::{OperationId, Salt};
use reeve_wire::level::Level;
use reeve_wire::note::LogSigner;
use reeve_wire::receipt::Outcome;
use reeve_wire::time::Clock;

/// Far beyond any test: 2100.
pub(crate) const NEVER: u64 = 4_102_444_800_000_000;

pub(crate) fn log_key() -> LogSigner {
    LogSigner::from_seed("lab.reeve/master1", &[7; 32]).unwrap()
}

pub(crate) fn vkey() -> String {
    log_key().vkey().to_string()
}

pub(crate) fn settings(path: &Path) -> Settings {
    Settings { reserve: 512 * 1024, ..Settings::new(path, log_key()) }
}

pub(crate) fn stamp() -> Stamp {
    Stamp::now(&Clock::system())
}

pub(crate) fn order(operation: OperationId, user: &str, host: &str, argv: &[&[u8]]) -> Order {
    Order {
        host: Some(host.parse().unwrap()),
        user_id: Some(format!("id-of-{user}")),
        command: Some(Asked::raw("raw", argv)),
        level_required: Some(Level::Three),
        level_held: Some(Level::Three),
        case: Some("C-1".into()),
        ..Order::new(operation, user.parse().unwrap())
    }
}

pub(crate) fn ended(operation: OperationId, host: &str, intent: u64, stdout: &[u8]) -> Ended {
    Ended {
        exit_status: Some(0),
        stdout: Some(Content::new(Salt::random(), stdout).unwrap()),
        ..Ended::new(operation, host.parse().unwrap(), intent, Outcome::Exited)
    }
}

pub(crate) fn close(ledger: Ledger, thread: WriterThread) {
    drop(ledger);
    thread.join();
}

/// The operations of [`made`].
pub(crate) const UPTIME: OperationId = OperationId([0x11; 16]);
pub(crate) const HOSTILE: OperationId = OperationId([0x22; 16]);
pub(crate) const WAITING: OperationId = OperationId([0x33; 16]);
pub(crate) const REFUSED: OperationId = OperationId([0x44; 16]);

/// What a hostile host wrote.
pub(crate) const HOSTILE_OUTPUT: &[u8] = b"ok\n\x1b]0;you are root\x07\x1b[2J\xff\xc2\x9b\xe2\x80\xae\n";

/// A ledger with two ended operations, one that waits, one refused, a login and a failed one.
pub(crate) async fn made(directory: &Path) -> PathBuf {
    let path = directory.join("audit.db");
    let (ledger, thread) = Ledger::open(settings(&path)).unwrap();
    let alice = Party::technician(&"alice".parse().unwrap(), Some("id-of-alice"), Some("SHA256:abc"), None);
    let login = Draft::event(stamp(), Happened::login(alice, &["key", "password"])).unwrap();
    ledger.append(Class::Intent, login).await.unwrap();
    let failed = Party { user: Some("\u{1b}[31mroot".into()), ..Party::address("192.0.2.9") };
    let failed = Happened::login_failed(failed, "password-wrong", "the password is wrong", 3);
    ledger.append(Class::Intent, Draft::event(stamp(), failed).unwrap()).await.unwrap();

    run(&ledger, UPTIME, "alice", "contoso/web01", &[b"uptime"], Some(b"up 3 days\n")).await;
    run(&ledger, HOSTILE, "frank", "fabrikam/mail01", &[b"cat", b"a,\"b\"\n\x1b[2J"], Some(HOSTILE_OUTPUT)).await;
    run(&ledger, WAITING, "alice", "contoso/db01", &[b"sleep", b"5"], None).await;
    let refused = order(REFUSED, "carol", "contoso/web01", &[b"reboot"]);
    let refused = Draft::refused(stamp(), refused, "level-too-low", "this needs level 3");
    ledger.append(Class::Intent, refused).await.unwrap();
    close(ledger, thread);
    path
}

async fn run(ledger: &Ledger, id: OperationId, user: &str, host: &str, argv: &[&[u8]], output: Option<&[u8]>) {
    let draft = Draft::intent(stamp(), order(id, user, host, argv), NEVER);
    let intent = ledger.append(Class::Intent, draft).await.unwrap().index;
    if let Some(output) = output {
        let draft = Draft::result(stamp(), ended(id, host, intent, output)).unwrap();
        ledger.append(Class::Result, draft).await.unwrap();
    }
}

/// `reeve-audit` with nothing of our environment that it reads.
pub(crate) fn program(words: &[&str]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_reeve-audit"));
    program.args(words).env_remove("REEVE_AUDIT_DB").env_remove("REEVE_AUDIT_VKEY").output().unwrap()
}

/// `verify` under the log's key; the exit status and what it printed.
pub(crate) fn verified(path: &Path, heads: &[&Path]) -> (i32, String) {
    let key = vkey();
    let mut words = vec!["--db", path.to_str().unwrap(), "--vkey", &key, "verify"];
    for head in heads {
        words.extend(["--against", head.to_str().unwrap()]);
    }
    let output = program(&words);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

/// A test of this binary in a process of its own, to be killed or to run out of room. It is `#[ignore]`d, so that it
/// runs only when it is asked for.
pub(crate) fn child(wrapper: &[&str], test: &str, path: &Path) -> (Child, BufReader<ChildStdout>) {
    let own = std::env::current_exe().unwrap();
    let mut words: Vec<String> = wrapper.iter().map(|word| (*word).to_owned()).collect();
    words.extend(
        [own.to_str().unwrap(), "--ignored", "--exact", test, "--nocapture", "--test-threads=1"].map(Into::into),
    );
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env("REEVE_TEST_LEDGER", path).stdout(Stdio::piped()).stdin(Stdio::null());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    (child, lines)
}

/// Where the process of [`child`] has its ledger.
pub(crate) fn child_ledger() -> PathBuf {
    std::env::var_os("REEVE_TEST_LEDGER").expect("this test is run by another one").into()
}

/// One line of a child, for its parent.
#[expect(clippy::print_stdout, reason = "standard output is how a child answers its parent")]
pub(crate) fn say(line: &str) {
    println!("\n{line}");
}

/// The lines that a child said under this name, until its end.
pub(crate) fn said(lines: BufReader<ChildStdout>) -> Vec<Vec<String>> {
    let whole = lines.lines().map_while(Result::ok);
    whole.map(|line| line.split(' ').map(ToOwned::to_owned).collect()).collect()
}
