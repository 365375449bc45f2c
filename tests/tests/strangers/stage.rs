//! A site, the keys that its strangers have got hold of, and the record of what became of them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use reeve_audit::Reader;
use reeve_audit::reader::{Filter, ReadError};
use reeve_audit::record::{Body, Event};
use reeve_audit::verify;
use reeve_lab::desk::TestSite;
use reeve_lab::up::{DirectoryKind, Plan};
use reeve_wire::bundle::Trust;
use reeve_wire::keyfile;
use reeve_wire::signed::Signed;
use reeve_wire::sshsig;
use serde_json::Value;
use ssh_key::{Certificate, PrivateKey};
use tokio::net::{TcpSocket, TcpStream};

/// How long a record may take to be there.
const RECORDED: Duration = Duration::from_secs(5);

pub(crate) struct Stage {
    pub(crate) site: TestSite,
    pub(crate) trust: Trust,
    next: AtomicU8,
}

/// One event of the record: its line of `list --json`, and the record itself.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) line: Value,
    pub(crate) event: Event,
}

impl Recorded {
    pub(crate) fn text(&self, field: &str) -> &str {
        self.line.get(field).and_then(Value::as_str).unwrap_or_default()
    }
}

impl Stage {
    pub(crate) fn new() -> Self {
        let site = TestSite::up(Plan { agents: 0, directory: DirectoryKind::File });
        let lab = site.lab();
        let trust = Signed::from_wire(&std::fs::read(&lab.trust).unwrap()).unwrap();
        let trust = Trust::open(trust, &lab.root).unwrap();
        Self { trust, site, next: AtomicU8::new(0) }
    }

    /// A loopback address that nobody else comes from: the door counts by source, so each try has one of its own.
    pub(crate) fn source(&self) -> Ipv4Addr {
        Ipv4Addr::new(127, 9, 9, 1 + self.next.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn master(&self) -> SocketAddr {
        self.site.lab().master.address.parse().unwrap()
    }

    pub(crate) async fn connect(&self, source: Ipv4Addr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        socket.connect(self.master()).await.unwrap()
    }

    /// A folder for what a test makes itself.
    pub(crate) fn folder(&self) -> PathBuf {
        let folder = self.site.dir().join("strangers");
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    pub(crate) fn technician(&self, name: &str) -> (PrivateKey, Certificate) {
        let technician = &self.site.lab().technicians[name];
        (keyfile::read_private_key(&technician.key).unwrap(), certificate(&technician.certificate))
    }

    pub(crate) fn password(&self, name: &str) -> String {
        std::fs::read_to_string(&self.site.lab().technicians[name].password_file).unwrap()
    }

    pub(crate) fn agent(&self, host: &str) -> (PrivateKey, Certificate) {
        let key = &self.site.lab().agents[host].key;
        let beside = key.with_file_name("host.key-cert.pub");
        (keyfile::read_private_key(key).unwrap(), certificate(&beside))
    }

    /// All lines of the record as `list --json` prints them, newest first.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let mut lines = Vec::new();
        let each = |line| {
            lines.push(serde_json::to_value(&line).unwrap());
            Ok::<_, ReadError>(true)
        };
        self.reader().list(&Filter::default(), each).unwrap();
        lines
    }

    fn reader(&self) -> Reader {
        Reader::open(&self.site.lab().master.audit_db).unwrap()
    }

    /// The refusals and anomalies of whoever came from `source`, oldest first.
    pub(crate) fn noted(&self, source: Ipv4Addr) -> Vec<Recorded> {
        let reader = self.reader();
        let kinds = ["login-failed", "connection-refused", "anomaly"];
        let lines = self.lines().into_iter().rev().filter(|line| kinds.contains(&line["kind"].as_str().unwrap()));
        let recorded = lines.filter_map(|line| {
            let record = reader.record(line["record_result"].as_u64()?).unwrap();
            let Body::Event(_, event) = record.value.body else { return None };
            (event.address.as_deref() == Some(&source.to_string())).then_some(Recorded { line, event })
        });
        recorded.collect()
    }

    /// The one refusal or anomaly of whoever came from `source`, as soon as it is there.
    pub(crate) async fn note(&self, source: Ipv4Addr, code: &str, what: &str) -> Recorded {
        self.notes(source, &[code], what).await.pop().unwrap()
    }

    /// The refusals and anomalies of whoever came from `source`, as soon as as many are there; with these codes.
    pub(crate) async fn notes(&self, source: Ipv4Addr, codes: &[&str], what: &str) -> Vec<Recorded> {
        let began = Instant::now();
        loop {
            let noted = self.noted(source);
            if noted.len() >= codes.len() {
                let have: Vec<_> = noted.iter().map(|note| note.text("code")).collect();
                assert_eq!(have, codes, "{what}");
                return noted;
            }
            assert!(began.elapsed() < RECORDED, "{what}: within {RECORDED:?} only {noted:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// How often an agent of `host` has come so far that work could be sent to it.
    pub(crate) fn arrivals(&self, host: &str) -> usize {
        let reader = self.reader();
        let lines = self.lines().into_iter().filter(|line| line["kind"] == "connection" && line["host"] == host);
        let arrived = lines.filter(|line| {
            let record = reader.record(line["record_result"].as_u64().unwrap()).unwrap();
            let Body::Event(_, event) = record.value.body else { return false };
            event.facts.iter().any(|(name, value)| name == "state" && value.as_bytes() == b"connected")
        });
        arrived.count()
    }

    /// The record's line of an operation, which must have exactly one with this code.
    pub(crate) fn story(&self, operation: &str, code: &str, what: &str) -> Value {
        let lines = self.lines();
        let stories: Vec<_> =
            lines.iter().filter(|line| line["operation"] == operation && line["code"] == code).collect();
        let [story] = stories.as_slice() else { panic!("{what}: one record with {code}, not {stories:?}") };
        (*story).clone()
    }

    pub(crate) fn verify(&self) {
        let vkey = self.site.lab().master.vkey.parse().unwrap();
        let now_us = reeve_wire::time::Clock::system().now().0 * 1000;
        let settings = verify::Settings { vkey: Some(vkey), against: Vec::new(), now_us };
        let report = verify::verify(&self.reader(), &settings, |_, _| ()).unwrap();
        assert_eq!(report.findings, []);
    }

    /// How many programs all agents together have started.
    pub(crate) fn started(&self) -> u64 {
        self.site.lab().agents.keys().map(|host| self.site.programs_started(host)).sum()
    }
}

pub(crate) fn certificate(path: &Path) -> Certificate {
    Certificate::from_openssh(std::fs::read_to_string(path).unwrap().trim()).unwrap()
}

pub(crate) fn fingerprint(key: &PrivateKey) -> String {
    sshsig::fingerprint(key.public_key().key_data())
}
