//! The receipt chain over restarts, crashes and roll-backs.

use std::path::Path;
use std::time::Duration;

use reeve_agent::chain::{Accepted, Chain, ChainError, End, Recovered, read};
use reeve_agent::handed::Handed;
use reeve_agent::journal::{Position, look};
use reeve_wire::code::{Code, Refusal};
use reeve_wire::id::{Digest, OperationId};
use reeve_wire::message::{ChainEnd, JournalState};
use reeve_wire::receipt::{Event, Outcome, Receipt};
use reeve_wire::signed::Signed;
use reeve_wire::time::Millis;

use crate::site::{Bench, Site};

const NOW: Millis = Millis(1_790_000_000_000);

/// A server's chain in a directory of its own.
struct Server {
    dir: tempfile::TempDir,
    site: Site,
}

impl Server {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), site: Site::at(NOW) }
    }

    fn journal(&self) -> std::path::PathBuf {
        self.dir.path().join("journal")
    }

    fn start(&self, boot_id: &str) -> (Chain, Recovered) {
        self.try_start(boot_id).unwrap()
    }

    fn try_start(&self, boot_id: &str) -> Result<(Chain, Recovered), ChainError> {
        let bench = Bench::of(&self.site);
        Chain::open(&self.journal(), &self.site.host, &bench.site, &bench.host, boot_id, NOW)
    }

    /// A fresh operation, judged and written down.
    fn accept(&self, chain: &Chain) -> Accepted {
        let handed = self.site.raw(&["/bin/true"]).handed();
        chain.accept(Bench::of(&self.site).judge(handed).unwrap(), NOW).unwrap()
    }

    /// Every entry, each checked against the server's key and the one before.
    fn entries(&self) -> Vec<Receipt> {
        let mut last: Option<(Digest, Receipt)> = None;
        let mut entries = Vec::new();
        for entry in look(&self.journal(), Position(0)).unwrap() {
            let entry = entry.unwrap();
            let (signed, receipt) = read(entry.position, &entry.bytes).unwrap();
            assert!(signed.clone().verify::<Receipt>(self.site.host.public_key().key_data()).is_ok());
            receipt.consistent().unwrap();
            if let Some((digest, before)) = last.filter(|(_, before)| before.generation == receipt.generation) {
                assert_eq!((receipt.seq, receipt.prev), (before.seq + 1, Some(digest)));
            }
            last = Some((signed.digest(), receipt.clone()));
            entries.push(receipt);
        }
        entries
    }

    fn events(&self) -> Vec<Event> {
        self.entries().iter().map(|entry| entry.event).collect()
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[test]
fn what_happens_is_written_in_one_chain_without_gaps() {
    let server = Server::new();
    let (chain, _) = server.start("boot-1");
    let accepted = server.accept(&chain);
    let about = accepted.about();
    let end = End { exit_status: Some(3), ..End::new(Outcome::Exited) };
    chain.ended(about, end, NOW).unwrap();
    let refusal = Refusal::from(Code::WrongHost);
    chain.refused(server.site.raw(&["/bin/true"]).handed().named(), &refusal, NOW).unwrap();
    chain.refused(Handed::default().named(), &refusal, NOW).unwrap();

    let entries = server.entries();
    assert_eq!(server.events(), [Event::Restarted, Event::Accepted, Event::Ended, Event::Refused, Event::Refused]);
    assert_eq!(entries[0].prev, None);
    assert_eq!((entries[0].generation, entries[0].seq), (1, 1));
    assert_eq!(entries[0].boot_id.as_deref(), Some("boot-1"));
    assert_eq!((entries[1].request, entries[1].grant), (Some(about.request), Some(about.grant)));
    assert_eq!((entries[2].outcome, entries[2].exit_status), (Some(Outcome::Exited), Some(3)));
    assert_eq!((entries[3].outcome, entries[3].code), (Some(Outcome::Refused), Some(Code::WrongHost)));
    assert_eq!(entries[4].operation, Some(OperationId([0; 16])));
    assert_eq!(chain.end().unwrap().seq, 5);
}

#[test]
fn entries_that_come_at_once_get_one_number_each() {
    let server = Server::new();
    let (chain, _) = server.start("boot-1");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..25 {
                    let about = server.accept(&chain).about();
                    chain.ended(about, End::new(Outcome::Exited), NOW).unwrap();
                }
            });
        }
    });

    let numbers: Vec<_> = server.entries().iter().map(|entry| entry.seq).collect();
    assert_eq!(numbers, (1..=401).collect::<Vec<_>>());
}

