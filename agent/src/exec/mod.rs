//! Runs one program without a shell, and says how it ended.
//!
//! The program gets its own process group, an [`Environment`] from a fixed list, and nothing to read but
//! `/dev/null` or bytes that were signed. Its output goes through a [`Sink`], whose waiting holds the program back.
//! When [`run`] was told to end it early ([`cancel`](cancel()), timeout), every process of the group is gone when it
//! returns. Processes that left the group (`setsid`) are not found: a cgroup for each operation with `cgroup.kill`,
//! where the agent owns a delegated cgroup v2, is the way to be certain of those.
//!
//! A program that ends by itself leaves its background children alone, as under any login: a service that an init
//! script started goes on.

mod cancel;
mod capture;
mod end;
mod environment;
mod job;
pub mod memfd;
mod spawn;

#[cfg(test)]
mod tests;

pub use cancel::{ABANDONED, Cancelled, Canceller, Reason, cancel};
pub use capture::{CHUNK, QUIET, Sink, SinkClosed, StreamSummary, Which};
pub use end::GRACE;
pub use environment::{Account, Environment, PATH};
pub use job::{Argv, ArgvError, DEFAULT_MAX_OUTPUT, Job, MAX_ARGV, Salts, Stdin};
pub use spawn::NotStarted;

use std::future::Future;
use std::pin::{Pin, pin};

use reeve_wire::code::exit;
use tokio::time::{Sleep, timeout};
use tokio_util::sync::CancellationToken;

use capture::Capture;
use end::{Group, STUCK};
use spawn::Started;

/// How an operation's program ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// By itself, with this exit status.
    Exited(i32),
    /// By this signal, which the agent did not send.
    Signalled(i32),
    /// It never started.
    Failed(NotStarted),
    /// It was ended when its time was up.
    TimedOut,
    /// It was ended for this reason.
    Cancelled(Reason),
    /// It started and is over, and the system does not say how it ended.
    Unknown,
}

impl Outcome {
    /// The status that a command line answers with: 128+n for signal n, 126 or 127 for what never started, else the
    /// one that stands in the table of codes.
    pub fn exit_status(&self) -> i32 {
        match self {
            Self::Exited(status) => *status,
            Self::Signalled(signal) => 128 + signal,
            Self::Failed(not_started) => not_started.exit_status.into(),
            Self::TimedOut => exit::TIMED_OUT.into(),
            Self::Cancelled(_) => exit::CANCELLED.into(),
            Self::Unknown => exit::UNKNOWN.into(),
        }
    }
}

/// All that is known of a program when it is over.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ended {
    /// How it ended.
    pub outcome: Outcome,
    /// Its standard output.
    pub stdout: StreamSummary,
    /// Its standard error.
    pub stderr: StreamSummary,
}

/// Runs `job` to its end, whichever comes first of its own, its timeout's and `cancelled`'s.
///
/// Returns at most [`GRACE`], the kernel's time to kill and twice [`QUIET`] after the timeout or the cancellation,
/// also when `sink` never takes anything. Dropping the future kills the group.
///
/// The sink has received everything that the summaries call stored when this returns.
pub async fn run(job: Job, sink: &impl Sink, cancelled: &mut Cancelled) -> Ended {
    let (salts, max_output) = (job.salts, job.max_output);
    let mut limits = Limits { timeout: Box::pin(tokio::time::sleep(job.timeout)), cancelled };

    let started = match start(job, &mut limits).await {
        Ok(started) => started,
        Err(outcome) => {
            let (stdout, stderr) = (capture::nothing(salts.stdout), capture::nothing(salts.stderr));
            return Ended { outcome, stdout, stderr };
        }
    };
    let mut group = started.group;
    let mut stdout = Capture::new(Which::Stdout, started.stdout, salts.stdout, max_output);
    let mut stderr = Capture::new(Which::Stderr, started.stderr, salts.stderr, max_output);

    let ended = CancellationToken::new();
    let early = {
        let both = async { tokio::join!(stdout.read(sink, &ended), stderr.read(sink, &ended)) };
        let mut reading = Reading {
            both: pin!(async {
                both.await;
            }),
            done: false,
        };
        let early = follow(&mut group, &mut reading, &ended, &mut limits).await.err();
        if early.is_some() {
            bring_about(&mut group, &mut reading, &ended).await;
        }
        early
    };
    tokio::join!(stdout.discard(), stderr.discard());
    let outcome = conclude(&mut group, early).await;
    Ended { outcome, stdout: stdout.summary(), stderr: stderr.summary() }
}

