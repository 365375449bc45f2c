//! What may be ordered from the CA: whose certificate, for which key, for how long.

use std::time::Duration;

use reeve_wire::certificate::{CUSTOMERS, Ceiling, DIRECTORY_ID, MAX_LEVEL};
use reeve_wire::keyfile::KeyLine;
use reeve_wire::name::{HostName, Name, Principal};
use reeve_wire::note::Vkey;
use ssh_key::Algorithm;
use ssh_key::certificate::CertType;

use crate::authority::Authority;
use crate::log::Bounds;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The longest directory id, in bytes; `reeve_wire::certificate` takes no longer one.
const MAX_DIRECTORY_ID: usize = 256;

/// Who gets a certificate.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A master.
    Master {
        /// Its name.
        name: Name,
        /// The verifier key of its ledger. Only a master whose ledger is known gets into the trust bundle.
        log: Option<Vkey>,
    },
    /// A managed server.
    Agent(HostName),
    /// A person.
    Technician {
        /// The login name.
        name: Name,
        /// What the directory's rights are bounded by.
        ceiling: Ceiling,
        /// The person's id in the directory: objectSid or entryUUID.
        directory_id: String,
    },
}

/// An order for one certificate.
#[derive(Clone, Debug)]
pub struct Order {
    /// Whose.
    pub subject: Subject,
    /// The public key that it certifies.
    pub key: KeyLine,
    /// How long it is valid: 7 days for a technician and a year for a machine unless it is given.
    pub valid: Option<Duration>,
}

/// An order that no CA would fulfil.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// Valid for no time, or for too long.
    #[error("a certificate of {whose} is valid for at least a second and at most {days} days", days = .most.as_secs() / DAY.as_secs())]
    Life {
        /// Of whom.
        whose: &'static str,
        /// The longest life.
        most: Duration,
    },
    /// A key that a machine cannot use.
    #[error(
        "{whose} cannot use a key on a hardware token, since nobody is there to touch it; make one with `ssh-keygen -t ed25519`"
    )]
    HardwareKey {
        /// Whose.
        whose: &'static str,
    },
    /// A key that proves nothing.
    #[error(
        "this public key proves nothing: it is no point of the curve, or one of the few that many signatures fit; make one with `ssh-keygen -t ed25519`"
    )]
    WeakKey,
    /// A directory id that no directory gives.
    #[error(
        "a directory id has 1 to {MAX_DIRECTORY_ID} printable characters; take objectSid or entryUUID from the directory"
    )]
    DirectoryId,
}

impl Subject {
    /// The certificate's one principal.
    pub fn principal(&self) -> Principal {
        match self {
            Self::Master { name, .. } => Principal::Master(name.clone()),
            Self::Agent(host) => Principal::Host(host.clone()),
            Self::Technician { name, .. } => Principal::Technician(name.clone()),
        }
    }

    /// The key that signs it.
    pub const fn authority(&self) -> Authority {
        match self {
            Self::Master { .. } => Authority::Masters,
            Self::Agent(_) => Authority::Agents,
            Self::Technician { .. } => Authority::Technicians,
        }
    }

    /// Masters prove themselves as SSH hosts, everybody else as SSH users.
    pub(crate) const fn cert_type(&self) -> CertType {
        match self {
            Self::Master { .. } => CertType::Host,
            Self::Agent(_) | Self::Technician { .. } => CertType::User,
        }
    }

    pub(crate) fn bounds(&self) -> Option<Bounds> {
        match self {
            Self::Master { .. } | Self::Agent(_) => None,
            Self::Technician { ceiling, directory_id, .. } => Some(Bounds {
                directory_id: directory_id.clone(),
                max_level: ceiling.max_level,
                customers: ceiling.customers.to_string(),
            }),
        }
    }

    const fn whose(&self) -> &'static str {
        match self {
            Self::Master { .. } => "a master",
            Self::Agent(_) => "an agent",
            Self::Technician { .. } => "a technician",
        }
    }

    /// The usual life of a certificate, and the longest.
    const fn lives(&self) -> (Duration, Duration) {
        match self {
            Self::Master { .. } | Self::Agent(_) => (DAY.saturating_mul(365), DAY.saturating_mul(365)),
            Self::Technician { .. } => (DAY.saturating_mul(7), DAY.saturating_mul(30)),
        }
    }
}

impl Bounds {
    /// The extensions, as the certificate carries them.
    pub(crate) fn extensions(&self) -> [(&'static str, String); 3] {
        [
            (CUSTOMERS, self.customers.clone()),
            (DIRECTORY_ID, self.directory_id.clone()),
            (MAX_LEVEL, self.max_level.to_string()),
        ]
    }
}

impl Order {
    /// Checks what depends on nothing but the order, and gives the certificate's life.
    ///
    /// # Errors
    /// Why it cannot be fulfilled.
    pub fn checked(&self) -> Result<Duration, OrderError> {
        let whose = self.subject.whose();
        let (usual, most) = self.subject.lives();
        let life = self.valid.unwrap_or(usual);
        if life.as_secs() == 0 || life > most {
            return Err(OrderError::Life { whose, most });
        }
        if is_weak(&self.key) {
            return Err(OrderError::WeakKey);
        }
        match &self.subject {
            Subject::Master { .. } | Subject::Agent(_) if self.key.key().algorithm() != Algorithm::Ed25519 => {
                Err(OrderError::HardwareKey { whose })
            }
            Subject::Technician { directory_id: id, .. }
                if id.is_empty() || id.len() > MAX_DIRECTORY_ID || id.chars().any(|c| c.is_control() || c == ' ') =>
            {
                Err(OrderError::DirectoryId)
            }
            Subject::Master { .. } | Subject::Agent(_) | Subject::Technician { .. } => Ok(life),
        }
    }
}

/// Whether anybody could sign for this key; the rule is that of verifier keys.
pub(crate) fn is_weak(key: &KeyLine) -> bool {
    let plain = key.key().ed25519().copied();
    let point = plain.or_else(|| key.key().sk_ed25519().map(|key| *key.public_key()));
    let strong = point.and_then(|point| point.try_into().ok()).and_then(|point| Vkey::new("key", point).ok());
    strong.is_none()
}
