//! Whom the console believes: the newest bundle of the site's pinned root, and through it a master's certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use reeve_link::dial::HostTrust;
use reeve_wire::bundle::{Trust, TrustError};
use reeve_wire::certificate;
use reeve_wire::code::Code;
use reeve_wire::keyfile;
use reeve_wire::name::Name;
use reeve_wire::signed::{MAX_LARGE, Signed};
use reeve_wire::time::Clock;
use ssh_key::Certificate;

use crate::config::Config;
use crate::failure::Failure;
use crate::terminal;

/// Judges masters by a bundle.
#[derive(Clone, Debug)]
pub struct MasterTrust {
    trust: Arc<Trust>,
    clock: Clock,
}

impl MasterTrust {
    /// By `trust`.
    pub const fn new(trust: Arc<Trust>, clock: Clock) -> Self {
        Self { trust, clock }
    }
}

impl HostTrust for MasterTrust {
    fn check(&self, shown: &Certificate) -> Result<(), String> {
        certificate::master(shown, &self.trust, self.clock.now()).map(|_| ()).map_err(|error| error.to_string())
    }
}

/// The file that keeps the newest bundle.
#[derive(Clone, Debug)]
pub struct TrustFile {
    path: PathBuf,
    root: String,
    site: Name,
}

/// A bundle of the pinned root that a master offered.
#[derive(Clone, Debug)]
pub enum Offered {
    /// Newer than what is held, or the same.
    Newest(Arc<Trust>),
    /// Older than what is held, or the same number with other content: refused, kept as evidence, to be told.
    Older(Failure),
}

impl TrustFile {
    /// The one that the configuration names.
    pub fn of(config: &Config) -> Self {
        Self { path: config.trust.clone(), root: config.root.clone(), site: config.site.clone() }
    }

    /// The bundle; `None` before the first contact.
    ///
    /// # Errors
    /// [`Code::PolicyConfig`] when the file cannot be read or is not what the pinned root signed for this site.
    pub fn read(&self) -> Result<Option<Trust>, Failure> {
        let wrong = |why: &dyn std::fmt::Display| {
            let sentence = format!("the trust bundle {} is not usable: {why}", self.path.display());
            Failure::saying(Code::PolicyConfig, sentence)
                .hint("correct `root` in the configuration, or remove the file to fetch the bundle again")
        };
        let facts = match std::fs::metadata(&self.path) {
            Ok(facts) => facts,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(wrong(&error)),
        };
        let most = u64::try_from(MAX_LARGE).unwrap_or(u64::MAX).saturating_add(8);
        if facts.len() > most {
            return Err(wrong(&"it is larger than a bundle may be"));
        }
        let bytes = std::fs::read(&self.path).map_err(|error| wrong(&error))?;
        let signed = Signed::from_wire(&bytes).map_err(|error| wrong(&error))?;
        let trust = Trust::open(signed, &self.root).map_err(|error| wrong(&error))?;
        self.of_this_site(&trust).map_err(|error| wrong(&error))?;
        Ok(Some(trust))
    }

    /// Checks a bundle that was offered against the pinned root and the one that is held.
    ///
    /// # Errors
    /// [`Code::MasterUntrusted`] when it is not the root's or of another site.
    pub fn check(&self, held: Option<&Trust>, offered: Signed) -> Result<Offered, Failure> {
        let evidence = offered.clone();
        let checked = match held {
            Some(held) => held.replaced_by(offered),
            None => Trust::open(offered, &self.root),
        };
        let trust = match checked {
            Ok(trust) => trust,
            Err(error @ TrustError::Rollback { .. }) => {
                let alarm = Failure::saying(Code::MasterUntrusted, error.to_string());
                return Ok(Offered::Older(alarm.hint(self.keep_evidence(&evidence))));
            }
            Err(error) => return Err(Failure::because(Code::MasterUntrusted, error)),
        };
        self.of_this_site(&trust).map_err(|error| Failure::because(Code::MasterUntrusted, error))?;
        Ok(Offered::Newest(Arc::new(trust)))
    }

    /// Keeps a bundle that was checked.
    ///
    /// # Errors
    /// [`Code::PolicyConfig`] when the file cannot be written.
    pub fn store(&self, trust: &Trust) -> Result<(), Failure> {
        if let Ok(Some(kept)) = self.read()
            && kept.number >= trust.number
        {
            return Ok(());
        }
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let stored =
            std::fs::create_dir_all(folder).and_then(|()| keyfile::write_secret(&self.path, &trust.signed().to_wire()));
        stored.map_err(|error| {
            Failure::saying(
                Code::PolicyConfig,
                format!("the trust bundle {} cannot be written: {error}", self.path.display()),
            )
        })
    }

    fn of_this_site(&self, trust: &Trust) -> Result<(), TrustError> {
        if trust.site == self.site { Ok(()) } else { Err(TrustError::OtherSite(trust.site.clone())) }
    }

    fn keep_evidence(&self, refused: &Signed) -> String {
        let mut name = self.path.clone().into_os_string();
        name.push(".refused");
        let path = PathBuf::from(name);
        match keyfile::write_secret(&path, &refused.to_wire()) {
            Ok(()) => format!("tell a security admin; what the master offered is kept in {}", path.display()),
            Err(error) => format!("tell a security admin; what the master offered cannot be kept: {error}"),
        }
    }
}

/// Says so when a bundle is past its date.
pub(crate) fn remark_on_age(trust: &Trust, clock: &Clock) {
    use reeve_wire::bundle::Freshness;
    match trust.freshness(clock.now()) {
        Freshness::Fresh => {}
        Freshness::Stale | Freshness::Expired => terminal::note(&format!(
            "trust bundle {} is past its date, and servers will refuse work; a security admin must publish a new one",
            trust.number
        )),
    }
}

#[cfg(test)]
mod tests;
