//! An agent's connection: the control stream, from first hello to the last receipt.
//!
//! The bundle's number comes first, and no work goes to an agent before it has answered with its own. What it ran
//! while it was away is asked for before it counts as connected.

mod reconcile;

pub use reconcile::mark_unknown;

use std::sync::Arc;
use std::time::Duration;

use reeve_audit::record::{Happened, Party};
use reeve_link::parts::{self, Inbound, Item, PartsError};
use reeve_link::{Ended, Link, Sender};
use reeve_wire::bundle::Trust;
use reeve_wire::certificate::AgentIdentity;
use reeve_wire::code::{Code, Refusal};
use reeve_wire::id::{Digest, OperationId};
use reeve_wire::library::SignedIndex;
use reeve_wire::message::{AgentHello, Consistency, MasterHello, MessageError, Part, PartKind, Ready};
use reeve_wire::note::SignedCheckpoint;
use reeve_wire::output::visible_line;
use reeve_wire::signed::MAX_SIGNED;

use self::reconcile::Loose;
use crate::fleet::Agent;
use crate::master::Master;

/// How long an agent may take for each step of the hello.
const STEP_WITHIN: Duration = Duration::from_secs(30);
/// How long an agent may take to take in what it is told: 8 MiB over a slow line.
const SAID_WITHIN: Duration = Duration::from_secs(90);
/// The longest reason of an agent that is passed on, in bytes.
const MAX_REASON: usize = 1024;

/// Why an agent's control stream is over.
#[derive(Debug, thiserror::Error)]
enum Gone {
    #[error(transparent)]
    Parts(#[from] PartsError),
    #[error(transparent)]
    Ended(#[from] Ended),
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("it did not answer in time")]
    Late,
    #[error("it says that it is {0}")]
    OtherName(String),
    #[error("what it says of itself is too long or not printable")]
    Unpresentable,
    #[error("the trust bundle does not know the CA of its certificate any more")]
    Untrusted,
    #[error("it answers for operation {0}, which it was not asked about")]
    Unasked(OperationId),
    #[error("it reports again and again what it should not")]
    Anomalies,
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("the log cannot prove that it grows: {0}")]
    Proof(#[from] reeve_audit::ledger::NoProof),
}

impl Gone {
    /// Whether no honest agent ends like this. Anomalies are on record one by one.
    const fn is_amiss(&self) -> bool {
        match self {
            Self::Parts(PartsError::Message(_))
            | Self::Message(_)
            | Self::OtherName(_)
            | Self::Unpresentable
            | Self::Unasked(_) => true,
            Self::Parts(_)
            | Self::Ended(_)
            | Self::Late
            | Self::Untrusted
            | Self::Anomalies
            | Self::Refused(_)
            | Self::Proof(_) => false,
        }
    }
}

/// Serves an agent's connection until it ends.
pub async fn serve(master: &Arc<Master>, identity: AgentIdentity, address: &str, link: Link) {
    let key = reeve_wire::sshsig::fingerprint(&identity.key);
    let host = identity.host.clone();
    let party = move || Party::agent(host.clone(), Some(&key), Some(address));
    let control = Control { master, link: link.clone(), identity };
    let over = tokio::select! {
        over = control.converse(&party) => over,
        never = takes_no_streams(master, &link, &party) => match never {},
    };
    if let Err(gone) = over {
        tracing::info!(host = %control.identity.host, %gone, "an agent is gone");
        if gone.is_amiss() {
            let happened = Happened::anomaly(party(), Code::Protocol.as_str(), &gone.to_string());
            master.ledger.amiss(happened).await;
        }
    }
    link.kill(reeve_link::Why::Closed);
}

/// Only the master opens streams: an agent that does is noted and cut.
async fn takes_no_streams(master: &Arc<Master>, link: &Link, party: &impl Fn() -> Party) -> std::convert::Infallible {
    if link.accept().await.is_some() {
        let why = "it opened a stream, which only the master does";
        link.kill(reeve_link::Why::Protocol(why));
        master.ledger.amiss(Happened::anomaly(party(), Code::Protocol.as_str(), why)).await;
    }
    std::future::pending().await
}

struct Control<'a> {
    master: &'a Arc<Master>,
    link: Link,
    identity: AgentIdentity,
}

