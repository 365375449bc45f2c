//! A whole master in this process, without SSH: its technician and its agents speak by hand over links in memory.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use reeve_audit::record::{Body, Record};
use reeve_audit::{Reader, WriterThread};
use reeve_link::parts::{self, Inbound, Item};
use reeve_link::tasks::Tasks;
use reeve_link::{Limits, Link, Sender, memory};
use reeve_wire::bundle::{Authorities, Bundle, Log};
use reeve_wire::certificate::{self, CUSTOMERS, DIRECTORY_ID, MAX_LEVEL};
use reeve_wire::code::Refusal;
use reeve_wire::delegation::Delegation;
use reeve_wire::id::{Digest, OperationId, Salt};
use reeve_wire::keyfile::KeyLine;
use reeve_wire::level::Level;
use reeve_wire::message::{AgentHello, Answer, Ask, Found, JournalState, Part, PartKind, Query, Ready};
use reeve_wire::name::HostName;
use reeve_wire::note::LogSigner;
use reeve_wire::receipt::{Event, Outcome, Receipt};
use reeve_wire::request::{Header, Kind, Targets, Text};
use reeve_wire::signed::Signed;
use reeve_wire::sshsig;
use reeve_wire::strict::{Unused, V1};
use reeve_wire::time::{Clock, Millis};
use ssh_key::certificate::{Builder, CertType};
use ssh_key::{Certificate, PrivateKey};

use crate::config::Config;
use crate::directory::{self, Directory};
use crate::fleet::Fleet;
use crate::ledger::Ledger;
use crate::master::Master;
use crate::replay::Replay;
use crate::running::Running;
use crate::sessions::Sessions;
use crate::ssh::{Door, Who};
use crate::trusted::Trusted;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);
const HOST: &str = "contoso/web01";

/// Waits, but not for ever.
#[track_caller]
pub(crate) fn soon<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move { tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{caller}: not in time")) }
}

pub(crate) struct Bench {
    pub(crate) master: Arc<Master>,
    dir: tempfile::TempDir,
    writer: WriterThread,
    root: PrivateKey,
    technicians: PrivateKey,
    agents: PrivateKey,
    log: LogSigner,
    alice: PrivateKey,
    /// The key of the host's agent.
    pub(crate) agent: PrivateKey,
}

fn key() -> PrivateKey {
    sshsig::generate("").unwrap()
}

fn line(key: &PrivateKey) -> KeyLine {
    KeyLine::new(key.public_key().key_data().clone()).unwrap()
}

