//! Which certificates open the door, and what the others get.

use std::sync::Arc;

use reeve_link::dial::DialError;
use reeve_wire::sshsig;
use serde_json::Value;
use tokio::task::JoinSet;

use super::clients::{Message, Raw, kind, query, with_certificate, with_password};
use super::papers::{Held, Wish};
use super::stage::{Stage, fingerprint};

/// A certificate, the name that is claimed with it, and the code of its refusal.
struct Case {
    what: &'static str,
    claim: &'static str,
    held: Held,
    code: &'static str,
    /// Turned away before anyone is asked, by the SSH library, so that its key is not known.
    unseen: bool,
    /// Stock `ssh` does not show it at all.
    unshown: bool,
}

fn cases(stage: &Stage) -> Vec<Case> {
    let bob = stage.like_bob();
    let issue = |change: fn(&mut Wish)| {
        let mut wish = bob.clone();
        change(&mut wish);
        stage.issue(&wish)
    };
    let by = |ca: &str, principal: &str| {
        stage.issue(&Wish { ca: stage.ca(ca), principals: vec![principal.to_owned()], ..bob.clone() })
    };
    let other_ca = stage.key_file(&sshsig::generate("other CA").unwrap());
    let case = |what, claim, code, held| Case { what, claim, held, code, unseen: false, unshown: false };
    let unseen =
        |what, held| Case { what, claim: "tech:bob", held, code: "login-failed", unseen: true, unshown: false };
    vec![
        case("an agent's certificate as a technician", "tech:bob", "certificate-untrusted", {
            by("agents", "host:contoso/web01")
        }),
        case("a technician's name by the agents' CA", "tech:bob", "certificate-untrusted", by("agents", "tech:bob")),
        case("a technician's certificate as an agent", "host:contoso/web01", "certificate-untrusted", {
            by("technicians", "tech:bob")
        }),
        case("a host's name by the technicians' CA", "host:contoso/web01", "certificate-untrusted", {
            by("technicians", "host:contoso/web01")
        }),
        case("the certificate of another CA", "tech:bob", "certificate-untrusted", {
            stage.issue(&Wish { ca: other_ca, ..bob.clone() })
        }),
        case("a certificate by the root", "tech:bob", "certificate-untrusted", by("root", "tech:bob")),
        case("a certificate by the masters' CA", "tech:bob", "certificate-untrusted", by("masters", "tech:bob")),
        unseen("an expired certificate", issue(|wish| wish.valid = "-2h:-1h")),
        unseen("a certificate of tomorrow", issue(|wish| wish.valid = "+1d:+2d")),
        case("somebody else's name", "tech:alice", "certificate-principal", issue(|_| ())),
        case("two principals", "tech:bob", "certificate-principal", {
            issue(|wish| wish.principals.push("tech:alice".to_owned()))
        }),
        case("no principals, which OpenSSH takes for all", "tech:bob", "certificate-principal", {
            issue(|wish| wish.principals.clear())
        }),
        case("two names in one principal", "tech:bob", "certificate-principal", {
            stage.odd_principal("tech:bob,tech:alice")
        }),
        case("a principal with a line end", "tech:bob", "certificate-principal", {
            stage.odd_principal("tech:bob\ntech:alice")
        }),
        case("a principal with a NUL", "tech:bob", "certificate-principal", stage.odd_principal("tech:bob\0")),
        case("an unknown critical option", "tech:bob", "certificate-option", {
            issue(|wish| wish.options.push("critical:two-hands@example.org=yes".to_owned()))
        }),
        case("OpenSSH's own critical option", "tech:bob", "certificate-option", {
            issue(|wish| wish.options.push("force-command=/bin/true".to_owned()))
        }),
        Case {
            unshown: true,
            ..case("a host certificate", "tech:bob", "certificate-kind", issue(|wish| wish.host = true))
        },
        case("a certificate without a ceiling", "tech:bob", "certificate-ceiling", {
            issue(|wish| wish.options.truncate(1))
        }),
        case(
            "a certificate for half a year",
            "tech:bob",
            "certificate-lifetime",
            issue(|wish| wish.valid = "-5m:+26w"),
        ),
        case("the CA's own key as a leaf", "tech:bob", "certificate-kind", {
            stage.certify(stage.ca_key("technicians"), &bob)
        }),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_certificate_but_the_right_one_opens_the_door_and_each_refusal_is_recorded() {
    let stage = Arc::new(Stage::new());
    let mut tries = JoinSet::new();
    for case in cases(&stage) {
        let stage = Arc::clone(&stage);
        tries.spawn(async move {
            refused_by_dial(&stage, &case).await;
            refused_by_ssh(&stage, &case).await;
        });
    }
    tries.join_all().await;

    // The right ones do, so that the refusals above are not for the form of what ssh-keygen writes.
    let bob = stage.issue(&stage.like_bob());
    let identity = with_password("tech:bob", &bob.key, &bob.certificate, &stage.password("bob"));
    stage.dial(stage.source(), identity).await.unwrap();
    let web01 = Wish {
        ca: stage.ca("agents"),
        principals: vec!["host:contoso/web01".to_owned()],
        options: vec!["clear".to_owned()],
        ..stage.like_bob()
    };
    let web01 = stage.issue(&web01);
    let identity = with_certificate("host:contoso/web01", &web01.key, &web01.certificate);
    stage.dial(stage.source(), identity).await.unwrap();
    assert_eq!(stage.started(), 0, "nothing ran");
}

async fn refused_by_dial(stage: &Stage, case: &Case) {
    let source = stage.source();
    let identity = with_certificate(case.claim, &case.held.key, &case.held.certificate);
    let refused = stage.dial(source, identity).await;
    assert!(matches!(refused, Err(DialError::KeyRefused { .. })), "{}: {refused:?}", case.what);
    let note = stage.note(source, case.code, case.what).await;
    if !case.unseen {
        assert_eq!(note.text("kind"), "login-failed", "{}", case.what);
        assert_eq!(note.text("user"), case.claim, "{}", case.what);
        assert_eq!(note.text("key"), fingerprint(&case.held.key), "{}", case.what);
    }
    assert!(!note.text("reason").is_empty(), "{}", case.what);
}

/// Stock `ssh` shows the certificate and then the bare key, which is no session's: two refusals.
async fn refused_by_ssh(stage: &Stage, case: &Case) {
    let source = stage.source();
    let (status, said) = tokio::task::block_in_place(|| stage.stock_ssh(source, case.claim, &case.held, &[]));
    assert_eq!(status, 255, "{}: {said}", case.what);
    assert!(said.contains("Permission denied"), "{}: {said}", case.what);
    let unseen = case.unseen || case.unshown;
    let codes: &[&str] = if unseen { &["session-unknown"] } else { &[case.code, "session-unknown"] };
    for note in stage.notes(source, codes, case.what).await {
        assert_eq!(note.text("kind"), "login-failed", "{}", case.what);
        assert_eq!(note.text("user"), case.claim, "{}", case.what);
        assert_eq!(note.text("key"), fingerprint(&case.held.key), "{}", case.what);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_honest_client_at_all_gets_nowhere_and_repeats_are_counted() {
    let stage = Stage::new();
    let repeated = stage.source();
    let bob = stage.issue(&Wish { principals: Vec::new(), ..stage.like_bob() });
    for _ in 0..4 {
        let identity = with_certificate("tech:bob", &bob.key, &bob.certificate);
        assert!(stage.dial(repeated, identity).await.is_err());
    }
    assert_eq!(stage.note(repeated, "certificate-principal", "the first of four").await.event.count, 1);

    a_certificate_in_place_of_the_signing_key_is_no_certificate(&stage).await;
    a_channel_before_login_is_not_opened(&stage).await;
    weak_algorithms_find_no_common_ground(&stage).await;

    let counted = || stage.noted(repeated).into_iter().map(|note| note.event.count).collect::<Vec<_>>();
    reeve_lab::desk::wait_for("the repeats are one record", std::time::Duration::from_secs(75), || counted() == [1, 3]);
    let codes: Vec<Value> = stage.noted(repeated).into_iter().map(|note| note.line["code"].clone()).collect();
    assert_eq!(codes, ["certificate-principal", "certificate-principal"]);
}

/// A nested certificate: what signed it is itself a certificate (OpenSSH's PROTOCOL.certkeys forbids it).
async fn a_certificate_in_place_of_the_signing_key_is_no_certificate(stage: &Stage) {
    let bob = stage.issue(&stage.like_bob());
    let blob = bob.certificate.to_bytes().unwrap();
    let ca = bob.certificate.signature_key().clone();
    let ca = Message(Vec::new()).string(&ssh_key::PublicKey::from(ca).to_bytes().unwrap()).0;
    let at = blob.windows(ca.len()).position(|window| window == ca).unwrap();
    let nested = [&blob[..at], &Message(Vec::new()).string(&blob).0, &blob[at + ca.len()..]].concat();

    let source = stage.source();
    let mut raw = Raw::connect(stage, source);
    raw.begin();
    let asked = Message::login("tech:bob", "publickey").byte(0).string(b"ssh-ed25519-cert-v01@openssh.com");
    let answer = raw.ask(&asked.string(&nested));
    assert!([0, 1, kind::USERAUTH_FAILURE].contains(&answer), "answered with {answer}");
    drop(raw);
    stage.note(source, "login-failed", "a nested certificate").await;
}

/// GHSA-3cjp: a public key is no secret, and to be told that it would do is not to have proved it.
async fn a_channel_before_login_is_not_opened(stage: &Stage) {
    let (key, certificate) = stage.technician("bob");
    let source = stage.source();
    let mut raw = Raw::connect(stage, source);
    raw.begin();
    assert_eq!(raw.ask(&query("tech:bob", &(&certificate).into())), kind::USERAUTH_PK_OK);
    let session = Message::of(kind::CHANNEL_OPEN).string(b"session").number(0).number(1 << 20).number(1 << 15);
    raw.send(&session.0);
    raw.send(&Message::of(kind::USERAUTH_SUCCESS).0);
    let forward: &[u8] = b"tcpip-forward";
    raw.send(&Message::of(kind::GLOBAL_REQUEST).string(forward).byte(1).string(b"127.0.0.1").number(0).0);
    raw.send(&session.0);
    // Messages are answered in their order: what comes is the answer to this, so the others had none.
    assert_eq!(raw.ask(&Message::login("tech:bob", "none")), kind::USERAUTH_FAILURE);
    drop(raw);
    let note = stage.note(source, "login-failed", "a key offered and not proved").await;
    assert_eq!(note.text("kind"), "login-failed");
    assert_eq!((note.text("user"), note.text("key")), ("tech:bob", fingerprint(&key).as_str()));
}

/// Paramiko of Debian 12 has neither of the two ciphers: nothing weaker is agreed on for its sake.
async fn weak_algorithms_find_no_common_ground(stage: &Stage) {
    let source = stage.source();
    let master = stage.master();
    let script = "import paramiko, socket, sys\n\
        s = socket.create_connection((sys.argv[2], int(sys.argv[3])), source_address=(sys.argv[1], 0))\n\
        t = paramiko.Transport(s)\n\
        try:\n    t.start_client(timeout=20)\n    print('agreed')\n\
        except Exception as e:\n    print(type(e).__name__)\n";
    let mut python = std::process::Command::new("/usr/bin/python3");
    python.args(["-c", script, &source.to_string(), &master.ip().to_string(), &master.port().to_string()]);
    let said = String::from_utf8(python.output().unwrap().stdout).unwrap();
    assert!(["IncompatiblePeer", "SSHException", "EOFError"].contains(&said.trim()), "{said}");
    assert_eq!(stage.note(source, "login-failed", "paramiko").await.text("kind"), "connection-refused");

    let source = stage.source();
    let bob = stage.issue(&stage.like_bob());
    let weak =
        ["-o", "Ciphers=aes128-ctr", "-o", "MACs=hmac-sha1", "-o", "KexAlgorithms=diffie-hellman-group14-sha256"];
    let (status, said) = stage.stock_ssh(source, "tech:bob", &bob, &weak);
    assert_eq!(status, 255);
    assert!(said.contains("no matching"), "{said}");
    assert_eq!(stage.note(source, "login-failed", "weak algorithms").await.text("kind"), "connection-refused");
}
