//! Session keys: which key speaks for which technician, and until when.
//!
//! A session is the technician's signed delegation; the table is kept on disk as those documents, so that a restart of
//! the master ends nobody's shift. What is read back is verified again like anything else.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reeve_wire::bundle::Trust;
use reeve_wire::certificate::{self, Technician};
use reeve_wire::code::{Code, Refusal};
use reeve_wire::delegation::{self, Delegation};
use reeve_wire::id::Digest;
use reeve_wire::keyfile;
use reeve_wire::name::Name;
use reeve_wire::signed::{self, Signed, Verified};
use reeve_wire::sshsig;
use reeve_wire::time::Millis;
use ssh_key::public::KeyData;

/// The most sessions at once.
const MOST: usize = 4096;
/// The most sessions of one technician.
const MOST_EACH: usize = 256;

/// One session.
#[derive(Debug)]
pub struct Session {
    /// Who it speaks for.
    pub technician: Technician,
    /// The technician's certificate, wire blob.
    pub certificate: Vec<u8>,
    /// The signed delegation.
    pub delegation: Verified<Delegation>,
}

impl Session {
    /// `SHA256:…` of the session key.
    pub fn fingerprint(&self) -> String {
        self.delegation.session_key.fingerprint()
    }

    /// When it ends: the delegation or the certificate, whichever is first.
    pub fn until(&self) -> Millis {
        self.delegation.not_after.min(self.technician.not_after)
    }
}

/// The table. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sessions {
    directory: Arc<PathBuf>,
    table: Arc<Mutex<HashMap<String, Arc<Session>>>>,
}

impl Sessions {
    /// Opens the table kept in `directory`; entries that no longer hold are removed.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn open(directory: &Path, trust: &Trust, now: Millis) -> std::io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let sessions = Self { directory: Arc::new(directory.to_owned()), table: Arc::default() };
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            let held = std::fs::read(&path).ok().and_then(|bytes| read_back(&bytes, trust, now));
            // A draft that a crash left behind holds a session too, and a logout would not find it.
            match held.filter(|session| sessions.path(session) == path) {
                Some(session) => drop(sessions.table().insert(session.fingerprint(), Arc::new(session))),
                None => std::fs::remove_file(&path)?,
            }
        }
        Ok(sessions)
    }

    /// Registers the session key of `signed` for `technician`, who has just proved key and password.
    ///
    /// # Errors
    /// When the delegation does not hold, or the table is full or cannot be written.
    pub fn register(
        &self,
        technician: Technician,
        certificate: Vec<u8>,
        signed: Signed,
        site: &Name,
        now: Millis,
    ) -> Result<Arc<Session>, Refusal> {
        let delegation = delegation::verify(signed, &technician, site, now)?;
        if delegation.session_key.key() == &technician.key {
            return Err(Refusal::because(Code::DelegationInvalid, "a session has a key of its own"));
        }
        let session = Arc::new(Session { technician, certificate, delegation });
        let mut bytes = session.delegation.signed().to_wire();
        signed::put_ssh_string(&mut bytes, &session.certificate);
        self.forget_ended(now);
        self.has_room_for(&session)?;
        let path = self.path(&session);
        keyfile::write_secret(&path, &bytes).map_err(|error| Refusal::because(Code::Internal, error.kind()))?;
        self.table().insert(session.fingerprint(), Arc::clone(&session));
        Ok(session)
    }

    /// One person cannot take the room of all, and nobody takes over a key that speaks for another.
    fn has_room_for(&self, session: &Session) -> Result<(), Refusal> {
        let table = self.table();
        let name = &session.technician.name;
        match table.get(&session.fingerprint()) {
            Some(held) if held.technician.name != *name => {
                return Err(Refusal::because(Code::DelegationInvalid, "the session key speaks for somebody else"));
            }
            Some(_) => return Ok(()),
            None => {}
        }
        let own = table.values().filter(|held| held.technician.name == *name).count();
        if own >= MOST_EACH {
            return Err(Refusal::because(Code::Busy, format_args!("you have {own} sessions; log out of some")));
        }
        if table.len() >= MOST { Err(Code::Busy.into()) } else { Ok(()) }
    }

    /// The session of `key` for `name`, if it is registered and has not ended.
    ///
    /// # Errors
    /// [`Code::SessionUnknown`] or [`Code::SessionExpired`].
    pub fn find(&self, name: &Name, key: &KeyData, now: Millis) -> Result<Arc<Session>, Refusal> {
        let found = self.table().get(&sshsig::fingerprint(key)).cloned();
        let session = found.filter(|session| session.technician.name == *name);
        let session = session.ok_or_else(|| Refusal::from(Code::SessionUnknown))?;
        if now > session.until() {
            return Err(Code::SessionExpired.into());
        }
        Ok(session)
    }

    /// Forgets a session. It opens and signs nothing from here on.
    pub fn end(&self, session: &Session) {
        self.table().remove(&session.fingerprint());
        if let Err(error) = std::fs::remove_file(self.path(session)) {
            tracing::error!(%error, "a session that has ended could not be removed; a restart of the master revives it");
        }
    }

    fn forget_ended(&self, now: Millis) {
        let ended: Vec<_> = self.table().values().filter(|session| now > session.until()).cloned().collect();
        for session in ended {
            self.end(&session);
        }
    }

    fn path(&self, session: &Session) -> PathBuf {
        self.directory.join(Digest::of(session.fingerprint().as_bytes()).to_string())
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_back(bytes: &[u8], trust: &Trust, now: Millis) -> Option<Session> {
    let (json, rest) = signed::ssh_string(bytes)?;
    let (signature, rest) = signed::ssh_string(rest)?;
    let (certificate, _) = signed::ssh_string(rest)?;
    let technician = certificate::technician(&certificate::from_wire(certificate).ok()?, trust, now).ok()?;
    let signed = Signed::from_parts(json.to_vec(), signature.to_vec());
    let delegation = delegation::verify(signed, &technician, &trust.site, now).ok()?;
    Some(Session { technician, certificate: certificate.to_vec(), delegation })
}

#[cfg(test)]
mod tests;
