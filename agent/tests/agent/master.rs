//! A master over real SSH that does what a test says: it lets agents in by their certificate, and hands each
//! connection over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reeve_link::parts::{self, Inbound, Item};
use reeve_link::ssh::{HostIdentity, ServerCarrier, serve, server_config};
use reeve_link::tasks::Tasks;
use reeve_link::{Content, Ended, Link, Sender, Why};
use reeve_wire::bundle::Trust;
use reeve_wire::certificate::{self, Role};
use reeve_wire::id::{Digest, OperationId};
use reeve_wire::library::SignedIndex;
use reeve_wire::merkle::{Tree, consistency_proof, in_memory, leaf_hash};
use reeve_wire::message::{AgentHello, ChainEnd, Consistency, Found, MasterHello, Part, PartKind, Query, Ready, Salts};
use reeve_wire::note::Checkpoint;
use reeve_wire::receipt::Receipt;
use reeve_wire::signed::Signed;
use reeve_wire::time::{Clock, Millis};
use russh::keys::Certificate;
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, Session};
use russh::{Channel, ChannelId};
use ssh_key::PrivateKey;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::site::Site;

/// Fails when `work` takes longer than anything here may take.
pub(crate) async fn soon<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), work).await.expect("this does not wait for ever")
}

/// A connection that an agent, or somebody who wants the bundle, made.
pub(crate) struct Came {
    pub(crate) user: String,
    pub(crate) link: Link,
    pub(crate) kill: CancellationToken,
}

/// What a master shows on the control stream.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) trust: Trust,
    /// Whether the bundle is sent, or only spoken of.
    pub(crate) send_bundle: bool,
    pub(crate) index: Option<SignedIndex>,
    /// The records of its log.
    pub(crate) log: Vec<u32>,
    pub(crate) last_receipt: Option<ChainEnd>,
    pub(crate) now: Option<Millis>,
}

/// A listening master.
pub(crate) struct Master {
    pub(crate) address: SocketAddr,
    pub(crate) site: Site,
    pub(crate) shown: Shown,
    /// How often the bundle was asked for.
    pub(crate) bundles: Arc<AtomicUsize>,
    came: mpsc::Receiver<Came>,
    tasks: Tasks,
}

impl Master {
    pub(crate) async fn of(site: &Site) -> Self {
        Self::with_key(site, &site.master).await
    }

