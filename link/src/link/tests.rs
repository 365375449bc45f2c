use std::time::{Duration, Instant};

use bytes::BytesMut;
use reeve_wire::frame::{Frame, StreamId};
use tokio::time::timeout;

use super::*;
use crate::memory::pair;
use crate::{Limits, Reason};

const LIMIT: Duration = Duration::from_secs(10);

/// Waits for a condition, which something that runs will make true.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < LIMIT, "{what}");
        tokio::task::yield_now().await;
    }
}

async fn soon<F: Future>(work: F) -> F::Output {
    timeout(LIMIT, work).await.expect("this does not wait for ever")
}

/// Polls once and drops: what did not happen at once does not happen.
async fn at_once<F: Future>(work: F) -> Option<F::Output> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = std::future::ready(()) => None,
    }
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn read_all(receiver: &mut Receiver) -> Result<Vec<u8>, Ended> {
    let mut all = Vec::new();
    while let Some(taken) = receiver.next().await? {
        all.extend_from_slice(taken.body());
    }
    Ok(all)
}

/// Answers every stream with what came on it.
async fn echo(link: Link) {
    while let Some(mut stream) = link.accept().await {
        let heard = read_all(stream.receiver()).await.unwrap();
        let (sender, _receiver) = stream.split();
        sender.finish_with(Content::Message, heard.into()).await.unwrap();
    }
}

#[tokio::test]
async fn a_question_is_answered_and_nothing_is_left_over() {
    let tasks = Tasks::new();
    let (master, agent) = pair(Limits::CONTROL, &tasks);
    tasks.spawn("echo", echo(agent.clone()));

    for question in ["uptime", ""] {
        let mut answer = soon(master.ask(text(question))).await.unwrap();
        assert_eq!(soon(read_all(&mut answer)).await, Ok(question.into()));
    }

    until("tables are empty", || [&master, &agent].iter().all(|link| (link.live(), link.held()) == (0, 0))).await;
    until("only the echo runs", || tasks.running() == 1).await;
}

#[tokio::test]
async fn payloads_keep_their_boundaries_and_their_content() {
    let tasks = Tasks::new();
    let (master, agent) = pair(Limits::CONTROL, &tasks);
    let (mut out, _in) = master.open().unwrap().split();
    out.message(text("start")).await.unwrap();
    out.send(Content::Stdin, text("one")).await.unwrap();
    out.send(Content::Resize, text("")).await.unwrap();
    out.finish().unwrap();

    let mut stream = soon(agent.accept()).await.unwrap();
    let mut heard = Vec::new();
    while let Some(taken) = soon(stream.receiver().next()).await.unwrap() {
        heard.push((taken.content(), taken.into_body()));
    }

    assert_eq!(heard, [(Content::Message, text("start")), (Content::Stdin, text("one")), (Content::Resize, text(""))]);
}

#[tokio::test]
async fn a_sender_waits_until_what_it_sent_is_done_with() {
    let tasks = Tasks::new();
    let (master, agent) = pair(Limits::CONTROL, &tasks);
    let (mut out, _in) = master.open().unwrap().split();
    let piece = Bytes::from(vec![1; 65_000]);
    for _ in 0..4 {
        soon(out.send(Content::Stdout, piece.clone())).await.unwrap();
    }
    let mut stream = soon(agent.accept()).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(soon(stream.receiver().next()).await.unwrap().unwrap());
    }
    until("the sender's frames left", || tasks.running() == 0).await;
    assert!(at_once(out.send(Content::Stdout, piece.clone())).await.is_none(), "taken is not yet done with");

    held.truncate(1);

    soon(out.send(Content::Stdout, piece)).await.unwrap();
}

#[tokio::test]
async fn a_send_that_is_given_up_has_sent_nothing() {
    let tasks = Tasks::new();
    let (master, agent) = pair(Limits::CONTROL, &tasks);
    let (mut out, _in) = master.open().unwrap().split();
    for _ in 0..4 {
        soon(out.send(Content::Stdout, Bytes::from(vec![1; 60_000]))).await.unwrap();
    }
    for _ in 0..20 {
        assert!(at_once(out.send(Content::Stdout, Bytes::from(vec![2; 60_000]))).await.is_none());
    }
    let reading = async {
        let mut stream = agent.accept().await.unwrap();
        read_all(stream.receiver()).await.unwrap()
    };
    let sending = async {
        out.send(Content::Stdout, Bytes::from(vec![3; 60_000])).await.unwrap();
        out.finish().unwrap();
    };

    let (got, ()) = soon(async { tokio::join!(reading, sending) }).await;

    assert_eq!(got, [vec![1; 240_000], vec![3; 60_000]].concat());
}

