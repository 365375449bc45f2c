//! One connection: its streams as handles that wait, and what ends it.
//!
//! All state of a connection is behind one lock that is never held while waiting, waking or sending. While nothing is
//! to be sent there is no task: the first frame starts one, which gathers what is queued, sends it, and goes.

mod core;
mod stream;

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use reeve_wire::frame::{Content, Part};
use tokio_util::sync::CancellationToken;

use self::core::Core;
pub use self::stream::{Credit, Cutter, Receiver, Sender, Stream, Taken};
use crate::ended::{Ended, Why};
use crate::limits::Limits;
use crate::mux::Side;
use crate::tasks::Tasks;

/// What a carrier's sending is: boxed, since there is one a batch and not one a frame.
pub type Sending<'a> = Pin<Box<dyn Future<Output = Result<(), Why>> + Send + 'a>>;

/// Where frames travel: an SSH channel, or memory in tests.
pub trait Carrier: Send + Sync + 'static {
    /// Sends all of `bytes`, in the order of the calls. There is one call at a time.
    fn send(&self, bytes: Bytes) -> Sending<'_>;
}

/// One connection. Cheap to clone. When its last handle and the last of its streams are dropped, it is closed.
#[derive(Clone)]
pub struct Link {
    owner: Arc<Owner>,
}

/// Held by whoever can still use the connection; its end is the connection's.
struct Owner {
    core: Arc<Core>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.core.close(Why::Closed);
    }
}

impl Link {
    /// A connection whose carrier is still to be [attached](Self::attach), and the inlet for what it receives.
    ///
    /// `socket` is cancelled when the connection ends for whatever reason; a carrier whose socket obeys it is cut at
    /// once. Hand in a child token: cancelling it elsewhere kills this connection.
    #[must_use]
    pub fn new(side: Side, limits: Limits, tasks: &Tasks, socket: CancellationToken) -> (Self, Inlet) {
        let core = Arc::new(Core::new(side, limits, tasks.clone(), socket));

        (Self { owner: Arc::new(Owner { core: Arc::clone(&core) }) }, Inlet { core })
    }

    /// Gives the connection the way out. What was queued before leaves then.
    pub fn attach(&self, carrier: Arc<dyn Carrier>) {
        self.owner.core.attach(carrier);
    }

    /// Opens a stream. Nothing travels until its first `send`, or its end.
    ///
    /// # Errors
    ///
    /// [`Reason::TooMany`](crate::Reason::TooMany) when this side has as many open as it may, or the connection is over.
    pub fn open(&self) -> Result<Stream, Ended> {
        let id = self.owner.core.open()?;

        Ok(Stream::new(Arc::clone(&self.owner), id))
    }

    /// Opens a stream with its one message and its end in the opening frame; the answer comes on the receiver.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open) and [`Sender::send`].
    pub async fn ask(&self, message: Bytes) -> Result<Receiver, Ended> {
        let (sender, receiver) = self.open()?.split();
        sender.finish_with(Content::Message, message).await?;

        Ok(receiver)
    }

    /// The next stream that the other side opened; `None` when the connection is over. One task should ask.
    pub async fn accept(&self) -> Option<Stream> {
        let core = &self.owner.core;
        let id = std::future::poll_fn(|cx| core.poll_accept(cx)).await?;

        Some(Stream::new(Arc::clone(&self.owner), id))
    }

    /// Refuses all streams that the other side opens from here on.
    pub fn refuse_streams(&self) {
        self.owner.core.refuse_streams();
    }

    /// Sends a message on the control stream, before what other streams have queued. Waits for credit, of which there
    /// is [`CONTROL_WINDOW`](crate::CONTROL_WINDOW), and for the backlog; a dropped future has sent all or nothing.
    ///
    /// # Errors
    ///
    /// [`Ended::TooLong`] over [`MAX_PAYLOAD`](crate::MAX_PAYLOAD), or the connection is over.
    pub async fn control_send(&self, message: Bytes) -> Result<(), Ended> {
        let length = message.len();
        let mut part = Some(Part::new(Content::Message, message).map_err(|_| Ended::TooLong(length))?);

        std::future::poll_fn(|cx| self.owner.core.poll_control_send(&mut part, cx)).await
    }

    /// The next message on the control stream; `None` when the connection is over. Taking it gives its credit back.
    /// One task should ask.
    pub async fn control_next(&self) -> Option<Bytes> {
        std::future::poll_fn(|cx| self.owner.core.poll_control_next(cx)).await
    }

    /// Ends the connection at once, without a farewell: wakes every reader and writer, cuts the socket. Idempotent; the
    /// first reason stays.
    pub fn kill(&self, why: Why) {
        self.owner.core.close(why);
    }

    /// Waits for the end of the connection.
    pub async fn closed(&self) -> Why {
        self.owner.core.closed().await
    }

    /// Why the connection is over, if it is.
    #[must_use]
    pub fn why_closed(&self) -> Option<Why> {
        self.owner.core.why_closed()
    }

    /// Streams that are open on either side's behalf.
    #[must_use]
    pub fn live(&self) -> usize {
        self.owner.core.live()
    }

    /// Streams that somebody here still holds, ended or not.
    #[must_use]
    pub fn held(&self) -> usize {
        self.owner.core.held()
    }

    /// What both sides agreed on.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.owner.core.limits()
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("live", &self.live()).field("closed", &self.why_closed()).finish()
    }
}

/// Where a carrier puts the bytes that it receives. Its drop tells that the other side is gone.
pub struct Inlet {
    core: Arc<Core>,
}

impl Inlet {
    /// Takes bytes of the other side. Never waits: what it keeps is bounded by the credit that was given.
    ///
    /// # Errors
    ///
    /// The connection is over, perhaps because of these bytes: end what carries it.
    pub fn feed(&self, bytes: &[u8]) -> Result<(), Why> {
        self.core.feed(bytes)
    }

    /// Tells why the carrier ends, where more is known than that it does.
    pub fn close(&self, why: Why) {
        self.core.close(why);
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.core.carrier_ended();
    }
}

#[cfg(test)]
mod tests;
