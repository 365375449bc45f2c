//! One stream as the table knows it: what waits to be sent, and the credit of both directions.

use std::collections::VecDeque;

use reeve_wire::frame::{Frame, HEADER, Part, StreamId};

use super::Blocked;
use crate::ended::Why;
use crate::limits::FRAME_COST;

/// What a body takes from its window: what is held for it.
pub(super) fn cost(part: &Part) -> u32 {
    cost_of(part.payload().len())
}

pub(super) fn cost_of(payload: usize) -> u32 {
    // The content byte counts, and no payload is longer than a frame.
    u32::try_from(payload + 1).unwrap_or(u32::MAX).saturating_add(FRAME_COST)
}

/// What a queued part adds to the backlog: its frame.
fn part_len(part: &Part) -> usize {
    HEADER + 1 + part.payload().len()
}

/// What a frame that leaves takes from the backlog.
pub(super) fn queued_len(frame: &Frame) -> usize {
    match frame {
        Frame::Open { first: Some(part), .. } | Frame::Data { part, .. } => part_len(part),
        Frame::Open { first: None, .. } | Frame::End { .. } | Frame::Reset { .. } | Frame::Credit { .. } => 0,
    }
}

/// How far the sending direction has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Out {
    Going,
    /// The end is behind what is queued.
    Ending,
    Ended,
}

#[derive(Debug)]
pub(super) struct Entry {
    queue: VecDeque<Part>,
    out: Out,
    /// Its open frame has left, or came from the other side.
    known: bool,
    in_turns: bool,
    /// Nobody here uses it any more, and its end is queued.
    abandoned: bool,
    window: u32,
    /// What this side may still send.
    credit: u32,
    /// What the other side may still send.
    granted: u32,
    /// What was consumed of the other side's and not yet granted again.
    debt: u32,
    owing: bool,
    peer_ended: bool,
}

impl Entry {
    /// A stream that this side opens.
    pub(super) fn unopened(window: u32) -> Self {
        Self { known: false, ..Self::opened(window) }
    }

    /// A stream that the other side opened, or the control stream.
    pub(super) fn opened(window: u32) -> Self {
        Self {
            queue: VecDeque::new(),
            out: Out::Going,
            known: true,
            in_turns: false,
            abandoned: false,
            window,
            credit: window,
            granted: window,
            debt: 0,
            owing: false,
            peer_ended: false,
        }
    }

    pub(super) fn room(&self, length: usize) -> Result<(), Blocked> {
        if self.out != Out::Going {
            return Err(Blocked::Gone);
        }

        if cost_of(length) <= self.credit { Ok(()) } else { Err(Blocked::Credit) }
    }

    /// Queues a body for which there is room, and tells by how much the backlog grew.
    pub(super) fn push(&mut self, part: Part, end: bool) -> usize {
        self.credit = self.credit.saturating_sub(cost(&part));
        let length = part_len(&part);
        self.queue.push_back(part);
        if end {
            self.out = Out::Ending;
        }

        length
    }

    /// Puts the end behind what is queued. False when it was there already.
    pub(super) fn end(&mut self) -> bool {
        let going = self.out == Out::Going;
        if going {
            self.out = Out::Ending;
        }

        going
    }

    /// True when it was not in the turns and is from here on.
    pub(super) fn enter_turns(&mut self) -> bool {
        !std::mem::replace(&mut self.in_turns, true)
    }

    /// True when what is queued, or the other side's end, is still to be waited for.
    pub(super) fn abandon(&mut self) -> bool {
        self.abandoned = true;
        match self.out {
            Out::Going => false,
            Out::Ending => true,
            Out::Ended => self.peer_ended,
        }
    }

    pub(super) fn is_in_turns(&self) -> bool {
        self.in_turns
    }

    pub(super) fn is_owing(&self) -> bool {
        self.owing
    }

    pub(super) fn is_known_to_peer(&self) -> bool {
        self.known
    }

    /// What waits to be sent, in bytes of frames.
    pub(super) fn queued(&self) -> usize {
        self.queue.iter().map(part_len).sum()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn pop_message(&mut self) -> Option<Part> {
        self.queue.pop_front()
    }

    /// The next frame of its turn. The caller puts it back into the turns when it [has more](Self::has_more).
    pub(super) fn next_frame(&mut self, stream: StreamId) -> Option<Frame> {
        self.in_turns = false;
        let part = self.queue.pop_front();
        let end = self.out == Out::Ending && self.queue.is_empty();
        if end {
            self.out = Out::Ended;
        }
        if !std::mem::replace(&mut self.known, true) {
            return Some(Frame::Open { stream, first: part, end });
        }
        match part {
            Some(part) => Some(Frame::Data { stream, part, end }),
            None if end => Some(Frame::End { stream }),
            None => None,
        }
    }

    /// True when it needs another turn; it counts as being in the turns then.
    pub(super) fn has_more(&mut self) -> bool {
        self.in_turns = !self.queue.is_empty();

        self.in_turns
    }

    pub(super) fn is_over(&self) -> bool {
        self.out == Out::Ended && self.peer_ended
    }

    /// Its last frame left, and nobody here reads what the other side still sends.
    pub(super) fn is_left_behind(&self) -> bool {
        self.abandoned && self.out == Out::Ended
    }

    pub(super) fn has_peer_ended(&self) -> bool {
        self.peer_ended
    }

    pub(super) fn peer_ends(&mut self) {
        self.peer_ended = true;
    }

    pub(super) fn receive(&mut self, part: &Part) -> Result<(), Why> {
        let granted = self.granted.checked_sub(cost(part));
        self.granted = granted.ok_or(Why::Protocol("more was sent than there was credit for"))?;

        Ok(())
    }

    pub(super) fn receive_credit(&mut self, bytes: u32) -> Result<(), Why> {
        let credit = self.credit.checked_add(bytes).filter(|&credit| credit <= self.window);
        self.credit = credit.ok_or(Why::Protocol("credit went past the window"))?;

        Ok(())
    }

    /// True when half a window has come together that is not announced yet.
    pub(super) fn consumed(&mut self, cost: u32) -> bool {
        self.debt = self.debt.saturating_add(cost);
        let due = self.debt >= self.window / 2 && !self.owing && !self.peer_ended;
        self.owing |= due;

        due
    }

    /// Grants what is owed, if anything is and the other side still sends.
    pub(super) fn take_debt(&mut self) -> Option<u32> {
        self.owing = false;
        if self.peer_ended || self.debt == 0 {
            return None;
        }
        let bytes = std::mem::take(&mut self.debt);
        self.granted = self.granted.saturating_add(bytes);

        Some(bytes)
    }
}
