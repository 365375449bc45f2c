//! Servers side by side: at most so many at once, in as many rounds as it takes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reeve_link::Link;
use reeve_link::tasks::Tasks;
use reeve_wire::code::{Code, Refusal};
use reeve_wire::id::OperationId;
use reeve_wire::name::HostName;
use reeve_wire::time::Clock;
use tokio::sync::mpsc;

use super::order::Order;
use super::outcome::HostOutcome;
use super::resolve::{Resolved, resolve};
use super::round::{Author, Round};
use super::run::{Stop, run};
use crate::desk::Connection;
use crate::failure::Failure;
use crate::show::Sink;

/// The most servers at once.
pub const AT_ONCE: usize = 64;

/// Makes the sink for the output of a server.
pub type Sinks = Arc<dyn Fn(&HostName) -> Sink + Send + Sync>;

/// Who hears of each end. The answer says whether anybody still listens; if not, what runs is cancelled.
pub trait Audience {
    /// A server is done.
    fn done(&mut self, outcome: &HostOutcome, sink: Option<Sink>) -> impl Future<Output = ControlFlow<()>>;
}

/// An operation that is to run on all its servers.
#[derive(Debug)]
pub struct Fanout<'a> {
    /// To the master.
    pub connection: &'a Connection,
    /// What to do.
    pub order: &'a Order,
    /// Who signs.
    pub author: &'a Author,
    /// The technician's wish that it end.
    pub stop: &'a Stop,
    /// Owns what runs.
    pub tasks: &'a Tasks,
}

/// What those who work on one round share.
struct Workplace {
    link: Link,
    clock: Clock,
    round: Round,
    stop: Stop,
    sinks: Sinks,
    next: Arc<AtomicUsize>,
    told: mpsc::Sender<(HostOutcome, Sink)>,
}

/// How it came out so far.
struct Tally<'a, A> {
    audience: &'a mut A,
    stop: &'a Stop,
    outcomes: BTreeMap<HostName, HostOutcome>,
}

impl Fanout<'_> {
    /// Runs `operation` on the servers of `resolved` and gives how it came out on each, in the order of their names.
    ///
    /// # Errors
    /// What ended the operation as a whole, before it ran anywhere.
    pub async fn run<A: Audience>(
        &self,
        operation: OperationId,
        resolved: Resolved,
        sinks: &Sinks,
        audience: &mut A,
    ) -> Result<Vec<HostOutcome>, Failure> {
        let mut tally = Tally { audience, stop: self.stop, outcomes: BTreeMap::new() };
        let mut round = Round::submit(self.connection, operation, self.order, &resolved, self.author).await?;
        let mut waiting = resolved.hosts;
        loop {
            self.run_round(round, sinks, &mut tally).await;
            waiting.retain(|host| !tally.outcomes.contains_key(host));
            if waiting.is_empty() {
                break;
            }
            let next = OperationId::random();
            match self.next_round(next, &waiting).await {
                Ok(next_round) => round = next_round,
                Err(failure) => {
                    let refusal = failure.refusal().cloned().unwrap_or_else(|| Code::Internal.into());
                    for host in waiting {
                        tally.close(HostOutcome::of_refusal(next, Some(host), None, &refusal), None).await;
                    }
                    break;
                }
            }
        }
        Ok(tally.outcomes.into_values().collect())
    }

    /// A request of its own for the servers whose turn did not come.
    async fn next_round(&self, operation: OperationId, waiting: &[HostName]) -> Result<Round, Failure> {
        let mut resolved = resolve(self.connection, operation, self.order).await?;
        resolved.hosts.retain(|host| waiting.contains(host));
        if resolved.hosts.len() < waiting.len() {
            return Err(Code::NotYours.into());
        }
        Round::submit(self.connection, operation, self.order, &resolved, self.author).await
    }

    /// Runs one request for as long as it may be begun with.
    async fn run_round<A: Audience>(&self, round: Round, sinks: &Sinks, tally: &mut Tally<'_, A>) {
        let (told, mut ended) = mpsc::channel(AT_ONCE);
        let (operation, hosts) = (round.operation(), round.hosts().to_vec());
        let next = Arc::new(AtomicUsize::new(0));
        let workplace = Arc::new(Workplace {
            link: self.connection.link.clone(),
            clock: self.connection.clock.clone(),
            round,
            stop: self.stop.clone(),
            sinks: Arc::clone(sinks),
            next: Arc::clone(&next),
            told,
        });
        for _ in 0..AT_ONCE.min(hosts.len()) {
            let workplace = Arc::clone(&workplace);
            self.tasks.spawn("servers", async move { workplace.work().await });
        }
        // The channel closes with the last of those who work, however they end.
        drop(workplace);
        while let Some((outcome, sink)) = ended.recv().await {
            tally.close(outcome, Some(sink)).await;
        }
        for host in hosts.into_iter().take(next.load(Ordering::Acquire)) {
            if !tally.outcomes.contains_key(&host) {
                let refusal = Refusal::from(Code::Internal);
                tally.close(HostOutcome::unknown(operation, host, None, &refusal), None).await;
            }
        }
    }
}

impl Workplace {
    async fn work(&self) {
        // After a cancel the rest is gone through as well: each is told that its turn did not come.
        while self.stop.cancel.is_cancelled() || self.round.is_open(self.clock.now()) {
            let index = self.next.fetch_add(1, Ordering::AcqRel);
            let Some(host) = self.round.hosts().get(index) else {
                return;
            };
            let mut sink = (self.sinks)(host);
            let outcome = match self.round.errand(index) {
                Ok(errand) => run(&self.link, &errand, &mut sink, &self.stop).await,
                Err(failure) => {
                    let refusal = failure.refusal().cloned().unwrap_or_else(|| Code::Internal.into());
                    HostOutcome::of_refusal(self.round.operation(), Some(host.clone()), None, &refusal)
                }
            };
            sink.finish().await;
            if self.told.send((outcome, sink)).await.is_err() {
                return;
            }
        }
    }
}

impl<A: Audience> Tally<'_, A> {
    async fn close(&mut self, outcome: HostOutcome, sink: Option<Sink>) {
        if self.audience.done(&outcome, sink).await.is_break() {
            self.stop.cancel.cancel();
        }
        if let Some(host) = outcome.host.clone() {
            self.outcomes.insert(host, outcome);
        }
    }
}
