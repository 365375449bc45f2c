//! Many streams over one run of bytes, without I/O: bytes in, events and bytes out.
//!
//! Each direction of a stream ends on its own, or a reset ends both; a stream whose both directions ended leaves the
//! table. Credit counts what is held: a body and [`FRAME_COST`](crate::FRAME_COST) a frame. A peer that sends past its credit, gives
//! credit past the window, sends after its end, opens with the wrong number or breaks a frame loses its connection;
//! one that opens too many streams loses that stream; a frame for an unknown stream is a late one and is ignored.

mod entry;

use std::collections::{HashMap, VecDeque};

use bytes::{Bytes, BytesMut};
use reeve_wire::frame::{Content, Decoder, Frame, FrameError, Part, Reason, StreamId};

use crate::ended::Why;
use crate::limits::{CONTROL_WINDOW, Limits};
use entry::{Entry, cost};

/// Who opens even streams and who odd ones.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// The side that was dialled: even.
    Master,
    /// The side that dialled: odd.
    Dialler,
}

impl Side {
    fn first(self) -> u32 {
        match self {
            Self::Master => 2,
            Self::Dialler => 1,
        }
    }

    fn opens(self, stream: StreamId) -> bool {
        stream != StreamId::CONTROL && stream.0 % 2 == self.first() % 2
    }
}

/// What the bytes of the other side meant.
#[derive(Debug, Eq, PartialEq)]
pub enum Event {
    /// The other side opened a stream. Its first body, if any, is an event of its own.
    Opened(StreamId),
    /// A body. Its [`cost`](Mux::cost) must be given back with [`Mux::consumed`] once it is done with.
    Body(StreamId, Part),
    /// The other side has sent all.
    Ended(StreamId),
    /// The other side ended both directions. Bodies before an [`Event::Ended`] are still whole.
    Reset(StreamId, Reason),
    /// There is credit again.
    Credit(StreamId),
    /// A message on the control stream. Its cost must be given back with [`Mux::control_consumed`].
    Control(Bytes),
    /// There is credit for the control stream again.
    ControlCredit,
}

/// Why a frame cannot be queued at this moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Blocked {
    /// The other side must give credit first.
    Credit,
    /// Frames of this connection must leave first.
    Backlog,
    /// There is no such stream, or its direction has ended.
    Gone,
}

const SMALL: usize = 1024;
const RESERVE: usize = 64 * 1024;
/// Resets that wait to be sent. An honest peer causes no more than it may have streams.
const MOST_RESETS: usize = 4096;

/// One side of one connection.
#[derive(Debug)]
pub struct Mux {
    side: Side,
    limits: Limits,
    /// Streams that the other side may have open. Fewer than the limits' when this side takes none.
    accepts: u16,
    decoder: Decoder,
    control: Entry,
    table: HashMap<StreamId, Entry>,
    ours: u16,
    theirs: u16,
    next: u32,
    /// Streams with something to send, each once, in the order of their turns.
    turns: VecDeque<StreamId>,
    /// Streams that owe the other side credit, each once.
    owing: VecDeque<StreamId>,
    resets: VecDeque<(StreamId, Reason)>,
    queued: usize,
}

impl Mux {
    /// A side without streams.
    #[must_use]
    pub fn new(side: Side, limits: Limits) -> Self {
        Self {
            side,
            limits,
            accepts: limits.streams,
            decoder: Decoder::default(),
            control: Entry::opened(CONTROL_WINDOW),
            table: HashMap::new(),
            ours: 0,
            theirs: 0,
            next: side.first(),
            turns: VecDeque::new(),
            owing: VecDeque::new(),
            resets: VecDeque::new(),
            queued: 0,
        }
    }

    /// How many streams the table holds.
    #[must_use]
    pub fn live(&self) -> usize {
        self.table.len()
    }

