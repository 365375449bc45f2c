//! A technician's connection: each stream is one ask, answered in this folder, one file an ask.

mod reads;
mod resolve;
mod run;
mod session;
mod submit;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reeve_audit::record::{Happened, Order, Party};
use reeve_link::parts::{self, Inbound, PartsError};
use reeve_link::{Content, Link, Sender, Stream};
use reeve_wire::certificate::{self, Technician};
use reeve_wire::code::{Code, Refusal};
use reeve_wire::id::OperationId;
use reeve_wire::level::Level;
use reeve_wire::message::{Answer, Ask, Part, PartKind};
use reeve_wire::request::MAX_STDIN;
use reeve_wire::time::Millis;
use tokio::sync::Semaphore;

use self::submit::Submitted;
use crate::master::Master;
use crate::sessions::Session;
use crate::ssh::Who;

/// How long a technician's console may take to say all of an ask, and to take in the answer.
const ASK_WITHIN: Duration = Duration::from_secs(30);

/// Asks of one connection that are answered at once; more wait their turn. A fan-out of the console has 64.
const MOST_ASKS: usize = 128;

/// The largest part that a console may send: standard input, and some room. With [`MOST_ASKS`] it bounds what one
/// technician can make the master hold.
const MOST_SAID: usize = MAX_STDIN + 64 * 1024;

/// Requests that one connection may have handed in at once.
const MOST_REQUESTS: usize = 64;

/// A technician's connection.
#[derive(Debug)]
pub struct Visit {
    master: Arc<Master>,
    technician: Technician,
    certificate: Vec<u8>,
    session: Option<Arc<Session>>,
    address: String,
    link: Link,
    requests: Mutex<HashMap<OperationId, Arc<Submitted>>>,
    /// The number of the bundle that last vouched for the certificate; no number before any did.
    vouched_by: AtomicU64,
}