fn certified(ca: &PrivateKey, key: &PrivateKey, principal: &str, extensions: &[(&str, &str)]) -> Certificate {
    let now = Clock::system().now().seconds();
    let mut made = Builder::new([7; 16], key.public_key().key_data().clone(), now - 60, now + 3600).unwrap();
    made.cert_type(CertType::User).unwrap().valid_principal(principal).unwrap();
    for (name, value) in extensions {
        made.extension(*name, *value).unwrap();
    }
    made.sign(ca).unwrap()
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [root, technicians, agents, host_key, alice, agent] = std::array::from_fn(|_| key());
        let log = LogSigner::generate("lab.reeve/m1").unwrap();
        let path = |name: &str| dir.path().join(name);
        let people = format!(
            "staff = [\"alice\"]\n[people]\nalice = {{ id = \"id-alice\", password = \"{}\" }}\n[hosts.\"{HOST}\"]\nl3 = [\"alice\"]\n",
            directory::hash_password("s3cret").unwrap()
        );
        std::fs::write(path("people.toml"), people).unwrap();
        std::fs::set_permissions(path("people.toml"), std::fs::Permissions::from_mode(0o600)).unwrap();
        let config = format!(
            "site = \"lab\"\nname = \"m1\"\nroot = \"{}\"\ntrust = \"{d}/trust\"\nkey = \"{d}/k\"\ncertificate = \"{d}/c\"\n\
             log-key = \"{d}/l\"\naudit-db = \"{d}/audit.db\"\nstate = \"{d}\"\n\
             [directory]\nkind = \"file\"\npath = \"{d}/people.toml\"\n",
            sshsig::fingerprint(root.public_key().key_data()),
            d = dir.path().display()
        );
        let config: Config = toml::from_str(&config).unwrap();
        write_bundle(&path("trust"), 1, &root, &technicians, &agents, &log);
        let clock = Clock::system();
        let trusted = Trusted::open(&config.trust, &config.root, None).unwrap();
        let (ledger, writer) =
            reeve_audit::Ledger::open(reeve_audit::Settings::new(&config.audit_db, log.clone())).unwrap();
        let ledger = Ledger::new(ledger, clock.clone());
        let master = Master {
            sessions: Sessions::open(&path("sessions"), &trusted.bundle(), clock.now()).unwrap(),
            directory: Directory::open(&config.directory).unwrap(),
            tasks: Tasks::new(),
            trusted,
            door: Door::new(ledger.clone()),
            ledger,
            fleet: Fleet::default(),
            replay: Replay::default(),
            running: Running::default(),
            key: host_key,
            certificate: b"not looked at here".to_vec(),
            clock,
            config,
        };
        Self { master: Arc::new(master), dir, writer, root, technicians, agents, log, alice, agent }
    }

    /// The next bundle, of which one of the CAs is another.
    pub(crate) fn replace_ca(&self, technicians: bool) {
        let (other, path) = (key(), self.dir.path().join("trust"));
        let (one, two) = if technicians { (&other, &self.agents) } else { (&self.technicians, &other) };
        write_bundle(&path, self.master.trusted.bundle().number + 1, &self.root, one, two, &self.log);
        assert!(!self.master.trusted.take_bundle().is_empty());
    }

    pub(crate) fn host(&self) -> HostName {
        HOST.parse().unwrap()
    }

    fn certificate(&self) -> Vec<u8> {
        let extensions = [(DIRECTORY_ID, "id-alice"), (MAX_LEVEL, "3"), (CUSTOMERS, "*")];
        certified(&self.technicians, &self.alice, "tech:alice", &extensions).to_bytes().unwrap()
    }

    /// Alice, as after a login with key and password.
    pub(crate) fn technician(&self) -> Console {
        let certificate = self.certificate();
        let trust = self.master.trusted.bundle();
        let now = self.master.clock.now();
        let technician = certificate::technician(&certificate::from_wire(&certificate).unwrap(), &trust, now).unwrap();
        let who = Who::Technician { technician, certificate: certificate.clone() };
        self.console(who, self.alice.clone(), certificate, None)
    }

    /// Alice, with a session of its own key.
    pub(crate) fn session(&self) -> Console {
        let (session_key, certificate) = (key(), self.certificate());
        let (trust, now) = (self.master.trusted.bundle(), self.master.clock.now());
        let technician = certificate::technician(&certificate::from_wire(&certificate).unwrap(), &trust, now).unwrap();
        let delegation = Delegation {
            v: V1,
            site: "lab".parse().unwrap(),
            technician_cert: technician.certificate,
            session_key: line(&session_key),
            max_level: Level::Three,
            not_before: now,
            not_after: now.plus(Duration::from_secs(3600)),
            nonce: Salt::random(),
        };
        let signed = Signed::make(&delegation, &self.alice).unwrap();
        let site = "lab".parse().unwrap();
        let session =
            self.master.sessions.register(technician, certificate.clone(), signed.clone(), &site, now).unwrap();
        self.console(Who::Session(session), session_key, certificate, Some(signed))
    }

    fn console(&self, who: Who, key: PrivateKey, certificate: Vec<u8>, delegation: Option<Signed>) -> Console {
        let (here, link) = self.pair();
        let master = Arc::clone(&self.master);
        self.master.tasks.spawn("console", async move {
            crate::technician::serve(&master, who, "192.0.2.1".into(), &here).await;
        });
        Console { link, key, certificate, delegation, host: self.host() }
    }

    /// The master's end of a connection, cut when the master stops as its socket is, and the other.
    fn pair(&self) -> (Link, Link) {
        let (here, there) = memory::pair(Limits::CONTROL, &self.master.tasks);
        let (cut, stop) = (here.clone(), self.master.tasks.stop());
        self.master.tasks.spawn("socket", async move {
            tokio::select! {
                () = stop.cancelled() => cut.kill(reeve_link::Why::Killed),
                _ = cut.closed() => {}
            }
        });
        (here, there)
    }

    /// The host's agent, connected and past its hello. `started` names the process.
    pub(crate) async fn agent(&self, started: u64) -> Agent {
        let mut agent = self.dial(started).await;
        agent.ready(1).await;
        agent
    }

    /// The host's agent as far as its answer to what it was shown.
    pub(crate) async fn dial(&self, started: u64) -> Agent {
        let shown = certified(&self.agents, &self.agent, &format!("host:{HOST}"), &[]);
        let trust = self.master.trusted.bundle();
        let identity = certificate::agent(&shown, &trust, self.master.clock.now()).unwrap();
        let (here, link) = self.pair();
        let master = Arc::clone(&self.master);
        self.master.tasks.spawn("agent", async move {
            crate::agents::serve(&master, identity, "192.0.2.2", here).await;
        });
        let (sender, receiver) = soon(link.accept()).await.unwrap().split();
        let mut control = Agent { link, sender, inbound: Inbound::new(receiver), key: self.agent.clone(), seq: 0 };
        assert_eq!(control.part().await.kind, PartKind::MasterHello);
        let hello = AgentHello {
            bundle: 1,
            library: None,
            host: self.host(),
            now: self.master.clock.now(),
            started: Millis(started),
            boot_id: "ab".repeat(16),
            platform: "linux".into(),
            version: "0.1.0".into(),
            checkpoint_size: 0,
            last_receipt: None,
        };
        control.say(&[Part::json(PartKind::AgentHello, &hello).unwrap()]).await;
        while control.part().await.kind != PartKind::Go {}
        control
    }

    /// Waits until the host's agent counts as connected.
    pub(crate) async fn connected(&self, agent: &Agent) {
        let since = std::time::Instant::now();
        // Each end is the other's, and only one of them is in the fleet.
        while self.master.fleet.agent(&self.host()).is_none_or(|held| held.link.why_closed().is_some()) {
            assert!(agent.link.why_closed().is_none() && since.elapsed() < PATIENCE, "it is not connected");
            tokio::task::yield_now().await;
        }
    }

    /// Every record, in order.
    pub(crate) fn records(&self) -> Vec<Record> {
        let reader = Reader::open(&self.master.config.audit_db).unwrap();
        (0..reader.size().unwrap()).map(|index| reader.record(index).unwrap().value).collect()
    }

    /// The last word on an operation, and how many records end it.
    pub(crate) fn outcome(&self, operation: OperationId) -> (Option<Outcome>, usize) {
        let mut found = (None, 0);
        for record in self.records() {
            if let Body::Result(verdict) | Body::Late(verdict) = record.body
                && verdict.operation == operation
            {
                found = (Some(verdict.outcome), found.1 + 1);
            }
        }
        found
    }

    /// Waits until the last word on an operation is `outcome`.
    pub(crate) async fn comes_to(&self, operation: OperationId, outcome: Outcome) {
        let since = std::time::Instant::now();
        while self.outcome(operation).0 != Some(outcome) {
            assert!(since.elapsed() < PATIENCE, "it is {:?}", self.outcome(operation));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) fn anomalies(&self) -> usize {
        let anomaly = |record: &Record| record.body.kind().as_str() == "anomaly";
        self.records().iter().filter(|record| anomaly(record)).count()
    }

    /// Ends everything; what does not end fails the test.
    pub(crate) async fn end(self) {
        let Self { master, writer, .. } = self;
        master.tasks.shutdown(PATIENCE).await.unwrap();
        drop(master);
        tokio::task::spawn_blocking(move || writer.join()).await.unwrap();
    }
}

