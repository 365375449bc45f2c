//! Real programs, run and ended.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use reeve_wire::id::{Digest, OperationId};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::Notify;

use super::*;

/// Far more than any program here needs.
const DEADLINE: Duration = Duration::from_secs(60);

/// Why programs are cancelled here.
const LOST: &str = "the right was lost";

/// Keeps what it is given, and lets a test wait for it.
#[derive(Default)]
struct Kept {
    stdout: Mutex<Vec<u8>>,
    stderr: Mutex<Vec<u8>>,
    changed: Notify,
    stdout_is_stuck: AtomicBool,
    stdout_is_closed: bool,
}

impl Kept {
    fn text(&self, which: Which) -> String {
        String::from_utf8_lossy(&self.bytes(which)).into_owned()
    }

    fn bytes(&self, which: Which) -> Vec<u8> {
        self.of(which).lock().unwrap().clone()
    }

    fn of(&self, which: Which) -> &Mutex<Vec<u8>> {
        match which {
            Which::Stdout => &self.stdout,
            Which::Stderr => &self.stderr,
        }
    }

    /// Waits for the first whole line of a stream.
    async fn line(&self, which: Which) -> String {
        within(async {
            loop {
                let changed = self.changed.notified();
                if let Some((line, _)) = self.text(which).split_once('\n') {
                    return line.to_owned();
                }
                changed.await;
            }
        })
        .await
    }

    fn let_go(&self) {
        self.stdout_is_stuck.store(false, Ordering::SeqCst);
        self.changed.notify_waiters();
    }
}

impl Sink for Kept {
    async fn take(&self, which: Which, chunk: Bytes) -> Result<(), SinkClosed> {
        assert!(!chunk.is_empty() && chunk.len() <= CHUNK, "a chunk of {} bytes", chunk.len());
        if which == Which::Stdout && self.stdout_is_closed {
            return Err(SinkClosed);
        }
        loop {
            let changed = self.changed.notified();
            if which == Which::Stderr || !self.stdout_is_stuck.load(Ordering::SeqCst) {
                break;
            }
            changed.await;
        }
        self.of(which).lock().unwrap().extend_from_slice(&chunk);
        self.changed.notify_waiters();
        Ok(())
    }
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    timeout(DEADLINE, what).await.expect("not within the deadline")
}

fn job(argv: &[&str]) -> Job {
    let account = Account { name: "tester".into(), home: "/no/home".into() };
    let (technician, host) = ("alice".parse().unwrap(), "contoso/web01".parse().unwrap());
    Job {
        argv: Argv::new(argv.iter().map(|element| element.as_bytes().to_vec()).collect()).unwrap(),
        stdin: Stdin::Null,
        timeout: DEADLINE,
        max_output: DEFAULT_MAX_OUTPUT,
        environment: Environment::new(&account, OperationId([7; 16]), &technician, &host),
        directory: "/".into(),
        salts: Salts::random(),
    }
}

fn shell(script: &str) -> Job {
    job(&["/bin/sh", "-c", script])
}

/// Runs `job` to its own end.
async fn ended(job: Job) -> (Ended, Kept) {
    let kept = Kept::default();
    let ended = ended_into(job, &kept).await;
    (ended, kept)
}

async fn ended_into(job: Job, kept: &Kept) -> Ended {
    let (_canceller, mut cancelled) = cancel();
    within(run(job, kept, &mut cancelled)).await
}

/// Runs `job` and cancels it when its first line on `which` has come; gives that line too.
async fn cancelled_after_a_line(job: Job, kept: &Kept, which: Which) -> (Ended, String) {
    let (canceller, mut cancelled) = cancel();
    let first_line = async {
        let line = kept.line(which).await;
        canceller.cancel(LOST);
        line
    };
    within(async { tokio::join!(run(job, kept, &mut cancelled), first_line) }).await
}

fn group(line: &str) -> Pid {
    Pid::from_raw(line.trim().parse().unwrap()).unwrap()
}

fn assert_summary_matches(summary: &StreamSummary, kept: &[u8]) {
    assert_eq!(summary.stored, kept.len() as u64);
    assert_eq!(summary.commitment, Digest::salted(&summary.salt, kept));
    assert_eq!(summary.truncated, summary.stored != summary.length);
}

fn not_started(outcome: Outcome) -> NotStarted {
    let Outcome::Failed(not_started) = outcome else { panic!("{outcome:?}") };
    not_started
}

