//! A server whose agent is a stranger's: it has the real key and certificate, and says what no honest agent says.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use reeve_link::parts::{self, Inbound};
use reeve_link::{Content, Ended, Link, Sender, Stream};
use reeve_wire::code::Code;
use reeve_wire::id::{Digest, OperationId, Salt};
use reeve_wire::message::{AgentHello, Answer, Found, JournalState, MasterHello, Part, PartKind, Query, Ready, Salts};
use reeve_wire::receipt::{Event, Outcome, Receipt};
use reeve_wire::request::Header;
use reeve_wire::signed::Signed;
use reeve_wire::sshsig;
use reeve_wire::strict::{Unused, V1};
use serde_json::Value;
use ssh_key::PrivateKey;

use super::clients::{PATIENCE, with_certificate};
use super::stage::Stage;
use super::technician::{Hand, Heard, Paper, Pen, now, run};

const WEB01: &str = "contoso/web01";
const DB01: &str = "contoso/db01";

/// The control stream of a connection that the master takes for web01's.
struct Fake {
    link: Link,
    sender: Sender,
    inbound: Inbound,
    key: PrivateKey,
}

impl Fake {
    /// Comes as web01 and says that it is `name`.
    async fn hello(stage: &Stage, source: Ipv4Addr, name: &str) -> Self {
        let (key, certificate) = stage.agent(WEB01);
        let identity = with_certificate(&format!("host:{WEB01}"), &key, &certificate);
        let link = stage.dial(source, identity).await.unwrap().link;
        let control = tokio::time::timeout(PATIENCE, link.accept()).await.unwrap().unwrap();
        let (mut sender, receiver) = control.split();
        let mut inbound = Inbound::new(receiver);
        let master: MasterHello = inbound.part().await.unwrap().read(PartKind::MasterHello).unwrap();
        let hello = AgentHello {
            bundle: master.bundle,
            library: master.library,
            host: name.parse().unwrap(),
            now: now(),
            started: now(),
            boot_id: "00000000-0000-4000-8000-000000000000".to_owned(),
            platform: "linux".to_owned(),
            version: "0.1.0".to_owned(),
            checkpoint_size: 0,
            last_receipt: None,
        };
        parts::send(&mut sender, &[Part::json(PartKind::AgentHello, &hello).unwrap()]).await.unwrap();
        Self { link, sender, inbound, key }
    }

    /// Comes as an honest agent would, and is connected when this returns.
    async fn connect(stage: &Stage) -> Self {
        let before = stage.arrivals(WEB01);
        let mut fake = Self::hello(stage, stage.source(), WEB01).await;
        while fake.inbound.part().await.unwrap().kind != PartKind::Go {}
        let bundle = stage.trust.number;
        fake.say(&[Part::json(PartKind::Ready, &Ready { bundle, refusal: None }).unwrap()]).await;
        fake.knows_of_nothing(|| stage.arrivals(WEB01) > before).await;
        fake
    }

    /// Answers whatever the master asks of its journal until `connected`.
    async fn knows_of_nothing(&mut self, connected: impl Fn() -> bool) {
        let began = Instant::now();
        while !connected() {
            assert!(began.elapsed() < PATIENCE, "it does not count as connected");
            let Ok(part) = tokio::time::timeout(Duration::from_millis(50), self.inbound.part()).await else {
                continue;
            };
            let part = part.unwrap();
            if part.kind != PartKind::Query {
                continue;
            }
            let asked: Query = part.read(PartKind::Query).unwrap();
            let absent = |operation| Found { operation, state: JournalState::Absent };
            let found = asked.operations.into_iter().map(|asked| Part::json(PartKind::Found, &absent(asked)).unwrap());
            self.say(&found.collect::<Vec<_>>()).await;
        }
    }

    async fn say(&mut self, said: &[Part]) {
        parts::send(&mut self.sender, said).await.unwrap();
    }

