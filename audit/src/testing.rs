//! A ledger for tests: made by the real writer, with requests, grants and receipts as they travel.

use std::path::Path;

use reeve_wire::grant::{Factor, Grant};
use reeve_wire::id::{Digest, OperationId, Salt};
use reeve_wire::level::Level;
use reeve_wire::name::HostName;
use reeve_wire::note::LogSigner;
use reeve_wire::receipt::{self, Outcome, Receipt, StreamReceipt};
use reeve_wire::request::{Header, Kind};
use reeve_wire::signed::Signed;
use reeve_wire::strict::{Unused, V1};
use reeve_wire::time::{Clock, Millis};
use serde::Serialize;

use crate::record::{Command, Draft, Ended, Happened, Order, Party};
use crate::{Class, Content, Ledger, Settings, Stamp, WriterThread};

/// 2026-03-01 12:00 UTC, in ms.
pub(crate) const NOON: u64 = 1_772_366_400_000;

pub(crate) fn log_key() -> LogSigner {
    LogSigner::from_seed("lab.reeve/master1", &[7; 32]).unwrap()
}

pub(crate) fn settings(directory: &Path) -> Settings {
    let clock = Clock::fixed(Millis(NOON));
    Settings { reserve: 256 * 1024, clock, ..Settings::new(directory.join("audit.db"), log_key()) }
}

pub(crate) fn stamp() -> Stamp {
    Stamp::now(&Clock::fixed(Millis(NOON)))
}

pub(crate) fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

pub(crate) fn close(ledger: Ledger, thread: WriterThread) {
    drop(ledger);
    thread.join();
}

/// What is signed here has a signature that no test looks at.
fn signed(document: &impl Serialize) -> Signed {
    Signed::from_parts(serde_json::to_vec(document).unwrap(), b"signature".to_vec())
}

pub(crate) fn request(operation: OperationId, argv: &[&str]) -> Signed {
    signed(&Header {
        v: V1,
        site: "lab".parse().unwrap(),
        operation,
        technician_cert: Digest([1; 32]),
        delegation: None,
        kind: Kind::Raw,
        item: None,
        argv: Some(argv.iter().map(|word| (*word).into()).collect()),
        args: Vec::new(),
        stdin: None,
        level: Level::Three,
        case: Some("C-1".into()),
        reason: None,
        timeout_ms: 60_000,
        not_before: Millis(NOON),
        not_after: Millis(NOON + 300_000),
        checkpoint: Unused,
        ephemeral: Unused,
        targets_root: Digest([2; 32]),
    })
}

pub(crate) fn order(operation: OperationId, user: &str, at: &str, argv: &[&str]) -> Order {
    Order {
        host: Some(host(at)),
        user_id: Some(format!("id-of-{user}")),
        key: Some("SHA256:abc".into()),
        command: Some(Command::raw("raw", argv)),
        level_required: Some(Level::Three),
        level_held: Some(Level::Three),
        via_group: Some("web01 L3".into()),
        rule: Some("level".into()),
        directory_age_ms: Some(12),
        case: Some("C-1".into()),
        ..Order::new(operation, user.parse().unwrap())
    }
}

/// One operation on one host, as far as a test wants it.
pub(crate) struct Told {
    pub(crate) operation: OperationId,
    pub(crate) host: HostName,
    pub(crate) intent: u64,
    pub(crate) request: Digest,
    pub(crate) leaf: Digest,
}

pub(crate) async fn begin(ledger: &Ledger, user: &str, at: &str, argv: &[&str]) -> Told {
    let operation = OperationId::random();
    let request = request(operation, argv);
    let header = Draft::header(stamp(), operation, &request, Some(b"delegation"), b"certificate", None).unwrap();
    let order = Order { request: Some(request.digest()), ..order(operation, user, at, argv) };
    let intent = Draft::intent(stamp(), order, (NOON + 60_000) * 1000);
    let places = ledger.append_all(Class::Intent, vec![header, intent]).await.unwrap();
    let intent = places[1];
    Told { operation, host: host(at), intent: intent.index, request: request.digest(), leaf: Digest(intent.leaf_hash) }
}

