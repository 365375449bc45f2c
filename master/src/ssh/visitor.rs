//! One connection: from stranger to a role of the closed table, and then to whoever serves that role.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use reeve_audit::record::{Happened, Party};
use reeve_link::Link;
use reeve_link::ssh::{REFUSAL_TIME, ServerCarrier, is_user_algorithm};
use reeve_wire::certificate::{self, AgentIdentity, Role, Technician};
use reeve_wire::code::{Code, Refusal};
use reeve_wire::name::Principal;
use reeve_wire::sshsig;
use russh::keys::Certificate;
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session as SshSession, VerifiedPublicKey};
use russh::{Channel, ChannelId, MethodKind, MethodSet, Pty};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::directory::AuthFailure;
use crate::master::Master;
use crate::policy;
use crate::sessions::Session;

/// The SSH user name that may read the trust bundle and nothing else.
const ENROLL: &str = "enroll";

/// Who a connection belongs to, once it is proved.
#[derive(Clone, Debug)]
pub enum Who {
    /// Anyone: the trust bundle, nothing else.
    Anyone,
    /// A managed server's agent.
    Agent(AgentIdentity),
    /// A technician who has just proved key and password.
    Technician {
        /// Who.
        technician: Technician,
        /// The certificate, wire blob.
        certificate: Vec<u8>,
    },
    /// A technician's session.
    Session(Arc<Session>),
    /// A technician who proved key and password, and may not use Reeve all the same. Recorded already.
    TurnedAway {
        /// Why not.
        refusal: Refusal,
        /// Index of the record.
        record: Option<u64>,
    },
}

enum Stage {
    Stranger,
    KeyProved { login: String, technician: Technician, certificate: Vec<u8> },
    Known(Who),
}

/// What was seen of a connection that may end before anybody is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaving {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    settled: bool,
    login: Option<String>,
    key: Option<String>,
}

