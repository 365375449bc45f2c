//! A master that breaks the rules: it has the real master's keys and speaks to a real agent, and it sends whatever a
//! test wants. Only for faults: everything honest is tested with the real master.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reeve_link::parts::{self, Inbound, Item};
use reeve_link::ssh::{HostIdentity, ServerCarrier, serve, server_config};
use reeve_link::tasks::Tasks;
use reeve_link::{Content, Link};
use reeve_wire::id::Digest;
use reeve_wire::merkle::{self, Hash};
use reeve_wire::message::{AgentHello, Consistency, MasterHello, Part, PartKind, Query, Ready};
use reeve_wire::receipt::Receipt;
use reeve_wire::signed::Signed;
use reeve_wire::time::Clock;
use russh::keys::Certificate;
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, Session};
use russh::{Channel, ChannelId};
use ssh_key::PrivateKey;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What the rogue shows of itself to an agent.
#[derive(Clone, Debug)]
pub struct Face {
    /// The real master's host key.
    pub key: PrivateKey,
    /// The real master's certificate.
    pub certificate: ssh_key::Certificate,
    /// Its name.
    pub name: String,
    /// A trust bundle, wire bytes, and its number and digest.
    pub bundle: Signed,
    /// The bundle's number.
    pub number: u64,
    /// The library's index, wire bytes, and its version.
    pub library: Option<(Signed, u64)>,
    /// A signed checkpoint.
    pub checkpoint: String,
    /// The log's leaves, for the proof that the checkpoint extends what an agent has seen.
    pub leaves: Vec<Hash>,
}

impl Face {
    /// The proof that an honest master would send to an agent that has seen `seen` records.
    fn consistency(&self, seen: u64) -> Option<Part> {
        let to: u64 = self.checkpoint.lines().nth(1)?.parse().ok()?;
        let hashes = merkle::consistency_proof(seen, to, merkle::in_memory(&self.leaves)).ok()?;
        let hashes = hashes.into_iter().map(Digest).collect();
        let proof = Consistency { from: seen, to, hashes };
        if seen == 0 || seen >= to { None } else { Part::json(PartKind::Consistency, &proof).ok() }
    }
}

/// A rogue that listens, and the agents that came to it.
#[derive(Debug)]
pub struct Rogue {
    agents: mpsc::Receiver<Link>,
    face: Face,
    _tasks: Tasks,
}

/// An agent that has been greeted.
#[derive(Debug)]
pub struct Greeted {
    /// Its connection.
    pub link: Link,
    /// What it said of itself.
    pub hello: AgentHello,
    /// Whether it accepts work.
    pub ready: Ready,
    /// The control stream, kept open.
    control: (reeve_link::Sender, Inbound),
}

/// What an agent answered to a package.
#[derive(Debug, Default)]
pub struct Answered {
    /// Its receipts, verified with its key by nobody.
    pub receipts: Vec<Receipt>,
    /// Output that came.
    pub output: Vec<u8>,
}

/// The rogue could not do what the test wants.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RogueError(String);

fn wrong(error: impl std::fmt::Display) -> RogueError {
    RogueError(error.to_string())
}

