//! A technician's side of the protocol, spoken by hand: what a console would refuse to say is said here.

use std::time::Duration;

use reeve_link::parts::{self, Inbound, Item, PartsError};
use reeve_link::{Ended, Link, Sender};
use reeve_wire::code::Code;
use reeve_wire::delegation::{self, Delegation};
use reeve_wire::id::{Digest, OperationId, Salt};
use reeve_wire::keyfile::KeyLine;
use reeve_wire::level::Level;
use reeve_wire::message::{Answer, Ask, Part, PartKind};
use reeve_wire::name::HostName;
use reeve_wire::request::{Header, ItemRef, Kind, Targets, Text};
use reeve_wire::signed::Signed;
use reeve_wire::strict::{Unused, V1};
use reeve_wire::time::{Clock, Millis};
use ssh_key::PrivateKey;

use super::clients::{PATIENCE, with_key};
use super::stage::Stage;

/// Key, certificate and, for a session, delegation: what a request is signed with.
#[derive(Clone)]
pub(crate) struct Pen {
    pub(crate) key: PrivateKey,
    pub(crate) certificate: Vec<u8>,
    pub(crate) delegation: Option<Signed>,
}

/// A request in the making.
#[derive(Clone)]
pub(crate) struct Paper {
    pub(crate) header: Header,
    pub(crate) targets: Targets,
    pub(crate) stdin: Option<Vec<u8>>,
}

/// All that came on a stream until its end.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) parts: Vec<Part>,
    pub(crate) output: Vec<u8>,
    pub(crate) reset: bool,
}

impl Heard {
    pub(crate) fn answers(&self) -> Vec<Answer> {
        self.parts.iter().filter_map(|part| part.read(PartKind::Answer).ok()).collect()
    }

    /// The code of a refusal, which must be all that was said, and the index of its record.
    pub(crate) fn refusal(&self, what: &str) -> (Code, Option<u64>) {
        match self.answers().as_slice() {
            [Answer::Refused { refusal, record }] if self.parts.len() == 1 && self.output.is_empty() => {
                (refusal.code, *record)
            }
            _ => panic!("{what}: one refusal and nothing else, not {self:?}"),
        }
    }
}

/// A request that was handed in; it is good until this is dropped.
pub(crate) struct HandedIn {
    pub(crate) said: Heard,
    _stream: (Sender, Inbound),
}

/// A technician's connection.
pub(crate) struct Hand {
    pub(crate) link: Link,
}

impl Hand {
    /// Says all of `said` on a stream of its own and hears everything until its end.
    pub(crate) async fn ask(&self, said: &[Part]) -> Heard {
        let (mut sender, receiver) = self.link.open().unwrap().split();
        parts::send(&mut sender, said).await.unwrap();
        let mut inbound = Inbound::new(receiver);
        let mut heard = Heard::default();
        while heard.hear(&mut inbound).await {}
        heard
    }

    /// Hands a request in and keeps the stream open.
    pub(crate) async fn hand_in(&self, said: &[Part]) -> HandedIn {
        let (mut sender, receiver) = self.link.open().unwrap().split();
        parts::send(&mut sender, said).await.unwrap();
        let mut inbound = Inbound::new(receiver);
        let mut heard = Heard::default();
        heard.hear(&mut inbound).await;
        HandedIn { said: heard, _stream: (sender, inbound) }
    }

    /// Hands in what must be accepted.
    pub(crate) async fn submit(&self, paper: &Paper, pen: &Pen) -> HandedIn {
        let handed_in = self.hand_in(&submission(paper, pen)).await;
        assert!(matches!(handed_in.said.answers().as_slice(), [Answer::Submitted {}]), "{:?}", handed_in.said);
        handed_in
    }

    /// Registers a session key and gives the answer.
    pub(crate) async fn register(&self, delegation: &Signed) -> Heard {
        let ask = Part::json(PartKind::Ask, &Ask::Register {}).unwrap();
        self.ask(&[ask, Part::new(PartKind::Delegation, delegation.to_wire())]).await
    }
}

impl Heard {
    /// Hears one thing; false at the end.
    async fn hear(&mut self, inbound: &mut Inbound) -> bool {
        let Ok(next) = tokio::time::timeout(PATIENCE, inbound.next()).await else {
            panic!("no end within {PATIENCE:?} of {:?}", self.answers());
        };
        match next {
            Ok(Some(Item::Part(part))) => self.parts.push(part),
            Ok(Some(Item::Bytes(_, bytes, _))) => self.output.extend_from_slice(&bytes),
            Ok(None) => return false,
            Err(PartsError::Ended(Ended::Reset(_) | Ended::Link(_))) => {
                self.reset = true;
                return false;
            }
            Err(error) => panic!("{error}"),
        }
        true
    }
}

