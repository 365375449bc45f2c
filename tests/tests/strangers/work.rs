//! A logged-in technician whose console checks nothing: each check is the master's too.

use std::time::Duration;

use reeve_wire::delegation::LONGEST;
use reeve_wire::id::{Digest, OperationId};
use reeve_wire::level::Level;
use reeve_wire::message::{Answer, Ask, Part, PartKind};
use reeve_wire::request::{Header, Targets};
use reeve_wire::signed::Signed;
use reeve_wire::sshsig;

use super::stage::Stage;
use super::technician::{Hand, Heard, Paper, Pen, now, raw, run, submission};

const WEB01: &str = "contoso/web01";

/// Bob, who holds level 2 on web01 and level 1 on db01, at the master with both factors.
struct Bob {
    stage: Stage,
    hand: Hand,
    pen: Pen,
    alice: Pen,
}

impl Bob {
    /// Checks that `heard` is the refusal of `paper` with `code`, with one record, and that nothing ran.
    fn refused(&self, what: &str, code: &str, paper: &Paper, heard: &Heard, started: u64) {
        self.refused_as(what, code, paper.header.operation, heard, started);
    }

    fn refused_as(&self, what: &str, code: &str, operation: OperationId, heard: &Heard, started: u64) {
        let (refused, record) = heard.refusal(what);
        assert_eq!(refused.as_str(), code, "{what}");
        let story = self.stage.story(&operation.to_string(), code, what);
        assert_eq!(story["record_result"].as_u64(), record, "{what}");
        assert_eq!(
            (story["kind"].as_str(), story["decision"].as_str()),
            (Some("operation"), Some("refused")),
            "{what}"
        );
        assert_eq!(story["user"].as_str(), Some("bob"), "{what}");
        assert_eq!(self.stage.started(), started, "{what}: something ran");
    }

    fn paper(&self, change: impl FnOnce(&mut Header)) -> Paper {
        self.stage.paper(&self.pen, &[WEB01], change)
    }
}

/// A request that is refused when it is handed in: what it is, its code, and how it is made.
type Spoilt = (&'static str, &'static str, fn(&Bob) -> (Paper, Vec<Part>));

