//! Starts a master, wires its parts, and stops it in order.

use std::sync::Arc;
use std::time::Duration;

use reeve_audit::WriterThread;
use reeve_audit::record::Happened;
use reeve_link::tasks::Tasks;
use reeve_wire::code::exit;
use reeve_wire::id::Digest;
use reeve_wire::time::Clock;

use crate::agents;
use crate::config::{Config, Identity, Problem};
use crate::directory::Directory;
use crate::fleet::Fleet;
use crate::ledger::Ledger;
use crate::master::Master;
use crate::replay::Replay;
use crate::running::Running;
use crate::sessions::Sessions;
use crate::ssh::{self, Door};
use crate::trusted::Change;

/// How long what runs may take to end when the master is asked to stop, and how long its tasks may then.
const GRACE: Duration = Duration::from_secs(10);

/// Why a master did not start, or did not stop cleanly.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration or what it names is wrong.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Config(Vec<Problem>),
    /// The ledger cannot be opened or written.
    #[error("the ledger: {0}")]
    Ledger(String),
    /// The state folder cannot be used.
    #[error("the state folder cannot be used: {0}")]
    State(#[source] std::io::Error),
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// It could not go on, or did not stop in time.
    #[error(transparent)]
    Tasks(#[from] reeve_link::tasks::NotClean),
}

impl Failure {
    /// The exit status that it gives.
    pub const fn exit_status(&self) -> u8 {
        match self {
            Self::Config(_) | Self::State(_) => exit::CONFIG,
            Self::Listen { .. } => exit::UNREACHABLE,
            Self::Ledger(_) | Self::Tasks(_) => exit::INTERNAL,
        }
    }
}

/// Runs a master until `signal`.
///
/// # Errors
/// Why it could not start, or what did not stop.
pub async fn run(config: Config, signal: impl Future<Output = &'static str>) -> Result<(), Failure> {
    let clock = Clock::system();
    let identity = config.identity(clock.now()).map_err(Failure::Config)?;
    let (master, writer, key, certificate) = start(config, identity, clock)?;
    begin(&master).await?;
    let address = ssh::listen(&master, key, certificate)
        .map_err(|source| Failure::Listen { address: master.config.listen, source })?;
    tracing::info!(%address, site = %master.config.site, name = %master.config.name, "listening");

    let (said, why) = tokio::sync::oneshot::channel();
    let asked = async {
        if said.send(signal.await).is_err() {
            tracing::debug!("nobody waits for the reason");
        }
        master.running.close();
        if tokio::time::timeout(GRACE, master.running.all_ended()).await.is_err() {
            tracing::warn!("what still runs will be unknown until its agents are back");
        }
    };
    let stopped = master.tasks.run(asked, GRACE).await;
    let why = why.await.unwrap_or("a task ended");
    master.ledger.took_away(Happened::stop(why)).await;
    drop(master);
    // The writer ends with the last handle to the ledger; tasks that did not stop may hold one still.
    if stopped.is_ok() {
        writer.join();
    }
    Ok(stopped?)
}

type Started = (Arc<Master>, WriterThread, ssh_key::PrivateKey, ssh_key::Certificate);

fn start(config: Config, identity: Identity, clock: Clock) -> Result<Started, Failure> {
    let Identity { key, certificate, log, trusted } = identity;
    let wrong = |problems: Vec<_>| Failure::Config(problems.into_iter().map(Problem::from).collect());
    let directory = Directory::open(&config.directory).map_err(wrong)?;
    std::fs::create_dir_all(&config.state).map_err(Failure::State)?;
    let trust = trusted.bundle();
    let sessions = Sessions::open(&config.state.join("sessions"), &trust, clock.now()).map_err(Failure::State)?;
    let settings = reeve_audit::Settings::new(&config.audit_db, log);
    let (ledger, writer) = reeve_audit::Ledger::open(settings).map_err(|error| Failure::Ledger(error.to_string()))?;
    let ledger = Ledger::new(ledger, clock.clone());
    let wire = certificate.to_bytes().map_err(|error| Failure::Ledger(error.to_string()))?;
    let master = Master {
        config,
        clock,
        tasks: Tasks::new(),
        trusted,
        directory,
        door: Door::new(ledger.clone()),
        ledger,
        fleet: Fleet::default(),
        sessions,
        replay: Replay::default(),
        running: Running::default(),
        key: key.clone(),
        certificate: wire,
    };
    Ok((Arc::new(master), writer, key, certificate))
}

/// The first records of a start, and the tasks that go on for ever.
async fn begin(master: &Arc<Master>) -> Result<(), Failure> {
    let failed = |refusal: reeve_wire::code::Refusal| Failure::Ledger(refusal.reason);
    let ledger = &master.ledger;
    ledger.event(Happened::start(env!("CARGO_PKG_VERSION"))).await.map_err(failed)?;
    let configuration = Digest::of(format!("{:?}", master.config).as_bytes());
    ledger.event(Happened::configuration(configuration)).await.map_err(failed)?;
    let trust = master.trusted.bundle();
    ledger.event(Happened::trust(trust.number, trust.digest())).await.map_err(failed)?;
    let marked = agents::mark_unknown(master).await.map_err(failed)?;
    if marked > 0 {
        tracing::warn!(
            marked,
            "operations were open when the master last stopped; they are unknown until their agents are back"
        );
    }

    master.tasks.spawn("door", {
        let (door, stop) = (master.door.clone(), master.tasks.stop());
        async move {
            tokio::select! { () = door.keep_counting() => {}, () = stop.cancelled() => {} }
            door.write_counts().await;
        }
    });
    watch_trusted(master);
    Ok(())
}

fn watch_trusted(master: &Arc<Master>) {
    let (changes, mut changed) = tokio::sync::mpsc::channel(16);
    let (trusted, stop) = (master.trusted.clone(), master.tasks.stop());
    master.tasks.spawn("trusted files", async move {
        let note = |change| {
            if changes.try_send(change).is_err() {
                tracing::warn!("a change of the trusted files could not be noted");
            }
        };
        tokio::select! { () = trusted.watch(note) => {}, () = stop.cancelled() => {} }
    });
    let noting = Arc::clone(master);
    master.tasks.spawn("trusted changes", async move {
        while let Some(change) = changed.recv().await {
            note(&noting, change).await;
        }
    });
}

async fn note(master: &Master, change: Change) {
    let trust = master.trusted.bundle();
    let happened = match change {
        Change::Bundle(number) => Happened::trust(number, trust.digest()),
        Change::BundleRefused(why) => {
            tracing::warn!(%why, "a trust bundle was refused");
            Happened::trust(trust.number, trust.digest()).because("configuration", &why)
        }
        Change::Library(version) => {
            let digest = master.trusted.library().map_or(Digest([0; 32]), |index| index.digest());
            Happened::configuration(digest).fact("library", version.to_string())
        }
        Change::LibraryRefused(why) => {
            tracing::warn!(%why, "a library was refused");
            Happened::configuration(Digest([0; 32])).because("configuration", &why)
        }
    };
    master.ledger.took_away(happened).await;
}