    /// Bytes of frames with a payload that wait to be gathered.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Whether [`gather`](Self::gather) would give anything.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !(self.resets.is_empty() && self.owing.is_empty() && self.control.is_idle() && self.turns.is_empty())
    }

    /// Refuses every stream that the other side opens from here on.
    pub fn accept_none(&mut self) {
        self.accepts = 0;
    }

    /// What a body took from its window.
    #[must_use]
    pub fn cost(part: &Part) -> u32 {
        cost(part)
    }

    /// What a payload of `length` bytes takes from its window.
    #[must_use]
    pub fn cost_of(length: usize) -> u32 {
        entry::cost_of(length)
    }

    /// Whether a payload of `length` bytes may use the reserve beyond the backlog, so that a keystroke does not wait
    /// for what bulk streams have queued.
    #[must_use]
    pub fn is_small(length: usize) -> bool {
        length <= SMALL
    }

    /// Room in the backlog for payloads that are not small, in bytes.
    #[must_use]
    pub fn backlog_left(&self) -> usize {
        self.limits.backlog.saturating_sub(self.queued)
    }

    /// Which side this is.
    #[must_use]
    pub fn side(&self) -> Side {
        self.side
    }

    /// What both sides agreed on.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Takes a number for a stream. Nothing travels before its first body, or its end.
    ///
    /// # Errors
    ///
    /// [`Reason::TooMany`] when this side has as many streams open as it may.
    pub fn open(&mut self) -> Result<StreamId, Reason> {
        if self.ours >= self.limits.streams {
            return Err(Reason::TooMany);
        }
        // The numbers come round after 2^31 streams, when a long-lived one may still hold its own.
        while self.table.contains_key(&StreamId(self.next)) {
            self.next = self.next.checked_add(2).unwrap_or(self.side.first());
        }
        let stream = StreamId(self.next);
        self.next = self.next.checked_add(2).unwrap_or(self.side.first());
        self.table.insert(stream, Entry::unopened(self.limits.window.get()));
        self.ours += 1;

        Ok(stream)
    }

    /// Whether a payload of `length` bytes can be queued on `stream` now.
    ///
    /// # Errors
    ///
    /// What it must wait for.
    pub fn room(&self, stream: StreamId, length: usize) -> Result<(), Blocked> {
        let entry = self.table.get(&stream).ok_or(Blocked::Gone)?;
        entry.room(length)?;

        self.backlog_room(length)
    }

    /// Queues a body, and with `end` the end of this direction behind it, in one frame.
    ///
    /// # Errors
    ///
    /// As [`room`](Self::room), which must have been asked; nothing is queued then.
    pub fn send(&mut self, stream: StreamId, part: Part, end: bool) -> Result<(), Blocked> {
        self.room(stream, part.payload().len())?;
        let entry = self.table.get_mut(&stream).ok_or(Blocked::Gone)?;
        self.queued += entry.push(part, end);
        self.take_turn(stream);

        Ok(())
    }

    /// Ends this direction of `stream` behind what is queued for it. Needs no room.
    pub fn end(&mut self, stream: StreamId) {
        if let Some(entry) = self.table.get_mut(&stream)
            && entry.end()
        {
            self.take_turn(stream);
        }
    }

    /// Ends both directions of `stream` at once; what is queued for it is void.
    pub fn reset(&mut self, stream: StreamId, reason: Reason) {
        if let Some(entry) = self.remove(stream)
            && entry.is_known_to_peer()
        {
            self.resets.push_back((stream, reason));
        }
    }

    /// Nobody here uses `stream` any more: what was queued up to an end still goes, then it is reset unless the other
    /// side has ended as well.
    pub fn abandon(&mut self, stream: StreamId) {
        let Some(entry) = self.table.get_mut(&stream) else {
            return;
        };
        if !entry.abandon() {
            self.reset(stream, Reason::Cancelled);
        }
    }

    /// Gives back what bodies of `stream` cost; credit for it goes to the other side by half windows.
    pub fn consumed(&mut self, stream: StreamId, cost: u32) {
        if let Some(entry) = self.table.get_mut(&stream)
            && entry.consumed(cost)
        {
            self.owing.push_back(stream);
        }
    }

    /// Whether a control message of `length` bytes can be queued now.
    ///
    /// # Errors
    ///
    /// What it must wait for.
    pub fn control_room(&self, length: usize) -> Result<(), Blocked> {
        self.control.room(length)?;

        self.backlog_room(length)
    }

    /// Queues a message on the control stream. It goes before those of all other streams.
    ///
    /// # Errors
    ///
    /// As [`control_room`](Self::control_room); nothing is queued then.
    pub fn control_send(&mut self, message: Part) -> Result<(), Blocked> {
        self.control_room(message.payload().len())?;
        self.queued += self.control.push(message, false);

        Ok(())
    }

    /// Gives back what control messages cost.
    pub fn control_consumed(&mut self, cost: u32) {
        if self.control.consumed(cost) {
            self.owing.push_back(StreamId::CONTROL);
        }
    }

    /// Reads bytes of the other side and tells `on` what they meant, in order.
    ///
    /// # Errors
    ///
    /// [`Why::Protocol`]: the other side broke a rule. End the connection; nothing after can be trusted.
    pub fn feed(&mut self, mut input: &[u8], mut on: impl FnMut(Event)) -> Result<(), Why> {
        while let Some(frame) = self.decoder.take(&mut input).map_err(broken_frame)? {
            match frame {
                Frame::Open { stream, first, end } => self.on_open(stream, first, end, &mut on)?,
                Frame::Data { stream: StreamId::CONTROL, part, end } => self.on_control(part, end, &mut on)?,
                Frame::Data { stream, part, end } => self.on_data(stream, Some(part), end, &mut on)?,
                Frame::End { stream } => self.on_data(stream, None, true, &mut on)?,
                Frame::Reset { stream, reason } => self.on_reset(stream, reason, &mut on)?,
                Frame::Credit { stream, bytes } => self.on_credit(stream, bytes, &mut on)?,
            }
        }

        Ok(())
    }

    /// Moves frames to the end of `into` until it holds `most` bytes (one frame over it at the most) or nothing is
    /// left: resets and credit first, then control, then the streams in turn, a frame each.
    pub fn gather(&mut self, into: &mut BytesMut, most: usize) {
        while into.len() < most {
            if let Some((stream, reason)) = self.resets.pop_front() {
                Frame::Reset { stream, reason }.encode(into);
            } else if let Some(stream) = self.owing.pop_front() {
                self.gather_credit(stream, into);
            } else if let Some(part) = self.control.pop_message() {
                let frame = Frame::Data { stream: StreamId::CONTROL, part, end: false };
                self.queued = self.queued.saturating_sub(frame.encoded_len());
                frame.encode(into);
            } else if let Some(stream) = self.turns.pop_front() {
                self.gather_turn(stream, into);
            } else {
                return;
            }
        }
    }

    fn gather_credit(&mut self, stream: StreamId, into: &mut BytesMut) {
        let entry = if stream == StreamId::CONTROL { Some(&mut self.control) } else { self.table.get_mut(&stream) };
        if let Some(bytes) = entry.and_then(Entry::take_debt) {
            Frame::Credit { stream, bytes }.encode(into);
        }
    }

    fn gather_turn(&mut self, stream: StreamId, into: &mut BytesMut) {
        let Some(entry) = self.table.get_mut(&stream) else {
            return;
        };
        let Some(frame) = entry.next_frame(stream) else {
            return;
        };
        self.queued = self.queued.saturating_sub(entry::queued_len(&frame));
        frame.encode(into);
        if entry.has_more() {
            self.turns.push_back(stream);
        } else if entry.is_over() {
            self.remove(stream);
        } else if entry.is_left_behind() {
            self.reset(stream, Reason::Cancelled);
        }
    }

    fn backlog_room(&self, length: usize) -> Result<(), Blocked> {
        let reserve = if Self::is_small(length) { RESERVE } else { 0 };
        let room = self.limits.backlog.saturating_add(reserve).saturating_sub(self.queued);

        if self.queued == 0 || length <= room { Ok(()) } else { Err(Blocked::Backlog) }
    }

    fn take_turn(&mut self, stream: StreamId) {
        if let Some(entry) = self.table.get_mut(&stream)
            && entry.enter_turns()
        {
            self.turns.push_back(stream);
        }
    }

    /// Takes a stream out of the table, and what it had queued out of the backlog.
    fn remove(&mut self, stream: StreamId) -> Option<Entry> {
        let entry = self.table.remove(&stream)?;
        if entry.is_in_turns() {
            self.turns.retain(|&other| other != stream);
        }
        if entry.is_owing() {
            self.owing.retain(|&other| other != stream);
        }
        self.queued = self.queued.saturating_sub(entry.queued());
        if self.side.opens(stream) {
            self.ours = self.ours.saturating_sub(1);
        } else {
            self.theirs = self.theirs.saturating_sub(1);
        }

        Some(entry)
    }

    fn on_open(
        &mut self,
        stream: StreamId,
        first: Option<Part>,
        end: bool,
        on: &mut impl FnMut(Event),
    ) -> Result<(), Why> {
        if stream == StreamId::CONTROL || self.side.opens(stream) {
            return Err(Why::Protocol("a stream was opened with a number of the wrong side"));
        }
        if self.table.contains_key(&stream) {
            return Err(Why::Protocol("a stream was opened twice"));
        }
        if self.resets.len() >= MOST_RESETS {
            return Err(Why::Protocol("streams were opened faster than their resets were read"));
        }
        if self.theirs >= self.accepts {
            self.resets.push_back((stream, if self.accepts == 0 { Reason::Refused } else { Reason::TooMany }));
            return Ok(());
        }
        self.table.insert(stream, Entry::opened(self.limits.window.get()));
        self.theirs += 1;
        on(Event::Opened(stream));

        if first.is_some() || end { self.on_data(stream, first, end, on) } else { Ok(()) }
    }

    fn on_control(&mut self, part: Part, end: bool, on: &mut impl FnMut(Event)) -> Result<(), Why> {
        if end || part.content() != Content::Message {
            return Err(Why::Protocol("the control stream carries messages and has no end"));
        }
        self.control.receive(&part)?;
        on(Event::Control(part.into_parts().1));

        Ok(())
    }

    fn on_data(
        &mut self,
        stream: StreamId,
        part: Option<Part>,
        end: bool,
        on: &mut impl FnMut(Event),
    ) -> Result<(), Why> {
        if stream == StreamId::CONTROL {
            return Err(Why::Protocol("the control stream carries messages and has no end"));
        }
        let Some(entry) = self.table.get_mut(&stream) else {
            return Ok(());
        };
        if entry.has_peer_ended() {
            return Err(Why::Protocol("a stream went on after its end"));
        }
        if let Some(part) = part {
            entry.receive(&part)?;
            on(Event::Body(stream, part));
        }
        if end {
            entry.peer_ends();
            on(Event::Ended(stream));
            if entry.is_over() {
                self.remove(stream);
            }
        }

        Ok(())
    }

    fn on_reset(&mut self, stream: StreamId, reason: Reason, on: &mut impl FnMut(Event)) -> Result<(), Why> {
        if stream == StreamId::CONTROL {
            return Err(Why::Protocol("the control stream carries messages and has no end"));
        }
        if self.remove(stream).is_some() {
            on(Event::Reset(stream, reason));
        }

        Ok(())
    }

    fn on_credit(&mut self, stream: StreamId, bytes: u32, on: &mut impl FnMut(Event)) -> Result<(), Why> {
        if stream == StreamId::CONTROL {
            self.control.receive_credit(bytes)?;
            on(Event::ControlCredit);
        } else if let Some(entry) = self.table.get_mut(&stream) {
            entry.receive_credit(bytes)?;
            on(Event::Credit(stream));
        }

        Ok(())
    }
}

fn broken_frame(error: FrameError) -> Why {
    Why::Protocol(match error {
        FrameError::TooLong(_) => "a frame is too long",
        FrameError::UnknownKind(_) => "a frame is of an unknown kind",
        FrameError::WrongLength { .. } => "a frame has the wrong length for its kind",
        FrameError::UnknownContent(_) => "a body has an unknown content",
        FrameError::UnknownReason(_) => "a reset has an unknown reason",
        FrameError::EmptyCredit => "a credit is empty",
    })
}

#[cfg(test)]
mod tests;
