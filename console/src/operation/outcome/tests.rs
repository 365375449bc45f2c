use super::*;

fn operation() -> OperationId {
    "0123456789abcdef0123456789abcdef".parse().unwrap()
}

fn host() -> HostName {
    "contoso/web01".parse().unwrap()
}

fn ended(outcome: Outcome) -> Ended {
    Ended { outcome, exit_status: None, signal: None, code: None, reason: None, truncated: false, record: Some(8) }
}

fn told(ended: Ended) -> HostOutcome {
    HostOutcome::ended(operation(), host(), Some(7), ended)
}

/// The table of the command line's documentation.
#[test]
fn a_single_server_gives_the_remote_status_and_every_other_end_its_own() {
    let exited = |status| told(Ended { exit_status: Some(status), ..ended(Outcome::Exited) });
    let signalled = |signal| told(Ended { signal: Some(signal), ..ended(Outcome::Signalled) });
    let failed = |status, code| told(Ended { exit_status: status, code, ..ended(Outcome::Failed) });
    let refused = |code| HostOutcome::of_refusal(operation(), Some(host()), None, &Refusal::from(code));

    for (outcome, status) in [
        (exited(0), 0),
        (exited(3), 3),
        (exited(255), 255),
        (signalled(9), 137),
        (signalled(15), 143),
        (failed(Some(126), None), 126),
        (failed(Some(127), None), 127),
        (failed(None, Some(Code::NotFound)), 127),
        (failed(None, Some(Code::CannotStart)), 126),
        (failed(None, None), 126),
        (told(ended(Outcome::TimedOut)), 124),
        (told(ended(Outcome::Cancelled)), 130),
        (told(Ended { code: Some(Code::RightLost), ..ended(Outcome::Cancelled) }), 130),
        (told(ended(Outcome::Refused)), 77),
        (told(ended(Outcome::Vetoed)), 77),
        (told(ended(Outcome::Unreachable)), 69),
        (told(ended(Outcome::Unknown)), 75),
        (refused(Code::NotYours), 77),
        (refused(Code::LevelTooLow), 77),
        (refused(Code::ItemUnknown), 65),
        (refused(Code::Unreachable), 69),
        (refused(Code::Vetoed), 77),
        (refused(Code::OutcomeUnknown), 75),
        (refused(Code::Internal), 70),
    ] {
        assert_eq!(outcome.status(), status, "{outcome:?}");
        assert_eq!(status_of_all(std::slice::from_ref(&outcome)), status, "{outcome:?}");
    }
}

#[test]
fn several_servers_give_0_when_every_command_did_and_1_otherwise() {
    let exited = |status| told(Ended { exit_status: Some(status), ..ended(Outcome::Exited) });
    assert_eq!(status_of_all(&[exited(0), exited(0)]), 0);
    assert_eq!(status_of_all(&[exited(0), exited(3)]), 1);
    assert_eq!(status_of_all(&[exited(0), told(ended(Outcome::Unreachable))]), 1);
    assert_eq!(status_of_all(&[told(ended(Outcome::Refused)), told(ended(Outcome::Refused))]), 1);
}

fn json(outcome: &HostOutcome, output: Option<(&[u8], &[u8])>) -> String {
    let mut kept = output.map(|(stdout, stderr)| {
        let (mut out, mut err) = (Captured::default(), Captured::default());
        out.push(stdout).unwrap();
        err.push(stderr).unwrap();
        (out, err)
    });
    let mut line = Vec::new();
    outcome.write_json(&mut line, kept.as_mut().map(|(out, err)| (out, err))).unwrap();
    String::from_utf8(line).unwrap()
}

#[test]
fn a_command_that_ran_is_told_in_this_form() {
    let outcome = told(Ended { exit_status: Some(3), ..ended(Outcome::Exited) });
    assert_eq!(
        json(&outcome, Some((b"one\n", b""))),
        "{\"operation\":\"0123456789abcdef0123456789abcdef\",\"host\":\"contoso/web01\",\"outcome\":\"exited\",\
         \"exit_status\":3,\"stdout\":\"one\\n\",\"stderr\":\"\",\"record\":8,\"code\":null,\"reason\":null}\n"
    );
}

#[test]
fn bytes_that_are_no_text_are_told_in_base64() {
    let outcome = told(Ended { signal: Some(9), ..ended(Outcome::Signalled) });
    assert_eq!(
        json(&outcome, Some((b"\xff\xfe", b"why"))),
        "{\"operation\":\"0123456789abcdef0123456789abcdef\",\"host\":\"contoso/web01\",\"outcome\":\"signalled\",\
         \"exit_status\":null,\"stdout\":null,\"stdout_base64\":\"//4=\",\"stderr\":\"why\",\"record\":8,\"code\":null,\
         \"reason\":\"it was ended by signal 9\"}\n"
    );
}

#[test]
fn a_refusal_is_told_in_this_form_and_has_no_output() {
    let refusal = Refusal { code: Code::NotYours, reason: "no such server".into() };
    let outcome = HostOutcome::of_refusal(operation(), None, Some(5), &refusal);
    let expected = "{\"operation\":\"0123456789abcdef0123456789abcdef\",\"host\":null,\"outcome\":\"refused\",\
                    \"exit_status\":null,\"stdout\":null,\"stderr\":null,\"record\":5,\"code\":\"not-yours\",\
                    \"reason\":\"no such server\"}\n";
    assert_eq!(json(&outcome, None), expected);
    assert_eq!(json(&outcome, Some((b"", b""))), expected);
}

#[test]
fn the_record_is_the_results_and_else_the_intents() {
    assert_eq!(told(ended(Outcome::Exited)).record, Some(8));
    let unrecorded = told(Ended { record: None, exit_status: Some(0), ..ended(Outcome::Exited) });
    assert_eq!((unrecorded.record, unrecorded.code), (Some(7), Some(Code::LedgerUnavailable)));
    assert_eq!(unrecorded.status(), 0);
}

#[test]
fn what_nobody_knows_is_unknown_whatever_the_reason() {
    for code in [Code::OutcomeUnknown, Code::Protocol, Code::Internal] {
        let outcome = HostOutcome::unknown(operation(), host(), Some(7), &Refusal::from(code));
        assert_eq!((outcome.outcome, outcome.status(), outcome.record), (Outcome::Unknown, 75, Some(7)));
    }
}
