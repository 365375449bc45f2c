//! Signed notes and checkpoints in the text forms of C2SP (`signed-note`, `tlog-checkpoint`), with Ed25519 keys.
//!
//! A note is text, an empty line, and signature lines `— NAME BASE64(key id ‖ signature)`. A checkpoint is a note of
//! three lines (origin, size, base64 root) and no more. Reading is strict: what another tool could read in two ways
//! is refused, and so is a note of which any known key's signature is wrong.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::merkle::Hash;

mod key;
#[cfg(test)]
mod tests;

pub use key::{LogSigner, Vkey};

/// The longest note that is read, in bytes: a checkpoint with a hundred signatures fits several times.
pub const MAX_NOTE: usize = 64 * 1024;

/// The most signature lines that a note may have.
pub const MAX_SIGNATURES: usize = 100;

/// Why a note, a checkpoint or a key is not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoteError {
    /// The text does not follow the form.
    #[error("malformed note: {0}")]
    Malformed(&'static str),
    /// The text of a key does not follow the form, or its key id is not that of its name and key.
    #[error("malformed key: {0}")]
    Key(&'static str),
    /// A signature in the name of a known key is wrong: the whole note is worth nothing.
    #[error("the signature of {0} does not hold")]
    BadSignature(String),
    /// None of the known keys has signed.
    #[error("the note is signed by none of the expected keys")]
    Unsigned,
    /// The note is a checkpoint of another log.
    #[error("the checkpoint is of the log {found:?}, not of {expected:?}")]
    Origin {
        /// The name that was expected.
        expected: String,
        /// The name in the note.
        found: String,
    },
}

/// One signature line of a note.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SignatureLine {
    /// The name of the key.
    pub name: String,
    /// The first four bytes of the key's hash.
    pub key_id: [u8; 4],
    /// The signature, 64 bytes for Ed25519.
    pub signature: Vec<u8>,
}

impl fmt::Display for SignatureLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [self.key_id.as_slice(), self.signature.as_slice()].concat();
        writeln!(f, "— {} {}", self.name, STANDARD.encode(bytes))
    }
}

/// A note whose form holds and whose signatures have not been checked yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Note {
    text: String,
    signatures: Vec<SignatureLine>,
}

impl Note {
    /// Reads the form of a note.
    ///
    /// # Errors
    ///
    /// [`NoteError::Malformed`] when the bytes are not UTF-8, hold a control character other than newline, are too
    /// long, or do not end in an empty line and one to a hundred well-formed signature lines.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > MAX_NOTE {
            return Err(NoteError::Malformed("it is longer than 64 KiB"));
        }
        let whole = std::str::from_utf8(bytes).map_err(|_| NoteError::Malformed("it is not UTF-8"))?;
        if whole.bytes().any(|b| b < 0x20 && b != b'\n') {
            return Err(NoteError::Malformed("it holds a control character"));
        }
        let split = whole.rfind("\n\n").ok_or(NoteError::Malformed("no empty line before the signatures"))?;
        let (text, block) = whole.split_at(split + 1);
        let lines = block
            .strip_prefix('\n')
            .and_then(|lines| lines.strip_suffix('\n'))
            .ok_or(NoteError::Malformed("it does not end in a signature line"))?;
        let signatures = lines.split('\n').map(signature_line).collect::<Result<Vec<_>, _>>()?;
        if signatures.len() > MAX_SIGNATURES {
            return Err(NoteError::Malformed("it has more than 100 signatures"));
        }
        Ok(Self { text: text.to_owned(), signatures })
    }

    /// The text with its last newline, as it was signed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signature lines, in their order.
    pub fn signatures(&self) -> &[SignatureLine] {
        &self.signatures
    }

    /// Checks every signature that names one of `known`, and that there is at least one.
    ///
    /// # Errors
    ///
    /// [`NoteError::BadSignature`] when any of them is wrong, even when another holds; [`NoteError::Unsigned`] when
    /// there is none.
    pub fn verify(&self, known: &[Vkey]) -> Result<(), NoteError> {
        let mut held = 0_usize;
        for line in &self.signatures {
            let key = known.iter().find(|key| key.name() == line.name && key.key_id() == line.key_id);
            let Some(key) = key else { continue };
            key.check(self.text.as_bytes(), &line.signature)?;
            held += 1;
        }
        if held == 0 { Err(NoteError::Unsigned) } else { Ok(()) }
    }
}

