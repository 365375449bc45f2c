//! Who a dialler says that it is, and how it proves it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::client::{AuthResult, Handle};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::{AgentClient, AgentStream};
use russh::keys::{Certificate, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey};
use zeroize::Zeroizing;

use super::DialError;
use super::handler::{Dialler, Seen};

/// A private key, or who keeps it.
#[derive(Clone)]
pub enum SigningKey {
    /// In memory, without a passphrase.
    Held(Arc<PrivateKey>),
    /// In an ssh-agent, which signs with it; a hardware key asks for its touch.
    Agent {
        /// The agent's socket.
        socket: PathBuf,
        /// Which of its keys.
        public: PublicKey,
    },
}

impl SigningKey {
    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        match self {
            Self::Held(key) => key.public_key(),
            Self::Agent { public, .. } => public,
        }
    }
}

impl From<PrivateKey> for SigningKey {
    fn from(key: PrivateKey) -> Self {
        Self::Held(Arc::new(key))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keeper = match self {
            Self::Held(_) => "Held",
            Self::Agent { .. } => "Agent",
        };
        f.debug_tuple(keeper).field(&self.public_key().fingerprint(HashAlg::Sha256).to_string()).finish()
    }
}

/// What is shown to the master. The user name is the principal.
#[derive(Clone)]
pub enum Identity {
    /// An agent, `host:CUSTOMER/HOST`.
    Certificate {
        /// The SSH user name.
        user: String,
        /// The key that the certificate is for.
        key: SigningKey,
        /// The user certificate.
        certificate: Certificate,
    },
    /// A technician who logs in, `tech:NAME`: the key first, then the password.
    CertificateThenPassword {
        /// The SSH user name.
        user: String,
        /// The key that the certificate is for.
        key: SigningKey,
        /// The user certificate.
        certificate: Certificate,
        /// The second factor.
        password: Zeroizing<String>,
    },
    /// A technician's registered session key.
    SessionKey {
        /// The SSH user name.
        user: String,
        /// The session key.
        key: SigningKey,
    },
    /// Nobody yet: `enroll`.
    None {
        /// The SSH user name.
        user: String,
    },
}

impl Identity {
    /// The SSH user name.
    #[must_use]
    pub fn user(&self) -> &str {
        match self {
            Self::Certificate { user, .. }
            | Self::CertificateThenPassword { user, .. }
            | Self::SessionKey { user, .. }
            | Self::None { user } => user,
        }
    }

    /// Refuses what need not be sent to be known for wrong.
    pub(super) fn check(&self) -> Result<(), DialError> {
        match self {
            Self::CertificateThenPassword { password, .. } if password.is_empty() => Err(DialError::EmptyPassword),
            Self::Certificate { .. }
            | Self::CertificateThenPassword { .. }
            | Self::SessionKey { .. }
            | Self::None { .. } => Ok(()),
        }
    }

    pub(super) async fn prove(&self, session: &mut Handle<Dialler>, seen: &Seen) -> Result<(), DialError> {
        let answer = match self {
            Self::Certificate { user, key, certificate }
            | Self::CertificateThenPassword { user, key, certificate, .. } => {
                show_certificate(session, user, key, certificate).await?
            }
            Self::SessionKey { user, key } => show_key(session, user, key).await?,
            Self::None { user } => session.authenticate_none(user).await.map_err(DialError::Ssh)?,
        };
        let first = Answer::of(&answer, seen)?;
        let Self::CertificateThenPassword { user, password, .. } = self else {
            return if first == Answer::In { Ok(()) } else { Err(self.key_refused()) };
        };
        match first {
            Answer::In => return Err(DialError::PasswordNotAsked),
            Answer::Refused => return Err(self.key_refused()),
            Answer::More => {}
        }
        let answer = session.authenticate_password(user, password.as_str()).await.map_err(DialError::Ssh)?;
        match Answer::of(&answer, seen)? {
            Answer::In => Ok(()),
            Answer::More | Answer::Refused => Err(DialError::PasswordRefused { user: user.clone() }),
        }
    }

