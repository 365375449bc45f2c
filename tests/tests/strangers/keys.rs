//! Bare keys: sessions that are over, keys that were only offered, signatures that were made for something else.

use reeve_link::dial::DialError;
use reeve_wire::level::Level;
use reeve_wire::message::{Answer, Ask, Part, PartKind};
use reeve_wire::sshsig;
use ssh_key::PrivateKey;

use super::clients::{Raw, kind, query, signed_login, with_key};
use super::papers::Held;
use super::stage::{Stage, fingerprint};
use super::technician::{Hand, submission};

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_key_is_a_live_session_or_nobody() {
    let stage = Stage::new();
    a_key_without_registration_is_nobody(&stage).await;
    a_session_is_over_when_it_was_logged_out(&stage).await;
    whoever_signs_is_the_one_who_is_let_in(&stage).await;
    a_signature_counts_for_its_own_connection_alone(&stage).await;
    a_session_speaks_for_its_own_technician_alone(&stage).await;
    assert_eq!(stage.started(), 0, "nothing ran");
    stage.verify();
}

async fn refused(stage: &Stage, user: &str, key: &PrivateKey, what: &str) {
    let source = stage.source();
    let refused = stage.dial(source, with_key(user, key)).await;
    assert!(matches!(refused, Err(DialError::KeyRefused { .. })), "{what}: {refused:?}");
    let note = stage.note(source, "session-unknown", what).await;
    assert_eq!((note.text("kind"), note.text("user")), ("login-failed", user), "{what}");
    assert_eq!(note.text("key"), fingerprint(key), "{what}");
}

async fn a_key_without_registration_is_nobody(stage: &Stage) {
    let key = sshsig::generate("bare").unwrap();
    refused(stage, "tech:bob", &key, "a bare key").await;
    refused(stage, "tech:bob", &stage.technician("bob").0, "the own key without its certificate").await;
    refused(stage, "host:contoso/web01", &stage.agent("contoso/web01").0, "an agent's key without its certificate")
        .await;

    let held = Held {
        key_file: stage.key_file(&key),
        certificate_file: "/dev/null".into(),
        certificate: stage.technician("bob").1,
        key,
    };
    let source = stage.source();
    let (status, said) = stage.stock_ssh(source, "tech:bob", &held, &[]);
    assert_eq!(status, 255, "{said}");
    let note = stage.note(source, "session-unknown", "a bare key from stock ssh").await;
    assert_eq!(note.text("key"), fingerprint(&held.key));
}

async fn a_session_is_over_when_it_was_logged_out(stage: &Stage) {
    let (hand, pen) = stage.session("bob", Level::Two).await;
    let other = stage.resume("bob", &pen).await;
    let logout = Part::json(PartKind::Ask, &Ask::Logout {}).unwrap();
    assert!(matches!(hand.ask(&[logout]).await.answers().as_slice(), [Answer::LoggedOut {}]));

    refused(stage, "tech:bob", &pen.key, "a session key after logout").await;
    // A connection that stood before is worth as little, and so is a signature by that key.
    let paper = stage.paper(&pen, &["contoso/web01"], |_| ());
    let operation = paper.header.operation.to_string();
    let (code, record) = other.ask(&submission(&paper, &pen)).await.refusal("a connection after logout");
    assert_eq!(code.as_str(), "session-unknown");
    assert_eq!(stage.story(&operation, "session-unknown", "after logout")["record_result"].as_u64(), record);
    let paper = stage.paper(&pen, &["contoso/web01"], |_| ());
    let (code, _) = stage.hand("bob").await.ask(&submission(&paper, &pen)).await.refusal("a signature after logout");
    assert_eq!(code.as_str(), "session-unknown");
    stage.story(&paper.header.operation.to_string(), "session-unknown", "a signature after logout");
}