fn write_bundle(
    path: &std::path::Path,
    number: u64,
    root: &PrivateKey,
    technicians: &PrivateKey,
    agents: &PrivateKey,
    log: &LogSigner,
) {
    let now = Clock::system().now();
    let bundle = Bundle {
        v: V1,
        site: "lab".parse().unwrap(),
        number,
        issued: now,
        refresh_by: now.plus(reeve_wire::bundle::FRESH_FOR),
        ca: Authorities { technicians: vec![line(technicians)], agents: vec![line(agents)], masters: vec![] },
        masters: vec!["m1".parse().unwrap()],
        logs: vec![Log { vkey: log.vkey().to_string(), succeeds: Unused }],
        library_signers: vec![],
        release_keys: Unused,
        krl: Unused,
    };
    std::fs::write(path, Signed::make(&bundle, root).unwrap().to_wire()).unwrap();
}

/// A technician's end.
pub(crate) struct Console {
    pub(crate) link: Link,
    key: PrivateKey,
    certificate: Vec<u8>,
    delegation: Option<Signed>,
    host: HostName,
}

/// A stream of a technician's.
pub(crate) type Asked = (Sender, Inbound);

impl Console {
    pub(crate) fn header(&self, operation: OperationId, targets: &Targets, argv: &str) -> Header {
        let now = Clock::system().now();
        Header {
            v: V1,
            site: "lab".parse().unwrap(),
            operation,
            technician_cert: Digest::of(&self.certificate),
            delegation: self.delegation.as_ref().map(Signed::digest),
            kind: Kind::Raw,
            item: None,
            argv: Some(vec![Text::from(argv)]),
            args: Vec::new(),
            stdin: None,
            level: Level::Three,
            case: None,
            reason: None,
            timeout_ms: 600_000,
            not_before: now,
            not_after: now.plus(Duration::from_secs(60)),
            checkpoint: Unused,
            ephemeral: Unused,
            targets_root: targets.root(),
        }
    }