const SPOILT: &[Spoilt] = &[
    ("a request signed by another key", "request-signature", |bob| {
        let paper = bob.paper(|_| ());
        let other = Pen { key: sshsig::generate("other").unwrap(), ..bob.pen.clone() };
        (paper.clone(), submission(&paper, &other))
    }),
    ("a request that alice signed, by bob's connection", "request-signature", |bob| {
        let paper = bob.stage.paper(&bob.alice, &[WEB01], |_| ());
        (paper.clone(), submission(&paper, &bob.alice))
    }),
    ("bob's signature under alice's certificate", "request-signature", |bob| {
        let paper = bob.stage.paper(&bob.alice, &[WEB01], |_| ());
        let mixed = Pen { key: bob.pen.key.clone(), ..bob.alice.clone() };
        (paper.clone(), submission(&paper, &mixed))
    }),
    ("bob's certificate named, alice's sent along", "request-signature", |bob| {
        let paper = bob.paper(|_| ());
        let mixed = Pen { certificate: bob.alice.certificate.clone(), ..bob.pen.clone() };
        (paper.clone(), submission(&paper, &mixed))
    }),
    ("a certificate of another CA", "certificate-untrusted", |bob| {
        let ca = bob.stage.key_file(&sshsig::generate("CA").unwrap());
        let held = bob.stage.issue(&super::papers::Wish { ca, ..bob.stage.like_bob() });
        let pen = Pen { key: held.key, certificate: held.certificate.to_bytes().unwrap(), delegation: None };
        let paper = bob.stage.paper(&pen, &[WEB01], |_| ());
        (paper.clone(), submission(&paper, &pen))
    }),
    ("a signature over other bytes", "request-signature", |bob| {
        let paper = bob.paper(|_| ());
        let mut said = submission(&paper, &bob.pen);
        let honest = Signed::from_wire(&said[1].bytes).unwrap();
        let json = String::from_utf8(honest.json().to_vec()).unwrap().replace("uptime", "reboot");
        let forged = Signed::from_parts(json.into_bytes(), honest.signature().to_vec());
        said[1] = Part::new(PartKind::Request, forged.to_wire());
        (paper, said)
    }),
    ("a raw command said to be of level 1", "level-mismatch", |bob| {
        let paper = bob.paper(|header| {
            raw(header, &["/bin/true"]);
            header.level = Level::One;
        });
        (paper.clone(), submission(&paper, &bob.pen))
    }),
    ("other input than was signed", "stdin-mismatch", |bob| {
        let mut paper = bob.paper(|header| {
            raw(header, &["/bin/sh", "-s"]);
            header.stdin = Some(Digest::of(b"echo signed"));
        });
        paper.stdin = Some(b"echo forged".to_vec());
        (paper.clone(), submission(&paper, &bob.pen))
    }),
    ("signed input that is not there", "stdin-mismatch", |bob| {
        let paper = bob.paper(|header| {
            raw(header, &["/bin/sh", "-s"]);
            header.stdin = Some(Digest::of(b"echo signed"));
        });
        (paper.clone(), submission(&paper, &bob.pen))
    }),
    ("input that nobody signed", "stdin-mismatch", |bob| {
        let mut paper = bob.paper(|header| raw(header, &["/bin/sh", "-s"]));
        paper.stdin = Some(b"echo forged".to_vec());
        (paper.clone(), submission(&paper, &bob.pen))
    }),
    ("input for an item that takes none", "stdin-mismatch", |bob| {
        let mut paper = bob.paper(|header| header.stdin = Some(Digest::of(b"echo")));
        paper.stdin = Some(b"echo".to_vec());
        (paper.clone(), submission(&paper, &bob.pen))
    }),
    ("input of more than 1 MiB", "stdin-mismatch", |bob| {
        let bytes = vec![b'x'; 1024 * 1024 + 1];
        let mut paper = bob.paper(|header| {
            raw(header, &["/bin/cat"]);
            header.stdin = Some(Digest::of(&bytes));
        });
        paper.stdin = Some(bytes);
        (paper.clone(), submission(&paper, &bob.pen))
    }),
    ("an item that the library does not have", "item-unknown", |bob| {
        let paper = bob.paper(|header| header.item.as_mut().unwrap().name = "reboot".parse().unwrap());
        (paper.clone(), submission(&paper, &bob.pen))
    }),
    ("an item of another version", "item-mismatch", |bob| {
        let paper = bob.paper(|header| header.item.as_mut().unwrap().version += 1);
        (paper.clone(), submission(&paper, &bob.pen))
    }),
    ("an item with another package", "item-mismatch", |bob| {
        let paper = bob.paper(|header| header.item.as_mut().unwrap().digest = Digest([7; 32]));
        (paper.clone(), submission(&paper, &bob.pen))
    }),
    ("a parameter with shell text", "parameter-invalid", |bob| {
        let paper = bob.paper(|header| {
            header.item = Some(bob.stage.item("service-restart"));
            header.args = vec![("NAME".into(), "demo; reboot".into())];
            header.level = Level::Two;
        });
        (paper.clone(), submission(&paper, &bob.pen))
    }),
    ("another operation than was announced", "request-signature", |bob| {
        let (paper, announced) = (bob.paper(|_| ()), bob.paper(|_| ()));
        let mut said = submission(&paper, &bob.pen);
        said[0] = submission(&announced, &bob.pen)[0].clone();
        (announced, said)
    }),
    ("a request for another site", "wrong-site", |bob| {
        let paper = bob.paper(|header| header.site = "elsewhere".parse().unwrap());
        (paper.clone(), submission(&paper, &bob.pen))
    }),
    ("a request of an hour ago", "request-expired", |bob| {
        let paper = bob.paper(|header| {
            header.not_before = header.not_before.minus(Duration::from_secs(3600));
            header.not_after = header.not_before.plus(Duration::from_secs(60));
        });
        (paper.clone(), submission(&paper, &bob.pen))
    }),
    ("a request that is good for a day", "request-expired", |bob| {
        let paper = bob.paper(|header| header.not_after = header.not_before.plus(Duration::from_secs(86_400)));
        (paper.clone(), submission(&paper, &bob.pen))
    }),
    ("a run of a week", "request-malformed", |bob| {
        let paper = bob.paper(|header| header.timeout_ms = 7 * 86_400_000);
        (paper.clone(), submission(&paper, &bob.pen))
    }),
    ("a command with a NUL", "arguments-invalid", |bob| {
        let paper = bob.paper(|header| raw(header, &["/bin/echo", "a\0b"]));
        (paper.clone(), submission(&paper, &bob.pen))
    }),
    ("an empty command", "arguments-invalid", |bob| {
        let paper = bob.paper(|header| raw(header, &[]));
        (paper.clone(), submission(&paper, &bob.pen))
    }),
    ("an item and a command line in one", "request-malformed", |bob| {
        let paper = bob.paper(|header| header.argv = Some(vec!["/bin/true".into()]));
        (paper.clone(), submission(&paper, &bob.pen))
    }),
    ("a request without a certificate", "request-malformed", |bob| {
        let paper = bob.paper(|_| ());
        let said = submission(&paper, &bob.pen);
        (paper, said.into_iter().filter(|part| part.kind != PartKind::Certificate).collect())
    }),
    ("two requests at once", "protocol", |bob| {
        let paper = bob.paper(|_| ());
        let mut said = submission(&paper, &bob.pen);
        said.insert(1, said[1].clone());
        (paper, said)
    }),
    ("a part that belongs elsewhere", "protocol", |bob| {
        let paper = bob.paper(|_| ());
        let mut said = submission(&paper, &bob.pen);
        said.insert(1, Part::new(PartKind::Grant, b"a grant".as_slice()));
        (paper, said)
    }),
    ("an unsigned field more", "request-signature", |bob| {
        let paper = bob.paper(|_| ());
        let mut said = submission(&paper, &bob.pen);
        let honest = Signed::from_wire(&said[1].bytes).unwrap();
        let json = [b"{\"more\":1,", &honest.json()[1..]].concat();
        said[1] = Part::new(PartKind::Request, Signed::from_parts(json, honest.signature().to_vec()).to_wire());
        (paper, said)
    }),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_console_that_checks_nothing_gains_nothing() {
    let stage = Stage::new();
    let (hand, pen, alice) = (stage.hand("bob").await, stage.pen("bob"), stage.pen("alice"));
    let bob = Bob { stage, hand, pen, alice };

    for (what, code, spoil) in SPOILT {
        let (paper, said) = spoil(&bob);
        let heard = bob.hand.ask(&said).await;
        bob.refused(what, code, &paper, &heard, 0);
        let heard = bob.hand.ask(&run(&paper, 0, WEB01)).await;
        bob.refused(what, "request-unknown", &paper, &heard, 0);
    }
    runs_of_what_was_not_signed(&bob).await;
    work_beyond_the_right(&bob).await;
    each_target_once(&bob).await;
    delegations_that_do_not_hold(&bob).await;
    what_is_no_ask(&bob).await;
    bob.stage.verify();
}

async fn runs_of_what_was_not_signed(bob: &Bob) {
    let paper = bob.paper(|_| ());
    let heard = bob.hand.ask(&run(&paper, 0, WEB01)).await;
    bob.refused("a run that was not handed in", "request-unknown", &paper, &heard, 0);

    // What one connection was given is no other connection's.
    let paper = bob.paper(|_| ());
    let other = bob.stage.hand("bob").await;
    let handed_in = other.submit(&paper, &bob.pen).await;
    let heard = bob.hand.ask(&run(&paper, 0, WEB01)).await;
    bob.refused("a run of another connection's request", "request-unknown", &paper, &heard, 0);
    drop((handed_in, other));

    let paper = bob.paper(|_| ());
    let _handed_in = bob.hand.submit(&paper, &bob.pen).await;
    let heard = bob.hand.ask(&run(&paper, 0, "contoso/db01")).await;
    bob.refused("a host under another's leaf", "target-mismatch", &paper, &heard, 0);
    let forged = Paper { targets: Targets::of(["contoso/db01".parse().unwrap()]).unwrap(), ..paper.clone() };
    let heard = bob.hand.ask(&run(&forged, 0, "contoso/db01")).await;
    let stories =
        || bob.stage.lines().iter().filter(|line| line["operation"] == paper.header.operation.to_string()).count();
    assert_eq!(heard.refusal("a leaf that nobody signed").0.as_str(), "target-mismatch");
    let more = [WEB01, "contoso/db01"].map(|host| host.parse().unwrap());
    let widened = Paper { targets: Targets::of(more).unwrap(), ..paper.clone() };
    let heard = bob.hand.ask(&run(&widened, 0, "contoso/db01")).await;
    assert_eq!(heard.refusal("a tree with one host more").0.as_str(), "target-mismatch");
    assert_eq!((stories(), bob.stage.started()), (3, 0), "each has its record, and none ran");

    let paper = bob.paper(|_| ());
    let _handed_in = bob.hand.submit(&paper, &bob.pen).await;
    let heard = bob.hand.ask(&submission(&paper, &bob.pen)).await;
    bob.refused("the same request handed in twice", "request-replayed", &paper, &heard, 0);
}

async fn work_beyond_the_right(bob: &Bob) {
    for (what, code, host, change) in [
        ("an item said to be of a lower level", "level-mismatch", WEB01, lowered as fn(&Bob, &mut Header)),
        ("a raw command", "level-too-low", WEB01, |_, header| raw(header, &["/bin/true"])),
        ("level 2 where bob holds 1", "level-too-low", "contoso/db01", restart),
        ("a server that is not bob's", "not-yours", "fabrikam/mail01", |_, _| ()),
        ("a server that does not exist", "not-yours", "contoso/web99", |_, _| ()),
    ] {
        let paper = bob.stage.paper(&bob.pen, &[host], |header| change(bob, header));
        let _handed_in = bob.hand.submit(&paper, &bob.pen).await;
        let heard = bob.hand.ask(&run(&paper, 0, host)).await;
        bob.refused(what, code, &paper, &heard, 0);
    }

    let (session, pen) = bob.stage.session("bob", Level::One).await;
    let paper = bob.stage.paper(&pen, &[WEB01], |header| restart(bob, header));
    let _handed_in = session.submit(&paper, &pen).await;
    let heard = session.ask(&run(&paper, 0, WEB01)).await;
    bob.refused("level 2 in a session of level 1", "delegation-level", &paper, &heard, 0);
}

fn restart(bob: &Bob, header: &mut Header) {
    header.item = Some(bob.stage.item("service-restart"));
    header.args = vec![("NAME".into(), "demo".into())];
    header.level = Level::Two;
}

fn lowered(bob: &Bob, header: &mut Header) {
    restart(bob, header);
    header.level = Level::One;
}

/// The same technician's honest request runs, once.
async fn each_target_once(bob: &Bob) {
    let paper = bob.stage.paper(&bob.pen, &[WEB01, "contoso/db01"], |_| ());
    let handed_in = bob.hand.submit(&paper, &bob.pen).await;
    let index = paper.targets.hosts().iter().position(|host| host.to_string() == WEB01).unwrap();
    let heard = bob.hand.ask(&run(&paper, index, WEB01)).await;
    let answers = heard.answers();
    let [Answer::Started { .. }, Answer::Ended(ended)] = answers.as_slice() else { panic!("{answers:?}") };
    assert_eq!((ended.exit_status, ended.record.is_some()), (Some(0), true), "{ended:?}");
    assert!(!heard.output.is_empty());
    reeve_lab::desk::wait_for("the program is counted", Duration::from_secs(5), || bob.stage.started() == 1);

    let heard = bob.hand.ask(&run(&paper, index, WEB01)).await;
    bob.refused("the same target again", "request-replayed", &paper, &heard, 1);
    drop(handed_in);
    let other = bob.stage.hand("bob").await;
    let _again = other.submit(&paper, &bob.pen).await;
    let heard = other.ask(&run(&paper, index, WEB01)).await;
    assert_eq!(heard.refusal("the same request by another connection").0.as_str(), "request-replayed");
    assert_eq!(bob.stage.started(), 1);
}

async fn delegations_that_do_not_hold(bob: &Bob) {
    let stage = &bob.stage;
    let key = sshsig::generate("session").unwrap();
    let honest = |change: fn(&mut reeve_wire::delegation::Delegation)| stage.delegation(&bob.pen, &key, change);
    let by_another = Pen { key: sshsig::generate("other").unwrap(), ..bob.pen.clone() };
    let longer = |delegation: &mut reeve_wire::delegation::Delegation| {
        delegation.not_after = delegation.not_before.plus(LONGEST).plus(Duration::from_secs(1));
    };
    for (what, code, delegation) in [
        ("a delegation by another key", "delegation-invalid", stage.delegation(&by_another, &key, |_| ())),
        ("alice's delegation", "delegation-invalid", stage.delegation(&bob.alice, &key, |_| ())),
        ("more than 8 hours", "delegation-invalid", honest(longer)),
        (
            "a delegation that has ended",
            "session-expired",
            honest(|delegation| {
                delegation.not_before = now().minus(Duration::from_secs(7200));
                delegation.not_after = now().minus(Duration::from_secs(3600));
            }),
        ),
        (
            "a delegation of tomorrow",
            "delegation-invalid",
            honest(|delegation| {
                delegation.not_before = now().plus(Duration::from_secs(86_400));
                delegation.not_after = delegation.not_before.plus(LONGEST);
            }),
        ),
        (
            "a delegation for another site",
            "wrong-site",
            honest(|delegation| {
                delegation.site = "elsewhere".parse().unwrap();
            }),
        ),
        ("the own key as session key", "delegation-invalid", stage.delegation(&bob.pen, &bob.pen.key, |_| ())),
    ] {
        // A connection of its own, so that the record is known by its source.
        let (own, certificate) = stage.technician("bob");
        let source = stage.source();
        let identity = super::clients::with_password("tech:bob", &own, &certificate, &stage.password("bob"));
        let hand = Hand { link: stage.dial(source, identity).await.unwrap().link };
        let (refused, record) = hand.register(&delegation).await.refusal(what);
        assert_eq!(refused.as_str(), code, "{what}");
        let note = stage.note(source, code, what).await;
        assert_eq!((note.text("kind"), note.text("user")), ("login-failed", "bob"), "{what}");
        assert_eq!(note.line["record_result"].as_u64(), record, "{what}");
        let opened = stage.dial(stage.source(), super::clients::with_key("tech:bob", &key)).await;
        assert!(opened.is_err(), "{what}: the key opens the door");
    }

    let (_, pen) = stage.session("bob", Level::Two).await;
    let source = stage.source();
    let hand = Hand { link: stage.dial(source, super::clients::with_key("tech:bob", &pen.key)).await.unwrap().link };
    let (refused, _) = hand.register(&honest(|_| ())).await.refusal("a session registers another");
    assert_eq!(refused.as_str(), "delegation-invalid");
    let note = stage.note(source, "delegation-invalid", "a session registers another").await;
    assert_eq!((note.text("kind"), note.text("user")), ("login-failed", "bob"));
}

async fn what_is_no_ask(bob: &Bob) {
    let (own, certificate) = bob.stage.technician("bob");
    let source = bob.stage.source();
    let identity = super::clients::with_password("tech:bob", &own, &certificate, &bob.stage.password("bob"));
    let hand = Hand { link: bob.stage.dial(source, identity).await.unwrap().link };
    let json = br#"{"ask":"run","operation":"00112233445566778899aabbccddeeff","host":"contoso/web01","as":"alice"}"#;
    let heard = hand.ask(&[Part::new(PartKind::Ask, json.as_slice())]).await;
    assert_eq!(heard.refusal("an ask with a field more").0.as_str(), "protocol");
    let note = bob.stage.note(source, "protocol", "an ask with a field more").await;
    assert_eq!((note.text("kind"), note.text("user")), ("anomaly", "bob"));

    // The connection goes on, and reads are bounded by the same rights.
    let hosts = hand.ask(&[Part::json(PartKind::Ask, &Ask::Hosts { selector: None }).unwrap()]).await.answers();
    let [Answer::Hosts { hosts }] = hosts.as_slice() else { panic!("{hosts:?}") };
    assert_eq!(hosts.iter().map(|row| row.host.to_string()).collect::<Vec<_>>(), ["contoso/db01", WEB01]);
    let why = Ask::Why { host: "fabrikam/mail01".parse().unwrap(), item: None };
    let heard = hand.ask(&[Part::json(PartKind::Ask, &why).unwrap()]).await;
    assert_eq!(heard.refusal("why on a server that is not bob's").0.as_str(), "not-yours");
    assert_eq!(bob.stage.started(), 1, "nothing ran but what was allowed");
}
