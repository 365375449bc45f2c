//! The grant: the master's word, after the directory's answer and the durable record, that one server may run one
//! request now.
//!
//! To the server it is a second party, and a promise that the leaf it names is in the log it names. It is no proof of
//! the technician's rights.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bundle::Trust;
use crate::certificate::{self, MasterIdentity};
use crate::code::{Code, Refusal};
use crate::delegation::SKEW;
use crate::id::{Digest, OperationId};
use crate::name::{HostName, Name};
use crate::signed::{Document, Signed, Verified};
use crate::sshsig::Namespace;
use crate::strict::V1;
use crate::time::Millis;

/// How long a grant may be acted on.
pub const VALID_FOR: Duration = Duration::from_secs(60);

/// What the technician proved.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Factor {
    /// A private key.
    Key,
    /// The directory's password.
    Password,
}

/// What the master signs.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Format version.
    pub v: V1,
    /// The site.
    pub site: Name,
    /// The operation.
    pub operation: OperationId,
    /// The server.
    pub host: HostName,
    /// SHA-256 over the signed request header.
    pub request: Digest,
    /// RFC 6962 leaf hash of the intent.
    pub leaf: Digest,
    /// The log that holds it.
    pub log: String,
    /// When it was given.
    pub at: Millis,
    /// How old the directory's answer was, in ms.
    pub directory_age_ms: u64,
    /// What the technician proved.
    pub factors: Vec<Factor>,
    /// Not acted on after.
    pub not_after: Millis,
}

impl Document for Grant {
    const NAMESPACE: Namespace = Namespace::Grant;
}

/// What a grant must be for.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The site.
    pub site: &'a Name,
    /// This server.
    pub host: &'a HostName,
    /// The request's operation.
    pub operation: OperationId,
    /// The request's digest.
    pub request: Digest,
}

/// Checks a grant and the master's certificate beside it, at `now`.
///
/// # Errors
/// The first rule that it breaks.
pub fn verify(
    signed: Signed,
    certificate: &[u8],
    expected: Expected<'_>,
    trust: &Trust,
    now: Millis,
) -> Result<(Verified<Grant>, MasterIdentity), Refusal> {
    let invalid = |detail: &dyn std::fmt::Display| Refusal::because(Code::GrantInvalid, detail);
    let certificate = certificate::from_wire(certificate).map_err(|error| error.0)?;
    let master = certificate::master(&certificate, trust, now).map_err(|error| error.0)?;
    let grant = signed.verify::<Grant>(&master.key).map_err(|error| invalid(&error))?;
    let same = grant.site == *expected.site
        && grant.host == *expected.host
        && grant.operation == expected.operation
        && grant.request == expected.request;
    if !same {
        return Err(invalid(&"it is for another request or server"));
    }
    let own = format!("{}.reeve/{}", grant.site, master.name);
    if grant.log != own || !trust.logs().iter().any(|log| log.name() == own) {
        return Err(invalid(&"it promises a place in another log than this master's own"));
    }
    if grant.not_after.since(grant.at) > VALID_FOR || grant.not_after <= grant.at {
        return Err(invalid(&"it is valid for longer than 60 seconds"));
    }
    if now > grant.not_after.plus(SKEW) || now.plus(SKEW) < grant.at {
        return Err(Code::GrantStale.into());
    }
    Ok((grant, master))
}
