//! One connection to a master: who it is, whether work is taken on it, and what its clock shows.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use reeve_wire::bundle::Trust;
use reeve_wire::certificate;
use reeve_wire::code::{Code, Refusal};
use reeve_wire::name::Name;
use reeve_wire::time::Millis;
use ssh_key::Certificate;

use crate::running::Told;

/// A connection that stands.
#[derive(Debug)]
pub struct Session {
    /// The master, as its certificate says.
    pub master: Name,
    /// Ends that it was told.
    pub told: Told,
    certificate: Certificate,
    standing: Mutex<Standing>,
}

#[derive(Debug)]
struct Standing {
    ready: Result<(), Refusal>,
    /// What the master's clock showed, and when that was heard.
    clock: Option<(Millis, Instant)>,
}

impl Session {
    /// A connection to the master that showed `certificate`. It takes no work before the bundle was compared.
    ///
    /// # Errors
    /// When the certificate is not a master's.
    pub fn new(certificate: Certificate, trust: &Trust, now: Millis) -> Result<Self, Refusal> {
        let master = certificate::master(&certificate, trust, now).map_err(|error| error.0)?;
        let standing = Standing { ready: Err(Code::TrustUnanswered.into()), clock: None };
        Ok(Self { master: master.name, told: Told::default(), certificate, standing: Mutex::new(standing) })
    }

    /// Whether the master is still one of the site's under another bundle.
    ///
    /// # Errors
    /// Why it is not.
    pub fn still_trusted(&self, trust: &Trust, now: Millis) -> Result<(), Refusal> {
        let trusted = certificate::master(&self.certificate, trust, now);
        trusted.map(|_| ()).map_err(|error| Refusal::because(Code::MasterUntrusted, error))
    }

    /// Sets the master's clock by its own word.
    pub fn hear_clock(&self, shown: Millis) {
        self.standing().clock = Some((shown, Instant::now()));
    }

    /// What the master's clock shows, by its word and the time since.
    pub fn master_clock(&self) -> Option<Millis> {
        self.standing().clock.map(|(shown, heard)| shown.plus(heard.elapsed()))
    }

    /// Sets whether work is taken.
    pub fn answer(&self, ready: Result<(), Refusal>) {
        self.standing().ready = ready;
    }

    /// Whether work is taken.
    ///
    /// # Errors
    /// Why not.
    pub fn ready(&self) -> Result<(), Refusal> {
        self.standing().ready.clone()
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
