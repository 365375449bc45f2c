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
///
/// The sender is kept to the end all the same: dropping it would reset the stream, and to whoever listens on it that
/// looks like the master's own reset, which is a cancel.
#[derive(Debug)]
pub(super) struct Outlet {
    way: Mutex<Way>,
}

#[derive(Debug)]
struct Way {
    sender: Sender,
    closed: bool,
}

impl Outlet {
    pub(super) fn new(sender: Sender) -> Self {
        Self { way: Mutex::new(Way { sender, closed: false }) }
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
        let Way { sender, closed } = self.way.into_inner();
        !closed && sender.finish_with(Content::Message, parts::pack(last)).await.is_ok()
    }

    /// A dropped future has sent all or nothing.
    async fn send(&self, content: Content, bytes: Bytes) -> Result<(), SinkClosed> {
        let mut way = self.way.lock().await;
        if way.closed {
            return Err(SinkClosed);
        }
        let sent = way.sender.send(content, bytes).await;
        sent.map_err(|ended| {
            tracing::debug!(%ended, "Nobody takes an operation's output any more");
            way.closed = true;
            SinkClosed
        })
    }

    async fn close(&self) {
        self.way.lock().await.closed = true;
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
