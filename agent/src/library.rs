//! The newest signed library index, on disk and in memory. Its version never falls, also over a restart.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use reeve_wire::bundle::Trust;
use reeve_wire::code::{Code, Refusal};
use reeve_wire::library::SignedIndex;
use reeve_wire::signed::Signed;

use crate::config::Problem;
use crate::state::{StateDir, read_if_there, store};

/// The index that counts.
#[derive(Debug)]
pub struct Library {
    path: PathBuf,
    held: Mutex<Held>,
}

/// A version that was seen stays seen when its signer is no longer trusted: then there is a version without an index.
#[derive(Debug, Default)]
struct Held {
    version: Option<u64>,
    index: Option<Arc<SignedIndex>>,
    signed: Option<Signed>,
}

impl Library {
    /// Reads what is stored, as far as `trust` knows its signer.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn open(state: &StateDir, trust: Option<&Trust>) -> Result<Self, Problem> {
        let path = state.file("library");
        let bytes = read_if_there(&path).map_err(|source| Problem::Read { path: path.clone(), source })?;
        let mut held = Held::default();
        if let Some(bytes) = bytes {
            let damaged = |_| Problem::State {
                path: path.clone(),
                why: "it is no signed library index; move it away and the agent fetches it again".into(),
            };
            let signed = Signed::from_wire(&bytes).map_err(damaged)?;
            held.version = Some(signed.peek_unverified::<reeve_wire::library::Index>().map_err(damaged)?.version);
            held.index = trust.and_then(|trust| SignedIndex::open(signed.clone(), trust).ok()).map(Arc::new);
            held.signed = Some(signed);
        }
        Ok(Self { path, held: Mutex::new(held) })
    }

    /// The index that counts; none before the first, or when its signer lost the site's trust.
    pub fn current(&self) -> Option<Arc<SignedIndex>> {
        self.held().index.clone()
    }

    /// Takes an index in the place of the one held.
    ///
    /// # Errors
    /// [`Code::ItemMismatch`] when it is signed by nobody the bundle names, or is older than one that was seen;
    /// [`Code::JournalFailed`] when it cannot be written down.
    pub fn take(&self, signed: Signed, trust: &Trust) -> Result<(), Refusal> {
        let refused = |why: &dyn std::fmt::Display| {
            Refusal::because(Code::ItemMismatch, format_args!("the library index that the master sent: {why}"))
        };
        let next = SignedIndex::open(signed, trust).map_err(|error| refused(&error))?;
        let mut held = self.held();
        let same = held.signed.as_ref().is_some_and(|signed| signed.digest() == next.digest());
        if !same && held.version.is_some_and(|version| next.version <= version) {
            let seen = held.version.unwrap_or_default();
            return Err(refused(&format_args!("version {}, and version {seen} was seen before", next.version)));
        }
        if !same {
            store(&self.path, &next.signed().to_wire()).map_err(|error| {
                Refusal::because(Code::JournalFailed, format_args!("{}: {error}", self.path.display()))
            })?;
        }
        *held = Held { version: Some(next.version), signed: Some(next.signed().clone()), index: Some(Arc::new(next)) };
        Ok(())
    }

    /// Reads the index held again under another bundle: its signer may have come or gone.
    pub fn trust_changed(&self, trust: &Trust) {
        let mut held = self.held();
        let signed = held.signed.clone();
        held.index = signed.and_then(|signed| SignedIndex::open(signed, trust).ok()).map(Arc::new);
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
