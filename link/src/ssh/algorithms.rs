//! Which algorithms Reeve speaks, in one place: what is not listed here is not negotiated.

use std::borrow::Cow;

use russh::keys::ssh_key::Algorithm;
use russh::{Preferred, cipher, compression, kex, mac};

/// Post-quantum first. No Diffie-Hellman over integers; strict key exchange against prefix truncation.
const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::EXTENSION_SUPPORT_AS_CLIENT,
    kex::EXTENSION_SUPPORT_AS_SERVER,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
];

/// AES first: twice as fast as ChaCha20 where the processor has instructions for it.
const CIPHERS: &[cipher::Name] = &[cipher::AES_256_GCM, cipher::CHACHA20_POLY1305];

/// Both ciphers bring their own; these only complete the negotiation.
const MACS: &[mac::Name] = &[mac::HMAC_SHA512_ETM, mac::HMAC_SHA256_ETM];

const COMPRESSION: &[compression::Name] = &[compression::NONE];

/// Keys of hosts, and of the certificates that a client takes them from.
const HOST_KEYS: &[Algorithm] = &[Algorithm::Ed25519];

/// Keys of users, bare or certified.
const USER_KEYS: &[Algorithm] = &[Algorithm::Ed25519, Algorithm::SkEd25519];

/// What a client offers. It asks for host certificates alone: a server that has none is not negotiated with.
#[must_use]
pub fn client_algorithms() -> Preferred {
    algorithms(&[], HOST_KEYS)
}

/// What a server offers. Its list of keys is also what it announces that it takes from users; the handler must check
/// with [`is_user_algorithm`], since russh does not.
#[must_use]
pub fn server_algorithms() -> Preferred {
    algorithms(USER_KEYS, &[])
}

/// Whether a user's key, bare or in a certificate, may be of this kind.
#[must_use]
pub fn is_user_algorithm(algorithm: &Algorithm) -> bool {
    USER_KEYS.contains(algorithm)
}

/// Whether a host's key, or that of its certificate, may be of this kind.
#[must_use]
pub fn is_host_algorithm(algorithm: &Algorithm) -> bool {
    HOST_KEYS.contains(algorithm)
}

fn algorithms(key: &'static [Algorithm], host_key_certificates: &'static [Algorithm]) -> Preferred {
    Preferred {
        kex: Cow::Borrowed(KEX),
        key: Cow::Borrowed(key),
        host_key_certificates: Cow::Borrowed(host_key_certificates),
        cipher: Cow::Borrowed(CIPHERS),
        mac: Cow::Borrowed(MACS),
        compression: Cow::Borrowed(COMPRESSION),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names<T: AsRef<str>>(list: &[T]) -> Vec<&str> {
        list.iter().map(AsRef::as_ref).collect()
    }

    #[test]
    fn both_sides_offer_this_and_nothing_else() {
        for offered in [client_algorithms(), server_algorithms()] {
            assert_eq!(
                names(&offered.kex),
                [
                    "mlkem768x25519-sha256",
                    "curve25519-sha256",
                    "ext-info-c",
                    "ext-info-s",
                    "kex-strict-c-v00@openssh.com",
                    "kex-strict-s-v00@openssh.com"
                ]
            );
            assert_eq!(names(&offered.cipher), ["aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com"]);
            assert_eq!(names(&offered.mac), ["hmac-sha2-512-etm@openssh.com", "hmac-sha2-256-etm@openssh.com"]);
            assert_eq!(names(&offered.compression), ["none"]);
        }
    }

    #[test]
    fn a_client_asks_for_host_certificates_alone() {
        let offered = client_algorithms();

        assert!(offered.key.is_empty());
        assert_eq!(*offered.host_key_certificates, [Algorithm::Ed25519]);
        assert_eq!(Algorithm::Ed25519.to_certificate_type(), "ssh-ed25519-cert-v01@openssh.com");
    }

    #[test]
    fn users_come_with_ed25519_in_software_or_hardware_and_never_with_rsa() {
        let offered: Vec<_> = server_algorithms().key.iter().map(Algorithm::to_string).collect();

        assert_eq!(offered, ["ssh-ed25519", "sk-ssh-ed25519@openssh.com"]);
        assert!(!is_user_algorithm(&Algorithm::Rsa { hash: None }));
        assert!(!is_host_algorithm(&Algorithm::SkEd25519));
    }
}
