//! The table of judging: what runs, and every refusal with its code.

use std::time::Duration;

use reeve_agent::exec::Stdin;
use reeve_agent::handed::Handed;
use reeve_wire::code::Code::{self, *};
use reeve_wire::id::Digest;
use reeve_wire::level::Level;
use reeve_wire::request::{ItemRef, Targets, Text};
use reeve_wire::time::Millis;

use crate::site::{Bench, Draft, MANAGER, Site, key, packages, parts, trust};

const NOW: Millis = Millis(1_790_000_000_000);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What is changed in what is signed or in what the agent knows, and the refusal that it causes.
type Row = (&'static str, Code, fn(&mut Bench, &mut Draft<'_>));

/// A part that is left out, and the refusal that it causes.
type Without = (Code, fn(&mut Handed));

fn code(bench: &Bench, handed: Handed) -> Code {
    bench.judge(handed).expect_err("it must be refused").code
}

fn refuses(draft: impl Fn(&Site) -> Draft<'_>, table: &[Row]) {
    let site = Site::at(NOW);
    let good = draft(&site);
    assert!(Bench::of(&site).judge(good.handed()).is_ok(), "what is not changed is permitted");
    for (what, expected, change) in table {
        let (mut bench, mut draft) = (Bench::of(&site), good.clone());
        change(&mut bench, &mut draft);
        assert_eq!(code(&bench, draft.handed()), *expected, "{what}");
    }
}

#[test]
fn an_honest_operation_runs_exactly_as_it_was_signed() {
    let site = Site::at(NOW);
    let draft = site.raw(&["/bin/echo", "-f root", "@file", "", "--"]).with_stdin(b"input");
    let handed = draft.handed();

    let permitted = Bench::of(&site).judge(handed.clone()).unwrap();

    let order = permitted.order();
    assert_eq!(order.operation, draft.operation());
    assert_eq!(order.request, handed.named().request.unwrap());
    assert_eq!(order.grant, handed.named().grant.unwrap());
    assert_eq!((order.granted, order.level), (NOW, Level::Three));
    assert_eq!(order.technician.as_str(), "alice");
    assert_eq!(order.argv.program(), "/bin/echo");
    assert_eq!(order.argv.arguments(), ["-f root", "@file", "", "--"]);
    assert!(matches!(&order.stdin, Stdin::Bytes(bytes) if &bytes[..] == b"input"));
    assert_eq!(order.timeout, Duration::from_secs(30));
}

#[test]
fn an_item_runs_as_its_signed_package_says() {
    let site = Site::at(NOW);
    let bench = Bench::of(&site);
    let judge = |draft: &Draft<'_>| bench.judge(draft.handed()).unwrap().into_order();

    let restart = judge(&site.item("restart", &[("NAME", "nginx")]));
    assert_eq!(restart.argv.program(), MANAGER);
    assert_eq!(restart.argv.arguments(), ["restart", "--", "nginx"]);
    assert_eq!((restart.level, restart.timeout), (Level::Two, Duration::from_secs(10)));
    assert!(matches!(restart.stdin, Stdin::Null));

    let script = judge(&site.item("script", &[]).with_stdin(b"echo hi"));
    assert_eq!(script.argv.arguments(), ["/proc/self/fd/0"]);
    assert!(matches!(script.stdin, Stdin::Script(bytes) if &bytes[..] == b"echo hi"));

    let read = judge(&site.item("read", &[]).with_stdin(b"data"));
    assert!(matches!(read.stdin, Stdin::Bytes(bytes) if &bytes[..] == b"data"));

    let own = judge(&site.item("own", &[]));
    assert!(matches!(own.stdin, Stdin::Script(bytes) if bytes.starts_with(b"echo own")));
}

#[test]
fn the_technicians_own_key_signs_as_well() {
    let site = Site::at(NOW);
    let mut draft = site.raw(&["/bin/true"]);
    draft.delegation = None;
    draft.signed_by = site.technician.clone();

    assert!(Bench::of(&site).judge(draft.handed()).is_ok());
    draft.signed_by = site.session.clone();
    assert_eq!(code(&Bench::of(&site), draft.handed()), RequestSignature);
}

