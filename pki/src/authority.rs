//! The CA's four private keys: where each lies, and how one is unlocked for one signature.

use std::path::{Path, PathBuf};

use reeve_wire::keyfile::{self, KeyLine};
use reeve_wire::sshsig;
use ssh_key::{LineEnding, PrivateKey};

use crate::ca::CaError;
use crate::passphrase::Passphrase;

/// One of the CA's keys, by what it may sign.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Authority {
    /// Trust bundles, and nothing else.
    Root,
    /// Technicians' user certificates.
    Technicians,
    /// Agents' user certificates.
    Agents,
    /// Masters' host certificates.
    Masters,
}

impl Authority {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Root, Self::Technicians, Self::Agents, Self::Masters];

    /// The name of its private key's file; the public key is beside it, with `.pub`.
    pub const fn file(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Technicians => "technicians",
            Self::Agents => "agents",
            Self::Masters => "masters",
        }
    }

    /// The private key's file in the CA's folder.
    pub fn path(self, folder: &Path) -> PathBuf {
        folder.join(self.file())
    }

    /// Makes the key, encrypted with `passphrase`, and writes both files.
    pub(crate) fn found(self, folder: &Path, site: &str, passphrase: &str) -> Result<KeyLine, CaError> {
        let key = sshsig::generate(&format!("reeve {} CA of {site}", self.file()))?;
        let locked = key.encrypt(&mut rand::rng(), passphrase)?;
        let path = self.path(folder);
        let failed = |source| CaError::Io { path: path.clone(), source };
        keyfile::write_secret(&path, locked.to_openssh(LineEnding::LF)?.as_bytes()).map_err(failed)?;
        let public = format!("{}\n", key.public_key().to_openssh()?);
        let beside = path.with_extension("pub");
        std::fs::write(&beside, public).map_err(|source| CaError::Io { path: beside, source })?;
        KeyLine::new(key.public_key().key_data().clone()).map_err(CaError::Key)
    }

    /// Unlocks the private key, which must be the one of `public`.
    pub(crate) fn unlock(
        self,
        folder: &Path,
        public: &KeyLine,
        passphrase: &Passphrase,
    ) -> Result<PrivateKey, CaError> {
        let path = self.path(folder);
        let locked = keyfile::read_private_key(&path)?;
        if locked.public_key().key_data() != public.key() {
            return Err(CaError::OtherKey(path));
        }
        if !locked.is_encrypted() {
            return Err(CaError::NotEncrypted(path));
        }
        let passphrase = passphrase.read(&format!("Passphrase of {}", path.display()))?;
        let key = locked.decrypt(passphrase.as_bytes()).map_err(|_| CaError::WrongPassphrase(path.clone()))?;
        if key.public_key().key_data() != public.key() {
            return Err(CaError::OtherKey(path));
        }
        Ok(key)
    }
}
