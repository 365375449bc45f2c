//! One agent and one master over real SSH on loopback.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use reeve_link::{Content, Ended, Reason};
use reeve_wire::code::{Code, Refusal};
use reeve_wire::id::Digest;
use reeve_wire::message::{JournalState, Part, PartKind};
use reeve_wire::receipt::{Event, Outcome};
use reeve_wire::time::Clock;

use crate::master::{Greeted, Master, soon};
use crate::server::{Running, Server, wait_for};
use crate::site::{Draft, HOST, Site, key, parts};

async fn site() -> (Master, Server) {
    let site = Site::at(Clock::system().now());
    let master = Master::of(&site).await;
    let server = Server::of(&site, &[master.address.to_string()]);
    (master, server)
}

async fn connected() -> (Master, Server, Running, Greeted) {
    let (mut master, server) = site().await;
    let running = server.start();
    let greeted = master.greet().await;
    assert_eq!(greeted.ready.refusal, None);
    (master, server, running, greeted)
}

fn shell(site: &Site, script: &str) -> (Vec<Part>, reeve_wire::id::OperationId) {
    let draft: Draft<'_> = site.raw(&["/bin/sh", "-c", script]);
    (parts(&draft.handed()), draft.operation())
}

fn cancel(code: Code) -> Part {
    Part::json(PartKind::Cancel, &Refusal::from(code)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_without_a_bundle_fetches_it_and_runs_what_was_signed() {
    let (master, server, running, greeted) = connected().await;
    assert_eq!(std::fs::read(&server.config.trust).unwrap(), master.site.trust.signed().to_wire());
    assert_eq!((greeted.hello.host.to_string().as_str(), greeted.hello.bundle), (HOST, 7));
    assert_eq!((greeted.hello.checkpoint_size, greeted.hello.library), (0, None));
    assert_eq!(greeted.hello.last_receipt.unwrap().seq, 1);

    let script = "echo out; echo err >&2; echo $REEVE_TECHNICIAN $REEVE_HOST $REEVE_OPERATION; cat; exit 3";
    let draft = master.site.raw(&["/bin/sh", "-c", script]).with_stdin(b"signed input");
    let answered = greeted.run(&parts(&draft.handed())).await;

    let expected = format!("out\nalice {HOST} {}\nsigned input", draft.operation());
    assert_eq!(String::from_utf8_lossy(&answered.stdout), expected);
    assert_eq!(answered.stderr, b"err\n");
    let events: Vec<_> = answered.receipts.iter().map(|receipt| receipt.event).collect();
    assert_eq!(events, [Event::Accepted, Event::Ended]);
    let ended = answered.last();
    assert_eq!((ended.outcome, ended.exit_status, ended.code), (Some(Outcome::Exited), Some(3), None));
    let (stdout, salts) = (ended.stdout.unwrap(), answered.salts.unwrap());
    assert_eq!(stdout.commitment, Digest::salted(&salts.stdout, &answered.stdout));
    assert_eq!((stdout.kept, stdout.length, stdout.truncated), (expected.len() as u64, expected.len() as u64, false));
    assert_eq!(ended.stderr.unwrap().commitment, Digest::salted(&salts.stderr, b"err\n"));
    assert_eq!(running.agent.programs.count(), 1);
    wait_for("the status says so", || server.status().connected).await;
    assert_eq!(server.status().connection.unwrap().master.as_str(), "noc1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_run_with_the_servers_own_service_manager_and_with_their_scripts() {
    let (master, _server, _running, greeted) = connected().await;
    let run = async |draft: Draft<'_>| greeted.run(&parts(&draft.handed())).await;

    let restart = run(master.site.item("restart", &[("NAME", "nginx")])).await;
    assert_eq!(restart.stdout, b"restart -- nginx\n");
    let script = run(master.site.item("script", &[]).with_stdin(b"echo \"$0 reads: $(cat)\"")).await;
    assert_eq!(script.stdout, b"/proc/self/fd/0 reads: \n");
    let own = run(master.site.item("own", &[])).await;
    assert_eq!(own.stdout, b"own script\n");
    let said = run(master.site.item("say", &[("WORDS", "$(reboot); `x`")])).await;
    assert_eq!(said.stdout, b"$(reboot); `x`\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_runs_nothing_and_is_in_the_journal() {
    let (master, server, running, greeted) = connected().await;
    let good = master.site.raw(&["/bin/echo", "once"]);
    let good = parts(&good.handed());
    assert_eq!(greeted.run(&good).await.stdout, b"once\n");

    let replayed = greeted.run(&good).await;
    assert_eq!((replayed.last().event, replayed.last().code), (Event::Refused, Some(Code::RequestReplayed)));
    let mut retargeted = master.site.raw(&["/bin/echo", "no"]);
    retargeted.header.targets_root = Digest([0; 32]);
    let retargeted = greeted.run(&parts(&retargeted.handed())).await;
    assert_eq!(retargeted.last().code, Some(Code::TargetMismatch));
    let nothing = greeted.run(&[Part::new(PartKind::Go, [])]).await;
    assert_eq!(nothing.last().code, Some(Code::RequestMalformed));

    assert!(nothing.stdout.is_empty() && replayed.salts.is_none());
    assert_eq!((running.agent.programs.count(), server.refusals()), (1, 3));
    let numbers: Vec<_> = server.journal().iter().map(|receipt| receipt.seq).collect();
    assert_eq!(numbers, (1..=6).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_belong_ends_its_stream_and_nothing_else() {
    let (master, server, running, greeted) = connected().await;
    let (good, _) = shell(&master.site, "true");
    let foreign = [Part::new(PartKind::Receipt, *b"x"), Part::new(PartKind::Go, [])];
    assert_eq!(greeted.run(&foreign).await.last().code, Some(Code::Protocol));
    let twice = [good[0].clone(), good[0].clone()];
    assert_eq!(greeted.run(&twice).await.last().code, Some(Code::Protocol));

    let unknown = async |content, bytes: &'static [u8]| {
        let mut operation = greeted.begin(&good[..2]).await;
        operation.sender.send(content, Bytes::from_static(bytes)).await.unwrap();
        operation.answer().await.last().code
    };
    assert_eq!(unknown(Content::Message, &[250, 0, 0, 0, 0]).await, Some(Code::Protocol));
    assert_eq!(unknown(Content::Message, &[24, 255, 255, 255, 255]).await, Some(Code::Protocol));
    assert_eq!(unknown(Content::Stdin, b"typed").await, Some(Code::Protocol));

    assert_eq!(running.agent.programs.count(), 0);
    assert_eq!(server.refusals(), 5);
    assert_eq!(greeted.run(&shell(&master.site, "echo fine").0).await.stdout, b"fine\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_belong_on_the_control_stream_ends_the_connection_and_the_agent_comes_back() {
    let (mut master, _server, _running, mut greeted) = connected().await;
    greeted.say(&[Part::new(PartKind::Ask, *b"{}")]).await;
    greeted.closed().await;

    let again = master.greet().await;

    assert_eq!(again.hello.checkpoint_size, 3);
    assert_eq!(again.hello.started, greeted.hello.started);
    assert_eq!(again.hello.library, Some(4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_work_is_taken_before_the_bundle_was_compared() {
    let (mut master, server) = site().await;
    let running = server.start();
    let came = master.next().await;
    let (mut control, _receiver) = came.link.open().unwrap().split();
    control.message(Bytes::from_static(&[PartKind::MasterHello as u8])).await.unwrap();
    let (mut sender, receiver) = came.link.open().unwrap().split();
    reeve_link::parts::send(&mut sender, &shell(&master.site, "true").0).await.unwrap();

    let said = soon(reeve_link::parts::Inbound::new(receiver).part()).await.unwrap();

    let receipt = reeve_wire::signed::Signed::from_wire(&said.bytes).unwrap();
    let receipt: reeve_wire::receipt::Receipt = receipt.peek_unverified().unwrap();
    assert_eq!(receipt.code, Some(Code::TrustUnanswered));
    assert_eq!(running.agent.programs.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_ends_what_runs_and_says_why() {
    let (master, _server, _running, greeted) = connected().await;
    for code in [Code::Cancelled, Code::RightLost] {
        let mut operation = greeted.begin(&shell(&master.site, "echo begun; sleep 600").0).await;
        while operation.answered.stdout.is_empty() {
            operation.next().await.unwrap();
        }
        reeve_link::parts::send(&mut operation.sender, &[cancel(code)]).await.unwrap();
        let answered = operation.answer().await;
        let ended = answered.last();
        assert_eq!((ended.event, ended.outcome), (Event::Ended, Some(Outcome::Cancelled)));
        assert_eq!((ended.code, ended.reason.as_deref()), (Some(code), Some(code.sentence())));
        assert_eq!(answered.stdout, b"begun\n");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_of_the_stream_cancels_and_the_receipt_comes_on_the_control_stream() {
    let (master, _server, _running, mut greeted) = connected().await;
    let (said, id) = shell(&master.site, "sleep 600");
    let mut operation = greeted.begin(&said).await;
    operation.receipts(1).await;
    operation.sender.cutter().cut(Reason::RightLost);
    assert!(matches!(operation.next().await, Err(Ended::Reset(Reason::RightLost))));

    let late = greeted.late().await;

    assert_eq!((late.event, late.operation, late.outcome), (Event::Ended, Some(id), Some(Outcome::Cancelled)));
    assert_eq!(late.code, Some(Code::RightLost));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_goes_on_when_the_connection_is_lost_and_its_end_is_told_later() {
    let (mut master, server, running, greeted) = connected().await;
    let go = server.dir.path().join("go");
    let script = format!("echo before; while ! [ -e {} ]; do sleep 0.02; done; echo after; exit 4", go.display());
    let (said, id) = shell(&master.site, &script);
    let mut operation = greeted.begin(&said).await;
    while operation.answered.stdout.is_empty() {
        operation.next().await.unwrap();
    }
    greeted.kill.cancel();
    drop((operation, greeted));

    let mut again = master.greet().await;
    let (receipts, found) = again.ask(&[id]).await;
    assert_eq!((receipts.len(), receipts[0].event), (1, Event::Accepted));
    assert_eq!(found.state, JournalState::Running);
    std::fs::write(&go, "").unwrap();
    let late = again.late().await;

    assert_eq!((late.operation, late.outcome, late.exit_status), (Some(id), Some(Outcome::Exited), Some(4)));
    let stdout = late.stdout.unwrap();
    assert_eq!((stdout.kept, stdout.length, stdout.truncated), (7, 13, true));
    assert_eq!(running.agent.programs.count(), 1);

    // It was told once on this connection; whoever asks again gets the state alone.
    let (receipts, found) = again.ask(&[id]).await;
    assert_eq!((receipts.len(), found.state), (0, JournalState::Ended));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_writes_without_a_pause_outlives_the_connection_too() {
    let (mut master, server, _running, greeted) = connected().await;
    let go = server.dir.path().join("go");
    let script = format!("while ! [ -e {} ]; do echo line; echo line >&2; done; exit 5", go.display());
    let (said, id) = shell(&master.site, &script);
    let mut operation = greeted.begin(&said).await;
    while operation.answered.stdout.is_empty() || operation.answered.stderr.is_empty() {
        operation.next().await.unwrap();
    }
    greeted.kill.cancel();
    drop((operation, greeted));

    let mut again = master.greet().await;
    assert_eq!(again.ask(&[id]).await.1.state, JournalState::Running);
    std::fs::write(&go, "").unwrap();
    let late = again.late().await;

    assert_eq!((late.operation, late.outcome, late.exit_status), (Some(id), Some(Outcome::Exited), Some(5)));
    let stdout = late.stdout.unwrap();
    assert!(stdout.truncated && stdout.kept < stdout.length, "{stdout:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_while_nobody_was_connected_is_told_to_who_asks_for_it() {
    let (mut master, server, running, greeted) = connected().await;
    let go = server.dir.path().join("go");
    let (said, id) = shell(&master.site, &format!("while ! [ -e {} ]; do sleep 0.02; done", go.display()));
    let mut operation = greeted.begin(&said).await;
    operation.receipts(1).await;
    greeted.kill.cancel();
    std::fs::write(&go, "").unwrap();
    wait_for("it ended", || running.agent.running.count() == 0).await;

    let mut again = master.greet().await;
    let (receipts, found) = again.ask(&[id]).await;

    // The late receipt may come first; then the answer does not repeat it.
    let events: Vec<_> = receipts.iter().map(|receipt| receipt.event).collect();
    assert!(events.contains(&Event::Ended), "{events:?}");
    assert_eq!(events.iter().filter(|event| **event == Event::Ended).count(), 1);
    assert_eq!(found.state, JournalState::Ended);
    let absent = reeve_wire::id::OperationId::random();
    assert_eq!(again.ask(&[absent]).await.1.state, JournalState::Absent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_reader_holds_up_its_own_program_alone() {
    let (master, server, _running, greeted) = connected().await;
    let mut stalled = greeted.begin(&shell(&master.site, "head -c 3000000 /dev/zero; echo done >&2").0).await;
    stalled.receipts(1).await;

    let other = greeted.run(&shell(&master.site, "echo other").0).await;
    assert_eq!(other.stdout, b"other\n");
    let answered = stalled.answer().await;

    let stdout = answered.last().stdout.unwrap();
    assert_eq!((stdout.kept, stdout.length, stdout.truncated), (server.config.max_output, 3_000_000, true));
    assert_eq!(answered.stdout.len() as u64, server.config.max_output);
    assert_eq!(stdout.commitment, Digest::salted(&answered.salts.unwrap().stdout, &answered.stdout));
    assert_eq!(answered.stderr, b"done\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_operations_than_there_are_places_are_told_so() {
    let (master, _server, running, greeted) = connected().await;
    let mut held = Vec::new();
    for _ in 0..reeve_agent::connection::MOST_OPERATIONS {
        held.push(greeted.begin(&shell(&master.site, "exec sleep 600").0).await);
    }
    for operation in &mut held {
        operation.receipts(1).await;
    }

    let one_more = greeted.run(&shell(&master.site, "true").0).await;
    assert_eq!((one_more.last().event, one_more.last().code), (Event::Refused, Some(Code::Busy)));

    running.agent.running.stop_all(&Code::Cancelled.into());
    for operation in held {
        assert_eq!(operation.answer().await.last().outcome, Some(Outcome::Cancelled));
    }
    assert_eq!(greeted.run(&shell(&master.site, "echo room").0).await.stdout, b"room\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_stopped_ends_what_runs_and_says_so() {
    let (master, server, running, greeted) = connected().await;
    let go = server.dir.path().join("go");
    let script = format!("while ! [ -e {} ]; do sleep 0.02; done; echo ended by itself", go.display());
    let mut operation = greeted.begin(&shell(&master.site, &script).0).await;
    operation.receipts(1).await;
    let draining = running.agent.draining.clone();
    let stopped = async {
        let stopping = running.stop();
        let meanwhile = async {
            draining.cancelled().await;
            let refused = greeted.run(&shell(&master.site, "true").0).await;
            assert_eq!(refused.last().code, Some(Code::Busy));
            std::fs::write(&go, "").unwrap();
            operation.answer().await
        };
        tokio::join!(stopping, meanwhile)
    };

    let (clean, answered) = soon(stopped).await;

    assert_eq!(clean, Ok(()));
    assert_eq!(
        (answered.last().outcome, answered.stdout.as_slice()),
        (Some(Outcome::Exited), &b"ended by itself\n"[..])
    );
    assert!(!server.status().connected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_of_another_authority_gets_nothing_not_even_a_name() {
    let site = Site::at(Clock::system().now());
    let rogue_site = Site { masters_ca: key(66), ..site.clone() };
    let mut rogue = Master::with_key(&rogue_site, &key(67)).await;
    let mut master = Master::of(&site).await;
    let server = Server::of(&site, &[rogue.address.to_string(), master.address.to_string()]);
    std::fs::write(&server.config.trust, site.trust.signed().to_wire()).unwrap();
    let _running = server.start();

    let greeted = soon(async {
        tokio::select! {
            greeted = master.greet() => greeted,
            came = rogue.next() => panic!("{} came to the rogue", came.user),
        }
    })
    .await;

    assert_eq!(greeted.ready.refusal, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_of_another_root_is_never_taken() {
    let site = Site::at(Clock::system().now());
    let mut master = Master::of(&site).await;
    master.shown.trust = crate::site::trust(&site.bundle, &key(66));
    let server = Server::of(&site, &[master.address.to_string()]);
    let running = server.start();

    let bundles = Arc::clone(&master.bundles);
    tokio::select! {
        came = master.next() => panic!("{} came", came.user),
        () = wait_for("it is refused and asked for again", || bundles.load(Ordering::SeqCst) > 2) => {}
    }

    assert!(running.agent.trust.current().is_none() && !server.config.trust.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_missed_a_new_masters_authority_fetches_the_bundle_that_names_it() {
    let site = Site::at(Clock::system().now());
    let moved = Site { masters_ca: key(44), ..site.clone() };
    let trust = site.rebundled(|bundle| {
        bundle.number = 8;
        bundle.ca.masters = vec![crate::site::line(&key(44))];
    });
    let moved = Site { trust: trust.clone(), ..moved };
    let mut master = Master::of(&moved).await;
    let server = Server::of(&site, &[master.address.to_string()]);
    std::fs::write(&server.config.trust, site.trust.signed().to_wire()).unwrap();
    let _running = server.start();

    let greeted = master.greet().await;

    assert_eq!((greeted.hello.bundle, greeted.ready.refusal), (8, None));
    assert_eq!(std::fs::read(&server.config.trust).unwrap(), trust.signed().to_wire());
}
