use super::*;
use crate::papers::{Papers, key};

fn file(papers: &Papers, folder: &Path) -> TrustFile {
    TrustFile { path: folder.join("sub/trust-bundle"), root: papers.pin(), site: "noc".parse().unwrap() }
}

#[test]
fn the_newest_bundle_is_kept_and_an_older_one_never_replaces_it() {
    let (papers, folder) = (Papers::new(), tempfile::tempdir().unwrap());
    let file = file(&papers, folder.path());
    assert!(file.read().unwrap().is_none());

    for (stored, kept) in [(4, 4), (7, 7), (5, 7)] {
        file.store(&papers.trust(stored)).unwrap();
        assert_eq!(file.read().unwrap().unwrap().number, kept);
    }
}

#[test]
fn an_older_bundle_is_refused_and_kept_as_evidence() {
    let (papers, folder) = (Papers::new(), tempfile::tempdir().unwrap());
    let file = file(&papers, folder.path());
    let held = papers.trust(4);
    file.store(&held).unwrap();
    for newest in [papers.bundle(5), held.signed().clone()] {
        assert!(matches!(file.check(Some(&held), newest), Ok(Offered::Newest(_))));
    }

    let older = papers.bundle(3);
    let Ok(Offered::Older(alarm)) = file.check(Some(&held), older.clone()) else {
        panic!("it was taken");
    };

    assert_eq!(alarm.exit_status(), 77);
    assert!(matches!(alarm, Failure::Told { hint: Some(hint), .. } if hint.contains("trust-bundle.refused")));
    let evidence = std::fs::read(folder.path().join("sub/trust-bundle.refused")).unwrap();
    assert_eq!(Signed::from_wire(&evidence).unwrap(), older);
}

#[test]
fn a_bundle_of_another_root_or_site_is_not_taken() {
    let (papers, folder) = (Papers::new(), tempfile::tempdir().unwrap());
    let file = file(&papers, folder.path());
    for offered in [papers.bundle_of("noc", 9, &key(99)), papers.bundle_of("other", 9, &papers.root)] {
        let refused = file.check(None, offered).unwrap_err();
        assert_eq!(refused.exit_status(), 77, "{refused}");
    }
}

#[test]
fn a_file_that_the_pinned_root_did_not_sign_is_a_fault_of_the_configuration() {
    let (papers, folder) = (Papers::new(), tempfile::tempdir().unwrap());
    let file = file(&papers, folder.path());
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    for bytes in [b"no bundle".to_vec(), papers.bundle_of("noc", 1, &key(99)).to_wire()] {
        std::fs::write(&file.path, bytes).unwrap();
        assert_eq!(file.read().unwrap_err().exit_status(), 78);
    }
}

#[test]
fn only_a_certificate_of_the_masters_authority_is_a_masters() {
    let papers = Papers::new();
    let judge = MasterTrust::new(Arc::new(papers.trust(1)), Clock::system());
    assert_eq!(judge.check(&papers.master_certificate(&papers.masters)), Ok(()));
    assert!(judge.check(&papers.master_certificate(&papers.technicians)).is_err());
    assert!(judge.check(&papers.alice_certificate()).is_err());
}
