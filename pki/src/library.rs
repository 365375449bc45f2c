//! Signing a library: every item's package, and one index over them by a library signer's key.
//!
//! `DIR/ITEM/manifest.toml` goes in, `DIR/signed/packages/ITEM-VERSION.json` and `DIR/signed/index` come out. The index
//! is written last, and packages of earlier versions stay, so that a master that reads in between is never without.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use reeve_wire::id::Digest;
use reeve_wire::keyfile::{self, SecretFileError};
use reeve_wire::library::{Index, Package};
use reeve_wire::name::Name;
use reeve_wire::request::ItemRef;
use reeve_wire::signed::{Signed, SignedError};
use reeve_wire::strict::V1;
use reeve_wire::time::Millis;
use ssh_key::PrivateKey;

use crate::deliver::{Delivery, DeliveryError, Kind};
use crate::lock::{self, Lock};
use crate::manifest::{self, Problem};
use crate::passphrase::{Passphrase, PassphraseError};

/// The folder in a library that holds what was signed.
const SIGNED: &str = "signed";

/// A library that cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// Manifests with problems, one a line.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Manifests(Vec<Problem>),
    /// Nothing in it.
    #[error("{0} holds no items; an item is a folder with a manifest.toml")]
    Empty(PathBuf),
    /// Same version, other content.
    #[error("{name}: version {version} was signed with other content before; raise `version` in its manifest")]
    SameVersion {
        /// The item.
        name: Name,
        /// The version.
        version: u64,
    },
    /// A version that went back.
    #[error(
        "{name}: version {version} is lower than {signed}, which was signed before; agents would take either, so it only rises"
    )]
    LowerVersion {
        /// The item.
        name: Name,
        /// The version.
        version: u64,
        /// The version that was signed.
        signed: u64,
    },
    /// The last index.
    #[error("{path} cannot be read, so the next version is not known: {source}; put it back, or move it away and sign with --ca", path = .path.display())]
    LastIndex {
        /// The index.
        path: PathBuf,
        /// Why.
        source: SignedError,
    },
    /// The last index is another site's.
    #[error("{path} is signed for site {found}; name that site, or sign in a copy without `signed`", path = .path.display())]
    OtherSite {
        /// The index.
        path: PathBuf,
        /// Its site.
        found: Name,
    },
    /// Another invocation works there.
    #[error("another reeve-pki is working in {0}; try again when it is done")]
    Busy(PathBuf),
    /// The signer's key.
    #[error(transparent)]
    Key(#[from] SecretFileError),
    /// The signer's passphrase.
    #[error(transparent)]
    Passphrase(#[from] PassphraseError),
    /// The passphrase is not the one.
    #[error("{0} does not open with this passphrase")]
    WrongPassphrase(PathBuf),
    /// The index cannot be signed.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// A package cannot be encoded.
    #[error("an item cannot be encoded: {0}")]
    Encode(#[from] serde_json::Error),
    /// A file cannot be written.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    /// The system refused.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// An item as it will travel.
#[derive(Debug)]
pub struct Item {
    /// What the index says of it.
    pub reference: ItemRef,
    /// What it is.
    pub package: Package,
    bytes: Vec<u8>,
}

/// A library that was read and found good, locked until it is dropped.
#[derive(Debug)]
pub struct Library {
    folder: PathBuf,
    items: Vec<Item>,
    last: Option<Index>,
    _held: File,
}

/// The private key of a library signer, unlocked if it must be.
///
/// # Errors
/// When the file must not be used, holds no key, or does not open.
pub fn signer_key(path: &Path, passphrase: &Passphrase) -> Result<PrivateKey, LibraryError> {
    let key = keyfile::read_private_key(path)?;
    if !key.is_encrypted() {
        return Ok(key);
    }
    let passphrase = passphrase.read(&format!("Passphrase of {}", path.display()))?;
    key.decrypt(passphrase.as_bytes()).map_err(|_| LibraryError::WrongPassphrase(path.to_owned()))
}

impl Library {
    /// Reads every item of the library in `folder`.
    ///
    /// # Errors
    /// Every problem of every manifest; or an item that changed without a new version.
    pub fn read(folder: &Path) -> Result<Self, LibraryError> {
        let failed = |source| LibraryError::Io { path: folder.to_owned(), source };
        let held = lock::folder(folder, Lock::Exclusive).map_err(failed)?;
        let held = held.ok_or_else(|| LibraryError::Busy(folder.to_owned()))?;
        let (mut items, mut problems) = (Vec::new(), Vec::new());
        for item in item_folders(folder).map_err(failed)? {
            match manifest::read(&item) {
                Ok(package) => items.push(Item::of(package)?),
                Err(found) => problems.extend(found),
            }
        }
        if !problems.is_empty() {
            return Err(LibraryError::Manifests(problems));
        }
        if items.is_empty() {
            return Err(LibraryError::Empty(folder.to_owned()));
        }
        let last = last_index(&index_path(folder))?;
        for item in &items {
            item.follows(last.as_ref())?;
        }
        Ok(Self { folder: folder.to_owned(), items, last, _held: held })
    }

    /// The items, by name.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Signs the next index for `site`. `version` is the last one that the CA knows of.
    ///
    /// # Errors
    /// When the last index is another site's, or the key cannot sign.
    pub fn sign(
        &self,
        site: &Name,
        version: u64,
        key: &PrivateKey,
        now: Millis,
    ) -> Result<SignedLibrary<'_>, LibraryError> {
        if let Some(last) = self.last.as_ref().filter(|last| last.site != *site) {
            return Err(LibraryError::OtherSite { path: index_path(&self.folder), found: last.site.clone() });
        }
        let version = self.last.as_ref().map_or(0, |last| last.version).max(version).saturating_add(1);
        let items = self.items.iter().map(|item| item.reference.clone()).collect();
        let index = Index { v: V1, site: site.clone(), version, issued: now, items };
        Ok(SignedLibrary { library: self, version, signed: Signed::make(&index, key)? })
    }
}

/// A signed library that is about to be written.
#[derive(Debug)]
pub struct SignedLibrary<'a> {
    library: &'a Library,
    version: u64,
    signed: Signed,
}

impl SignedLibrary<'_> {
    /// The index's version.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// SHA-256 of the index's signed bytes.
    pub fn digest(&self) -> Digest {
        self.signed.digest()
    }

    /// Writes packages and then the index below `signed/`.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn write(&self) -> Result<(), LibraryError> {
        let packages = self.library.folder.join(SIGNED).join("packages");
        std::fs::create_dir_all(&packages).map_err(|source| LibraryError::Io { path: packages.clone(), source })?;
        for Item { reference, bytes, .. } in &self.library.items {
            let path = packages.join(format!("{}-{}.json", reference.name, reference.version));
            Delivery::prepare(&path, Kind::Package)?.finish(bytes)?;
        }
        Delivery::prepare(&index_path(&self.library.folder), Kind::Document)?.finish(&self.signed.to_wire())?;
        Ok(())
    }
}

