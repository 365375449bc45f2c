//! The newest trust bundle, on disk and in memory. A lower number never replaces a higher one.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use reeve_wire::bundle::{Trust, TrustError};
use reeve_wire::name::Name;
use reeve_wire::signed::Signed;

use crate::config::{Config, Problem};
use crate::state::{read_if_there, store};

/// Where the bundle is kept, and the one that counts.
#[derive(Debug)]
pub struct TrustStore {
    path: PathBuf,
    root: String,
    site: Name,
    held: RwLock<Option<Arc<Trust>>>,
}

/// A bundle that was not taken.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// It cannot be trusted, or is older than the one held.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// It cannot be written down, so that after a restart an older one would count again.
    #[error("{path} cannot be written: {source}", path = .path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl TrustStore {
    /// Reads the bundle, if there is one yet.
    ///
    /// # Errors
    /// When there is one that must not be relied on.
    pub fn open(config: &Config) -> Result<Self, Problem> {
        let path = &config.trust;
        let bytes = read_if_there(path).map_err(|source| Problem::Read { path: path.clone(), source })?;
        let unusable = |error: &dyn std::fmt::Display| Problem::State {
            path: path.clone(),
            why: format!("{error}; if it was damaged, move it away and the agent fetches it again"),
        };
        let held = match bytes {
            Some(bytes) => {
                let signed = Signed::from_wire(&bytes).map_err(|error| unusable(&error))?;
                Some(Arc::new(open(signed, &config.root, &config.site).map_err(|error| unusable(&error))?))
            }
            None => None,
        };
        Ok(Self { path: path.clone(), root: config.root.clone(), site: config.site.clone(), held: RwLock::new(held) })
    }

    /// The newest bundle; none before the first contact.
    pub fn current(&self) -> Option<Arc<Trust>> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads a bundle without taking it.
    ///
    /// # Errors
    /// When it cannot be trusted or is older than the one held.
    pub fn read(&self, signed: Signed) -> Result<Trust, TrustError> {
        match self.current() {
            Some(held) => held.replaced_by(signed),
            None => open(signed, &self.root, &self.site),
        }
    }

    /// Takes a bundle in the place of the one held: on disk first, then in memory.
    ///
    /// # Errors
    /// As [`read`](Self::read), and when it cannot be written.
    pub fn take(&self, signed: Signed) -> Result<Arc<Trust>, NotTaken> {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        let next = match &*held {
            Some(old) => old.replaced_by(signed)?,
            None => open(signed, &self.root, &self.site)?,
        };
        if let Some(old) = held.as_ref().filter(|old| old.digest() == next.digest()) {
            return Ok(Arc::clone(old));
        }
        store(&self.path, &next.signed().to_wire())
            .map_err(|source| NotTaken::Store { path: self.path.clone(), source })?;
        let next = Arc::new(next);
        *held = Some(Arc::clone(&next));
        Ok(next)
    }

    /// Where it is kept.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn open(signed: Signed, root: &str, site: &Name) -> Result<Trust, TrustError> {
    let trust = Trust::open(signed, root)?;
    if trust.site == *site { Ok(trust) } else { Err(TrustError::OtherSite(trust.site.clone())) }
}
