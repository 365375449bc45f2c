use std::os::unix::fs::PermissionsExt as _;

use reeve_wire::delegation::LONGEST;
use reeve_wire::id::Salt;
use reeve_wire::keyfile::KeyLine;
use reeve_wire::level::Level;
use reeve_wire::sshsig;
use reeve_wire::time::Clock;

use super::*;
use crate::papers::Papers;

fn now() -> Millis {
    Clock::system().now()
}

fn site() -> Name {
    "noc".parse().unwrap()
}

fn session(papers: &Papers, not_before: Millis) -> Session {
    let key = sshsig::generate("session").unwrap();
    let delegation = Delegation {
        v: V1,
        site: site(),
        technician_cert: papers.alice(now()).certificate,
        session_key: KeyLine::new(key.public_key().key_data().clone()).unwrap(),
        max_level: Level::Three,
        not_before,
        not_after: not_before.plus(LONGEST),
        nonce: Salt::random(),
    };
    let signed = Signed::make(&delegation, &papers.alice).unwrap();
    Session::new(key, signed, &papers.alice(now()), &site(), not_before).unwrap()
}

fn places(configured: &Path) -> Places {
    Places { configured: Some(configured.to_owned()), xdg: None, run_user: "/nowhere".into(), home: None }
}

fn name() -> Name {
    "alice".parse().unwrap()
}

fn open(folder: &Path) -> Result<Sessions, Failure> {
    Sessions::open(&places(folder), &site(), &name())
}

#[test]
fn a_session_comes_back_until_it_is_nearly_over_and_not_after_logout() {
    let (papers, folder) = (Papers::new(), tempfile::tempdir().unwrap());
    let sessions = open(&folder.path().join("run")).unwrap();
    let began = now();
    let session = session(&papers, began);
    sessions.store(&session).unwrap();

    let alice = papers.alice(began);
    let back = sessions.load(&alice, began).unwrap();
    assert!(back.is(&session) && back.key().key_data() == session.key().key_data());
    let end = session.until();
    assert!(sessions.load(&alice, end.minus(NEARLY_OVER + Duration::from_secs(1))).is_some());
    assert!(sessions.load(&alice, end.minus(NEARLY_OVER)).is_none());

    sessions.remove().unwrap();
    sessions.remove().unwrap();
    assert!(sessions.load(&alice, began).is_none());
    assert_eq!(std::fs::read_dir(folder.path().join("run")).unwrap().count(), 0);
}

#[test]
fn a_session_file_is_nobody_elses_to_read_and_is_not_believed_when_it_could_have_been() {
    let (papers, folder) = (Papers::new(), tempfile::tempdir().unwrap());
    let run = folder.path().join("run");
    let sessions = open(&run).unwrap();
    sessions.store(&session(&papers, now())).unwrap();

    let file = run.join("alice@noc.session");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&run), mode(&file)), (0o700, 0o600));

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(sessions.load(&papers.alice(now()), now()).is_none());
}

#[test]
fn a_session_of_another_certificate_or_key_is_no_session() {
    let (papers, folder) = (Papers::new(), tempfile::tempdir().unwrap());
    let sessions = open(&folder.path().join("run")).unwrap();
    sessions.store(&session(&papers, now())).unwrap();
    let renewed = Technician { certificate: reeve_wire::id::Digest([7; 32]), ..papers.alice(now()) };
    assert!(sessions.load(&renewed, now()).is_none());

    let (one, other) = (session(&papers, now()), session(&papers, now()));
    let swapped = Session { key: one.key, delegation: other.delegation, until: other.until };
    sessions.store(&swapped).unwrap();
    assert!(sessions.load(&papers.alice(now()), now()).is_none());
}

#[test]
fn half_a_file_is_no_session() {
    let (papers, folder) = (Papers::new(), tempfile::tempdir().unwrap());
    let run = folder.path().join("run");
    let sessions = open(&run).unwrap();
    sessions.store(&session(&papers, now())).unwrap();
    let whole = std::fs::read(run.join("alice@noc.session")).unwrap();

    for length in [0, 1, whole.len() / 2, whole.len() - 1] {
        keyfile::write_secret(&run.join("alice@noc.session"), &whole[..length]).unwrap();
        assert!(sessions.load(&papers.alice(now()), now()).is_none(), "{length} bytes");
    }
}

#[test]
fn the_place_is_the_configured_one_else_the_systems() {
    let folder = tempfile::tempdir().unwrap();
    let (xdg, run_user) = (folder.path().join("xdg"), folder.path().join("1000"));
    std::fs::create_dir(&xdg).unwrap();
    std::fs::create_dir(&run_user).unwrap();
    let all = Places {
        configured: Some("/srv/run".into()),
        xdg: Some(xdg.clone()),
        run_user: run_user.clone(),
        home: Some("/home/alice".into()),
    };

    assert_eq!(all.choose().unwrap(), Path::new("/srv/run"));
    let all = Places { configured: None, ..all };
    assert_eq!(all.choose().unwrap(), xdg.join("reeve"));
    let gone = Places { xdg: Some(folder.path().join("gone")), ..all.clone() };
    assert_eq!(gone.choose().unwrap(), run_user.join("reeve"));
    let nowhere = Places { xdg: None, run_user: folder.path().join("gone"), ..all };
    let refused = nowhere.choose().unwrap_err();
    assert_eq!(refused.exit_status(), 78);
    assert!(matches!(refused, Failure::Told { hint: Some(hint), .. } if hint.contains("runtime-dir")));
}

#[test]
fn a_session_key_is_never_under_the_home() {
    let home = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(home.path(), elsewhere.path().join("link")).unwrap();
    let at = |path: PathBuf| Places { home: Some(home.path().to_owned()), ..places(&path) };

    for below in [home.path().join("run"), home.path().join("a/b/c"), elsewhere.path().join("link/run")] {
        assert_eq!(at(below.clone()).choose().unwrap_err().exit_status(), 78, "{}", below.display());
    }
    assert!(at(elsewhere.path().join("run")).choose().is_ok());
    let missing = Places { home: Some(elsewhere.path().join("home")), ..at(elsewhere.path().join("run")) };
    assert!(missing.choose().is_ok());
    assert!(Places { configured: Some(elsewhere.path().join("home/run")), ..missing }.choose().is_err());
    let xdg = Places { configured: None, xdg: Some(home.path().to_owned()), ..at(PathBuf::new()) };
    assert_eq!(xdg.choose().unwrap_err().exit_status(), 78);
}

#[test]
fn a_folder_that_others_can_look_into_is_refused_with_the_way_to_mend_it() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    std::fs::create_dir(&run).unwrap();
    std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o750)).unwrap();

    let refused = open(&run).unwrap_err();
    assert_eq!(refused.exit_status(), 78);
    assert!(matches!(refused, Failure::Told { hint: Some(hint), .. } if hint.contains("chmod 700")));

    std::os::unix::fs::symlink(folder.path(), folder.path().join("link")).unwrap();
    assert!(open(&folder.path().join("link")).is_err());
    std::fs::write(folder.path().join("file"), "").unwrap();
    assert!(open(&folder.path().join("file")).is_err());
}

#[tokio::test]
async fn one_command_at_a_time_holds_the_lock() {
    let folder = tempfile::tempdir().unwrap();
    let sessions = open(&folder.path().join("run")).unwrap();
    let first = sessions.lock().await.unwrap();

    let mut second = std::pin::pin!(sessions.lock());
    let waits = tokio::time::timeout(Duration::from_millis(60), &mut second).await;
    assert!(waits.is_err());
    drop(first);
    second.await.unwrap();
}
