//! A master whose ledger's disk is full.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reeve_lab::desk::{Done, TestSite, wait_for};
use reeve_lab::site::Site;
use serde_json::Value;

use super::evidence::{FILE, WEB01};

/// A master whose ledger is on a small disk of its own: a tmpfs in a mount namespace of the process, which goes with
/// it. That takes root, or a kernel that lets users make namespaces.
struct SmallDisk {
    master: Child,
    /// Where the master sees it.
    folder: PathBuf,
    /// Where it is seen from here.
    disk: PathBuf,
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// `unshare` with the namespaces that a mount needs, before a shell line. The root of a chroot is no mount point, so
/// that what is mounted stays here is the shell's to say.
fn in_namespace(line: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(if is_root() { &["--mount"][..] } else { &["--map-root-user", "--mount"] });
    command.args(["--propagation", "unchanged", "sh", "-c"]);
    command.arg(format!("mount --make-rprivate / 2>/dev/null; {line}")).arg("sh");
    command
}

/// Whether this system lets us mount in a namespace of our own.
fn may_mount() -> bool {
    let mut tried = in_namespace("mount -t tmpfs tmpfs /mnt");
    let may = tried.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !may {
        println!("skipped: this system allows no mount namespace (unshare --mount)");
    }
    may
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.master.kill());
        drop(self.master.wait());
    }
}

impl SmallDisk {
    /// Starts the site's master with its ledger moved onto 80 MiB, of which 64 are its reserve.
    fn start(site: &Site) -> Self {
        let master = &site.lab().master;
        let folder = master.config.parent().unwrap().join("disk");
        std::fs::create_dir(&folder).unwrap();
        let config = std::fs::read_to_string(&master.config).unwrap();
        let moved = master.config.with_file_name("small.toml");
        let (from, to) = (master.audit_db.display().to_string(), folder.join("audit.db").display().to_string());
        std::fs::write(&moved, config.replace(&from, &to)).unwrap();
        let line = "mount -t tmpfs -o size=80m,mode=700 ledger \"$1\" && cp \"$2\" \"$1/audit.db\" && exec \"$3\" --config \"$4\" run";
        let log = std::fs::File::create(site.dir().join("logs/small.log")).unwrap();
        let mut command = in_namespace(line);
        command.arg(&folder).arg(&master.audit_db);
        command.arg(site.program("reeve-master")).arg(&moved).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap();
        let disk = PathBuf::from(format!("/proc/{}/root{}", child.id(), folder.display()));
        let started = Self { master: child, folder, disk };
        wait_for("the ledger is on its own disk", Duration::from_secs(20), || started.reserve().is_some());
        started
    }

    /// Runs `reeve-audit` where the disk is.
    fn audit(&self, site: &Site, arguments: &[&str]) -> Done {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.master.id().to_string(), "--mount", "--root"]);
        command.args(if is_root() { &[][..] } else { &["--user", "--preserve-credentials"] });
        command.arg(site.program("reeve-audit")).arg("--db").arg(self.folder.join("audit.db")).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Site::finish(command.spawn().unwrap()).unwrap()
    }

    fn reserve(&self) -> Option<u64> {
        Some(std::fs::metadata(self.disk.join("audit.db.reserve")).ok()?.len())
    }

    /// Leaves not a byte, but for the reserve.
    fn fill(&self) {
        use std::io::Write as _;
        let mut ballast = std::fs::File::create(self.disk.join("ballast")).unwrap();
        let piece = vec![7; 4096];
        while ballast.write_all(&piece).is_ok() {}
    }

    fn empty(&self) {
        std::fs::remove_file(self.disk.join("ballast")).unwrap();
    }

    fn verify(&self, site: &Site) -> Done {
        self.audit(site, &["--vkey", &site.lab().master.vkey, "verify"])
    }

    fn line(&self, site: &Site, operation: &str) -> Value {
        let listed = self.audit(site, &["list", "--json"]);
        assert_eq!(listed.status, 0, "{listed:?}");
        listed.json().into_iter().find(|line| line["operation"] == operation).unwrap_or(Value::Null)
    }
}

#[test]
fn on_a_full_disk_nothing_begins_and_what_runs_is_recorded_to_its_end() {
    if !may_mount() {
        return;
    }
    let mut site = TestSite::up(FILE);
    site.stop("master").unwrap();
    let small = SmallDisk::start(&site);
    let honest = ["exec", WEB01, "--json", "--", "true"];
    wait_for("the site works", Duration::from_secs(60), || site.reeve("alice", honest).unwrap().status == 0);
    let gate = site.dir().join("gate");
    let long = format!("until [ -e '{}' ]; do sleep 0.05; done; seq 20000; echo done >&2", gate.display());
    let before = site.programs_started(WEB01);
    let running = site.spawn("alice", ["exec", WEB01, "--json", "--", "sh", "-c", &long]).unwrap();
    wait_for("it runs", Duration::from_secs(20), || site.programs_started(WEB01) == before + 1);

    let open = small.audit(&site, &["open", "--json"]).json();
    let [open] = open.as_slice() else { panic!("one operation is open, not {open:?}") };
    assert_eq!(
        (open["state"].as_str(), open["user"].as_str(), open["host"].as_str()),
        (Some("open"), Some("alice"), Some(WEB01))
    );

    small.fill();
    let (mut ran, mut refusals) = (0, 0);
    while refusals < 5 {
        let done = site.reeve("alice", honest).unwrap();
        let said = done.json().remove(0);
        if done.status == 0 {
            // There was room left in blocks that the files had already; then it is on record.
            ran += 1;
            assert!(ran < 1000, "the disk is full and everything goes on");
            assert_eq!(small.line(&site, said["operation"].as_str().unwrap())["outcome"], "exited");
            continue;
        }
        refusals += 1;
        assert_eq!((done.status, said["code"].as_str()), (77, Some("ledger-unavailable")), "{done:?}");
        assert_eq!(small.line(&site, said["operation"].as_str().unwrap()), Value::Null, "it is on record");
    }
    assert_eq!(site.programs_started(WEB01), before + 1 + ran, "what was refused did not run");

    std::fs::write(&gate, "").unwrap();
    let done = Site::finish(running).unwrap();
    let said = done.json().remove(0);
    assert_eq!((done.status, said["outcome"].as_str()), (0, Some("exited")), "{done:?}");
    assert_eq!(said["operation"], open["operation"]);
    let line = small.line(&site, said["operation"].as_str().unwrap());
    assert_eq!((&line["outcome"], &line["record_result"]), (&said["outcome"], &said["record"]), "{line}");
    assert!(line["output_bytes"].as_u64() > Some(100_000) && line["output_sha256"].is_string(), "{line}");
    assert_eq!(small.verify(&site).status, 0, "{:?}", small.verify(&site));

    small.empty();
    wait_for("there is room, and it works again", Duration::from_secs(20), || {
        site.reeve("alice", honest).unwrap().status == 0
    });
    assert!(small.reserve().is_some_and(|reserve| reserve == 64 * 1024 * 1024), "the reserve is set aside again");
    assert_eq!(small.verify(&site).status, 0);
    println!("{ran} commands fitted before the disk was full");
}
