//! Starts a program: finds it, gives it its surroundings, and never asks a shell.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use reeve_wire::code::exit;
use tokio::process::{ChildStderr, ChildStdout, Command};

use super::end::Group;
use super::environment::PATH;
use super::job::{Job, Stdin};
use super::memfd;

/// A program that has started.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) group: Group,
    pub(super) stdout: ChildStdout,
    pub(super) stderr: ChildStderr,
}

/// A program that could not be started.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{what}")]
pub struct NotStarted {
    /// The program or thing that stood in the way, and the system's words for it.
    pub what: String,
    /// 127 when there is no such program, else 126, as a shell answers.
    pub exit_status: u8,
}

impl NotStarted {
    /// The program itself could not be run. The system also says "not found" when a script's interpreter is missing.
    fn program(job: &Job, error: &io::Error) -> Self {
        let exit_status = if error.kind() == io::ErrorKind::NotFound { exit::NOT_FOUND } else { exit::CANNOT_START };
        Self { exit_status, ..Self::surroundings(job.argv.program(), error) }
    }

    /// Something that the program needs could not be had.
    pub(super) fn surroundings(subject: impl AsRef<OsStr>, error: &io::Error) -> Self {
        Self { what: format!("{}: {error}", subject.as_ref().display()), exit_status: exit::CANNOT_START }
    }
}

/// Starts `job`. Blocks for as long as the file system takes to find and load the program.
///
/// Must be called within a tokio runtime.
pub(super) fn start(job: &Job) -> Result<Started, NotStarted> {
    crate::sys::keep_inherited_descriptors();
    if !job.directory.is_dir() {
        let missing = io::Error::from(io::ErrorKind::NotADirectory);
        return Err(NotStarted::surroundings(&job.directory, &missing));
    }
    let program = find(job)?;
    let stdin = stdin(&job.stdin).map_err(|error| NotStarted::surroundings("standard input", &error))?;

    // An absolute program keeps std on posix_spawn, which unlike execvp never falls back to /bin/sh for a file that
    // the kernel does not recognise.
    let mut command = Command::new(&program);
    command
        .arg0(job.argv.program())
        .args(job.argv.arguments())
        .env_clear()
        .envs(job.environment.variables())
        .current_dir(&job.directory)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| NotStarted::program(job, &error))?;
    let pipes = child.stdout.take().zip(child.stderr.take());
    let group = Group::of(child).map_err(|error| NotStarted::surroundings(job.argv.program(), &error))?;
    let (stdout, stderr) = pipes.ok_or_else(|| NotStarted::surroundings("pipes", &io::ErrorKind::BrokenPipe.into()))?;
    Ok(Started { group, stdout, stderr })
}

fn stdin(stdin: &Stdin) -> io::Result<Stdio> {
    Ok(match stdin {
        Stdin::Null => Stdio::null(),
        Stdin::Bytes(bytes) => memfd::input(bytes)?.into(),
        Stdin::Script(bytes) => memfd::script(bytes)?.into(),
    })
}

/// The file to run: a bare name is looked for on the fixed path alone, a relative path starts at the job's directory.
fn find(job: &Job) -> Result<PathBuf, NotStarted> {
    let program = job.argv.program();
    if !job.argv.is_bare_name() {
        return Ok(job.directory.join(program));
    }
    let mut missing = (exit::NOT_FOUND, "not found on the path");
    for directory in PATH.split(':') {
        let candidate = Path::new(directory).join(program);
        match std::fs::metadata(&candidate) {
            Ok(file) if file.is_file() && file.permissions().mode() & 0o111 != 0 => return Ok(candidate),
            Ok(_) => missing = (exit::CANNOT_START, "found on the path, but not executable"),
            Err(_) => {}
        }
    }
    let (exit_status, what) = missing;
    Err(NotStarted { what: format!("{}: {what} {PATH}", program.display()), exit_status })
}