#[test]
fn nothing_runs_while_the_agent_takes_no_work() {
    refuses(
        |site| site.raw(&["/bin/true"]),
        &[
            ("no answer yet", TrustUnanswered, |bench, _| bench.ready = Err(TrustUnanswered.into())),
            ("another history", HistoryRefused, |bench, _| bench.ready = Err(HistoryRefused.into())),
            ("no journal", JournalFailed, |bench, _| bench.ready = Err(JournalFailed.into())),
            ("bundle past its date", TrustStale, |bench, _| bench.trust = stale(-DAY_SECONDS)),
            ("bundle past its grace", TrustStale, |bench, _| bench.trust = stale(-31 * DAY_SECONDS)),
            ("clock ahead", ClockApart, |bench, _| bench.local = NOW.plus(6 * MINUTE)),
            ("clock behind", ClockApart, |bench, _| bench.local = NOW.minus(6 * MINUTE)),
            ("clock of 1970", ClockApart, |bench, _| bench.local = Millis(0)),
            ("clock of 2106", ClockApart, |bench, _| bench.local = Millis(4_300_000_000_000)),
            ("no clock of the master", ClockApart, |bench, _| bench.master = None),
        ],
    );
}

const DAY_SECONDS: i64 = 24 * 3600;

/// A bundle that is to be refreshed in so many seconds.
fn stale(seconds: i64) -> reeve_wire::bundle::Trust {
    let site = Site::at(NOW);
    let mut bundle = site.bundle.clone();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    bundle.issued = NOW.minus(60 * DAY);
    bundle.refresh_by = if seconds < 0 { NOW.minus(distance) } else { NOW.plus(distance) };
    trust(&bundle, &site.root)
}

#[test]
fn looking_still_works_on_an_old_bundle_and_while_the_clocks_disagree() {
    let site = Site::at(NOW);
    let look = || site.item("look", &[]).handed();
    let mut bench = Bench::of(&site);
    bench.trust = stale(-DAY_SECONDS);
    bench.master = Some(NOW.plus(DAY));
    assert!(bench.judge(look()).is_ok());

    bench.trust = stale(-31 * DAY_SECONDS);
    assert_eq!(code(&bench, look()), TrustStale);
    let restart = site.item("restart", &[("NAME", "nginx")]).handed();
    bench.trust = stale(-DAY_SECONDS);
    assert_eq!(code(&bench, restart), TrustStale);
}

#[test]
fn only_a_fresh_request_by_its_author_runs() {
    refuses(
        |site| site.raw(&["/bin/true"]),
        &[
            ("too old", RequestExpired, |_, draft| {
                draft.header.not_before = NOW.minus(5 * MINUTE);
                draft.header.not_after = NOW.minus(2 * MINUTE);
            }),
            ("not yet", RequestExpired, |_, draft| {
                draft.header.not_before = NOW.plus(2 * MINUTE);
                draft.header.not_after = NOW.plus(4 * MINUTE);
            }),
            ("for too long", RequestExpired, |_, draft| draft.header.not_after = NOW.plus(6 * MINUTE)),
            ("for another site", WrongSite, |_, draft| draft.header.site = "other".parse().unwrap()),
            ("signed by a stranger", RequestSignature, |_, draft| draft.signed_by = key(77)),
            ("signed by the own key of a session", RequestSignature, |_, draft| draft.signed_by = key(7)),
            ("a run of no time", RequestMalformed, |_, draft| draft.header.timeout_ms = 0),
            ("a raw command and an item", RequestMalformed, |_, draft| {
                let item = ItemRef { name: "look".parse().unwrap(), version: 3, digest: Digest([0; 32]) };
                draft.header.item = Some(item);
            }),
            ("delegation ended", SessionExpired, |_, draft| {
                let delegation = draft.delegation.as_mut().unwrap();
                delegation.not_before = NOW.minus(4 * MINUTE);
                delegation.not_after = NOW.minus(MINUTE);
            }),
            ("delegation of more than 8 h", DelegationInvalid, |_, draft| {
                draft.delegation.as_mut().unwrap().not_after = NOW.plus(DAY);
            }),
            ("delegation for another site", WrongSite, |_, draft| {
                draft.delegation.as_mut().unwrap().site = "other".parse().unwrap();
            }),
            ("delegation for a lower level", DelegationLevel, |_, draft| {
                draft.delegation.as_mut().unwrap().max_level = Level::Two;
            }),
            ("certificate of an hour from now", CertificateExpired, |bench, draft| {
                bench.now = NOW.plus(2 * DAY);
                bench.local = bench.now;
                bench.master = Some(bench.now);
                draft.header.not_before = bench.now;
                draft.header.not_after = bench.now.plus(MINUTE);
            }),
            ("certificate of another authority", CertificateUntrusted, |bench, _| {
                let site = Site::at(NOW);
                let mut bundle = site.bundle.clone();
                bundle.ca.technicians = bundle.ca.agents.clone();
                bench.trust = trust(&bundle, &site.root);
            }),
            ("used before", RequestReplayed, |bench, draft| {
                bench.used.insert(draft.operation());
            }),
        ],
    );
}

