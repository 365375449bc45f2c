//! Reeve's own programs, beside this one, and the processes that the lab leaves running.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::failure::{During as _, Failure};
use crate::files::Files;
use crate::openldap::process::Process;

/// How often it is looked whether something is so.
const LOOK: Duration = Duration::from_millis(20);

/// How long a process may take to end after SIGTERM before it gets SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(15);

/// The programs of one build.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// The programs beside the running one; a test binary lives one folder deeper.
    pub(crate) fn beside_us() -> Result<Self, Failure> {
        let us = std::env::current_exe().during("asking for the running program")?;
        let folder = us.parent().unwrap_or(Path::new("."));
        let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
        Ok(Self { folder: folder.to_owned() })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Runs a program to its end and gives what it printed.
    pub(crate) fn run<A: AsRef<OsStr>>(
        &self,
        name: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<String, Failure> {
        let path = self.path(name);
        if !path.is_file() {
            return Err(Failure::NoProgram(path));
        }
        let mut command = Command::new(&path);
        command.args(arguments).stdin(Stdio::null()).env_remove("REEVE_CONFIG").env_remove("REEVE_CA");
        let output = command.output().during(format_args!("running {}", path.display()))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Failure::Program {
            command: format!("{command:?}"),
            status: output.status.to_string(),
            says: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// Starts a program that stays, with its output in the part's log. It outlives us.
    pub(crate) fn start(&self, files: &Files, part: &str, name: &str, arguments: &[&OsStr]) -> Result<(), Failure> {
        use std::os::unix::process::CommandExt as _;
        let path = self.path(name);
        if !path.is_file() {
            return Err(Failure::NoProgram(path));
        }
        let log = files.log(part);
        let open =
            File::options().create(true).append(true).open(&log).during(format_args!("opening {}", log.display()))?;
        let errors = open.try_clone().during("opening a log")?;
        let mut command = Command::new(&path);
        command.args(arguments).stdin(Stdio::null()).stdout(open).stderr(errors).process_group(0);
        command.env_remove("REEVE_CONFIG");
        let child = command.spawn().during(format_args!("starting {}", path.display()))?;
        Ok(Process::of(&child)?.write(&files.pid(part))?)
    }
}

/// The process of a part, when it runs.
pub(crate) fn running(files: &Files, part: &str) -> Option<Process> {
    Process::read(&files.pid(part)).filter(Process::is_alive)
}

/// Ends a part with SIGTERM, and SIGKILL if that does not do.
pub(crate) fn stop(files: &Files, part: &str) -> Result<(), Failure> {
    if let Some(process) = running(files, part) {
        process.signal(Signal::TERM)?;
        if !wait_until(TERM_GRACE, || !process.is_alive()) {
            kill(files, part)?;
        }
    }
    Ok(())
}

/// Ends a part with SIGKILL.
pub(crate) fn kill(files: &Files, part: &str) -> Result<(), Failure> {
    if let Some(process) = running(files, part) {
        process.signal(Signal::KILL)?;
        if !wait_until(TERM_GRACE, || !process.is_alive()) {
            return Err(late(files, part, "it does not end", TERM_GRACE));
        }
    }
    Ok(())
}

/// Looks until it is so, for at most `most`.
pub(crate) fn wait_until(most: Duration, is_so: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    loop {
        if is_so() {
            return true;
        }
        if began.elapsed() > most {
            return false;
        }
        std::thread::sleep(LOOK);
    }
}

pub(crate) fn late(files: &Files, part: &str, what: &str, after: Duration) -> Failure {
    let log = files.log(part);
    let text = std::fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let tail = lines.iter().skip(lines.len().saturating_sub(8)).copied().collect::<Vec<_>>().join("\n");
    Failure::Late { what: format!("{part}: {what}"), after, log, tail }
}