#[tokio::test]
async fn the_exit_status_is_the_programs_own() {
    for status in [0, 1, 3, 255] {
        let (ended, _) = ended(shell(&format!("exit {status}"))).await;
        assert_eq!(ended.outcome, Outcome::Exited(status));
        assert_eq!(ended.outcome.exit_status(), status);
    }
}

#[tokio::test]
async fn a_program_that_a_signal_ended_answers_128_and_the_signal() {
    let (ended, _) = ended(shell("kill -KILL $$")).await;

    assert_eq!(ended.outcome, Outcome::Signalled(9));
    assert_eq!(ended.outcome.exit_status(), 137);
}

#[tokio::test]
async fn a_program_that_is_not_there_answers_127_and_one_that_cannot_run_126() {
    for (program, status) in [
        ("no-such-program", 127),
        ("/no/such/program", 127),
        ("no/such/program", 127),
        ("/etc", 126),
        ("/etc/passwd", 126),
    ] {
        let (ended, _) = ended(job(&[program])).await;
        assert_eq!(ended.outcome.exit_status(), status, "{program}");
        assert!(not_started(ended.outcome).what.contains(program));
        assert_summary_matches(&ended.stdout, b"");
    }
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_named() {
    let (ended, _) = ended(Job { directory: "/no/such/place".into(), ..job(&["true"]) }).await;

    let not_started = not_started(ended.outcome);
    assert_eq!(not_started.exit_status, 126);
    assert!(not_started.what.contains("/no/such/place"));
}

#[tokio::test]
async fn a_file_that_the_kernel_does_not_recognise_is_not_given_to_a_shell() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("no-interpreter");
    // Written by another process: a program that is open for writing anywhere, as in a test's fork, cannot be run.
    let write = format!("echo 'echo run by a shell' > {0} && chmod 755 {0}", file.display());
    assert_eq!(ended(shell(&write)).await.0.outcome, Outcome::Exited(0));

    let (ended, kept) = ended(job(&[file.to_str().unwrap()])).await;

    assert_eq!(not_started(ended.outcome).exit_status, 126);
    assert_eq!(kept.text(Which::Stdout), "");
}

#[tokio::test]
async fn a_bare_name_is_never_looked_for_in_the_directory() {
    let place = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/bin/true", place.path().join("only-here")).unwrap();
    let here = |program| Job { directory: place.path().into(), ..job(&[program]) };

    assert_eq!(not_started(ended(here("only-here")).await.0.outcome).exit_status, 127);
    assert_eq!(ended(here("./only-here")).await.0.outcome, Outcome::Exited(0));
}

#[tokio::test]
async fn arguments_arrive_byte_for_byte() {
    let odd = ["-f", "--", "$(id)", "; reboot", "@file", "a b", "", "*", "\\", "'\"", "=", "é\n"];
    let mut argv = vec!["sh", "-c", "cat /proc/$$/cmdline; true", "name"];
    argv.extend(odd);

    let (_, kept) = ended(job(&argv)).await;

    let sent: Vec<u8> = argv.iter().flat_map(|element| [element.as_bytes(), b"\0"].concat()).collect();
    assert_eq!(kept.bytes(Which::Stdout), sent);
}

#[tokio::test]
async fn output_arrives_byte_for_byte_and_apart() {
    let (ended, kept) = ended(shell(r"printf '\377\000\n\200\033[2J'; printf 'e\000\303' >&2")).await;

    assert_eq!(kept.bytes(Which::Stdout), b"\xff\0\n\x80\x1b[2J");
    assert_eq!(kept.bytes(Which::Stderr), b"e\0\xc3");
    assert_summary_matches(&ended.stdout, b"\xff\0\n\x80\x1b[2J");
    assert_summary_matches(&ended.stderr, b"e\0\xc3");
    assert_ne!(ended.stdout.salt, ended.stderr.salt);
}

#[tokio::test]
async fn output_beyond_the_limit_is_counted_and_dropped() {
    let written: u64 = 100_000_000;
    let limit = 1_000_001;
    let job = Job { max_output: limit, ..job(&["head", "-c", &written.to_string(), "/dev/zero"]) };

    let (ended, kept) = ended(job).await;

    assert_eq!(ended.outcome, Outcome::Exited(0));
    assert_eq!(kept.bytes(Which::Stdout).len() as u64, limit);
    assert_eq!(ended.stdout.length, written);
    assert!(ended.stdout.truncated && !ended.stderr.truncated);
    assert_summary_matches(&ended.stdout, &kept.bytes(Which::Stdout));
}

