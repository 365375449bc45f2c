//! SSHSIG, the signature format of `ssh-keygen -Y` (OpenSSH `PROTOCOL.sshsig`), with SHA-512 and one namespace a
//! meaning.
//!
//! A verifier names the key and the namespace that it expects, so a signature made for one purpose never passes for
//! another. Ed25519 only, from a file or from a FIDO authenticator; for the latter the user-presence flag is checked
//! here, because the library does not.

use ssh_key::public::KeyData;
use ssh_key::{Algorithm, HashAlg, PrivateKey, PublicKey, SshSig};
use ssh_key::{encoding::Decode, encoding::Encode};

/// What a signature means.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Namespace {
    /// The trust bundle, by the root.
    Trust,
    /// A session key's powers, by the technician's own key.
    Delegation,
    /// A request, by a session key or the technician's own key.
    Request,
    /// A grant, by the master's host key.
    Grant,
    /// An entry of a host's receipt chain, by the host's key.
    Receipt,
    /// The library's index, by a library signer.
    Library,
}

impl Namespace {
    /// The namespace as it stands in the signature.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trust => "trust@reeve",
            Self::Delegation => "delegation@reeve",
            Self::Request => "request@reeve",
            Self::Grant => "grant@reeve",
            Self::Receipt => "receipt@reeve",
            Self::Library => "library@reeve",
        }
    }
}

/// A signature that does not hold, and why.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadSignature {
    /// The blob is not an SSHSIG.
    #[error("the signature is not an SSHSIG blob")]
    Malformed,
    /// Made with an algorithm that is not accepted.
    #[error("the signature's algorithm is not accepted; use ed25519 or sk-ssh-ed25519")]
    Algorithm,
    /// Made by another key than the expected one.
    #[error("the signature was made by another key")]
    OtherKey,
    /// Made for another purpose.
    #[error("the signature was made for another purpose")]
    OtherNamespace,
    /// The hardware key was not touched.
    #[error("the hardware key was not touched for this signature")]
    NotTouched,
    /// The signature does not match the bytes.
    #[error("the signature does not match the signed bytes")]
    Mismatch,
    /// The key would not sign.
    #[error("the key cannot sign: it is encrypted or of a kind that is not supported")]
    CannotSign,
}

/// The user-presence bit of a FIDO assertion's flags (CTAP2 6.1).
const USER_PRESENT: u8 = 0x01;

/// Signs `message`; the result is the raw SSHSIG blob.
///
/// # Errors
/// [`BadSignature::CannotSign`] when the key is encrypted or not ed25519.
pub fn sign(key: &PrivateKey, namespace: Namespace, message: &[u8]) -> Result<Vec<u8>, BadSignature> {
    let signature = key.sign(namespace.as_str(), HashAlg::Sha512, message).map_err(|_| BadSignature::CannotSign)?;
    signature.encode_vec().map_err(|_| BadSignature::CannotSign)
}

/// Checks that `blob` is a signature of `message` by `key` in `namespace`.
///
/// # Errors
/// Why it is not.
pub fn verify(key: &KeyData, namespace: Namespace, message: &[u8], blob: &[u8]) -> Result<(), BadSignature> {
    let signature = parse(blob)?;
    if signature.public_key() != key {
        return Err(BadSignature::OtherKey);
    }
    if signature.namespace() != namespace.as_str() {
        return Err(BadSignature::OtherNamespace);
    }
    require_touch(&signature)?;
    PublicKey::from(key.clone()).verify(namespace.as_str(), message, &signature).map_err(|_| BadSignature::Mismatch)
}

/// The key that a signature says it was made by: only to find out which of several keys to check it with.
///
/// # Errors
/// When the blob is not one that [`verify`] could accept.
pub fn claimed_signer(blob: &[u8]) -> Result<KeyData, BadSignature> {
    Ok(parse(blob)?.public_key().clone())
}

fn parse(blob: &[u8]) -> Result<SshSig, BadSignature> {
    let mut rest = blob;
    let signature = SshSig::decode(&mut rest).map_err(|_| BadSignature::Malformed)?;
    let plain = signature.version() == SshSig::VERSION && signature.reserved().is_empty();
    if !rest.is_empty() || !plain || signature.hash_alg() != HashAlg::Sha512 {
        return Err(BadSignature::Malformed);
    }
    let accepted = |algorithm| matches!(algorithm, Algorithm::Ed25519 | Algorithm::SkEd25519);
    if !accepted(signature.algorithm()) || signature.algorithm() != signature.public_key().algorithm() {
        return Err(BadSignature::Algorithm);
    }
    Ok(signature)
}

/// A FIDO signature ends in one byte of flags and four of counter.
fn require_touch(signature: &SshSig) -> Result<(), BadSignature> {
    if signature.algorithm() != Algorithm::SkEd25519 {
        return Ok(());
    }
    let flags = signature.signature_bytes().len().checked_sub(5).and_then(|at| signature.signature_bytes().get(at));
    match flags {
        Some(flags) if flags & USER_PRESENT != 0 => Ok(()),
        _ => Err(BadSignature::NotTouched),
    }
}

/// Makes a fresh ed25519 key.
///
/// # Errors
/// [`BadSignature::CannotSign`] when the library cannot make one.
pub fn generate(comment: &str) -> Result<PrivateKey, BadSignature> {
    let seed: zeroize::Zeroizing<[u8; 32]> = zeroize::Zeroizing::new(rand::random());
    let pair = ssh_key::private::Ed25519Keypair::from_seed(&seed);
    PrivateKey::new(pair.into(), comment).map_err(|_| BadSignature::CannotSign)
}

/// `SHA256:…`, as `ssh-keygen -l` prints it.
pub fn fingerprint(key: &KeyData) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_key_purpose_and_bytes_only() {
        let (key, other) = (generate("a").unwrap(), generate("b").unwrap());
        let blob = sign(&key, Namespace::Grant, b"message").unwrap();
        let check = |key: &PrivateKey, namespace, message: &[u8], blob: &[u8]| {
            verify(key.public_key().key_data(), namespace, message, blob)
        };

        assert_eq!(check(&key, Namespace::Grant, b"message", &blob), Ok(()));
        assert_eq!(check(&other, Namespace::Grant, b"message", &blob), Err(BadSignature::OtherKey));
        assert_eq!(check(&key, Namespace::Request, b"message", &blob), Err(BadSignature::OtherNamespace));
        assert_eq!(check(&key, Namespace::Grant, b"massage", &blob), Err(BadSignature::Mismatch));
        assert_eq!(check(&key, Namespace::Grant, b"message", b"x"), Err(BadSignature::Malformed));
        let longer = [&blob[..], b"x"].concat();
        assert_eq!(check(&key, Namespace::Grant, b"message", &longer), Err(BadSignature::Malformed));
    }

    #[test]
    fn every_flipped_bit_of_a_signature_is_refused() {
        let key = generate("a").unwrap();
        let blob = sign(&key, Namespace::Request, b"message").unwrap();
        for bit in 0..blob.len() * 8 {
            let mut flipped = blob.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(
                verify(key.public_key().key_data(), Namespace::Request, b"message", &flipped).is_err(),
                "bit {bit}"
            );
        }
    }
}
