//! A technician at work: configuration, trust and session, and from them a connection to a master.
//!
//! Nothing but the user name `enroll` is shown to a master before its certificate is judged by a bundle of the pinned
//! root. Masters are tried in the order of the configuration; one that answers and is not trusted ends the search.

use std::sync::Arc;
use std::time::Duration;

use reeve_link::Link;
use reeve_link::dial::{Connected, DialError, HostTrust, Identity, Options, dial};
use reeve_link::parts::Inbound;
use reeve_link::tasks::Tasks;
use reeve_wire::bundle::Trust;
use reeve_wire::code::Code;
use reeve_wire::message::{MessageError, PartKind};
use reeve_wire::name::Name;
use reeve_wire::signed::Signed;
use reeve_wire::time::{Clock, Millis};
use ssh_key::Certificate;

use crate::config::Config;
use crate::failure::Failure;
use crate::own_key;
use crate::session::{Places, Session, Sessions};
use crate::terminal;
use crate::trust::{MasterTrust, Offered, TrustFile, remark_on_age};

/// How long a master may take to hand over the trust bundle.
const BUNDLE_WITHIN: Duration = Duration::from_secs(30);
/// How long connections may take to say farewell.
const FAREWELL: Duration = Duration::from_secs(1);

/// One technician at one machine.
#[derive(Debug)]
pub struct Desk {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) tasks: Tasks,
    pub(crate) sessions: Sessions,
    pub(crate) certificate: Certificate,
    trust_file: TrustFile,
    trust: Arc<Trust>,
    /// Whether a master was asked for a newer bundle already.
    is_newest: bool,
}

/// A connection on which a session is recognised.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The streams to the master.
    pub link: Link,
    /// Whose.
    pub session: Arc<Session>,
    /// The technician's certificate.
    pub certificate: Certificate,
    /// The bundle that vouches for master and library.
    pub trust: Arc<Trust>,
    /// The clock.
    pub clock: Clock,
}

impl Connection {
    /// The site.
    pub fn site(&self) -> &Name {
        &self.trust.site
    }

    /// The present moment.
    pub fn now(&self) -> Millis {
        self.clock.now()
    }
}

impl Desk {
    /// Reads what the configuration names; at the first contact with the site also its trust bundle, from a master.
    ///
    /// # Errors
    /// A file that is not usable, no place for a session key, or no master of the pinned root.
    pub async fn open(config: Config, tasks: Tasks) -> Result<Self, Failure> {
        let clock = Clock::system();
        let sessions = Sessions::open(&Places::of_this_process(&config), &config.site, &config.name)?;
        let certificate = own_key::certificate(&config)?;
        let trust_file = TrustFile::of(&config);
        let held = trust_file.read()?;
        let is_newest = held.is_none();
        let trust = match held {
            Some(trust) => Arc::new(trust),
            None => fetch_trust(&config, &trust_file, None, &clock, &tasks).await?,
        };
        Ok(Self { config, clock, tasks, sessions, certificate, trust_file, trust, is_newest })
    }

    /// The bundle that is held.
    pub const fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// Connects with the live session; logs in first when there is none, or the master no longer knows it.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn connect(&mut self) -> Result<Connection, Failure> {
        let mut session = match self.live_session() {
            Some(session) => session,
            None => self.log_in_instead_of(None).await?,
        };
        let mut connected = self.dial_session(&session).await;
        if matches!(connected, Err(DialError::KeyRefused { .. })) {
            session = self.log_in_instead_of(Some(&session)).await?;
            connected = self.dial_session(&session).await;
        }
        let link = connected.map_err(|error| unconnected(&error))?.link;
        Ok(Connection {
            link,
            session: Arc::new(session),
            certificate: self.certificate.clone(),
            trust: Arc::clone(&self.trust),
            clock: self.clock.clone(),
        })
    }

    /// The session that is kept here and has not ended.
    pub(crate) fn live_session(&self) -> Option<Session> {
        let now = self.clock.now();
        let technician = own_key::technician(&self.config, &self.certificate, &self.trust, now).ok()?;
        self.sessions.load(&technician, now)
    }

    pub(crate) async fn dial_session(&mut self, session: &Session) -> Result<Connected, DialError> {
        let user = self.config.principal();
        self.dial(Identity::SessionKey { user, key: session.key().clone().into() }).await
    }

    /// Dials masters that the bundle vouches for. Where it does not, a newer bundle may.
    pub(crate) async fn dial(&mut self, identity: Identity) -> Result<Connected, DialError> {
        let dialled = self.dial_trusting_what_is_held(identity.clone()).await;
        let Err(DialError::Untrusted(_)) = &dialled else {
            return dialled;
        };
        let held = self.trust.digest();
        match self.refresh_trust().await {
            Ok(()) if self.trust.digest() != held => self.dial_trusting_what_is_held(identity).await,
            Ok(()) => dialled,
            Err(failure) => {
                tracing::debug!(%failure, "no newer trust bundle");
                dialled
            }
        }
    }

    async fn dial_trusting_what_is_held(&self, identity: Identity) -> Result<Connected, DialError> {
        let trust = Arc::new(MasterTrust::new(Arc::clone(&self.trust), self.clock.clone()));
        dial_any(&self.config.masters, identity, trust, &self.tasks).await
    }

    /// Takes a newer bundle where a master has one. Asks once.
    ///
    /// # Errors
    /// Why there is none to be had, or what was offered is refused.
    pub(crate) async fn refresh_trust(&mut self) -> Result<(), Failure> {
        if !self.is_newest {
            let held = Some(&self.trust);
            self.trust = fetch_trust(&self.config, &self.trust_file, held, &self.clock, &self.tasks).await?;
            self.is_newest = true;
            remark_on_age(&self.trust, &self.clock);
        }
        Ok(())
    }

    /// Waits a moment for connections to end.
    pub async fn leave(self) {
        if let Err(late) = self.tasks.shutdown(FAREWELL).await {
            tracing::debug!(%late, "not everything ended");
        }
    }
}

