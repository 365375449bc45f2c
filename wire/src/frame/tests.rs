use proptest::prelude::*;

use super::*;

fn message(text: &'static str) -> Part {
    Part::new(Content::Message, Bytes::from_static(text.as_bytes())).unwrap()
}

fn decode_in_pieces(bytes: &[u8], mut size: impl FnMut() -> usize) -> Result<Vec<Frame>, FrameError> {
    let (mut decoder, mut frames, mut rest) = (Decoder::default(), Vec::new(), bytes);
    while !rest.is_empty() {
        let (mut piece, later) = rest.split_at(size().clamp(1, rest.len()));
        rest = later;
        while let Some(frame) = decoder.take(&mut piece)? {
            frames.push(frame);
        }
        assert!(piece.is_empty(), "a decoder without a frame has taken all that there was");
    }
    Ok(frames)
}

/// Every kind, flag, content and reason, in the order of the golden file.
fn one_of_each() -> Vec<Frame> {
    let stream = StreamId(0x0102_0304);
    let mut frames = vec![
        Frame::Open { stream: StreamId(2), first: Some(message("hello")), end: false },
        Frame::Open { stream: StreamId(7), first: Some(message("{}")), end: true },
        Frame::Open { stream, first: None, end: false },
        Frame::Open { stream, first: None, end: true },
        Frame::Data { stream: StreamId::CONTROL, part: message("beat"), end: false },
        Frame::Data { stream, part: message(""), end: true },
    ];
    for content in [Content::Stdin, Content::Stdout, Content::Stderr, Content::Resize, Content::Signal] {
        let part = Part::new(content, Bytes::from_static(&[0, 0xff])).unwrap();
        frames.push(Frame::Data { stream, part, end: false });
    }
    frames.push(Frame::End { stream });
    for reason in [Reason::Cancelled, Reason::RightLost, Reason::TooMany, Reason::Deadline, Reason::Refused] {
        frames.push(Frame::Reset { stream, reason });
    }
    frames.push(Frame::Credit { stream, bytes: 131_072 });
    frames.push(Frame::Credit { stream: StreamId::CONTROL, bytes: u32::MAX });
    frames
}

#[test]
fn the_golden_file_fixes_the_bytes() {
    let golden = include_str!("../../testdata/frames.txt");
    let lines: Vec<&str> = golden.lines().filter(|line| !line.starts_with('#')).collect();
    let frames = one_of_each();
    assert_eq!(lines.len(), frames.len());

    for (line, frame) in lines.iter().zip(frames) {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        assert_eq!(hex::encode(&bytes), line.replace(' ', ""), "{frame:?}");
        assert_eq!(bytes.len(), frame.encoded_len(), "{frame:?}");
        assert_eq!(decode_in_pieces(&bytes, || usize::MAX), Ok(vec![frame]));
    }
}

#[test]
fn any_split_of_the_bytes_gives_the_same_frames() {
    let frames = one_of_each();
    let mut bytes = BytesMut::new();
    frames.iter().for_each(|frame| frame.encode(&mut bytes));

    for step in 1..=bytes.len() {
        assert_eq!(decode_in_pieces(&bytes, || step).as_ref(), Ok(&frames), "in pieces of {step}");
    }
}

#[test]
fn a_length_that_is_a_lie_costs_no_memory() {
    for length in [MAX_BODY as u32 + 1, u32::MAX] {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend([OPEN, 0, 0, 0, 2]);
        let mut decoder = Decoder::default();

        assert_eq!(decoder.take(&mut bytes.as_slice()), Err(FrameError::TooLong(length as usize)));
        assert_eq!(decoder.body.capacity(), 0);
    }
}

