use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::directory::{AuthFailure, Directory, DirectoryConfig};

/// One hash for all, because each takes a while. The password is `s3cret`.
static HASH: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| hash_password("s3cret").unwrap());

struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    fn new(text: &str) -> Self {
        let site = Self { dir: tempfile::tempdir().unwrap() };
        site.write(text);
        site
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("people.toml")
    }

    /// Puts the file in place at once, as an editor does.
    fn write(&self, text: &str) {
        let draft = self.dir.path().join("draft");
        std::fs::write(&draft, text.replace("HASH", &HASH)).unwrap();
        std::fs::set_permissions(&draft, PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::rename(&draft, self.path()).unwrap();
    }

    fn config(&self) -> DirectoryConfig {
        DirectoryConfig::File(FileConfig { path: self.path(), max_age: Duration::from_secs(5) })
    }

    fn open(&self) -> Directory {
        Directory::open(&self.config()).unwrap()
    }

    fn problems(&self) -> String {
        let problems = Directory::open(&self.config()).unwrap_err();
        problems.iter().map(|problem| format!("{problem}\n")).collect()
    }
}

const NOC: &str = r#"
staff = ["alice", "bob", "group:night-shift", "oscar"]

[people]
alice = { id = "a-1", password = "HASH" }
bob = { id = "b-1", password = "HASH" }
frank = { id = "f-1", password = "HASH" }
mallory = { id = "m-1", password = "HASH" }
oscar = { id = "o-1", password = "HASH", disabled = true }

[groups]
night-shift = ["group:mail-engineers"]
mail-engineers = ["frank", "group:night-shift"]

[hosts."contoso/web01"]
l1 = ["bob", "alice"]
l3 = ["alice", "mallory", "oscar"]

[hosts."fabrikam/mail01"]
l2 = ["group:night-shift"]
"#;

async fn person(directory: &Directory, name: &str) -> Person {
    let answer = directory.standing(&name.parse().unwrap()).await.unwrap();
    Person::clone(&answer.person.unwrap())
}

fn rights(person: &Person) -> Vec<(String, u8, &str)> {
    person.rights.iter().map(|(host, right)| (host.to_string(), right.level.number(), &*right.via_group)).collect()
}

#[tokio::test]
async fn the_file_says_who_may_do_what() {
    let site = Site::new(NOC);
    let directory = site.open();

    let alice = person(&directory, "alice").await;
    assert_eq!((alice.id.as_str(), alice.state, alice.staff), ("a-1", State::Good, true));
    assert_eq!(rights(&alice), [("contoso/web01".to_owned(), 3, "alice")], "the higher of two levels");

    let frank = person(&directory, "frank").await;
    assert!(frank.staff, "through nested groups with a loop in them");
    assert_eq!(rights(&frank), [("fabrikam/mail01".to_owned(), 2, "group:night-shift")]);

    let mallory = person(&directory, "mallory").await;
    assert_eq!((mallory.staff, rights(&mallory).len()), (false, 1));

    assert_eq!(person(&directory, "oscar").await.state, State::Disabled);
    assert!(directory.standing(&"nobody".parse().unwrap()).await.unwrap().person.is_none());
}

#[tokio::test]
async fn a_login_needs_a_known_name_its_password_and_an_account_in_use() {
    let site = Site::new(NOC);
    let directory = site.open();
    let login = async |name: &str, password: &str| directory.authenticate(&name.parse().unwrap(), password).await;

    assert_eq!(login("alice", "s3cret").await.unwrap().id, "a-1");
    assert_eq!(login("alice", "s3creT").await, Err(AuthFailure::WrongPassword));
    assert_eq!(login("nobody", "s3cret").await, Err(AuthFailure::WrongPassword));
    assert_eq!(login("nobody", "nobody has this password").await, Err(AuthFailure::WrongPassword));
    for password in ["", " ", "\0", &"s3cret".repeat(700)] {
        assert_eq!(login("alice", password).await, Err(AuthFailure::WrongPassword), "{password:?}");
    }
    let disabled = |password_was_right| Err(AuthFailure::AccountState { state: State::Disabled, password_was_right });
    assert_eq!(login("oscar", "s3cret").await, disabled(true));
    assert_eq!(login("oscar", "wrong").await, disabled(false));
}