    pub(crate) async fn with_key(site: &Site, key: &PrivateKey) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = Tasks::new();
        let (sender, came) = mpsc::channel(16);
        let site = Site { master: key.clone(), ..site.clone() };
        let identity = HostIdentity { key: key.clone(), certificate: site.master_certificate() };
        let config = Arc::new(server_config(identity));
        let (serving, trust) = (tasks.clone(), site.trust.clone());
        tasks.spawn("listener", async move {
            while let Ok((socket, _)) = listener.accept().await {
                let kill = CancellationToken::new();
                let carrier = ServerCarrier::new(&serving, kill.clone());
                let (came, trust, socket_kill) = (sender.clone(), trust.clone(), kill.clone());
                let door = Door { carrier, came, trust, kill, user: String::new() };
                let config = Arc::clone(&config);
                serving.spawn("connection", async move {
                    drop(serve(config, socket, door, &socket_kill).await);
                });
            }
        });
        let shown = Shown {
            trust: site.trust.clone(),
            send_bundle: true,
            index: Some(site.index(4)),
            log: vec![1, 2, 3],
            last_receipt: None,
            now: None,
        };
        Self { address, site, shown, bundles: Arc::default(), came, tasks }
    }

    /// The next connection under this user name; the bundle goes to those who came for it.
    pub(crate) async fn next(&mut self) -> Came {
        loop {
            let came = soon(self.came.recv()).await.unwrap();
            if came.user != "enroll" {
                return came;
            }
            self.bundles.fetch_add(1, Ordering::SeqCst);
            let run = parts::pack(&[
                Part::new(PartKind::Bundle, self.shown.trust.signed().to_wire()),
                Part::new(PartKind::Go, []),
            ]);
            self.tasks.spawn("enroll", async move {
                let (mut sender, _receiver) = came.link.open().unwrap().split();
                if sender.send_all(Content::Message, run).await.is_ok() && sender.finish().is_ok() {
                    came.link.closed().await;
                }
            });
        }
    }

    /// Greets the next agent as an honest master would.
    pub(crate) async fn greet(&mut self) -> Greeted {
        let Came { user, link, kill } = self.next().await;
        assert_eq!(user, format!("host:{}", crate::site::HOST));
        let (mut sender, receiver) = link.open().unwrap().split();
        let mut inbound = Inbound::new(receiver);
        let shown = &self.shown;
        let hello = MasterHello {
            bundle: shown.trust.number,
            bundle_digest: shown.trust.digest(),
            library: shown.index.as_ref().map(|index| index.version),
            master: "noc1".parse().unwrap(),
            now: shown.now.unwrap_or_else(|| Clock::system().now()),
            last_receipt: shown.last_receipt,
        };
        parts::send(&mut sender, &[Part::json(PartKind::MasterHello, &hello).unwrap()]).await.unwrap();
        let said = soon(inbound.part()).await.unwrap();
        let hello: AgentHello = said.read(PartKind::AgentHello).unwrap();

        let mut said = Vec::new();
        if shown.send_bundle {
            said.push(Part::new(PartKind::Bundle, shown.trust.signed().to_wire()));
        }
        said.extend(shown.index.iter().map(|index| Part::new(PartKind::Index, index.signed().to_wire())));
        said.extend(self.checkpoint(&shown.log, hello.checkpoint_size));
        said.push(Part::new(PartKind::Go, []));
        parts::send(&mut sender, &said).await.unwrap();
        let ready: Ready = soon(inbound.part()).await.unwrap().read(PartKind::Ready).unwrap();
        Greeted { link, kill, hello, ready, sender, inbound, host: self.site.host.clone() }
    }

    /// A checkpoint over these records, with its proof for who has seen `seen` of them.
    pub(crate) fn checkpoint(&self, records: &[u32], seen: u64) -> Vec<Part> {
        let leaves: Vec<_> = records.iter().map(|record| leaf_hash(&record.to_be_bytes())).collect();
        let mut tree = Tree::default();
        leaves.iter().for_each(|leaf| tree.append(*leaf));
        let checkpoint = Checkpoint { origin: "lab.reeve/noc1".into(), size: tree.size(), root: tree.root() };
        let mut said = vec![Part::new(PartKind::Checkpoint, checkpoint.sign(&self.site.log).unwrap().note)];
        if seen > 0 && seen < tree.size() {
            let hashes = consistency_proof::<reeve_wire::merkle::ProofError>(seen, tree.size(), in_memory(&leaves));
            let hashes = hashes.unwrap().into_iter().map(Digest).collect();
            said.push(Part::json(PartKind::Consistency, &Consistency { from: seen, to: tree.size(), hashes }).unwrap());
        }
        said
    }
}

/// An agent that has been greeted.
pub(crate) struct Greeted {
    pub(crate) link: Link,
    pub(crate) kill: CancellationToken,
    pub(crate) hello: AgentHello,
    pub(crate) ready: Ready,
    pub(crate) sender: Sender,
    pub(crate) inbound: Inbound,
    host: PrivateKey,
}

/// What an agent said on an operation's stream.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    pub(crate) salts: Option<Salts>,
    pub(crate) receipts: Vec<Receipt>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Answered {
    pub(crate) fn last(&self) -> &Receipt {
        self.receipts.last().expect("at least one receipt")
    }
}

impl Greeted {
    /// Sends parts on a stream of their own, and leaves it open.
    pub(crate) async fn begin(&self, said: &[Part]) -> Operation {
        let (mut sender, receiver) = self.link.open().unwrap().split();
        parts::send(&mut sender, said).await.unwrap();
        Operation { sender, inbound: Inbound::new(receiver), answered: Answered::default(), host: self.host.clone() }
    }

    /// Sends parts and reads the whole answer.
    pub(crate) async fn run(&self, said: &[Part]) -> Answered {
        self.begin(said).await.answer().await
    }

    pub(crate) async fn say(&mut self, said: &[Part]) {
        parts::send(&mut self.sender, said).await.unwrap();
    }

    /// The next part on the control stream.
    pub(crate) async fn part(&mut self) -> Part {
        soon(self.inbound.part()).await.unwrap()
    }

