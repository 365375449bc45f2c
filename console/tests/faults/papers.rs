//! The keys of a small site, and what they sign.

use reeve_wire::bundle::{Authorities, Bundle, FRESH_FOR, Trust};
use reeve_wire::certificate::{self, CUSTOMERS, DIRECTORY_ID, MAX_LEVEL, Technician};
use reeve_wire::keyfile::KeyLine;
use reeve_wire::signed::Signed;
use reeve_wire::sshsig;
use reeve_wire::strict::{Unused, V1};
use reeve_wire::time::{Clock, Millis};
use ssh_key::certificate::{Builder, CertType, Certificate};
use ssh_key::private::Ed25519Keypair;
use ssh_key::{PrivateKey, PublicKey};

/// The keys of the site `noc`.
pub(crate) struct Papers {
    pub(crate) root: PrivateKey,
    pub(crate) technicians: PrivateKey,
    pub(crate) masters: PrivateKey,
    pub(crate) library: PrivateKey,
    pub(crate) master: PrivateKey,
    pub(crate) alice: PrivateKey,
    made: Millis,
}

/// The key with the number `seed`: each has a part of its own.
pub(crate) fn key(seed: u8) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]))
}

fn line(key: &PrivateKey) -> KeyLine {
    KeyLine::new(key.public_key().key_data().clone()).unwrap()
}

impl Papers {
    pub(crate) fn new() -> Self {
        Self {
            root: key(1),
            technicians: key(2),
            masters: key(3),
            library: key(4),
            master: key(5),
            alice: key(6),
            made: Clock::system().now(),
        }
    }

    /// The root's fingerprint, to be pinned.
    pub(crate) fn pin(&self) -> String {
        sshsig::fingerprint(self.root.public_key().key_data())
    }

    pub(crate) fn bundle(&self, number: u64) -> Signed {
        self.bundle_of("noc", number, &self.root)
    }

    pub(crate) fn bundle_of(&self, site: &str, number: u64, root: &PrivateKey) -> Signed {
        let now = self.made;
        let bundle = Bundle {
            v: V1,
            site: site.parse().unwrap(),
            number,
            issued: now,
            refresh_by: now.plus(FRESH_FOR),
            ca: Authorities {
                technicians: vec![line(&self.technicians)],
                agents: vec![line(&self.technicians)],
                masters: vec![line(&self.masters)],
            },
            masters: vec!["m1".parse().unwrap()],
            logs: vec![],
            library_signers: vec![line(&self.library)],
            release_keys: Unused,
            krl: Unused,
        };
        Signed::make(&bundle, root).unwrap()
    }

    pub(crate) fn trust(&self, number: u64) -> Trust {
        Trust::open(self.bundle(number), &self.pin()).unwrap()
    }

    /// The master's host certificate, by the masters' authority or another.
    pub(crate) fn master_certificate(&self, authority: &PrivateKey) -> Certificate {
        let mut builder = self.builder(self.master.public_key(), "master:m1");
        builder.cert_type(CertType::Host).unwrap();
        builder.sign(authority).unwrap()
    }

    /// Alice's certificate: level 3, all customers.
    pub(crate) fn alice_certificate(&self) -> Certificate {
        let mut builder = self.builder(self.alice.public_key(), "tech:alice");
        builder.cert_type(CertType::User).unwrap();
        builder.extension(DIRECTORY_ID, "S-1-5-21-7").unwrap();
        builder.extension(MAX_LEVEL, "3").unwrap();
        builder.extension(CUSTOMERS, "*").unwrap();
        builder.sign(&self.technicians).unwrap()
    }

    pub(crate) fn alice(&self, now: Millis) -> Technician {
        certificate::technician(&self.alice_certificate(), &self.trust(1), now).unwrap()
    }

    fn builder(&self, subject: &PublicKey, principal: &str) -> Builder {
        let now = self.made.seconds();
        let mut builder = Builder::new([7; 16], subject, now - 3600, now + 24 * 3600).unwrap();
        builder.key_id(principal).unwrap();
        builder.valid_principal(principal).unwrap();
        builder
    }
}
