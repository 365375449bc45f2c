//! Puts what was made where the caller wants it, in one step, and never over something else.

use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use reeve_wire::library::Package;
use reeve_wire::signed::Signed;
use reeve_wire::strict;
use ssh_key::certificate::Certificate;
use tempfile::NamedTempFile;

/// What a file holds. Only another one of its kind may be replaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// An OpenSSH certificate.
    Certificate,
    /// A signed document in its wire form.
    Document,
    /// A library item's package.
    Package,
}

/// A file that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// It holds something else.
    #[error("{0} holds something else already, and is left as it is; name another file")]
    Taken(PathBuf),
    /// The system refused.
    #[error("{path} cannot be written: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// A file that is about to be written. It is prepared before the CA acts, so that a wrong path costs no serial.
#[derive(Debug)]
pub struct Delivery {
    beside: NamedTempFile,
    path: PathBuf,
}

impl Delivery {
    /// Makes sure that `path` can be written.
    ///
    /// # Errors
    /// When it cannot, or holds something of another kind.
    pub fn prepare(path: &Path, kind: Kind) -> Result<Self, DeliveryError> {
        let failed = |source| DeliveryError::Io { path: path.to_owned(), source };
        if let Ok(facts) = std::fs::metadata(path) {
            let mine = facts.is_file() && kind.is(&std::fs::read(path).map_err(failed)?);
            if !mine && (facts.len() > 0 || !facts.is_file()) {
                return Err(DeliveryError::Taken(path.to_owned()));
            }
        }
        let beside = NamedTempFile::new_in(folder_of(path)).map_err(failed)?;
        Ok(Self { beside, path: path.to_owned() })
    }

    /// Writes it; it is on disk when this returns.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn finish(mut self, bytes: &[u8]) -> Result<(), DeliveryError> {
        let path = self.path;
        let failed = |source| DeliveryError::Io { path: path.clone(), source };
        self.beside.write_all(bytes).map_err(failed)?;
        let file = self.beside.as_file();
        file.set_permissions(Permissions::from_mode(0o644)).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        self.beside.persist(&path).map_err(|error| failed(error.error))?;
        File::open(folder_of(&path)).and_then(|folder| folder.sync_all()).map_err(failed)
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Kind {
    fn is(self, bytes: &[u8]) -> bool {
        match self {
            Self::Certificate => std::str::from_utf8(bytes).is_ok_and(|text| Certificate::from_openssh(text).is_ok()),
            Self::Document => Signed::from_wire(bytes).is_ok(),
            Self::Package => strict::from_slice::<Package>(bytes).is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_key_is_not_overwritten_by_a_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("id_ed25519.pub");
        std::fs::write(&path, "ssh-ed25519 AAAA").unwrap();
        for kind in [Kind::Certificate, Kind::Document] {
            assert!(matches!(Delivery::prepare(&path, kind), Err(DeliveryError::Taken(_))), "{kind:?}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"ssh-ed25519 AAAA");
    }

    #[test]
    fn a_path_that_cannot_be_written_is_found_before_the_act() {
        let folder = tempfile::tempdir().unwrap();
        let prepared = |path: &Path| Delivery::prepare(path, Kind::Document);
        assert!(matches!(prepared(&folder.path().join("no/such/folder")), Err(DeliveryError::Io { .. })));
        assert!(matches!(prepared(folder.path()), Err(DeliveryError::Taken(_))));
        assert!(matches!(prepared(Path::new("/dev/null")), Err(DeliveryError::Taken(_))));
    }

    #[test]
    fn what_is_delivered_replaces_its_like_in_one_step() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle");
        for content in [b"\0\0\0\x01a\0\0\0\x01b", b"\0\0\0\x01c\0\0\0\x01d"] {
            Delivery::prepare(&path, Kind::Document).unwrap().finish(content).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), content);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