    pub(crate) async fn ask(&mut self, operations: &[OperationId]) -> (Vec<Receipt>, Found) {
        let query = Query { operations: operations.to_vec() };
        self.say(&[Part::json(PartKind::Query, &query).unwrap()]).await;
        let mut receipts = Vec::new();
        loop {
            let part = self.part().await;
            if part.kind == PartKind::Found {
                return (receipts, part.read(PartKind::Found).unwrap());
            }
            receipts.push(receipt(&part, &self.host));
        }
    }

    /// The next receipt on the control stream.
    pub(crate) async fn late(&mut self) -> Receipt {
        let part = self.part().await;
        receipt(&part, &self.host)
    }

    /// Waits for the end of the connection.
    pub(crate) async fn closed(&self) -> Why {
        soon(self.link.closed()).await
    }
}

/// An operation on its own stream.
pub(crate) struct Operation {
    pub(crate) sender: Sender,
    pub(crate) inbound: Inbound,
    pub(crate) answered: Answered,
    host: PrivateKey,
}

impl Operation {
    /// Reads what comes next; false at the end of the stream.
    pub(crate) async fn next(&mut self) -> Result<bool, Ended> {
        match soon(self.inbound.next()).await {
            Ok(Some(Item::Part(part))) if part.kind == PartKind::Salts => {
                self.answered.salts = Some(part.read(PartKind::Salts).unwrap());
            }
            Ok(Some(Item::Part(part))) => self.answered.receipts.push(receipt(&part, &self.host)),
            Ok(Some(Item::Bytes(Content::Stdout, bytes, _))) => self.answered.stdout.extend_from_slice(&bytes),
            Ok(Some(Item::Bytes(_, bytes, _))) => self.answered.stderr.extend_from_slice(&bytes),
            Ok(None) => return Ok(false),
            Err(parts::PartsError::Ended(ended)) => return Err(ended),
            Err(error) => panic!("{error}"),
        }
        Ok(true)
    }

    /// Reads until there are so many receipts.
    pub(crate) async fn receipts(&mut self, count: usize) {
        while self.answered.receipts.len() < count {
            assert!(self.next().await.unwrap(), "the stream ended early");
        }
    }

    pub(crate) async fn answer(mut self) -> Answered {
        while self.next().await.unwrap() {}
        self.answered
    }
}

fn receipt(part: &Part, host: &PrivateKey) -> Receipt {
    assert_eq!(part.kind, PartKind::Receipt);
    let signed = Signed::from_wire(&part.bytes).unwrap();
    let receipt = signed.verify::<Receipt>(host.public_key().key_data()).unwrap();
    receipt.consistent().unwrap();
    receipt.value().clone()
}

/// Lets agents in by their certificate, and everyone to the bundle.
struct Door {
    carrier: ServerCarrier,
    came: mpsc::Sender<Came>,
    trust: Trust,
    kill: CancellationToken,
    user: String,
}

impl Handler for Door {
    type Error = russh::Error;

    async fn auth_none(&mut self, user: &str) -> Result<Auth, Self::Error> {
        user.clone_into(&mut self.user);
        Ok(if user == "enroll" { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_openssh_certificate(&mut self, user: &str, shown: &Certificate) -> Result<Auth, Self::Error> {
        user.clone_into(&mut self.user);
        let role = certificate::role(user, shown, &self.trust, Clock::system().now());
        Ok(if matches!(role, Ok(Role::Agent(_))) { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.carrier.open(channel, reply).await;
        Ok(())
    }

    async fn subsystem_request(&mut self, id: ChannelId, name: &str, session: &mut Session) -> Result<(), Self::Error> {
        if let Some(link) = self.carrier.subsystem(id, name, session)? {
            let came = Came { user: self.user.clone(), link, kill: self.kill.clone() };
            self.came.try_send(came).map_err(|_| russh::Error::Disconnect)?;
        }
        Ok(())
    }

    async fn data(&mut self, id: ChannelId, bytes: &[u8], _session: &mut Session) -> Result<(), Self::Error> {
        self.carrier.data(id, bytes).map_err(|_| russh::Error::Disconnect)
    }

    async fn channel_close(&mut self, id: ChannelId, _session: &mut Session) -> Result<(), Self::Error> {
        self.carrier.ended(id);
        Ok(())
    }
}
