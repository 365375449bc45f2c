//! russh's knobs, every one set: none is left to a default that may change with a release.

use std::borrow::Cow;
use std::time::Duration;

use russh::client::GexParams;
use russh::keys::{Certificate, PrivateKey};
use russh::{MethodKind, MethodSet, SshId, client, server};

use super::{client_algorithms, server_algorithms};
use crate::limits::Limits;

/// A side that hears nothing for so long asks for a sign of life.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// So many unanswered asks end the connection.
const KEEPALIVES_UNANSWERED: usize = 3;
/// More than about 32 KiB a packet gained nothing in any measurement.
const PACKET: u32 = 32 * 1024;
/// How long a server's handler is to take over a refused login, whatever the reason, so that its time tells nothing.
/// russh's own delay would fall on a first factor that was accepted as well: to it that is a rejection, too.
pub const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// Attempts before a server hangs up. A login takes two, and a mistyped password one more each.
const ATTEMPTS: usize = 6;
const REKEY_BYTES: usize = 1 << 30;
const REKEY_TIME: Duration = Duration::from_secs(3600);
/// Messages that russh keeps for a channel whose read half lives. We drop that half.
const CHANNEL_MESSAGES: usize = 16;
const EVENTS: usize = 10;
/// Says what we are, and no version that would help to choose an attack.
const NAME: &str = "SSH-2.0-Reeve";

/// What a server shows to be known by.
#[derive(Debug)]
pub struct HostIdentity {
    /// The host key.
    pub key: PrivateKey,
    /// Its certificate by the masters' CA.
    pub certificate: Certificate,
}

/// How a client speaks.
#[must_use]
pub fn client_config(limits: &Limits) -> client::Config {
    client::Config {
        client_id: SshId::Standard(Cow::Borrowed(NAME)),
        limits: rekeying(),
        window_size: limits.ssh_window,
        maximum_packet_size: PACKET,
        channel_buffer_size: CHANNEL_MESSAGES,
        preferred: client_algorithms(),
        inactivity_timeout: None,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: KEEPALIVES_UNANSWERED,
        anonymous: false,
        // Never negotiated: our key exchanges have no groups to agree on.
        gex: GexParams::default(),
        nodelay: true,
    }
}

/// How a server speaks. A connection begins with the control connection's window; its
/// [carrier](super::ServerCarrier::adjust_window) widens it for bulk.
///
/// The methods here are only what is offered at first: russh asks the handler about any method that a client tries, so
/// the handler refuses a password whose user has not shown a key on this connection.
#[must_use]
pub fn server_config(identity: HostIdentity) -> server::Config {
    server::Config {
        server_id: SshId::Standard(Cow::Borrowed(NAME)),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        auth_rejection_time: Duration::ZERO,
        // A client that only asks which methods there are has guessed at nothing.
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![identity.key],
        certificates: vec![identity.certificate],
        limits: rekeying(),
        window_size: Limits::CONTROL.ssh_window,
        maximum_packet_size: PACKET,
        channel_buffer_size: CHANNEL_MESSAGES,
        event_buffer_size: EVENTS,
        preferred: server_algorithms(),
        max_auth_attempts: ATTEMPTS,
        // An agent is idle for days. Keepalives find the dead.
        inactivity_timeout: None,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: KEEPALIVES_UNANSWERED,
        nodelay: true,
    }
}

fn rekeying() -> russh::Limits {
    russh::Limits::new(REKEY_BYTES, REKEY_BYTES, REKEY_TIME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_finds_a_dead_master_within_forty_seconds_and_waits_for_no_nagle() {
        let config = client_config(&Limits::CONTROL);

        assert_eq!((config.keepalive_interval, config.keepalive_max), (Some(Duration::from_secs(10)), 3));
        assert_eq!(config.inactivity_timeout, None);
        assert!(config.nodelay);
        assert_eq!((config.window_size, config.maximum_packet_size), (2 * 1024 * 1024, 32 * 1024));
        assert_eq!(client_config(&Limits::BULK).window_size, 16 * 1024 * 1024);
    }

    #[test]
    fn a_connection_changes_its_keys_each_hour_or_gibibyte() {
        let limits = rekeying();

        assert_eq!(limits.rekey_read_limit, 1 << 30);
        assert_eq!(limits.rekey_write_limit, 1 << 30);
        assert_eq!(limits.rekey_time_limit, Duration::from_secs(3600));
    }
}
