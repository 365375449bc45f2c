//! The session key's powers: what the technician's own key delegates to it, for at most 8 hours.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::certificate::Technician;
use crate::code::{Code, Refusal};
use crate::id::{Digest, Salt};
use crate::keyfile::KeyLine;
use crate::level::Level;
use crate::name::Name;
use crate::signed::{Document, Signed, Verified};
use crate::sshsig::Namespace;
use crate::strict::V1;
use crate::time::Millis;

/// The longest session.
pub const LONGEST: Duration = Duration::from_secs(8 * 3600);

/// How far apart two honest clocks may be before a fresh document looks as if it came from the future.
pub const SKEW: Duration = Duration::from_secs(60);

/// A session key with its bounds.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Delegation {
    /// Format version.
    pub v: V1,
    /// The site that it is for.
    pub site: Name,
    /// SHA-256 of the technician's certificate.
    pub technician_cert: Digest,
    /// The key that may open connections and sign requests.
    pub session_key: KeyLine,
    /// The highest level of such requests.
    pub max_level: Level,
    /// Not valid before.
    pub not_before: Millis,
    /// Not valid after.
    pub not_after: Millis,
    /// Makes each delegation one of its kind.
    pub nonce: Salt,
}

impl Document for Delegation {
    const NAMESPACE: Namespace = Namespace::Delegation;
}

/// Checks a delegation by `technician` for `site` at `now`.
///
/// # Errors
/// The first rule that it breaks.
pub fn verify(
    signed: Signed,
    technician: &Technician,
    site: &Name,
    now: Millis,
) -> Result<Verified<Delegation>, Refusal> {
    let invalid = |detail: &dyn std::fmt::Display| Refusal::because(Code::DelegationInvalid, detail);
    let delegation = signed.verify::<Delegation>(&technician.key).map_err(|error| invalid(&error))?;
    if delegation.site != *site {
        return Err(Code::WrongSite.into());
    }
    if delegation.technician_cert != technician.certificate {
        return Err(invalid(&"it was made with another certificate"));
    }
    if delegation.not_after.since(delegation.not_before) > LONGEST || delegation.not_after <= delegation.not_before {
        return Err(invalid(&"it spans more than 8 hours"));
    }
    if now.plus(SKEW) < delegation.not_before {
        return Err(invalid(&"it is not valid yet"));
    }
    if now > delegation.not_after {
        return Err(Code::SessionExpired.into());
    }
    Ok(delegation)
}