/// Reads the bundle as a stranger, judges it by the pinned root, and by it the master that handed it over.
async fn fetch_trust(
    config: &Config,
    file: &TrustFile,
    held: Option<&Arc<Trust>>,
    clock: &Clock,
    tasks: &Tasks,
) -> Result<Arc<Trust>, Failure> {
    // Whoever answers is judged below, by what it hands over. It is shown nothing.
    let anyone = Arc::new(|_: &Certificate| Ok(()));
    let stranger = Identity::None { user: "enroll".into() };
    let connected = dial_any(&config.masters, stranger, anyone, tasks).await.map_err(|error| unconnected(&error))?;
    let offered = tokio::time::timeout(BUNDLE_WITHIN, read_bundle(&connected.link)).await;
    let offered =
        offered.map_err(|_| Failure::because(Code::MasterUnreachable, "it does not hand over a bundle"))??;
    let trust = match (file.check(held.map(AsRef::as_ref), offered)?, held) {
        (Offered::Newest(trust), _) => trust,
        (Offered::Older(alarm), Some(held)) => {
            terminal::complain(&alarm);
            Arc::clone(held)
        }
        (Offered::Older(alarm), None) => return Err(alarm),
    };
    MasterTrust::new(Arc::clone(&trust), clock.clone())
        .check(&connected.host)
        .map_err(|why| Failure::because(Code::MasterUntrusted, why))?;
    file.store(&trust)?;
    Ok(trust)
}

async fn read_bundle(link: &Link) -> Result<Signed, Failure> {
    let gone = || Failure::because(Code::MasterUnreachable, "it hung up without handing over a bundle");
    let (_sender, receiver) = link.accept().await.ok_or_else(gone)?.split();
    let mut inbound = Inbound::new(receiver);
    let part = inbound.part().await?;
    if part.kind != PartKind::Bundle {
        return Err(MessageError::Unexpected(part.kind).into());
    }
    Signed::from_wire(&part.bytes).map_err(|error| Failure::because(Code::MasterUntrusted, error))
}

/// Dials one address after the other until one answers.
async fn dial_any(
    masters: &[String],
    identity: Identity,
    trust: Arc<dyn HostTrust>,
    tasks: &Tasks,
) -> Result<Connected, DialError> {
    let mut last = DialError::HungUp;
    for address in masters {
        match dial(address, identity.clone(), Arc::clone(&trust), &Options::CONTROL, tasks).await {
            Ok(connected) => return Ok(connected),
            Err(error) if is_absent(&error) => {
                tracing::debug!(address, %error, "trying the next master");
                last = error;
            }
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

const fn is_absent(error: &DialError) -> bool {
    matches!(error, DialError::Unreachable { .. } | DialError::TooSlow { .. } | DialError::HungUp)
}

/// What the technician reads of a connection that did not come about.
pub(crate) fn unconnected(error: &DialError) -> Failure {
    match error {
        DialError::Unreachable { .. } | DialError::TooSlow { .. } | DialError::HungUp | DialError::Ssh(_) => {
            Failure::because(Code::MasterUnreachable, error)
        }
        DialError::NoHostCertificate | DialError::Untrusted(_) => Failure::because(Code::MasterUntrusted, error)
            .hint("tell a security admin: somebody may be between you and the master"),
        DialError::KeyRefused { .. } | DialError::PasswordRefused { .. } | DialError::EmptyPassword => {
            Failure::because(Code::LoginFailed, error)
        }
        DialError::PasswordNotAsked | DialError::NotServed(_) => Failure::because(Code::Protocol, error),
        DialError::KeyUnusable(_) => Failure::because(Code::PolicyConfig, error),
    }
}