#[test]
fn only_the_server_that_was_signed_runs_it() {
    refuses(
        |site| site.raw(&["/bin/true"]),
        &[
            ("the agent is another server", WrongHost, |bench, _| bench.host = "contoso/db01".parse().unwrap()),
            ("the agent is of another customer", WrongHost, |bench, _| bench.host = "fabrikam/web01".parse().unwrap()),
            ("a target that was not signed", TargetMismatch, |_, draft| {
                draft.targets = Targets::of(["contoso/db01", "contoso/web01"].map(|h| h.parse().unwrap())).unwrap();
            }),
            ("targets without this server", WrongHost, |_, draft| {
                draft.targets = Targets::of(["contoso/db01".parse().unwrap()]).unwrap();
                draft.header.targets_root = draft.targets.root();
            }),
        ],
    );
}

#[test]
fn only_a_grant_for_exactly_this_runs() {
    refuses(
        |site| site.raw(&["/bin/true"]),
        &[
            ("by a stranger", GrantInvalid, |_, draft| draft.granted_by = key(77)),
            ("by the agent itself", GrantInvalid, |_, draft| draft.granted_by = key(6)),
            ("for another host", GrantInvalid, |_, draft| draft.grant.host = "contoso/db01".parse().unwrap()),
            ("for another request", GrantInvalid, |_, draft| draft.grant.request = Digest([9; 32])),
            ("for another operation", GrantInvalid, |_, draft| {
                draft.grant.operation = reeve_wire::id::OperationId([9; 16]);
            }),
            ("for another site", GrantInvalid, |_, draft| draft.grant.site = "other".parse().unwrap()),
            ("in a log that nobody keeps", GrantInvalid, |_, draft| draft.grant.log = "lab.reeve/other".into()),
            ("for more than a minute", GrantInvalid, |_, draft| draft.grant.not_after = NOW.plus(2 * MINUTE)),
            ("long ago", GrantStale, |_, draft| {
                draft.grant.at = NOW.minus(4 * MINUTE);
                draft.grant.not_after = NOW.minus(3 * MINUTE);
            }),
            ("in the future", GrantStale, |_, draft| {
                draft.grant.at = NOW.plus(3 * MINUTE);
                draft.grant.not_after = NOW.plus(4 * MINUTE);
            }),
            ("before the machine's restart", GrantStale, |bench, _| bench.no_grant_before = Some(NOW.plus(MINUTE))),
            ("by a master that the bundle does not name", CertificatePrincipal, |bench, _| {
                bench.trust = Site::at(NOW).rebundled(|bundle| bundle.masters = vec!["noc2".parse().unwrap()]);
            }),
        ],
    );
}

#[test]
fn the_level_comes_from_the_work_and_stays_under_the_ceiling() {
    let low: &[Row] = &[
        ("stated too low", LevelMismatch, |_, draft| draft.header.level = Level::One),
        ("stated too high", LevelMismatch, |_, draft| draft.header.level = Level::Three),
        ("above the certificate", CeilingLevel, |_, draft| {
            draft.certificate = Site::at(NOW).technician_certificate("1", "contoso");
        }),
        ("at another customer", CeilingCustomer, |_, draft| {
            draft.certificate = Site::at(NOW).technician_certificate("3", "fabrikam");
        }),
        ("without a ceiling", CertificateCeiling, |_, draft| {
            draft.certificate = Site::at(NOW).technician_certificate("4", "contoso");
        }),
        ("above the delegation", DelegationLevel, |_, draft| {
            draft.delegation.as_mut().unwrap().max_level = Level::One;
        }),
    ];
    refuses(|site| site.item("restart", &[("NAME", "nginx")]), low);
    refuses(
        |site| site.raw(&["/bin/true"]),
        &[
            ("raw stated as looking", LevelMismatch, |_, draft| draft.header.level = Level::One),
            ("raw by a level 2 technician", CeilingLevel, |_, draft| {
                draft.certificate = Site::at(NOW).technician_certificate("2", "*");
            }),
        ],
    );
}