impl Told {
    pub(crate) fn grant(&self) -> Grant {
        Grant {
            v: V1,
            site: "lab".parse().unwrap(),
            operation: self.operation,
            host: self.host.clone(),
            request: self.request,
            leaf: self.leaf,
            log: "lab.reeve/master1".into(),
            at: Millis(NOON),
            directory_age_ms: 12,
            factors: vec![Factor::Key, Factor::Password],
            not_after: Millis(NOON + 60_000),
        }
    }

    pub(crate) fn receipt(&self, seq: u64, event: receipt::Event, outcome: Option<Outcome>) -> Receipt {
        Receipt {
            v: V1,
            site: "lab".parse().unwrap(),
            host: self.host.clone(),
            generation: 1,
            seq,
            prev: None,
            at: Millis(NOON),
            event,
            operation: Some(self.operation),
            request: Some(self.request),
            grant: Some(signed(&self.grant()).digest()),
            outcome,
            exit_status: outcome.filter(|outcome| *outcome == Outcome::Exited).map(|_| 0),
            signal: None,
            code: None,
            reason: None,
            stdout: None,
            stderr: None,
            boot_id: None,
            ephemeral: Unused,
        }
    }

    /// An exit with status 0, this output, and receipts from `seq` on.
    pub(crate) fn exited(&self, seq: u64, stdout: &[u8], stderr: &[u8]) -> Ended {
        let contents = [stdout, stderr].map(|bytes| Content::new(Salt::random(), bytes).unwrap());
        let streams = contents.each_ref().map(|content| {
            let length = content.pointer().length;
            Some(StreamReceipt { commitment: content.commitment(), kept: length, length, truncated: false })
        });
        let accepted = self.receipt(seq, receipt::Event::Accepted, None);
        let ended = Receipt {
            stdout: streams[0],
            stderr: streams[1],
            ..self.receipt(seq + 1, receipt::Event::Ended, Some(Outcome::Exited))
        };
        let [stdout, stderr] = contents;
        Ended {
            exit_status: Some(0),
            stdout: Some(stdout),
            stderr: Some(stderr),
            grant: Some(signed(&self.grant()).to_wire()),
            receipts: vec![signed(&accepted).to_wire(), signed(&ended).to_wire()],
            ..Ended::new(self.operation, self.host.clone(), self.intent, Outcome::Exited)
        }
    }

    pub(crate) async fn end(&self, ledger: &Ledger, ended: Ended) -> u64 {
        ledger.append(Class::Result, Draft::result(stamp(), ended).unwrap()).await.unwrap().index
    }
}

/// Documents of a host with another content, signed by nobody.
pub(crate) fn unsigned(document: &impl Serialize) -> Vec<u8> {
    signed(document).to_wire()
}

/// Ten records: a start, a login, an operation with output, a refusal, an operation that became known late.
pub(crate) async fn site(ledger: &Ledger) -> [Told; 2] {
    let known = start_and_first_operation(ledger).await;
    [known, rest_of_site(ledger).await]
}

pub(crate) async fn start_and_first_operation(ledger: &Ledger) -> Told {
    let alice = "alice".parse().unwrap();
    let alice = Party::technician(&alice, Some("id-of-alice"), Some("SHA256:abc"), Some("192.0.2.7"));
    for happened in [Happened::start("0.1.0"), Happened::login(alice, &["key", "password"])] {
        ledger.append(Class::Intent, Draft::event(stamp(), happened).unwrap()).await.unwrap();
    }
    let known = begin(ledger, "alice", "contoso/web01", &["uptime"]).await;
    known.end(ledger, known.exited(1, b"up 3 days\n", b"")).await;
    known
}

pub(crate) async fn rest_of_site(ledger: &Ledger) -> Told {
    let refused = order(OperationId::random(), "carol", "contoso/db01", &["rm", "-rf", "/ x"]);
    let refused = Order { level_held: Some(Level::One), ..refused };
    let refused = Draft::refused(stamp(), refused, "level-too-low", "this needs level 3, and you hold level 1 there");
    ledger.append(Class::Intent, refused).await.unwrap();
    let late = begin(ledger, "frank", "fabrikam/mail01", &["sleep", "5"]).await;
    let unknown = Ended::new(late.operation, late.host.clone(), late.intent, Outcome::Unknown);
    let resolves = late.end(ledger, unknown).await;
    let ended = Ended { grant: None, ..late.exited(1, b"", b"") };
    ledger.append(Class::Result, Draft::late(stamp(), resolves, ended).unwrap()).await.unwrap();
    late
}
