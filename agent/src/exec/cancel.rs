//! How a running program is told to end, and why.

use std::sync::Arc;

use tokio::sync::watch;

/// Why a program was ended before its time, in a sentence.
pub type Reason = Arc<str>;

/// The reason when every [`Canceller`] is gone.
pub const ABANDONED: &str = "nothing was left that could have ended it later";

/// Ends one program. Kept for as long as the program may run: dropping the last one cancels as well, because a program
/// that nobody can end any more must not go on.
#[derive(Clone, Debug)]
pub struct Canceller {
    reason: Arc<watch::Sender<Option<Reason>>>,
}

impl Canceller {
    /// Asks the program to end. The first reason stays.
    pub fn cancel(&self, reason: impl Into<Reason>) {
        self.reason.send_if_modified(|held| {
            let first = held.is_none();
            if first {
                *held = Some(reason.into());
            }
            first
        });
    }
}

/// What a running program listens to.
#[derive(Clone, Debug)]
pub struct Cancelled {
    reason: watch::Receiver<Option<Reason>>,
}

impl Cancelled {
    /// Waits for the reason to end. May be dropped and called again.
    pub async fn reason(&mut self) -> Reason {
        let reason = self.reason.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_else(|| ABANDONED.into())
    }
}

/// A canceller and what listens to it.
pub fn cancel() -> (Canceller, Cancelled) {
    let (sender, receiver) = watch::channel(None);
    (Canceller { reason: Arc::new(sender) }, Cancelled { reason: receiver })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_stays() {
        let (canceller, mut cancelled) = cancel();
        canceller.cancel("the right was lost");
        canceller.cancel("asked by alice");

        assert_eq!(&*cancelled.reason().await, "the right was lost");
        drop(canceller);
        assert_eq!(&*cancelled.reason().await, "the right was lost");
    }

    #[tokio::test]
    async fn dropping_the_last_canceller_cancels() {
        let (canceller, mut cancelled) = cancel();
        let second = canceller.clone();
        drop(canceller);
        drop(second);

        assert_eq!(&*cancelled.reason().await, ABANDONED);
    }
}
