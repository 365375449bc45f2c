//! Keeps one connection to a master, for ever: dials the masters in order, waits longer and longer between tries with
//! full jitter, and serves what the master opens. The agent itself listens on nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reeve_link::backoff::Backoff;
use reeve_link::dial::{Connected, DialError, Identity as Shown, Options, dial};
use reeve_link::parts::{Inbound, PartsError};
use reeve_link::{Link, Why};
use reeve_wire::bundle::Trust;
use reeve_wire::certificate;
use reeve_wire::code::Refusal;
use reeve_wire::message::PartKind;
use reeve_wire::time::Millis;
use ssh_key::Certificate;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::agent::Agent;
use crate::control;
use crate::operation::{self, Slot};
use crate::session::Session;
use crate::status::{Connection, Lost};

/// The SSH user name that may read the trust bundle and nothing else.
const ENROLL: &str = "enroll";
/// The most operations at once.
pub const MOST_OPERATIONS: usize = 256;
/// How many more are heard, to be told that there are too many.
const MOST_TURNED_AWAY: usize = 16;
/// How long a master may take to open the control stream, or to send the bundle at first contact.
const FIRST_STREAM_WITHIN: Duration = Duration::from_secs(30);
/// How long the last receipts have to leave when the agent stops. The journal has them.
const FAREWELL: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Why there was no connection, or is none any more.
#[derive(Debug, thiserror::Error)]
enum Apart {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the trust bundle could not be read: {0}")]
    Bundle(#[from] PartsError),
    #[error("the master took longer than {0:?} for its first stream")]
    Late(Duration),
    #[error("{0}")]
    Refused(Refusal),
    #[error("{0}")]
    Control(#[from] control::Gone),
    #[error("{0}")]
    Over(Why),
    #[error("the agent is being stopped")]
    Stopping,
}

/// Stays connected until the agent stops.
pub async fn stay(agent: Arc<Agent>) {
    let stop = agent.tasks.stop();
    let slots = Slots::new();
    let mut backoff = Backoff::new();
    for address in agent.config.masters.iter().cycle() {
        let begun = Instant::now();
        let apart = connect(&agent, &slots, address).await;
        if stop.is_cancelled() {
            return;
        }
        tracing::warn!(address, reason = %apart, "Not connected");
        let pause = backoff.pause(if matches!(apart, Apart::Dial(_)) { Duration::ZERO } else { begun.elapsed() });
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

/// Connects and serves until the connection is over.
async fn connect(agent: &Arc<Agent>, slots: &Slots, address: &str) -> Apart {
    let stop = agent.tasks.stop();
    let reached = tokio::select! {
        () = stop.cancelled() => return Apart::Stopping,
        reached = reach(agent, address) => reached,
    };
    let Connected { link, host } = match reached {
        Ok(connected) => connected,
        Err(apart) => return apart,
    };
    let Some(trust) = agent.trust.current() else {
        return Apart::Refused(reeve_wire::code::Code::TrustUnanswered.into());
    };
    let session = match Session::new(host, &trust, agent.now()) {
        Ok(session) => Arc::new(session),
        Err(refusal) => return Apart::Refused(refusal),
    };
    tracing::info!(address, master = %session.master, "Connected");
    let connection = Connection {
        master: session.master.clone(),
        address: address.to_owned(),
        since: agent.now(),
        answered: false,
        refusal: None,
    };
    agent.status.update(|status| status.connection = Some(connection));
    let apart = serve(agent, slots, &session, &link).await;
    if matches!(apart, Apart::Stopping) {
        drop(timeout(FAREWELL, all_told(&link)).await);
    }
    link.kill(Why::Closed);
    let (ended, why) = (agent.now(), apart.to_string());
    agent.status.update(|status| {
        if let Some(connection) = status.connection.take() {
            status.last = Some(Lost { connection, ended, why });
        }
    });
    apart
}

/// Waits until the master has closed every operation's stream: it has then read the ends on them. The control stream
/// is over by then.
async fn all_told(link: &Link) {
    while link.live() > 0 && link.why_closed().is_none() {
        sleep(LOOK_AGAIN).await;
    }
}

/// Dials with the certificate. Without a bundle, or with one too old to know the master, the newest is fetched first.
async fn reach(agent: &Arc<Agent>, address: &str) -> Result<Connected, Apart> {
    if agent.trust.current().is_none() {
        fetch_bundle(agent, address).await?;
    }
    match dial_as_host(agent, address).await {
        Err(Apart::Dial(DialError::Untrusted(why))) => {
            let before = agent.trust.current().map(|trust| trust.number);
            fetch_bundle(agent, address).await?;
            if agent.trust.current().map(|trust| trust.number) == before {
                return Err(DialError::Untrusted(why).into());
            }
            dial_as_host(agent, address).await
        }
        reached => reached,
    }
}

async fn dial_as_host(agent: &Arc<Agent>, address: &str) -> Result<Connected, Apart> {
    let identity = agent.identity();
    if let Some(trust) = agent.trust.current()
        && let Err(why) = identity.accepted_by(&trust, agent.now())
    {
        tracing::warn!(%why, "This server's certificate will not be accepted; ask for a renewed one");
    }
    let judged = Arc::clone(agent);
    let trust = Arc::new(move |certificate: &Certificate| {
        let trust = judged.trust.current().ok_or("there is no trust bundle yet")?;
        is_master(certificate, &trust, judged.now())
    });
    Ok(dial(address, identity.shown(), trust, &Options::CONTROL, &agent.tasks).await?)
}

fn is_master(certificate: &Certificate, trust: &Trust, now: Millis) -> Result<(), String> {
    certificate::master(certificate, trust, now).map(|_| ()).map_err(|error| error.to_string())
}

/// Reads the bundle as nobody, and takes it when the pinned root signed it and it knows the master that was met.
async fn fetch_bundle(agent: &Arc<Agent>, address: &str) -> Result<(), Apart> {
    let anyone = Arc::new(|_: &Certificate| Ok(()));
    let nobody = Shown::None { user: ENROLL.to_owned() };
    let connected = dial(address, nobody, anyone, &Options::CONTROL, &agent.tasks).await?;
    let bundle = timeout(FIRST_STREAM_WITHIN, read_bundle(&connected.link)).await;
    connected.link.kill(Why::Closed);
    let bundle = bundle.map_err(|_| Apart::Late(FIRST_STREAM_WITHIN))??;

    let signed = reeve_wire::signed::Signed::from_wire(&bundle);
    let offered = signed.map_err(|error| error.to_string()).and_then(|signed| {
        let trust = agent.trust.read(signed).map_err(|error| error.to_string())?;
        is_master(&connected.host, &trust, agent.local().max(trust.issued))
    });
    offered.map_err(DialError::Untrusted)?;
    let trust = agent.take_bundle(&bundle).map_err(Apart::Refused)?;
    tracing::info!(number = trust.number, root = trust.root(), "The trust bundle was taken from the master");
    Ok(())
}

async fn read_bundle(link: &Link) -> Result<Vec<u8>, PartsError> {
    let stream = link.accept().await.ok_or(PartsError::Short)?;
    let (_sender, receiver) = stream.split();
    let part = Inbound::new(receiver).part().await?;
    if part.kind == PartKind::Bundle {
        Ok(part.bytes)
    } else {
        Err(reeve_wire::message::MessageError::Unexpected(part.kind).into())
    }
}

/// Serves the control stream, which comes first, and an operation on every other.
async fn serve(agent: &Arc<Agent>, slots: &Slots, session: &Arc<Session>, link: &Link) -> Apart {
    let first = match timeout(FIRST_STREAM_WITHIN, link.accept()).await {
        Ok(Some(stream)) => stream,
        Ok(None) => return Apart::Over(link.closed().await),
        Err(_) => return Apart::Late(FIRST_STREAM_WITHIN),
    };
    let answered = || {
        let refusal = session.ready().err();
        agent.status.update(|status| {
            if let Some(connection) = &mut status.connection {
                connection.answered = true;
                connection.refusal = refusal;
            }
        });
    };
    let control = std::pin::pin!(control::converse(agent, session, first, answered));
    let operations = async {
        while let Some(stream) = link.accept().await {
            let Some(slot) = slots.next().await else {
                break;
            };
            let serving = operation::serve(Arc::clone(agent), Arc::clone(session), stream, slot);
            agent.tasks.spawn("operation", serving);
        }
    };
    let stopped = agent.tasks.stop();
    tokio::select! {
        over = control => match over {
            Ok(()) => Apart::Over(Why::PeerGone),
            Err(gone) => Apart::Control(gone),
        },
        () = operations => Apart::Over(link.closed().await),
        () = stopped.cancelled() => Apart::Stopping,
    }
}

/// Places for operations.
#[derive(Debug)]
struct Slots {
    free: Arc<Semaphore>,
    full: Arc<Semaphore>,
}

impl Slots {
    fn new() -> Self {
        Self { free: Arc::new(Semaphore::new(MOST_OPERATIONS)), full: Arc::new(Semaphore::new(MOST_TURNED_AWAY)) }
    }

    /// A place for the next operation: to run, or to be told that there are too many. Waits when even those are taken.
    async fn next(&self) -> Option<Slot> {
        match Arc::clone(&self.free).try_acquire_owned() {
            Ok(permit) => Some(Slot::Free(permit)),
            Err(_) => Arc::clone(&self.full).acquire_owned().await.ok().map(Slot::Full),
        }
    }
}