impl Leaving {
    fn with<T>(&self, act: impl FnOnce(&mut Seen) -> T) -> T {
        act(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records a connection that showed a key and was neither let in nor refused with a reason of ours: the SSH library
    /// turns away what is out of date or badly signed before anyone is asked.
    pub(super) async fn record_if_nobody(&self, master: &Master, peer: SocketAddr) {
        let (settled, login, key) = self.with(|seen| (seen.settled, seen.login.take(), seen.key.take()));
        if settled {
            return;
        }
        let party = Party { user: login.map(Into::into), key, ..Party::address(&peer.ip().to_string()) };
        let refusal = Refusal::because(Code::LoginFailed, "no key or certificate that is in date was proved");
        master.door.refused(peer.ip(), party, &refusal).await;
    }
}

/// A connection's handler.
pub(super) struct Visitor {
    master: Arc<Master>,
    peer: SocketAddr,
    carrier: ServerCarrier,
    stage: Stage,
    admitted: CancellationToken,
    leaving: Leaving,
    /// Whether the one channel is taken.
    opened: bool,
    /// Whether it is on record that the peer asked for what Reeve does not serve.
    noted: bool,
}

impl Visitor {
    pub(super) fn new(
        master: Arc<Master>,
        peer: SocketAddr,
        socket: &CancellationToken,
        admitted: CancellationToken,
    ) -> Self {
        let carrier = ServerCarrier::new(&master.tasks, socket.clone());
        let (stage, leaving) = (Stage::Stranger, Leaving::default());
        Self { master, peer, carrier, stage, admitted, leaving, opened: false, noted: false }
    }

    pub(super) fn leaving(&self) -> Leaving {
        self.leaving.clone()
    }

    fn admit(&mut self, who: Who) -> Auth {
        self.leaving.with(|seen| seen.settled = true);
        self.stage = Stage::Known(who);
        Auth::Accept
    }

    async fn refuse(&mut self, login: &str, key: Option<String>, refusal: &Refusal) -> Auth {
        self.leaving.with(|seen| seen.settled = true);
        let party = Party { user: Some(login.into()), key, ..Party::address(&self.peer.ip().to_string()) };
        let began = Instant::now();
        self.master.door.refused(self.peer.ip(), party, refusal).await;
        turn_away(began).await
    }

    /// A technician at this connection, by the own key.
    fn technician(&self, who: &Technician) -> Party {
        self.technician_by(who, &who.fingerprint())
    }

    fn technician_by(&self, who: &Technician, key: &str) -> Party {
        Party::technician(&who.name, Some(&who.directory_id), Some(key), Some(&self.peer.ip().to_string()))
    }

    /// Who this is, once it is proved.
    fn known(&self) -> Option<Party> {
        let Stage::Known(who) = &self.stage else {
            return None;
        };
        match who {
            Who::Agent(agent) => {
                let (key, address) = (sshsig::fingerprint(&agent.key), self.peer.ip().to_string());
                Some(Party::agent(agent.host.clone(), Some(&key), Some(&address)))
            }
            Who::Technician { technician, .. } => Some(self.technician(technician)),
            Who::Session(session) => Some(self.technician_by(&session.technician, &session.fingerprint())),
            Who::Anyone | Who::TurnedAway { .. } => None,
        }
    }

    /// Records, once a connection, that someone who is known asks for what SSH can do and Reeve does not serve.
    async fn uninvited(&mut self, what: &str) {
        if self.noted {
            return;
        }
        if let Some(party) = self.known() {
            self.noted = true;
            let reason = format!("it asked for {what}, which no program of Reeve asks for");
            let happened = Happened::anomaly(party, Code::Protocol.as_str(), &reason);
            self.master.ledger.amiss(happened).await;
        }
    }

    /// Proves the second factor of `technician`.
    async fn second_factor(&self, technician: &Technician, password: &str) -> Result<(), Refusal> {
        let identity = self.master.directory.authenticate(&technician.name, password).await;
        let identity = identity.map_err(|failure| match failure {
            AuthFailure::WrongPassword => Refusal::because(Code::LoginFailed, failure),
            AuthFailure::AccountState { state, .. } => {
                Refusal::because(Code::LoginFailed, format_args!("the account is {state}"))
            }
            AuthFailure::Unavailable(unavailable) => Refusal::because(Code::DirectoryUnavailable, unavailable),
        })?;
        if identity.id == technician.directory_id { Ok(()) } else { Err(Code::IdentityChanged.into()) }
    }

    /// Whoever proved both factors is recorded before it counts.
    async fn both_factors(&self, technician: Technician, certificate: Vec<u8>) -> Result<Who, Refusal> {
        let party = self.technician(&technician);
        let answer = self.master.directory.standing(&technician.name).await;
        if let Err(refusal) = policy::admit(&technician, &answer) {
            let happened = Happened::login_failed(party, refusal.code.as_str(), &refusal.reason, 1);
            let record = self.master.ledger.event(happened).await.ok();
            return Ok(Who::TurnedAway { refusal, record });
        }
        self.master.ledger.event(Happened::login(party, &["key", "password"])).await?;
        Ok(Who::Technician { technician, certificate })
    }

    fn serve(&self, link: Link) {
        let Stage::Known(who) = &self.stage else {
            return;
        };
        // Who may be anyone keeps a stranger's place and time.
        if !matches!(who, Who::Anyone) {
            self.admitted.cancel();
        }
        let (master, who, address) = (Arc::clone(&self.master), who.clone(), self.peer.ip().to_string());
        self.master.tasks.spawn("visitor", async move {
            match who {
                Who::Anyone => crate::enroll::serve(&master, &link).await,
                Who::Agent(identity) => crate::agents::serve(&master, identity, &address, link).await,
                Who::Technician { .. } | Who::Session(_) | Who::TurnedAway { .. } => {
                    crate::technician::serve(&master, who, address, &link).await;
                }
            }
        });
    }
}

/// Refuses when a refusal's time is over: a quick no and a slow one look the same.
async fn turn_away(began: Instant) -> Auth {
    tokio::time::sleep_until(began + REFUSAL_TIME).await;
    Auth::reject()
}

impl Handler for Visitor {
    type Error = russh::Error;

    async fn auth_none(&mut self, user: &str) -> Result<Auth, Self::Error> {
        if user == ENROLL {
            return Ok(self.admit(Who::Anyone));
        }
        self.leaving.with(|seen| seen.login = Some(user.to_owned()));
        Ok(Auth::reject())
    }

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        self.leaving.with(|seen| {
            seen.login = Some(user.to_owned());
            seen.key = Some(sshsig::fingerprint(offer.public_key.key_data()));
        });
        if is_user_algorithm(offer.algorithm) { Ok(Auth::Accept) } else { Ok(Auth::reject()) }
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        let key = key.public_key.key_data();
        let found = match user.parse() {
            Ok(Principal::Technician(name)) => self.master.sessions.find(&name, key, self.master.clock.now()),
            Ok(Principal::Host(_) | Principal::Master(_)) | Err(_) => Err(Code::SessionUnknown.into()),
        };
        match found {
            Ok(session) => Ok(self.admit(Who::Session(session))),
            Err(refusal) => Ok(self.refuse(user, Some(sshsig::fingerprint(key)), &refusal).await),
        }
    }

    async fn auth_openssh_certificate(&mut self, user: &str, certificate: &Certificate) -> Result<Auth, Self::Error> {
        let trust = self.master.trusted.bundle();
        let now = self.master.clock.now();
        let role = certificate::role(user, certificate, &trust, now);
        match role {
            Ok(Role::Agent(identity)) => Ok(self.admit(Who::Agent(identity))),
            Ok(Role::Technician(technician)) => {
                let certificate = certificate.to_bytes().map_err(russh::Error::from)?;
                self.stage = Stage::KeyProved { login: user.to_owned(), technician, certificate };
                let password = MethodSet::from(&[MethodKind::Password][..]);
                Ok(Auth::Reject { proceed_with_methods: Some(password), partial_success: true })
            }
            Err(error) => {
                let key = sshsig::fingerprint(certificate.public_key());
                Ok(self.refuse(user, Some(key), &error.0).await)
            }
        }
    }

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, Self::Error> {
        let began = Instant::now();
        let Stage::KeyProved { login, technician, certificate } = &self.stage else {
            self.leaving.with(|seen| seen.login = Some(user.to_owned()));
            return Ok(turn_away(began).await);
        };
        if login != user {
            return Ok(turn_away(began).await);
        }
        let (technician, certificate) = (technician.clone(), certificate.clone());
        let party = self.technician(&technician);
        let proved = match self.second_factor(&technician, password).await {
            Ok(()) => self.both_factors(technician, certificate).await,
            Err(refusal) => Err(refusal),
        };
        match proved {
            Ok(who) => Ok(self.admit(who)),
            Err(refusal) => {
                self.stage = Stage::Stranger;
                self.leaving.with(|seen| seen.settled = true);
                // Whoever proved a technician's key is no stranger: each failure of the second factor is on record.
                let failed = Happened::login_failed(party, refusal.code.as_str(), &refusal.reason, 1);
                self.master.ledger.amiss(failed).await;
                Ok(turn_away(began).await)
            }
        }
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut SshSession,
    ) -> Result<(), Self::Error> {
        if std::mem::replace(&mut self.opened, true) {
            self.uninvited("a second channel").await;
            return Ok(());
        }
        if matches!(self.stage, Stage::Known(_)) {
            self.carrier.open(channel, reply).await;
        }
        Ok(())
    }

    // A dropped reply is a refusal.

    async fn channel_open_direct_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut SshSession,
    ) -> Result<(), Self::Error> {
        self.uninvited("a forwarded connection").await;
        Ok(())
    }

