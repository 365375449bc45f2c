//! The side that connects: agent and console.
//!
//! A dialler shows nothing of itself before the master has shown a host certificate that the caller trusts; a bare
//! host key is refused, whatever the key. Every wait has a deadline.

mod handler;
mod identity;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use russh::client::{self, Handle};
use russh::keys::Certificate;
use russh::{AlgorithmKind, ChannelMsg};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::handler::{Dialler, HandlerError, Seen};
pub use self::identity::{Identity, SigningKey};
use crate::ended::Why;
use crate::limits::Limits;
use crate::link::Link;
use crate::mux::Side;
use crate::ssh::{Killable, Writer, client_config};
use crate::tasks::Tasks;

/// Decides whether a host certificate is the master's. russh has checked that its key signed the key exchange, and
/// nothing else: authority, kind, name, validity and revocation are decided here.
pub trait HostTrust: Send + Sync + 'static {
    /// Judges the certificate that the master shows.
    ///
    /// # Errors
    ///
    /// Why the certificate is not trusted, for the person who reads it.
    fn check(&self, certificate: &Certificate) -> Result<(), String>;
}

impl<F> HostTrust for F
where
    F: Fn(&Certificate) -> Result<(), String> + Send + Sync + 'static,
{
    fn check(&self, certificate: &Certificate) -> Result<(), String> {
        self(certificate)
    }
}

/// How to dial.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Which kind of connection it is to be.
    pub limits: Limits,
    /// For name resolution and TCP.
    pub connect: Duration,
    /// For versions, key exchange and the host's certificate.
    pub handshake: Duration,
    /// For authentication, behind which a directory may be, and for opening the channel.
    pub login: Duration,
}

impl Options {
    /// For a control connection.
    pub const CONTROL: Self = Self {
        limits: Limits::CONTROL,
        connect: Duration::from_secs(10),
        handshake: Duration::from_secs(20),
        login: Duration::from_secs(30),
    };

    /// For a connection of its own for one session.
    pub const BULK: Self = Self { limits: Limits::BULK, ..Self::CONTROL };
}

/// A connection that stands.
#[derive(Debug)]
pub struct Connected {
    /// The connection.
    pub link: Link,
    /// The certificate that the master showed and the caller trusted.
    pub host: Certificate,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody answers there.
    #[error("{address} cannot be reached: {source}")]
    Unreachable {
        /// What was dialled.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// A step took too long.
    #[error("the master took longer than {after:?} for the {step}")]
    TooSlow {
        /// Which step.
        step: &'static str,
        /// Its deadline.
        after: Duration,
    },
    /// The other side shows no host certificate.
    #[error("the master shows no host certificate: it is not Reeve's, or its certificate is missing")]
    NoHostCertificate,
    /// The caller does not trust the host certificate.
    #[error("the master's certificate is not trusted: {0}")]
    Untrusted(String),
    /// The master does not take the key or its certificate.
    #[error("the master refused the key for {user}")]
    KeyRefused {
        /// The user name that was given.
        user: String,
    },
    /// The master took the key and not the password.
    #[error("the master refused the password for {user}")]
    PasswordRefused {
        /// The user name that was given.
        user: String,
    },
    /// An empty password proves nothing, and some directories take it for an anonymous bind. Nothing was sent.
    #[error("the password is empty")]
    EmptyPassword,
    /// The master let the key in without asking for the second factor.
    #[error("the master asked for no password: it does not check the second factor")]
    PasswordNotAsked,
    /// The key could not sign.
    #[error("the key cannot sign: {0}")]
    KeyUnusable(String),
    /// The master does not serve this kind of connection.
    #[error("the master does not serve \"{0}\"")]
    NotServed(&'static str),
    /// The master hung up.
    #[error("the master hung up")]
    HungUp,
    /// SSH failed.
    #[error("ssh: {0}")]
    Ssh(#[source] russh::Error),
}

impl From<HandlerError> for DialError {
    fn from(error: HandlerError) -> Self {
        match error {
            HandlerError::BareHostKey => Self::NoHostCertificate,
            HandlerError::Untrusted(why) => Self::Untrusted(why),
            HandlerError::Link(_) => Self::HungUp,
            HandlerError::Ssh(russh::Error::NoCommonAlgo { kind: AlgorithmKind::Key, .. }) => Self::NoHostCertificate,
            HandlerError::Ssh(russh::Error::Disconnect | russh::Error::HUP) => Self::HungUp,
            HandlerError::Ssh(error) => Self::Ssh(error),
        }
    }
}

/// Connects over TCP.
///
/// # Errors
///
/// What failed, and what is to be done is in its text. Nothing is left behind.
pub async fn dial(
    address: &str,
    identity: Identity,
    trust: Arc<dyn HostTrust>,
    options: &Options,
    tasks: &Tasks,
) -> Result<Connected, DialError> {
    identity.check()?;
    let unreachable = |source| DialError::Unreachable { address: address.to_owned(), source };
    let socket = within("connection", options.connect, TcpStream::connect(address)).await?.map_err(unreachable)?;
    socket.set_nodelay(true).map_err(unreachable)?;

    dial_over(socket, identity, trust, options, tasks).await
}

/// Connects over a socket that stands.
///
/// # Errors
///
/// As [`dial`].
pub async fn dial_over<S>(
    socket: S,
    identity: Identity,
    trust: Arc<dyn HostTrust>,
    options: &Options,
    tasks: &Tasks,
) -> Result<Connected, DialError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    identity.check()?;
    let kill = CancellationToken::new();
    // Dropped on any way out but the last, the link cuts the socket.
    let (link, inlet) = Link::new(Side::Dialler, options.limits, tasks, kill.clone());
    let seen = Seen::default();
    let socket = Killable::new(socket, &kill, options.limits.ssh_window);
    let connecting = client::connect_stream(
        Arc::new(client_config(&options.limits)),
        socket,
        Dialler::new(trust, seen.clone(), inlet),
    );
    let mut session = within("handshake", options.handshake, connecting).await??;
    let host = seen.take_certificate().ok_or(DialError::NoHostCertificate)?;
    within("login", options.login, async {
        identity.prove(&mut session, &seen).await?;
        open_channel(session, &link, options.limits.subsystem()).await
    })
    .await??;

    Ok(Connected { link, host })
}

async fn open_channel(session: Handle<Dialler>, link: &Link, subsystem: &'static str) -> Result<(), DialError> {
    let mut channel = session.channel_open_session().await.map_err(|_| DialError::NotServed(subsystem))?;
    channel.request_subsystem(true, subsystem).await.map_err(|_| DialError::HungUp)?;
    loop {
        match channel.wait().await {
            Some(ChannelMsg::Success) => break,
            Some(ChannelMsg::Failure) => return Err(DialError::NotServed(subsystem)),
            None => return Err(DialError::HungUp),
            Some(_) => {}
        }
    }
    // The read half would have to be read: what comes is taken in the handler's callback.
    let (_, write) = channel.split();
    link.attach(Arc::new(Writer::new(write, session)));

    match link.why_closed() {
        None => Ok(()),
        Some(Why::Protocol(_) | Why::PeerGone | Why::Silent | Why::Killed | Why::Closed | Why::Replaced) => {
            Err(DialError::HungUp)
        }
    }
}

async fn within<F: Future>(step: &'static str, after: Duration, work: F) -> Result<F::Output, DialError> {
    timeout(after, work).await.map_err(|_| DialError::TooSlow { step, after })
}
