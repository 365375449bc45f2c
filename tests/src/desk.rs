//! What the end-to-end tests do with a site: run Reeve's programs as somebody, and read the record.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::failure::{During as _, Failure};
use crate::site::Site;

/// A program that has ended.
#[derive(Debug)]
pub struct Done {
    /// Exit status; 128+n when a signal ended it.
    pub status: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error, as text.
    pub stderr: String,
}

impl Done {
    fn of(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        let status = output.status;
        let status = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        Self { status, stdout: output.stdout, stderr: String::from_utf8_lossy(&output.stderr).into_owned() }
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output as JSON lines; a line that is none is null.
    pub fn json(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap_or(Value::Null)).collect()
    }
}

impl Site {
    /// The console as `person`, ready to be run.
    pub fn console<A: AsRef<OsStr>>(&self, person: &str, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(self.program("reeve"));
        let config = self.lab().technicians.get(person).map(|technician| technician.config.clone());
        command.args(arguments).env("REEVE_CONFIG", config.unwrap_or_default()).stdin(Stdio::null());
        command
    }

    /// Runs the console as `person` to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn reeve<A: AsRef<OsStr>>(
        &self,
        person: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Done, Failure> {
        Ok(Done::of(self.console(person, arguments).output().during("running the console")?))
    }

    /// Starts the console as `person` and lets it run.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn<A: AsRef<OsStr>>(
        &self,
        person: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Child, Failure> {
        let mut command = self.console(person, arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().during("starting the console")
    }

    /// Waits for a console that was started.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn finish(child: Child) -> Result<Done, Failure> {
        Ok(Done::of(child.wait_with_output().during("waiting for the console")?))
    }

    /// Runs the audit command line on the site's ledger.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn audit<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Done, Failure> {
        let mut command = Command::new(self.program("reeve-audit"));
        command.arg("--db").arg(&self.lab().master.audit_db).args(arguments).stdin(Stdio::null());
        Ok(Done::of(command.output().during("running reeve-audit")?))
    }

    /// Every line of the record, newest first.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn records(&self) -> Result<Vec<Value>, Failure> {
        let listed = self.audit(["list", "--json"])?;
        if listed.status == 0 {
            return Ok(listed.json());
        }
        Err(Failure::Program {
            command: "reeve-audit list".to_owned(),
            status: listed.status.to_string(),
            says: listed.stderr,
        })
    }

    /// How many lines of the record `wanted` holds for.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn count(&self, wanted: impl Fn(&Value) -> bool) -> Result<usize, Failure> {
        Ok(self.records()?.iter().filter(|record| wanted(record)).count())
    }

    /// Checks the whole ledger against its key; the exit status and what was said.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn verify(&self) -> Result<Done, Failure> {
        self.audit(["--vkey", &self.lab().master.vkey, "verify"])
    }

    /// How many programs the running agent of `host` has started.
    pub fn programs_started(&self, host: &str) -> u64 {
        let state = self.lab().agents.get(host).map(|agent| agent.state.join("programs-started"));
        let text = state.and_then(|path| std::fs::read_to_string(path).ok());
        text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// One of Reeve's programs.
    pub fn program(&self, name: &str) -> &Path {
        self.lab().binaries.get(name).map_or(Path::new(""), |path| path.as_path())
    }
}

/// Waits until it is so.
///
/// # Panics
/// When it is not so within `most`.
#[track_caller]
pub fn wait_for(what: &str, most: Duration, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < most, "{what}: not within {most:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A site that is ended when the test is over, also when it failed. On failure the folder is kept and named.
#[derive(Debug)]
pub struct TestSite {
    site: Site,
    folder: Option<tempfile::TempDir>,
}

impl TestSite {
    /// Brings a site up in a folder of its own.
    ///
    /// # Panics
    /// When it does not come up.
    #[track_caller]
    #[expect(clippy::panic, reason = "a test without its site has failed")]
    pub fn up(plan: crate::up::Plan) -> Self {
        let made = tempfile::Builder::new().prefix("reeve-test-").tempdir();
        let site = made.map_err(|error| error.to_string()).and_then(|folder| {
            let site = Site::up(&folder.path().join("site"), plan).map_err(|error| error.to_string())?;
            Ok(Self { site, folder: Some(folder) })
        });
        site.unwrap_or_else(|why| panic!("the site did not come up: {why}"))
    }
}

impl std::ops::Deref for TestSite {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

impl std::ops::DerefMut for TestSite {
    fn deref_mut(&mut self) -> &mut Site {
        &mut self.site
    }
}

impl Drop for TestSite {
    fn drop(&mut self) {
        drop(self.site.down());
        if std::thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            use std::io::Write as _;
            let kept = folder.keep();
            drop(writeln!(std::io::stderr(), "the site of this failed test is kept in {}", kept.display()));
        }
    }
}
