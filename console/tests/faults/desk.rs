//! Alice's desk: a configuration that names a master of ours, and the console's own binary.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::master::{Fault, Master, PASSWORD};

/// Nothing here takes longer.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Desk {
    pub(crate) master: Master,
    folder: TempDir,
}

/// How the console ended.
pub(crate) struct Done {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    fn of(output: &Output) -> Self {
        Self {
            status: output.status.code().expect("the console ends by itself"),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub(crate) fn json(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Checks the exit status, and shows all of it when it is another.
    #[track_caller]
    pub(crate) fn ended_in(self, status: i32) -> Self {
        assert_eq!(self.status, status, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
}

impl Desk {
    pub(crate) async fn with(fault: Fault) -> Self {
        Self::of(Master::start(fault).await)
    }

    pub(crate) fn of(master: Master) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let desk = Self { master, folder };
        let key = desk.master.papers.alice.to_openssh(ssh_key::LineEnding::LF).unwrap();
        desk.write("id_ed25519", &key, 0o600);
        desk.write("id_ed25519-cert.pub", &desk.master.papers.alice_certificate().to_openssh().unwrap(), 0o644);
        desk.write("password", PASSWORD, 0o600);
        desk.configure(&desk.path("run"));
        desk
    }

    /// Writes the configuration, with the session key in `run`.
    pub(crate) fn configure(&self, run: &Path) {
        let text = format!(
            "site = \"noc\"\nroot = {:?}\ntrust = \"trust-bundle\"\nmasters = [\"{}\"]\nname = \"alice\"\n\
             key = \"id_ed25519\"\ncertificate = \"id_ed25519-cert.pub\"\npassword-command = [\"cat\", {:?}]\n\
             runtime-dir = {run:?}\n",
            self.master.papers.pin(),
            self.master.address,
            self.path("password"),
        );
        self.write("reeve.toml", &text, 0o600);
    }

    pub(crate) fn write(&self, name: &str, text: &str, mode: u32) {
        std::fs::write(self.path(name), text).unwrap();
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn config(&self) -> reeve_console::config::Config {
        reeve_console::config::Config::load(&self.path("reeve.toml"), None).unwrap()
    }

    /// The console, ready to be run.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reeve"));
        command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("REEVE_CONFIG", self.path("reeve.toml")).env("HOME", self.path("home"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    pub(crate) async fn reeve(&self, arguments: &[&str]) -> Done {
        let running = self.command(arguments).output();
        Done::of(&tokio::time::timeout(LIMIT, running).await.expect("it comes to an end").unwrap())
    }

    pub(crate) async fn finish(&self, child: tokio::process::Child) -> Done {
        let ending = child.wait_with_output();
        Done::of(&tokio::time::timeout(LIMIT, ending).await.expect("it comes to an end").unwrap())
    }
}

/// Waits until it is so.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < LIMIT, "{what}");
        tokio::task::yield_now().await;
    }
}

/// Presses Ctrl-C.
pub(crate) fn interrupt(child: &tokio::process::Child) {
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}
