use proptest::prelude::*;

use super::*;

fn message(text: &str) -> Part {
    Part::new(Content::Message, Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

fn bytes(length: usize) -> Part {
    Part::new(Content::Stdout, Bytes::from(vec![9; length])).unwrap()
}

fn encoded(frames: &[Frame]) -> BytesMut {
    let mut out = BytesMut::new();
    frames.iter().for_each(|frame| frame.encode(&mut out));
    out
}

fn master() -> Mux {
    Mux::new(Side::Master, Limits::CONTROL)
}

/// Feeds frames of a dialler to `mux`.
fn fed(mux: &mut Mux, frames: &[Frame]) -> Result<Vec<Event>, Why> {
    let mut events = Vec::new();
    mux.feed(&encoded(frames), |event| events.push(event))?;
    Ok(events)
}

fn gathered(mux: &mut Mux) -> Vec<Frame> {
    let mut out = BytesMut::new();
    mux.gather(&mut out, usize::MAX);
    let (mut decoder, mut frames, mut input) = (Decoder::default(), Vec::new(), out.as_ref());
    while let Some(frame) = decoder.take(&mut input).unwrap() {
        frames.push(frame);
    }
    assert!(!mux.has_output());
    frames
}

const FIRST: StreamId = StreamId(1);

#[test]
fn a_question_and_its_answer_are_one_frame_each_way() {
    let (mut master, mut dialler) = (master(), Mux::new(Side::Dialler, Limits::CONTROL));
    let stream = master.open().unwrap();
    master.send(stream, message("uptime"), true).unwrap();

    let question = gathered(&mut master);
    let heard = fed(&mut dialler, &question).unwrap();
    dialler.send(stream, message("up 3 days"), true).unwrap();
    let answer = gathered(&mut dialler);
    let told = fed(&mut master, &answer).unwrap();

    assert_eq!(question, [Frame::Open { stream, first: Some(message("uptime")), end: true }]);
    assert_eq!(heard, [Event::Opened(stream), Event::Body(stream, message("uptime")), Event::Ended(stream)]);
    assert_eq!(answer, [Frame::Data { stream, part: message("up 3 days"), end: true }]);
    assert_eq!(told, [Event::Body(stream, message("up 3 days")), Event::Ended(stream)]);
    assert_eq!((master.live(), dialler.live()), (0, 0));
}

#[test]
fn the_master_opens_even_streams_and_the_dialler_odd_ones() {
    let open = |side| {
        let mut mux = Mux::new(side, Limits::CONTROL);
        [mux.open().unwrap().0, mux.open().unwrap().0, mux.open().unwrap().0]
    };

    assert_eq!(open(Side::Master), [2, 4, 6]);
    assert_eq!(open(Side::Dialler), [1, 3, 5]);
}

#[test]
fn numbers_come_round_and_pass_by_those_in_use() {
    let mut mux = master();
    let old = mux.open().unwrap();
    mux.next = u32::MAX - 1;

    assert_eq!(old, StreamId(2));
    assert_eq!(mux.open(), Ok(StreamId(u32::MAX - 1)));
    assert_eq!(mux.open(), Ok(StreamId(4)));
}

#[test]
fn each_broken_rule_ends_the_connection() {
    let open = Frame::Open { stream: FIRST, first: None, end: false };
    let ended = Frame::Open { stream: FIRST, first: None, end: true };
    let data = |stream, length| Frame::Data { stream, part: bytes(length), end: false };
    let window = Limits::CONTROL.window.get();
    let full: Vec<Frame> = std::iter::once(open.clone()).chain((0..4).map(|_| data(FIRST, 65_000))).collect();
    let cases: Vec<(Vec<Frame>, &str)> = vec![
        (vec![Frame::Open { stream: StreamId(2), first: None, end: false }], "wrong side"),
        (vec![Frame::Open { stream: StreamId::CONTROL, first: None, end: false }], "wrong side"),
        (vec![open.clone(), open.clone()], "twice"),
        (vec![ended.clone(), data(FIRST, 1)], "after its end"),
        (vec![ended, Frame::End { stream: FIRST }], "after its end"),
        ([full, vec![data(FIRST, 65_000)]].concat(), "more was sent than there was credit for"),
        (vec![open.clone(), Frame::Credit { stream: FIRST, bytes: 1 }], "past the window"),
        (vec![open, Frame::Credit { stream: FIRST, bytes: window }], "past the window"),
        (vec![Frame::Credit { stream: StreamId::CONTROL, bytes: 1 }], "past the window"),
        (vec![Frame::End { stream: StreamId::CONTROL }], "control stream"),
        (vec![Frame::Reset { stream: StreamId::CONTROL, reason: Reason::Cancelled }], "control stream"),
        (vec![data(StreamId::CONTROL, 1)], "control stream"),
        (vec![Frame::Data { stream: StreamId::CONTROL, part: message(""), end: true }], "control stream"),
    ];
    for (frames, rule) in cases {
        let Err(Why::Protocol(told)) = fed(&mut master(), &frames) else {
            panic!("{frames:?} were taken");
        };
        assert!(told.contains(rule), "{told}");
    }
}

#[test]
fn control_messages_are_bounded_by_credit() {
    let message = Part::new(Content::Message, Bytes::from(vec![0; 60_000])).unwrap();
    let frame = Frame::Data { stream: StreamId::CONTROL, part: message.clone(), end: false };
    let mut honest = Mux::new(Side::Dialler, Limits::CONTROL);
    let sent = std::iter::repeat_with(|| honest.control_send(message.clone())).take_while(Result::is_ok).count();
    let mut mux = master();

    assert_eq!(sent, 4);
    assert_eq!(fed(&mut mux, &vec![frame.clone(); 4]).unwrap().len(), 4);
    assert!(fed(&mut mux, &[frame]).is_err());
}

#[test]
fn empty_frames_cost_what_they_hold() {
    let mut mux = master();
    let empty = Frame::Data { stream: FIRST, part: bytes(0), end: false };
    let open = Frame::Open { stream: FIRST, first: None, end: false };
    let most = (Limits::CONTROL.window.get() / Mux::cost_of(0)) as usize;

    assert!(most < 5000);
    assert!(fed(&mut mux, &[open]).is_ok());
    assert!(fed(&mut mux, &vec![empty.clone(); most]).is_ok());
    assert!(fed(&mut mux, &[empty]).is_err());
}

#[test]
fn late_frames_for_a_stream_that_is_over_are_ignored() {
    let stream = StreamId(2);
    let frames = [
        Frame::Data { stream, part: bytes(5), end: false },
        Frame::Credit { stream, bytes: 70_000 },
        Frame::End { stream },
        Frame::Reset { stream, reason: Reason::Cancelled },
    ];

    assert_eq!(fed(&mut master(), &frames), Ok(vec![]));
}

#[test]
fn one_stream_too_many_loses_only_itself() {
    let mut mux = Mux::new(Side::Master, Limits { streams: 2, ..Limits::CONTROL });
    let open = |number| Frame::Open { stream: StreamId(number), first: Some(bytes(1)), end: false };

    let events = fed(&mut mux, &[open(1), open(3), open(5)]).unwrap();

    assert_eq!(events.iter().filter(|event| matches!(event, Event::Opened(_))).count(), 2);
    assert_eq!(gathered(&mut mux), [Frame::Reset { stream: StreamId(5), reason: Reason::TooMany }]);
    assert_eq!(mux.live(), 2);
}

#[test]
fn our_own_streams_are_counted_apart_from_theirs() {
    let mut mux = Mux::new(Side::Master, Limits { streams: 1, ..Limits::CONTROL });
    let ours = mux.open().unwrap();

    assert_eq!(mux.open(), Err(Reason::TooMany));
    assert!(fed(&mut mux, &[Frame::Open { stream: FIRST, first: None, end: false }]).unwrap().len() == 1);
    mux.reset(ours, Reason::Cancelled);
    assert!(mux.open().is_ok());
}

#[test]
fn a_side_that_takes_no_streams_refuses_them() {
    let mut mux = master();
    mux.accept_none();

    assert_eq!(fed(&mut mux, &[Frame::Open { stream: FIRST, first: None, end: false }]), Ok(vec![]));
    assert_eq!(gathered(&mut mux), [Frame::Reset { stream: FIRST, reason: Reason::Refused }]);
}

#[test]
fn a_peer_that_opens_and_never_reads_is_cut_before_its_refusals_pile_up() {
    let mut mux = Mux::new(Side::Master, Limits { streams: 0, ..Limits::CONTROL });
    let taken = (0..1_000_000_u32)
        .take_while(|n| fed(&mut mux, &[Frame::Open { stream: StreamId(2 * n + 1), first: None, end: false }]).is_ok())
        .count();

    assert_eq!(taken, MOST_RESETS);
}

#[test]
fn credit_goes_back_by_halves_and_only_for_what_was_consumed() {
    let mut mux = master();
    let half = Limits::CONTROL.window.get() / 2;
    let cost = Mux::cost_of(60_000);
    let data = Frame::Data { stream: FIRST, part: bytes(60_000), end: false };
    fed(&mut mux, &[Frame::Open { stream: FIRST, first: None, end: false }, data.clone(), data.clone(), data]).unwrap();
    assert_eq!(gathered(&mut mux), []);

    mux.consumed(FIRST, cost);
    mux.consumed(FIRST, cost);
    assert_eq!(gathered(&mut mux), [], "{} of {half}", 2 * cost);
    mux.consumed(FIRST, cost);

    assert_eq!(gathered(&mut mux), [Frame::Credit { stream: FIRST, bytes: 3 * cost }]);
}

#[test]
fn streams_take_turns_and_the_control_stream_comes_first() {
    let mut mux = master();
    let streams = [mux.open().unwrap(), mux.open().unwrap(), mux.open().unwrap()];
    for stream in streams {
        for _ in 0..2 {
            mux.send(stream, bytes(10), false).unwrap();
        }
    }
    mux.control_send(message("beat")).unwrap();

    let order: Vec<u32> = gathered(&mut mux)
        .iter()
        .map(|frame| match frame {
            Frame::Open { stream, .. } | Frame::Data { stream, .. } => stream.0,
            Frame::End { .. } | Frame::Reset { .. } | Frame::Credit { .. } => panic!("{frame:?}"),
        })
        .collect();

    assert_eq!(order, [0, 2, 4, 6, 2, 4, 6]);
}

#[test]
fn a_reset_takes_what_was_queued_with_it() {
    let mut mux = master();
    let stream = mux.open().unwrap();
    mux.send(stream, bytes(10), false).unwrap();
    gathered(&mut mux);
    mux.send(stream, bytes(50_000), false).unwrap();
    assert!(mux.queued() > 50_000);

    mux.reset(stream, Reason::RightLost);

    assert_eq!(mux.queued(), 0);
    assert_eq!(gathered(&mut mux), [Frame::Reset { stream, reason: Reason::RightLost }]);
}

#[test]
fn a_stream_that_never_left_is_reset_in_silence() {
    let mut mux = master();
    let stream = mux.open().unwrap();
    mux.send(stream, bytes(10), false).unwrap();

    mux.reset(stream, Reason::Cancelled);

    assert_eq!(gathered(&mut mux), []);
    assert_eq!((mux.live(), mux.queued()), (0, 0));
}

#[test]
fn an_abandoned_stream_still_sends_its_last_words_and_then_lets_go() {
    let mut mux = master();
    fed(&mut mux, &[Frame::Open { stream: FIRST, first: None, end: false }]).unwrap();
    mux.send(FIRST, message("exit 0"), true).unwrap();

    mux.abandon(FIRST);

    assert_eq!(
        gathered(&mut mux),
        [
            Frame::Data { stream: FIRST, part: message("exit 0"), end: true },
            Frame::Reset { stream: FIRST, reason: Reason::Cancelled }
        ]
    );
    assert_eq!(mux.live(), 0);
}

#[test]
fn an_abandoned_stream_that_had_not_ended_is_reset_at_once() {
    let mut mux = master();
    fed(&mut mux, &[Frame::Open { stream: FIRST, first: None, end: false }]).unwrap();
    mux.send(FIRST, message("half"), false).unwrap();

    mux.abandon(FIRST);

    assert_eq!(gathered(&mut mux), [Frame::Reset { stream: FIRST, reason: Reason::Cancelled }]);
}

#[test]
fn a_full_backlog_holds_bulk_back_and_lets_a_keystroke_through() {
    let mut mux = Mux::new(Side::Master, Limits::BULK);
    let (bulk, shell) = (mux.open().unwrap(), mux.open().unwrap());
    while mux.room(bulk, 60_000) == Ok(()) {
        mux.send(bulk, bytes(60_000), false).unwrap();
    }

    assert_eq!(mux.room(bulk, 60_000), Err(Blocked::Backlog));
    assert_eq!(mux.send(shell, message("q"), false), Ok(()));
    assert!(mux.queued() <= Limits::BULK.backlog + 100);
}

/// One thing that a program may do, or that the wire may do, on one of two joined sides.
#[derive(Clone, Debug)]
enum Step {
    Open,
    Send { pick: usize, length: usize, end: bool },
    End { pick: usize },
    Reset { pick: usize },
    Abandon { pick: usize },
    Control { length: usize },
    Carry { most: usize, cut: usize },
    Consume,
}

fn any_step() -> impl Strategy<Value = (bool, Step)> {
    let pick = 0..64_usize;
    let length = prop_oneof![0..200_usize, Just(65_535), 30_000..65_535_usize];
    let step = prop_oneof![
        2 => Just(Step::Open),
        8 => (pick.clone(), length.clone(), prop::bool::weighted(0.2))
            .prop_map(|(pick, length, end)| Step::Send { pick, length, end }),
        1 => pick.clone().prop_map(|pick| Step::End { pick }),
        1 => pick.clone().prop_map(|pick| Step::Reset { pick }),
        1 => pick.prop_map(|pick| Step::Abandon { pick }),
        1 => length.prop_map(|length| Step::Control { length }),
        6 => (1..200_000_usize, 1..5_000_usize).prop_map(|(most, cut)| Step::Carry { most, cut }),
        4 => Just(Step::Consume),
    ];
    (any::<bool>(), step)
}

/// One side with a program that keeps books on what it sent and got.
struct Party {
    mux: Mux,
    /// Streams it may still send on.
    sending: Vec<StreamId>,
    sent: HashMap<StreamId, (Vec<u8>, bool)>,
    got: HashMap<StreamId, (Vec<u8>, bool)>,
    /// Streams whose books need not balance: one side gave them up.
    void: Vec<StreamId>,
    to_consume: Vec<(StreamId, u32)>,
    control: (Vec<u8>, Vec<u8>),
    stamp: u8,
}

impl Party {
    fn new(side: Side) -> Self {
        Self {
            mux: Mux::new(side, Limits { streams: 6, ..Limits::CONTROL }),
            sending: Vec::new(),
            sent: HashMap::new(),
            got: HashMap::new(),
            void: Vec::new(),
            to_consume: Vec::new(),
            control: (Vec::new(), Vec::new()),
            stamp: 0,
        }
    }

    fn payload(&mut self, length: usize) -> Vec<u8> {
        self.stamp = self.stamp.wrapping_add(1);
        vec![self.stamp; length]
    }

    fn picked(&self, pick: usize) -> Option<StreamId> {
        (!self.sending.is_empty()).then(|| self.sending[pick % self.sending.len()])
    }

    fn give_up(&mut self, stream: StreamId) {
        self.void.push(stream);
        self.sending.retain(|&other| other != stream);
    }

    fn send(&mut self, stream: StreamId, length: usize, end: bool) {
        if self.mux.room(stream, length).is_err() {
            return;
        }
        let payload = self.payload(length);
        let part = Part::new(Content::Stdout, Bytes::from(payload.clone())).unwrap();
        self.mux.send(stream, part, end).unwrap();
        let books = self.sent.entry(stream).or_default();
        books.0.extend(payload);
        books.1 = end;
        if end {
            self.sending.retain(|&other| other != stream);
        }
    }

    fn end(&mut self, stream: StreamId) {
        self.mux.end(stream);
        self.sent.entry(stream).or_default().1 = true;
        self.sending.retain(|&other| other != stream);
    }

    fn send_control(&mut self, length: usize) {
        if self.mux.control_room(length).is_ok() {
            let payload = self.payload(length);
            self.mux.control_send(Part::new(Content::Message, Bytes::from(payload.clone())).unwrap()).unwrap();
            self.control.0.extend(payload);
        }
    }

    fn consume(&mut self) {
        for (stream, cost) in std::mem::take(&mut self.to_consume) {
            if stream == StreamId::CONTROL {
                self.mux.control_consumed(cost);
            } else {
                self.mux.consumed(stream, cost);
            }
        }
    }

    fn hear(&mut self, piece: &[u8]) {
        let mut events = Vec::new();
        self.mux.feed(piece, |event| events.push(event)).expect("an honest side breaks no rule");
        for event in events {
            match event {
                Event::Opened(stream) => self.sending.push(stream),
                Event::Body(stream, part) => {
                    self.to_consume.push((stream, Mux::cost(&part)));
                    let books = self.got.entry(stream).or_default();
                    assert!(!books.1, "nothing comes after an end");
                    books.0.extend(part.payload());
                }
                Event::Ended(stream) => self.got.entry(stream).or_default().1 = true,
                Event::Reset(stream, _) => self.give_up(stream),
                Event::Control(message) => {
                    self.to_consume.push((StreamId::CONTROL, Mux::cost_of(message.len())));
                    self.control.1.extend(message);
                }
                Event::Credit(_) | Event::ControlCredit => {}
            }
        }
    }

    fn act(&mut self, step: &Step) {
        match *step {
            Step::Open => self.sending.extend(self.mux.open().ok()),
            Step::Send { pick, length, end } => {
                if let Some(stream) = self.picked(pick) {
                    self.send(stream, length, end);
                }
            }
            Step::End { pick } => {
                if let Some(stream) = self.picked(pick) {
                    self.end(stream);
                }
            }
            Step::Reset { pick } | Step::Abandon { pick } => {
                let Some(stream) = self.picked(pick) else {
                    return;
                };
                if matches!(step, Step::Reset { .. }) {
                    self.mux.reset(stream, Reason::Cancelled);
                } else {
                    self.mux.abandon(stream);
                }
                self.give_up(stream);
            }
            Step::Control { length } => self.send_control(length),
            Step::Consume => self.consume(),
            Step::Carry { .. } => {}
        }
    }
}

fn carry(from: &mut Party, to: &mut Party, most: usize, cut: usize) {
    let mut out = BytesMut::new();
    from.mux.gather(&mut out, most);
    assert!(out.len() <= most + reeve_wire::frame::MAX_BODY + reeve_wire::frame::HEADER);
    out.chunks(cut).for_each(|piece| to.hear(piece));
}

/// Lets both programs finish what they began.
fn settle(parties: &mut [Party; 2]) {
    for party in parties.iter_mut() {
        for stream in party.sending.clone() {
            party.end(stream);
        }
    }
    let [one, other] = parties;
    while one.mux.has_output() || other.mux.has_output() || !one.to_consume.is_empty() || !other.to_consume.is_empty() {
        carry(one, other, 100_000, 10_000);
        carry(other, one, 100_000, 10_000);
        for party in [&mut *one, &mut *other] {
            party.consume();
            // A stream that the other side opened meanwhile is ended as well.
            for stream in party.sending.clone() {
                party.end(stream);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn all_bytes_arrive_in_order_and_the_tables_are_empty_after(
        steps in prop::collection::vec(any_step(), 1..200),
    ) {
        let mut parties = [Party::new(Side::Master), Party::new(Side::Dialler)];
        for (who, step) in &steps {
            if let Step::Carry { most, cut } = *step {
                let [one, other] = &mut parties;
                let (from, to) = if *who { (one, other) } else { (other, one) };
                carry(from, to, most, cut);
            } else {
                parties[usize::from(*who)].act(step);
            }
        }
        settle(&mut parties);

        for (from, to) in [(0, 1), (1, 0)] {
            let (from, to) = (&parties[from], &parties[to]);
            prop_assert_eq!((from.mux.live(), from.mux.queued()), (0, 0));
            prop_assert_eq!(&from.control.0, &to.control.1);
            for (stream, sent) in &from.sent {
                let got = to.got.get(stream).cloned().unwrap_or_default();
                if from.void.contains(stream) || to.void.contains(stream) {
                    prop_assert!(sent.0.starts_with(&got.0), "{} is cut short and no worse", stream);
                } else {
                    prop_assert!(*sent == got, "{} arrives whole", stream);
                }
            }
        }
    }

    #[test]
    fn hostile_bytes_never_panic_and_never_hold_more_than_was_granted(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 0..20),
    ) {
        let mut mux = master();
        for piece in pieces {
            if mux.feed(&piece, |_| {}).is_err() {
                break;
            }
        }
        prop_assert!(mux.live() <= 1024);
    }

    #[test]
    fn hostile_frames_never_panic(
        frames in prop::collection::vec((1..6_u8, prop::bool::ANY, 0..12_u32, 0..70_000_u32), 0..200),
    ) {
        let mut mux = Mux::new(Side::Master, Limits { streams: 3, ..Limits::CONTROL });
        let ours = [mux.open().unwrap(), mux.open().unwrap()];
        for stream in ours {
            mux.send(stream, bytes(10), false).unwrap();
        }
        for (kind, end, stream, number) in frames {
            let stream = StreamId(stream);
            let part = bytes((number as usize).min(65_535));
            let frame = match kind {
                1 => Frame::Open { stream, first: end.then_some(part), end },
                2 => Frame::Data { stream, part, end },
                3 => Frame::End { stream },
                4 => Frame::Reset { stream, reason: Reason::Cancelled },
                _ => Frame::Credit { stream, bytes: number.max(1) },
            };
            if fed(&mut mux, &[frame]).is_err() {
                break;
            }
            if number % 3 == 0 {
                gathered(&mut mux);
            }
        }
        prop_assert!(mux.live() <= 5);
    }
}
