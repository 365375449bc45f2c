//! The technician's own key and its certificate.

use std::path::Path;

use reeve_link::tasks::Tasks;
use reeve_wire::bundle::Trust;
use reeve_wire::certificate::{self, Technician};
use reeve_wire::code::{Code, Refusal};
use reeve_wire::keyfile;
use reeve_wire::time::Millis;
use ssh_key::{Certificate, PrivateKey};

use crate::config::Config;
use crate::failure::Failure;
use crate::secret;

/// How often a mistyped passphrase may be tried again.
const TRIES: usize = 3;

/// Reads the certificate.
///
/// # Errors
/// [`Code::PolicyConfig`] when the file is none.
pub(crate) fn certificate(config: &Config) -> Result<Certificate, Failure> {
    let wrong = |why: &dyn std::fmt::Display| {
        let sentence = format!("the certificate {} cannot be read: {why}", config.certificate.display());
        Failure::saying(Code::PolicyConfig, sentence)
    };
    let text = std::fs::read_to_string(&config.certificate).map_err(|error| wrong(&error))?;
    Certificate::from_openssh(text.trim()).map_err(|error| wrong(&error))
}

/// Who the certificate says the technician is, if it counts and is the one of the configuration.
///
/// # Errors
/// The first rule that it breaks: what the master refuses it for.
pub(crate) fn technician(
    config: &Config,
    certificate: &Certificate,
    trust: &Trust,
    now: Millis,
) -> Result<Technician, Refusal> {
    let technician = certificate::technician(certificate, trust, now).map_err(|error| error.0)?;
    if technician.name == config.name { Ok(technician) } else { Err(Code::CertificatePrincipal.into()) }
}

/// Reads the private key, asking for its passphrase where it has one.
///
/// # Errors
/// [`Code::PolicyConfig`] when the file must not be used, is no key, or is not the certificate's.
pub(crate) async fn private_key(
    config: &Config,
    certificate: &Certificate,
    tasks: &Tasks,
) -> Result<PrivateKey, Failure> {
    let unusable = |why: &dyn std::fmt::Display| Failure::saying(Code::PolicyConfig, format!("your key: {why}"));
    let key = keyfile::read_private_key(&config.key).map_err(|error| unusable(&error))?;
    if key.public_key().key_data() != certificate.public_key() {
        let sentence = format!("{} is not for the key {}", config.certificate.display(), config.key.display());
        return Err(Failure::saying(Code::PolicyConfig, sentence));
    }
    if key.is_encrypted() { decrypt(&key, &config.key, tasks).await } else { Ok(key) }
}

async fn decrypt(key: &PrivateKey, path: &Path, tasks: &Tasks) -> Result<PrivateKey, Failure> {
    for _ in 0..TRIES {
        let passphrase = secret::ask(tasks, format!("Passphrase for {}: ", path.display())).await?;
        if let Ok(open) = key.decrypt(passphrase.as_bytes()) {
            return Ok(open);
        }
    }
    let sentence = format!("{}: the passphrase does not open the key", path.display());
    Err(Failure::saying(Code::LoginFailed, sentence))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// A configuration whose key is `key` in `folder`, written with these permissions.
    fn config(folder: &Path, mode: u32) -> Config {
        let path = folder.join("key");
        std::fs::write(&path, reeve_wire::sshsig::generate("alice").unwrap().to_openssh(Default::default()).unwrap())
            .unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let text = "site='noc'\nroot='SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU'\ntrust='t'\n\
                    masters=['m:1']\nname='alice'\nkey='key'\ncertificate='cert'";
        Config::parse(text, folder, None).unwrap()
    }

    fn other_certificate() -> Certificate {
        let key = reeve_wire::sshsig::generate("ca").unwrap();
        let mut builder =
            ssh_key::certificate::Builder::new([7; 16], key.public_key().key_data().clone(), 0, 1 << 40).unwrap();
        builder.valid_principal("tech:alice").unwrap();
        builder.sign(&key).unwrap()
    }

    #[tokio::test]
    async fn a_key_that_others_can_read_is_refused_with_the_way_to_mend_it() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), 0o644);

        let refused = private_key(&config, &other_certificate(), &Tasks::new()).await.unwrap_err();

        assert_eq!(refused.exit_status(), 78);
        assert!(refused.to_string().contains("chmod 600"), "{refused}");
    }

    #[tokio::test]
    async fn a_certificate_for_another_key_is_told_before_anything_is_sent() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), 0o600);

        let refused = private_key(&config, &other_certificate(), &Tasks::new()).await.unwrap_err();

        assert_eq!(refused.exit_status(), 78);
        assert!(refused.to_string().contains("is not for the key"), "{refused}");
    }

    #[test]
    fn a_file_that_is_no_certificate_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), 0o600);
        assert_eq!(certificate(&config).unwrap_err().exit_status(), 78);
        std::fs::write(folder.path().join("cert"), "ssh-ed25519 AAAA").unwrap();
        assert_eq!(certificate(&config).unwrap_err().exit_status(), 78);
    }
}