/// What can end a program before its time.
struct Limits<'a> {
    timeout: Pin<Box<Sleep>>,
    cancelled: &'a mut Cancelled,
}

impl Limits<'_> {
    /// Waits for the first limit. May be dropped and called again.
    async fn reached(&mut self) -> Outcome {
        tokio::select! {
            biased;
            reason = self.cancelled.reason() => Outcome::Cancelled(reason),
            () = &mut self.timeout => Outcome::TimedOut,
        }
    }
}

/// The reading of both streams, which goes on while other things are awaited.
///
/// It is always polled last: a program that writes without a pause uses up what tokio lets a task do at one go, and a
/// timer that came after it would never be due.
struct Reading<'a, F> {
    both: Pin<&'a mut F>,
    done: bool,
}

impl<F: Future<Output = ()>> Reading<'_, F> {
    /// Reads on. May be dropped and called again.
    async fn finish(&mut self) {
        if !self.done {
            self.both.as_mut().await;
            self.done = true;
        }
    }

    /// Reads on for as long as `wait` takes.
    async fn during<T>(&mut self, wait: impl Future<Output = T>) -> T {
        let mut wait = pin!(wait);
        tokio::select! {
            biased;
            waited = &mut wait => waited,
            () = self.finish() => wait.await,
        }
    }
}

/// Starts `job` on a thread that may block, so that a file system that hangs holds up this operation alone.
async fn start(job: Job, limits: &mut Limits<'_>) -> Result<Started, Outcome> {
    tokio::select! {
        biased;
        outcome = limits.reached() => return Err(outcome),
        () = std::future::ready(()) => {}
    }
    let starting = tokio::task::spawn_blocking(move || spawn::start(&job));
    tokio::select! {
        biased;
        outcome = limits.reached() => Err(outcome),
        started = starting => match started {
            Ok(started) => started.map_err(Outcome::Failed),
            Err(error) => Err(Outcome::Failed(NotStarted::surroundings("start", &std::io::Error::other(error)))),
        },
    }
}

/// Follows the program and then the rest of its output to their end.
///
/// # Errors
///
/// The limit that was reached before.
async fn follow(
    group: &mut Group,
    reading: &mut Reading<'_, impl Future<Output = ()>>,
    ended: &CancellationToken,
    limits: &mut Limits<'_>,
) -> Result<(), Outcome> {
    let first = async {
        tokio::select! {
            biased;
            () = group.ended() => Ok(()),
            limit = limits.reached() => Err(limit),
        }
    };
    reading.during(first).await?;
    ended.cancel();

    tokio::select! {
        biased;
        limit = limits.reached() => Err(limit),
        () = reading.finish() => Ok(()),
    }
}

/// Ends the group: asks, waits up to [`GRACE`] for all of it and its output to be over, then kills.
async fn bring_about(
    group: &mut Group,
    reading: &mut Reading<'_, impl Future<Output = ()>>,
    ended: &CancellationToken,
) {
    group.ask();
    let willing = async {
        reading.during(group.all_ended()).await;
        ended.cancel();
        reading.finish().await;
    };
    drop(timeout(GRACE, willing).await);

    group.kill();
    let killed = async {
        reading.during(group.all_ended()).await;
        ended.cancel();
    };
    drop(timeout(STUCK, killed).await);
    drop(timeout(QUIET, reading.finish()).await);
}

/// Reaps the leader and says how it ended, unless a limit was what ended it.
async fn conclude(group: &mut Group, early: Option<Outcome>) -> Outcome {
    let by_itself = match timeout(STUCK, group.reap()).await {
        Ok(Ok(status)) => end::by_itself(status),
        Ok(Err(error)) => {
            tracing::error!(%error, "How a program ended could not be learnt");
            Outcome::Unknown
        }
        Err(_) => {
            tracing::error!("A program is stuck in the kernel and outlives its operation");
            Outcome::Unknown
        }
    };
    early.unwrap_or(by_itself)
}
