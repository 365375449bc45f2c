//! The trust bundle: what the site's root says may be trusted.
//!
//! Agents and consoles pin the root's fingerprint and nothing else. CA keys, masters, log keys and library signers
//! come from the newest bundle, whose signature is the authority whoever delivers it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::Digest;
use crate::keyfile::KeyLine;
use crate::level::Level;
use crate::name::Name;
use crate::note::Vkey;
use crate::signed::{Document, MAX_LARGE, Signed, SignedError, Verified};
use crate::sshsig::{self, Namespace};
use crate::strict::{Unused, V1};
use crate::time::Millis;

/// How long a bundle is fresh by default.
pub const FRESH_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long level 1 still works past `refresh_by`.
pub const GRACE: Duration = Duration::from_secs(30 * 24 * 3600);

/// The bundle as the root signed it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// Format version.
    pub v: V1,
    /// The site that it speaks for.
    pub site: Name,
    /// Rising number; a higher one replaces a lower one.
    pub number: u64,
    /// When it was signed.
    pub issued: Millis,
    /// When agents begin to refuse levels 2 and 3.
    pub refresh_by: Millis,
    /// The certificate authorities by kind.
    pub ca: Authorities,
    /// Names of the site's masters.
    pub masters: Vec<Name>,
    /// The ledgers' keys.
    pub logs: Vec<Log>,
    /// Keys that may sign the library's index.
    pub library_signers: Vec<KeyLine>,
    /// Keys that may sign releases of the agent: not built.
    pub release_keys: Unused,
    /// The key revocation list: empty in this version.
    pub krl: Unused,
}

/// CA keys by the kind of certificate that they sign. Several of a kind are valid side by side while one replaces
/// another.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Authorities {
    /// For technicians' user certificates.
    pub technicians: Vec<KeyLine>,
    /// For agents' user certificates.
    pub agents: Vec<KeyLine>,
    /// For masters' host certificates.
    pub masters: Vec<KeyLine>,
}

/// A ledger of the site.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// C2SP signed-note verifier key, with the log's name.
    pub vkey: String,
    /// The log that it goes on from: not built.
    pub succeeds: Unused,
}

impl Document for Bundle {
    const NAMESPACE: Namespace = Namespace::Trust;
    const LIMIT: usize = MAX_LARGE;
}

/// A bundle that cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// Signed by another root than the pinned one.
    #[error("the trust bundle is signed by {found}, not by the pinned root {pinned}")]
    OtherRoot {
        /// Who signed it.
        found: String,
        /// Who should have.
        pinned: String,
    },
    /// The signature or the document does not hold.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// A log key that cannot be read.
    #[error("the trust bundle names a log key that cannot be read: {0}")]
    Log(String),
    /// Older than the one held, or the same number with other bytes.
    #[error("trust bundle {offered} is older than bundle {held}, or the same number with other content")]
    Rollback {
        /// The number held.
        held: u64,
        /// The number offered.
        offered: u64,
    },
    /// For another site.
    #[error("the trust bundle is for site {0}")]
    OtherSite(Name),
}

/// How far a bundle may still be relied on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Freshness {
    /// Every level.
    Fresh,
    /// Level 1 only.
    Stale,
    /// Nothing.
    Expired,
}

/// A bundle whose root is the pinned one.
#[derive(Clone, Debug)]
pub struct Trust {
    bundle: Verified<Bundle>,
    root: String,
    logs: Vec<Vkey>,
}

impl Trust {
    /// Checks a bundle against the pinned root, `SHA256:…`.
    ///
    /// # Errors
    /// When it is signed by another key, does not hold or cannot be read.
    pub fn open(signed: Signed, root: &str) -> Result<Self, TrustError> {
        let key = sshsig::claimed_signer(signed.signature()).map_err(SignedError::from)?;
        let found = sshsig::fingerprint(&key);
        if found != root {
            return Err(TrustError::OtherRoot { found, pinned: root.to_owned() });
        }
        let bundle = signed.verify::<Bundle>(&key)?;
        let logs = bundle.logs.iter().map(|log| log.vkey.parse::<Vkey>());
        let logs = logs.collect::<Result<_, _>>().map_err(|error| TrustError::Log(error.to_string()))?;
        Ok(Self { bundle, root: root.to_owned(), logs })
    }

    /// Reads a newer bundle in the place of this one. The same bytes again are fine.
    ///
    /// # Errors
    /// When `signed` does not hold, is older, or has the same number and other bytes.
    pub fn replaced_by(&self, signed: Signed) -> Result<Self, TrustError> {
        let next = Self::open(signed, &self.root)?;
        if next.site != self.site {
            return Err(TrustError::OtherSite(next.site.clone()));
        }
        let same = next.number == self.number && next.digest() == self.digest();
        if next.number > self.number || same {
            return Ok(next);
        }
        Err(TrustError::Rollback { held: self.number, offered: next.number })
    }

    /// The pinned root, `SHA256:…`.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The bundle's bytes and signature, to store or to hand on.
    pub const fn signed(&self) -> &Signed {
        self.bundle.signed()
    }

    /// SHA-256 of the signed bytes.
    pub const fn digest(&self) -> Digest {
        self.bundle.digest()
    }

    /// The verifier keys of the site's ledgers.
    pub fn logs(&self) -> &[Vkey] {
        &self.logs
    }

    /// How far it may still be relied on at `now`.
    pub fn freshness(&self, now: Millis) -> Freshness {
        if now <= self.refresh_by {
            Freshness::Fresh
        } else if now <= self.refresh_by.plus(GRACE) {
            Freshness::Stale
        } else {
            Freshness::Expired
        }
    }

    /// Whether work of `level` may still rest on this bundle at `now`.
    pub fn allows(&self, level: Level, now: Millis) -> bool {
        match self.freshness(now) {
            Freshness::Fresh => true,
            Freshness::Stale => level == Level::One,
            Freshness::Expired => false,
        }
    }
}

impl std::ops::Deref for Trust {
    type Target = Bundle;

    fn deref(&self) -> &Bundle {
        self.bundle.value()
    }
}

#[cfg(test)]
mod tests;