#[tokio::test]
async fn many_streams_share_a_small_backlog_and_all_arrive() {
    let tasks = Tasks::new();
    let (master, agent) = pair(Limits { backlog: 10_000, ..Limits::CONTROL }, &tasks);
    let (totals, mut counted) = tokio::sync::mpsc::channel(64);
    let serving = tasks.clone();
    tasks.spawn("accept", async move {
        while let Some(mut stream) = agent.accept().await {
            let totals = totals.clone();
            serving.spawn("read", async move {
                totals.send(read_all(stream.receiver()).await.unwrap().len()).await.unwrap();
                let (out, _in) = stream.split();
                out.finish().unwrap();
            });
        }
    });
    for number in 0..50_usize {
        let (mut out, mut answer) = master.open().unwrap().split();
        tasks.spawn("send", async move {
            // Every third gives up in the middle of a wait, and must not keep the others from their turn.
            if number % 3 == 0 {
                let _given_up =
                    timeout(Duration::from_millis(1), out.send(Content::Stdout, Bytes::from(vec![0; 60_000]))).await;
            }
            out.send_all(Content::Stdout, Bytes::from(vec![0; 300_000])).await.unwrap();
            out.finish().unwrap();
            read_all(&mut answer).await.unwrap();
        });
    }
    for _ in 0..50 {
        assert!(soon(counted.recv()).await.unwrap() >= 300_000);
    }
    until("the table is empty", || (master.live(), master.held()) == (0, 0)).await;
}

#[tokio::test]
async fn a_payload_that_fits_into_no_frame_is_refused_and_the_stream_goes_on() {
    let tasks = Tasks::new();
    let (master, _agent) = pair(Limits::CONTROL, &tasks);
    let (mut out, _in) = master.open().unwrap().split();
    let long = Bytes::from(vec![0; crate::MAX_PAYLOAD + 1]);

    assert_eq!(out.message(long.clone()).await, Err(Ended::TooLong(65_536)));
    assert_eq!(master.control_send(long).await, Err(Ended::TooLong(65_536)));
    assert_eq!(out.message(text("short")).await, Ok(()));
}

#[tokio::test]
async fn a_sender_that_is_dropped_before_its_end_does_not_pass_for_whole() {
    let tasks = Tasks::new();
    let (master, agent) = pair(Limits::CONTROL, &tasks);
    let (mut out, mut inp) = master.open().unwrap().split();
    out.message(text("rm -rf /tmp/old")).await.unwrap();
    let mut stream = soon(agent.accept()).await.unwrap();
    drop(out);

    assert_eq!(soon(read_all(stream.receiver())).await, Err(Ended::Reset(Reason::Cancelled)));
    assert_eq!(soon(inp.next()).await.unwrap_err(), Ended::Reset(Reason::Cancelled));
}

#[tokio::test]
async fn last_words_arrive_although_nobody_waits_for_the_other_side() {
    let tasks = Tasks::new();
    let (master, agent) = pair(Limits::CONTROL, &tasks);
    let (mut typing, mut shown) = master.open().unwrap().split();
    typing.send(Content::Stdin, text("exit\n")).await.unwrap();
    let (out, inp) = soon(agent.accept()).await.unwrap().split();
    drop(inp);
    out.finish_with(Content::Message, text("exit status 0")).await.unwrap();

    until("the agent let go", || (agent.live(), agent.held()) == (0, 0)).await;
    assert_eq!(soon(read_all(&mut shown)).await, Ok(b"exit status 0".to_vec()));
    assert_eq!(soon(typing.message(text("more"))).await, Err(Ended::Reset(Reason::Cancelled)));
}

#[tokio::test]
async fn a_receiver_that_is_dropped_lets_the_other_side_go_on() {
    let tasks = Tasks::new();
    let (master, agent) = pair(Limits::CONTROL, &tasks);
    let (mut typing, _shown) = master.open().unwrap().split();
    typing.send(Content::Stdin, text("first")).await.unwrap();
    let (mut out, inp) = soon(agent.accept()).await.unwrap().split();
    drop(inp);

    soon(typing.send_all(Content::Stdin, Bytes::from(vec![0; 2_000_000]))).await.unwrap();
    soon(out.message(text("still here"))).await.unwrap();
}

