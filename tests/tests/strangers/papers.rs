//! Certificates as `ssh-keygen` makes them, with the site's own CA keys or others.

use std::path::{Path, PathBuf};
use std::process::Command;

use reeve_wire::certificate::{CUSTOMERS, DIRECTORY_ID, MAX_LEVEL};
use reeve_wire::keyfile;
use reeve_wire::sshsig;
use ssh_key::certificate::Builder;
use ssh_key::{Certificate, LineEnding, PrivateKey};

use super::stage::{Stage, certificate};

/// What a certificate is to say.
#[derive(Clone)]
pub(crate) struct Wish {
    /// The private key of whoever signs it.
    pub(crate) ca: PathBuf,
    pub(crate) principals: Vec<String>,
    /// As `ssh-keygen -V` takes it.
    pub(crate) valid: &'static str,
    /// As `ssh-keygen -O` takes them.
    pub(crate) options: Vec<String>,
    /// A host's certificate instead of a user's.
    pub(crate) host: bool,
}

/// A key and its certificate, in files as `ssh` takes them.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) key: PrivateKey,
    pub(crate) certificate: Certificate,
    pub(crate) key_file: PathBuf,
    pub(crate) certificate_file: PathBuf,
}

impl Stage {
    pub(crate) fn ca(&self, name: &str) -> PathBuf {
        self.site.lab().ca.join(name)
    }

    pub(crate) fn passphrase(&self) -> String {
        std::fs::read_to_string(self.site.dir().join("ca-passphrase")).unwrap().trim().to_owned()
    }

    /// What the CA would say of bob, but for the key.
    pub(crate) fn like_bob(&self) -> Wish {
        let (_, bob) = self.technician("bob");
        let extension = |name: &str| format!("extension:{name}={}", bob.extensions()[name]);
        let options = [DIRECTORY_ID, MAX_LEVEL, CUSTOMERS].map(extension);
        Wish {
            ca: self.ca("technicians"),
            principals: vec!["tech:bob".to_owned()],
            valid: "-5m:+1h",
            options: std::iter::once("clear".to_owned()).chain(options).collect(),
            host: false,
        }
    }

    /// A new key with the certificate that was wished for.
    pub(crate) fn issue(&self, wish: &Wish) -> Held {
        self.certify(sshsig::generate("stranger").unwrap(), wish)
    }

    /// The certificate that was wished for, for `key`.
    pub(crate) fn certify(&self, key: PrivateKey, wish: &Wish) -> Held {
        let key_file = self.key_file(&key);
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-I", "stranger", "-P", &self.passphrase(), "-V", wish.valid, "-s"]).arg(&wish.ca);
        if wish.host {
            command.arg("-h");
        }
        if !wish.principals.is_empty() {
            command.args(["-n", &wish.principals.join(",")]);
        }
        for option in &wish.options {
            command.args(["-O", option]);
        }
        let made = command.arg(beside(&key_file, ".pub")).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let certificate_file = beside(&key_file, "-cert.pub");
        Held { key, certificate: certificate(&certificate_file), key_file, certificate_file }
    }

    /// Files with `key`, private and public, as `ssh` takes them.
    pub(crate) fn key_file(&self, key: &PrivateKey) -> PathBuf {
        let path = self.folder().join(format!("key-{:016x}", rand::random::<u64>()));
        keyfile::write_secret(&path, key.to_openssh(LineEnding::LF).unwrap().as_bytes()).unwrap();
        std::fs::write(beside(&path, ".pub"), key.public_key().to_openssh().unwrap()).unwrap();
        path
    }

    /// The private key of one of the site's CAs.
    pub(crate) fn ca_key(&self, name: &str) -> PrivateKey {
        keyfile::read_private_key(&self.ca(name)).unwrap().decrypt(self.passphrase()).unwrap()
    }

    /// What `ssh-keygen` would not write: bob's certificate with one principal of any text.
    pub(crate) fn odd_principal(&self, principal: &str) -> Held {
        let (_, bob) = self.technician("bob");
        let key = sshsig::generate("stranger").unwrap();
        let now = reeve_wire::time::Clock::system().now().seconds();
        let mut builder = Builder::new(rand::random::<[u8; 16]>(), key.public_key(), now - 60, now + 3600).unwrap();
        builder.key_id("stranger").unwrap().valid_principal(principal).unwrap();
        for (name, value) in bob.extensions().iter() {
            builder.extension(name, value).unwrap();
        }
        let certificate = builder.sign(&self.ca_key("technicians")).unwrap();
        let key_file = self.key_file(&key);
        let certificate_file = beside(&key_file, "-cert.pub");
        std::fs::write(&certificate_file, certificate.to_openssh().unwrap()).unwrap();
        Held { key, certificate, key_file, certificate_file }
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
