//! A technician's connection without the console: what a hand-made client can say, and what a measurement keeps open.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reeve_link::dial::{Identity, Options, SigningKey, dial};
use reeve_link::parts::{self, Inbound, Item};
use reeve_link::tasks::Tasks;
use reeve_link::{Content, Link, Sender};
use reeve_wire::bundle::Trust;
use reeve_wire::certificate;
use reeve_wire::id::{Digest, OperationId};
use reeve_wire::keyfile;
use reeve_wire::level::Level;
use reeve_wire::message::{Answer, Ask, Ended, Part, PartKind};
use reeve_wire::name::HostName;
use reeve_wire::request::{Header, Kind, Targets, Text};
use reeve_wire::signed::Signed;
use reeve_wire::strict::{Unused, V1};
use reeve_wire::time::Clock;
use ssh_key::PrivateKey;

use crate::site::Site;

/// How long any answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Something did not go as it should.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ByHandError(pub String);

fn wrong(error: impl std::fmt::Display) -> ByHandError {
    ByHandError(error.to_string())
}

/// A technician who has just logged in with key and password, on one connection.
#[derive(Debug)]
pub struct ByHand {
    /// The connection.
    pub link: Link,
    /// The site's trust bundle.
    pub trust: Trust,
    /// The technician's own key.
    pub key: PrivateKey,
    /// The technician's certificate, wire blob.
    pub certificate: Vec<u8>,
    tasks: Tasks,
}

/// A signed request that was handed in; its stream stays open with it.
#[derive(Debug)]
pub struct HandedIn {
    /// The operation.
    pub operation: OperationId,
    /// Its servers.
    pub targets: Targets,
    _stream: (Sender, Inbound),
}