fn signature_line(line: &str) -> Result<SignatureLine, NoteError> {
    let malformed = NoteError::Malformed("a signature line is not \"— NAME BASE64\"");
    let (name, encoded) = line.strip_prefix("— ").and_then(|rest| rest.split_once(' ')).ok_or(malformed.clone())?;
    if !key::is_name(name) {
        return Err(malformed);
    }
    let bytes = STANDARD.decode(encoded).map_err(|_| malformed.clone())?;
    let (key_id, signature) = bytes.split_first_chunk::<4>().ok_or(malformed.clone())?;
    if signature.is_empty() {
        return Err(malformed);
    }
    Ok(SignatureLine { name: name.to_owned(), key_id: *key_id, signature: signature.to_vec() })
}

/// The head of a log: which log, how many leaves, and their root.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Checkpoint {
    /// The name of the log, `<site>.reeve/<master>`; also the name of the key that signs it.
    pub origin: String,
    /// How many leaves the log has.
    pub size: u64,
    /// The RFC 6962 root over them.
    pub root: Hash,
}

impl Checkpoint {
    /// The three lines that are signed.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    /// Signs the checkpoint as the log of the key's name.
    ///
    /// # Errors
    ///
    /// [`NoteError::Origin`] when `origin` is not the name of `signer`'s key.
    pub fn sign(self, signer: &LogSigner) -> Result<SignedCheckpoint, NoteError> {
        let name = signer.vkey().name();
        if self.origin != name {
            return Err(NoteError::Origin { expected: name.to_owned(), found: self.origin });
        }
        let text = self.text();
        let note = format!("{text}\n{}", signer.sign(text.as_bytes()));
        Ok(SignedCheckpoint { checkpoint: self, note })
    }

    /// Reads a checkpoint note, checks that the log's key signed it and that it is of that key's log.
    ///
    /// # Errors
    ///
    /// Every variant but [`NoteError::Key`].
    pub fn open(note: &[u8], log: &Vkey) -> Result<SignedCheckpoint, NoteError> {
        let parsed = Note::parse(note)?;
        parsed.verify(std::slice::from_ref(log))?;
        let checkpoint: Self = parsed.text().parse()?;
        if checkpoint.origin != log.name() {
            return Err(NoteError::Origin { expected: log.name().to_owned(), found: checkpoint.origin });
        }
        let note = String::from_utf8(note.to_vec()).map_err(|_| NoteError::Malformed("it is not UTF-8"))?;
        Ok(SignedCheckpoint { checkpoint, note })
    }
}

impl FromStr for Checkpoint {
    type Err = NoteError;

    /// Reads the text of a checkpoint: exactly three lines.
    fn from_str(text: &str) -> Result<Self, NoteError> {
        let malformed = |what| Err(NoteError::Malformed(what));
        let mut lines = text.strip_suffix('\n').unwrap_or_default().split('\n');
        let (Some(origin), Some(size), Some(root), None) = (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return malformed("a checkpoint has three lines: origin, size and root");
        };
        if origin.is_empty() {
            return malformed("the origin is empty");
        }
        let Some(size) = decimal(size) else { return malformed("the size is not a plain decimal number") };
        let root = STANDARD.decode(root).ok().and_then(|root| Hash::try_from(root).ok());
        let Some(root) = root else { return malformed("the root is not 32 bytes in base64") };
        Ok(Self { origin: origin.to_owned(), size, root })
    }
}

/// Digits alone: no sign, no leading zero but in `0` itself.
fn decimal(text: &str) -> Option<u64> {
    let plain = text == "0" || !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

/// A checkpoint and the note that says so, byte for byte as it was signed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SignedCheckpoint {
    /// What the note says.
    pub checkpoint: Checkpoint,
    /// The whole note, signature lines included.
    pub note: String,
}
