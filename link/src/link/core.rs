//! The state of one connection and the only code that locks it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use reeve_wire::frame::{MAX_BODY, Part, Reason, StreamId};
use tokio_util::sync::CancellationToken;

use super::Carrier;
use crate::ended::{Ended, Why};
use crate::limits::Limits;
use crate::mux::{Blocked, Event, Mux, Side};
use crate::tasks::Tasks;

/// Bytes that one batch gathers. A batch in flight is beyond the backlog.
const BATCH: usize = 128 * 1024;

/// Slots beyond the limit of streams: of streams that are over while somebody still holds them. A peer that opens and
/// resets faster than they are let go is refused.
const LINGERING: usize = 3;

/// A stream as its handles see it. Lives until both are dropped.
struct Slot {
    inbox: VecDeque<Part>,
    peer_ended: bool,
    reset: Option<Reason>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Which handles live. Of a stream that is still to be accepted both count.
    sender: bool,
    receiver: bool,
    accepted: bool,
    /// Is in the line for the backlog, or was let out of it.
    in_line: bool,
    admitted: bool,
}

struct State {
    mux: Mux,
    slots: HashMap<StreamId, Slot>,
    opened: VecDeque<StreamId>,
    acceptors: Vec<Waker>,
    control: VecDeque<Bytes>,
    control_readers: Vec<Waker>,
    control_writers: Vec<Waker>,
    /// Streams that wait for the backlog, in order.
    line: VecDeque<StreamId>,
    carrier: Option<Arc<dyn Carrier>>,
    flushing: bool,
    closed: Option<Why>,
}

pub(super) struct Core {
    state: Mutex<State>,
    limits: Limits,
    tasks: Tasks,
    socket: CancellationToken,
    ended: CancellationToken,
}

/// What is to be done once the lock is free.
#[derive(Default)]
struct After {
    wake: Vec<Waker>,
}

impl After {
    fn wake(&mut self, waker: Option<Waker>) {
        self.wake.extend(waker);
    }

    fn run(self) {
        self.wake.into_iter().for_each(Waker::wake);
    }
}

