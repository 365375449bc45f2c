use serde_json::{Value, json};

use super::*;
use ssh_key::PrivateKey;

const ISSUED: Millis = Millis(1_800_000_000_000);

fn root() -> PrivateKey {
    sshsig::generate("root").unwrap()
}

fn fingerprint(key: &PrivateKey) -> String {
    sshsig::fingerprint(key.public_key().key_data())
}

fn bundle(number: u64) -> Value {
    let line = || KeyLine::new(sshsig::generate("ca").unwrap().public_key().key_data().clone()).unwrap().to_string();
    json!({
        "v": 1, "site": "lab", "number": number, "issued": ISSUED.0, "refresh_by": ISSUED.plus(FRESH_FOR).0,
        "ca": {"technicians": [line()], "agents": [line()], "masters": [line()]},
        "masters": ["m1"], "logs": [], "library_signers": [], "release_keys": null, "krl": null,
    })
}

fn signed(bundle: &Value, key: &PrivateKey) -> Signed {
    let json = serde_json::to_vec(bundle).unwrap();
    let signature = sshsig::sign(key, Namespace::Trust, &json).unwrap();
    Signed::from_parts(json, signature)
}

#[test]
fn only_the_pinned_root_makes_a_bundle() {
    let (ours, theirs) = (root(), root());
    assert!(Trust::open(signed(&bundle(1), &ours), &fingerprint(&ours)).is_ok());
    let forged = Trust::open(signed(&bundle(1), &theirs), &fingerprint(&ours));
    assert!(matches!(forged, Err(TrustError::OtherRoot { .. })));
    let mut changed = signed(&bundle(1), &ours);
    changed = Signed::from_parts(serde_json::to_vec(&bundle(2)).unwrap(), changed.signature().to_vec());
    assert!(matches!(Trust::open(changed, &fingerprint(&ours)), Err(TrustError::Signed(_))));
}

#[test]
fn what_this_version_does_not_read_is_refused_and_not_overlooked() {
    let root = root();
    for (field, value) in [
        ("krl", json!("U1NIS1JM")),
        ("krl", json!("")),
        ("release_keys", json!([])),
        ("v", json!(2)),
        ("more", json!(null)),
        ("number", json!(1.0)),
    ] {
        let mut bundle = bundle(1);
        bundle[field] = value;
        let refused = Trust::open(signed(&bundle, &root), &fingerprint(&root));
        assert!(matches!(refused, Err(TrustError::Signed(SignedError::Document(_)))), "{field}: {refused:?}");
    }
    for field in ["krl", "masters", "refresh_by"] {
        let mut bundle = bundle(1);
        bundle.as_object_mut().unwrap().remove(field);
        assert!(Trust::open(signed(&bundle, &root), &fingerprint(&root)).is_err(), "without {field}");
    }
}

#[test]
fn a_bundle_is_replaced_by_a_newer_one_of_its_site_and_by_nothing_else() {
    let root = root();
    let five = bundle(5);
    let held = Trust::open(signed(&five, &root), &fingerprint(&root)).unwrap();

    assert_eq!(held.replaced_by(signed(&bundle(6), &root)).unwrap().number, 6);
    assert_eq!(held.replaced_by(signed(&five, &root)).unwrap().number, 5, "the same bytes again are fine");
    for older in [signed(&bundle(4), &root), signed(&bundle(5), &root)] {
        assert!(matches!(held.replaced_by(older), Err(TrustError::Rollback { held: 5, .. })));
    }
    let mut elsewhere = bundle(6);
    elsewhere["site"] = json!("elsewhere");
    assert!(matches!(held.replaced_by(signed(&elsewhere, &root)), Err(TrustError::OtherSite(_))));
    let stranger = self::root();
    assert!(matches!(held.replaced_by(signed(&bundle(7), &stranger)), Err(TrustError::OtherRoot { .. })));
}

#[test]
fn past_its_date_a_bundle_carries_level_1_and_then_nothing() {
    let root = root();
    let trust = Trust::open(signed(&bundle(1), &root), &fingerprint(&root)).unwrap();
    let day = Duration::from_secs(24 * 3600);
    for (days, freshness) in [
        (0, Freshness::Fresh),
        (30, Freshness::Fresh),
        (31, Freshness::Stale),
        (60, Freshness::Stale),
        (61, Freshness::Expired),
    ] {
        let now = ISSUED.plus(day * days);
        assert_eq!(trust.freshness(now), freshness, "after {days} days");
        assert_eq!(trust.allows(Level::One, now), freshness != Freshness::Expired);
        assert_eq!(trust.allows(Level::Three, now), freshness == Freshness::Fresh);
    }
}
