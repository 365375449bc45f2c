//! The journal on real files: cut, damaged, killed, full.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn place() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn open(place: &TempDir) -> (Journal, Vec<Vec<u8>>) {
    let (journal, entries) = Journal::open(place.path()).unwrap();
    (journal, bytes(entries))
}

fn bytes(entries: Entries) -> Vec<Vec<u8>> {
    entries.map(|entry| entry.unwrap().bytes).collect()
}

/// A journal in one file, with these entries, closed.
fn written(entries: &[Vec<u8>]) -> TempDir {
    let place = place();
    let (journal, _) = open(&place);
    for entry in entries {
        journal.append(entry).unwrap();
    }
    place
}

fn only_file(place: &TempDir) -> PathBuf {
    place.path().join(format!("{:020}.journal", 0))
}

fn files(place: &TempDir) -> usize {
    segment::names(place.path()).unwrap().len()
}

/// Makes every write fail as on a full disk.
fn fill_the_disk(journal: &Journal) {
    let full = File::options().write(true).open("/dev/full").unwrap();
    journal.shared.lock().segment.replace_file(full);
}

#[test]
fn entries_come_back_in_order_and_with_their_positions() {
    let place = place();
    let (journal, before) = open(&place);
    assert!(before.is_empty());
    assert_eq!(journal.append(b"first").unwrap(), Position(0));
    assert_eq!(journal.append(b"second").unwrap(), Position(1));
    assert_eq!(bytes(journal.since(Position(1)).unwrap()), [b"second"]);
    drop(journal);

    let (journal, entries) = open(&place);

    assert_eq!(entries, [b"first".to_vec(), b"second".to_vec()]);
    assert_eq!(journal.append(b"third").unwrap(), Position(2));
    assert_eq!(bytes(journal.since(Position(2)).unwrap()), [b"third"]);
    assert!(bytes(journal.since(Position(3)).unwrap()).is_empty());
}

#[test]
fn a_reader_sees_what_was_there_when_it_asked() {
    let place = place();
    let (journal, _) = open(&place);
    journal.append(b"before").unwrap();

    let entries = journal.since(Position(0)).unwrap();
    journal.append(b"after").unwrap();

    assert_eq!(bytes(entries), [b"before"]);
}

#[test]
fn only_the_owner_may_read_a_journal() {
    let place = written(&[b"entry".to_vec()]);
    let file = only_file(&place);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();

    assert!(matches!(Journal::open(place.path()), Err(JournalError::Exposed { mode: 0o640, .. })));
}

#[test]
fn a_journal_has_one_agent() {
    let place = place();
    let (journal, _) = open(&place);
    assert!(matches!(Journal::open(place.path()), Err(JournalError::InUse(_))));
    drop(journal);

    Journal::open(place.path()).unwrap();
}

#[test]
fn a_file_of_the_journal_is_never_a_link() {
    let place = place();
    std::os::unix::fs::symlink("/dev/null", only_file(&place)).unwrap();

    assert!(matches!(Journal::open(place.path()), Err(JournalError::Io { .. })));
}

#[test]
fn entries_have_a_size() {
    let place = place();
    let (journal, _) = open(&place);

    assert!(matches!(journal.append(b""), Err(JournalError::EntrySize(0))));
    assert!(matches!(journal.append(&vec![0; MAX_ENTRY + 1]), Err(JournalError::EntrySize(_))));
    journal.append(&vec![0; MAX_ENTRY]).unwrap();

    assert!(!journal.has_failed(), "what the caller did wrong does not close the journal");
}

#[test]
fn after_one_failed_write_nothing_is_taken() {
    let place = place();
    let (journal, _) = open(&place);
    journal.append(b"before").unwrap();
    journal.sync_now().unwrap();
    fill_the_disk(&journal);

    assert!(matches!(journal.append(b"lost"), Err(JournalError::Io { .. })));

    let again = File::options().append(true).open(only_file(&place)).unwrap();
    journal.shared.lock().segment.replace_file(again);
    assert!(matches!(journal.append(b"after"), Err(JournalError::Closed)));
    assert!(matches!(journal.sync_now(), Err(JournalError::Closed)));
    assert!(journal.has_failed());
    drop(journal);
    assert_eq!(open(&place).1, [b"before"]);
}

#[test]
fn after_one_failed_sync_nothing_is_taken() {
    let place = place();
    let (journal, _) = open(&place);
    journal.append(b"before").unwrap();
    let (reader, _writer) = std::io::pipe().unwrap();
    journal.shared.lock().segment.replace_file(File::from(std::os::fd::OwnedFd::from(reader)));

    assert!(journal.sync_now().is_err(), "a pipe cannot be synced");

    assert!(matches!(journal.append(b"after"), Err(JournalError::Closed)));
}

#[test]
fn what_is_appended_is_synced_unasked() {
    let place = place();
    let (journal, _) = open(&place);
    let deadline = Instant::now() + Duration::from_secs(30);

    for round in 0..3 {
        journal.append(b"entry").unwrap();
        while journal.synced() < journal.next() {
            assert!(Instant::now() < deadline, "round {round} was never synced");
            std::thread::yield_now();
        }
    }
}

