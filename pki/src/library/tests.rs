use super::*;
use reeve_wire::bundle::Trust;
use reeve_wire::library::SignedIndex;
use reeve_wire::sshsig;

use crate::ca::Ca;

const NOW: Millis = Millis(1_800_000_000_000);

/// A library of one item, with a signer.
struct Shelf {
    folder: tempfile::TempDir,
    key: PrivateKey,
}

impl Shelf {
    fn new() -> Self {
        let shelf = Self { folder: tempfile::tempdir().unwrap(), key: sshsig::generate("").unwrap() };
        shelf.put("uptime", 1, "uptime");
        shelf
    }

    fn put(&self, name: &str, version: u64, program: &str) {
        let item = self.folder.path().join(name);
        std::fs::create_dir_all(&item).unwrap();
        let manifest = format!(
            "name = \"{name}\"\nversion = {version}\nsummary = \"Load\"\nlevel = 1\nplatforms = [\"linux\"]\n\
             timeout = \"10s\"\nargv = [\"{program}\"]\n"
        );
        std::fs::write(item.join("manifest.toml"), manifest).unwrap();
    }

    fn sign(&self, site: &str) -> Result<u64, LibraryError> {
        let library = Library::read(self.folder.path())?;
        let signed = library.sign(&Self::site(site), 0, &self.key, NOW)?;
        signed.write()?;
        Ok(signed.version())
    }

    fn site(name: &str) -> Name {
        name.parse().unwrap()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.path().join("signed").join(name)).unwrap()
    }

    /// A bundle that trusts the signer.
    fn trust(&self) -> Trust {
        let folder = tempfile::tempdir().unwrap();
        let passphrase = Passphrase::Given("pass".to_owned().into());
        let mut ca = Ca::init(&folder.path().join("ca"), &Self::site("lab"), &passphrase, NOW).unwrap();
        let signer = reeve_wire::keyfile::KeyLine::new(self.key.public_key().key_data().clone()).unwrap();
        ca.add_library_signer(&signer, NOW).unwrap();
        ca.sign_trust(&passphrase, NOW).unwrap()
    }
}

#[test]
fn what_was_signed_is_what_agents_take() {
    let shelf = Shelf::new();
    shelf.put("disk", 7, "df");
    std::fs::create_dir(shelf.folder.path().join(".git")).unwrap();
    std::fs::write(shelf.folder.path().join("README.md"), "About").unwrap();
    assert_eq!(shelf.sign("lab").unwrap(), 1);

    let index = SignedIndex::open(Signed::from_wire(&shelf.read("index")).unwrap(), &shelf.trust()).unwrap();
    assert_eq!((index.site.as_str(), index.version, index.issued), ("lab", 1, NOW));
    let items: Vec<_> = index.items.iter().map(|item| (item.name.as_str(), item.version)).collect();
    assert_eq!(items, [("disk", 7), ("uptime", 1)]);
    for item in index.items.clone() {
        let bytes = shelf.read(&format!("packages/{}-{}.json", item.name, item.version));
        assert_eq!(index.package(&item, &bytes).unwrap().name, item.name);
    }
}

#[test]
fn the_index_rises_and_packages_of_earlier_versions_stay() {
    let shelf = Shelf::new();
    assert_eq!(shelf.sign("lab").unwrap(), 1);
    assert_eq!(shelf.sign("lab").unwrap(), 2);
    shelf.put("uptime", 2, "w");
    assert_eq!(shelf.sign("lab").unwrap(), 3);
    assert!(!shelf.read("packages/uptime-1.json").is_empty() && !shelf.read("packages/uptime-2.json").is_empty());

    let library = Library::read(shelf.folder.path()).unwrap();
    let behind_the_ca = library.sign(&Shelf::site("lab"), 40, &shelf.key, NOW).unwrap();
    assert_eq!(behind_the_ca.version(), 41);
}

#[test]
fn an_item_that_changed_or_went_back_needs_a_higher_version() {
    let shelf = Shelf::new();
    shelf.put("uptime", 2, "uptime");
    shelf.sign("lab").unwrap();
    shelf.put("uptime", 2, "reboot");
    assert!(matches!(shelf.sign("lab"), Err(LibraryError::SameVersion { version: 2, .. })));
    shelf.put("uptime", 1, "uptime");
    assert!(matches!(shelf.sign("lab"), Err(LibraryError::LowerVersion { version: 1, signed: 2, .. })));
    shelf.put("uptime", 3, "reboot");
    assert_eq!(shelf.sign("lab").unwrap(), 2);
}

#[test]
fn an_index_of_another_site_or_of_nobody_is_not_gone_on_from() {
    let shelf = Shelf::new();
    shelf.sign("lab").unwrap();
    assert!(matches!(shelf.sign("other"), Err(LibraryError::OtherSite { .. })));
    std::fs::write(shelf.folder.path().join("signed/index"), "not an index").unwrap();
    assert!(matches!(shelf.sign("lab"), Err(LibraryError::LastIndex { .. })));
}

#[test]
fn one_bad_item_stops_the_whole_library_and_every_problem_is_told() {
    let shelf = Shelf::new();
    shelf.put("disk", 0, "df");
    std::fs::create_dir(shelf.folder.path().join("empty")).unwrap();
    let refused = shelf.sign("lab").unwrap_err().to_string();
    let lines: Vec<_> = refused.lines().collect();
    assert!(lines.len() == 2 && lines[0].contains("disk/manifest.toml:2:"), "{refused}");
    assert!(lines[1].contains("empty/manifest.toml:1:"), "{refused}");
    assert!(!shelf.folder.path().join("signed").exists());
}

#[test]
fn a_folder_without_items_is_no_library() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(Library::read(folder.path()), Err(LibraryError::Empty(_))));
}

#[test]
fn an_encrypted_signer_key_opens_with_its_passphrase() {
    let shelf = Shelf::new();
    let path = shelf.folder.path().join("signer");
    let locked = shelf.key.encrypt(&mut rand::rng(), "open sesame").unwrap();
    keyfile::write_secret(&path, locked.to_openssh(ssh_key::LineEnding::LF).unwrap().as_bytes()).unwrap();
    let opened = |word: &str| signer_key(&path, &Passphrase::Given(word.to_owned().into()));
    assert_eq!(opened("open sesame").unwrap().public_key().key_data(), shelf.key.public_key().key_data());
    assert!(matches!(opened("sesame"), Err(LibraryError::WrongPassphrase(_))));
}

#[test]
fn the_library_that_reeve_ships_is_good() {
    let shipped = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../library"));
    let library = Library::read(shipped).unwrap_or_else(|error| panic!("{error}"));
    let names: Vec<_> = library.items().iter().map(|item| item.reference.name.as_str()).collect();
    for name in ["disk", "script", "service-restart", "uptime"] {
        assert!(names.contains(&name), "{names:?}");
    }
}