#[test]
fn only_the_signed_item_with_good_parameters_runs() {
    refuses(
        |site| site.item("restart", &[("NAME", "nginx")]),
        &[
            ("no library", ItemUnknown, |bench, _| bench.index = None),
            ("an item that is not listed", ItemUnknown, |_, draft| {
                draft.header.item.as_mut().unwrap().name = "other".parse().unwrap();
            }),
            ("another version", ItemMismatch, |_, draft| draft.header.item.as_mut().unwrap().version = 4),
            ("another digest", ItemMismatch, |_, draft| draft.header.item.as_mut().unwrap().digest = Digest([0; 32])),
            ("other bytes", ItemMismatch, |_, draft| draft.package.as_mut().unwrap().push(b' ')),
            ("the package of another item", ItemMismatch, |_, draft| {
                draft.package = Some(serde_json::to_vec(&packages()[0]).unwrap());
            }),
            ("no package", ItemMismatch, |_, draft| draft.package = None),
            ("a missing parameter", ParameterInvalid, |_, draft| draft.header.args.clear()),
            ("an unknown parameter", ParameterInvalid, |_, draft| {
                draft.header.args.push(("MORE".into(), Text::from("x")));
            }),
            ("an option for a name", ParameterInvalid, |_, draft| draft.header.args[0].1 = Text::from("--now")),
            ("shell text for a name", ParameterInvalid, |_, draft| draft.header.args[0].1 = Text::from("a;reboot")),
            ("input that it does not take", StdinMismatch, |_, draft| *draft = draft.clone().with_stdin(b"x")),
        ],
    );
    refuses(
        |site| site.item("script", &[]).with_stdin(b"true"),
        &[
            ("no input", StdinMismatch, |_, draft| {
                draft.stdin = None;
                draft.header.stdin = None;
            }),
            ("the input did not come", StdinMismatch, |_, draft| draft.stdin = None),
            ("other input", StdinMismatch, |_, draft| draft.stdin = Some(b"rm -rf /".to_vec())),
            ("input that nobody signed", StdinMismatch, |_, draft| draft.header.stdin = None),
        ],
    );
    let site = Site::at(NOW);
    for (item, stdin) in [("elsewhere", None), ("confused", Some(b"x"))] {
        let draft = site.item(item, &[]);
        let draft = stdin.map_or(draft.clone(), |stdin| draft.with_stdin(stdin));
        assert_eq!(code(&Bench::of(&site), draft.handed()), ItemMismatch, "{item}");
    }
}

#[test]
fn only_a_command_that_can_be_started_runs() {
    let site = Site::at(NOW);
    let bench = Bench::of(&site);
    let long = "x".repeat(33_000);
    for bad in [&[][..], &[""], &["a\0b"], &["/bin/echo", "a\0"], &["/bin/echo", &long]] {
        assert_eq!(code(&bench, site.raw(bad).handed()), ArgumentsInvalid, "{:?}", bad.first());
    }
    let mut draft = site.raw(&["/bin/true"]);
    draft.package = site.item("look", &[]).package;
    assert_eq!(code(&bench, draft.handed()), ItemMismatch);
}

#[test]
fn an_operation_without_all_of_its_parts_is_refused() {
    let site = Site::at(NOW);
    let good = site.item("read", &[]).with_stdin(b"data").handed();
    let without: [Without; 8] = [
        (RequestMalformed, |handed| handed.request = None),
        (RequestMalformed, |handed| handed.certificate = None),
        (RequestSignature, |handed| handed.delegation = None),
        (TargetMismatch, |handed| handed.target = None),
        (TargetMismatch, |handed| handed.path = None),
        (GrantInvalid, |handed| handed.grant = None),
        (GrantInvalid, |handed| handed.master = None),
        (ItemMismatch, |handed| handed.package = None),
    ];
    for (expected, take) in without {
        let mut handed = good.clone();
        take(&mut handed);
        assert_eq!(code(&Bench::of(&site), handed), expected);
    }
    assert_eq!(code(&Bench::of(&site), Handed::default()), RequestMalformed);
}

#[test]
fn what_is_collected_from_the_wire_is_what_was_sent() {
    let site = Site::at(NOW);
    let sent = site.item("read", &[]).with_stdin(b"data").handed();
    let mut collected = Handed::default();
    let ends: Vec<_> = parts(&sent).into_iter().map(|part| collected.add(part).unwrap()).collect();

    assert_eq!(collected, sent);
    assert_eq!(ends.iter().position(|&end| end), Some(ends.len() - 1));
}