impl Core {
    pub(super) fn new(side: Side, limits: Limits, tasks: Tasks, socket: CancellationToken) -> Self {
        let state = State {
            mux: Mux::new(side, limits),
            slots: HashMap::new(),
            opened: VecDeque::new(),
            acceptors: Vec::new(),
            control: VecDeque::new(),
            control_readers: Vec::new(),
            control_writers: Vec::new(),
            line: VecDeque::new(),
            carrier: None,
            flushing: false,
            closed: None,
        };

        Self { state: Mutex::new(state), limits, tasks, socket, ended: CancellationToken::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    pub(super) fn live(&self) -> usize {
        self.lock().mux.live()
    }

    pub(super) fn held(&self) -> usize {
        self.lock().slots.len()
    }

    pub(super) fn why_closed(&self) -> Option<Why> {
        self.lock().closed
    }

    pub(super) async fn closed(&self) -> Why {
        self.ended.cancelled().await;

        self.why_closed().unwrap_or(Why::PeerGone)
    }

    pub(super) fn attach(self: &Arc<Self>, carrier: Arc<dyn Carrier>) {
        let mut state = self.lock();
        if state.closed.is_none() {
            state.carrier = Some(carrier);
        }
        self.flush_if_needed(state);
    }

    pub(super) fn refuse_streams(&self) {
        self.lock().mux.accept_none();
    }

    pub(super) fn open(&self) -> Result<StreamId, Ended> {
        let mut state = self.lock();
        state.check_open()?;
        let stream = state.mux.open().map_err(Ended::Reset)?;
        state.slots.insert(stream, Slot::new(true));

        Ok(stream)
    }

    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<Option<StreamId>> {
        let mut state = self.lock();
        if let Some(stream) = state.opened.pop_front() {
            if let Some(slot) = state.slots.get_mut(&stream) {
                slot.accepted = true;
            }
            return Poll::Ready(Some(stream));
        }
        if state.closed.is_some() {
            return Poll::Ready(None);
        }
        remember(&mut state.acceptors, cx);

        Poll::Pending
    }

    /// Queues `part` once there is credit and backlog for it, both taken in the same moment.
    pub(super) fn poll_send(
        self: &Arc<Self>,
        stream: StreamId,
        part: &mut Option<Part>,
        end: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Ended>> {
        let mut state = self.lock();
        let length = part.as_ref().map_or(0, |part| part.payload().len());
        if let Err(blocked) = state.may_send(stream, length)? {
            return state.wait_to_send(stream, blocked, cx);
        }
        let Some(part) = part.take() else {
            return Poll::Ready(Ok(()));
        };
        if state.mux.send(stream, part, end).is_err() {
            return Poll::Ready(Err(Ended::Reset(Reason::Cancelled)));
        }
        self.flush_if_needed(state);

        Poll::Ready(Ok(()))
    }

    pub(super) fn end(self: &Arc<Self>, stream: StreamId) -> Result<(), Ended> {
        let mut state = self.lock();
        state.check_stream(stream)?;
        state.mux.end(stream);
        self.flush_if_needed(state);

        Ok(())
    }

    pub(super) fn poll_next(&self, stream: StreamId, cx: &mut Context<'_>) -> Poll<Result<Option<Part>, Ended>> {
        let mut state = self.lock();
        let closed = state.closed;
        let Some(slot) = state.slots.get_mut(&stream) else {
            return Poll::Ready(Err(Ended::Link(closed.unwrap_or(Why::Closed))));
        };
        if let Some(reason) = slot.reset.filter(|_| !slot.peer_ended) {
            return Poll::Ready(Err(Ended::Reset(reason)));
        }
        if let Some(part) = slot.inbox.pop_front() {
            return Poll::Ready(Ok(Some(part)));
        }
        if slot.peer_ended {
            return Poll::Ready(Ok(None));
        }
        if let Some(why) = closed {
            return Poll::Ready(Err(Ended::Link(why)));
        }
        slot.reader = Some(cx.waker().clone());

        Poll::Pending
    }

    pub(super) fn consumed(self: &Arc<Self>, stream: StreamId, cost: u32) {
        let mut state = self.lock();
        state.mux.consumed(stream, cost);
        self.flush_if_needed(state);
    }

    /// Ends both directions at once and wakes whoever waits on either.
    pub(super) fn reset(self: &Arc<Self>, stream: StreamId, reason: Reason) {
        let mut state = self.lock();
        let mut after = After::default();
        state.mux.reset(stream, reason);
        if let Some(slot) = state.slots.get_mut(&stream) {
            slot.cut(reason, &mut after);
        }
        self.flush_if_needed(state);
        after.run();
    }

    pub(super) fn drop_receiver(self: &Arc<Self>, stream: StreamId) {
        let mut state = self.lock();
        state.drop_receiver(stream);
        self.flush_if_needed(state);
    }

    pub(super) fn drop_sender(self: &Arc<Self>, stream: StreamId, finished: bool) {
        let mut state = self.lock();
        let mut after = After::default();
        state.drop_sender(stream, finished, &mut after);
        self.flush_if_needed(state);
        after.run();
    }

    pub(super) fn poll_control_send(
        self: &Arc<Self>,
        part: &mut Option<Part>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Ended>> {
        let mut state = self.lock();
        state.check_open()?;
        let length = part.as_ref().map_or(0, |part| part.payload().len());
        if state.mux.control_room(length).is_err() {
            remember(&mut state.control_writers, cx);
            return Poll::Pending;
        }
        if let Some(part) = part.take()
            && state.mux.control_send(part).is_err()
        {
            return Poll::Ready(Err(Ended::Link(Why::Closed)));
        }
        self.flush_if_needed(state);

        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_control_next(self: &Arc<Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut state = self.lock();
        if let Some(message) = state.control.pop_front() {
            state.mux.control_consumed(Mux::cost_of(message.len()));
            self.flush_if_needed(state);
            return Poll::Ready(Some(message));
        }
        if state.closed.is_some() {
            return Poll::Ready(None);
        }
        remember(&mut state.control_readers, cx);

        Poll::Pending
    }

    pub(super) fn feed(self: &Arc<Self>, bytes: &[u8]) -> Result<(), Why> {
        let mut state = self.lock();
        if let Some(why) = state.closed {
            return Err(why);
        }
        let mut after = After::default();
        let fed = state.feed(bytes, &mut after);
        self.flush_if_needed(state);
        after.run();
        if let Err(why) = fed {
            self.close(why);
        }

        fed
    }

    /// The carrier gives no more.
    pub(super) fn carrier_ended(&self) {
        self.close(if self.socket.is_cancelled() { Why::Killed } else { Why::PeerGone });
    }

    pub(super) fn close(&self, why: Why) {
        let mut state = self.lock();
        if state.closed.is_some() {
            return;
        }
        let mut after = After::default();
        let carrier = state.close(why, &mut after);
        drop(state);

        self.socket.cancel();
        self.ended.cancel();
        after.run();
        // A carrier may hold the other end in memory, whose locks must not be taken under ours.
        drop(carrier);
    }

    /// Starts the task that sends, unless it runs or has nothing to do.
    fn flush_if_needed(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.flushing || state.carrier.is_none() || !state.mux.has_output() {
            return;
        }
        state.flushing = true;
        drop(state);
        let core = Arc::clone(self);
        self.tasks.spawn("link flush", async move { core.flush().await });
    }

    async fn flush(self: Arc<Self>) {
        // Whoever was woken with us queues its frames first, and they leave in one batch.
        tokio::task::yield_now().await;
        while let Some((carrier, batch)) = self.next_batch() {
            if batch.is_empty() {
                continue;
            }
            let sent = tokio::select! {
                () = self.ended.cancelled() => return,
                sent = carrier.send(batch) => sent,
            };
            if let Err(why) = sent {
                self.close(why);
            }
        }
    }

    fn next_batch(&self) -> Option<(Arc<dyn Carrier>, Bytes)> {
        let mut state = self.lock();
        let Some(carrier) = state.carrier.clone().filter(|_| state.mux.has_output()) else {
            state.flushing = false;
            return None;
        };
        let mut after = After::default();
        let mut batch = BytesMut::with_capacity(state.mux.queued().clamp(64, BATCH));
        state.mux.gather(&mut batch, BATCH);
        state.let_in(&mut after);
        drop(state);
        after.run();

        Some((carrier, batch.freeze()))
    }
}

impl State {
    fn check_open(&self) -> Result<(), Ended> {
        self.closed.map_or(Ok(()), |why| Err(Ended::Link(why)))
    }

    fn check_stream(&self, stream: StreamId) -> Result<(), Ended> {
        self.check_open()?;
        let reset = self.slots.get(&stream).and_then(|slot| slot.reset);

        reset.map_or(Ok(()), |reason| Err(Ended::Reset(reason)))
    }

    fn drop_receiver(&mut self, stream: StreamId) {
        let Some(slot) = self.slots.get_mut(&stream) else {
            return;
        };
        slot.receiver = false;
        if slot.sender {
            let cost = slot.inbox.drain(..).map(|part| Mux::cost(&part)).fold(0, u32::saturating_add);
            self.mux.consumed(stream, cost);
        } else {
            self.let_go(stream);
        }
    }

    fn drop_sender(&mut self, stream: StreamId, finished: bool, after: &mut After) {
        let Some(slot) = self.slots.get_mut(&stream) else {
            return;
        };
        slot.sender = false;
        if !finished {
            slot.cut(Reason::Cancelled, after);
            self.mux.reset(stream, Reason::Cancelled);
        }
        if !slot.receiver {
            self.let_go(stream);
        }
    }

    fn let_go(&mut self, stream: StreamId) {
        self.slots.remove(&stream);
        self.mux.abandon(stream);
    }

    /// Whether a payload may be queued: `Ok(Err(_))` tells what to wait for.
    fn may_send(&self, stream: StreamId, length: usize) -> Result<Result<(), Blocked>, Ended> {
        self.check_stream(stream)?;
        let room = self.mux.room(stream, length);
        if room == Err(Blocked::Gone) {
            return Err(Ended::Reset(Reason::Cancelled));
        }
        // Who comes later does not pass those who wait, unless it is small enough for the reserve.
        let passes =
            self.line.is_empty() || Mux::is_small(length) || self.slots.get(&stream).is_some_and(|slot| slot.admitted);

        Ok(if room.is_ok() && !passes { Err(Blocked::Backlog) } else { room })
    }

    fn wait_to_send(&mut self, stream: StreamId, blocked: Blocked, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        if let Some(slot) = self.slots.get_mut(&stream) {
            slot.writer = Some(cx.waker().clone());
            slot.admitted = false;
            if blocked == Blocked::Backlog && !std::mem::replace(&mut slot.in_line, true) {
                self.line.push_back(stream);
            }
        }

        Poll::Pending
    }

    /// Lets as many of those who wait for the backlog in as may fit; all of them once it is empty, so that none is
    /// forgotten when another gave up its place.
    fn let_in(&mut self, after: &mut After) {
        let empty = self.mux.queued() == 0;
        let mut room = self.mux.backlog_left();
        while room >= MAX_BODY || empty {
            let Some(stream) = self.line.pop_front() else {
                break;
            };
            if let Some(slot) = self.slots.get_mut(&stream) {
                slot.in_line = false;
                slot.admitted = true;
                after.wake(slot.writer.take());
                room = room.saturating_sub(MAX_BODY);
            }
        }
        if !self.control_writers.is_empty() {
            after.wake.append(&mut self.control_writers);
        }
    }

    fn feed(&mut self, bytes: &[u8], after: &mut After) -> Result<(), Why> {
        let Self { mux, slots, opened, acceptors, control, control_readers, control_writers, .. } = self;
        let (mut unread, mut lingering) = (Vec::new(), Vec::new());
        let most = usize::from(mux.limits().streams) * (1 + LINGERING);
        let fed = mux.feed(bytes, |event| match event {
            Event::Opened(stream) if slots.len() >= most => lingering.push(stream),
            Event::Opened(stream) => {
                slots.insert(stream, Slot::new(false));
                opened.push_back(stream);
                after.wake.append(acceptors);
            }
            Event::Control(message) => {
                control.push_back(message);
                after.wake.append(control_readers);
            }
            Event::ControlCredit => after.wake.append(control_writers),
            Event::Body(stream, part) => match slots.get_mut(&stream) {
                Some(slot) if slot.receiver => {
                    slot.inbox.push_back(part);
                    after.wake(slot.reader.take());
                }
                _ => unread.push((stream, Mux::cost(&part))),
            },
            Event::Ended(stream) => {
                if let Some(slot) = slots.get_mut(&stream) {
                    slot.peer_ended = true;
                    after.wake(slot.reader.take());
                }
            }
            Event::Reset(stream, reason) => match slots.get_mut(&stream) {
                Some(slot) if slot.accepted => slot.peer_reset(reason, after),
                Some(_) => {
                    slots.remove(&stream);
                    opened.retain(|&other| other != stream);
                }
                None => {}
            },
            Event::Credit(stream) => {
                if let Some(slot) = slots.get_mut(&stream) {
                    after.wake(slot.writer.take());
                }
            }
        });
        for (stream, cost) in unread {
            mux.consumed(stream, cost);
        }
        for stream in lingering {
            mux.reset(stream, Reason::TooMany);
        }

        fed
    }

    fn close(&mut self, why: Why, after: &mut After) -> Option<Arc<dyn Carrier>> {
        self.closed = Some(why);
        self.mux = Mux::new(self.mux.side(), self.mux.limits());
        self.opened.clear();
        self.slots.retain(|_, slot| slot.accepted);
        for slot in self.slots.values_mut() {
            if !why.keeps_what_arrived() {
                slot.inbox = VecDeque::new();
                slot.peer_ended = false;
            }
            after.wake(slot.reader.take());
            after.wake(slot.writer.take());
        }
        if !why.keeps_what_arrived() {
            self.control = VecDeque::new();
        }
        self.line.clear();
        after.wake.append(&mut self.acceptors);
        after.wake.append(&mut self.control_readers);
        after.wake.append(&mut self.control_writers);

        self.carrier.take()
    }
}

impl Slot {
    fn new(accepted: bool) -> Self {
        Self {
            inbox: VecDeque::new(),
            peer_ended: false,
            reset: None,
            reader: None,
            writer: None,
            sender: true,
            receiver: true,
            accepted,
            in_line: false,
            admitted: false,
        }
    }

    /// This side ended it: nothing of it is of use any more.
    fn cut(&mut self, reason: Reason, after: &mut After) {
        self.reset.get_or_insert(reason);
        self.peer_ended = false;
        self.inbox = VecDeque::new();
        after.wake(self.reader.take());
        after.wake(self.writer.take());
    }

    /// The other side ended it. If it had sent all before, that is still whole.
    fn peer_reset(&mut self, reason: Reason, after: &mut After) {
        self.reset.get_or_insert(reason);
        if !self.peer_ended {
            self.inbox = VecDeque::new();
            after.wake(self.reader.take());
        }
        after.wake(self.writer.take());
    }
}

/// Keeps a waker once for each task.
fn remember(wakers: &mut Vec<Waker>, cx: &Context<'_>) {
    if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
        wakers.push(cx.waker().clone());
    }
}