/// Serves a technician's connection until it ends.
pub async fn serve(master: &Arc<Master>, who: Who, address: String, link: &Link) {
    let (technician, certificate, session) = match who {
        Who::Technician { technician, certificate } => (technician, certificate, None),
        Who::Session(session) => (session.technician.clone(), session.certificate.clone(), Some(session)),
        Who::TurnedAway { refusal, record } => return turn_away(master, refusal, record, link).await,
        Who::Anyone | Who::Agent(_) => return,
    };
    let visit = Arc::new(Visit {
        master: Arc::clone(master),
        technician,
        certificate,
        session,
        address,
        link: link.clone(),
        requests: Mutex::default(),
        vouched_by: AtomicU64::new(u64::MAX),
    });
    let places = Arc::new(Semaphore::new(MOST_ASKS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let Some(stream) = link.accept().await else {
            return;
        };
        let visit = Arc::clone(&visit);
        master.tasks.spawn("ask", async move {
            visit.answer(stream).await;
            drop(place);
        });
    }
}

/// Gives the same answer to every ask.
async fn turn_away(master: &Arc<Master>, refusal: Refusal, record: Option<u64>, link: &Link) {
    while let Some(stream) = link.accept().await {
        let answer = Answer::Refused { refusal: refusal.clone(), record };
        master.tasks.spawn("ask", async move {
            let (sender, _receiver) = stream.split();
            finish(sender, &answer).await;
        });
    }
}

impl Visit {
    async fn answer(self: Arc<Self>, stream: Stream) {
        let (sender, receiver) = stream.split();
        let mut inbound = Inbound::bounded(receiver, MOST_SAID);
        let ask = match self.first(&mut inbound).await {
            Ok(ask) => ask,
            Err(refusal) => return finish(sender, &refused(refusal)).await,
        };
        if let Err(refusal) = self.still_welcome(&ask) {
            let answer = self.unwelcome(&ask, refusal).await;
            return finish(sender, &answer).await;
        }
        match ask {
            Ask::Whoami {} => finish(sender, &self.whoami()).await,
            Ask::Hosts { selector } => finish(sender, &self.hosts(selector.as_deref()).await).await,
            Ask::Why { host, item } => finish(sender, &self.why(host, item).await).await,
            Ask::Register {} => finish(sender, &self.register(&mut inbound).await).await,
            Ask::Logout {} => finish(sender, &self.logout().await).await,
            Ask::Resolve { operation, selector, item } => self.resolve(sender, operation, &selector, item).await,
            Ask::Submit { operation } => self.submit(sender, inbound, operation).await,
            Ask::Run { operation, host } => self.run(sender, inbound, operation, &host).await,
        }
    }

    /// What a stream begins with. Anything but an ask is noted.
    async fn first(&self, inbound: &mut Inbound) -> Result<Ask, Refusal> {
        let part = within(inbound.part()).await?;
        match part.read(PartKind::Ask) {
            Ok(ask) => Ok(ask),
            Err(error) => {
                let refusal = Refusal::from(error);
                let happened = Happened::anomaly(self.party(), refusal.code.as_str(), &refusal.reason);
                self.master.ledger.amiss(happened).await;
                Err(refusal)
            }
        }
    }

    /// Refuses an ask of someone who is no longer welcome; work that was asked for has its record.
    async fn unwelcome(&self, ask: &Ask, refusal: Refusal) -> Answer {
        match ask {
            Ask::Resolve { operation, .. } | Ask::Submit { operation } => {
                self.refuse(self.order(*operation), refusal).await
            }
            Ask::Run { operation, host } => {
                self.refuse(Order { host: Some(host.clone()), ..self.order(*operation) }, refusal).await
            }
            Ask::Register {} => self.refuse_login(refusal).await,
            Ask::Whoami {} | Ask::Hosts { .. } | Ask::Why { .. } | Ask::Logout {} => refused(refusal),
        }
    }

    /// Certificate and session are looked at again for each ask, not only at the door.
    fn still_welcome(&self, ask: &Ask) -> Result<(), Refusal> {
        let now = self.now();
        if self.master.running.is_closing() {
            return Err(Refusal::because(Code::Busy, "the master is stopping"));
        }
        if now > self.technician.not_after {
            return Err(Code::CertificateExpired.into());
        }
        self.still_vouched_for(now)?;
        if let Some(session) = &self.session {
            self.master.sessions.find(&self.technician.name, session.delegation.session_key.key(), now)?;
            if matches!(ask, Ask::Register {}) {
                return Err(Refusal::because(Code::DelegationInvalid, "a session key registers no other"));
            }
        }
        Ok(())
    }

    /// Each bundle is asked once whether it still knows the CA of the certificate.
    fn still_vouched_for(&self, now: Millis) -> Result<(), Refusal> {
        let trust = self.master.trusted.bundle();
        if self.vouched_by.load(Ordering::Relaxed) != trust.number {
            let certificate = certificate::from_wire(&self.certificate).map_err(|error| error.0)?;
            certificate::technician(&certificate, &trust, now).map_err(|error| error.0)?;
            self.vouched_by.store(trust.number, Ordering::Relaxed);
        }
        Ok(())
    }

    fn now(&self) -> Millis {
        self.master.clock.now()
    }

    fn session_level(&self) -> Option<Level> {
        self.session.as_ref().map(|session| session.delegation.max_level)
    }

    fn key(&self) -> String {
        self.session.as_ref().map_or_else(|| self.technician.fingerprint(), |session| session.fingerprint())
    }

    fn party(&self) -> Party {
        Party::technician(
            &self.technician.name,
            Some(&self.technician.directory_id),
            Some(&self.key()),
            Some(&self.address),
        )
    }

    /// What a record says of an operation of this technician before its request is known.
    fn order(&self, operation: OperationId) -> Order {
        Order {
            user_id: Some(self.technician.directory_id.clone()),
            key: Some(self.key()),
            address: Some(self.address.clone()),
            ..Order::new(operation, self.technician.name.clone())
        }
    }

    /// Records a refusal and makes its answer. What cannot be recorded is refused all the same.
    async fn refuse(&self, order: Order, refusal: Refusal) -> Answer {
        match self.master.ledger.refuse_order(order, &refusal).await {
            Ok(record) => Answer::Refused { refusal, record: Some(record) },
            Err(unrecorded) => refused(unrecorded),
        }
    }

    fn requests(&self) -> MutexGuard<'_, HashMap<OperationId, Arc<Submitted>>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Both clocks at once: the wall's for documents, the monotonic one for ages.
fn both_clocks(master: &Master) -> (Millis, Instant) {
    (master.clock.now(), Instant::now())
}

const fn refused(refusal: Refusal) -> Answer {
    Answer::Refused { refusal, record: None }
}

/// Waits for the console, but not for ever.
async fn within<T>(said: impl Future<Output = Result<T, PartsError>>) -> Result<T, Refusal> {
    match tokio::time::timeout(ASK_WITHIN, said).await {
        Ok(said) => said.map_err(protocol),
        Err(_) => Err(Refusal::because(Code::Protocol, "the console did not say all of it in time")),
    }
}

fn protocol(error: PartsError) -> Refusal {
    Refusal::because(Code::Protocol, error)
}

/// Answers and ends the stream. The console may be gone; then nobody is told.
async fn finish(sender: Sender, answer: &Answer) {
    if let Ok(part) = Part::json(PartKind::Answer, answer) {
        finish_with(sender, &[part]).await;
    }
}

async fn finish_with(mut sender: Sender, last: &[Part]) {
    let told = sender.send_all(Content::Message, parts::pack(last));
    if !matches!(tokio::time::timeout(ASK_WITHIN, told).await, Ok(Ok(()))) || sender.finish().is_err() {
        tracing::debug!("an answer found nobody");
    }
}

#[cfg(test)]
mod tests;