#[test]
fn the_longest_body_passes_and_one_byte_more_does_not() {
    let longest = Part::new(Content::Stdout, Bytes::from(vec![7; MAX_PAYLOAD])).unwrap();
    let frame = Frame::Data { stream: StreamId(4), part: longest, end: false };
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes);

    assert_eq!(bytes.len(), HEADER + MAX_BODY);
    assert_eq!(decode_in_pieces(&bytes, || 1000), Ok(vec![frame]));
    assert_eq!(
        Part::new(Content::Stdout, Bytes::from(vec![7; MAX_PAYLOAD + 1])),
        Err(FrameError::TooLong(MAX_BODY + 1))
    );
}

#[test]
fn what_is_not_in_the_table_is_refused() {
    let cases: [(&str, FrameError); 12] = [
        ("00000000 00 00000002", FrameError::UnknownKind(0)),
        ("00000000 06 00000002", FrameError::UnknownKind(6)),
        ("00000001 42 00000002 00", FrameError::UnknownKind(0x42)),
        ("00000000 83 00000002", FrameError::UnknownKind(0x83)),
        ("00000001 84 00000002 00", FrameError::UnknownKind(0x84)),
        ("00000000 02 00000002", FrameError::WrongLength { kind: DATA, length: 0 }),
        ("00000001 03 00000002 00", FrameError::WrongLength { kind: END, length: 1 }),
        ("00000002 04 00000002 0000", FrameError::WrongLength { kind: RESET, length: 2 }),
        ("00000003 05 00000002 000000", FrameError::WrongLength { kind: CREDIT, length: 3 }),
        ("00000001 02 00000002 06", FrameError::UnknownContent(6)),
        ("00000001 04 00000002 05", FrameError::UnknownReason(5)),
        ("00000004 05 00000002 00000000", FrameError::EmptyCredit),
    ];
    for (line, error) in cases {
        let bytes = hex::decode(line.replace(' ', "")).unwrap();
        assert_eq!(decode_in_pieces(&bytes, || usize::MAX), Err(error), "{line}");
    }
}

#[test]
fn a_decoder_between_frames_holds_nothing() {
    let mut bytes = BytesMut::new();
    Frame::Data { stream: StreamId(2), part: message("some text that was sent"), end: false }.encode(&mut bytes);
    let mut decoder = Decoder::default();

    assert!(decoder.take(&mut bytes.as_ref()).unwrap().is_some());
    assert_eq!(decoder.body.capacity(), 0);
}

fn any_part() -> impl Strategy<Value = Part> {
    (0..6_u8, prop::collection::vec(any::<u8>(), 0..300))
        .prop_map(|(content, payload)| Part::new(Content::from_byte(content).unwrap(), Bytes::from(payload)).unwrap())
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let stream = any::<u32>().prop_map(StreamId);
    prop_oneof![
        (stream.clone(), prop::option::of(any_part()), any::<bool>()).prop_map(|(stream, first, end)| Frame::Open {
            stream,
            first,
            end
        }),
        (stream.clone(), any_part(), any::<bool>()).prop_map(|(stream, part, end)| Frame::Data { stream, part, end }),
        stream.clone().prop_map(|stream| Frame::End { stream }),
        (stream.clone(), 0..5_u8)
            .prop_map(|(stream, reason)| Frame::Reset { stream, reason: Reason::from_byte(reason).unwrap() }),
        (stream, 1..=u32::MAX).prop_map(|(stream, bytes)| Frame::Credit { stream, bytes }),
    ]
}

proptest! {
    #[test]
    fn frames_survive_any_cutting_of_their_bytes(
        frames in prop::collection::vec(any_frame(), 0..20),
        cuts in prop::collection::vec(1..200_usize, 1..50),
    ) {
        let mut bytes = BytesMut::new();
        frames.iter().for_each(|frame| frame.encode(&mut bytes));
        let mut sizes = cuts.iter().cycle();

        prop_assert_eq!(decode_in_pieces(&bytes, || *sizes.next().unwrap()), Ok(frames));
    }

    #[test]
    fn hostile_bytes_give_frames_or_an_error_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let whole = decode_in_pieces(&bytes, || usize::MAX);
        let pieces = decode_in_pieces(&bytes, || 3);

        prop_assert_eq!(whole, pieces);
    }
}
