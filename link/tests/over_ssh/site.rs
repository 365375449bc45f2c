//! A small site on loopback: certificate authorities, a master that serves links and checks little, and diallers.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reeve_link::dial::{Connected, DialError, HostTrust, Identity, Options, dial, dial_over};
use reeve_link::ssh::{HostIdentity, ServerCarrier, is_user_algorithm, serve, server_config};
use reeve_link::tasks::Tasks;
use reeve_link::{Link, Why};
use russh::keys::ssh_key::certificate::{Builder, CertType};
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{Certificate, PrivateKey};
use russh::server::{Auth, ChannelOpenHandle, Config, Handle, Handler, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, MethodKind, MethodSet};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) const PASSWORD: &str = "correct horse";

/// The key with the number `seed`: each has a part of its own in the tests.
pub(crate) fn key(seed: u8) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]))
}

pub(crate) fn certificate(ca: &PrivateKey, subject: &PrivateKey, kind: CertType, principal: &str) -> Certificate {
    let mut builder = Builder::new([7; 16], subject.public_key(), 0, u64::from(u32::MAX)).unwrap();
    builder.cert_type(kind).unwrap();
    builder.key_id(principal).unwrap();
    builder.valid_principal(principal).unwrap();
    builder.sign(ca).unwrap()
}

/// Which parts the keys play.
pub(crate) struct Keys {
    pub(crate) masters_ca: PrivateKey,
    pub(crate) users_ca: PrivateKey,
    pub(crate) host: PrivateKey,
    pub(crate) user: PrivateKey,
    pub(crate) session: PrivateKey,
}

impl Keys {
    pub(crate) fn new() -> Self {
        Self { masters_ca: key(1), users_ca: key(2), host: key(3), user: key(4), session: key(5) }
    }

    pub(crate) fn agent(&self) -> Identity {
        self.agent_called("host:contoso/web01")
    }

    pub(crate) fn agent_called(&self, user: &str) -> Identity {
        let user = user.to_owned();
        let certificate = certificate(&self.users_ca, &self.user, CertType::User, &user);
        Identity::Certificate { user, key: self.user.clone().into(), certificate }
    }

    pub(crate) fn technician(&self, password: &str) -> Identity {
        let user = "tech:alice".to_owned();
        let certificate = certificate(&self.users_ca, &self.user, CertType::User, &user);
        Identity::CertificateThenPassword {
            user,
            key: self.user.clone().into(),
            certificate,
            password: password.to_owned().into(),
        }
    }

    pub(crate) fn master(&self) -> Config {
        let certificate = certificate(&self.masters_ca, &self.host, CertType::Host, "master:noc1");
        server_config(HostIdentity { key: self.host.clone(), certificate })
    }

    pub(crate) fn trust(&self) -> Arc<dyn HostTrust> {
        let ca = self.masters_ca.public_key().fingerprint(Default::default());
        Arc::new(move |shown: &Certificate| {
            let is_masters = shown.validate_at(1_800_000_000, [&ca]).is_ok() && shown.cert_type() == CertType::Host;
            if is_masters { Ok(()) } else { Err("its authority is not the masters'".to_owned()) }
        })
    }
}

/// What a master has of one connection.
pub(crate) struct Served {
    pub(crate) link: Link,
    pub(crate) session: Handle,
    pub(crate) kill: CancellationToken,
}

/// A master that hands each link to the test.
pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    pub(crate) tasks: Tasks,
    pub(crate) keys: Keys,
    links: mpsc::Receiver<Served>,
    /// What users asked for that is not ours to give.
    pub(crate) refused: Arc<Mutex<Vec<&'static str>>>,
}

impl Site {
    pub(crate) async fn new() -> Self {
        let keys = Keys::new();
        let config = keys.master();
        Self::with(keys, config).await
    }