    pub(crate) async fn ask(&self, ask: &Ask, more: Vec<Part>) -> Asked {
        let (mut sender, receiver) = self.link.open().unwrap().split();
        let mut said = vec![Part::json(PartKind::Ask, ask).unwrap()];
        said.extend(more);
        soon(parts::send(&mut sender, &said)).await.unwrap();
        (sender, Inbound::new(receiver))
    }

    /// The same person and keys on another connection.
    pub(crate) fn on(self, link: Link) -> Self {
        Self { link, ..self }
    }

    /// Ends the session as a logout elsewhere does.
    pub(crate) fn end_session(&self, bench: &Bench) {
        let (name, now) = ("alice".parse().unwrap(), bench.master.clock.now());
        let session = bench.master.sessions.find(&name, self.key.public_key().key_data(), now).unwrap();
        bench.master.sessions.end(&session);
    }

    pub(crate) async fn submit(&self, operation: OperationId, argv: &str) -> (Asked, Targets) {
        self.try_submit(operation, argv).await.unwrap()
    }

    fn request(&self, operation: OperationId, argv: &str) -> (Targets, Signed) {
        let targets = Targets::of([self.host.clone()]).unwrap();
        let request = Signed::make(&self.header(operation, &targets, argv), &self.key).unwrap();
        (targets, request)
    }

    pub(crate) async fn try_submit(&self, operation: OperationId, argv: &str) -> Result<(Asked, Targets), Refusal> {
        let (targets, request) = self.request(operation, argv);
        let mut more = vec![Part::new(PartKind::Request, request.to_wire())];
        more.extend(self.delegation.iter().map(|signed| Part::new(PartKind::Delegation, signed.to_wire())));
        more.push(Part::new(PartKind::Certificate, self.certificate.clone()));
        more.push(Part::new(PartKind::Go, []));
        let mut asked = self.ask(&Ask::Submit { operation }, more).await;
        let answered = answer(&mut asked).await;
        if let Answer::Refused { refusal, .. } = answered {
            return Err(refusal);
        }
        assert!(matches!(answered, Answer::Submitted {}), "{answered:?}");
        Ok((asked, targets))
    }

    pub(crate) async fn run(&self, operation: OperationId, targets: &Targets) -> Asked {
        let (leaf, path) = targets.proof(0).unwrap();
        let path = Part::json(PartKind::Path, &path).unwrap();
        let more = vec![Part::new(PartKind::Target, leaf), path, Part::new(PartKind::Go, [])];
        self.ask(&Ask::Run { operation, host: self.host.clone() }, more).await
    }

    /// Hands a request in and runs it as far as its start.
    pub(crate) async fn start(&self, argv: &str) -> (OperationId, Asked, Asked) {
        let operation = OperationId::random();
        let (submitted, targets) = self.submit(operation, argv).await;
        let mut asked = self.run(operation, &targets).await;
        let answered = answer(&mut asked).await;
        assert!(matches!(answered, Answer::Started { .. }), "{answered:?}");
        (operation, submitted, asked)
    }
}

