use super::*;
use crate::merkle;

/// The example of Go's `golang.org/x/mod/sumdb/note`, made by another implementation.
const NEUMANN_KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const NEUMANN_NOTE: &str = "If you think cryptography is the answer to your problem,\n\
     then you don't know what your problem is.\n\
     \n\
     — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
const NEUMANN_SECRET: &str = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";

fn signer() -> LogSigner {
    LogSigner::from_seed("lab.reeve/master1", &[7; 32]).unwrap()
}

fn checkpoint() -> Checkpoint {
    Checkpoint { origin: "lab.reeve/master1".into(), size: 3, root: merkle::root_of(&[vec![1], vec![2], vec![3]]) }
}

#[test]
fn a_note_and_a_key_made_by_another_implementation_hold() {
    let key: Vkey = NEUMANN_KEY.parse().unwrap();
    let note = Note::parse(NEUMANN_NOTE.as_bytes()).unwrap();

    assert_eq!(note.verify(std::slice::from_ref(&key)), Ok(()));
    assert_eq!(key.to_string(), NEUMANN_KEY);

    let signer: LogSigner = NEUMANN_SECRET.parse().unwrap();
    assert_eq!(signer.vkey(), &key);
    assert_eq!(signer.secret_text().as_str(), NEUMANN_SECRET);
    assert_eq!(format!("{}\n{}", note.text(), signer.sign(note.text().as_bytes())), NEUMANN_NOTE);
}

/// The bytes of a checkpoint, fixed. Checked with Python: `hashlib` for the root and the key id, OpenSSL's Ed25519
/// for the signature.
#[test]
fn a_checkpoint_has_the_bytes_of_the_golden_file() {
    let signed = checkpoint().sign(&signer()).unwrap();

    assert_eq!(signer().vkey().to_string(), include_str!("golden.vkey").trim_end());
    assert_eq!(signed.note, include_str!("golden.note"));
    assert_eq!(Checkpoint::open(signed.note.as_bytes(), signer().vkey()), Ok(signed));
}

#[test]
fn every_flipped_bit_of_a_checkpoint_is_refused() {
    let key = signer().vkey().clone();
    let note = checkpoint().sign(&signer()).unwrap().note.into_bytes();
    for bit in 0..note.len() * 8 {
        let mut flipped = note.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Checkpoint::open(&flipped, &key).is_err(), "bit {bit}");
    }
    for end in 0..note.len() {
        assert!(Checkpoint::open(&note[..end], &key).is_err(), "cut at {end}");
    }
}

#[test]
fn one_bad_signature_of_a_known_key_spoils_a_note_that_another_signed() {
    let (good, other) = (signer(), LogSigner::from_seed("lab.reeve/witness", &[8; 32]).unwrap());
    let text = checkpoint().text();
    let mut bad = other.sign(text.as_bytes());
    bad.signature[0] ^= 1;
    let note = Note::parse(format!("{text}\n{}{bad}", good.sign(text.as_bytes())).as_bytes()).unwrap();

    let both = [good.vkey().clone(), other.vkey().clone()];
    assert_eq!(note.verify(&both), Err(NoteError::BadSignature("lab.reeve/witness".into())));
    assert_eq!(note.verify(&both[..1]), Ok(()), "an unknown key's line says nothing");
}

#[test]
fn a_second_block_of_signatures_does_not_make_its_text_a_checkpoint() {
    let signer = signer();
    let honest = checkpoint().sign(&signer).unwrap().note;
    let extended = format!("{honest}\n{}", signer.sign(honest.as_bytes()));

    assert_eq!(Note::parse(extended.as_bytes()).unwrap().text(), honest);
    assert!(matches!(Checkpoint::open(extended.as_bytes(), signer.vkey()), Err(NoteError::Malformed(_))));
}