#[test]
fn sync_now_leaves_nothing_unsynced() {
    let place = place();
    let (journal, _) = open(&place);
    journal.append(b"entry").unwrap();

    journal.sync_now().unwrap();

    assert_eq!(journal.synced(), Position(1));
}

#[test]
fn full_files_are_rotated_and_read_as_one() {
    let place = place();
    let entries: Vec<Vec<u8>> = (0..100_u8).map(|n| vec![n; 60]).collect();
    {
        let (journal, _) = Journal::open_rotating(place.path(), 1000).unwrap();
        for entry in &entries {
            journal.append(entry).unwrap();
        }
    }
    assert_eq!(files(&place), 8);
    for file in place.path().read_dir().unwrap() {
        assert!(file.unwrap().metadata().unwrap().len() <= 1000);
    }

    let (journal, all) = Journal::open_rotating(place.path(), 1000).unwrap();

    assert_eq!(bytes(all), entries);
    for from in [0, 1, 13, 14, 15, 99, 100] {
        assert_eq!(bytes(journal.since(Position(from as u64)).unwrap()), entries[from..], "from {from}");
    }
}

#[test]
fn an_entry_larger_than_a_file_gets_one_of_its_own() {
    let place = place();
    let (journal, _) = Journal::open_rotating(place.path(), 100).unwrap();
    for _ in 0..3 {
        journal.append(&[1; 500]).unwrap();
    }

    assert_eq!(files(&place), 3);
    assert_eq!(bytes(journal.since(Position(0)).unwrap()).len(), 3);
}

#[test]
fn a_missing_file_is_noticed() {
    let place = place();
    let (journal, _) = Journal::open_rotating(place.path(), 100).unwrap();
    for n in 0..3 {
        journal.append(&[n; 90]).unwrap();
    }
    segment::remove(place.path(), Position(1)).unwrap();

    let read: Vec<_> = journal.since(Position(0)).unwrap().collect();

    assert!(matches!(read[..], [Ok(_), Err(JournalError::Gap { missing: Position(1), .. })]), "{read:?}");
}

#[test]
fn damage_in_an_older_file_ends_the_reading_with_its_place() {
    let place = place();
    let (journal, _) = Journal::open_rotating(place.path(), 250).unwrap();
    for n in 0..4 {
        journal.append(&[n; 92]).unwrap();
    }
    let mut content = std::fs::read(only_file(&place)).unwrap();
    content[150] ^= 1;
    std::fs::write(only_file(&place), content).unwrap();

    let read: Vec<_> = journal.since(Position(0)).unwrap().collect();

    assert!(matches!(read[..], [Ok(_), Err(JournalError::Damaged { offset: 100, .. })]), "{read:?}");
}

#[test]
fn old_full_files_are_pruned_and_the_last_one_stays() {
    let place = place();
    let (journal, _) = Journal::open_rotating(place.path(), 100).unwrap();
    for n in 0..3 {
        journal.append(&[n; 90]).unwrap();
    }
    let written = segment::last_written(place.path(), Position(1)).unwrap();
    assert_eq!(journal.prune(written.plus(KEPT_FOR).minus(Duration::from_secs(60))).unwrap(), 0);

    assert_eq!(journal.prune(written.plus(KEPT_FOR).plus(Duration::from_secs(60))).unwrap(), 2);

    let left: Vec<_> = journal.since(Position(0)).unwrap().map(|entry| entry.unwrap().position).collect();
    assert_eq!(left, [Position(2)]);
    assert_eq!(journal.append(b"next").unwrap(), Position(3));
}

#[test]
fn a_journal_can_be_looked_at_while_an_agent_writes_it() {
    let place = place();
    let (journal, _) = open(&place);
    for entry in [b"one", b"two"] {
        journal.append(entry).unwrap();
    }

    assert_eq!(bytes(look(place.path(), Position(1)).unwrap()), [b"two"]);
}

#[test]
fn a_look_leaves_an_unfinished_entry_out_and_in_place() {
    let place = written(&[b"kept".to_vec(), b"cut".to_vec()]);
    let file = File::options().write(true).open(only_file(&place)).unwrap();
    file.set_len(20).unwrap();

    assert_eq!(bytes(look(place.path(), Position(0)).unwrap()), [b"kept"]);

    assert_eq!(file.metadata().unwrap().len(), 20);
}