/// What the agent has been shown so far.
struct Shown {
    bundle: u64,
    library: Option<u64>,
    checkpoint: u64,
}

impl Control<'_> {
    async fn converse(&self, party: &impl Fn() -> Party) -> Result<(), Gone> {
        let (mut sender, receiver) = self.link.open()?.split();
        let mut inbound = Inbound::bounded(receiver, MAX_SIGNED + 8);

        let hello = self.hello(&mut sender, &mut inbound).await?;
        let mut shown = self.show(&mut sender, &hello).await?;
        let ready: Ready = within(inbound.part()).await?.read(PartKind::Ready)?;
        let refusal = unready(ready, shown.bundle);
        if let Some(refusal) = &refusal {
            tracing::warn!(host = %self.identity.host, code = %refusal.code, "an agent accepts no work");
        }
        self.master.fleet.make_way(&self.identity.host);
        let loose = Loose::of(self.master, &self.identity).await?;
        let loose = loose.settle(&mut sender, &mut inbound, &hello).await?;

        let started = hello.started.0.to_string();
        let since = self.master.clock.now();
        self.master.ledger.event(Happened::connected(party(), &started)).await?;
        let agent = Agent { identity: self.identity.clone(), hello, link: self.link.clone(), since, refusal };
        let agent = Arc::new(agent);
        self.master.fleet.join(&agent);
        tracing::info!(host = %self.identity.host, "an agent is connected");
        let over = self.keep_up(&mut sender, &mut inbound, &mut shown, loose).await;
        self.master.fleet.leave(&agent);
        let why = over.as_ref().map_or_else(ToString::to_string, |()| "closed".to_owned());
        self.master.ledger.took_away(Happened::disconnected(party(), &started, &why)).await;
        over
    }

    async fn hello(&self, sender: &mut Sender, inbound: &mut Inbound) -> Result<AgentHello, Gone> {
        let trust = self.master.trusted.bundle();
        let hello = MasterHello {
            bundle: trust.number,
            bundle_digest: trust.digest(),
            library: self.master.trusted.library().map(|index| index.version),
            master: self.master.config.name.clone(),
            now: self.master.clock.now(),
            last_receipt: reconcile::last_receipt(self.master, &self.identity).await?,
        };
        say(sender, &[Part::json(PartKind::MasterHello, &hello)?]).await?;
        let hello: AgentHello = within(inbound.part()).await?.read(PartKind::AgentHello)?;
        if hello.host != self.identity.host {
            return Err(Gone::OtherName(hello.host.to_string()));
        }
        if !hello.is_presentable() {
            return Err(Gone::Unpresentable);
        }
        Ok(hello)
    }

    /// Sends what the agent does not have yet: bundle, library, and a checkpoint that extends the one it has seen.
    async fn show(&self, sender: &mut Sender, hello: &AgentHello) -> Result<Shown, Gone> {
        let trust = self.master.trusted.bundle();
        let library = self.master.trusted.library();
        let checkpoint = self.master.ledger.inner().checkpoints().borrow().clone();
        let mut said = Vec::new();
        if hello.bundle != trust.number {
            said.push(bundle(&trust));
        }
        if let Some(index) = &library
            && hello.library != Some(index.version)
        {
            said.push(library_index(index));
        }
        said.extend(self.checkpoint(&checkpoint, hello.checkpoint_size).await?);
        said.push(Part::new(PartKind::Go, []));
        say(sender, &said).await?;
        Ok(Shown {
            bundle: trust.number,
            library: library.map(|index| index.version),
            checkpoint: checkpoint.checkpoint.size,
        })
    }

    /// A checkpoint with the proof that it extends the one of `seen` records. A shorter one goes without a proof: the
    /// agent is to see it and to refuse.
    async fn checkpoint(&self, newest: &SignedCheckpoint, seen: u64) -> Result<Vec<Part>, Gone> {
        let mut said = vec![Part::new(PartKind::Checkpoint, newest.note.clone())];
        let to = newest.checkpoint.size;
        if seen > 0 && seen < to {
            let hashes = self.master.ledger.inner().consistency(seen, to).await?.into_iter().map(Digest).collect();
            said.push(Part::json(PartKind::Consistency, &Consistency { from: seen, to, hashes })?);
        }
        Ok(said)
    }

    /// Pushes what is newer as it comes, and takes in receipts whose own stream was lost.
    async fn keep_up(
        &self,
        sender: &mut Sender,
        inbound: &mut Inbound,
        shown: &mut Shown,
        mut loose: Loose<'_>,
    ) -> Result<(), Gone> {
        let mut checkpoints = self.master.ledger.inner().checkpoints();
        let mut bundles = self.master.trusted.bundle_changes();
        let mut libraries = self.master.trusted.library_changes();
        loop {
            let newest = checkpoints.borrow_and_update().clone();
            let trust = Arc::clone(&bundles.borrow_and_update());
            let library = libraries.borrow_and_update().clone();
            if !trust.ca.agents.iter().any(|ca| *ca.key() == self.identity.ca) {
                return Err(Gone::Untrusted);
            }
            self.push(sender, shown, &newest, &trust, library.as_deref()).await?;
            tokio::select! {
                changed = checkpoints.changed() => if changed.is_err() { return Ok(()) },
                changed = bundles.changed() => if changed.is_err() { return Ok(()) },
                changed = libraries.changed() => if changed.is_err() { return Ok(()) },
                came = inbound.next() => match came? {
                    None => return Ok(()),
                    Some(Item::Part(part)) => loose.take(&part).await?,
                    Some(Item::Bytes(..)) => return Err(PartsError::Short.into()),
                },
            }
        }
    }

    async fn push(
        &self,
        sender: &mut Sender,
        shown: &mut Shown,
        newest: &SignedCheckpoint,
        trust: &Trust,
        library: Option<&SignedIndex>,
    ) -> Result<(), Gone> {
        let mut said = Vec::new();
        if trust.number > shown.bundle {
            shown.bundle = trust.number;
            said.push(bundle(trust));
        }
        if let Some(index) = library.filter(|index| Some(index.version) > shown.library) {
            shown.library = Some(index.version);
            said.push(library_index(index));
        }
        if newest.checkpoint.size > shown.checkpoint {
            said.extend(self.checkpoint(newest, shown.checkpoint).await?);
            shown.checkpoint = newest.checkpoint.size;
        }
        if !said.is_empty() {
            say(sender, &said).await?;
        }
        Ok(())
    }
}