/// CVE-2024-45337: a key that was offered, and found good, says nothing of who then signs with another.
async fn whoever_signs_is_the_one_who_is_let_in(stage: &Stage) {
    let ((_, alice), (_, bob)) = (stage.session("alice", Level::Three).await, stage.session("bob", Level::Two).await);

    let source = stage.source();
    let mut raw = Raw::connect(stage, source);
    raw.begin();
    assert_eq!(raw.ask(&query("tech:alice", &(&alice.key).into())), kind::USERAUTH_PK_OK);
    let as_alice = signed_login("tech:alice", &(&bob.key).into(), &bob.key, &raw.session);
    assert_eq!(raw.ask(&as_alice), kind::USERAUTH_FAILURE);
    let note = stage.note(source, "session-unknown", "alice's key offered, bob's used").await;
    assert_eq!((note.text("user"), note.text("key")), ("tech:alice", fingerprint(&bob.key).as_str()));
    // Alice's key with bob's signature is no signature at all.
    assert_eq!(raw.ask(&query("tech:alice", &(&alice.key).into())), kind::USERAUTH_PK_OK);
    let forged = signed_login("tech:alice", &(&alice.key).into(), &bob.key, &raw.session);
    assert_eq!(raw.ask(&forged), kind::USERAUTH_FAILURE);
    drop(raw);

    let mut raw = Raw::connect(stage, stage.source());
    raw.begin();
    assert_eq!(raw.ask(&query("tech:alice", &(&alice.key).into())), kind::USERAUTH_PK_OK);
    let as_bob = signed_login("tech:bob", &(&bob.key).into(), &bob.key, &raw.session);
    assert_eq!(raw.ask(&as_bob), kind::USERAUTH_SUCCESS);
    drop(raw);

    let hand = Hand { link: stage.dial(stage.source(), with_key("tech:bob", &bob.key)).await.unwrap().link };
    let whoami = Part::json(PartKind::Ask, &Ask::Whoami {}).unwrap();
    let answered = hand.ask(&[whoami]).await.answers();
    let [Answer::Whoami(me)] = answered.as_slice() else { panic!("{answered:?}") };
    assert_eq!(me.name.as_str(), "bob");
}

async fn a_signature_counts_for_its_own_connection_alone(stage: &Stage) {
    let (_, bob) = stage.session("bob", Level::Two).await;
    let (agent, certificate) = stage.agent("contoso/web01");
    let mut before = Raw::connect(stage, stage.source());
    before.begin();
    let captured = [
        signed_login("tech:bob", &(&bob.key).into(), &bob.key, &before.session),
        signed_login("host:contoso/web01", &(&certificate).into(), &agent, &before.session),
    ];
    let zeroes = [
        signed_login("tech:bob", &(&bob.key).into(), &bob.key, &[0; 32]),
        signed_login("host:contoso/web01", &(&certificate).into(), &agent, &[]),
    ];
    for (request, key) in captured.iter().chain(&zeroes).zip([&bob.key, &agent, &bob.key, &agent]) {
        let source = stage.source();
        let mut raw = Raw::connect(stage, source);
        raw.begin();
        assert_ne!(raw.session, before.session);
        assert_eq!(raw.ask(request), kind::USERAUTH_FAILURE);
        drop(raw);
        let note = stage.note(source, "login-failed", "a signature for another connection").await;
        assert_eq!(note.text("key"), fingerprint(key));
    }
    // On its own connection the same message opens the door.
    assert_eq!(before.ask(&captured[0]), kind::USERAUTH_SUCCESS);
}

async fn a_session_speaks_for_its_own_technician_alone(stage: &Stage) {
    let (_, bob) = stage.session("bob", Level::Two).await;
    refused(stage, "tech:alice", &bob.key, "bob's session under alice's name").await;
    refused(stage, "host:contoso/web01", &bob.key, "bob's session under a host's name").await;
    refused(stage, "master:m1", &bob.key, "bob's session under the master's name").await;
    refused(stage, "enroll", &bob.key, "a key under the name that needs none").await;
}
