//! The second factor, and names that a directory would read as more than a name.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use reeve_link::dial::{DialError, Identity};
use reeve_link::parts::{self, Inbound, Item};
use reeve_wire::message::{Ask, Part, PartKind};
use russh::client::AuthResult;

use super::clients::{PATIENCE, with_certificate, with_password};
use super::stage::{Stage, fingerprint};

/// What an LDAP filter or DN would take apart, and what is no name for other reasons.
const NAMES: [&str; 12] = [
    "tech:*)(uid=*",
    "tech:\\2a",
    "tech:a)(|(memberOf=*",
    "tech:cn=x,ou=L3",
    "tech:bob,ou=People,dc=noc,dc=example",
    "tech:bob\0",
    "tech:bob\nalice",
    "tech: bob",
    "tech:BOB",
    "tech:",
    "bob",
    "host:contoso/../web01",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_its_password_and_a_name_that_is_none_are_refused() {
    let stage = Stage::new();
    let long = "x".repeat(4096);
    for (what, password) in [
        ("a wrong password", "not the password"),
        ("no password", ""),
        ("a blank password", "   "),
        ("a NUL", "\0"),
        ("the password and a NUL", &format!("{}\0", stage.password("bob"))),
        ("4,096 characters", &long),
    ] {
        wrong_password(&stage, what, password).await;
        if !password.contains('\0') {
            wrong_password_by_ssh(&stage, what, password).await;
        }
    }
    a_password_needs_a_key_before_it(&stage).await;
    names_never_reach_the_directory(&stage).await;

    let (key, certificate) = stage.technician("bob");
    let right = with_password("tech:bob", &key, &certificate, &stage.password("bob"));
    stage.dial(stage.source(), right).await.unwrap();
    stage.verify();
}

async fn wrong_password(stage: &Stage, what: &str, password: &str) {
    let (key, certificate) = stage.technician("bob");
    let source = stage.source();
    let mut session = stage.bare(source).await;
    let first = session.authenticate_openssh_cert("tech:bob", std::sync::Arc::new(key.clone()), certificate).await;
    assert!(matches!(first, Ok(AuthResult::Failure { partial_success: true, .. })), "{what}: {first:?}");
    let second = session.authenticate_password("tech:bob", password).await;
    assert!(matches!(second, Ok(AuthResult::Failure { partial_success: false, .. })), "{what}: {second:?}");
    let opened = tokio::time::timeout(PATIENCE, session.channel_open_session()).await.unwrap();
    assert!(opened.is_err(), "{what}: a channel all the same");
    let note = stage.note(source, "login-failed", what).await;
    assert_eq!((note.text("kind"), note.text("user")), ("login-failed", "bob"), "{what}");
    assert_eq!(note.text("key"), fingerprint(&key), "{what}");
}

async fn wrong_password_by_ssh(stage: &Stage, what: &str, password: &str) {
    let (key, certificate) = stage.technician("bob");
    let source = stage.source();
    let secret = stage.folder().join("password");
    std::fs::write(&secret, password).unwrap();
    let ask = stage.folder().join("askpass");
    std::fs::write(&ask, format!("#!/bin/sh\ncat '{}'\n", secret.display())).unwrap();
    std::fs::set_permissions(&ask, std::fs::Permissions::from_mode(0o700)).unwrap();
    let technician = &stage.site.lab().technicians["bob"];
    let held = super::papers::Held {
        key_file: technician.key.clone(),
        certificate_file: technician.certificate.clone(),
        key,
        certificate,
    };
    let master = stage.master();
    let mut ssh = stage.ssh(source, "tech:bob", &held);
    ssh.args(["-o", "PreferredAuthentications=publickey,password", "-o", "NumberOfPasswordPrompts=1"]);
    ssh.args(["-p", &master.port().to_string(), &master.ip().to_string(), "-s", "reeve"]);
    let done = ssh.env("SSH_ASKPASS", &ask).env("SSH_ASKPASS_REQUIRE", "force").output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(255), "{what}: {said}");
    assert!(said.contains("Permission denied"), "{what}: {said}");
    assert_eq!(stage.note(source, "login-failed", what).await.text("key"), fingerprint(&held.key), "{what}");
}

