//! The control stream: hello, what the master shows, the agent's answer, and then questions and news for as long as
//! the connection stands.
//!
//! No operation is taken before the answer. What the master shows is taken only when it is newer and signed by those
//! whom the root names; what is not ends in a refusal of all work on this connection, which the master is told.

use std::sync::Arc;
use std::time::Duration;

use reeve_link::parts::{self, Inbound, Item, PartsError};
use reeve_link::{Ended, Sender, Stream};
use reeve_wire::bundle::Trust;
use reeve_wire::code::{Code, Refusal};
use reeve_wire::message::{
    AgentHello, Consistency, Found, JournalState, MasterHello, MessageError, Part, PartKind, Query, Ready,
};
use reeve_wire::note::Vkey;
use reeve_wire::signed::Signed;
use tokio::time::{Instant, sleep_until, timeout};

use crate::agent::Agent;
use crate::chain::{ChainError, Known};
use crate::session::Session;
use crate::verify::PLATFORM;
use crate::witness::{Untaken, Witness, standing_refusal};

/// How long the master may take for its hello.
const HELLO_WITHIN: Duration = Duration::from_secs(15);
/// How long it may take to show bundle, library and checkpoint: 8 MiB over a slow line.
const SHOWN_WITHIN: Duration = Duration::from_secs(90);
/// How long it may take to read what it is told.
const TOLD_WITHIN: Duration = Duration::from_secs(60);
/// How long a checkpoint's proof may come after it.
const PROOF_WITHIN: Duration = Duration::from_secs(15);
/// How long a pushed checkpoint waits for others before it is written down.
const WRITTEN_WITHIN: Duration = Duration::from_millis(250);
/// The most operations of one question.
const MOST_ASKED: usize = 1000;

