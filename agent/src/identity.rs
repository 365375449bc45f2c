//! Who this server is: a private key made here, and the certificate that names it.

use std::path::Path;

use reeve_link::dial::{Identity as Shown, SigningKey};
use reeve_wire::bundle::Trust;
use reeve_wire::certificate;
use reeve_wire::keyfile::read_private_key;
use reeve_wire::name::{HostName, Principal};
use reeve_wire::time::Millis;
use ssh_key::PrivateKey;
use ssh_key::certificate::{CertType, Certificate};

use crate::config::{Config, Problem};

/// This server's key, certificate and name.
#[derive(Clone, Debug)]
pub struct Identity {
    key: PrivateKey,
    certificate: Certificate,
    host: HostName,
}

impl Identity {
    /// Reads key and certificate, and checks that they belong together and to the configured server.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn load(config: &Config) -> Result<Self, Vec<Problem>> {
        let key = read_private_key(&config.key).map_err(Problem::from);
        let certificate = read_certificate(&config.certificate);
        match (key, certificate) {
            (Ok(key), Ok(certificate)) => match belongs(&certificate, &key, &config.host) {
                Ok(()) => Ok(Self { key, certificate, host: config.host.clone() }),
                Err(why) => Err(vec![Problem::Certificate { path: config.certificate.clone(), why }]),
            },
            (key, certificate) => Err(key.err().into_iter().chain(certificate.err()).collect()),
        }
    }

    /// The server, as the certificate says.
    pub const fn host(&self) -> &HostName {
        &self.host
    }

    /// The key that signs receipts.
    pub const fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// The user name that asks for the role of this server.
    pub fn user(&self) -> String {
        Principal::Host(self.host.clone()).to_string()
    }

    /// What is shown to a master.
    pub fn shown(&self) -> Shown {
        Shown::Certificate {
            user: self.user(),
            key: SigningKey::from(self.key.clone()),
            certificate: self.certificate.clone(),
        }
    }

    /// Whether a master that trusts the same bundle takes the certificate at `now`.
    ///
    /// # Errors
    /// Why it does not.
    pub fn accepted_by(&self, trust: &Trust, now: Millis) -> Result<(), String> {
        certificate::agent(&self.certificate, trust, now).map(|_| ()).map_err(|error| error.to_string())
    }
}

fn read_certificate(path: &Path) -> Result<Certificate, Problem> {
    let text = std::fs::read_to_string(path).map_err(|source| Problem::Read { path: path.to_owned(), source })?;
    Certificate::from_openssh(text.trim()).map_err(|_| Problem::Certificate {
        path: path.to_owned(),
        why: "it holds no OpenSSH certificate; ask for one with `reeve-pki issue agent`".into(),
    })
}

fn belongs(certificate: &Certificate, key: &PrivateKey, host: &HostName) -> Result<(), String> {
    if certificate.cert_type() != CertType::User {
        return Err("it is no user certificate; ask for one with `reeve-pki issue agent`".into());
    }
    let expected = Principal::Host(host.clone()).to_string();
    if certificate.valid_principals() != [expected.clone()] {
        let names = certificate.valid_principals().join(", ");
        let names = reeve_wire::output::visible_line(&names);
        return Err(format!("it is for {names:?}, and the configuration says {expected}"));
    }
    if certificate.public_key() != key.public_key().key_data() {
        return Err("it is for another key than the one in `key`".into());
    }
    Ok(())
}