#[test]
fn an_operation_is_accepted_once_even_when_it_comes_twice_at_once() {
    let server = Server::new();
    let (chain, _) = server.start("boot-1");
    let handed = server.site.raw(&["/bin/true"]).handed();
    let operation = handed.named().operation.unwrap();
    let permitted = [0, 1].map(|_| Bench::of(&server.site).judge(handed.clone()).unwrap());

    let accepted = permitted.map(|permitted| chain.accept(permitted, NOW).map(|accepted| accepted.about().operation));

    assert_eq!(accepted, [Ok(operation), Err(Code::RequestReplayed.into())]);
    assert!(chain.used(operation));
}

#[test]
fn after_a_crash_what_was_open_is_unknown_and_ids_stay_used() {
    let server = Server::new();
    let (chain, first) = server.start("boot-1");
    assert_eq!(first, Recovered { rebooted: false, closed: 0, newest_accepted: None });
    let done = server.accept(&chain).about();
    chain.ended(done, End::new(Outcome::Exited), NOW).unwrap();
    let (open, other) = (server.accept(&chain).about(), server.accept(&chain).about());
    let refused = server.site.raw(&["/bin/true"]).handed().named();
    chain.refused(refused, &Code::WrongHost.into(), NOW).unwrap();
    drop(chain);

    let (chain, second) = server.start("boot-1");

    assert_eq!(second, Recovered { rebooted: false, closed: 2, newest_accepted: Some(NOW) });
    let entries = server.entries();
    let tail: Vec<_> = entries.iter().rev().take(3).rev().map(|entry| (entry.event, entry.operation)).collect();
    assert_eq!(
        tail,
        [(Event::Restarted, None), (Event::Ended, Some(open.operation)), (Event::Ended, Some(other.operation))]
    );
    assert_eq!(entries.last().unwrap().outcome, Some(Outcome::Unknown));
    for used in [done.operation, open.operation, other.operation, refused.operation.unwrap()] {
        assert!(chain.used(used));
    }
    drop(chain);
    let (_, third) = server.start("boot-2");
    assert_eq!(third, Recovered { rebooted: true, closed: 0, newest_accepted: Some(NOW) });
}

#[test]
fn a_start_reads_only_what_it_needs_and_all_of_that() {
    let server = Server::new();
    for start in 0..4 {
        let (chain, recovered) = server.start("boot-1");
        assert_eq!(recovered.closed, usize::from(start > 0));
        drop(server.accept(&chain));
    }
    let mark: u64 = std::fs::read_to_string(server.journal().join("mark")).unwrap().trim().parse().unwrap();
    assert_eq!(mark, 1, "the first accepted id may still come again");

    std::fs::remove_file(server.journal().join("mark")).unwrap();
    let (chain, recovered) = server.start("boot-1");
    assert_eq!(recovered.closed, 1);
    drop(chain);
    std::fs::write(server.journal().join("mark"), "999").unwrap();
    assert_eq!(server.start("boot-1").1.closed, 0);
}

#[test]
fn an_id_is_forgotten_only_when_signed_times_say_that_its_request_is_past() {
    let server = Server::new();
    let (chain, _) = server.start("boot-1");
    let old = server.accept(&chain).about().operation;
    let later = NOW.plus(Duration::from_secs(3600));
    let site = Site::at(later);
    let permitted = Bench::of(&site).judge(site.raw(&["/bin/true"]).handed()).unwrap();
    let new = chain.accept(permitted, later).unwrap().about().operation;
    drop(chain);

    // The clock at this start is the old one: the journal knows better.
    let (chain, recovered) = server.start("boot-1");

    assert!(!chain.used(old));
    assert!(chain.used(new));
    assert_eq!(recovered.newest_accepted, Some(later));
}

#[test]
fn a_torn_end_is_cut_and_the_chain_goes_on() {
    let server = Server::new();
    let (chain, _) = server.start("boot-1");
    drop(server.accept(&chain));
    drop(chain);
    let file = std::fs::read_dir(server.journal())
        .unwrap()
        .map(|file| file.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "journal"))
        .unwrap();
    let length = std::fs::metadata(&file).unwrap().len();
    std::fs::File::options().write(true).open(&file).unwrap().set_len(length - 5).unwrap();

    let (_, recovered) = server.start("boot-1");

    assert_eq!(recovered.closed, 0, "the accepted entry was never whole");
    assert_eq!(server.events(), [Event::Restarted, Event::Restarted]);
}

#[test]
fn a_chain_of_another_key_is_not_gone_on_with() {
    let server = Server::new();
    drop(server.start("boot-1"));
    let other = Server { site: Site { host: crate::site::key(123), ..server.site.clone() }, ..server };

    assert!(matches!(other.try_start("boot-1"), Err(ChainError::Foreign { .. })));
}

