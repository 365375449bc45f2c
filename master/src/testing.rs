//! What the unit tests of this crate need to exist: a trust bundle, and a whole master with a technician and an agent
//! made by hand.

pub(crate) mod bench;

use reeve_wire::bundle::{Authorities, Bundle, Trust};
use reeve_wire::keyfile::KeyLine;
use reeve_wire::signed::Signed;
use reeve_wire::sshsig;
use reeve_wire::strict::{Unused, V1};
use reeve_wire::time::Millis;

/// A bundle of an own root that is fresh until `refresh_by`.
pub(crate) fn trust_until(refresh_by: Millis) -> Trust {
    let root = sshsig::generate("root").unwrap();
    let ca = || vec![KeyLine::new(sshsig::generate("ca").unwrap().public_key().key_data().clone()).unwrap()];
    let bundle = Bundle {
        v: V1,
        site: "lab".parse().unwrap(),
        number: 1,
        issued: refresh_by,
        refresh_by,
        ca: Authorities { technicians: ca(), agents: ca(), masters: ca() },
        masters: vec!["m1".parse().unwrap()],
        logs: vec![],
        library_signers: vec![],
        release_keys: Unused,
        krl: Unused,
    };
    let signed = Signed::make(&bundle, &root).unwrap();
    Trust::open(signed, &sshsig::fingerprint(root.public_key().key_data())).unwrap()
}
