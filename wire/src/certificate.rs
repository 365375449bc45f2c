//! Which certificate is who: the closed role table, and everything that an SSH library does not check.
//!
//! A certificate counts only when its CA is in the trust bundle for exactly that kind, it is in date, it has exactly
//! one principal of that kind, no critical option, and ed25519 throughout. There is no default row.

use std::collections::BTreeSet;
use std::time::Duration;

use ssh_key::certificate::{CertType, Certificate};
use ssh_key::{Algorithm, public::KeyData};

use crate::bundle::Trust;
use crate::code::{Code, Refusal};
use crate::id::Digest;
use crate::keyfile::KeyLine;
use crate::level::Level;
use crate::name::{HostName, Name, Principal};
use crate::sshsig;
use crate::time::Millis;

/// The extension with the technician's directory id (objectSid or entryUUID).
pub const DIRECTORY_ID: &str = "directory-id@reeve";
/// The extension with the highest level that a technician may ever use: 1, 2 or 3.
pub const MAX_LEVEL: &str = "max-level@reeve";
/// The extension with the customers that a technician may ever reach: a comma list, or `*`.
pub const CUSTOMERS: &str = "customers@reeve";
/// The longest life of a technician's certificate, with an hour for clocks at issue.
pub const TECHNICIAN_LIFE: Duration = Duration::from_secs(30 * 24 * 3600 + 3600);
/// The longest directory id, in bytes.
const MAX_DIRECTORY_ID: usize = 256;

/// Why a certificate does not count. Its code is what the record holds.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(transparent)]
pub struct CertificateError(#[from] pub Refusal);

impl From<Code> for CertificateError {
    fn from(code: Code) -> Self {
        Self(code.into())
    }
}

/// What the CA says a technician can be given at most; the directory gives rights inside it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ceiling {
    /// Highest level.
    pub max_level: Level,
    /// Customers.
    pub customers: Customers,
}

/// Which customers a ceiling covers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Customers {
    /// All of them, written `*`.
    All,
    /// These.
    Only(BTreeSet<Name>),
}

impl Ceiling {
    /// Whether `level` on a host of `customer` is inside.
    ///
    /// # Errors
    /// Which of the two is outside.
    pub fn covers(&self, customer: &Name, level: Level) -> Result<(), Refusal> {
        let covered = match &self.customers {
            Customers::All => true,
            Customers::Only(names) => names.contains(customer),
        };
        if !covered {
            return Err(Code::CeilingCustomer.into());
        }
        if level > self.max_level {
            return Err(Refusal::because(
                Code::CeilingLevel,
                format_args!("it needs level {level}, the certificate has {}", self.max_level),
            ));
        }
        Ok(())
    }
}

impl std::str::FromStr for Customers {
    type Err = crate::name::NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "*" {
            return Ok(Self::All);
        }
        Ok(Self::Only(text.split(',').map(str::parse).collect::<Result<_, _>>()?))
    }
}

impl std::fmt::Display for Customers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Only(names) => f.write_str(&names.iter().map(Name::as_str).collect::<Vec<_>>().join(",")),
        }
    }
}

/// A technician, as a certificate of the technicians' CA says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Technician {
    /// The name.
    pub name: Name,
    /// The directory's id of the person: judging starts from it.
    pub directory_id: String,
    /// What rights are bounded by.
    pub ceiling: Ceiling,
    /// The technician's own key.
    pub key: KeyData,
    /// SHA-256 of the certificate's wire blob.
    pub certificate: Digest,
    /// Serial of the certificate.
    pub serial: u64,
    /// When the certificate ends.
    pub not_after: Millis,
}

impl Technician {
    /// `SHA256:…` of the technician's own key.
    pub fn fingerprint(&self) -> String {
        sshsig::fingerprint(&self.key)
    }
}

/// A managed server's agent, as a certificate of the agents' CA says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AgentIdentity {
    /// The server.
    pub host: HostName,
    /// The server's own key.
    pub key: KeyData,
    /// SHA-256 of the certificate's wire blob.
    pub certificate: Digest,
    /// Serial of the certificate.
    pub serial: u64,
    /// The CA that signed it: whoever stays connected stays trusted only as long as the bundle names it.
    pub ca: KeyData,
}

/// A master, as a host certificate of the masters' CA says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MasterIdentity {
    /// The master's name, which the bundle knows.
    pub name: Name,
    /// Its host key.
    pub key: KeyData,
    /// SHA-256 of the certificate's wire blob.
    pub certificate: Digest,
}

/// Reads a certificate from its wire blob, as documents carry it.
///
/// # Errors
/// [`Code::RequestMalformed`] when it is none.
pub fn from_wire(blob: &[u8]) -> Result<Certificate, CertificateError> {
    Certificate::from_bytes(blob).map_err(|_| Code::RequestMalformed.into())
}

/// SHA-256 over a certificate's wire blob.
///
/// # Errors
/// [`Code::Internal`] when it cannot be encoded.
pub fn digest(certificate: &Certificate) -> Result<Digest, CertificateError> {
    Ok(Digest::of(&certificate.to_bytes().map_err(|_| CertificateError::from(Code::Internal))?))
}