impl Rogue {
    /// Listens on the real master's address, which must be free.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn listen(address: SocketAddr, face: Face) -> Result<Self, RogueError> {
        let listener = TcpListener::bind(address).await.map_err(wrong)?;
        let tasks = Tasks::new();
        let (came, agents) = mpsc::channel(16);
        let identity = HostIdentity { key: face.key.clone(), certificate: face.certificate.clone() };
        let config = Arc::new(server_config(identity));
        let serving = tasks.clone();
        tasks.spawn("rogue", async move {
            while let Ok((socket, _)) = listener.accept().await {
                let kill = CancellationToken::new();
                let carrier = ServerCarrier::new(&serving, kill.clone());
                let door = Door { carrier, came: came.clone() };
                let config = Arc::clone(&config);
                serving.spawn("rogue connection", async move {
                    drop(serve(config, socket, door, &kill).await);
                });
            }
        });
        Ok(Self { agents, face, _tasks: tasks })
    }

    /// Waits for the next agent and greets it as an honest master would.
    ///
    /// # Errors
    /// When none comes, or it does not answer.
    pub async fn greet(&mut self) -> Result<Greeted, RogueError> {
        let link = within(self.agents.recv()).await?.ok_or_else(|| wrong("no agent came"))?;
        link.refuse_streams();
        let (mut sender, receiver) = link.open().map_err(wrong)?.split();
        let mut inbound = Inbound::new(receiver);
        let hello = MasterHello {
            bundle: self.face.number,
            bundle_digest: self.face.bundle.digest(),
            library: self.face.library.as_ref().map(|(_, version)| *version),
            master: self.face.name.parse().map_err(wrong)?,
            now: Clock::system().now(),
            last_receipt: None,
        };
        let said = Part::json(PartKind::MasterHello, &hello).map_err(wrong)?;
        parts::send(&mut sender, &[said]).await.map_err(wrong)?;
        let said = within(inbound.part()).await?.map_err(wrong)?;
        let hello: AgentHello = said.read(PartKind::AgentHello).map_err(wrong)?;
        let mut shown = vec![Part::new(PartKind::Bundle, self.face.bundle.to_wire())];
        shown.extend(self.face.library.iter().map(|(index, _)| Part::new(PartKind::Index, index.to_wire())));
        shown.push(Part::new(PartKind::Checkpoint, self.face.checkpoint.clone()));
        shown.extend(self.face.consistency(hello.checkpoint_size));
        shown.push(Part::new(PartKind::Go, []));
        parts::send(&mut sender, &shown).await.map_err(wrong)?;
        let said = within(inbound.part()).await?.map_err(wrong)?;
        let ready: Ready = said.read(PartKind::Ready).map_err(wrong)?;
        let query = Part::json(PartKind::Query, &Query { operations: Vec::new() }).map_err(wrong)?;
        parts::send(&mut sender, &[query]).await.map_err(wrong)?;
        Ok(Greeted { link, hello, ready, control: (sender, inbound) })
    }
}

impl Greeted {
    /// Sends parts on a stream of their own and reads what the agent answers until it ends the stream.
    ///
    /// # Errors
    /// When the connection is lost or the agent does not end.
    pub async fn send(&self, said: &[Part]) -> Result<Answered, RogueError> {
        let (mut sender, receiver) = self.link.open().map_err(wrong)?.split();
        sender.send_all(Content::Message, parts::pack(said)).await.map_err(wrong)?;
        let mut inbound = Inbound::new(receiver);
        let mut answered = Answered::default();
        loop {
            match within(inbound.next()).await? {
                Ok(Some(Item::Part(part))) if part.kind == PartKind::Receipt => {
                    let signed = Signed::from_wire(&part.bytes).map_err(wrong)?;
                    answered.receipts.push(signed.peek_unverified().map_err(wrong)?);
                }
                Ok(Some(Item::Part(_))) => {}
                Ok(Some(Item::Bytes(_, bytes, _))) => answered.output.extend_from_slice(&bytes),
                Ok(None) => return Ok(answered),
                Err(reeve_link::parts::PartsError::Ended(reeve_link::Ended::Reset(_))) => return Ok(answered),
                Err(error) => return Err(wrong(error)),
            }
        }
    }

    /// The control stream, for tests that say more on it.
    pub const fn control(&mut self) -> &mut (reeve_link::Sender, Inbound) {
        &mut self.control
    }
}

async fn within<T>(done: impl Future<Output = T>) -> Result<T, RogueError> {
    tokio::time::timeout(Duration::from_secs(30), done).await.map_err(|_| wrong("nothing came within 30 s"))
}

/// Lets every agent in.
struct Door {
    carrier: ServerCarrier,
    came: mpsc::Sender<Link>,
}

impl Handler for Door {
    type Error = russh::Error;

    async fn auth_openssh_certificate(&mut self, _user: &str, _certificate: &Certificate) -> Result<Auth, Self::Error> {
        Ok(Auth::Accept)
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
            self.came.try_send(link).map_err(|_| russh::Error::Disconnect)?;
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