impl Stage {
    /// The own key of one of the cast.
    pub(crate) fn pen(&self, name: &str) -> Pen {
        let (key, certificate) = self.technician(name);
        Pen { key, certificate: certificate.to_bytes().unwrap(), delegation: None }
    }

    pub(crate) async fn hand(&self, name: &str) -> Hand {
        Hand { link: self.log_in(name).await.link }
    }

    pub(crate) fn delegation(&self, pen: &Pen, session: &PrivateKey, change: impl FnOnce(&mut Delegation)) -> Signed {
        let now = now();
        let mut delegation = Delegation {
            v: V1,
            site: self.trust.site.clone(),
            technician_cert: Digest::of(&pen.certificate),
            session_key: KeyLine::new(session.public_key().key_data().clone()).unwrap(),
            max_level: Level::Three,
            not_before: now,
            not_after: now.plus(delegation::LONGEST),
            nonce: Salt::random(),
        };
        change(&mut delegation);
        Signed::make(&delegation, &pen.key).unwrap()
    }

    /// A session of one of the cast, registered by hand, and the connection by its key.
    pub(crate) async fn session(&self, name: &str, most: Level) -> (Hand, Pen) {
        let (own, key) = (self.pen(name), reeve_wire::sshsig::generate("session").unwrap());
        let delegation = self.delegation(&own, &key, |delegation| delegation.max_level = most);
        let answered = self.hand(name).await.register(&delegation).await;
        assert!(matches!(answered.answers().as_slice(), [Answer::Registered { .. }]), "{answered:?}");
        let pen = Pen { key, delegation: Some(delegation), ..own };
        (self.resume(name, &pen).await, pen)
    }

    /// Another connection by a session's key.
    pub(crate) async fn resume(&self, name: &str, pen: &Pen) -> Hand {
        let identity = with_key(&format!("tech:{name}"), &pen.key);
        Hand { link: self.dial(self.source(), identity).await.unwrap().link }
    }

    /// A request for the item `uptime` of level 1, or for what `change` makes of it.
    pub(crate) fn paper(&self, pen: &Pen, hosts: &[&str], change: impl FnOnce(&mut Header)) -> Paper {
        let now = now();
        let targets = Targets::of(hosts.iter().map(|host| host.parse::<HostName>().unwrap())).unwrap();
        let mut header = Header {
            v: V1,
            site: self.trust.site.clone(),
            operation: OperationId::random(),
            technician_cert: Digest::of(&pen.certificate),
            delegation: pen.delegation.as_ref().map(Signed::digest),
            kind: Kind::Item,
            item: Some(self.item("uptime")),
            argv: None,
            args: Vec::new(),
            stdin: None,
            level: Level::One,
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
        Paper { header, targets, stdin: None }
    }

    pub(crate) fn item(&self, name: &str) -> ItemRef {
        let index = std::fs::read(self.site.dir().join("library/signed/index")).unwrap();
        let index: reeve_wire::library::Index = Signed::from_wire(&index).unwrap().peek_unverified().unwrap();
        index.items.into_iter().find(|item| item.name.as_str() == name).unwrap()
    }
}

/// Makes a raw command of a request.
pub(crate) fn raw(header: &mut Header, argv: &[&str]) {
    header.kind = Kind::Raw;
    header.item = None;
    header.argv = Some(argv.iter().map(|word| Text::from(*word)).collect());
    header.level = Level::Three;
}

pub(crate) fn now() -> Millis {
    Clock::system().now()
}

/// Everything that hands a request in.
pub(crate) fn submission(paper: &Paper, pen: &Pen) -> Vec<Part> {
    let request = Signed::make(&paper.header, &pen.key).unwrap();
    let mut said = vec![
        Part::json(PartKind::Ask, &Ask::Submit { operation: paper.header.operation }).unwrap(),
        Part::new(PartKind::Request, request.to_wire()),
    ];
    said.extend(pen.delegation.iter().map(|signed| Part::new(PartKind::Delegation, signed.to_wire())));
    said.push(Part::new(PartKind::Certificate, pen.certificate.clone()));
    said.extend(paper.stdin.iter().map(|bytes| Part::new(PartKind::Stdin, bytes.clone())));
    said.push(Part::new(PartKind::Go, []));
    said
}

/// Everything that asks for a run on the `index`-th server of `paper`, under whatever name.
pub(crate) fn run(paper: &Paper, index: usize, host: &str) -> Vec<Part> {
    let (leaf, path) = paper.targets.proof(index).unwrap();
    let ask = Ask::Run { operation: paper.header.operation, host: host.parse().unwrap() };
    vec![
        Part::json(PartKind::Ask, &ask).unwrap(),
        Part::new(PartKind::Target, leaf),
        Part::json(PartKind::Path, &path).unwrap(),
        Part::new(PartKind::Go, []),
    ]
}
