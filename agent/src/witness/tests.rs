use reeve_wire::id::Digest;
use reeve_wire::merkle::{Hash, Tree, consistency_proof, in_memory, leaf_hash};
use reeve_wire::note::LogSigner;

use super::*;

/// A log whose records are these numbers.
fn log(records: &[u32]) -> Vec<Hash> {
    records.iter().map(|record| leaf_hash(&record.to_be_bytes())).collect()
}

fn signer() -> LogSigner {
    LogSigner::from_seed("lab.reeve/noc1", &[7; 32]).unwrap()
}

fn note(leaves: &[Hash]) -> Vec<u8> {
    let mut tree = Tree::default();
    leaves.iter().for_each(|leaf| tree.append(*leaf));
    let checkpoint = Checkpoint { origin: "lab.reeve/noc1".into(), size: tree.size(), root: tree.root() };
    checkpoint.sign(&signer()).unwrap().note.into_bytes()
}

fn proof(leaves: &[Hash], from: u64) -> Consistency {
    let to = u64::try_from(leaves.len()).unwrap();
    let hashes = consistency_proof::<ProofError>(from, to, in_memory(leaves)).unwrap();
    Consistency { from, to, hashes: hashes.into_iter().map(Digest).collect() }
}

fn shown(leaves: &[Hash]) -> Shown {
    Witness::read(&note(leaves), signer().vkey()).unwrap()
}

fn state(dir: &tempfile::TempDir) -> StateDir {
    StateDir::take(&dir.path().join("state")).unwrap()
}

fn witness(state: &StateDir) -> Witness {
    Witness::open(state, &"noc1".parse().unwrap()).unwrap()
}

#[test]
fn a_log_that_grows_is_followed_and_the_newest_checkpoint_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(&dir);
    let mut first = witness(&state);
    let (three, seven) = (log(&[1, 2, 3]), log(&[1, 2, 3, 4, 5, 6, 7]));
    assert!(!first.needs_proof(&shown(&three)));
    first.take(shown(&three), None).unwrap();
    first.take(shown(&three), None).unwrap();
    assert!(first.needs_proof(&shown(&seven)));
    assert!(matches!(first.take(shown(&seven), None), Err(Untaken::NoProof { held: 3, shown: 7 })));
    first.take(shown(&seven), Some(&proof(&seven, 3))).unwrap();
    let unwritten = first.unwritten().unwrap();
    first.wrote(unwritten.write().unwrap());
    assert!(first.unwritten().is_none());
    drop(first);

    assert_eq!(witness(&state).size(), 7);
}

#[test]
fn a_checkpoint_that_was_not_written_yet_is_written_at_the_end_of_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(&dir);
    let mut first = witness(&state);
    first.take(shown(&log(&[1, 2])), None).unwrap();
    drop(first);

    assert_eq!(witness(&state).size(), 2);
}

#[test]
fn a_shorter_a_forked_and_a_rewritten_log_are_other_histories() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(&dir);
    let mut witness = witness(&state);
    witness.take(shown(&log(&[1, 2, 3])), None).unwrap();
    let take = |witness: &mut Witness, leaves: &[Hash], proof: Option<&Consistency>| match witness
        .take(shown(leaves), proof)
    {
        Err(Untaken::OtherHistory(why)) => why,
        other => panic!("{other:?}"),
    };

    assert_eq!(take(&mut witness, &log(&[1, 2]), None), OtherHistory::Shorter { held: 3, shown: 2 });
    assert_eq!(take(&mut witness, &log(&[1, 2, 4]), None), OtherHistory::Fork(3));
    let rewritten = log(&[1, 9, 3, 4]);
    let why = take(&mut witness, &rewritten, Some(&proof(&rewritten, 3)));
    assert!(matches!(why, OtherHistory::Rewritten { held: 3, shown: 4, .. }), "{why}");
    assert_eq!(witness.size(), 3);
}

#[test]
fn a_proof_between_other_sizes_proves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(&dir);
    let mut witness = witness(&state);
    witness.take(shown(&log(&[1, 2, 3])), None).unwrap();
    let rewritten = log(&[8, 9, 3, 4]);

    let mut other = proof(&rewritten, 2);
    assert!(matches!(witness.take(shown(&rewritten), Some(&other)), Err(Untaken::NoProof { .. })));
    other.from = 0;
    assert!(matches!(witness.take(shown(&rewritten), Some(&other)), Err(Untaken::NoProof { .. })));
}

#[test]
fn only_the_logs_own_key_makes_checkpoints() {
    let other = LogSigner::from_seed("lab.reeve/noc1", &[8; 32]).unwrap();

    assert!(Witness::read(&note(&log(&[1])), other.vkey()).is_err());
    let elsewhere = LogSigner::from_seed("lab.reeve/noc2", &[7; 32]).unwrap();
    assert!(Witness::read(&note(&log(&[1])), elsewhere.vkey()).is_err());
}

#[test]
fn a_refusal_keeps_both_checkpoints_and_stands_until_somebody_removes_it() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(&dir);
    assert_eq!(standing_refusal(&state).unwrap(), None);
    let mut witness = witness(&state);
    let (three, fork) = (log(&[1, 2, 3]), log(&[1, 2, 4]));
    witness.take(shown(&three), None).unwrap();

    let refusal = witness.refuse(&state, &shown(&fork), None, &OtherHistory::Fork(3));

    assert_eq!(refusal.code, Code::HistoryRefused);
    let standing = standing_refusal(&state).unwrap().unwrap();
    assert_eq!(standing.code, Code::HistoryRefused);
    assert!(standing.reason.contains("lab.reeve/noc1"), "{}", standing.reason);
    let evidence = std::fs::read_dir(state.file("evidence")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(std::fs::read(evidence.join("held")).unwrap(), note(&three));
    assert_eq!(std::fs::read(evidence.join("shown")).unwrap(), note(&fork));

    std::fs::remove_file(state.file(REFUSED)).unwrap();
    assert_eq!(standing_refusal(&state).unwrap(), None);
}