/// The next answer.
pub(crate) async fn answer(asked: &mut Asked) -> Answer {
    loop {
        match soon(asked.1.next()).await.unwrap().unwrap() {
            Item::Part(part) if part.kind == PartKind::Answer => return part.read(PartKind::Answer).unwrap(),
            Item::Part(_) | Item::Bytes(..) => {}
        }
    }
}

/// An agent's end: its control stream, and its chain.
pub(crate) struct Agent {
    pub(crate) link: Link,
    pub(crate) sender: Sender,
    pub(crate) inbound: Inbound,
    key: PrivateKey,
    seq: u64,
}

/// One operation as the agent got it.
pub(crate) struct Work {
    pub(crate) sender: Sender,
    pub(crate) inbound: Inbound,
    pub(crate) operation: OperationId,
    request: Digest,
    grant: Digest,
}

impl Agent {
    pub(crate) async fn say(&mut self, said: &[Part]) {
        soon(parts::send(&mut self.sender, said)).await.unwrap();
    }

    pub(crate) async fn part(&mut self) -> Part {
        soon(self.inbound.part()).await.unwrap()
    }

    pub(crate) async fn ready(&mut self, bundle: u64) {
        self.say(&[Part::json(PartKind::Ready, &Ready { bundle, refusal: None }).unwrap()]).await;
    }

    /// Answers the next question with `state` for each operation, and for those that ended with these receipts.
    pub(crate) async fn answer_query(&mut self, state: JournalState, receipts: &[Vec<u8>]) -> Vec<OperationId> {
        loop {
            let part = self.part().await;
            if part.kind != PartKind::Query {
                continue;
            }
            let Query { operations } = part.read(PartKind::Query).unwrap();
            let mut said: Vec<_> = receipts.iter().map(|bytes| Part::new(PartKind::Receipt, bytes.clone())).collect();
            let found = operations.iter().map(|operation| Found { operation: *operation, state });
            said.extend(found.map(|found| Part::json(PartKind::Found, &found).unwrap()));
            self.say(&said).await;
            return operations;
        }
    }

    pub(crate) async fn work(&self) -> Work {
        let (sender, receiver) = soon(self.link.accept()).await.unwrap().split();
        let mut inbound = Inbound::new(receiver);
        let (mut request, mut grant) = (None, None);
        loop {
            let part = soon(inbound.part()).await.unwrap();
            #[expect(clippy::wildcard_enum_match_arm, reason = "the rest is not looked at")]
            match part.kind {
                PartKind::Request => request = Some(Signed::from_wire(&part.bytes).unwrap()),
                PartKind::Grant => grant = Some(Signed::from_wire(&part.bytes).unwrap()),
                PartKind::Go => break,
                _ => {}
            }
        }
        let request = request.unwrap();
        let operation = request.peek_unverified::<Header>().unwrap().operation;
        Work { sender, inbound, operation, request: request.digest(), grant: grant.unwrap().digest() }
    }

    /// The next receipt of its chain, as it travels.
    pub(crate) fn receipt(&mut self, work: &Work, event: Event, outcome: Option<Outcome>) -> Vec<u8> {
        self.seq += 1;
        let receipt = Receipt {
            v: V1,
            site: "lab".parse().unwrap(),
            host: HOST.parse().unwrap(),
            generation: 1,
            seq: self.seq,
            prev: None,
            at: Clock::system().now(),
            event,
            operation: Some(work.operation),
            request: Some(work.request),
            grant: Some(work.grant),
            outcome,
            exit_status: (outcome == Some(Outcome::Exited)).then_some(0),
            signal: None,
            code: None,
            reason: None,
            stdout: None,
            stderr: None,
            boot_id: None,
            ephemeral: Unused,
        };
        Signed::make(&receipt, &self.key).unwrap().to_wire()
    }
}

impl Work {
    pub(crate) async fn tell(&mut self, receipt: &[u8]) {
        soon(parts::send(&mut self.sender, &[Part::new(PartKind::Receipt, receipt)])).await.unwrap();
    }
}
