//! What is on its way at this moment: so that a master that is asked to stop lets it end first, and so that nobody
//! asks what became of it before it is over.

use std::collections::HashMap;

use reeve_wire::id::OperationId;
use reeve_wire::name::HostName;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

type Way = (OperationId, HostName);

/// The operations between their intent and their result. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Running {
    on_the_way: watch::Sender<OnTheWay>,
    closing: CancellationToken,
}

#[derive(Debug, Default)]
struct OnTheWay {
    /// Those whose result is still to be recorded. The same one twice is refused elsewhere, and counted all the same.
    unrecorded: HashMap<Way, usize>,
    /// All, with those of which only the technician is still to be told.
    count: usize,
}

impl Default for Running {
    fn default() -> Self {
        Self { on_the_way: watch::Sender::new(OnTheWay::default()), closing: CancellationToken::new() }
    }
}

/// One operation on its way to one server; its drop is its end.
#[derive(Debug)]
pub struct OnItsWay {
    running: Running,
    way: Option<Way>,
}

impl OnItsWay {
    /// Its result is recorded, or never will be; the technician is still to be told.
    pub fn recorded(&mut self) {
        let Some(way) = self.way.take() else {
            return;
        };
        self.running.on_the_way.send_modify(|on_the_way| {
            let left = on_the_way.unrecorded.get(&way).map_or(0, |count| count.saturating_sub(1));
            if left == 0 {
                on_the_way.unrecorded.remove(&way);
            } else {
                on_the_way.unrecorded.insert(way, left);
            }
        });
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.recorded();
        self.running.on_the_way.send_modify(|on_the_way| on_the_way.count = on_the_way.count.saturating_sub(1));
    }
}

impl Running {
    /// Takes in one more, before its intent is written. `None` when nothing new is begun any more.
    #[must_use]
    pub fn enter(&self, operation: OperationId, host: &HostName) -> Option<OnItsWay> {
        let way = (operation, host.clone());
        self.on_the_way.send_modify(|on_the_way| {
            on_the_way.count = on_the_way.count.saturating_add(1);
            let unrecorded = on_the_way.unrecorded.entry(way.clone()).or_default();
            *unrecorded = unrecorded.saturating_add(1);
        });
        let entered = OnItsWay { running: self.clone(), way: Some(way) };
        // Asked after it is counted: whoever closes and then waits for the count either sees it or has stopped it.
        (!self.is_closing()).then_some(entered)
    }

    /// Whether `operation` is on its way to `host`.
    pub fn has(&self, operation: OperationId, host: &HostName) -> bool {
        self.on_the_way.borrow().unrecorded.contains_key(&(operation, host.clone()))
    }

    /// What is on its way to `host`.
    pub fn at(&self, host: &HostName) -> Vec<OperationId> {
        let on_the_way = self.on_the_way.borrow();
        on_the_way.unrecorded.keys().filter(|(_, at)| at == host).map(|(operation, _)| *operation).collect()
    }

    /// Waits until `operation` is not on its way to `host`.
    pub async fn over(&self, operation: OperationId, host: &HostName) {
        let way = (operation, host.clone());
        let mut seen = self.on_the_way.subscribe();
        // The sender lives as long as `self`.
        drop(seen.wait_for(|on_the_way| !on_the_way.unrecorded.contains_key(&way)).await);
    }

    /// From here on nothing new is begun.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// Whether nothing new is begun any more.
    pub fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Is cancelled when nothing new is begun any more.
    pub fn closing(&self) -> CancellationToken {
        self.closing.clone()
    }

    /// Waits until nothing is on its way.
    pub async fn all_ended(&self) {
        let mut seen = self.on_the_way.subscribe();
        drop(seen.wait_for(|on_the_way| on_the_way.count == 0).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostName {
        "contoso/web01".parse().unwrap()
    }

    #[tokio::test]
    async fn what_is_recorded_is_over_and_a_stop_waits_until_it_is_told() {
        let running = Running::default();
        let id = OperationId([1; 16]);
        let mut one = running.enter(id, &host()).unwrap();
        assert!(running.has(id, &host()));
        assert_eq!(running.at(&host()), [id]);

        one.recorded();
        running.over(id, &host()).await;
        assert!(running.at(&host()).is_empty());
        let mut stop = std::pin::pin!(running.all_ended());
        assert!(ready_now(stop.as_mut()).is_none(), "the technician is not told yet");
        drop(one);
        stop.await;
    }

    #[test]
    fn nothing_is_begun_once_a_stop_waits() {
        let running = Running::default();
        running.close();
        assert!(running.enter(OperationId([1; 16]), &host()).is_none());
        assert!(!running.has(OperationId([1; 16]), &host()));
    }

    fn ready_now<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        match future.poll(&mut cx) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}
