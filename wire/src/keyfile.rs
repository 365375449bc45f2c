//! Key data as it stands in documents, and the rule for files that hold secrets.
//!
//! The secret-file rule is the one place in this crate that opens a file: every program must keep the same rule, and
//! a check apart from the open would leave a gap between the two.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ssh_key::public::KeyData;
use ssh_key::{LineEnding, PrivateKey, PublicKey};
use zeroize::Zeroizing;

use crate::sshsig;

/// A public key in a document: one OpenSSH line without comment. Ed25519 only, from a file or a FIDO authenticator.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyLine(KeyData);

/// A key of a kind that is not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyError {
    /// Not an OpenSSH public key line.
    #[error("not an OpenSSH public key line, such as `ssh-ed25519 AAAA...`")]
    Malformed,
    /// Neither ed25519 nor sk-ssh-ed25519.
    #[error("{0} keys are not accepted; make one with `ssh-keygen -t ed25519` or `-t ed25519-sk`")]
    Algorithm(String),
}

impl KeyLine {
    /// Takes an ed25519 or sk-ssh-ed25519 key.
    ///
    /// # Errors
    /// When it is of another kind, or a certificate, which names the algorithm of the key in it.
    pub fn new(key: KeyData) -> Result<Self, KeyError> {
        if matches!(key, KeyData::Ed25519(_) | KeyData::SkEd25519(_)) {
            return Ok(Self(key));
        }
        if key.is_certificate() {
            return Err(KeyError::Malformed);
        }
        Err(KeyError::Algorithm(key.algorithm().to_string()))
    }

    /// The key.
    pub const fn key(&self) -> &KeyData {
        &self.0
    }

    /// `SHA256:…`
    pub fn fingerprint(&self) -> String {
        sshsig::fingerprint(&self.0)
    }
}

impl std::str::FromStr for KeyLine {
    type Err = KeyError;

    fn from_str(line: &str) -> Result<Self, KeyError> {
        let key = PublicKey::from_openssh(line.trim()).map_err(|_| KeyError::Malformed)?;
        Self::new(key.key_data().clone())
    }
}

impl std::fmt::Display for KeyLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let line = PublicKey::from(self.0.clone()).to_openssh().map_err(|_| std::fmt::Error)?;
        f.write_str(&line)
    }
}

impl Serialize for KeyLine {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyLine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A private key or password file that must not be used, with the command that mends it.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// It is a link: what it points at can be swapped.
    #[error("{0} is a symbolic link; name the file itself")]
    Link(PathBuf),
    /// Not a plain file.
    #[error("{0} is not a regular file")]
    NotAFile(PathBuf),
    /// Others can read or write it.
    #[error("{path} can be used by others (mode {mode:04o}); run: chmod 600 '{path}'", path = .path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to somebody else.
    #[error("{path} belongs to user {owner}, not to you or root; run: chown {me} '{path}'", path = .path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who reads it.
        me: u32,
    },
    /// It cannot be read.
    #[error("{path} cannot be read: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It holds no OpenSSH private key.
    #[error("{0} holds no OpenSSH private key; make one with `ssh-keygen -t ed25519`")]
    NotAKey(PathBuf),
}

/// Reads a file that holds a secret: a regular file of ours (or root's) that nobody else can use. The checks are made
/// on the open file, so it cannot be swapped between check and use.
///
/// # Errors
/// Why it must not be used, with the command that mends it.
pub fn read_secret(path: &Path) -> Result<Zeroizing<String>, SecretFileError> {
    let unreadable = |source| SecretFileError::Read { path: path.to_owned(), source };
    if std::fs::symlink_metadata(path).map_err(unreadable)?.is_symlink() {
        return Err(SecretFileError::Link(path.to_owned()));
    }
    let no_follow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default();
    let mut file = OpenOptions::new().read(true).custom_flags(no_follow).open(path).map_err(unreadable)?;
    let facts = file.metadata().map_err(unreadable)?;
    if !facts.is_file() {
        return Err(SecretFileError::NotAFile(path.to_owned()));
    }
    let me = rustix::process::geteuid().as_raw();
    if facts.uid() != me && facts.uid() != 0 {
        return Err(SecretFileError::Owner { path: path.to_owned(), owner: facts.uid(), me });
    }
    if facts.mode() & 0o077 != 0 {
        return Err(SecretFileError::Mode { path: path.to_owned(), mode: facts.mode() & 0o7777 });
    }
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

/// Reads a private key file under the rules of [`read_secret`].
///
/// # Errors
/// When the file must not be used or holds no key that is accepted.
pub fn read_private_key(path: &Path) -> Result<PrivateKey, SecretFileError> {
    parse_private(path, &read_secret(path)?)
}

/// Reads a public key file, or the public half of a certificate's neighbour.
///
/// # Errors
/// When it cannot be read or is of a kind that is not accepted.
pub fn read_public_key(path: &Path) -> Result<KeyLine, SecretFileError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| SecretFileError::Read { path: path.to_owned(), source })?;
    text.parse().map_err(|_| SecretFileError::NotAKey(path.to_owned()))
}

/// Writes a secret so that nobody else can ever read it, replacing what was there in one step.
///
/// # Errors
/// When the file cannot be made.
pub fn write_secret(path: &Path, secret: &[u8]) -> std::io::Result<()> {
    let name = path.file_name().ok_or(std::io::ErrorKind::InvalidInput)?.to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}", hex::encode(rand::random::<[u8; 8]>())));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let written = file.write_all(secret).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        drop(std::fs::remove_file(&beside));
    }
    written
}

/// Where the public half of a private key's file stands, as `ssh-keygen` has it: `KEY.pub`.
pub fn public_path(key: &Path) -> PathBuf {
    let mut name = key.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

/// Makes a key where it is used: the private half at `path`, for nobody else to read, and the public half beside it as
/// a line without comment.
///
/// # Errors
/// When no key can be made or a file cannot be written.
pub fn make_key(path: &Path, comment: &str) -> std::io::Result<KeyLine> {
    let key = sshsig::generate(comment).map_err(std::io::Error::other)?;
    let line = KeyLine::new(key.public_key().key_data().clone()).map_err(std::io::Error::other)?;
    let private = key.to_openssh(LineEnding::LF).map_err(std::io::Error::other)?;
    std::fs::write(public_path(path), format!("{line}\n"))?;
    write_secret(path, private.as_bytes())?;
    Ok(line)
}

/// Reads a private key from OpenSSH text.
///
/// # Errors
/// When it is none, or of a kind that is not accepted.
pub fn parse_private(path: &Path, text: &str) -> Result<PrivateKey, SecretFileError> {
    let key = PrivateKey::from_openssh(text).map_err(|_| SecretFileError::NotAKey(path.to_owned()))?;
    KeyLine::new(key.public_key().key_data().clone()).map_err(|_| SecretFileError::NotAKey(path.to_owned()))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_secret_that_others_could_read_or_swap_is_refused_with_the_way_to_mend_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_secret(&path, b"secret").unwrap();
        assert_eq!(read_secret(&path).unwrap().as_str(), "secret");

        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(read_secret(&link), Err(SecretFileError::Link(_))));
        assert!(matches!(read_secret(dir.path()), Err(SecretFileError::NotAFile(_))));

        for mode in [0o644, 0o640, 0o602, 0o660] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let refused = read_secret(&path).unwrap_err().to_string();
            assert!(refused.contains("chmod 600"), "{mode:o}: {refused}");
        }
    }
}