#[tokio::test]
async fn a_cutter_ends_a_stream_that_others_hold_and_says_why() {
    let tasks = Tasks::new();
    let (master, agent) = pair(Limits::CONTROL, &tasks);
    let stream = master.open().unwrap();
    let cutter = stream.cutter();
    let (mut out, mut inp) = stream.split();
    out.message(text("tail -f")).await.unwrap();
    let mut theirs = soon(agent.accept()).await.unwrap();
    let lost = Ended::Reset(Reason::RightLost);

    let reading = inp.next();
    let (read, ()) = soon(async {
        tokio::join!(reading, async {
            cutter.cut(Reason::RightLost);
            cutter.cut(Reason::Cancelled);
        })
    })
    .await;

    assert_eq!(read.unwrap_err(), lost);
    assert_eq!(out.message(text("more")).await, Err(lost));
    assert_eq!(soon(read_all(theirs.receiver())).await, Err(lost));
    drop((out, inp, theirs));
    assert_eq!((master.live(), master.held(), agent.held()), (0, 0, 0));
}

#[tokio::test]
async fn control_messages_pass_by_streams_and_wait_for_their_reader() {
    let tasks = Tasks::new();
    let (master, agent) = pair(Limits::CONTROL, &tasks);
    let message = Bytes::from(vec![7; 48 * 1024]);
    let mut sent = 0;
    while at_once(agent.control_send(message.clone())).await.is_some() {
        sent += 1;
    }
    assert_eq!(sent, 5, "as many as there is credit for");

    let sending = async {
        for _ in 0..20 {
            agent.control_send(message.clone()).await.unwrap();
        }
    };
    let reading = async {
        for _ in 0..25 {
            assert_eq!(master.control_next().await, Some(message.clone()));
        }
    };
    soon(async { tokio::join!(sending, reading) }).await;
}

#[tokio::test]
async fn the_switch_wakes_whoever_waits_for_anything() {
    let tasks = Tasks::new();
    let (master, agent) = pair(Limits::CONTROL, &tasks);
    let (mut out, mut inp) = master.open().unwrap().split();
    while at_once(out.send(Content::Stdout, Bytes::from(vec![0; 60_000]))).await.is_some() {}
    while at_once(master.control_send(Bytes::from(vec![0; 60_000]))).await.is_some() {}
    let killed = Ended::Link(Why::Killed);
    let waiting = async {
        tokio::join!(
            out.send(Content::Stdout, Bytes::from(vec![0; 60_000])),
            inp.next(),
            master.control_send(Bytes::from(vec![0; 60_000])),
            master.control_next(),
            master.accept(),
            master.closed(),
            agent.closed(),
            async {
                master.kill(Why::Killed);
                master.kill(Why::Replaced);
            },
        )
    };

    let (sent, read, control_sent, control, accepted, why, theirs, ()) = soon(waiting).await;

    assert_eq!(sent, Err(killed));
    assert_eq!(read.unwrap_err(), killed);
    assert_eq!(control_sent, Err(killed));
    assert_eq!(control, None);
    assert!(accepted.is_none());
    assert_eq!((why, theirs), (Why::Killed, Why::PeerGone));
    assert_eq!(master.open().unwrap_err(), killed);
    drop((out, inp));
    assert_eq!((master.live(), master.held()), (0, 0));
    until("no task is left", || tasks.running() == 0).await;
}

#[tokio::test]
async fn what_had_arrived_whole_survives_the_end_of_the_connection_but_not_the_switch() {
    for (why, survives) in [(Why::Closed, true), (Why::Killed, false)] {
        let tasks = Tasks::new();
        let (master, agent) = pair(Limits::CONTROL, &tasks);
        let mut answer = master.ask(text("uptime")).await.unwrap();
        let (out, _in) = soon(agent.accept()).await.unwrap().split();
        out.finish_with(Content::Message, text("3 days")).await.unwrap();
        until("the answer arrived", || master.live() == 0).await;

        if survives {
            agent.kill(why)
        } else {
            master.kill(why)
        };

        let read = soon(read_all(&mut answer)).await;
        assert_eq!(read, if survives { Ok(b"3 days".to_vec()) } else { Err(Ended::Link(Why::Killed)) });
    }
}