#[tokio::test]
async fn output_of_exactly_the_limit_is_whole() {
    let (ended, kept) = ended(Job { max_output: 5, ..shell("printf 12345") }).await;

    assert_eq!(kept.text(Which::Stdout), "12345");
    assert!(!ended.stdout.truncated);
}

#[tokio::test]
async fn an_endless_line_ends_with_its_program() {
    let job = Job { max_output: 300_000, ..shell("tr '\\0' x </dev/zero & echo go >&2; wait") };

    let kept = Kept::default();
    let (ended, _) = cancelled_after_a_line(job, &kept, Which::Stderr).await;

    assert_eq!(ended.outcome, Outcome::Cancelled(LOST.into()));
    assert!(kept.bytes(Which::Stdout).len() <= 300_000);
    assert_summary_matches(&ended.stdout, &kept.bytes(Which::Stdout));
}

#[tokio::test]
async fn a_program_that_never_pauses_is_still_timed_out() {
    let job = Job { timeout: Duration::from_millis(300), max_output: 10, ..shell("cat /dev/zero & cat /dev/zero >&2") };

    let (ended, _) = ended(job).await;

    assert_eq!(ended.outcome, Outcome::TimedOut);
    assert_eq!(ended.outcome.exit_status(), 124);
}

#[tokio::test]
async fn a_program_that_ignores_sigterm_ends() {
    let kept = Kept::default();
    let job = shell("trap '' TERM; echo $$; while :; do sleep 0.05; done");

    let (ended, line) = cancelled_after_a_line(job, &kept, Which::Stdout).await;

    assert_eq!(ended.outcome, Outcome::Cancelled(LOST.into()));
    assert_eq!(ended.outcome.exit_status(), 130);
    assert!(!end::others_alive(group(&line)));
}

#[tokio::test]
async fn a_stopped_program_hears_sigterm_too() {
    let kept = Kept::default();
    let job = shell("trap 'echo heard; exit' TERM; echo $$; kill -STOP $$; while :; do sleep 0.05; done");
    let (canceller, mut cancelled) = cancel();
    let when_stopped = async {
        let leader = kept.line(Which::Stdout).await;
        until_state(&leader, "T").await;
        canceller.cancel(LOST);
    };

    within(async { tokio::join!(run(job, &kept, &mut cancelled), when_stopped) }).await;

    assert!(kept.text(Which::Stdout).ends_with("heard\n"));
}

#[tokio::test]
async fn every_process_of_the_group_ends_with_it() {
    for background in ["sleep 1000 & sleep 1000", "(trap '' TERM; while :; do sleep 0.05; done) & wait"] {
        let kept = Kept::default();
        let job = shell(&format!("echo $$; {background}"));

        let (ended, line) = cancelled_after_a_line(job, &kept, Which::Stdout).await;

        assert_eq!(ended.outcome, Outcome::Cancelled(LOST.into()));
        assert!(!end::others_alive(group(&line)), "{background}");
    }
}

#[tokio::test]
async fn a_background_process_may_clean_up_after_its_leader_has_gone() {
    let kept = Kept::default();
    let job = shell("(trap 'sleep 0.7; echo cleaned; exit' TERM; echo ready; while :; do sleep 0.05; done) & wait");

    cancelled_after_a_line(job, &kept, Which::Stdout).await;

    assert_eq!(kept.text(Which::Stdout), "ready\ncleaned\n");
}

