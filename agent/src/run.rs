//! The running agent, from its first task to its last.

use std::sync::Arc;
use std::time::Duration;

use reeve_wire::code::{Code, Refusal};
use reeve_wire::time::Clock;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

use crate::agent::Agent;
use crate::config::{Config, Problem};
use crate::connection;
use crate::failure::Failure;

/// Threads of the runtime: what runs here waits for programs and for the network.
const THREADS: usize = 2;
/// How long running operations may go on once the agent is to stop.
const GRACE: Duration = Duration::from_secs(10);
/// How long they have to end after they were told to.
const CANCELLED_WITHIN: Duration = Duration::from_secs(10);
/// How long everything else has.
const STOPPED_WITHIN: Duration = Duration::from_secs(5);
/// How often the journal is looked at for what need not be kept.
const PRUNE_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Runs the agent until it is told to stop.
///
/// # Errors
/// When it cannot start, cannot go on, or did not stop cleanly.
pub fn run(config: Config) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("reeve-agent")
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(format_args!("no threads: {error}")))?;
    runtime.block_on(async {
        let stop = told_to_stop().map_err(|error| Failure::internal(format_args!("no signals: {error}")))?;
        let agent = Agent::open(config, Clock::system()).map_err(|problems| all_of(&problems))?;
        serve(&agent, stop).await
    })
}

/// All problems in one failure.
pub fn all_of(problems: &[Problem]) -> Failure {
    Failure::config(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

/// Serves until `stop`, and then ends what runs.
///
/// # Errors
/// When a task that the agent needs ended, or something did not stop in time.
pub async fn serve(agent: &Arc<Agent>, stop: impl Future<Output = ()>) -> Result<(), Failure> {
    tracing::info!(host = %agent.host(), version = env!("CARGO_PKG_VERSION"), "Starting");
    agent.tasks.spawn_essential("connection", connection::stay(Arc::clone(agent)));
    agent.tasks.spawn_essential("journal upkeep", keep_journal_short(Arc::clone(agent)));
    let stopping = async {
        stop.await;
        tracing::info!(running = agent.running.count(), "Stopping");
        drain(agent).await;
    };
    let stopped = agent.tasks.run(stopping, STOPPED_WITHIN).await;
    stopped.map_err(|error| Failure::internal(format_args!("the agent did not end cleanly: {error}")))
}

/// Takes nothing more, lets what runs end, and ends what does not.
async fn drain(agent: &Agent) {
    agent.draining.cancel();
    if timeout(GRACE, agent.running.none()).await.is_ok() {
        return;
    }
    agent.running.stop_all(&Refusal::because(Code::Cancelled, "the agent on the server was stopped"));
    if timeout(CANCELLED_WITHIN, agent.running.none()).await.is_err() {
        tracing::error!(running = agent.running.count(), "Programs did not end; their outcome will be unknown");
    }
}

fn told_to_stop() -> std::io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Removes what is older than the journal must keep, as measured by what the root signed: the local clock could be
/// pushed forward to destroy it.
async fn keep_journal_short(agent: Arc<Agent>) {
    let stop = agent.tasks.stop();
    while !stop.is_cancelled() {
        if let Some(trust) = agent.trust.current() {
            let (pruning, issued) = (Arc::clone(&agent), trust.issued);
            let pruned = agent.tasks.spawn_blocking("journal upkeep", move || pruning.chain.prune(issued)).await;
            match pruned {
                Ok(Ok(0)) => {}
                Ok(Ok(files)) => tracing::info!(files, "Journal files past their time were removed"),
                Ok(Err(error)) => tracing::warn!(%error, "The journal could not be shortened"),
                Err(error) => tracing::warn!(%error, "The journal could not be shortened"),
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep(PRUNE_EVERY) => {}
        }
    }
}
