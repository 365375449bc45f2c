//! The master's directory against a real OpenLDAP server.
//!
//! These tests need the Debian packages slapd, ldap-utils and openssl, and fail with the package's name without them.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reeve_lab::openldap::{BASE, BIND_DN, Cast, OpenLdap, PEOPLE, group_dn, make_authority, person_dn, rung_dn};
use reeve_master::directory::{Answer, AuthFailure, Directory, DirectoryConfig, Person, Problem, State, Unavailable};
use reeve_wire::name::Name;

/// A server with the cast in it, ended with the test.
struct Site {
    slapd: OpenLdap,
    passwords: BTreeMap<String, String>,
    dir: tempfile::TempDir,
}

impl Drop for Site {
    fn drop(&mut self) {
        drop(self.slapd.kill());
    }
}

impl Site {
    fn new() -> Self {
        Self::with_load_hosts(0)
    }

    fn with_load_hosts(load_hosts: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let passwords: BTreeMap<_, _> = PEOPLE.map(|name| (name.to_owned(), format!("{name}:correct:horse"))).into();
        let cast = Cast { passwords: passwords.clone(), load_hosts };
        let slapd = OpenLdap::start(&dir.path().join("openldap"), &cast).unwrap_or_else(|e| unavailable(&e));
        Self { slapd, passwords, dir }
    }

    fn settings(&self) -> Settings {
        Settings {
            url: self.slapd.url(),
            ca: self.slapd.ca(),
            password_file: self.slapd.password_file(),
            more: String::new(),
        }
    }

    fn open(&self) -> Directory {
        self.settings().open()
    }
}

#[expect(clippy::panic, reason = "a machine without slapd fails the test and says what to install")]
fn unavailable(error: &dyn std::error::Error) -> ! {
    panic!("no OpenLDAP for this test: {error}")
}

/// The `[directory]` table of a master.
struct Settings {
    url: String,
    ca: PathBuf,
    password_file: PathBuf,
    more: String,
}

impl Settings {
    fn config(&self) -> DirectoryConfig {
        let (url, ca, file, more) = (&self.url, self.ca.display(), self.password_file.display(), &self.more);
        let text = format!(
            "kind = 'ldap'\nurl = '{url}'\nca = '{ca}'\nbase = '{BASE}'\nbind-dn = '{BIND_DN}'\n\
             password-file = '{file}'\n{more}"
        );
        toml::from_str(&text).unwrap()
    }