#[test]
fn a_server_that_was_set_back_begins_a_generation_that_names_what_it_lost() {
    let server = Server::new();
    let (chain, _) = server.start("boot-1");
    let kept = server.dir.path().join("kept");
    copy(&server.journal(), &kept);
    let about = server.accept(&chain).about();
    chain.ended(about, End::new(Outcome::Exited), NOW).unwrap();
    let lost = chain.end().unwrap();
    drop(chain);
    std::fs::remove_dir_all(server.journal()).unwrap();
    copy(&kept, &server.journal());

    let (chain, _) = server.start("boot-1");
    assert!(chain.compare(lost, NOW).unwrap());

    let entries = server.entries();
    let first = entries.last().unwrap();
    assert_eq!((first.generation, first.seq, first.prev), (2, lost.seq + 1, Some(lost.digest)));
    assert_eq!(first.event, Event::Restarted);
    assert!(first.reason.as_ref().unwrap().contains(&format!("1.{}", lost.seq)));
    assert!(!chain.compare(chain.end().unwrap(), NOW).unwrap());
    assert!(!chain.compare(lost, NOW).unwrap(), "it is older now");
}

#[test]
fn the_same_place_with_other_content_is_a_loss_as_well() {
    let server = Server::new();
    let (chain, _) = server.start("boot-1");
    let own = chain.end().unwrap();
    let fork = ChainEnd { digest: Digest([1; 32]), ..own };

    assert!(!chain.compare(own, NOW).unwrap());
    assert!(chain.compare(fork, NOW).unwrap());
    assert_eq!(chain.end().unwrap().generation, 2);
}

#[test]
fn a_master_cannot_use_up_the_numbers_of_a_chain() {
    let server = Server::new();
    let (chain, _) = server.start("boot-1");
    let own = chain.end().unwrap();
    for absurd in [
        ChainEnd { seq: 1 << 53, ..own },
        ChainEnd { generation: 1 << 53, ..own },
        ChainEnd { generation: 2, seq: u64::MAX, digest: own.digest },
    ] {
        assert!(matches!(chain.compare(absurd, NOW), Err(ChainError::Implausible(..))), "{absurd:?}");
    }
    assert_eq!(chain.end(), Some(own));
}

#[test]
fn the_journal_says_what_became_of_an_operation() {
    let server = Server::new();
    let (chain, _) = server.start("boot-1");
    let ended = server.accept(&chain).about();
    let running = server.accept(&chain).about();
    let refused = server.site.raw(&["/bin/true"]).handed().named();
    chain.ended(ended, End::new(Outcome::Exited), NOW).unwrap();
    chain.refused(refused, &Code::WrongHost.into(), NOW).unwrap();
    // Repeats are refused, and are not what became of the first.
    for repeated in [ended.operation, running.operation, refused.operation.unwrap()] {
        let named = reeve_agent::handed::Named { operation: Some(repeated), ..refused };
        chain.refused(named, &Code::RequestReplayed.into(), NOW).unwrap();
    }
    let absent = OperationId::random();
    let asked = [absent, ended.operation, running.operation, refused.operation.unwrap()];

    let found = chain.find(&asked).unwrap();

    let events = |receipts: &[Signed]| -> Vec<Event> {
        receipts.iter().map(|receipt| receipt.peek_unverified::<Receipt>().unwrap().event).collect()
    };
    let said: Vec<_> = found.iter().map(|known| (known.operation, known.state, events(&known.receipts))).collect();
    assert_eq!(
        said,
        [
            (absent, JournalState::Absent, vec![]),
            (ended.operation, JournalState::Ended, vec![Event::Accepted, Event::Ended]),
            (running.operation, JournalState::Running, vec![Event::Accepted]),
            (refused.operation.unwrap(), JournalState::Ended, vec![Event::Refused]),
        ]
    );
}

#[test]
fn a_reason_that_looks_like_a_field_fools_no_search() {
    let server = Server::new();
    let (chain, _) = server.start("boot-1");
    let other = OperationId([0xcd; 16]);
    let reason = format!("\"operation\":\"{other}\"");
    let named = server.site.raw(&["/bin/true"]).handed().named();
    chain.refused(named, &Refusal::because(Code::Protocol, reason), NOW).unwrap();

    assert_eq!(chain.find(&[other]).unwrap()[0].state, JournalState::Absent);
    assert_eq!(chain.find(&[named.operation.unwrap()]).unwrap()[0].state, JournalState::Ended);
}

#[test]
fn a_reason_is_cut_so_that_every_entry_fits() {
    let server = Server::new();
    let (chain, _) = server.start("boot-1");
    let named = server.site.raw(&["/bin/true"]).handed().named();
    let refusal = Refusal { code: Code::Protocol, reason: "\u{1b}é".repeat(70_000) };

    let receipt = chain.refused(named, &refusal, NOW).unwrap().peek_unverified::<Receipt>().unwrap();

    let reason = receipt.reason.unwrap();
    assert!(reason.len() <= 1027 && reason.ends_with('…'), "{} bytes", reason.len());
    assert!(!reason.contains('\u{1b}'));
    assert!(!chain.has_failed());
}
