//! The files that a security admin puts on the master: the trust bundle and the signed library. Both are read again
//! when they change, and a worse one never replaces a better one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reeve_wire::bundle::{Trust, TrustError};
use reeve_wire::code::{Code, Refusal};
use reeve_wire::library::{Package, SignedIndex};
use reeve_wire::name::Name;
use reeve_wire::request::ItemRef;
use reeve_wire::signed::{Signed, SignedError};
use tokio::sync::watch;

use crate::policy::Work;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the master trusts, as of now. Cheap to clone; a clone sees every change.
#[derive(Clone, Debug)]
pub struct Trusted {
    bundle_path: Arc<PathBuf>,
    library_path: Option<Arc<PathBuf>>,
    bundle: watch::Sender<Arc<Trust>>,
    library: watch::Sender<Option<Arc<SignedIndex>>>,
}

/// A file that cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustedError {
    /// It cannot be read.
    #[error("{path} cannot be read: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no trust bundle of this site's root.
    #[error("{path}: {source}", path = .path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<TrustError>,
    },
    /// It is no signed library index.
    #[error("{path}: {source}; sign the library with `reeve-pki sign-library`", path = .path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// Why.
        source: SignedError,
    },
}

impl Trusted {
    /// Reads bundle and library for the first time. `library` is the folder that `reeve-pki sign-library` signed.
    ///
    /// # Errors
    /// When one of them cannot be trusted.
    pub fn open(bundle: &Path, root: &str, library: Option<&Path>) -> Result<Self, TrustedError> {
        let signed = read_signed(bundle)?;
        let trust = Trust::open(signed, root)
            .map_err(|source| TrustedError::Bundle { path: bundle.to_owned(), source: Box::new(source) })?;
        let trust = Arc::new(trust);
        let index = library.map(|folder| read_index(folder, &trust)).transpose()?;
        Ok(Self {
            bundle_path: Arc::new(bundle.to_owned()),
            library_path: library.map(|folder| Arc::new(folder.to_owned())),
            bundle: watch::Sender::new(trust),
            library: watch::Sender::new(index.map(Arc::new)),
        })
    }

    /// The trust bundle.
    pub fn bundle(&self) -> Arc<Trust> {
        Arc::clone(&self.bundle.borrow())
    }

    /// The library's index, if there is a library.
    pub fn library(&self) -> Option<Arc<SignedIndex>> {
        self.library.borrow().clone()
    }

    /// Rings when the bundle changes.
    pub fn bundle_changes(&self) -> watch::Receiver<Arc<Trust>> {
        self.bundle.subscribe()
    }

    /// Rings when the library changes.
    pub fn library_changes(&self) -> watch::Receiver<Option<Arc<SignedIndex>>> {
        self.library.subscribe()
    }

    /// The item of that name with its package.
    ///
    /// # Errors
    /// [`Code::ItemUnknown`], or [`Code::ItemMismatch`] when the folder does not hold what the index says.
    pub fn item(&self, name: &Name) -> Result<Work, Refusal> {
        let unknown = || Refusal::because(Code::ItemUnknown, name);
        let (index, folder) = self.library().zip(self.library_path.as_deref()).ok_or_else(unknown)?;
        let item = index.item(name).ok_or_else(unknown)?.clone();
        let bytes = std::fs::read(package_path(folder, &item)).map_err(|_| Refusal::from(Code::ItemMismatch))?;
        let package: Package = index.package(&item, &bytes)?;
        Ok(Work::Item { item, package: Arc::new(package), bytes: bytes.into() })
    }

    /// Looks at the files for ever and takes what is newer. Returns what changed to `note`, for the record.
    pub async fn watch(self, mut note: impl FnMut(Change)) {
        // They may have changed since they were first read.
        let mut seen = (None, None);
        loop {
            let fresh = (fingerprint(&self.bundle_path), self.index_fingerprint());
            if fresh.0 != seen.0 {
                self.take_bundle().into_iter().for_each(&mut note);
            }
            if fresh.1 != seen.1 {
                self.take_library().into_iter().for_each(&mut note);
            }
            seen = fresh;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn index_fingerprint(&self) -> Option<(std::time::SystemTime, u64)> {
        self.library_path.as_deref().and_then(|folder| fingerprint(&index_path(folder)))
    }

    pub(crate) fn take_bundle(&self) -> Vec<Change> {
        let held = self.bundle();
        let next = match read_signed(&self.bundle_path).map(|signed| held.replaced_by(signed)) {
            Ok(Ok(next)) => Arc::new(next),
            Ok(Err(error)) => return vec![Change::BundleRefused(error.to_string())],
            Err(error) => return vec![Change::BundleRefused(error.to_string())],
        };
        if next.digest() == held.digest() {
            return Vec::new();
        }
        self.bundle.send_replace(Arc::clone(&next));
        let distrusted = self.library().and_then(|index| SignedIndex::open(index.signed().clone(), &next).err());
        let mut changes = vec![Change::Bundle(next.number)];
        if let Some(error) = distrusted {
            self.library.send_replace(None);
            changes.push(Change::LibraryRefused(format!("bundle {} does not trust it: {error}", next.number)));
        }
        changes
    }

    fn take_library(&self) -> Option<Change> {
        let folder = self.library_path.as_deref()?;
        let next = match read_index(folder, &self.bundle()) {
            Ok(next) => next,
            Err(error) => return Some(Change::LibraryRefused(error.to_string())),
        };
        let (version, held) = (next.version, self.library());
        match held.map(|held| (held.version, held.digest() == next.digest())) {
            Some((held, true)) if held == version => return None,
            Some((held, _)) if held >= version => {
                let why = format!("library version {version} is not newer than {held}, and is another one");
                return Some(Change::LibraryRefused(why));
            }
            Some(_) | None => {}
        }
        self.library.send_replace(Some(Arc::new(next)));
        Some(Change::Library(version))
    }
}

/// What changed in the trusted files.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// A newer bundle was taken.
    Bundle(u64),
    /// A bundle was refused: why.
    BundleRefused(String),
    /// A newer library was taken.
    Library(u64),
    /// A library was refused: why.
    LibraryRefused(String),
}

fn fingerprint(path: &Path) -> Option<(std::time::SystemTime, u64)> {
    let facts = std::fs::metadata(path).ok()?;
    Some((facts.modified().ok()?, facts.len()))
}

fn read_signed(path: &Path) -> Result<Signed, TrustedError> {
    let bytes = std::fs::read(path).map_err(|source| TrustedError::Read { path: path.to_owned(), source })?;
    Signed::from_wire(&bytes)
        .map_err(|source| TrustedError::Bundle { path: path.to_owned(), source: Box::new(source.into()) })
}

fn index_path(folder: &Path) -> PathBuf {
    folder.join("signed").join("index")
}

fn package_path(folder: &Path, item: &ItemRef) -> PathBuf {
    folder.join("signed").join("packages").join(format!("{}-{}.json", item.name, item.version))
}

fn read_index(folder: &Path, trust: &Trust) -> Result<SignedIndex, TrustedError> {
    let path = index_path(folder);
    let bytes = std::fs::read(&path).map_err(|source| TrustedError::Read { path: path.clone(), source })?;
    let signed = Signed::from_wire(&bytes).map_err(|source| TrustedError::Index { path: path.clone(), source })?;
    SignedIndex::open(signed, trust).map_err(|source| TrustedError::Index { path, source })
}

#[cfg(test)]
mod tests;