    pub(crate) async fn with(keys: Keys, config: Config) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), keys, config)
    }

    /// A site whose sockets hold little.
    pub(crate) fn narrow() -> Self {
        let keys = Keys::new();
        let config = keys.master();
        let socket = narrow_socket();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self::on(socket.listen(16).unwrap(), keys, config)
    }

    fn on(listener: TcpListener, keys: Keys, config: Config) -> Self {
        let address = listener.local_addr().unwrap();
        let tasks = Tasks::new();
        let (served, links) = mpsc::channel(16);
        let refused = Arc::default();
        tasks.spawn("listener", accept(listener, Arc::new(config), tasks.clone(), served, Arc::clone(&refused)));
        Self { address, tasks, keys, links, refused }
    }

    pub(crate) async fn dial(&self, identity: Identity) -> Result<Connected, DialError> {
        self.dial_as(identity, &Options::CONTROL).await
    }

    pub(crate) async fn dial_as(&self, identity: Identity, options: &Options) -> Result<Connected, DialError> {
        dial(&self.address.to_string(), identity, self.keys.trust(), options, &self.tasks).await
    }

    /// Dials through a socket that holds little.
    pub(crate) async fn dial_narrow(&self, options: &Options) -> Connected {
        let socket = narrow_socket().connect(self.address).await.unwrap();
        dial_over(socket, self.keys.agent(), self.keys.trust(), options, &self.tasks).await.unwrap()
    }

    pub(crate) async fn served(&mut self) -> Served {
        soon(self.links.recv()).await.unwrap()
    }

    /// Both ends of a connection of an agent.
    pub(crate) async fn pair(&mut self, options: &Options) -> (Served, Connected) {
        let connected = self.dial_as(self.keys.agent(), options).await.unwrap();
        (self.served().await, connected)
    }
}

fn narrow_socket() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 * 1024).unwrap();
    socket.set_send_buffer_size(8 * 1024).unwrap();
    socket
}

async fn accept(
    listener: TcpListener,
    config: Arc<Config>,
    tasks: Tasks,
    served: mpsc::Sender<Served>,
    refused: Arc<Mutex<Vec<&'static str>>>,
) {
    while let Ok((socket, _)) = listener.accept().await {
        let kill = CancellationToken::new();
        let master = Master {
            carrier: ServerCarrier::new(&tasks, kill.clone()),
            kill: kill.clone(),
            served: served.clone(),
            refused: Arc::clone(&refused),
        };
        let config = Arc::clone(&config);
        tasks.spawn("ssh connection", async move {
            let _how_it_ended = serve(config, socket, master, &kill).await;
        });
    }
}

pub(crate) async fn soon<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), work).await.expect("this does not wait for ever")
}

struct Master {
    carrier: ServerCarrier,
    kill: CancellationToken,
    served: mpsc::Sender<Served>,
    refused: Arc<Mutex<Vec<&'static str>>>,
}

#[derive(Debug, thiserror::Error)]
enum MasterError {
    #[error(transparent)]
    Ssh(#[from] russh::Error),
    #[error(transparent)]
    Link(#[from] Why),
}

impl Handler for Master {
    type Error = MasterError;

    async fn auth_none(&mut self, user: &str) -> Result<Auth, MasterError> {
        Ok(if user == "enroll" { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, MasterError> {
        let right = user == "tech:alice" && password == PASSWORD;
        Ok(if right { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_publickey(&mut self, _: &str, shown: VerifiedPublicKey<'_>) -> Result<Auth, MasterError> {
        let known = is_user_algorithm(shown.algorithm) && shown.public_key.key_data() == key(5).public_key().key_data();
        Ok(if known { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_openssh_certificate(&mut self, user: &str, shown: &Certificate) -> Result<Auth, MasterError> {
        if user.ends_with("/gone") {
            return Err(russh::Error::Disconnect.into());
        }
        let by_ca = shown.signature_key() == key(2).public_key().key_data();
        let named = shown.valid_principals().iter().any(|principal| principal == user);
        Ok(match (by_ca && named, user.starts_with("tech:")) {
            (false, _) => Auth::reject(),
            (true, false) => Auth::Accept,
            (true, true) => Auth::Reject {
                proceed_with_methods: Some(MethodSet::from(&[MethodKind::Password][..])),
                partial_success: true,
            },
        })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), MasterError> {
        self.carrier.open(channel, reply).await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), MasterError> {
        self.refused.lock().unwrap().push("direct-tcpip");
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), MasterError> {
        if let Some(link) = self.carrier.subsystem(channel, name, session)? {
            let served = Served { link, session: session.handle(), kill: self.kill.clone() };
            self.served.try_send(served).map_err(|_| russh::Error::Disconnect)?;
        }
        Ok(())
    }

    async fn data(&mut self, channel: ChannelId, bytes: &[u8], _: &mut Session) -> Result<(), MasterError> {
        Ok(self.carrier.data(channel, bytes)?)
    }

    async fn channel_eof(&mut self, channel: ChannelId, _: &mut Session) -> Result<(), MasterError> {
        self.carrier.ended(channel);
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _: &mut Session) -> Result<(), MasterError> {
        self.carrier.ended(channel);
        Ok(())
    }

    fn adjust_window(&mut self, _: ChannelId, current: u32) -> u32 {
        self.carrier.adjust_window(current)
    }
}