#[tokio::test]
async fn a_background_process_that_holds_the_pipe_does_not_hold_up_the_end() {
    let (ended, kept) = ended(shell("sleep 1000 & echo $$")).await;

    assert_eq!(ended.outcome, Outcome::Exited(0));
    let group = group(&kept.text(Which::Stdout));
    assert!(end::others_alive(group), "a program's own end leaves its background processes alone");
    kill_process_group(group, Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_background_process_that_goes_on_writing_is_bounded_by_the_timeout() {
    let job = Job {
        timeout: Duration::from_millis(900),
        ..shell("echo $$ >&2; while :; do echo x; sleep 0.05; done & exit 0")
    };

    let (ended, kept) = ended(job).await;

    assert_eq!(ended.outcome, Outcome::TimedOut);
    assert!(!end::others_alive(group(&kept.text(Which::Stderr))));
    assert_summary_matches(&ended.stdout, &kept.bytes(Which::Stdout));
}

#[tokio::test]
async fn dropping_the_run_ends_the_group() {
    let kept = Kept::default();
    let (_canceller, mut cancelled) = cancel();
    let leader = tokio::select! {
        _ = run(shell("echo $$; sleep 1000 & sleep 1000"), &kept, &mut cancelled) => panic!("it ended by itself"),
        line = kept.line(Which::Stdout) => group(&line),
    };

    within(async {
        while end::others_alive(leader) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn stdin_arrives_whole() {
    let text: Bytes = (0..1024 * 1024_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect::<Vec<u8>>().into();

    let (ended, kept) = ended(Job { stdin: Stdin::Bytes(text.clone()), ..job(&["cat"]) }).await;

    assert_eq!(ended.outcome, Outcome::Exited(0));
    assert_eq!(kept.bytes(Which::Stdout), text);
}

#[tokio::test]
async fn a_program_need_not_read_its_stdin() {
    let text = Bytes::from(vec![b'x'; 1024 * 1024]);

    let (ended, _) = ended(Job { stdin: Stdin::Bytes(text), ..job(&["true"]) }).await;

    assert_eq!(ended.outcome, Outcome::Exited(0));
}

#[tokio::test]
async fn without_stdin_there_is_nothing_to_read() {
    let (_, kept) = ended(shell("readlink /proc/self/fd/0; cat")).await;

    assert_eq!(kept.text(Which::Stdout), "/dev/null\n");
}

#[tokio::test]
async fn a_script_runs_and_its_commands_cannot_read_the_rest_of_it() {
    let script = Bytes::from_static(b"echo one\ncat\nread -r line || echo nothing to read\necho \"two $1\"\n");
    let job = Job { stdin: Stdin::Script(script), ..job(&["/bin/sh", memfd::SCRIPT_PATH, "argument"]) };

    let (ended, kept) = ended(job).await;

    assert_eq!(kept.text(Which::Stdout), "one\nnothing to read\ntwo argument\n", "{}", kept.text(Which::Stderr));
    assert_eq!(ended.outcome, Outcome::Exited(0));
}

#[tokio::test]
async fn the_librarys_script_item_gives_its_commands_nothing_to_read() {
    let manifest: toml::Table = toml::from_str(include_str!("../../../library/script/manifest.toml")).unwrap();
    let argv: Vec<&str> =
        manifest["argv"].as_array().unwrap().iter().map(|element| element.as_str().unwrap()).collect();
    let script =
        Bytes::from_static(b"echo one\ncat\nread -r line || echo nothing to read\necho \"$REEVE_HOST\"\nexit 4");

    let (ended, kept) = ended(Job { stdin: Stdin::Bytes(script), ..job(&argv) }).await;

    assert_eq!(kept.text(Which::Stdout), "one\nnothing to read\ncontoso/web01\n", "{}", kept.text(Which::Stderr));
    assert_eq!(ended.outcome, Outcome::Exited(4));
}

#[tokio::test]
async fn a_running_script_cannot_be_swapped() {
    let script = Bytes::from_static(b"(echo 'echo swapped' >/proc/self/fd/0) 2>&- || echo refused\n: \n: \n");
    let job = Job { stdin: Stdin::Script(script), ..job(&["/bin/sh", memfd::SCRIPT_PATH]) };

    let (_, kept) = ended(job).await;

    assert_eq!(kept.text(Which::Stdout), "refused\n");
}

#[tokio::test]
async fn the_environment_is_exactly_the_fixed_list() {
    let (_, kept) = ended(job(&["env", "-0"])).await;

    let text = kept.text(Which::Stdout);
    let seen: BTreeMap<&str, &str> = text.split_terminator('\0').map(|entry| entry.split_once('=').unwrap()).collect();
    let expected = BTreeMap::from([
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("LANG", "C.UTF-8"),
        ("LC_ALL", "C.UTF-8"),
        ("HOME", "/no/home"),
        ("USER", "tester"),
        ("LOGNAME", "tester"),
        ("REEVE_OPERATION", "07070707070707070707070707070707"),
        ("REEVE_TECHNICIAN", "alice"),
        ("REEVE_HOST", "contoso/web01"),
    ]);
    assert_eq!(seen, expected);
    let own = std::env::vars_os().filter(|(name, _)| !expected.contains_key(name.to_str().unwrap_or_default()));
    assert!(own.count() > 0, "there was nothing that could have been inherited");
}

#[tokio::test]
async fn signals_have_their_ordinary_meaning_in_a_program() {
    let (_, kept) = ended(job(&["sed", "-n", "s/^Sig\\(Ign\\|Blk\\):\\t//p", "/proc/self/status"])).await;

    let pipe = 1 << (Signal::PIPE.as_raw() - 1);
    let text = kept.text(Which::Stdout);
    let masks: Vec<u64> = text.lines().map(|line| u64::from_str_radix(line, 16).unwrap()).collect();
    assert!(masks.len() == 2 && masks.iter().all(|mask| mask & pipe == 0), "{text}");
}

#[tokio::test]
async fn a_timeout_ends_the_group() {
    let (ended, kept) = ended(Job { timeout: Duration::from_millis(300), ..shell("echo $$; sleep 1000 & wait") }).await;

    assert_eq!(ended.outcome, Outcome::TimedOut);
    assert!(!end::others_alive(group(&kept.text(Which::Stdout))));
}

#[tokio::test]
async fn a_sink_that_does_not_take_holds_the_program_back() {
    let kept = Kept { stdout_is_stuck: true.into(), ..Kept::default() };
    let job = shell("echo $$ >&2; exec head -c 1000000 /dev/zero");
    let waits = async {
        let leader = kept.line(Which::Stderr).await;
        until_state(&leader, "S (head)").await;
        assert!(kept.bytes(Which::Stdout).is_empty());
        kept.let_go();
    };

    let (ended, ()) = within(async { tokio::join!(ended_into(job, &kept), waits) }).await;

    assert_eq!(ended.outcome, Outcome::Exited(0));
    assert_eq!(kept.bytes(Which::Stdout).len(), 1_000_000);
    assert!(!ended.stdout.truncated);
}

#[tokio::test]
async fn a_sink_that_never_takes_keeps_nothing_alive_past_a_cancellation() {
    let kept = Kept { stdout_is_stuck: true.into(), ..Kept::default() };

    let (ended, line) =
        cancelled_after_a_line(shell("echo out; echo $$ >&2; cat /dev/zero"), &kept, Which::Stderr).await;

    assert_eq!(ended.outcome, Outcome::Cancelled(LOST.into()));
    assert!(!end::others_alive(group(&line)));
    assert_summary_matches(&ended.stdout, b"");
    assert!(ended.stdout.truncated && ended.stdout.length >= 4);
}

#[tokio::test]
async fn a_sink_that_never_takes_keeps_nothing_alive_past_the_timeout() {
    let kept = Kept { stdout_is_stuck: true.into(), ..Kept::default() };
    let job = Job { timeout: Duration::from_millis(300), ..shell("echo out; echo $$ >&2; exit 0") };

    let ended = ended_into(job, &kept).await;

    assert_eq!(ended.outcome, Outcome::TimedOut);
    assert_eq!(ended.stdout.length, 4);
    assert_summary_matches(&ended.stdout, b"");
    assert!(!end::others_alive(group(&kept.text(Which::Stderr))));
}

#[tokio::test]
async fn a_program_goes_on_when_nobody_takes_its_output_any_more() {
    let kept = Kept { stdout_is_closed: true, ..Kept::default() };

    let ended = ended_into(shell("head -c 1000000 /dev/zero; exit 4"), &kept).await;

    assert_eq!(ended.outcome, Outcome::Exited(4));
    assert_eq!(ended.stdout.length, 1_000_000);
    assert_summary_matches(&ended.stdout, b"");
}

#[tokio::test]
async fn a_cancellation_that_came_first_starts_nothing() {
    let place = tempfile::tempdir().unwrap();
    let mark = place.path().join("started");
    let (canceller, mut cancelled) = cancel();
    canceller.cancel(LOST);

    let ended = within(run(shell(&format!("touch {}", mark.display())), &Kept::default(), &mut cancelled)).await;

    assert_eq!(ended.outcome, Outcome::Cancelled(LOST.into()));
    assert!(!mark.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_at_once_each_get_their_own_status_and_output() {
    let mut running = tokio::task::JoinSet::new();
    for number in 0..300 {
        running.spawn(async move {
            let (ended, kept) = ended(shell(&format!("echo {number}; exit {}", number % 256))).await;
            assert_eq!(ended.outcome, Outcome::Exited(number % 256));
            assert_eq!(kept.text(Which::Stdout), format!("{number}\n"));
        });
    }
    assert_eq!(running.join_all().await.len(), 300);
}

/// Waits until `/proc` shows process `id` in `state`, a letter and optionally its name.
async fn until_state(id: &str, state: &str) {
    within(async {
        loop {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
            let (before, after) = stat.rsplit_once(") ").unwrap();
            let name = before.split_once('(').unwrap().1;
            if format!("{} ({name})", &after[..1]).starts_with(state) {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}
