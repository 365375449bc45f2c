//! A site with a history, and what a test does with copies of its ledger.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use reeve_audit::Reader;
use reeve_lab::desk::{Done, TestSite, wait_for};
use reeve_lab::site::Site;
use reeve_lab::up::{DirectoryKind, Plan};
use rusqlite::Connection;
use rusqlite::config::DbConfig;

pub(crate) const FILE: Plan = Plan { agents: 0, directory: DirectoryKind::File };
pub(crate) const WEB01: &str = "contoso/web01";

/// A site with a handful of operations, two of its heads, and the ledger of its stopped master.
pub(crate) struct Evidence {
    pub(crate) site: TestSite,
    /// A head from the middle of the history, as somebody kept it.
    pub(crate) early: PathBuf,
    /// The newest head.
    pub(crate) newest: PathBuf,
    /// The ledger as it was at the early head.
    pub(crate) yesterday: PathBuf,
    /// The operation with an exit status, output on both streams and a case.
    pub(crate) told: String,
    /// The operation with 300 kB of output.
    pub(crate) large: String,
}

impl Evidence {
    pub(crate) fn new() -> Self {
        let mut site = TestSite::up(FILE);
        let script = site.dir().join("script.sh");
        std::fs::write(&script, "echo from a script\n").unwrap();
        let script = script.display().to_string();
        let shell = "printf 'to stdout\\n'; printf 'to stderr\\n' >&2; exit 3";
        let told = ["exec", WEB01, "--json", "--case", "C-1", "--reason", "a test", "--", "sh", "-c", shell];
        let told = operation(&site, "alice", &told, 3);
        operation(&site, "carol", &["run", "contoso/*", "uptime", "--json"], 0);
        operation(&site, "bob", &["exec", WEB01, "--json", "--", "true"], 77);
        let early = keep_head(&site, "early.note");
        let yesterday = site.dir().join("yesterday.db");
        copy(&site.lab().master.audit_db, &yesterday);

        let noise = "head -c 300000 /dev/urandom | base64 -w 0 | head -c 300000";
        let large = operation(&site, "alice", &["exec", "contoso/db01", "--json", "--", "sh", "-c", noise], 0);
        operation(&site, "alice", &["run", WEB01, "script", "--stdin", &script, "--json"], 0);
        operation(&site, "dave", &["exec", WEB01, "--json", "--", "true"], 77);
        assert_eq!(site.reeve("mallory", ["whoami"]).unwrap().status, 77);
        let newest = keep_head(&site, "newest.note");
        site.stop("master").unwrap();
        Self { site, early, newest, yesterday, told, large }
    }

    pub(crate) fn ledger(&self) -> &Path {
        &self.site.lab().master.audit_db
    }

    pub(crate) fn vkey(&self) -> &str {
        &self.site.lab().master.vkey
    }

    /// A copy that `change` was done to, with all that SQLite would have to say against it switched off.
    pub(crate) fn doctored(&self, change: impl FnOnce(&Connection)) -> Doctored<'_> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.db");
        copy(self.ledger(), &path);
        let database = unguarded(&path);
        change(&database);
        drop(database);
        Doctored { evidence: self, path, _folder: folder }
    }

    pub(crate) fn doctored_by(&self, sql: &str) -> Doctored<'_> {
        self.doctored(|database| database.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}")))
    }
}

/// A copy of the ledger that somebody has changed.
pub(crate) struct Doctored<'a> {
    pub(crate) evidence: &'a Evidence,
    pub(crate) path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Doctored<'_> {
    /// What `reeve-audit verify` makes of it.
    pub(crate) fn verify(&self, more: &[&str]) -> Done {
        audit(
            &self.evidence.site,
            &self.path,
            ["--vkey", self.evidence.vkey(), "verify"].into_iter().chain(more.iter().copied()),
        )
    }

    /// Checks that it exits with `expected` and says `words`.
    pub(crate) fn found(&self, what: &str, expected: i32, words: &str) {
        let done = self.verify(&[]);
        assert_eq!(done.status, expected, "{what}: {done:?}");
        assert!(done.text().contains(words), "{what}: not {words:?} in {}", done.text());
    }
}

pub(crate) fn audit<'a>(site: &Site, ledger: &Path, arguments: impl IntoIterator<Item = &'a str>) -> Done {
    let mut command = Command::new(site.program("reeve-audit"));
    command.arg("--db").arg(ledger).args(arguments).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Site::finish(command.spawn().unwrap()).unwrap()
}

/// Runs the console and gives the operation's id.
pub(crate) fn operation(site: &Site, person: &str, arguments: &[&str], expected: i32) -> String {
    let done = site.reeve(person, arguments).unwrap();
    assert_eq!(done.status, expected, "{person} {arguments:?}: {done:?}");
    done.json()[0]["operation"].as_str().unwrap().to_owned()
}

/// Waits until a head signs all that there is, and keeps it in a file.
pub(crate) fn keep_head(site: &Site, name: &str) -> PathBuf {
    let reader = Reader::open(&site.lab().master.audit_db).unwrap();
    let mut head = None;
    wait_for("all records are signed", Duration::from_secs(10), || {
        let note = reader.newest_checkpoint().unwrap().unwrap();
        let size: u64 = note.lines().nth(1).unwrap().parse().unwrap();
        let all = size == reader.size().unwrap();
        head = Some(note);
        all
    });
    let path = site.dir().join(name);
    std::fs::write(&path, head.unwrap()).unwrap();
    path
}

/// A copy of a ledger, of a running master too.
pub(crate) fn copy(from: &Path, to: &Path) {
    let database = Connection::open(from).unwrap();
    database.execute("VACUUM INTO ?1", [to.to_str().unwrap()]).unwrap();
}

/// A connection for which there are no triggers and no foreign keys.
pub(crate) fn unguarded(path: &Path) -> Connection {
    let database = Connection::open(path).unwrap();
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).unwrap();
    database.execute_batch("PRAGMA foreign_keys = OFF; PRAGMA synchronous = OFF").unwrap();
    database
}
