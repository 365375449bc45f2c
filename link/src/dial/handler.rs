//! What a dialler answers to the master's SSH: the host's certificate is judged, frames are taken, and all else that
//! SSH would let a server ask of its client is refused.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use russh::client::{ChannelOpenHandle, DisconnectReason, Handler, Msg, Session};
use russh::keys::{Certificate, PublicKeyOrCertificate};
use russh::{Channel, ChannelId};

use super::HostTrust;
use crate::ended::Why;
use crate::link::Inlet;
use crate::ssh::is_host_algorithm;

/// What the dialling task has to know of the session's: both run apart.
#[derive(Clone, Default)]
pub(super) struct Seen(Arc<Mutex<Notes>>);

#[derive(Default)]
struct Notes {
    certificate: Option<Certificate>,
    refused: bool,
    lost: bool,
}

impl Seen {
    /// The certificate that the master showed and that is trusted.
    pub(super) fn take_certificate(&self) -> Option<Certificate> {
        self.notes().certificate.take()
    }

    /// Whether the session ended otherwise than by the refusal of the last method that there was.
    pub(super) fn is_lost(&self) -> bool {
        self.notes().lost
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why the session ends from our side.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandlerError {
    #[error(transparent)]
    Ssh(#[from] russh::Error),
    #[error("the master shows a bare host key")]
    BareHostKey,
    #[error("the master's certificate is not trusted: {0}")]
    Untrusted(String),
    #[error(transparent)]
    Link(#[from] Why),
}

/// russh's handler on the dialling side.
pub(super) struct Dialler {
    trust: Arc<dyn HostTrust>,
    seen: Seen,
    inlet: Inlet,
}

impl Dialler {
    pub(super) fn new(trust: Arc<dyn HostTrust>, seen: Seen, inlet: Inlet) -> Self {
        Self { trust, seen, inlet }
    }
}

impl Drop for Dialler {
    fn drop(&mut self) {
        let mut notes = self.seen.notes();
        notes.lost = !notes.refused;
    }
}

impl Handler for Dialler {
    type Error = HandlerError;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let certificate = shown.certificate().ok_or(HandlerError::BareHostKey)?;
        if !is_host_algorithm(&certificate.algorithm()) {
            return Err(HandlerError::Untrusted(format!("its key is of kind {}", certificate.algorithm())));
        }
        self.trust.check(certificate).map_err(HandlerError::Untrusted)?;
        self.seen.notes().certificate = Some(certificate.clone());

        Ok(true)
    }

    async fn data(&mut self, _: ChannelId, bytes: &[u8], _: &mut Session) -> Result<(), Self::Error> {
        Ok(self.inlet.feed(bytes)?)
    }

    async fn channel_eof(&mut self, _: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        self.inlet.close(Why::PeerGone);

        Ok(())
    }

    async fn channel_close(&mut self, _: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        self.inlet.close(Why::PeerGone);

        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Self::Error>) -> Result<(), Self::Error> {
        match reason {
            DisconnectReason::ReceivedDisconnect(_) => Ok(()),
            DisconnectReason::Error(error) => {
                if matches!(error, HandlerError::Ssh(russh::Error::KeepaliveTimeout)) {
                    self.inlet.close(Why::Silent);
                }
                self.seen.notes().refused = matches!(error, HandlerError::Ssh(russh::Error::NoAuthMethod));
                Err(error)
            }
        }
    }

    // A dropped reply is a refusal. The defaults would accept.

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _: Channel<Msg>,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn should_accept_unknown_server_channel(&mut self, _: ChannelId, _: &str) -> bool {
        false
    }

    async fn server_channel_open_unknown(
        &mut self,
        _: Channel<Msg>,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn server_channel_open_session(
        &mut self,
        _: Channel<Msg>,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(())
    }
}
