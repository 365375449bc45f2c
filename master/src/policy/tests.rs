use std::collections::BTreeMap;

use reeve_wire::certificate::{Ceiling, Customers};
use reeve_wire::id::Digest;
use reeve_wire::sshsig;

use super::*;
use crate::directory::Right;
use crate::testing::trust_until;

const NOW: Millis = Millis(1_800_000_000_000);

fn technician(max_level: Level, customers: &str) -> Technician {
    Technician {
        name: "ana".parse().unwrap(),
        directory_id: "id-ana".into(),
        ceiling: Ceiling { max_level, customers: customers.parse::<Customers>().unwrap() },
        key: sshsig::generate("").unwrap().public_key().key_data().clone(),
        certificate: Digest([0; 32]),
        serial: 1,
        not_after: NOW.plus(Duration::from_secs(3600)),
    }
}

fn person(level: Option<Level>) -> Person {
    let right = level.map(|level| ("contoso/web01".parse().unwrap(), Right { level, via_group: "the group".into() }));
    Person {
        name: "ana".parse().unwrap(),
        id: "id-ana".into(),
        state: State::Good,
        staff: true,
        rights: right.into_iter().collect::<BTreeMap<_, _>>(),
    }
}

fn answer(person: Option<Person>) -> Result<Answer, Unavailable> {
    Ok(Answer { asked_at: Instant::now(), server: "ldap.example".into(), person: person.map(Arc::new) })
}

/// The code of the decision, or `None` for a yes.
fn ask(
    technician: &Technician,
    session: Option<Level>,
    needs: Level,
    answer: &Result<Answer, Unavailable>,
) -> Option<Code> {
    let host = "contoso/web01".parse().unwrap();
    let question = Question { technician, session_level: session, host: &host, needs };
    let trust = trust_until(NOW.plus(Duration::from_secs(1)));
    decide(question, answer, &trust, (NOW, Instant::now())).1.err().map(|refusal| refusal.code)
}

/// Every level held against every level needed: a security admin reads the policy here without reading the code.
#[test]
fn a_level_reaches_what_needs_it_or_less() {
    use Level::{One as L1, Three as L3, Two as L2};
    const LOW: Option<Code> = Some(Code::LevelTooLow);
    const NONE: Option<Code> = Some(Code::NotYours);

    for (held, needs, verdict) in [
        (None, L1, NONE),
        (None, L2, NONE),
        (None, L3, NONE),
        (Some(L1), L1, None),
        (Some(L1), L2, LOW),
        (Some(L1), L3, LOW),
        (Some(L2), L1, None),
        (Some(L2), L2, None),
        (Some(L2), L3, LOW),
        (Some(L3), L1, None),
        (Some(L3), L2, None),
        (Some(L3), L3, None),
    ] {
        let ana = technician(L3, "*");
        assert_eq!(ask(&ana, None, needs, &answer(Some(person(held)))), verdict, "held {held:?}, needs {needs:?}");
    }
}

#[test]
fn the_ceiling_and_the_session_only_take_away() {
    use Level::{One as L1, Three as L3, Two as L2};

    for (ceiling, customers, session, needs, verdict) in [
        (L3, "*", None, L3, None),
        (L3, "contoso", None, L3, None),
        (L3, "fabrikam,contoso", Some(L3), L3, None),
        (L2, "contoso", None, L2, None),
        (L2, "contoso", None, L3, Some(Code::CeilingLevel)),
        (L3, "fabrikam", None, L1, Some(Code::CeilingCustomer)),
        (L3, "*", Some(L1), L2, Some(Code::DelegationLevel)),
        (L1, "*", Some(L3), L1, None),
    ] {
        let ana = technician(ceiling, customers);
        let found = ask(&ana, session, needs, &answer(Some(person(Some(L3)))));
        assert_eq!(found, verdict, "ceiling {ceiling} on {customers}, session {session:?}, needs {needs}");
    }
}

#[test]
fn whoever_is_not_in_good_standing_does_nothing() {
    let ana = technician(Level::Three, "*");
    let good = || person(Some(Level::Three));

    for (person, code) in [
        (Some(Person { state: State::Disabled, ..good() }), Code::AccountDisabled),
        (Some(Person { state: State::Locked, ..good() }), Code::AccountLocked),
        (Some(Person { state: State::Expired, ..good() }), Code::AccountExpired),
        (Some(Person { state: State::MustChange, ..good() }), Code::PasswordMustChange),
        (Some(Person { staff: false, ..good() }), Code::NotStaff),
        (Some(Person { id: "id-newcomer".into(), ..good() }), Code::IdentityChanged),
        (None, Code::PersonUnknown),
    ] {
        assert_eq!(ask(&ana, None, Level::One, &answer(person)), Some(code));
    }
}

#[test]
fn a_directory_that_does_not_answer_is_a_refusal() {
    let ana = technician(Level::Three, "*");
    let late = Err(Unavailable::TimedOut { server: "ldap.example".into() });
    assert_eq!(ask(&ana, None, Level::One, &late), Some(Code::DirectoryUnavailable));
    let twice = Err(Unavailable::AmbiguousIdentity { name: "ana".into() });
    assert_eq!(ask(&ana, None, Level::One, &twice), Some(Code::AmbiguousIdentity));
}

#[test]
fn a_stale_bundle_leaves_level_1_and_an_expired_one_nothing() {
    let ana = technician(Level::Three, "*");
    let host = "contoso/web01".parse().unwrap();
    let day = Duration::from_secs(24 * 3600);
    let trust = trust_until(NOW);
    for (later, needs, verdict) in [
        (Duration::ZERO, Level::Three, None),
        (day, Level::One, None),
        (day, Level::Two, Some(Code::TrustStale)),
        (day * 31, Level::One, Some(Code::TrustStale)),
    ] {
        let question = Question { technician: &ana, session_level: None, host: &host, needs };
        let now = (NOW.plus(later), Instant::now());
        let found = decide(question, &answer(Some(person(Some(Level::Three)))), &trust, now).1;
        assert_eq!(found.err().map(|refusal| refusal.code), verdict, "{later:?} later, level {needs}");
    }
}

#[test]
fn the_age_of_an_answer_counts_from_the_question() {
    let ana = technician(Level::Three, "*");
    let host = "contoso/web01".parse().unwrap();
    let question = Question { technician: &ana, session_level: None, host: &host, needs: Level::One };
    let answer = answer(Some(person(Some(Level::One))));
    let later = answer.as_ref().unwrap().asked_at + Duration::from_millis(1234);
    let (grounds, _) = decide(question, &answer, &trust_until(NOW), (NOW, later));
    assert_eq!(grounds.age, Duration::from_millis(1234));
    assert_eq!(grounds.directory.as_deref(), Some("ldap.example"));
    assert_eq!(grounds.via_group.as_deref(), Some("the group"));
}