#[tokio::test]
async fn an_unknown_name_takes_as_long_as_a_wrong_password() {
    let site = Site::new(NOC);
    let directory = site.open();
    let quickest = async |name: &str| {
        let mut quickest = Duration::MAX;
        for _ in 0..5 {
            let began = Instant::now();
            directory.authenticate(&name.parse().unwrap(), "wrong").await.unwrap_err();
            quickest = quickest.min(began.elapsed());
        }
        quickest
    };

    let (known, unknown) = (quickest("alice").await, quickest("nobody").await);

    assert!(unknown > known / 3 && unknown < known * 3, "known {known:?}, unknown {unknown:?}");
}

#[tokio::test]
async fn a_change_of_the_file_is_felt_and_rings() {
    let site = Site::new(NOC);
    let directory = site.open();
    let mut changed = directory.changed();
    assert_eq!(rights(&person(&directory, "bob").await).len(), 1);

    site.write(&NOC.replace("l1 = [\"bob\", \"alice\"]", "l1 = [\"alice\"]"));

    let fresh = directory.standing_fresh(&"bob".parse().unwrap()).await.unwrap();
    assert!(fresh.person.unwrap().rights.is_empty());
    tokio::time::timeout(Duration::from_secs(5), changed.changed()).await.expect("rings within 5 s").unwrap();
    assert!(person(&directory, "bob").await.rights.is_empty());
}

#[tokio::test]
async fn a_file_that_breaks_answers_nothing_until_it_is_whole_again() {
    let site = Site::new(NOC);
    let directory = site.open();
    let alice = "alice".parse().unwrap();
    assert!(directory.standing(&alice).await.is_ok());

    site.write("staff = [\"alice\"");
    let broken = directory.standing_fresh(&alice).await.unwrap_err();
    assert!(matches!(broken, Unavailable::BadFile { .. }), "{broken}");

    site.write(NOC);
    std::fs::set_permissions(site.path(), PermissionsExt::from_mode(0o666)).unwrap();
    assert!(directory.check().await.unwrap_err().to_string().contains("chmod go-w"));

    std::fs::remove_file(site.path()).unwrap();
    assert!(directory.check().await.unwrap_err().to_string().contains("cannot be read"));

    site.write(NOC);
    let deadline = Instant::now() + Duration::from_secs(5);
    while directory.standing_fresh(&alice).await.is_err() {
        assert!(Instant::now() < deadline, "still broken");
        tokio::task::yield_now().await;
    }
}

#[test]
fn all_problems_of_a_file_are_reported_together() {
    let site = Site::new(
        r#"
staff = ["alice", "group:nights", "carol"]
[people]
alice = { id = "1", password = "HASH" }
bob = { id = "1", password = "hunter2" }
[groups]
days = ["group:days", "group:alice", "A"]
[hosts."contoso/web01"]
l2 = ["bob", "dave"]
"#,
    );

    let problems = site.problems();

    for says in [
        "people.bob needs an id",
        "people.bob: password is not an argon2id hash",
        "staff names \"group:nights\"",
        "staff names \"carol\"",
        "groups.days names \"group:alice\"",
        "groups.days names \"A\"",
        "hosts.\"contoso/web01\".l2 names \"dave\"",
    ] {
        assert!(problems.contains(says), "{says} in\n{problems}");
    }
    assert_eq!(problems.lines().count(), 7, "{problems}");
}

#[test]
fn a_misspelt_key_or_name_and_a_wrong_mode_are_problems() {
    for (text, says) in [
        ("[people.alice]\nid = '1'\npassword = 'HASH'\ndisbaled = true", "disbaled"),
        ("[people.ALICE]\nid = '1'\npassword = 'HASH'", "ALICE"),
        ("[hosts.web01]\nl1 = []", "web01"),
        ("[hosts.'contoso/web01']\nl4 = []", "l4"),
    ] {
        let problems = Site::new(text).problems();
        assert!(problems.contains(says), "{problems}");
    }
    let site = Site::new(NOC);
    std::fs::set_permissions(site.path(), PermissionsExt::from_mode(0o644)).unwrap();
    assert!(site.problems().contains("holds secrets that others can read"));
}
