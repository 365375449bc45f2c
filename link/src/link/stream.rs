//! The handles of one stream: two directions that end on their own, or one reset that ends both.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use reeve_wire::frame::{Content, Part, Reason, StreamId};

use super::Owner;
use super::core::Core;
use crate::ended::Ended;
use crate::mux::Mux;

/// One stream. Dropping it, or the last of its halves, resets it unless both sides have ended; what was queued before
/// a finish still goes. A sender that is dropped before it finished resets at once, since half of what was meant must
/// not pass for the whole.
pub struct Stream {
    out: Sender,
    inp: Receiver,
}

impl Stream {
    pub(super) fn new(owner: Arc<Owner>, id: StreamId) -> Self {
        let out = Sender { place: Place { owner: Arc::clone(&owner), id }, finished: false };

        Self { out, inp: Receiver { place: Place { owner, id } } }
    }

    /// Its number on the connection.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.out.id()
    }

    /// Its two directions, which may go to two tasks.
    #[must_use]
    pub fn split(self) -> (Sender, Receiver) {
        (self.out, self.inp)
    }

    /// The direction out.
    pub fn sender(&mut self) -> &mut Sender {
        &mut self.out
    }

    /// The direction in.
    pub fn receiver(&mut self) -> &mut Receiver {
        &mut self.inp
    }

    /// Something that can reset the stream while others hold it.
    #[must_use]
    pub fn cutter(&self) -> Cutter {
        self.out.cutter()
    }

    /// Ends both directions at once and tells the other side why.
    pub fn reset(self, reason: Reason) {
        self.out.place.reset(reason);
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stream").field(&self.id()).finish()
    }
}

/// A stream of a connection that it keeps alive.
struct Place {
    owner: Arc<Owner>,
    id: StreamId,
}

impl Place {
    fn core(&self) -> &Arc<Core> {
        &self.owner.core
    }

    fn reset(&self, reason: Reason) {
        self.core().reset(self.id, reason);
    }

    fn cutter(&self) -> Cutter {
        Cutter { core: Arc::clone(self.core()), id: self.id }
    }
}

/// The direction out.
pub struct Sender {
    place: Place,
    finished: bool,
}

impl Sender {
    /// The stream's number.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.place.id
    }

    /// Sends one payload in one frame. Waits until there is credit and room in the connection's backlog, and takes both
    /// in the same moment: a dropped future has sent all or nothing.
    ///
    /// # Errors
    ///
    /// [`Ended::TooLong`] over [`MAX_PAYLOAD`](crate::MAX_PAYLOAD) bytes; else the stream or connection is over.
    pub async fn send(&mut self, content: Content, payload: Bytes) -> Result<(), Ended> {
        self.queue(content, payload, false).await
    }

    /// Sends a run of bytes in as many frames as it takes. Not for messages, whose boundaries mean something. A dropped
    /// future has sent whole frames, but perhaps not all of them.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), but never for the length.
    pub async fn send_all(&mut self, content: Content, mut bytes: Bytes) -> Result<(), Ended> {
        let most = self.place.core().limits().body.max(1);
        while !bytes.is_empty() {
            let piece = bytes.split_to(most.min(bytes.len()));
            self.queue(content, piece, false).await?;
        }

        Ok(())
    }

    /// Sends a message; short for [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub async fn message(&mut self, message: Bytes) -> Result<(), Ended> {
        self.queue(Content::Message, message, false).await
    }

    /// Ends this direction behind what was sent. Never waits.
    ///
    /// # Errors
    ///
    /// The stream or connection is over already.
    pub fn finish(mut self) -> Result<(), Ended> {
        self.place.core().end(self.place.id)?;
        self.finished = true;

        Ok(())
    }

    /// Sends the last payload and the end in one frame. A dropped future resets the stream.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send); the stream is reset then.
    pub async fn finish_with(mut self, content: Content, last: Bytes) -> Result<(), Ended> {
        self.queue(content, last, true).await?;
        self.finished = true;

        Ok(())
    }

    /// Something that can reset the stream while others hold it.
    #[must_use]
    pub fn cutter(&self) -> Cutter {
        self.place.cutter()
    }

    /// Ends both directions at once and tells the other side why.
    pub fn reset(self, reason: Reason) {
        self.place.reset(reason);
    }

    async fn queue(&mut self, content: Content, payload: Bytes, end: bool) -> Result<(), Ended> {
        let length = payload.len();
        let mut part = Some(Part::new(content, payload).map_err(|_| Ended::TooLong(length))?);
        let Place { owner, id } = &self.place;

        std::future::poll_fn(|cx| owner.core.poll_send(*id, &mut part, end, cx)).await
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.place.core().drop_sender(self.place.id, self.finished);
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sender").field(&self.id()).finish()
    }
}

/// The direction in. Dropped while the sender lives, it discards what still comes.
pub struct Receiver {
    place: Place,
}

impl Receiver {
    /// The stream's number.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.place.id
    }

    /// The next payload; `None` is the other side's end. Boundaries are kept. Safe to drop and ask again.
    ///
    /// # Errors
    ///
    /// The stream was reset before its end, or the connection is over.
    pub async fn next(&mut self) -> Result<Option<Taken>, Ended> {
        let Place { owner, id } = &self.place;
        let part = std::future::poll_fn(|cx| owner.core.poll_next(*id, cx)).await?;

        Ok(part.map(|part| self.taken(part)))
    }

    /// Something that can reset the stream while others hold it.
    #[must_use]
    pub fn cutter(&self) -> Cutter {
        self.place.cutter()
    }

    /// Ends both directions at once and tells the other side why.
    pub fn reset(self, reason: Reason) {
        self.place.reset(reason);
    }

    fn taken(&self, part: Part) -> Taken {
        let credit = Credit { core: Arc::clone(self.place.core()), id: self.place.id, cost: Mux::cost(&part) };
        let (content, body) = part.into_parts();

        Taken { content, body, credit }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.place.core().drop_receiver(self.place.id);
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Receiver").field(&self.id()).finish()
    }
}

/// A payload that still counts against the other side's credit. Hold it until the payload is done with (written down,
/// shown): that is what makes the other side wait.
#[derive(Debug)]
pub struct Taken {
    content: Content,
    body: Bytes,
    credit: Credit,
}

impl Taken {
    /// What the payload is.
    #[must_use]
    pub fn content(&self) -> Content {
        self.content
    }

    /// The payload.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The payload and its credit, to be held apart.
    #[must_use]
    pub fn into_parts(self) -> (Content, Bytes, Credit) {
        (self.content, self.body, self.credit)
    }

    /// The payload; its credit goes back at once.
    #[must_use]
    pub fn into_body(self) -> Bytes {
        self.body
    }
}

/// Credit that goes back to the other side when this is dropped.
pub struct Credit {
    core: Arc<Core>,
    id: StreamId,
    cost: u32,
}

impl Drop for Credit {
    fn drop(&mut self) {
        self.core.consumed(self.id, self.cost);
    }
}

impl fmt::Debug for Credit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credit").field(&self.cost).finish()
    }
}

/// Resets a stream from anywhere, while others send and receive on it. Cheap to clone; holds neither the stream nor
/// the connection.
#[derive(Clone)]
pub struct Cutter {
    core: Arc<Core>,
    id: StreamId,
}

impl Cutter {
    /// Ends both directions at once, wakes who waits on them and tells the other side why. Idempotent: the first reason
    /// stays.
    pub fn cut(&self, reason: Reason) {
        self.core.reset(self.id, reason);
    }
}

impl fmt::Debug for Cutter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cutter").field(&self.id).finish()
    }
}