impl ByHand {
    /// Logs in as `person` with the key and the password that the lab gave them.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn login(site: &Site, person: &str) -> Result<Self, ByHandError> {
        let lab = site.lab();
        let technician = lab.technicians.get(person).ok_or_else(|| wrong("no such technician"))?;
        let signed = Signed::from_wire(&std::fs::read(&lab.trust).map_err(wrong)?).map_err(wrong)?;
        let trust = Trust::open(signed, &lab.root).map_err(wrong)?;
        let key = keyfile::read_private_key(&technician.key).map_err(wrong)?;
        let text = std::fs::read_to_string(&technician.certificate).map_err(wrong)?;
        let certificate = ssh_key::Certificate::from_openssh(text.trim()).map_err(wrong)?;
        let password = keyfile::read_secret(&technician.password_file).map_err(wrong)?;
        let identity = Identity::CertificateThenPassword {
            user: format!("tech:{person}"),
            key: SigningKey::Held(key.clone().into()),
            certificate: certificate.clone(),
            password,
        };
        let tasks = Tasks::new();
        let checking = trust.clone();
        let host_trust = move |shown: &ssh_key::Certificate| {
            let checked = certificate::master(shown, &checking, Clock::system().now());
            checked.map(drop).map_err(|error| error.to_string())
        };
        let connected = dial(&lab.master.address, identity, Arc::new(host_trust), &Options::CONTROL, &tasks).await;
        let link = connected.map_err(wrong)?.link;
        Ok(Self { link, trust, key, certificate: certificate.to_bytes().map_err(wrong)?, tasks })
    }

    /// A raw command's header for `targets`, valid for a minute, to be signed as it is or spoiled.
    pub fn header(&self, targets: &Targets, argv: &[&str]) -> Header {
        let now = Clock::system().now();
        Header {
            v: V1,
            site: self.trust.site.clone(),
            operation: OperationId::random(),
            technician_cert: Digest::of(&self.certificate),
            delegation: None,
            kind: Kind::Raw,
            item: None,
            argv: Some(argv.iter().map(|word| Text::from(*word)).collect()),
            args: Vec::new(),
            stdin: None,
            level: Level::Three,
            case: None,
            reason: None,
            timeout_ms: 60_000,
            not_before: now,
            not_after: now.plus(Duration::from_secs(60)),
            checkpoint: Unused,
            ephemeral: Unused,
            targets_root: targets.root(),
        }
    }

    /// Opens a stream and asks; the answers come on it.
    ///
    /// # Errors
    /// When the connection is over.
    pub async fn ask(&self, ask: &Ask, more: Vec<Part>) -> Result<(Sender, Inbound), ByHandError> {
        let (mut sender, receiver) = self.link.open().map_err(wrong)?.split();
        let mut said = vec![Part::json(PartKind::Ask, ask).map_err(wrong)?];
        said.extend(more);
        sender.send_all(Content::Message, parts::pack(&said)).await.map_err(wrong)?;
        Ok((sender, Inbound::new(receiver)))
    }

    /// Hands a request in.
    ///
    /// # Errors
    /// What the master answered, when it did not take it.
    pub async fn submit(&self, header: &Header, targets: Targets) -> Result<HandedIn, ByHandError> {
        let request = Signed::make(header, &self.key).map_err(wrong)?;
        let more = vec![
            Part::new(PartKind::Request, request.to_wire()),
            Part::new(PartKind::Certificate, self.certificate.clone()),
            Part::new(PartKind::Go, []),
        ];
        let operation = header.operation;
        let (sender, mut inbound) = self.ask(&Ask::Submit { operation }, more).await?;
        let answered = answer(&mut inbound).await?;
        if !matches!(answered, Answer::Submitted {}) {
            return Err(wrong(format_args!("{answered:?}")));
        }
        Ok(HandedIn { operation, targets, _stream: (sender, inbound) })
    }

    /// Runs a request on its `index`-th server and waits for its end.
    ///
    /// # Errors
    /// What the master answered, when it did not run.
    pub async fn run(&self, handed: &HandedIn, index: usize) -> Result<Ended, ByHandError> {
        let host = handed.targets.hosts().get(index).cloned().ok_or_else(|| wrong("no such server"))?;
        let (leaf, path) = handed.targets.proof(index).ok_or_else(|| wrong("no such server"))?;
        let more = vec![
            Part::new(PartKind::Target, leaf),
            Part::json(PartKind::Path, &path).map_err(wrong)?,
            Part::new(PartKind::Go, []),
        ];
        let (_sender, mut inbound) = self.ask(&Ask::Run { operation: handed.operation, host }, more).await?;
        loop {
            let answered = answer(&mut inbound).await?;
            if let Answer::Ended(ended) = answered {
                return Ok(ended);
            }
            if !matches!(answered, Answer::Started { .. }) {
                return Err(wrong(format_args!("{answered:?}")));
            }
        }
    }

    /// One warm command after the other on this connection: how long each took, from the first byte to the recorded
    /// result, in ms.
    ///
    /// # Errors
    /// When one does not end with status 0.
    pub async fn warm(&self, host: &HostName, argv: &[&str], rounds: u32) -> Result<Vec<f64>, ByHandError> {
        let mut took = Vec::new();
        for round in 0..=rounds {
            let began = Instant::now();
            let targets = Targets::of([host.clone()]).map_err(wrong)?;
            let header = self.header(&targets, argv);
            let resolve = Ask::Resolve { operation: header.operation, selector: host.to_string(), item: None };
            let (_sender, mut inbound) = self.ask(&resolve, Vec::new()).await?;
            answer(&mut inbound).await?;
            let handed = self.submit(&header, targets).await?;
            let ended = self.run(&handed, 0).await?;
            if ended.exit_status != Some(0) || ended.record.is_none() {
                return Err(wrong(format_args!("{ended:?}")));
            }
            // The first one warms what the others find warm.
            if round > 0 {
                took.push(began.elapsed().as_secs_f64() * 1000.0);
            }
        }
        Ok(took)
    }

    /// Hangs up.
    pub async fn leave(self) {
        self.link.kill(reeve_link::Why::Closed);
        drop(self.tasks.shutdown(Duration::from_secs(1)).await);
    }
}

/// The next answer, whatever output comes before it.
///
/// # Errors
/// When none comes.
pub async fn answer(inbound: &mut Inbound) -> Result<Answer, ByHandError> {
    loop {
        let next = tokio::time::timeout(PATIENCE, inbound.next()).await.map_err(|_| wrong("no answer in time"))?;
        match next.map_err(wrong)? {
            Some(Item::Part(part)) if part.kind == PartKind::Answer => {
                return part.read(PartKind::Answer).map_err(wrong);
            }
            Some(Item::Part(_) | Item::Bytes(..)) => {}
            None => return Err(wrong("the master ended the stream without an answer")),
        }
    }
}
