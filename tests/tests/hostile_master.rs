//! A master that has gone bad: it holds the real master's keys and sends a real agent what no technician signed.
//!
//! Every kind of forgery is tried 50 times (1,000 with `REEVE_LONG=1`). None runs; each refusal is in the agent's
//! journal.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed, and says what it measured"
)]

use std::time::Duration;

use reeve_lab::desk::TestSite;
use reeve_lab::hostile::{Answered, Face, Greeted, Rogue};
use reeve_lab::up::{DirectoryKind, Plan};
use reeve_wire::bundle::Trust;
use reeve_wire::certificate;
use reeve_wire::code::Code;
use reeve_wire::grant::{Factor, Grant};
use reeve_wire::id::{Digest, OperationId};
use reeve_wire::keyfile;
use reeve_wire::level::Level;
use reeve_wire::library::Index;
use reeve_wire::message::{Part, PartKind};
use reeve_wire::name::HostName;
use reeve_wire::receipt::{Event, Outcome};
use reeve_wire::request::{Header, ItemRef, Kind, Targets, Text};
use reeve_wire::signed::Signed;
use reeve_wire::sshsig;
use reeve_wire::strict::{Unused, V1};
use reeve_wire::time::{Clock, Millis};
use ssh_key::PrivateKey;

const HOST: &str = "contoso/web01";

fn tries() -> usize {
    if std::env::var_os("REEVE_LONG").is_some() { 1000 } else { 50 }
}

/// Everything that the rogue and an honest technician hold.
struct Stage {
    site: TestSite,
    trust: Trust,
    master: PrivateKey,
    master_certificate: Vec<u8>,
    alice: PrivateKey,
    alice_certificate: Vec<u8>,
    index: Index,
}

/// One honest package, taken apart so that a test can spoil it.
#[derive(Clone)]
struct Package {
    header: Header,
    targets: Targets,
    grant: Grant,
    request: Signed,
    item: Option<Vec<u8>>,
    stdin: Option<Vec<u8>>,
}

impl Stage {
    fn new() -> Self {
        let mut site = TestSite::up(Plan { agents: 0, directory: DirectoryKind::File });
        // One honest command, so that the ledger and the agent have a history.
        let done = site.reeve("alice", ["exec", HOST, "--", "true"]).unwrap();
        assert_eq!(done.status, 0, "{done:?}");
        site.stop("master").unwrap();
        let lab = site.lab().clone();
        let trust = Signed::from_wire(&std::fs::read(&lab.trust).unwrap()).unwrap();
        let trust = Trust::open(trust, &lab.root).unwrap();
        let folder = lab.master.config.parent().unwrap().to_owned();
        let certificate = |path: &std::path::Path| {
            let text = std::fs::read_to_string(path).unwrap();
            ssh_key::Certificate::from_openssh(text.trim()).unwrap().to_bytes().unwrap()
        };
        let alice = &lab.technicians["alice"];
        let index = Signed::from_wire(&std::fs::read(site.dir().join("library/signed/index")).unwrap()).unwrap();
        Self {
            trust,
            master: keyfile::read_private_key(&folder.join("host.key")).unwrap(),
            master_certificate: certificate(&folder.join("host.key-cert.pub")),
            alice: keyfile::read_private_key(&alice.key).unwrap(),
            alice_certificate: certificate(&alice.certificate),
            index: index.peek_unverified().unwrap(),
            site,
        }
    }

    fn face(&self) -> Face {
        let index = Signed::from_wire(&std::fs::read(self.site.dir().join("library/signed/index")).unwrap()).unwrap();
        Face {
            key: self.master.clone(),
            certificate: certificate::from_wire(&self.master_certificate).unwrap(),
            name: "m1".into(),
            bundle: self.trust.signed().clone(),
            number: self.trust.number,
            library: Some((index, self.index.version)),
            checkpoint: self.newest_checkpoint(),
            leaves: self.leaves(),
        }
    }

