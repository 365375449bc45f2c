//! What runs at the moment, how it is told to end, and receipts whose own stream was lost.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use reeve_wire::code::Refusal;
use reeve_wire::id::OperationId;
use reeve_wire::signed::Signed;
use tokio::sync::Notify;

use crate::exec::{Cancelled, Canceller, cancel};

/// The most late receipts that wait for a connection. The journal has every one, and a master asks for what it misses.
const MOST_LATE: usize = 1024;

/// Ends one operation early, and keeps why. The first reason stays.
#[derive(Clone, Debug)]
pub struct Stop {
    canceller: Canceller,
    why: Arc<OnceLock<Refusal>>,
}

impl Stop {
    /// A stop and what listens to it.
    pub fn new() -> (Self, Cancelled) {
        let (canceller, cancelled) = cancel();
        (Self { canceller, why: Arc::default() }, cancelled)
    }

    /// Asks the operation to end.
    pub fn because(&self, why: Refusal) {
        let reason = self.why.get_or_init(|| why).reason.clone();
        self.canceller.cancel(reason);
    }

    /// Why it was asked to end, if it was.
    pub fn why(&self) -> Option<&Refusal> {
        self.why.get()
    }
}

/// The operations that run.
#[derive(Debug, Default)]
pub struct Running {
    stops: Mutex<HashMap<OperationId, Stop>>,
    fewer: Notify,
}

/// An operation's place among those that run; given up when it is dropped.
#[derive(Debug)]
pub struct Place<'a> {
    running: &'a Running,
    operation: OperationId,
}

impl Running {
    /// Takes a place for an operation.
    pub fn enter(&self, operation: OperationId, stop: Stop) -> Place<'_> {
        self.stops().insert(operation, stop);
        Place { running: self, operation }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.stops().len()
    }

    /// Asks all of them to end.
    pub fn stop_all(&self, why: &Refusal) {
        let stops: Vec<_> = self.stops().values().cloned().collect();
        stops.into_iter().for_each(|stop| stop.because(why.clone()));
    }

    /// Waits until none runs.
    pub async fn none(&self) {
        loop {
            let fewer = self.fewer.notified();
            if self.count() == 0 {
                return;
            }
            fewer.await;
        }
    }

    fn stops(&self) -> MutexGuard<'_, HashMap<OperationId, Stop>> {
        self.stops.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.running.stops().remove(&self.operation);
        self.running.fewer.notify_waiters();
    }
}

/// Receipts of ends that could not be told on their own stream, for the next control stream.
#[derive(Debug, Default)]
pub struct Late {
    waiting: Mutex<VecDeque<(OperationId, Signed)>>,
    bell: Notify,
}

impl Late {
    /// Adds one. When too many wait, the oldest goes: the journal has it.
    pub fn add(&self, operation: OperationId, receipt: Signed) {
        let mut waiting = self.waiting();
        if waiting.len() >= MOST_LATE {
            waiting.pop_front();
        }
        waiting.push_back((operation, receipt));
        drop(waiting);
        self.bell.notify_one();
    }

    /// Waits for the next one of an operation that is not `told` yet. May be dropped and asked again.
    pub async fn next(&self, told: &Told) -> (OperationId, Signed) {
        loop {
            let first = self.waiting().pop_front();
            match first {
                Some((operation, receipt)) if told.first_time(operation) => return (operation, receipt),
                Some(_) => {}
                None => self.bell.notified().await,
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<(OperationId, Signed)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends that the master of one connection was told, so that it is told each once.
#[derive(Debug, Default)]
pub struct Told(Mutex<HashSet<OperationId>>);

impl Told {
    /// Whether this is the first time that the end of `operation` is told.
    pub fn first_time(&self, operation: OperationId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(operation)
    }
}

#[cfg(test)]
mod tests {
    use reeve_wire::code::Code;

    use super::*;

    fn id(n: u8) -> OperationId {
        OperationId([n; 16])
    }

    fn receipt(n: u8) -> Signed {
        Signed::from_parts(vec![n], vec![])
    }

    #[tokio::test]
    async fn the_first_reason_to_stop_is_the_one_that_is_reported() {
        let (stop, mut cancelled) = Stop::new();
        stop.because(Code::RightLost.into());
        stop.because(Code::Cancelled.into());

        assert_eq!(stop.why().unwrap().code, Code::RightLost);
        assert_eq!(&*cancelled.reason().await, Code::RightLost.sentence());
    }

    #[tokio::test]
    async fn waiting_for_none_ends_with_the_last_place() {
        let running = Running::default();
        let (first, second) = (running.enter(id(1), Stop::new().0), running.enter(id(2), Stop::new().0));
        let both = async {
            drop(first);
            assert_eq!(running.count(), 1);
            drop(second);
        };

        tokio::join!(running.none(), both);

        assert_eq!(running.count(), 0);
    }

    #[tokio::test]
    async fn a_late_receipt_is_told_once_a_connection() {
        let (late, told) = (Late::default(), Told::default());
        assert!(told.first_time(id(1)));
        late.add(id(1), receipt(1));
        late.add(id(2), receipt(2));

        assert_eq!(late.next(&told).await, (id(2), receipt(2)));
        assert!(!told.first_time(id(2)));
    }
}