    fn key_refused(&self) -> DialError {
        DialError::KeyRefused { user: self.user().to_owned() }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.user()).finish()
    }
}

/// What the master says to one factor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Answer {
    In,
    More,
    Refused,
}

impl Answer {
    fn of(result: &AuthResult, seen: &Seen) -> Result<Self, DialError> {
        match result {
            AuthResult::Success => Ok(Self::In),
            AuthResult::Failure { partial_success: true, .. } => Ok(Self::More),
            // This is also what russh answers for a session that is gone.
            AuthResult::Failure { remaining_methods, .. } if remaining_methods.is_empty() && seen.is_lost() => {
                Err(DialError::HungUp)
            }
            AuthResult::Failure { .. } => Ok(Self::Refused),
        }
    }
}

async fn show_certificate(
    session: &mut Handle<Dialler>,
    user: &str,
    key: &SigningKey,
    certificate: &Certificate,
) -> Result<AuthResult, DialError> {
    match key {
        SigningKey::Held(key) => {
            session.authenticate_openssh_cert(user, Arc::clone(key), certificate.clone()).await.map_err(DialError::Ssh)
        }
        SigningKey::Agent { socket, public } => {
            let mut signer = InAgent::connect(socket, public).await?;
            Ok(session.authenticate_certificate_with(user, certificate.clone(), None, &mut signer).await?)
        }
    }
}

async fn show_key(session: &mut Handle<Dialler>, user: &str, key: &SigningKey) -> Result<AuthResult, DialError> {
    match key {
        SigningKey::Held(key) => session
            .authenticate_publickey(user, PrivateKeyWithHashAlg::new(Arc::clone(key), None))
            .await
            .map_err(DialError::Ssh),
        SigningKey::Agent { socket, public } => {
            let mut signer = InAgent::connect(socket, public).await?;
            Ok(session.authenticate_publickey_with(user, public.clone(), None, &mut signer).await?)
        }
    }
}

/// Signs with a key that an ssh-agent keeps.
struct InAgent {
    client: AgentClient<Box<dyn AgentStream + Send + Unpin>>,
    /// What the agent knows the key by. It need not have the certificate.
    key: AgentIdentity,
}

/// Why the agent did not sign.
#[derive(Debug, thiserror::Error)]
enum NotSigned {
    #[error(transparent)]
    Session(#[from] russh::SendError),
    #[error(transparent)]
    Agent(#[from] russh::keys::Error),
}

impl From<NotSigned> for DialError {
    fn from(error: NotSigned) -> Self {
        match error {
            NotSigned::Session(_) => Self::HungUp,
            NotSigned::Agent(error) => Self::KeyUnusable(error.to_string()),
        }
    }
}

impl InAgent {
    async fn connect(socket: &Path, public: &PublicKey) -> Result<Self, DialError> {
        let client = connect_agent(socket).await.map_err(NotSigned::Agent)?;

        Ok(Self { client, key: public.clone().into() })
    }
}

#[cfg(unix)]
async fn connect_agent(socket: &Path) -> Result<AgentClient<Box<dyn AgentStream + Send + Unpin>>, russh::keys::Error> {
    Ok(AgentClient::connect_uds(socket).await?.dynamic())
}

#[cfg(windows)]
async fn connect_agent(socket: &Path) -> Result<AgentClient<Box<dyn AgentStream + Send + Unpin>>, russh::keys::Error> {
    Ok(AgentClient::connect_named_pipe(socket).await?.dynamic())
}

impl russh::Signer for InAgent {
    type Error = NotSigned;

    async fn auth_sign(
        &mut self,
        _: &AgentIdentity,
        hash: Option<HashAlg>,
        to_sign: Vec<u8>,
    ) -> Result<Vec<u8>, Self::Error> {
        Ok(self.client.sign_request(&self.key, hash, to_sign).await?)
    }
}