#[tokio::test]
async fn a_connection_that_nobody_holds_is_closed() {
    let tasks = Tasks::new();
    let (master, agent) = pair(Limits::CONTROL, &tasks);
    let stream = master.open().unwrap();
    drop(master);
    assert_eq!(agent.why_closed(), None, "a stream still holds it");

    drop(stream);

    assert_eq!(soon(agent.closed()).await, Why::PeerGone);
}

#[tokio::test]
async fn a_token_that_is_cancelled_elsewhere_kills_and_a_dead_link_cancels_its_own() {
    let tasks = Tasks::new();
    let token = CancellationToken::new();
    let (link, inlet) = Link::new(Side::Master, Limits::CONTROL, &tasks, token.clone());
    token.cancel();
    drop(inlet);
    assert_eq!(link.closed().await, Why::Killed);

    let token = CancellationToken::new();
    let (link, _inlet) = Link::new(Side::Master, Limits::CONTROL, &tasks, token.clone());
    link.kill(Why::Replaced);
    assert!(token.is_cancelled());
}

#[tokio::test]
async fn a_broken_rule_ends_the_connection_with_its_name() {
    let tasks = Tasks::new();
    let (link, inlet) = Link::new(Side::Master, Limits::CONTROL, &tasks, CancellationToken::new());

    assert!(inlet.feed(&[0xff; 9]).is_err());
    assert_eq!(link.why_closed(), Some(Why::Protocol("a frame is too long")));
    assert!(inlet.feed(&[]).is_err(), "nothing more is taken");
}

#[tokio::test]
async fn a_peer_that_opens_and_resets_without_end_fills_nothing() {
    let tasks = Tasks::new();
    let (link, inlet) =
        Link::new(Side::Master, Limits { streams: 8, ..Limits::CONTROL }, &tasks, CancellationToken::new());
    let cycle = |number| {
        let (stream, mut bytes) = (StreamId(number), BytesMut::new());
        Frame::Open { stream, first: None, end: false }.encode(&mut bytes);
        Frame::Reset { stream, reason: Reason::Cancelled }.encode(&mut bytes);
        bytes
    };
    for number in 0..1000 {
        inlet.feed(&cycle(2 * number + 1)).unwrap();
    }
    assert_eq!((link.live(), link.held()), (0, 0), "streams that nobody accepted are gone");

    let mut accepted = Vec::new();
    for number in 1000..2000 {
        let (stream, mut bytes) = (StreamId(2 * number + 1), BytesMut::new());
        Frame::Open { stream, first: None, end: false }.encode(&mut bytes);
        inlet.feed(&bytes).unwrap();
        accepted.extend(at_once(link.accept()).await.flatten());
        bytes.clear();
        Frame::Reset { stream, reason: Reason::Cancelled }.encode(&mut bytes);
        inlet.feed(&bytes).unwrap();
    }
    assert_eq!(accepted.len(), 32, "a slow program is not made to hold more");
}

#[tokio::test]
async fn a_side_that_serves_nothing_refuses_streams() {
    let tasks = Tasks::new();
    let (master, console) = pair(Limits::CONTROL, &tasks);
    console.refuse_streams();
    let mut answer = master.ask(text("anyone?")).await.unwrap();

    assert_eq!(soon(answer.next()).await.unwrap_err(), Ended::Reset(Reason::Refused));
}

#[tokio::test]
async fn frames_that_were_queued_before_a_carrier_came_leave_with_it() {
    struct Heard(tokio::sync::mpsc::Sender<Bytes>);
    impl Carrier for Heard {
        fn send(&self, bytes: Bytes) -> Sending<'_> {
            Box::pin(async move { self.0.send(bytes).await.map_err(|_| Why::PeerGone) })
        }
    }
    let tasks = Tasks::new();
    let (link, _inlet) = Link::new(Side::Master, Limits::CONTROL, &tasks, CancellationToken::new());
    let _answer = link.ask(text("early")).await.unwrap();
    link.control_send(text("first of all")).await.unwrap();
    let (heard, mut hear) = tokio::sync::mpsc::channel(8);

    link.attach(Arc::new(Heard(heard)));

    let batch = soon(hear.recv()).await.unwrap();
    let mut both = BytesMut::new();
    Frame::Data {
        stream: StreamId::CONTROL,
        part: Part::new(Content::Message, text("first of all")).unwrap(),
        end: false,
    }
    .encode(&mut both);
    Frame::Open { stream: StreamId(2), first: Some(Part::new(Content::Message, text("early")).unwrap()), end: true }
        .encode(&mut both);
    assert_eq!(batch, both.freeze(), "in one batch");
}
