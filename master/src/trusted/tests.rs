use reeve_wire::bundle::{Authorities, Bundle};
use reeve_wire::keyfile::KeyLine;
use reeve_wire::library::Index;
use reeve_wire::sshsig;
use reeve_wire::strict::{Unused, V1};
use reeve_wire::time::Millis;
use ssh_key::PrivateKey;

use super::*;

struct Files {
    dir: tempfile::TempDir,
    root: PrivateKey,
    signer: PrivateKey,
}

impl Files {
    fn new() -> Self {
        let key = || sshsig::generate("").unwrap();
        let files = Self { dir: tempfile::tempdir().unwrap(), root: key(), signer: key() };
        std::fs::create_dir(files.dir.path().join("signed")).unwrap();
        files.write_bundle(1, &files.signer);
        files.write_index(1, 0);
        files
    }

    fn write_bundle(&self, number: u64, signer: &PrivateKey) {
        let bundle = Bundle {
            v: V1,
            site: "lab".parse().unwrap(),
            number,
            issued: Millis(0),
            refresh_by: Millis(1 << 50),
            ca: Authorities { technicians: vec![], agents: vec![], masters: vec![] },
            masters: vec![],
            logs: vec![],
            library_signers: vec![KeyLine::new(signer.public_key().key_data().clone()).unwrap()],
            release_keys: Unused,
            krl: Unused,
        };
        std::fs::write(self.dir.path().join("trust"), Signed::make(&bundle, &self.root).unwrap().to_wire()).unwrap();
    }

    fn write_index(&self, version: u64, issued: u64) {
        let index = Index { v: V1, site: "lab".parse().unwrap(), version, issued: Millis(issued), items: vec![] };
        let signed = Signed::make(&index, &self.signer).unwrap();
        std::fs::write(index_path(self.dir.path()), signed.to_wire()).unwrap();
    }

    fn open(&self) -> Trusted {
        let root = sshsig::fingerprint(self.root.public_key().key_data());
        Trusted::open(&self.dir.path().join("trust"), &root, Some(self.dir.path())).unwrap()
    }
}

#[test]
fn a_worse_file_never_replaces_a_better_one_and_the_same_one_is_no_change() {
    let files = Files::new();
    let trusted = files.open();
    assert_eq!((trusted.take_bundle(), trusted.take_library()), (vec![], None));

    files.write_index(3, 0);
    assert_eq!(trusted.take_library(), Some(Change::Library(3)));
    for (version, issued) in [(2, 0), (3, 1)] {
        files.write_index(version, issued);
        assert!(matches!(trusted.take_library(), Some(Change::LibraryRefused(_))), "version {version}");
        assert_eq!(trusted.library().map(|index| (index.version, index.issued)), Some((3, Millis(0))));
    }

    files.write_bundle(2, &files.signer);
    assert_eq!(trusted.take_bundle(), [Change::Bundle(2)]);
    files.write_bundle(1, &files.signer);
    assert!(matches!(&trusted.take_bundle()[..], [Change::BundleRefused(_)]));
    assert_eq!(trusted.bundle().number, 2);
}

#[test]
fn a_library_goes_with_its_signer() {
    let files = Files::new();
    let trusted = files.open();
    files.write_bundle(2, &sshsig::generate("").unwrap());
    assert!(matches!(&trusted.take_bundle()[..], [Change::Bundle(2), Change::LibraryRefused(_)]));
    assert!(trusted.library().is_none());
    assert!(matches!(trusted.take_library(), Some(Change::LibraryRefused(_))), "it is still the old signer's");
}

#[tokio::test]
async fn a_file_that_changed_before_the_watch_began_is_taken() {
    let files = Files::new();
    let trusted = files.open();
    files.write_bundle(2, &files.signer);
    let (told, mut changes) = tokio::sync::mpsc::channel(1);
    let watching = trusted.clone().watch(move |change| told.try_send(change).unwrap());
    tokio::select! {
        () = watching => unreachable!("it watches for ever"),
        change = changes.recv() => assert_eq!(change, Some(Change::Bundle(2))),
    }
}