#[test]
fn the_form_of_a_note_is_strict() {
    let line = signer().sign(b"text\n").to_string();
    assert!(Note::parse(format!("text\n\n{line}").as_bytes()).is_ok());

    for bad in [
        String::new(),
        "text\n".into(),
        "text\n\n".into(),
        format!("text\n{line}"),
        format!("text\n\n{}", line.trim_end()),
        format!("text\n\n{line}\n"),
        format!("text\n\n{line}trailing\n"),
        format!("text\r\n\n{line}"),
        format!("te\u{7}xt\n\n{line}"),
        format!("text\n\n{}", line.replace("— ", "- ")),
        format!("text\n\n{}", line.replace("— ", "—  ")),
        format!("text\n\n{}", line.replace("master1", "mas ter1")),
        format!("text\n\n{}", line.replace("master1", "mas+ter1")),
        format!("text\n\n{}", line.replace('\n', " \n")),
        format!("text\n\n{}", line.replace("=\n", "\n")),
        "text\n\n— name AAAAAA==\n".into(),
        "text\n\n— name \n".into(),
        format!("text\n\n{}", line.repeat(MAX_SIGNATURES + 1)),
        format!("{}\n\n{line}", "x".repeat(MAX_NOTE)),
    ] {
        assert!(matches!(Note::parse(bad.as_bytes()), Err(NoteError::Malformed(_))), "{bad:?}");
    }
    assert!(Note::parse(b"te\xffxt\n\n").is_err());
}

#[test]
fn the_form_of_a_checkpoint_is_strict() {
    let good = checkpoint().text();
    assert_eq!(good.parse(), Ok(checkpoint()));
    let root = good.lines().last().unwrap();

    for bad in [
        format!("{good}extension\n"),
        format!("{good}\n"),
        good.trim_end().to_owned(),
        good.replace("\n3\n", "\n03\n"),
        good.replace("\n3\n", "\n+3\n"),
        good.replace("\n3\n", "\n-3\n"),
        good.replace("\n3\n", "\n3 \n"),
        good.replace("\n3\n", "\n\n"),
        good.replace("\n3\n", "\n18446744073709551616\n"),
        good.replace("lab.reeve/master1", ""),
        good.replace(root, "AAAA"),
        good.replace(root, root.trim_end_matches('=')),
        good.replace(root, &root.replace('/', "_")),
    ] {
        assert_ne!(bad, good);
        assert!(matches!(bad.parse::<Checkpoint>(), Err(NoteError::Malformed(_))), "{bad:?}");
    }
    let empty = Checkpoint { size: 0, root: merkle::empty_root(), ..checkpoint() };
    assert_eq!(empty.text().parse(), Ok(empty));
}

#[test]
fn a_key_whose_id_is_not_its_own_is_refused() {
    let good = signer().vkey().to_string();
    let id = hex::encode(signer().vkey().key_id());
    let encoded = good.rsplit('+').next().unwrap();

    for bad in [
        good.replace(&id, "00000000"),
        good.replace(&id, &id.to_uppercase()),
        good.replace("master1", "master2"),
        good.replace("lab.reeve/master1", ""),
        good.replace("master1", "mas ter1"),
        good.replace(encoded, "AAAA"),
        good.replace(&format!("+{encoded}"), ""),
        good.replace(encoded, &STANDARD.encode([[4].as_slice(), &[9; 32]].concat())),
        format!("{good}+"),
        format!("{good}\n"),
        String::new(),
    ] {
        assert_ne!(bad, good);
        assert!(matches!(bad.parse::<Vkey>(), Err(NoteError::Key(_))), "{bad:?}");
    }
    let zero = format!("x+{}+{}", "00000000", STANDARD.encode([[1].as_slice(), &[0; 32]].concat()));
    assert!(zero.parse::<Vkey>().is_err(), "a weak key");
}

#[test]
fn a_checkpoint_of_another_log_is_refused_though_the_key_signed_it() {
    let signer = signer();
    let other = Checkpoint { origin: "lab.reeve/master2".into(), ..checkpoint() };
    assert!(matches!(other.clone().sign(&signer), Err(NoteError::Origin { .. })));

    let text = other.text();
    let note = format!("{text}\n{}", signer.sign(text.as_bytes()));
    assert!(matches!(Checkpoint::open(note.as_bytes(), signer.vkey()), Err(NoteError::Origin { .. })));
}

#[test]
fn a_private_key_is_not_shown_by_debug_and_its_text_is_read_strictly() {
    let signer = LogSigner::generate("lab.reeve/master1").unwrap();
    let secret = signer.secret_text();
    assert!(!format!("{signer:?}").contains(secret.splitn(5, '+').last().unwrap()));
    assert_eq!(secret.parse::<LogSigner>().unwrap().vkey(), signer.vkey());
    for bad in [secret.replace("master1", "master2"), secret.replace("PRIVATE+", ""), format!("{}A", secret.as_str())] {
        assert!(bad.parse::<LogSigner>().is_err(), "{bad}");
    }
}
