use std::time::Duration;

use reeve_wire::certificate::{Ceiling, Customers};
use reeve_wire::id::Salt;
use reeve_wire::keyfile::KeyLine;
use reeve_wire::level::Level;
use reeve_wire::strict::V1;
use ssh_key::PrivateKey;

use super::*;
use crate::testing::bench::Bench;

const NOW: Millis = Millis(1_800_000_000_000);

struct Person {
    key: PrivateKey,
    technician: Technician,
    site: Name,
}

impl Person {
    fn new(name: &str) -> Self {
        let key = sshsig::generate("").unwrap();
        let technician = Technician {
            name: name.parse().unwrap(),
            directory_id: format!("id-{name}"),
            ceiling: Ceiling { max_level: Level::Three, customers: Customers::All },
            key: key.public_key().key_data().clone(),
            certificate: Digest([1; 32]),
            serial: 1,
            not_after: NOW.plus(Duration::from_secs(3600)),
        };
        Self { key, technician, site: "lab".parse().unwrap() }
    }

    fn delegate(&self, session_key: &PrivateKey) -> Signed {
        let delegation = Delegation {
            v: V1,
            site: self.site.clone(),
            technician_cert: self.technician.certificate,
            session_key: KeyLine::new(session_key.public_key().key_data().clone()).unwrap(),
            max_level: Level::Three,
            not_before: NOW,
            not_after: NOW.plus(Duration::from_secs(3600)),
            nonce: Salt::random(),
        };
        Signed::make(&delegation, &self.key).unwrap()
    }

    fn register(&self, sessions: &Sessions, session_key: &PrivateKey) -> Result<Arc<Session>, Code> {
        let (signed, site) = (self.delegate(session_key), &self.site);
        let made = sessions.register(self.technician.clone(), b"certificate".to_vec(), signed, site, NOW);
        made.map_err(|refusal| refusal.code)
    }
}

fn empty() -> (tempfile::TempDir, Sessions) {
    let dir = tempfile::tempdir().unwrap();
    let trust = crate::testing::trust_until(NOW);
    let sessions = Sessions::open(dir.path(), &trust, NOW).unwrap();
    (dir, sessions)
}

#[test]
fn nobody_takes_over_the_session_of_another() {
    let (_dir, sessions) = empty();
    let (alice, mallory, key) = (Person::new("alice"), Person::new("mallory"), sshsig::generate("").unwrap());
    alice.register(&sessions, &key).unwrap();
    assert_eq!(mallory.register(&sessions, &key).unwrap_err(), Code::DelegationInvalid);
    assert!(sessions.find(&alice.technician.name, key.public_key().key_data(), NOW).is_ok());
    assert!(alice.register(&sessions, &key).is_ok(), "the same person may delegate to it again");
}

#[test]
fn one_person_does_not_take_the_room_of_all() {
    let (_dir, sessions) = empty();
    let (alice, bob) = (Person::new("alice"), Person::new("bob"));
    let fresh = || sshsig::generate("").unwrap();
    let first = alice.register(&sessions, &fresh()).unwrap();
    for _ in 1..MOST_EACH {
        alice.register(&sessions, &fresh()).unwrap();
    }
    assert_eq!(alice.register(&sessions, &fresh()).unwrap_err(), Code::Busy);
    assert!(bob.register(&sessions, &fresh()).is_ok());
    sessions.end(&first);
    assert!(alice.register(&sessions, &fresh()).is_ok());
}

#[tokio::test]
async fn a_draft_that_a_crash_left_is_no_session_after_a_restart() {
    let bench = Bench::new();
    drop(bench.session());
    let folder = bench.master.config.state.join("sessions");
    let (trust, now) = (bench.master.trusted.bundle(), bench.master.clock.now());
    let count = || std::fs::read_dir(&folder).unwrap().count();
    assert_eq!((count(), Sessions::open(&folder, &trust, now).unwrap().table().len()), (1, 1));

    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    std::fs::rename(&file, folder.join(".draft.0011")).unwrap();
    assert_eq!((Sessions::open(&folder, &trust, now).unwrap().table().len(), count()), (0, 0));
    bench.end().await;
}