/// The password alone is half of nothing.
async fn a_password_needs_a_key_before_it(stage: &Stage) {
    let source = stage.source();
    let mut session = stage.bare(source).await;
    let alone = session.authenticate_password("tech:bob", stage.password("bob")).await;
    assert!(matches!(alone, Ok(AuthResult::Failure { partial_success: false, .. })), "{alone:?}");
    drop(session);
    let note = stage.note(source, "login-failed", "a password alone").await;
    assert_eq!((note.text("kind"), note.text("user")), ("login-failed", "tech:bob"));

    // Bob's key does not make alice's password count.
    let (key, certificate) = stage.technician("bob");
    let mut session = stage.bare(stage.source()).await;
    let first = session.authenticate_openssh_cert("tech:bob", std::sync::Arc::new(key), certificate).await;
    assert!(matches!(first, Ok(AuthResult::Failure { partial_success: true, .. })), "{first:?}");
    let second = session.authenticate_password("tech:alice", stage.password("alice")).await;
    assert!(matches!(second, Ok(AuthResult::Failure { partial_success: false, .. })), "{second:?}");
}

/// While the directory cannot be asked, asking it has its own code: whoever gets another was refused before.
async fn names_never_reach_the_directory(stage: &Stage) {
    let (key, certificate) = stage.technician("bob");
    let people = std::path::PathBuf::from(&stage.site.lab().directory.url);
    let away = people.with_extension("away");
    std::fs::rename(&people, &away).unwrap();

    let source = stage.source();
    let asked = with_password("tech:bob", &key, &certificate, &stage.password("bob"));
    let refused = stage.dial(source, asked).await;
    assert!(matches!(refused, Err(DialError::PasswordRefused { .. })), "{refused:?}");
    stage.note(source, "directory-unavailable", "a name that is one").await;
    for name in NAMES {
        let source = stage.source();
        let refused = stage.dial(source, with_password(name, &key, &certificate, &stage.password("bob"))).await;
        assert!(matches!(refused, Err(DialError::KeyRefused { .. })), "{name:?}: {refused:?}");
        let note = stage.note(source, "certificate-principal", name).await;
        assert_eq!((note.text("kind"), note.text("user")), ("login-failed", name));
        // Nor does a certificate for that very text help.
        if !name.contains(',') {
            let held = stage.odd_principal(name);
            let source = stage.source();
            let refused = stage.dial(source, with_certificate(name, &held.key, &held.certificate)).await;
            assert!(matches!(refused, Err(DialError::KeyRefused { .. })), "{name:?}: {refused:?}");
            stage.note(source, "certificate-principal", name).await;
        }
    }

    std::fs::rename(&away, &people).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_enrolls_gets_the_bundle_and_nothing_else() {
    let stage = Stage::new();
    let nobody = |user: &str| Identity::None { user: user.to_owned() };
    let link = stage.dial(stage.source(), nobody("enroll")).await.unwrap().link;
    let (_sender, receiver) = tokio::time::timeout(PATIENCE, link.accept()).await.unwrap().unwrap().split();
    let mut inbound = Inbound::new(receiver);
    let mut came = Vec::new();
    while let Some(item) = tokio::time::timeout(PATIENCE, inbound.next()).await.unwrap().unwrap() {
        let Item::Part(part) = item else { panic!("{item:?}") };
        came.push(part);
    }
    let bundle = std::fs::read(&stage.site.lab().trust).unwrap();
    assert_eq!(came, [Part::new(PartKind::Bundle, bundle), Part::new(PartKind::Go, [])]);

    for ask in [Ask::Whoami {}, Ask::Hosts { selector: None }, Ask::Register {}] {
        let (mut sender, receiver) = link.open().unwrap().split();
        parts::send(&mut sender, &[Part::json(PartKind::Ask, &ask).unwrap()]).await.unwrap();
        let answer = tokio::time::timeout(PATIENCE, Inbound::new(receiver).next()).await.unwrap();
        assert!(answer.is_err(), "{ask:?} was answered with {answer:?}");
    }
    link.control_send(b"anything".as_slice().into()).await.unwrap();
    let said = tokio::time::timeout(Duration::from_secs(1), link.control_next()).await;
    assert!(matches!(said, Err(_) | Ok(None)), "{said:?}");

    for name in ["", "Enroll", "enroll ", "enroll\0", "root", "tech:bob", "host:contoso/web01", "master:m1"] {
        let source = stage.source();
        let refused = stage.dial(source, nobody(name)).await;
        assert!(matches!(refused, Err(DialError::KeyRefused { .. })), "{name:?}: {refused:?}");
        let note = stage.note(source, "login-failed", name).await;
        assert_eq!((note.text("kind"), note.text("user")), ("login-failed", name));
    }
}