fn bundle(trust: &Trust) -> Part {
    Part::new(PartKind::Bundle, trust.signed().to_wire())
}

fn library_index(index: &SignedIndex) -> Part {
    Part::new(PartKind::Index, index.signed().to_wire())
}

/// Why an agent takes no work: by its own word, or because it has not taken the bundle that it was shown.
fn unready(ready: Ready, shown: u64) -> Option<Refusal> {
    if let Some(Refusal { code, reason }) = ready.refusal {
        let mut reason = visible_line(&reason);
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
        return Some(Refusal { code, reason });
    }
    let behind = format_args!("the server's agent has trust bundle {}, and the master's is {shown}", ready.bundle);
    (ready.bundle < shown).then(|| Refusal::because(Code::TrustUnanswered, behind))
}

/// Says something to an agent, which must take it in time.
async fn say(sender: &mut Sender, said: &[Part]) -> Result<(), Gone> {
    Ok(tokio::time::timeout(SAID_WITHIN, parts::send(sender, said)).await.map_err(|_| Gone::Late)??)
}

async fn within<T>(said: impl Future<Output = Result<T, PartsError>>) -> Result<T, Gone> {
    Ok(tokio::time::timeout(STEP_WITHIN, said).await.map_err(|_| Gone::Late)??)
}

#[cfg(test)]
mod tests;