    fn open(&self) -> Directory {
        Directory::open(&self.config()).unwrap()
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

async fn person(directory: &Directory, who: &str) -> Person {
    let answer = directory.standing(&name(who)).await.unwrap();
    Person::clone(&answer.person.expect(who))
}

/// `contoso/web01 3` and so on.
fn levels(person: &Person) -> Vec<String> {
    person.rights.iter().map(|(host, right)| format!("{host} {}", right.level)).collect()
}

/// Asks until the answer is as wanted, and says how long that took.
async fn until(
    most: Duration,
    mut ask: impl AsyncFnMut() -> Result<Answer, Unavailable>,
    wanted: impl Fn(&Result<Answer, Unavailable>) -> bool,
) -> Duration {
    let began = Instant::now();
    loop {
        let answer = ask().await;
        if wanted(&answer) {
            return began.elapsed();
        }
        assert!(began.elapsed() < most, "not within {most:?}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn has_no_rights(answer: &Result<Answer, Unavailable>) -> bool {
    matches!(answer, Ok(Answer { person: Some(person), .. }) if person.rights.is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_of_the_cast_has_what_the_cast_says() {
    let site = Site::new();
    let directory = site.open();
    directory.check().await.unwrap();

    for (who, state, staff, rights) in [
        ("alice", State::Good, true, vec!["contoso/db01 3", "contoso/web01 3"]),
        ("bob", State::Good, true, vec!["contoso/db01 1", "contoso/web01 2"]),
        ("carol", State::Good, true, vec!["contoso/db01 1", "contoso/web01 1"]),
        ("dave", State::Good, true, vec![]),
        ("mallory", State::Good, false, vec!["contoso/db01 3", "contoso/web01 3"]),
        ("frank", State::Good, true, vec!["fabrikam/mail01 3"]),
        ("oscar", State::Disabled, true, vec!["contoso/db01 3", "contoso/web01 3"]),
        ("sam", State::Good, true, vec![]),
        ("erin", State::Good, true, vec![]),
    ] {
        let person = person(&directory, who).await;
        assert_eq!(
            (person.state, person.staff, levels(&person)),
            (state, staff, rights.iter().map(|&r| r.to_owned()).collect()),
            "{who}"
        );
        assert_eq!(person.id.len(), 36, "{who} has an entryUUID: {}", person.id);
    }
    let frank = person(&directory, "frank").await;
    assert_eq!(frank.rights[&"fabrikam/mail01".parse().unwrap()].via_group, rung_dn("fabrikam", "mail01", 3));
    assert!(directory.standing(&name("nobody")).await.unwrap().person.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_needs_the_name_and_its_password() {
    let site = Site::new();
    let directory = site.open();

    for who in PEOPLE.iter().filter(|who| **who != "oscar") {
        let identity = directory.authenticate(&name(who), &site.passwords[*who]).await.unwrap();
        assert_eq!((identity.name.as_str(), identity.id), (*who, person(&directory, who).await.id));
    }
    let fails = async |who: &str, password: &str| directory.authenticate(&name(who), password).await.unwrap_err();
    let wrong = fails("alice", "alice:wrong").await;
    let unknown = fails("nobody", "alice:correct:horse").await;
    let of_another = fails("alice", &site.passwords["bob"]).await;
    let shut = fails("oscar", &site.passwords["oscar"]).await;
    assert_eq!([&wrong, &unknown, &of_another], [&AuthFailure::WrongPassword; 3]);
    assert_eq!(shut, AuthFailure::AccountState { state: State::Disabled, password_was_right: false });
    assert_eq!(shut.to_string(), unknown.to_string(), "the technician is told the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_none_is_refused_before_any_packet() {
    let site = Site::new();
    let directory = site.open();
    person(&directory, "alice").await;
    let mut changed = directory.changed();
    changed.wait_for(|epoch| *epoch > 0).await.unwrap();
    let connections = site.slapd.log().matches(" ACCEPT ").count();

    for password in ["", " ", "\t\n", "\0", "alice:correct:horse\0", &"x".repeat(4096)] {
        assert_eq!(
            directory.authenticate(&name("alice"), password).await,
            Err(AuthFailure::WrongPassword),
            "{:?}",
            password.get(..20)
        );
    }

    let log = site.slapd.log();
    assert_eq!(log.matches(" ACCEPT ").count(), connections, "no connection was made");
    assert!(!log.contains("BIND dn=\"uid=alice"), "and alice's DN was not bound");
    directory.authenticate(&name("alice"), &site.passwords["alice"]).await.unwrap();
    assert_eq!(site.slapd.log().matches(" ACCEPT ").count(), connections + 1, "a real password makes one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_membership_that_ends_is_felt_within_max_age() {
    let site = Site::new();
    let directory = Settings { more: "max-age = '500ms'".to_owned(), ..site.settings() }.open();
    site.slapd.remove_member(&rung_dn("contoso", "db01", 1), &person_dn("bob")).unwrap();
    assert_eq!(levels(&person(&directory, "bob").await), ["contoso/web01 2"]);

    site.slapd.modify(&format!("dn: {}\nchangetype: delete\n", rung_dn("contoso", "web01", 2))).unwrap();

    let felt = until(Duration::from_secs(5), async || directory.standing(&name("bob")).await, has_no_rights).await;
    assert!(felt < Duration::from_millis(1500), "felt after {felt:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_membership_that_ends_rings_within_three_seconds() {
    let site = Site::new();
    let directory = Settings { more: "max-age = '60s'".to_owned(), ..site.settings() }.open();
    let mut changed = directory.changed();
    changed.wait_for(|epoch| *epoch > 0).await.unwrap();
    assert_eq!(levels(&person(&directory, "frank").await), ["fabrikam/mail01 3"]);
    changed.mark_unchanged();

    site.slapd.remove_member(&group_dn("Fabrikam Engineers EU"), &person_dn("sam")).unwrap_err();
    site.slapd.add_member(&group_dn("Fabrikam Engineers EU"), &person_dn("sam")).unwrap();
    site.slapd.remove_member(&group_dn("Fabrikam Engineers EU"), &person_dn("frank")).unwrap();

    let began = Instant::now();
    tokio::time::timeout(Duration::from_secs(5), changed.changed()).await.expect("a ring").unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "rang after {:?}", began.elapsed());
    assert!(person(&directory, "frank").await.rights.is_empty(), "the kept answer is gone with the ring");
    assert_eq!(levels(&person(&directory, "sam").await), ["fabrikam/mail01 3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_shut_or_opened_is_felt() {
    let site = Site::new();
    let directory = site.open();
    let fresh = async |who: &str| directory.standing_fresh(&name(who)).await.unwrap().person.unwrap().state;
    assert_eq!(fresh("alice").await, State::Good);

    site.slapd.disable("alice").unwrap();
    site.slapd.enable("oscar").unwrap();

    assert_eq!((fresh("alice").await, fresh("oscar").await), (State::Disabled, State::Good));
    let shut = directory.authenticate(&name("alice"), &site.passwords["alice"]).await.unwrap_err();
    assert!(matches!(shut, AuthFailure::AccountState { state: State::Disabled, .. }), "{shut:?}");
    directory.authenticate(&name("oscar"), &site.passwords["oscar"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_reset_by_the_administrator_must_be_changed_first() {
    let site = Site::new();
    let directory = site.open();
    let dn = person_dn("carol");

    site.slapd.modify(&format!("dn: {dn}\nchangetype: modify\nadd: pwdReset\npwdReset: TRUE\n")).unwrap();

    let failure = directory.authenticate(&name("carol"), &site.passwords["carol"]).await.unwrap_err();
    assert_eq!(failure, AuthFailure::AccountState { state: State::MustChange, password_was_right: true });
    assert_eq!(person(&directory, "carol").await.state, State::MustChange);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_wrong_passwords_lock_the_account_and_that_is_felt() {
    let site = Site::new();
    let directory = site.open();
    for _ in 0..10 {
        assert!(directory.authenticate(&name("bob"), "bob:wrong").await.is_err());
    }
    let locked = |answer: &Result<Answer, Unavailable>| matches!(answer, Ok(Answer { person: Some(person), .. }) if person.state == State::Locked);

    until(Duration::from_secs(5), async || directory.standing(&name("bob")).await, locked).await;

    let failure = directory.authenticate(&name("bob"), &site.passwords["bob"]).await.unwrap_err();
    assert_eq!(failure, AuthFailure::AccountState { state: State::Locked, password_was_right: false });
    assert_eq!(person(&directory, "alice").await.state, State::Good, "the service's own connection is still bound");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_gives_no_answer_and_recovers_by_itself() {
    let site = Site::new();
    let directory = Settings { more: "max-age = '0s'".to_owned(), ..site.settings() }.open();
    assert!(directory.standing(&name("alice")).await.is_ok());
    let ask = async || directory.standing(&name("alice")).await;

    site.slapd.stop().unwrap();

    let began = Instant::now();
    until(Duration::from_secs(5), ask, Result::is_err).await;
    let login = directory.authenticate(&name("alice"), &site.passwords["alice"]).await.unwrap_err();
    assert!(matches!(login, AuthFailure::Unavailable(Unavailable::Unreachable { .. })), "{login}");
    assert!(began.elapsed() < Duration::from_secs(5));

    site.slapd.start_again().unwrap();
    until(Duration::from_secs(5), ask, Result::is_ok).await;
    directory.authenticate(&name("alice"), &site.passwords["alice"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_gives_no_answer_and_its_connection_is_given_up() {
    let site = Site::new();
    let directory = Settings { more: "max-age = '0s'".to_owned(), ..site.settings() }.open();
    assert!(directory.standing(&name("alice")).await.is_ok());

    site.slapd.freeze().unwrap();
    let began = Instant::now();
    let hung = directory.standing(&name("alice")).await.unwrap_err();
    let took = began.elapsed();
    site.slapd.thaw().unwrap();

    assert!(matches!(hung, Unavailable::TimedOut { .. }), "{hung}");
    assert!(took < Duration::from_secs(3), "took {took:?}");
    until(Duration::from_secs(5), async || directory.standing(&name("alice")).await, Result::is_ok).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_our_ca_or_with_another_name_is_not_spoken_to() {
    let site = Site::new();
    let other = make_authority(&site.dir.path().join("other")).unwrap();
    let by_address = format!("ldaps://127.0.0.1:{}", site.slapd.port());

    for (settings, says) in [
        (Settings { ca: other, ..site.settings() }, "certificate"),
        (Settings { url: by_address, ..site.settings() }, "not valid for name"),
    ] {
        let directory = settings.open();
        let refused = directory.standing(&name("alice")).await.unwrap_err();
        assert!(matches!(&refused, Unavailable::Unreachable { why, .. } if why.contains(says)), "{refused}");
        let login = directory.authenticate(&name("alice"), &site.passwords["alice"]).await.unwrap_err();
        assert!(matches!(login, AuthFailure::Unavailable(_)), "{login}");
    }
    let log = site.slapd.log();
    assert!(!log.contains("BIND dn=\"cn=reeve") && !log.contains("BIND dn=\"uid="), "no password was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_who_ask_at_once_make_a_handful_of_searches() {
    let site = Site::new();
    let directory = Arc::new(site.open());
    // The first ring would begin a second question.
    directory.changed().wait_for(|epoch| *epoch > 0).await.unwrap();
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..1000 {
        let directory = Arc::clone(&directory);
        let who = name(["alice", "bob", "carol", "frank"][number % 4]);
        asking.spawn(async move { directory.standing(&who).await });
    }

    let answers = asking.join_all().await;

    assert_eq!(answers.len(), 1000);
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer.person.is_some())));
    let log = site.slapd.log();
    assert_eq!(log.matches("filter=\"(&(objectClass=inetOrgPerson)(uid=").count(), 4, "one for each person");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_of_groups_ends_and_ten_levels_are_the_most() {
    let site = Site::new();
    let directory = site.open();
    let dave = person(&directory, "dave").await;
    assert!(dave.staff && dave.rights.is_empty());

    let group = |number: u32| group_dn(&format!("Deep {number:02}"));
    for number in 1..=10 {
        let member = if number == 1 { person_dn("dave") } else { group(number - 1) };
        let dn = group(number);
        site.slapd
            .modify(&format!("dn: {dn}\nchangetype: add\nobjectClass: groupOfNames\nmember: {member}\n"))
            .unwrap();
    }
    site.slapd.add_member(&rung_dn("contoso", "web01", 3), &group(9)).unwrap();
    let deep = directory.standing_fresh(&name("dave")).await.unwrap().person.unwrap();
    assert_eq!(levels(&deep), ["contoso/web01 3"], "the tenth group counts");

    site.slapd.add_member(&rung_dn("contoso", "db01", 3), &group(10)).unwrap();
    let too_deep = directory.standing_fresh(&name("dave")).await.unwrap_err();
    assert_eq!(too_deep, Unavailable::NestedTooDeep { limit: 10 });
    assert!(directory.standing_fresh(&name("alice")).await.is_ok(), "and it is dave's trouble alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_accounts_of_one_name_are_nobody() {
    let site = Site::new();
    let directory = site.open();
    let twin = format!("uid=bob,ou=services,{BASE}");

    site.slapd
        .modify(&format!(
            "dn: {twin}\nchangetype: add\nobjectClass: inetOrgPerson\nuid: bob\ncn: bob\nsn: bob\nuserPassword: x\n"
        ))
        .unwrap();

    let ambiguous = directory.standing(&name("bob")).await.unwrap_err();
    assert_eq!(ambiguous, Unavailable::AmbiguousIdentity { name: "bob".to_owned() });
    for password in ["x", site.passwords["bob"].as_str()] {
        assert!(directory.authenticate(&name("bob"), password).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_made_again_has_another_id_and_a_lookalike_is_nobody() {
    let site = Site::new();
    let directory = site.open();
    let before = person(&directory, "bob").await.id;
    let dn = person_dn("bob");
    let add = "objectClass: inetOrgPerson\ncn: bob\nsn: bob\nuserPassword: x\n";

    site.slapd.modify(&format!("dn: {dn}\nchangetype: delete\n")).unwrap();
    assert!(directory.standing_fresh(&name("bob")).await.unwrap().person.is_none());

    // The server compares names after compatibility normalisation, so this one answers to `bob` too.
    let lookalike = format!("uid=ｂｏｂ,ou=people,{BASE}");
    site.slapd.modify(&format!("dn: {lookalike}\nchangetype: add\nuid: ｂｏｂ\n{add}")).unwrap();
    assert!(directory.standing_fresh(&name("bob")).await.unwrap().person.is_none());
    site.slapd.modify(&format!("dn: {lookalike}\nchangetype: delete\n")).unwrap();

    site.slapd.modify(&format!("dn: {dn}\nchangetype: add\nuid: bob\n{add}")).unwrap();
    let after = directory.standing_fresh(&name("bob")).await.unwrap().person.unwrap();
    assert_ne!(after.id, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_password_that_is_wrong_is_said_and_not_tried_over_and_over() {
    let site = Site::new();
    let file = site.dir.path().join("service.password");
    secret(&file, "wrong");
    let directory = Settings { password_file: file.clone(), ..site.settings() }.open();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        let refused = directory.standing_fresh(&name("alice")).await.unwrap_err();
        assert!(matches!(refused, Unavailable::ServiceRefused { .. }), "{refused}");
        tokio::task::yield_now().await;
    }
    // At 0, 1 and 3 s.
    let binds = site.slapd.log().matches(&format!("BIND dn=\"{BIND_DN}\" method")).count();
    assert!((1..=4).contains(&binds), "{binds} binds");

    secret(&file, site.slapd.bind_password());
    until(Duration::from_secs(10), async || directory.standing(&name("alice")).await, Result::is_ok).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_up_is_dialled_once_a_second() {
    let site = Site::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("ldaps://localhost:{}", listener.local_addr().unwrap().port());
    let dialled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&dialled);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            drop(connection);
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let directory = Settings { url, ..site.settings() }.open();
    let began = Instant::now();
    let mut asked = 0;

    while began.elapsed() < Duration::from_millis(3500) {
        assert!(directory.standing_fresh(&name(&format!("tech{asked}"))).await.is_err());
        asked += 1;
        tokio::task::yield_now().await;
    }

    let dialled = dialled.load(Ordering::SeqCst);
    assert!(asked > 20 && (2..=5).contains(&dialled), "{asked} questions, {dialled} connections");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_what_the_directory_does_not_have() {
    let site = Site::new();

    let directory = Settings { more: "staff-group = 'NOC Stuff'".to_owned(), ..site.settings() }.open();

    let missing = directory.check().await.unwrap_err().to_string();
    assert!(missing.contains("cn=NOC Stuff,dc=noc,dc=example"), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_technician_may_hold_a_level_on_thousands_of_hosts() {
    let site = Site::with_load_hosts(3000);
    let directory = site.open();

    let began = Instant::now();
    let alice = directory.standing(&name("alice")).await.unwrap();
    let took = began.elapsed();

    assert_eq!(alice.person.unwrap().rights.len(), 3002);
    assert!(took < Duration::from_millis(2900), "took {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_is_refused_with_all_its_problems() {
    let site = Site::new();
    let file = site.dir.path().join("service.password");
    std::fs::write(&file, "x").unwrap();
    let settings = Settings {
        url: "ldap://localhost:389".to_owned(),
        ca: site.slapd.password_file(),
        password_file: file,
        more: "servers-ou = 'ou=x,dc=elsewhere'".to_owned(),
    };

    let problems = Directory::open(&settings.config()).unwrap_err();

    assert!(matches!(problems[0], Problem::Plaintext(_)), "{problems:?}");
    assert!(matches!(problems[1], Problem::Ca { .. }), "{problems:?}");
    assert!(matches!(problems[2], Problem::ReadableByOthers { .. }), "{problems:?}");
    assert!(matches!(problems[3], Problem::OutsideBase { .. }), "{problems:?}");
    assert_eq!(problems.len(), 4);
}

fn secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}
