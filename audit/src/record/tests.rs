use proptest::prelude::*;
use reeve_wire::id::Digest;

use super::*;
use crate::Text;
use crate::testing::{host, order, request, stamp};

fn read_back(draft: &Draft, number: Option<u64>) -> Record {
    Record::parse(&draft.to_bytes(number).unwrap()).unwrap()
}

/// The bytes of a record are a format: this text is its reviewed contract.
#[test]
fn a_refusal_has_the_bytes_of_the_golden_text() {
    let mut draft = Draft::refused(
        stamp(),
        order(OperationId([0xab; 16]), "carol", "contoso/db01", &["rm", "-rf", "/ x"]),
        "level-too-low",
        "no",
    );
    draft.nonce = Salt([0x11; 16]);
    draft.stamp.monotonic_us = 17;
    draft.stamp.boot = "0".repeat(32);
    let json = String::from_utf8(draft.to_bytes(Some(3)).unwrap()).unwrap();
    insta::assert_snapshot!(json);
}

#[test]
fn every_draft_comes_back_as_it_was_written() {
    let operation = OperationId::random();
    let order = order(operation, "alice", "contoso/web01", &["uptime"]);
    let ended = || Ended {
        receipts: vec![b"receipt".to_vec()],
        ..Ended::new(operation, host("contoso/web01"), 4, reeve_wire::receipt::Outcome::Exited)
    };
    let session = Happened::session(Party::address("192.0.2.1:50000"), "SHA256:x", b"delegation", b"certificate");
    let signed = request(operation, &["uptime"]);
    for draft in [
        Draft::header(stamp(), operation, &signed, Some(b"delegation"), b"certificate", Some(b"stdin")).unwrap(),
        Draft::intent(stamp(), order.clone(), 5),
        Draft::refused(stamp(), order, "no", "no"),
        Draft::result(stamp(), ended()).unwrap(),
        Draft::late(stamp(), 9, ended()).unwrap(),
        Draft::receipts(stamp(), host("contoso/web01"), &[b"one".to_vec(), b"two".to_vec()]).unwrap(),
        Draft::event(stamp(), session).unwrap(),
    ] {
        let record = read_back(&draft, draft.customer().map(|_| 7));
        assert_eq!(record.body, draft.body);
        assert_eq!(record.stamp, draft.stamp);
        assert_eq!(record.customer.as_ref(), draft.customer());
        assert_eq!(record.number, draft.customer().map(|_| 7));
    }
}

#[test]
fn every_kind_of_event_is_written_under_its_own_name() {
    for kind in EventKind::ALL {
        let mut draft = Draft::event(stamp(), Happened::start("0.1.0")).unwrap();
        let Body::Event(_, event) = draft.body else { panic!("not an event") };
        draft.body = Body::Event(*kind, event);
        let bytes = draft.to_bytes(None).unwrap();
        assert!(String::from_utf8_lossy(&bytes).contains(&format!("\"kind\":\"{}\"", kind.as_str())));
        assert_eq!(Record::parse(&bytes).unwrap().body.kind(), Kind::Event(*kind));
    }
}

#[test]
fn a_record_that_differs_in_form_is_not_read() {
    let draft = Draft::event(stamp(), Happened::start("0.1.0")).unwrap();
    let good = String::from_utf8(draft.to_bytes(None).unwrap()).unwrap();
    assert!(Record::parse(good.as_bytes()).is_ok());
    for bad in [
        good.replace("\"v\":1", "\"v\":2"),
        good.replace("\"v\":1", "\"v\":1,\"v\":1"),
        good.replace("\"v\":1,", ""),
        good.replace("\"v\":1", "\"v\":1,\"extra\":null"),
        good.replace("\"kind\":\"start\"", "\"kind\":\"intent\""),
        good.replace("\"kind\":\"start\"", "\"kind\":\"dance\""),
        good.replace("\"number\":null", "\"number\":1.5"),
        good.replace("\"number\":null,", ""),
        good.replace("\"count\":1", "\"count\":1,\"count\":2"),
        format!("{good} {good}"),
        good[..good.len() - 1].to_owned(),
        String::new(),
    ] {
        assert_ne!(bad, good);
        assert!(Record::parse(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn commands_are_one_line_that_shows_where_words_begin_and_end() {
    let raw = Command::raw("raw", &[b"echo".as_slice(), b"a b", b"it's", b"", b"\xff", b"$(x)"]);
    assert_eq!(raw.text.as_bytes(), b"echo 'a b' 'it'\\''s' '' \xff '$(x)'");
    assert_eq!(raw.args.unwrap().len(), 6);

    let item = Item { name: "service-restart".into(), version: "3".into(), digest: Digest([3; 32]) };
    let item = Command::item(item, &[("NAME", Some("nginx")), ("TOKEN", None), ("NOTE", Some("two words"))]);
    assert_eq!(item.text, Text::from("service-restart NAME=nginx 'TOKEN=(secret)' 'NOTE=two words'"));
    assert_eq!(item.args.unwrap()[0], Text::from("NAME=nginx"));
}

#[test]
fn long_signed_things_lie_beside_the_record() {
    let operation = OperationId::random();
    let words = vec!["x".repeat(1000); 40];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let signed = request(operation, &words);
    let draft = Draft::header(stamp(), operation, &signed, None, b"certificate", None).unwrap();
    assert_eq!(draft.contents().len(), 2);
    assert!(draft.to_bytes(None).unwrap().len() < 2000);
    assert_eq!(draft.body().pointers().len(), 2);
}

proptest! {
    #[test]
    fn no_text_makes_an_order_too_large_to_record(
        case: Vec<u8>, selector: Vec<u8>, reason: Vec<u8>, word: Vec<u8>, times in 1_usize..60_000, text in ".*",
    ) {
        let long = |bytes: &[u8]| Text::from(bytes.iter().copied().cycle().take(if bytes.is_empty() { 0 } else { times }).collect::<Vec<_>>());
        let order = Order {
            host: Some(host("contoso/web01")),
            selector: Some(long(&selector)),
            case: Some(long(&case)),
            reason_given: Some(long(&reason)),
            address: Some(text.repeat(100)),
            via_group: Some("\u{1}".repeat(times)),
            rule: Some("\"".repeat(times)),
            command: Some(Command::raw("raw", &[long(&word).as_bytes(), &word])),
            ..Order::new(OperationId::random(), "alice".parse().unwrap())
        };
        let draft = Draft::refused(stamp(), order, "code", &text.repeat(times / 100));
        let bytes = draft.to_bytes(Some(u64::MAX >> 12)).unwrap();
        prop_assert!(bytes.len() <= MAX_RECORD, "{} bytes", bytes.len());
        prop_assert_eq!(&Record::parse(&bytes).unwrap().body, draft.body());
    }

    #[test]
    fn no_bytes_make_the_reader_of_records_panic(bytes: Vec<u8>) {
        prop_assert!(Record::parse(&bytes).is_err());
    }
}