/// Why a control stream is over.
#[derive(Debug, thiserror::Error)]
pub enum Gone {
    /// The stream or the connection ended, or what came is no part.
    #[error(transparent)]
    Parts(#[from] PartsError),
    /// The stream or the connection ended.
    #[error(transparent)]
    Ended(#[from] Ended),
    /// A part is not what it should be.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A step took too long.
    #[error("the master took longer than {0:?} for its {1}")]
    Late(Duration, &'static str),
    /// The other side does not keep to the protocol.
    #[error("the master broke the protocol: {0}")]
    Protocol(String),
    /// The journal cannot be read or written.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// State of this agent cannot be read.
    #[error("{0}")]
    State(String),
    /// The newest bundle does not name this master any more.
    #[error("{0}")]
    Untrusted(Refusal),
}

/// What the master shows before the agent answers.
#[derive(Debug, Default)]
struct Shown {
    bundle: Option<Part>,
    index: Option<Part>,
    checkpoint: Option<Part>,
    proof: Option<Part>,
}

struct Control<'a> {
    agent: &'a Arc<Agent>,
    session: &'a Session,
    witness: Witness,
    sender: Sender,
    inbound: Inbound,
    /// When the newest checkpoint is to be written down.
    write_at: Option<Instant>,
}

/// Serves the control stream until it ends. Tells `ready` once work may come.
///
/// # Errors
/// Why it ended.
pub async fn converse(agent: &Arc<Agent>, session: &Session, stream: Stream, ready: impl FnOnce()) -> Result<(), Gone> {
    let (sender, receiver) = stream.split();
    let witness = Witness::open(&agent.state, &session.master).map_err(|problem| Gone::State(problem.to_string()))?;
    let mut control = Control { agent, session, witness, sender, inbound: Inbound::new(receiver), write_at: None };
    let hello = control.hello().await?;
    let shown = control.shown().await?;
    let mut answer = control.judge(&hello, &shown);
    if let Err(refusal) = control.write_checkpoint().await {
        answer = answer.and(Err(refusal));
    }
    session.answer(answer.clone());
    if let Err(refusal) = &answer {
        tracing::warn!(code = %refusal.code, reason = %refusal.reason, "No work is taken from this master");
    }
    let bundle = control.trust()?.number;
    let answer = Ready { bundle, refusal: answer.err() };
    control.tell(&[Part::json(PartKind::Ready, &answer)?]).await?;
    session.still_trusted(&*control.trust()?, agent.now()).map_err(Gone::Untrusted)?;
    ready();
    control.keep_up().await
}

impl Control<'_> {
    /// Hears the master's hello, compares the end of the chain, and says the agent's own.
    async fn hello(&mut self) -> Result<MasterHello, Gone> {
        let hello: MasterHello = self.within(HELLO_WITHIN, "hello").await?.read(PartKind::MasterHello)?;
        if hello.master != self.session.master {
            return Err(Gone::Protocol(format!(
                "it calls itself {}, and its certificate says {}",
                hello.master, self.session.master
            )));
        }
        let agent = self.agent;
        self.session.hear_clock(hello.now);
        if let Some(theirs) = hello.last_receipt
            && agent.chain.compare(theirs, agent.now())?
        {
            agent.refuse_older_grants(agent.now());
        }
        let own = AgentHello {
            bundle: self.trust()?.number,
            library: agent.library.current().map(|index| index.version),
            host: agent.host(),
            now: agent.local(),
            started: agent.started,
            boot_id: agent.boot_id.clone(),
            platform: PLATFORM.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            checkpoint_size: self.witness.size(),
            last_receipt: agent.chain.end(),
        };
        self.tell(&[Part::json(PartKind::AgentHello, &own)?]).await?;
        Ok(hello)
    }

    /// Collects what the master shows, each at most once.
    async fn shown(&mut self) -> Result<Shown, Gone> {
        let inbound = &mut self.inbound;
        let collect = async {
            let mut shown = Shown::default();
            loop {
                let part = inbound.part().await?;
                #[expect(clippy::wildcard_enum_match_arm, reason = "whatever else there is does not belong here")]
                let place = match part.kind {
                    PartKind::Go => return Ok(shown),
                    PartKind::Bundle => &mut shown.bundle,
                    PartKind::Index => &mut shown.index,
                    PartKind::Checkpoint => &mut shown.checkpoint,
                    PartKind::Consistency => &mut shown.proof,
                    other => return Err(Gone::Message(MessageError::Unexpected(other))),
                };
                if place.replace(part).is_some() {
                    return Err(Gone::Protocol("it shows the same thing twice".to_owned()));
                }
            }
        };
        timeout(SHOWN_WITHIN, collect).await.map_err(|_| Gone::Late(SHOWN_WITHIN, "bundle, library and checkpoint"))?
    }

    /// Takes what is shown; the first thing that cannot be taken is the refusal.
    fn judge(&mut self, hello: &MasterHello, shown: &Shown) -> Result<(), Refusal> {
        if let Some(bundle) = &shown.bundle {
            self.agent.take_bundle(&bundle.bytes)?;
        }
        let trust = self.agent.trust.current().ok_or_else(|| Refusal::from(Code::TrustUnanswered))?;
        same_bundle(hello, &trust)?;
        self.session.still_trusted(&trust, self.agent.now())?;
        if let Some(index) = &shown.index {
            self.take_index(index, &trust)?;
        }
        let proof = shown.proof.as_ref().map(|part| part.read(PartKind::Consistency)).transpose();
        let proof: Option<Consistency> = proof.map_err(Refusal::from)?;
        match &shown.checkpoint {
            Some(checkpoint) => self.take_checkpoint(checkpoint, proof.as_ref()),
            None if self.witness.size() == 0 => self.standing_refusal(),
            None => Err(Refusal::because(Code::HistoryRefused, "no checkpoint was shown")),
        }
    }

    fn take_index(&self, index: &Part, trust: &Trust) -> Result<(), Refusal> {
        let signed = Signed::from_wire(&index.bytes).map_err(|error| Refusal::because(Code::ItemMismatch, error))?;
        self.agent.library.take(signed, trust)
    }

    fn standing_refusal(&self) -> Result<(), Refusal> {
        match standing_refusal(&self.agent.state) {
            Ok(None) => Ok(()),
            Ok(Some(refusal)) => Err(refusal),
            Err(error) => Err(Refusal::because(Code::HistoryRefused, error)),
        }
    }

    /// Takes a checkpoint that extends the one kept. One that the log signed and that does not is kept as evidence,
    /// and nothing runs any more.
    fn take_checkpoint(&mut self, note: &Part, proof: Option<&Consistency>) -> Result<(), Refusal> {
        self.standing_refusal()?;
        let refused = |why: &dyn std::fmt::Display| Refusal::because(Code::HistoryRefused, why);
        let log = self.log()?;
        let shown = Witness::read(&note.bytes, &log).map_err(|error| refused(&error))?;
        match self.witness.take(shown.clone(), proof) {
            Ok(()) => {
                self.write_at.get_or_insert_with(|| Instant::now() + WRITTEN_WITHIN);
                Ok(())
            }
            Err(Untaken::OtherHistory(why)) => Err(self.witness.refuse(&self.agent.state, &shown, proof, &why)),
            Err(error @ (Untaken::Note(_) | Untaken::NoProof { .. })) => Err(refused(&error)),
        }
    }

    /// The key of this master's log.
    fn log(&self) -> Result<Vkey, Refusal> {
        let name = format!("{}.reeve/{}", self.agent.config.site, self.session.master);
        let trust = self.agent.trust.current().ok_or_else(|| Refusal::from(Code::TrustUnanswered))?;
        let log = trust.logs().iter().find(|log| log.name() == name).cloned();
        log.ok_or_else(|| Refusal::because(Code::HistoryRefused, format_args!("the trust bundle names no log {name}")))
    }

    /// Answers questions, takes what is newer, and tells receipts whose own stream was lost.
    async fn keep_up(&mut self) -> Result<(), Gone> {
        loop {
            let write_at = self.write_at;
            let came = tokio::select! {
                came = self.inbound.next() => came?,
                () = at(write_at) => {
                    let written = self.write_checkpoint().await;
                    self.settle(written);
                    continue;
                }
                (operation, receipt) = self.agent.late.next(&self.session.told) => {
                    tracing::debug!(%operation, "The end of an operation is told late");
                    self.tell(&[Part::new(PartKind::Receipt, receipt.to_wire())]).await?;
                    continue;
                }
            };
            match came {
                None => return Ok(()),
                Some(Item::Part(part)) => self.news(part).await?,
                Some(Item::Bytes(..)) => {
                    return Err(Gone::Protocol("bytes do not belong on the control stream".into()));
                }
            }
        }
    }

    async fn news(&mut self, part: Part) -> Result<(), Gone> {
        #[expect(clippy::wildcard_enum_match_arm, reason = "whatever else there is does not belong here")]
        let taken = match part.kind {
            PartKind::Query => return self.answer(part.read(PartKind::Query)?).await,
            PartKind::Bundle => self.agent.take_bundle(&part.bytes).map(|_| ()),
            PartKind::Index => self.take_index(&part, &*self.trust()?),
            PartKind::Checkpoint => self.pushed_checkpoint(part).await?,
            // Of a checkpoint that was refused without looking at its proof.
            PartKind::Consistency => Ok(()),
            other => return Err(MessageError::Unexpected(other).into()),
        };
        self.settle(taken);
        self.session.still_trusted(&*self.trust()?, self.agent.now()).map_err(Gone::Untrusted)
    }

    /// Something that the master pushed could not be taken: no work is taken either.
    fn settle(&self, taken: Result<(), Refusal>) {
        let Err(refusal) = taken else {
            return;
        };
        tracing::warn!(code = %refusal.code, reason = %refusal.reason, "No work is taken from this master any more");
        self.session.answer(Err(refusal.clone()));
        self.agent.status.update(|status| {
            if let Some(connection) = &mut status.connection {
                connection.refusal = Some(refusal);
            }
        });
    }

    /// Puts the newest checkpoint on the disk.
    async fn write_checkpoint(&mut self) -> Result<(), Refusal> {
        self.write_at = None;
        let Some(unwritten) = self.witness.unwritten() else {
            return Ok(());
        };
        let written = self.agent.tasks.spawn_blocking("checkpoint", move || unwritten.write()).await;
        let refused = |why: &dyn std::fmt::Display| {
            Refusal::because(Code::HistoryRefused, format_args!("the checkpoint cannot be written down: {why}"))
        };
        let size = written.map_err(|error| refused(&error))?.map_err(|error| refused(&error))?;
        self.witness.wrote(size);
        Ok(())
    }

    /// A pushed checkpoint, with its proof behind it where it needs one.
    async fn pushed_checkpoint(&mut self, note: Part) -> Result<Result<(), Refusal>, Gone> {
        if self.session.ready().is_err_and(|refusal| refusal.code == Code::HistoryRefused) {
            return Ok(Ok(()));
        }
        let shown = self.log().and_then(|log| {
            Witness::read(&note.bytes, &log).map_err(|error| Refusal::because(Code::HistoryRefused, error))
        });
        let needs_proof = match &shown {
            Ok(shown) => self.witness.needs_proof(shown),
            Err(refusal) => return Ok(Err(refusal.clone())),
        };
        if !needs_proof {
            return Ok(self.take_checkpoint(&note, None));
        }
        let proof: Consistency =
            self.within(PROOF_WITHIN, "proof of a checkpoint").await?.read(PartKind::Consistency)?;
        Ok(self.take_checkpoint(&note, Some(&proof)))
    }

    async fn answer(&mut self, query: Query) -> Result<(), Gone> {
        if query.operations.len() > MOST_ASKED {
            return Err(Gone::Protocol(format!("it asks for {} operations at once", query.operations.len())));
        }
        let agent = Arc::clone(self.agent);
        let search = move || agent.chain.find(&query.operations);
        let found = self.agent.tasks.spawn_blocking("journal search", search).await;
        let found = found.map_err(|error| Gone::State(error.to_string()))??;
        for Known { operation, receipts, state } in found {
            let mut said = Vec::new();
            if state != JournalState::Ended || self.session.told.first_time(operation) {
                said.extend(receipts.iter().map(|receipt| Part::new(PartKind::Receipt, receipt.to_wire())));
            }
            said.push(Part::json(PartKind::Found, &Found { operation, state })?);
            self.tell(&said).await?;
        }
        Ok(())
    }

    fn trust(&self) -> Result<Arc<Trust>, Gone> {
        self.agent.trust.current().ok_or_else(|| Gone::State("there is no trust bundle".to_owned()))
    }

    async fn within(&mut self, time: Duration, step: &'static str) -> Result<Part, Gone> {
        Ok(timeout(time, self.inbound.part()).await.map_err(|_| Gone::Late(time, step))??)
    }

    async fn tell(&mut self, said: &[Part]) -> Result<(), Gone> {
        let told = timeout(TOLD_WITHIN, parts::send(&mut self.sender, said)).await;
        Ok(told.map_err(|_| Gone::Late(TOLD_WITHIN, "reading"))??)
    }
}

/// Waits for `moment`, or for ever.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// The master's bundle must be the one that the agent has by now.
fn same_bundle(hello: &MasterHello, trust: &Trust) -> Result<(), Refusal> {
    let refused = |why: std::fmt::Arguments<'_>| Err(Refusal::because(Code::TrustUnanswered, why));
    if hello.bundle > trust.number {
        return refused(format_args!("the master has bundle {} and sent none above {}", hello.bundle, trust.number));
    }
    if hello.bundle < trust.number {
        return refused(format_args!("the master has bundle {}, older than {} here", hello.bundle, trust.number));
    }
    if hello.bundle_digest != trust.digest() {
        return refused(format_args!("the master's bundle {} has other content than the one here", trust.number));
    }
    Ok(())
}