    async fn channel_open_forwarded_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut SshSession,
    ) -> Result<(), Self::Error> {
        self.uninvited("a forwarded connection").await;
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: ChannelOpenHandle,
        _: &mut SshSession,
    ) -> Result<(), Self::Error> {
        self.uninvited("a forwarded socket").await;
        Ok(())
    }

    async fn channel_open_x11(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut SshSession,
    ) -> Result<(), Self::Error> {
        self.uninvited("an X11 connection").await;
        Ok(())
    }

    async fn tcpip_forward(&mut self, _: &str, _: &mut u32, _: &mut SshSession) -> Result<bool, Self::Error> {
        self.uninvited("a forwarded port").await;
        Ok(false)
    }

    async fn streamlocal_forward(&mut self, _: &str, _: &mut SshSession) -> Result<bool, Self::Error> {
        self.uninvited("a forwarded socket").await;
        Ok(false)
    }

    async fn agent_request(&mut self, _: ChannelId, _: &mut SshSession) -> Result<bool, Self::Error> {
        self.uninvited("agent forwarding").await;
        Ok(false)
    }

    // Nobody answers these unless the handler does, and their asker would wait.

    async fn exec_request(&mut self, id: ChannelId, _: &[u8], session: &mut SshSession) -> Result<(), Self::Error> {
        self.uninvited("a command").await;
        session.channel_failure(id)
    }

    async fn shell_request(&mut self, id: ChannelId, session: &mut SshSession) -> Result<(), Self::Error> {
        self.uninvited("a shell").await;
        session.channel_failure(id)
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        _: &str,
        _: u32,
        _: u32,
        _: u32,
        _: u32,
        _: &[(Pty, u32)],
        session: &mut SshSession,
    ) -> Result<(), Self::Error> {
        self.uninvited("a terminal").await;
        session.channel_failure(id)
    }

    async fn x11_request(
        &mut self,
        id: ChannelId,
        _: bool,
        _: &str,
        _: &str,
        _: u32,
        session: &mut SshSession,
    ) -> Result<(), Self::Error> {
        self.uninvited("X11 forwarding").await;
        session.channel_failure(id)
    }

    /// Stock clients send the language of their user, so this one is refused and says nothing of the peer.
    async fn env_request(
        &mut self,
        id: ChannelId,
        _: &str,
        _: &str,
        session: &mut SshSession,
    ) -> Result<(), Self::Error> {
        session.channel_failure(id)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut SshSession,
    ) -> Result<(), Self::Error> {
        match self.carrier.subsystem(channel, name, session)? {
            Some(link) => self.serve(link),
            None => self.uninvited("another subsystem").await,
        }
        Ok(())
    }

    async fn data(&mut self, channel: ChannelId, data: &[u8], _session: &mut SshSession) -> Result<(), Self::Error> {
        self.carrier.data(channel, data).map_err(|_| russh::Error::Disconnect)
    }

    async fn channel_eof(&mut self, channel: ChannelId, _session: &mut SshSession) -> Result<(), Self::Error> {
        self.carrier.ended(channel);
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _session: &mut SshSession) -> Result<(), Self::Error> {
        self.carrier.ended(channel);
        Ok(())
    }

    fn adjust_window(&mut self, _channel: ChannelId, current: u32) -> u32 {
        self.carrier.adjust_window(current)
    }
}
