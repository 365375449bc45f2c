//! Every task has a name and an owner that waits for it at shutdown. This is the only place that starts one.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

/// The tasks of one program, or of one part that ends on its own. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tasks {
    runtime: Handle,
    tracker: TaskTracker,
    stop: CancellationToken,
    failed: CancellationToken,
    book: Arc<Mutex<Book>>,
}

/// Who runs, and which essential task ended first.
#[derive(Debug, Default)]
struct Book {
    running: BTreeMap<&'static str, usize>,
    ended: Option<TaskEnded>,
}

/// An essential task that ended unasked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TaskEnded {
    /// It returned.
    #[error("the task \"{0}\" ended unasked")]
    Returned(&'static str),
    /// It panicked; the log has the message.
    #[error("the task \"{0}\" panicked")]
    Panicked(&'static str),
}

/// Why a shutdown was not clean.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotClean {
    /// The program could not go on.
    #[error(transparent)]
    Task(#[from] TaskEnded),
    /// These tasks did not stop in time.
    #[error("still running after {grace:?}: {}", names.join(", "))]
    StillRunning {
        /// Their names.
        names: Vec<&'static str>,
        /// How long they had.
        grace: Duration,
    },
}

impl Tasks {
    /// An empty set on the runtime of the caller.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn new() -> Self {
        Self {
            runtime: Handle::current(),
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            failed: CancellationToken::new(),
            book: Arc::default(),
        }
    }

    /// Is cancelled when the tasks are asked to stop. A long-lived task selects on it.
    #[must_use]
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a task that may end when it likes. Its name is in its log lines, and in the complaint if it does not stop.
    pub fn spawn<F>(&self, name: &'static str, task: F) -> AbortHandle
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let running = Running::enter(self, name, false);
        let named = async move {
            task.await;
            drop(running);
        };

        self.tracker.spawn_on(named.instrument(tracing::info_span!("task", name)), &self.runtime).abort_handle()
    }

    /// Starts a task that the program cannot do without: if it ends before it was asked to, [`run`](Self::run) ends.
    pub fn spawn_essential<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let running = Running::enter(self, name, true);
        let named = async move {
            task.await;
            drop(running);
        };
        self.tracker.spawn_on(named.instrument(tracing::info_span!("task", name)), &self.runtime);
    }

    /// Runs something that blocks on a thread for such. It cannot be aborted, only waited for.
    pub fn spawn_blocking<F, T>(&self, name: &'static str, work: F) -> tokio::task::JoinHandle<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let running = Running::enter(self, name, false);
        let span = tracing::info_span!("task", name);
        self.tracker.spawn_blocking_on(
            move || {
                let _in_span = span.entered();
                let done = work();
                drop(running);
                done
            },
            &self.runtime,
        )
    }

    /// How many tasks run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.tracker.len()
    }

    /// Waits for `signal` or for the end of an essential task, then [shuts down](Self::shutdown).
    ///
    /// # Errors
    ///
    /// The essential task that ended unasked, else the tasks that did not stop within `grace`.
    pub async fn run(&self, signal: impl Future<Output = ()>, grace: Duration) -> Result<(), NotClean> {
        tokio::select! {
            () = signal => {}
            () = self.failed.cancelled() => {}
        }
        let ended = self.book().ended.clone();
        let stopped = self.shutdown(grace).await;

        ended.map_or(stopped, |ended| Err(ended.into()))
    }

    /// Asks all tasks to stop and waits for them, up to `grace`.
    ///
    /// # Errors
    ///
    /// The names of the tasks that did not stop. They go on running.
    pub async fn shutdown(&self, grace: Duration) -> Result<(), NotClean> {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(grace, self.tracker.wait())
            .await
            .map_err(|_| NotClean::StillRunning { names: self.book().running.keys().copied().collect(), grace })
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

/// Takes a task off the book however it ends: returned, panicked or aborted.
struct Running {
    tasks: Tasks,
    name: &'static str,
    essential: bool,
}

impl Running {
    fn enter(tasks: &Tasks, name: &'static str, essential: bool) -> Self {
        *tasks.book().running.entry(name).or_default() += 1;

        Self { tasks: tasks.clone(), name, essential }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let panicked = std::thread::panicking();
        if panicked {
            tracing::error!(task = self.name, "a task panicked");
        }
        let mut book = self.tasks.book();
        if let Some(count) = book.running.get_mut(self.name) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                book.running.remove(self.name);
            }
        }
        if self.essential && !self.tasks.stop.is_cancelled() && book.ended.is_none() {
            book.ended = Some(if panicked { TaskEnded::Panicked(self.name) } else { TaskEnded::Returned(self.name) });
            drop(book);
            self.tasks.failed.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_listener_that_ends_takes_the_program_with_it() {
        let tasks = Tasks::new();
        let stop = tasks.stop();
        tasks.spawn_essential("audit writer", async move { stop.cancelled().await });
        tasks.spawn_essential("agent listener", async {});

        let ended = tasks.run(std::future::pending(), Duration::from_secs(5)).await;

        assert_eq!(ended, Err(TaskEnded::Returned("agent listener").into()));
    }

    #[tokio::test]
    async fn a_panic_is_told_apart_from_a_return() {
        let tasks = Tasks::new();
        tasks.spawn_essential("broker", async { panic!("on purpose") });

        let ended = tasks.run(std::future::pending(), Duration::from_secs(5)).await;

        assert_eq!(ended, Err(TaskEnded::Panicked("broker").into()));
    }

    #[tokio::test]
    async fn what_does_not_stop_is_named() {
        let tasks = Tasks::new();
        tasks.spawn("stubborn", std::future::pending());
        tasks.spawn("prompt", async {});
        let grace = Duration::from_millis(20);

        let stopped = tasks.shutdown(grace).await;

        assert_eq!(stopped, Err(NotClean::StillRunning { names: vec!["stubborn"], grace }));
    }

    #[tokio::test]
    async fn a_signal_stops_everything_and_the_end_is_clean() {
        let tasks = Tasks::new();
        let stop = tasks.stop();
        tasks.spawn_essential("listener", async move { stop.cancelled().await });
        let summed = tasks.spawn_blocking("sum", || 1 + 1).await;

        assert_eq!(summed.unwrap(), 2);
        assert_eq!(tasks.run(async {}, Duration::from_secs(5)).await, Ok(()));
        assert_eq!(tasks.running(), 0);
    }

    #[tokio::test]
    async fn an_aborted_task_leaves_the_book() {
        let tasks = Tasks::new();
        tasks.spawn("endless", std::future::pending()).abort();

        assert_eq!(tasks.shutdown(Duration::from_secs(5)).await, Ok(()));
    }
}