    fn newest_checkpoint(&self) -> String {
        let reader = reeve_audit::Reader::open(&self.site.lab().master.audit_db).unwrap();
        reader.newest_checkpoint().unwrap().unwrap()
    }

    fn leaves(&self) -> Vec<[u8; 32]> {
        let ledger = rusqlite::Connection::open(&self.site.lab().master.audit_db).unwrap();
        let mut select = ledger.prepare("SELECT hash FROM leaf ORDER BY idx").unwrap();
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    fn address(&self) -> std::net::SocketAddr {
        self.site.lab().master.address.parse().unwrap()
    }

    fn package(&self, hosts: &[&str], argv: &[&str]) -> Package {
        self.package_of(hosts, |header| header.argv = Some(argv.iter().map(|word| Text::from(*word)).collect()))
    }

    fn package_of(&self, hosts: &[&str], change: impl FnOnce(&mut Header)) -> Package {
        let now = Clock::system().now();
        let targets = Targets::of(hosts.iter().map(|host| host.parse::<HostName>().unwrap())).unwrap();
        let mut header = Header {
            v: V1,
            site: self.trust.site.clone(),
            operation: OperationId::random(),
            technician_cert: Digest::of(&self.alice_certificate),
            delegation: None,
            kind: Kind::Raw,
            item: None,
            argv: None,
            args: Vec::new(),
            stdin: None,
            level: Level::Three,
            case: None,
            reason: None,
            timeout_ms: 10_000,
            not_before: now,
            not_after: now.plus(Duration::from_secs(60)),
            checkpoint: Unused,
            ephemeral: Unused,
            targets_root: targets.root(),
        };
        change(&mut header);
        let request = Signed::make(&header, &self.alice).unwrap();
        let grant = self.grant(&header, &request, now);
        Package { header, targets, grant, request, item: None, stdin: None }
    }

    fn grant(&self, header: &Header, request: &Signed, now: Millis) -> Grant {
        Grant {
            v: V1,
            site: self.trust.site.clone(),
            operation: header.operation,
            host: HOST.parse().unwrap(),
            request: request.digest(),
            leaf: Digest([7; 32]),
            log: self.trust.logs()[0].name().to_owned(),
            at: now,
            directory_age_ms: 0,
            factors: vec![Factor::Key, Factor::Password],
            not_after: now.plus(Duration::from_secs(60)),
        }
    }

    fn item(&self, name: &str) -> (ItemRef, Vec<u8>) {
        let item = self.index.items.iter().find(|item| item.name.as_str() == name).unwrap().clone();
        let path = self.site.dir().join(format!("library/signed/packages/{}-{}.json", item.name, item.version));
        (item, std::fs::read(path).unwrap())
    }

    /// The parts of a package as an honest master would send them, with leaf and path of the `index`-th server.
    fn parts(&self, package: &Package, index: usize) -> Vec<Part> {
        self.parts_signed(package, index, &self.master)
    }

    fn parts_signed(&self, package: &Package, index: usize, granting: &PrivateKey) -> Vec<Part> {
        let (leaf, path) = package.targets.proof(index).unwrap();
        let mut said = vec![
            Part::new(PartKind::Request, package.request.to_wire()),
            Part::new(PartKind::Certificate, self.alice_certificate.clone()),
            Part::new(PartKind::Target, leaf),
            Part::json(PartKind::Path, &path).unwrap(),
        ];
        said.extend(package.item.iter().map(|bytes| Part::new(PartKind::Package, bytes.clone())));
        said.push(Part::new(PartKind::Grant, Signed::make(&package.grant, granting).unwrap().to_wire()));
        said.push(Part::new(PartKind::MasterCertificate, self.master_certificate.clone()));
        said.extend(package.stdin.iter().map(|bytes| Part::new(PartKind::Stdin, bytes.clone())));
        said.push(Part::new(PartKind::Go, []));
        said
    }
}

fn refusal(answered: &Answered) -> Code {
    let [receipt] = answered.receipts.as_slice() else { panic!("one receipt, not {answered:?}") };
    assert_eq!((receipt.event, receipt.outcome), (Event::Refused, Some(Outcome::Refused)), "{receipt:?}");
    assert!(answered.output.is_empty());
    receipt.code.unwrap()
}

/// A forgery: what it is called, the code of its refusal, and how the `n`-th one is made.
type Forgery = (&'static str, &'static [Code], fn(&Stage, usize) -> Vec<Part>);

const CANARY: &str = "/bin/echo";

const FORGERIES: &[Forgery] = &[
    ("a request for another host, sent here", &[Code::WrongHost], |stage, _| {
        let package = stage.package(&["contoso/db01"], &[CANARY, "no"]);
        stage.parts(&package, 0)
    }),
    ("another server of the same request", &[Code::WrongHost], |stage, _| {
        let package = stage.package(&["contoso/db01", HOST], &[CANARY, "no"]);
        stage.parts(&package, 0)
    }),
    ("a host that was added to a signed request", &[Code::TargetMismatch], |stage, _| {
        let mut package = stage.package(&["contoso/db01"], &[CANARY, "no"]);
        package.targets = Targets::of(["contoso/db01".parse().unwrap(), HOST.parse().unwrap()]).unwrap();
        stage.parts(&package, 1)
    }),
    ("another command under the same signature", &[Code::RequestSignature], |stage, n| {
        let mut package = stage.package(&[HOST], &[CANARY, "no"]);
        let mut header = package.header.clone();
        header.argv = Some(vec![CANARY.into(), format!("forged {n}").as_str().into()]);
        let json = serde_json::to_vec(&header).unwrap();
        package.request = Signed::from_parts(json, package.request.signature().to_vec());
        package.grant.request = package.request.digest();
        stage.parts(&package, 0)
    }),
    ("a request that the master signed itself", &[Code::RequestSignature], |stage, _| {
        let mut package = stage.package(&[HOST], &[CANARY, "no"]);
        package.request = Signed::make(&package.header, &stage.master).unwrap();
        package.grant.request = package.request.digest();
        stage.parts(&package, 0)
    }),
    ("standard input that nobody signed", &[Code::StdinMismatch], |stage, n| {
        let mut package = stage.package(&[HOST], &["/bin/sh", "-s"]);
        package.stdin = Some(format!("echo forged {n}").into_bytes());
        stage.parts(&package, 0)
    }),
    ("other standard input than was signed", &[Code::StdinMismatch], |stage, n| {
        let signed = Digest::of(b"echo signed");
        let mut package = stage.package_of(&[HOST], |header| {
            header.argv = Some(vec!["/bin/sh".into(), "-s".into()]);
            header.stdin = Some(signed);
        });
        package.stdin = Some(format!("echo forged {n}").into_bytes());
        stage.parts(&package, 0)
    }),
    ("signed standard input left out", &[Code::StdinMismatch], |stage, _| {
        let package = stage.package_of(&[HOST], |header| {
            header.argv = Some(vec!["/bin/cat".into()]);
            header.stdin = Some(Digest::of(b"signed"));
        });
        stage.parts(&package, 0)
    }),
    ("an item of level 2 under a request for level 1", &[Code::LevelMismatch], |stage, _| {
        let (item, bytes) = stage.item("service-restart");
        let mut package = stage.package_of(&[HOST], |header| {
            header.kind = Kind::Item;
            header.item = Some(item);
            header.level = Level::One;
            header.args = vec![("NAME".into(), "demo".into())];
        });
        package.item = Some(bytes);
        stage.parts(&package, 0)
    }),
    ("a raw command under a request for level 1", &[Code::LevelMismatch], |stage, _| {
        let package = stage.package_of(&[HOST], |header| {
            header.argv = Some(vec![CANARY.into()]);
            header.level = Level::One;
        });
        stage.parts(&package, 0)
    }),
    ("an item's package that was changed", &[Code::ItemMismatch], |stage, _| {
        let (item, bytes) = stage.item("uptime");
        let mut package = stage.package_of(&[HOST], |header| {
            header.kind = Kind::Item;
            header.item = Some(item);
            header.level = Level::One;
        });
        let changed = String::from_utf8(bytes.clone()).unwrap().replace("/bin/sh", "/bin/su");
        assert_ne!(changed.as_bytes(), bytes);
        package.item = Some(changed.into_bytes());
        stage.parts(&package, 0)
    }),
    ("an item's version that the library does not have", &[Code::ItemMismatch], |stage, n| {
        let (mut item, bytes) = stage.item("uptime");
        item.version += 1 + n as u64;
        let mut package = stage.package_of(&[HOST], |header| {
            header.kind = Kind::Item;
            header.item = Some(item);
            header.level = Level::One;
        });
        package.item = Some(bytes);
        stage.parts(&package, 0)
    }),
    ("a grant by somebody else's key", &[Code::GrantInvalid], |stage, _| {
        let package = stage.package(&[HOST], &[CANARY, "no"]);
        stage.parts_signed(&package, 0, &sshsig::generate("forger").unwrap())
    }),
    ("a grant for another request", &[Code::GrantInvalid], |stage, _| {
        let mut package = stage.package(&[HOST], &[CANARY, "no"]);
        package.grant.request = Digest([1; 32]);
        stage.parts(&package, 0)
    }),
    ("a grant for another host", &[Code::GrantInvalid], |stage, _| {
        let mut package = stage.package(&[HOST], &[CANARY, "no"]);
        package.grant.host = "contoso/db01".parse().unwrap();
        stage.parts(&package, 0)
    }),
    ("a grant for longer than a minute", &[Code::GrantInvalid], |stage, _| {
        let mut package = stage.package(&[HOST], &[CANARY, "no"]);
        package.grant.not_after = package.grant.at.plus(Duration::from_secs(3600));
        stage.parts(&package, 0)
    }),
    ("a grant that names a log nobody knows", &[Code::GrantInvalid], |stage, _| {
        let mut package = stage.package(&[HOST], &[CANARY, "no"]);
        package.grant.log = "lab.reeve/other".into();
        stage.parts(&package, 0)
    }),
    ("a request for another site", &[Code::WrongSite], |stage, _| {
        let package = stage.package_of(&[HOST], |header| {
            header.argv = Some(vec![CANARY.into()]);
            header.site = "elsewhere".parse().unwrap();
        });
        stage.parts(&package, 0)
    }),
    ("a request whose time is over", &[Code::RequestExpired], |stage, _| {
        let package = stage.package_of(&[HOST], |header| {
            header.argv = Some(vec![CANARY.into()]);
            header.not_before = header.not_before.minus(Duration::from_secs(900));
            header.not_after = header.not_before.plus(Duration::from_secs(60));
        });
        stage.parts(&package, 0)
    }),
    ("a request past the certificate's ceiling", &[Code::CeilingCustomer, Code::WrongHost], |stage, _| {
        let package = stage.package(&["fabrikam/mail01"], &[CANARY, "no"]);
        stage.parts(&package, 0)
    }),
    ("work without a request", &[Code::RequestMalformed, Code::Protocol], |stage, _| {
        let package = stage.package(&[HOST], &[CANARY, "no"]);
        stage.parts(&package, 0).into_iter().filter(|part| part.kind != PartKind::Request).collect()
    }),
    ("work without a grant", &[Code::GrantInvalid, Code::RequestMalformed, Code::Protocol], |stage, _| {
        let package = stage.package(&[HOST], &[CANARY, "no"]);
        stage.parts(&package, 0).into_iter().filter(|part| part.kind != PartKind::Grant).collect()
    }),
];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_hostile_master_makes_up_runs_and_every_refusal_is_in_the_agents_journal() {
    let stage = Stage::new();
    let mut rogue = Rogue::listen(stage.address(), stage.face()).await.unwrap();
    let agent = greet_web01(&mut rogue).await;
    let started = stage.site.programs_started(HOST);

    let mut refused = 0;
    for (what, codes, forge) in FORGERIES {
        for n in 0..tries() {
            let answered = agent.send(&forge(&stage, n)).await.unwrap();
            if *what == "work without a request" && answered.receipts.is_empty() {
                continue;
            }
            let code = refusal(&answered);
            assert!(codes.contains(&code), "{what}: {code}");
            refused += 1;
        }
    }
    assert_eq!(stage.site.programs_started(HOST), started, "none of it ran");

    // The same agent runs what alice did sign: the refusals above are not for want of trying.
    let honest = stage.parts(&stage.package(&[HOST], &[CANARY, "honest"]), 0);
    let answered = agent.send(&honest).await.unwrap();
    assert_eq!(answered.output, b"honest\n");
    for _ in 0..tries() {
        assert_eq!(refusal(&agent.send(&honest).await.unwrap()), Code::RequestReplayed);
        refused += 1;
    }
    assert_eq!(stage.site.programs_started(HOST), started + 1);

    let config = stage.site.lab().agents[HOST].config.clone();
    let mut log = std::process::Command::new(stage.site.program("reeve-agent"));
    let log = log.arg("--config").arg(config).args(["log", "--json"]).output().unwrap();
    let log = String::from_utf8(log.stdout).unwrap();
    let journalled = log.lines().filter(|line| line.contains("\"refused\"")).count();
    assert!(journalled >= refused, "{journalled} refusals in the journal, {refused} were made");
    println!("{} forgeries of {} kinds, none ran", refused, FORGERIES.len() + 1);
}

/// All agents of the site come; this is the one that the test is about.
async fn greet_web01(rogue: &mut Rogue) -> Greeted {
    loop {
        let greeted = rogue.greet().await.unwrap();
        if greeted.hello.host.to_string() == HOST {
            assert!(greeted.ready.refusal.is_none(), "{:?}", greeted.ready);
            return greeted;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_refuses_all_work_of_a_master_that_shows_a_shorter_history() {
    let stage = Stage::new();
    let old = stage.newest_checkpoint();
    let mut site = stage.site;
    site.start("master").unwrap();
    reeve_lab::desk::wait_for("the host is back", Duration::from_secs(40), || {
        site.reeve("alice", ["exec", HOST, "--", "true"]).unwrap().status == 0
    });
    let seen = site.lab().agents[HOST].state.join("checkpoints");
    reeve_lab::desk::wait_for("the agent has the newer checkpoint", Duration::from_secs(10), || {
        let notes =
            std::fs::read_dir(&seen).unwrap().flatten().map(|entry| std::fs::read_to_string(entry.path()).unwrap());
        notes.into_iter().any(|note| note != old && note.lines().nth(1) > old.lines().nth(1))
    });
    site.stop("master").unwrap();

    let stage = Stage { site, ..stage };
    let mut rogue = Rogue::listen(stage.address(), Face { checkpoint: old, ..stage.face() }).await.unwrap();
    let agent = loop {
        let greeted = rogue.greet().await.unwrap();
        if greeted.hello.host.to_string() == HOST {
            break greeted;
        }
    };
    assert_eq!(agent.ready.refusal.as_ref().map(|refusal| refusal.code), Some(Code::HistoryRefused));
    let honest = stage.parts(&stage.package(&[HOST], &[CANARY, "honest"]), 0);
    assert_eq!(refusal(&agent.send(&honest).await.unwrap()), Code::HistoryRefused);
}