    /// A receipt as web01 would write it of what it was given, but for `change`.
    fn receipt(stage: &Stage, given: Given, change: impl FnOnce(&mut Receipt)) -> Receipt {
        let mut receipt = Receipt {
            v: V1,
            site: stage.trust.site.clone(),
            host: WEB01.parse().unwrap(),
            generation: 9,
            seq: 1,
            prev: None,
            at: now(),
            event: Event::Ended,
            operation: Some(given.operation),
            request: Some(given.request),
            grant: Some(given.grant),
            outcome: Some(Outcome::Exited),
            exit_status: Some(0),
            signal: None,
            code: None,
            reason: None,
            stdout: None,
            stderr: None,
            boot_id: None,
            ephemeral: Unused,
        };
        change(&mut receipt);
        receipt
    }
}

/// What an agent was given, or says that it was.
#[derive(Clone, Copy)]
struct Given {
    operation: OperationId,
    request: Digest,
    grant: Digest,
}

impl From<OperationId> for Given {
    fn from(operation: OperationId) -> Self {
        Self { operation, request: Digest([1; 32]), grant: Digest([2; 32]) }
    }
}

fn anomalies(stage: &Stage) -> Vec<Value> {
    let about = |line: &Value| line["kind"] == "anomaly" && line["host"] == WEB01;
    stage.lines().into_iter().filter(about).collect()
}