/// Checks a technician's certificate at `now`.
///
/// # Errors
/// The first rule that it breaks.
pub fn technician(certificate: &Certificate, trust: &Trust, now: Millis) -> Result<Technician, CertificateError> {
    common(certificate, &trust.ca.technicians, CertType::User, now)?;
    let Principal::Technician(name) = principal(certificate)? else {
        return Err(Code::CertificatePrincipal.into());
    };
    let life = certificate.valid_before().saturating_sub(certificate.valid_after());
    if life > TECHNICIAN_LIFE.as_secs() {
        return Err(Code::CertificateLifetime.into());
    }
    let extension = |name: &str| certificate.extensions().get(name).map(String::as_str);
    let unreadable = || CertificateError::from(Code::CertificateCeiling);
    let level = extension(MAX_LEVEL).and_then(|text| text.parse::<u64>().ok()).ok_or_else(unreadable)?;
    let ceiling = Ceiling {
        max_level: Level::try_from(level).map_err(|_| unreadable())?,
        customers: extension(CUSTOMERS).ok_or_else(unreadable)?.parse().map_err(|_| unreadable())?,
    };
    let directory_id = extension(DIRECTORY_ID).filter(|id| (1..=MAX_DIRECTORY_ID).contains(&id.len()));
    Ok(Technician {
        name,
        directory_id: directory_id.ok_or_else(unreadable)?.to_owned(),
        ceiling,
        key: certificate.public_key().clone(),
        certificate: digest(certificate)?,
        serial: certificate.serial(),
        not_after: Millis(certificate.valid_before().saturating_mul(1000)),
    })
}

/// Checks an agent's certificate at `now`.
///
/// # Errors
/// The first rule that it breaks.
pub fn agent(certificate: &Certificate, trust: &Trust, now: Millis) -> Result<AgentIdentity, CertificateError> {
    common(certificate, &trust.ca.agents, CertType::User, now)?;
    no_hardware_key(certificate)?;
    let Principal::Host(host) = principal(certificate)? else {
        return Err(Code::CertificatePrincipal.into());
    };
    Ok(AgentIdentity {
        host,
        key: certificate.public_key().clone(),
        certificate: digest(certificate)?,
        serial: certificate.serial(),
        ca: certificate.signature_key().clone(),
    })
}

/// Checks a master's host certificate at `now`, whatever address was dialled.
///
/// # Errors
/// The first rule that it breaks.
pub fn master(certificate: &Certificate, trust: &Trust, now: Millis) -> Result<MasterIdentity, CertificateError> {
    common(certificate, &trust.ca.masters, CertType::Host, now)?;
    no_hardware_key(certificate)?;
    let Principal::Master(name) = principal(certificate)? else {
        return Err(Code::CertificatePrincipal.into());
    };
    if !trust.masters.contains(&name) {
        return Err(Code::CertificatePrincipal.into());
    }
    Ok(MasterIdentity { name, key: certificate.public_key().clone(), certificate: digest(certificate)? })
}

/// What the SSH user name asks to be. A session key and `enroll` present no certificate and are not rows of this.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Role {
    /// `tech:NAME`, who must still prove the second factor.
    Technician(Technician),
    /// `host:CUSTOMER/HOST`.
    Agent(AgentIdentity),
}

/// The role of a user certificate presented under the SSH user name `login`.
///
/// # Errors
/// When the name asks for no role of the table or the certificate does not give exactly that role.
pub fn role(login: &str, certificate: &Certificate, trust: &Trust, now: Millis) -> Result<Role, CertificateError> {
    let untrusted = || CertificateError::from(Code::CertificatePrincipal);
    match login.parse::<Principal>().map_err(|_| untrusted())? {
        Principal::Technician(name) => {
            let technician = technician(certificate, trust, now)?;
            if technician.name == name { Ok(Role::Technician(technician)) } else { Err(untrusted()) }
        }
        Principal::Host(host) => {
            let agent = agent(certificate, trust, now)?;
            if agent.host == host { Ok(Role::Agent(agent)) } else { Err(untrusted()) }
        }
        Principal::Master(_) => Err(untrusted()),
    }
}

fn common(certificate: &Certificate, cas: &[KeyLine], kind: CertType, now: Millis) -> Result<(), CertificateError> {
    if !cas.iter().any(|ca| ca.key() == certificate.signature_key()) {
        return Err(Code::CertificateUntrusted.into());
    }
    let subject = certificate.public_key().algorithm();
    let plain = certificate.signature().algorithm() == Algorithm::Ed25519;
    if !plain || !matches!(subject, Algorithm::Ed25519 | Algorithm::SkEd25519) {
        return Err(Code::CertificateAlgorithm.into());
    }
    certificate.verify_signature().map_err(|_| CertificateError::from(Code::CertificateUntrusted))?;
    if certificate.cert_type() != kind {
        return Err(Code::CertificateKind.into());
    }
    if cas.iter().any(|ca| ca.key() == certificate.public_key()) {
        return Err(Refusal::because(Code::CertificateKind, "a CA's own key is nobody's").into());
    }
    if now.seconds() < certificate.valid_after() || now.seconds() >= certificate.valid_before() {
        return Err(Code::CertificateExpired.into());
    }
    if let Some((option, _)) = certificate.critical_options().iter().next() {
        return Err(Refusal::because(Code::CertificateOption, option.escape_debug()).into());
    }
    Ok(())
}

/// Machines have no one to touch a key.
fn no_hardware_key(certificate: &Certificate) -> Result<(), CertificateError> {
    if certificate.public_key().algorithm() == Algorithm::Ed25519 {
        Ok(())
    } else {
        Err(Code::CertificateAlgorithm.into())
    }
}

fn principal(certificate: &Certificate) -> Result<Principal, CertificateError> {
    match certificate.valid_principals() {
        [one] => one.parse().map_err(|_| Code::CertificatePrincipal.into()),
        _ => Err(Code::CertificatePrincipal.into()),
    }
}

#[cfg(test)]
mod tests;
