//! What a master shows on the control stream: taken when it is newer and signed, refused and kept as evidence when it
//! is not.

use reeve_wire::code::Code;
use reeve_wire::id::Digest;
use reeve_wire::message::{ChainEnd, Part, PartKind};
use reeve_wire::receipt::{Event, Outcome};
use reeve_wire::time::Clock;

use crate::master::{Greeted, Master};
use crate::server::{Running, Server, wait_for};
use crate::site::{Site, line, parts};

async fn site() -> (Master, Server, Running) {
    let site = Site::at(Clock::system().now());
    let master = Master::of(&site).await;
    let server = Server::of(&site, &[master.address.to_string()]);
    let running = server.start();
    (master, server, running)
}

/// Ends the connection and greets the agent when it is back.
async fn again(master: &mut Master, greeted: Greeted) -> Greeted {
    greeted.kill.cancel();
    drop(greeted);
    master.greet().await
}

fn refused(greeted: &Greeted) -> Code {
    greeted.ready.refusal.as_ref().expect("it must be refused").code
}

async fn runs(master: &Master, greeted: &Greeted) -> Result<(), Code> {
    let site = Site { now: Clock::system().now(), ..master.site.clone() };
    let answered = greeted.run(&parts(&site.raw(&["/bin/true"]).handed())).await;
    match (answered.last().event, answered.last().code) {
        (Event::Ended, _) => Ok(()),
        (_, code) => Err(code.unwrap()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_grows_is_followed_and_one_that_was_set_back_is_refused_for_good() {
    let (mut master, server, running) = site().await;
    let mut greeted = master.greet().await;
    greeted.say(&master.checkpoint(&[1, 2, 3, 4, 5], 3)).await;
    let kept = server.state("checkpoints").join("noc1");
    wait_for("the checkpoint is on the disk", || {
        std::fs::read_to_string(&kept).is_ok_and(|note| note.contains("\n5\n"))
    })
    .await;
    assert_eq!(runs(&master, &greeted).await, Ok(()));

    master.shown.log = vec![1, 2, 3, 4];
    let greeted = again(&mut master, greeted).await;
    assert_eq!((greeted.hello.checkpoint_size, refused(&greeted)), (5, Code::HistoryRefused));
    assert_eq!(runs(&master, &greeted).await, Err(Code::HistoryRefused));
    let programs = running.agent.programs.count();
    assert_eq!(std::fs::read_dir(server.state("evidence")).unwrap().count(), 1);

    // The true history again: the administrator has not looked yet.
    master.shown.log = vec![1, 2, 3, 4, 5, 6];
    let greeted = again(&mut master, greeted).await;
    assert_eq!(refused(&greeted), Code::HistoryRefused);
    drop(greeted);
    assert_eq!(running.stop().await, Ok(()));
    let running = server.start();
    let greeted = master.greet().await;
    assert_eq!(refused(&greeted), Code::HistoryRefused);
    assert_eq!((programs, running.agent.programs.count()), (1, 0));

    std::fs::remove_file(server.state("history-refused")).unwrap();
    let greeted = again(&mut master, greeted).await;
    assert_eq!(greeted.ready.refusal, None);
    assert_eq!(runs(&master, &greeted).await, Ok(()));
    drop(running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_that_is_pushed_stops_new_work_on_the_spot() {
    let (mut master, server, _running) = site().await;
    let mut greeted = master.greet().await;
    greeted.say(&master.checkpoint(&[1, 2, 9], 0)).await;
    wait_for("it is refused", || server.state("history-refused").exists()).await;

    wait_for("the status says so", || server.status().connection.is_some_and(|c| c.refusal.is_some())).await;
    assert_eq!(runs(&master, &greeted).await, Err(Code::HistoryRefused));
    // What still comes is not looked at; the connection stays.
    greeted.say(&master.checkpoint(&[1, 2, 3, 4], 3)).await;
    assert_eq!(runs(&master, &greeted).await, Err(Code::HistoryRefused));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_bundle_is_refused_and_kept_as_evidence() {
    let (mut master, server, running) = site().await;
    let greeted = master.greet().await;
    master.shown.trust = master.site.rebundled(|bundle| bundle.number = 6);
    let greeted = again(&mut master, greeted).await;
    assert_eq!(refused(&greeted), Code::TrustUnanswered);
    assert_eq!(runs(&master, &greeted).await, Err(Code::TrustUnanswered));

    master.shown.trust =
        master.site.rebundled(|bundle| bundle.issued = bundle.issued.plus(std::time::Duration::from_secs(1)));
    let greeted = again(&mut master, greeted).await;
    assert_eq!(refused(&greeted), Code::TrustUnanswered);
    master.shown.send_bundle = false;
    let greeted = again(&mut master, greeted).await;
    assert_eq!(refused(&greeted), Code::TrustUnanswered, "the same number, other content");
    master.shown.trust = master.site.rebundled(|bundle| bundle.number = 9);
    let greeted = again(&mut master, greeted).await;
    assert_eq!(refused(&greeted), Code::TrustUnanswered, "a newer one that does not come");

    assert_eq!(std::fs::read_dir(server.state("evidence")).unwrap().count(), 2);
    assert_eq!(running.agent.trust.current().unwrap().digest(), master.site.trust.digest());
    assert_eq!(running.agent.programs.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_bundle_is_taken_at_once_and_a_master_that_it_drops_is_left() {
    let (mut master, server, running) = site().await;
    let mut greeted = master.greet().await;
    let newer = master.site.rebundled(|bundle| bundle.number = 8);
    greeted.say(&[Part::new(PartKind::Bundle, newer.signed().to_wire())]).await;
    wait_for("it is taken", || running.agent.trust.current().unwrap().number == 8).await;
    assert_eq!(std::fs::read(&server.config.trust).unwrap(), newer.signed().to_wire());
    assert_eq!(runs(&master, &greeted).await, Ok(()));

    let without = master.site.rebundled(|bundle| {
        bundle.number = 9;
        bundle.masters = vec!["noc2".parse().unwrap()];
    });
    greeted.say(&[Part::new(PartKind::Bundle, without.signed().to_wire())]).await;
    greeted.closed().await;

    assert_eq!(running.agent.trust.current().unwrap().number, 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_technicians_authority_bites_on_the_standing_connection() {
    let (mut master, _server, running) = site().await;
    let mut greeted = master.greet().await;
    assert_eq!(runs(&master, &greeted).await, Ok(()));
    let without = master.site.rebundled(|bundle| {
        bundle.number = 8;
        bundle.ca.technicians = vec![line(&crate::site::key(70))];
    });
    greeted.say(&[Part::new(PartKind::Bundle, without.signed().to_wire())]).await;
    wait_for("it is taken", || running.agent.trust.current().unwrap().number == 8).await;

    assert_eq!(runs(&master, &greeted).await, Err(Code::CertificateUntrusted));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_library_is_refused_over_a_restart_as_well() {
    let (mut master, server, running) = site().await;
    let greeted = master.greet().await;
    assert_eq!(running.agent.library.current().unwrap().version, 4);
    drop(greeted);
    assert_eq!(running.stop().await, Ok(()));
    let running = server.start();
    master.shown.index = Some(master.site.index(3));

    let greeted = master.greet().await;

    assert_eq!((greeted.hello.library, refused(&greeted)), (Some(4), Code::ItemMismatch));
    assert_eq!(running.agent.library.current().unwrap().version, 4);
    master.shown.index = Some(master.site.index(5));
    let greeted = again(&mut master, greeted).await;
    assert_eq!(greeted.ready.refusal, None);
    assert_eq!(running.agent.library.current().unwrap().version, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_disagree_leave_only_looking() {
    let (mut master, _server, _running) = site().await;
    master.shown.now = Some(Clock::system().now().plus(std::time::Duration::from_secs(3600)));
    let greeted = master.greet().await;

    assert_eq!(runs(&master, &greeted).await, Err(Code::ClockApart));
    let look = greeted.run(&parts(&master.site.item("look", &[]).handed())).await;
    assert_eq!(look.last().outcome, Some(Outcome::Exited));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_set_back_says_so_in_a_new_generation() {
    let (mut master, server, _running) = site().await;
    let greeted = master.greet().await;
    let own = greeted.hello.last_receipt.unwrap();
    assert_eq!((own.generation, own.seq), (1, 1));
    let lost = ChainEnd { generation: 1, seq: 17, digest: Digest([5; 32]) };
    master.shown.last_receipt = Some(lost);
    let greeted = again(&mut master, greeted).await;

    let end = greeted.hello.last_receipt.unwrap();
    assert_eq!((end.generation, end.seq), (2, 18));
    let entry = server.journal().pop().unwrap();
    assert_eq!((entry.event, entry.prev), (Event::Restarted, Some(lost.digest)));
    assert_eq!(runs(&master, &greeted).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_from_before_a_loss_is_stale() {
    let (mut master, _server, _running) = site().await;
    let greeted = master.greet().await;
    let before = parts(&master.site.raw(&["/bin/true"]).handed());
    master.shown.last_receipt = Some(ChainEnd { generation: 1, seq: 9, digest: Digest([5; 32]) });
    let greeted = again(&mut master, greeted).await;

    assert_eq!(greeted.run(&before).await.last().code, Some(Code::GrantStale));
}