#[test]
fn a_look_does_not_pass_over_damage() {
    let place = written(&[b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
    let mut content = std::fs::read(only_file(&place)).unwrap();
    content[9] ^= 1;
    std::fs::write(only_file(&place), content).unwrap();

    let read: Vec<_> = look(place.path(), Position(0)).unwrap().collect();

    assert!(matches!(read[..], [Err(JournalError::Damaged { offset: 0, .. })]), "{read:?}");
}

#[test]
fn zeros_that_a_power_cut_left_at_the_end_are_cut_off() {
    let place = written(&[b"kept".to_vec()]);
    let mut file = File::options().append(true).open(only_file(&place)).unwrap();
    file.write_all(&[0; 5000]).unwrap();

    assert_eq!(open(&place).1, [b"kept"]);
    assert_eq!(only_file(&place).metadata().unwrap().len(), 12);
}

fn some_entries() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 1..12)
}

/// Where each record of these entries ends.
fn ends(entries: &[Vec<u8>]) -> Vec<usize> {
    let mut end = 0;
    entries
        .iter()
        .map(|entry| {
            end += entry.len() + 8;
            end
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_file_cut_anywhere_holds_the_entries_before_the_cut(entries in some_entries(), cut in any::<prop::sample::Index>()) {
        let place = written(&entries);
        let file = only_file(&place);
        let cut = cut.index(file.metadata().unwrap().len() as usize + 1);
        File::options().write(true).open(&file).unwrap().set_len(cut as u64).unwrap();

        let (journal, left) = open(&place);

        let whole = ends(&entries).into_iter().filter(|&end| end <= cut).count();
        prop_assert_eq!(&left, &entries[..whole]);
        prop_assert_eq!(journal.append(b"goes on").unwrap(), Position(whole as u64));
        drop(journal);
        prop_assert_eq!(open(&place).1.len(), whole + 1);
    }

    #[test]
    fn a_changed_byte_is_an_error_unless_it_is_in_the_last_entry(
        entries in some_entries(),
        at in any::<prop::sample::Index>(),
        change in 1..=255_u8,
    ) {
        let place = written(&entries);
        let file = only_file(&place);
        let mut content = std::fs::read(&file).unwrap();
        let at = at.index(content.len());
        content[at] ^= change;
        std::fs::write(&file, &content).unwrap();
        let damaged = ends(&entries).into_iter().filter(|&end| end <= at).count();

        match Journal::open(place.path()) {
            Ok((_journal, left)) => {
                prop_assert_eq!(damaged, entries.len() - 1, "damage in the middle went unnoticed");
                prop_assert_eq!(bytes(left), &entries[..damaged]);
            }
            Err(JournalError::Damaged { offset, .. }) => {
                prop_assert!(damaged < entries.len() - 1, "an unfinished last entry was not cut off");
                let begins = damaged.checked_sub(1).map_or(0, |before| ends(&entries)[before]);
                prop_assert_eq!(offset, begins as u64);
                prop_assert_eq!(std::fs::read(&file).unwrap(), content, "a damaged journal was changed");
            }
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        }
    }
}

/// What entry `number` holds: enough to tell it from any other, of varying length.
fn numbered(number: u64) -> Vec<u8> {
    let length = usize::try_from(number % 700).unwrap();
    [number.to_string().as_bytes(), &vec![b'.'; length]].concat()
}

const DIRECTORY: &str = "REEVE_TEST_JOURNAL";

/// Not a test of its own: the agent that [`every_answered_entry_survives_the_agents_death`] kills.
#[test]
#[ignore = "runs until it is killed"]
fn an_agent_that_appends_for_ever() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let (journal, _) = Journal::open_rotating(Path::new(&directory), 100_000).unwrap();
    let mut answers = std::io::stdout().lock();
    loop {
        let number = journal.next().0;
        journal.append(&numbered(number)).unwrap();
        writeln!(answers, "answered {number}").unwrap();
    }
}

#[test]
fn every_answered_entry_survives_the_agents_death() {
    let place = place();
    let mut answered = None;
    for round in 1..=5 {
        let mut agent = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "journal::tests::an_agent_that_appends_for_ever", "--ignored", "--nocapture"])
            .env(DIRECTORY, place.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut answers = BufReader::new(agent.stdout.take().unwrap()).lines().map_while(Result::ok);
        let wanted = answered.unwrap_or(0) + 300;
        let mut last = |answers: &mut dyn Iterator<Item = String>, enough: u64| {
            for answer in answers {
                let number = answer.strip_prefix("answered ").and_then(|number| number.parse::<u64>().ok());
                // The kill may cut the last answer short, which then reads as a lower number.
                answered = answered.max(number);
                if number.is_some_and(|number| number >= enough) {
                    break;
                }
            }
        };

        last(&mut answers, wanted);
        agent.kill().unwrap();
        last(&mut answers, u64::MAX);
        agent.wait().unwrap();

        let (_journal, entries) = open(&place);
        assert!(answered.is_some_and(|answered| answered >= wanted), "round {round}: the agent did not get going");
        assert!(
            entries.len() as u64 > answered.unwrap(),
            "round {round}: answered {answered:?}, has {}",
            entries.len()
        );
        for (number, entry) in entries.iter().enumerate() {
            assert_eq!(*entry, numbered(number as u64), "round {round}");
        }
    }
    assert!(files(&place) > 1, "no file was rotated on the way");
}
