//! Keys of signed notes: the public one as a `vkey` text, the private one of a log.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{NoteError, SignatureLine};

/// The algorithm byte of plain Ed25519 in a key's text.
const ED25519: u8 = 1;

/// The longest name of a key, in bytes.
const MAX_KEY_NAME: usize = 255;

/// A name as signed-note wants it: not empty, without white space and without `+`.
pub(super) fn is_name(name: &str) -> bool {
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '+';
    !name.is_empty() && name.len() <= MAX_KEY_NAME && !name.contains(bad)
}

/// The public key of a log, `NAME+KEYID+BASE64(0x01 ‖ key)`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Vkey {
    name: String,
    key_id: [u8; 4],
    key: VerifyingKey,
}

impl Vkey {
    /// The vkey of an Ed25519 key under a name.
    ///
    /// # Errors
    ///
    /// [`NoteError::Key`] when the name is empty, too long, or holds white space or `+`.
    pub fn new(name: &str, key: VerifyingKey) -> Result<Self, NoteError> {
        if !is_name(name) {
            return Err(NoteError::Key("its name is empty, too long, or holds white space or \"+\""));
        }
        if key.is_weak() {
            return Err(NoteError::Key("it is one of the few keys that many signatures fit"));
        }
        let digest = Sha256::new().chain_update(name).chain_update([b'\n', ED25519]).chain_update(key).finalize();
        let key_id = digest.first_chunk::<4>().copied().unwrap_or_default();
        Ok(Self { name: name.to_owned(), key_id, key })
    }

    /// The name of the key, which is the origin of its log's checkpoints.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first four bytes of SHA-256(name ‖ newline ‖ 0x01 ‖ key).
    pub const fn key_id(&self) -> [u8; 4] {
        self.key_id
    }

    /// Checks one signature over `text`.
    pub(super) fn check(&self, text: &[u8], signature: &[u8]) -> Result<(), NoteError> {
        let holds = Signature::from_slice(signature).is_ok_and(|s| self.key.verify_strict(text, &s).is_ok());
        if holds { Ok(()) } else { Err(NoteError::BadSignature(self.name.clone())) }
    }
}

impl fmt::Display for Vkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [[ED25519].as_slice(), self.key.as_bytes()].concat();
        write!(f, "{}+{}+{}", self.name, hex::encode(self.key_id), STANDARD.encode(key))
    }
}

impl FromStr for Vkey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let form = NoteError::Key("expected NAME+KEYID+BASE64");
        let (name, rest) = text.split_once('+').ok_or(form.clone())?;
        let (key_id, encoded) = rest.split_once('+').ok_or(form)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| NoteError::Key("its last part is not base64"))?;
        let Some((&ED25519, key)) = bytes.split_first() else {
            return Err(NoteError::Key("its algorithm is not Ed25519 (0x01)"));
        };
        let key = key.try_into().ok().and_then(|key| VerifyingKey::from_bytes(key).ok());
        let vkey = Self::new(name, key.ok_or(NoteError::Key("it is not an Ed25519 public key"))?)?;
        if hex::encode(vkey.key_id) != key_id {
            return Err(NoteError::Key("its key id is not that of its name and key"));
        }
        Ok(vkey)
    }
}

/// The private key of a log. It signs checkpoints and nothing else, and is wiped from memory when dropped.
#[derive(Clone)]
pub struct LogSigner {
    key: SigningKey,
    vkey: Vkey,
}

impl LogSigner {
    /// Makes a fresh key under a name.
    ///
    /// # Errors
    ///
    /// [`NoteError::Key`] when the name will not do.
    pub fn generate(name: &str) -> Result<Self, NoteError> {
        let seed: Zeroizing<[u8; 32]> = Zeroizing::new(rand::random());
        Self::from_seed(name, &seed)
    }

    /// The key of an Ed25519 seed under a name.
    ///
    /// # Errors
    ///
    /// [`NoteError::Key`] when the name will not do.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, NoteError> {
        let key = SigningKey::from_bytes(seed);
        let vkey = Vkey::new(name, key.verifying_key())?;
        Ok(Self { key, vkey })
    }

    /// The public key.
    pub const fn vkey(&self) -> &Vkey {
        &self.vkey
    }

    /// The private key as text, `PRIVATE+KEY+NAME+KEYID+BASE64(0x01 ‖ seed)`: for a file that only its owner reads.
    pub fn secret_text(&self) -> Zeroizing<String> {
        let mut seed = Zeroizing::new(Vec::with_capacity(33));
        seed.push(ED25519);
        seed.extend_from_slice(self.key.as_bytes());
        let encoded = Zeroizing::new(STANDARD.encode(seed.as_slice()));
        Zeroizing::new(format!("PRIVATE+KEY+{}+{}+{}", self.vkey.name, hex::encode(self.vkey.key_id), encoded.as_str()))
    }

    /// The signature line over `text`, which ends in a newline.
    pub(super) fn sign(&self, text: &[u8]) -> SignatureLine {
        let signature = self.key.sign(text).to_bytes().to_vec();
        SignatureLine { name: self.vkey.name.clone(), key_id: self.vkey.key_id, signature }
    }
}

impl fmt::Debug for LogSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogSigner({})", self.vkey)
    }
}

impl FromStr for LogSigner {
    type Err = NoteError;

    /// Reads what [`secret_text`](Self::secret_text) wrote, without surrounding white space.
    fn from_str(text: &str) -> Result<Self, NoteError> {
        let form = NoteError::Key("expected PRIVATE+KEY+NAME+KEYID+BASE64");
        let rest = text.strip_prefix("PRIVATE+KEY+").ok_or(form.clone())?;
        let (name, rest) = rest.split_once('+').ok_or(form.clone())?;
        let (key_id, encoded) = rest.split_once('+').ok_or(form)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| NoteError::Key("its last part is not base64"))?;
        let bytes = Zeroizing::new(bytes);
        let Some((&ED25519, seed)) = bytes.split_first() else {
            return Err(NoteError::Key("its algorithm is not Ed25519 (0x01)"));
        };
        let seed = Zeroizing::new(<[u8; 32]>::try_from(seed).map_err(|_| NoteError::Key("its seed is not 32 bytes"))?);
        let signer = Self::from_seed(name, &seed)?;
        if hex::encode(signer.vkey.key_id) != key_id {
            return Err(NoteError::Key("its key id is not that of its name and key"));
        }
        Ok(signer)
    }
}
