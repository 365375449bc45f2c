//! A managed server: its files, and the agent that runs on them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reeve_agent::agent::Agent;
use reeve_agent::config::Config;
use reeve_agent::failure::Failure;
use reeve_agent::journal::{Position, look};
use reeve_agent::run::serve;
use reeve_agent::status::{self, Status};
use reeve_agent::{chain, state};
use reeve_wire::keyfile::write_secret;
use reeve_wire::receipt::{Event, Receipt};
use reeve_wire::time::Clock;
use ssh_key::LineEnding;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::site::{HOST, Site, line};

/// The files of a server.
pub(crate) struct Server {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) config: Config,
}

impl Server {
    /// A server of `site` whose agent dials `masters`. It has no trust bundle yet.
    pub(crate) fn of(site: &Site, masters: &[String]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        write_secret(&path("host.key"), site.host.to_openssh(LineEnding::LF).unwrap().as_bytes()).unwrap();
        let certificate = site.host_certificate().to_openssh().unwrap();
        std::fs::write(path("host.key-cert.pub"), certificate).unwrap();
        let config = Config {
            site: "lab".parse().unwrap(),
            host: HOST.parse().unwrap(),
            root: line(&site.root).fingerprint(),
            trust: path("trust-bundle"),
            masters: masters.to_vec(),
            key: path("host.key"),
            certificate: path("host.key-cert.pub"),
            state: path("state"),
            max_output: 1024 * 1024,
            service_manager: "/bin/echo".into(),
        };
        Self { dir, config }
    }

    pub(crate) fn start(&self) -> Running {
        let agent = Agent::open(self.config.clone(), Clock::system()).unwrap();
        let stop = CancellationToken::new();
        let (serving, stopping) = (Arc::clone(&agent), stop.clone());
        let (done, ended) = tokio::sync::oneshot::channel();
        let served = JoinOnDrop::spawn(async move {
            let result = serve(&serving, async move { stopping.cancelled().await }).await;
            drop(done.send(result));
        });
        Running { agent, stop, ended, _served: served }
    }

    pub(crate) fn state(&self, name: &str) -> PathBuf {
        self.config.state.join(name)
    }

    pub(crate) fn status(&self) -> Status {
        let state = state::StateDir::look(&self.config.state).unwrap();
        status::read(&state).unwrap().unwrap()
    }

    /// Every receipt in the journal.
    pub(crate) fn journal(&self) -> Vec<Receipt> {
        let entries = look(&self.state("journal"), Position(0)).unwrap();
        entries.map(|entry| entry.unwrap()).map(|entry| chain::read(entry.position, &entry.bytes).unwrap().1).collect()
    }

    pub(crate) fn refusals(&self) -> usize {
        self.journal().iter().filter(|receipt| receipt.event == Event::Refused).count()
    }
}

struct JoinOnDrop(JoinHandle<()>);

impl JoinOnDrop {
    #[expect(clippy::disallowed_methods, reason = "the test's own task, outside of the agent's")]
    fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task))
    }
}

impl Drop for JoinOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An agent that runs.
pub(crate) struct Running {
    pub(crate) agent: Arc<Agent>,
    stop: CancellationToken,
    ended: tokio::sync::oneshot::Receiver<Result<(), Failure>>,
    _served: JoinOnDrop,
}

impl Running {
    /// Tells the agent to stop, as SIGTERM does, and waits until it has.
    pub(crate) async fn stop(self) -> Result<(), Failure> {
        self.stop.cancel();
        crate::master::soon(self.ended).await.unwrap()
    }
}

/// Waits until it is so.
pub(crate) async fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}: not within 20 s");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