impl Item {
    fn of(package: Package) -> Result<Self, LibraryError> {
        let bytes = serde_json::to_vec(&package)?;
        let reference = ItemRef { name: package.name.clone(), version: package.version, digest: Digest::of(&bytes) };
        Ok(Self { reference, package, bytes })
    }

    /// Checks the item against the index that was signed before.
    fn follows(&self, last: Option<&Index>) -> Result<(), LibraryError> {
        let ItemRef { name, version, digest } = &self.reference;
        match last.and_then(|last| last.items.iter().find(|item| item.name == *name)) {
            Some(signed) if signed.version == *version && signed.digest != *digest => {
                Err(LibraryError::SameVersion { name: name.clone(), version: *version })
            }
            Some(signed) if signed.version > *version => {
                Err(LibraryError::LowerVersion { name: name.clone(), version: *version, signed: signed.version })
            }
            _ => Ok(()),
        }
    }
}

fn index_path(folder: &Path) -> PathBuf {
    folder.join(SIGNED).join("index")
}

/// Every folder of the library but `signed` and hidden ones, in the order of their names.
fn item_folders(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut folders = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let hidden = name.to_string_lossy().starts_with('.');
        if entry.file_type()?.is_dir() && !hidden && name != SIGNED {
            folders.insert(name, entry.path());
        }
    }
    Ok(folders.into_values().collect())
}

/// The index that was signed last, read for its version and items. Whoever can write it can write the manifests too.
fn last_index(path: &Path) -> Result<Option<Index>, LibraryError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LibraryError::Io { path: path.to_owned(), source }),
    };
    let read = Signed::from_wire(&bytes).and_then(|signed| signed.peek_unverified::<Index>());
    read.map(Some).map_err(|source| LibraryError::LastIndex { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
