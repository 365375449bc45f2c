//! Where an operation's output and receipts go: the stream to the master, for as long as it is there.

use std::time::Duration;

use bytes::Bytes;
use reeve_link::{Content, Sender, parts};
use reeve_wire::message::{Part, PartKind, Salts};
use reeve_wire::signed::Signed;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::exec::{Sink, SinkClosed, Which};

/// How long the first parts may wait for the connection's backlog.
const BEGIN_WITHIN: Duration = Duration::from_secs(10);

/// The way out. Closed when the stream or the connection is over.
#[derive(Debug)]
pub(super) struct Outlet {
    sender: Mutex<Option<Sender>>,
}

impl Outlet {
    pub(super) fn new(sender: Sender) -> Self {
        Self { sender: Mutex::new(Some(sender)) }
    }

    /// Tells that the operation is accepted, and what its output will be salted with.
    pub(super) async fn begin(&self, salts: Salts, accepted: &Signed) {
        let Ok(salts) = Part::json(PartKind::Salts, &salts) else {
            return self.close().await;
        };
        let said = parts::pack(&[salts, Part::new(PartKind::Receipt, accepted.to_wire())]);
        let told = timeout(BEGIN_WITHIN, self.send(Content::Message, said)).await;
        if !matches!(told, Ok(Ok(()))) {
            self.close().await;
        }
    }

    /// Sends the last parts and the end of the stream. Whether they were sent.
    pub(super) async fn finish(self, last: &[Part]) -> bool {
        match self.sender.into_inner() {
            Some(sender) => sender.finish_with(Content::Message, parts::pack(last)).await.is_ok(),
            None => false,
        }
    }

    /// A dropped future has sent all or nothing.
    async fn send(&self, content: Content, bytes: Bytes) -> Result<(), SinkClosed> {
        let mut sender = self.sender.lock().await;
        let sent = match sender.as_mut() {
            Some(open) => open.send(content, bytes).await,
            None => return Err(SinkClosed),
        };
        sent.map_err(|ended| {
            tracing::debug!(%ended, "Nobody takes an operation's output any more");
            *sender = None;
            SinkClosed
        })
    }

    async fn close(&self) {
        *self.sender.lock().await = None;
    }
}

impl Sink for Outlet {
    async fn take(&self, which: Which, chunk: Bytes) -> Result<(), SinkClosed> {
        let content = match which {
            Which::Stdout => Content::Stdout,
            Which::Stderr => Content::Stderr,
        };
        self.send(content, chunk).await
    }
}