/// Waits for exactly one anomaly more, whose reason says `why`, and gives it.
fn one_more(stage: &Stage, before: usize, why: &str, what: &str) -> Value {
    reeve_lab::desk::wait_for(what, Duration::from_secs(5), || anomalies(stage).len() > before);
    let now = anomalies(stage);
    assert_eq!(now.len(), before + 1, "{what}: {now:?}");
    assert_eq!(now[0]["code"], Code::Protocol.as_str(), "{what}");
    assert!(now[0]["reason"].as_str().unwrap().contains(why), "{what}: {}", now[0]);
    now[0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_lies_is_not_believed_and_what_it_said_is_noted() {
    let mut stage = Stage::new();
    let (alice, hand) = (stage.pen("alice"), stage.hand("alice").await);
    let ended = honest(&stage, &hand, &alice, WEB01).await;
    let elsewhere = honest(&stage, &hand, &alice, DB01).await;
    stage.site.stop(&format!("agent:{WEB01}")).unwrap();

    another_name_than_its_own(&stage).await;
    receipts_for_what_it_was_not_given(&stage, ended, elsewhere).await;
    answers_that_do_not_fit(&stage, &hand, &alice).await;
    streams_towards_the_master(&stage).await;

    let before = stage.arrivals(WEB01);
    stage.site.start(&format!("agent:{WEB01}")).unwrap();
    reeve_lab::desk::wait_for("the real one is back", PATIENCE, || stage.arrivals(WEB01) > before);
    honest(&stage, &hand, &alice, WEB01).await;
    stage.verify();
}

/// Runs what is honest, and gives its operation.
async fn honest(stage: &Stage, hand: &Hand, pen: &Pen, host: &str) -> OperationId {
    let paper = stage.paper(pen, &[host], |_| ());
    let _handed_in = hand.submit(&paper, pen).await;
    let answers = hand.ask(&run(&paper, 0, host)).await.answers();
    assert!(matches!(answers.last(), Some(Answer::Ended(ended)) if ended.exit_status == Some(0)), "{answers:?}");
    paper.header.operation
}

async fn another_name_than_its_own(stage: &Stage) {
    for name in [DB01, "contoso/web02", "fabrikam/web01", "fabrikam/mail01"] {
        let (before, source) = (anomalies(stage).len(), stage.source());
        let fake = Fake::hello(stage, source, name).await;
        tokio::time::timeout(PATIENCE, fake.link.closed()).await.unwrap();
        one_more(stage, before, name, "another name");
        assert_eq!(stage.note(source, "protocol", name).await.text("host"), WEB01);
    }
    // Whoever has that name is still there.
    assert!(stage.site.is_up(&format!("agent:{DB01}")));
    let hand = stage.hand("alice").await;
    honest(stage, &hand, &stage.pen("alice"), DB01).await;
}

async fn receipts_for_what_it_was_not_given(stage: &Stage, ended: OperationId, elsewhere: OperationId) {
    let story = |operation: OperationId| {
        let lines = stage.lines().into_iter();
        lines
            .filter(|line| line["operation"] == operation.to_string() && line["kind"] == "operation")
            .collect::<Vec<_>>()
    };
    let before = (story(ended), story(elsewhere));
    let mut fake = Fake::connect(stage).await;
    let never = OperationId::random();
    let by = |key: &PrivateKey, operation: OperationId, change: fn(&mut Receipt)| {
        let receipt = Fake::receipt(stage, operation.into(), change);
        Part::new(PartKind::Receipt, Signed::make(&receipt, key).unwrap().to_wire())
    };
    let (own, other) = (fake.key.clone(), sshsig::generate("other").unwrap());
    let lies = [
        ("an operation that nobody gave it", "never sent", by(&own, never, |_| ())),
        ("an operation of another server", "never sent", by(&own, elsewhere, |_| ())),
        ("a receipt of another server", "another server", {
            by(&own, elsewhere, |receipt| receipt.host = DB01.parse().unwrap())
        }),
        ("a receipt of another site", "another server", {
            by(&own, ended, |receipt| receipt.site = "elsewhere".parse().unwrap())
        }),
        ("a receipt by another key", "another key", by(&other, ended, |_| ())),
        ("what is no receipt", "two SSH strings", Part::new(PartKind::Receipt, b"a receipt".as_slice())),
    ];
    for (what, why, lie) in lies {
        let count = anomalies(stage).len();
        fake.say(&[lie]).await;
        one_more(stage, count, why, what);
    }
    // To tell again what has ended is what an honest agent does after a lost connection; it changes nothing.
    let count = anomalies(stage).len();
    fake.say(&[by(&own, ended, |receipt| receipt.exit_status = Some(99)), by(&own, never, |_| ())]).await;
    one_more(stage, count, "never sent", "the connection goes on");
    assert_eq!((story(ended), story(elsewhere)), before, "what was recorded stays as it was");
    assert!(story(never).is_empty());
    assert_eq!(fake.link.why_closed(), None);
    // A part that does not belong on the control stream ends the connection.
    let count = anomalies(stage).len();
    fake.say(&[Part::new(PartKind::Grant, b"a grant".as_slice())]).await;
    tokio::time::timeout(PATIENCE, fake.link.closed()).await.unwrap();
    one_more(stage, count, "does not belong here", "a grant from an agent");
}

/// How a lying agent answers an operation: what it says, how that is noted, and how it is made.
type Lie = (&'static str, &'static str, Made);
type Made = fn(&Stage, &PrivateKey, Given) -> Vec<(Content, Vec<u8>)>;

fn message(said: &[Part]) -> Vec<(Content, Vec<u8>)> {
    vec![(Content::Message, parts::pack(said).to_vec())]
}

fn signed(receipt: &Receipt, key: &PrivateKey) -> Vec<(Content, Vec<u8>)> {
    message(&[Part::new(PartKind::Receipt, Signed::make(receipt, key).unwrap().to_wire())])
}

const LIES: [Lie; 9] = [
    ("the end of another operation", "another operation", |stage, key, given| {
        signed(&Fake::receipt(stage, given, |receipt| receipt.operation = Some(OperationId::random())), key)
    }),
    ("the end on another server", "another operation", |stage, key, given| {
        signed(&Fake::receipt(stage, given, |receipt| receipt.host = DB01.parse().unwrap()), key)
    }),
    ("the end of another request", "another operation", |stage, key, given| {
        signed(&Fake::receipt(stage, given, |receipt| receipt.request = Some(Digest([7; 32]))), key)
    }),
    ("the end under another grant", "another operation", |stage, key, given| {
        signed(&Fake::receipt(stage, given, |receipt| receipt.grant = Some(Digest([7; 32]))), key)
    }),
    ("an end that somebody else signed", "another key", |stage, _, given| {
        signed(&Fake::receipt(stage, given, |_| ()), &sshsig::generate("other").unwrap())
    }),
    ("a restart in the middle of work", "another operation", |stage, key, given| {
        let restarted = |receipt: &mut Receipt| {
            (receipt.event, receipt.outcome, receipt.operation) = (Event::Restarted, None, None);
            receipt.boot_id = Some("00000000-0000-4000-8000-000000000000".to_owned());
        };
        signed(&Fake::receipt(stage, given, restarted), key)
    }),
    ("an end of what it never accepted", "does not belong here", |stage, key, given| {
        signed(&Fake::receipt(stage, given, |_| ()), key)
    }),
    ("output before it has begun", "before", |_, _, _| vec![(Content::Stdout, b"forged\n".to_vec())]),
    ("its salts twice", "salts twice", |_, _, _| {
        let salts = || Part::json(PartKind::Salts, &Salts { stdout: Salt::random(), stderr: Salt::random() }).unwrap();
        message(&[salts(), salts()])
    }),
];

async fn answers_that_do_not_fit(stage: &Stage, hand: &Hand, pen: &Pen) {
    let fake = Fake::connect(stage).await;
    for (what, why, lie) in LIES {
        let count = anomalies(stage).len();
        let paper = stage.paper(pen, &[WEB01], |_| ());
        let _handed_in = hand.submit(&paper, pen).await;
        let (heard, ()) = tokio::join!(ask(hand, &paper), answer(stage, &fake, lie));
        let answers = heard.answers();
        let Some(Answer::Ended(ended)) = answers.last() else { panic!("{what}: {answers:?}") };
        assert_eq!((ended.outcome, ended.code), (Outcome::Unknown, Some(Code::OutcomeUnknown)), "{what}: {ended:?}");
        assert!(heard.output.is_empty(), "{what}: {heard:?}");
        let noted = one_more(stage, count, why, what);
        assert_eq!(noted["operation"], paper.header.operation.to_string(), "{what}");
        let story = stage.story(&paper.header.operation.to_string(), "outcome-unknown", what);
        assert_eq!((story["record_result"].as_u64(), story["output_bytes"].as_u64().unwrap_or(0)), (ended.record, 0));
    }
    assert_eq!(fake.link.why_closed(), None);
}

async fn ask(hand: &Hand, paper: &Paper) -> Heard {
    hand.ask(&run(paper, 0, WEB01)).await
}

async fn answer(stage: &Stage, fake: &Fake, lie: Made) {
    let stream = tokio::time::timeout(PATIENCE, fake.link.accept()).await.unwrap().unwrap();
    let (mut sender, receiver) = stream.split();
    let mut inbound = Inbound::new(receiver);
    let (mut request, mut grant, mut operation) = (None, None, None);
    loop {
        let part = inbound.part().await.unwrap();
        let signed = Signed::from_wire(&part.bytes);
        if part.kind == PartKind::Request {
            let signed = signed.unwrap();
            (request, operation) = (Some(signed.digest()), Some(signed.peek_unverified::<Header>().unwrap().operation));
        } else if part.kind == PartKind::Grant {
            grant = Some(signed.unwrap().digest());
        } else if part.kind == PartKind::Go {
            break;
        }
    }
    let given = Given { operation: operation.unwrap(), request: request.unwrap(), grant: grant.unwrap() };
    for (content, bytes) in lie(stage, &fake.key, given) {
        sender.send_all(content, bytes.into()).await.unwrap();
    }
    // The master ends what it does not believe.
    while let Ok(Some(_)) = tokio::time::timeout(PATIENCE, inbound.next()).await.unwrap() {}
}

async fn streams_towards_the_master(stage: &Stage) {
    for after_hello in [false, true] {
        let before = anomalies(stage).len();
        let source = stage.source();
        let fake = if after_hello { Fake::connect(stage).await } else { Fake::hello(stage, source, WEB01).await };
        let mut stream: Stream = fake.link.open().unwrap();
        let ask = Part::json(PartKind::Ask, &reeve_wire::message::Ask::Whoami {}).unwrap();
        // It may be cut before all is said.
        assert!(matches!(parts::send(stream.sender(), &[ask]).await, Ok(()) | Err(Ended::Link(_) | Ended::Reset(_))));
        tokio::time::timeout(PATIENCE, fake.link.closed()).await.unwrap();
        one_more(stage, before, "opened a stream", "a stream that an agent opened");
    }
}
