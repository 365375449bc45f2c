//! What the running agent tells of itself in its state directory: its connection, and how many programs it started.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reeve_wire::code::Refusal;
use reeve_wire::keyfile::write_secret;
use reeve_wire::name::{HostName, Name};
use reeve_wire::time::Millis;
use serde::{Deserialize, Serialize};

use crate::state::{StateDir, read_if_there};

/// The file's name.
pub const STATUS: &str = "status.json";
/// The counter's name.
pub const PROGRAMS: &str = "programs-started";

/// What the running agent last told.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// The server.
    pub host: HostName,
    /// When this process started. No two processes on one state directory have the same moment.
    pub started: Millis,
    /// Whether a connection stands on which bundle, library and checkpoint were compared.
    pub connected: bool,
    /// The connection that stands.
    pub connection: Option<Connection>,
    /// The connection before it, or the last one.
    pub last: Option<Lost>,
}

/// A connection to a master.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Connection {
    /// The master.
    pub master: Name,
    /// The address that was dialled.
    pub address: String,
    /// Since when.
    pub since: Millis,
    /// Whether bundle, library and checkpoint were compared.
    pub answered: bool,
    /// Why no work is taken on it, if it is not.
    pub refusal: Option<Refusal>,
}

/// A connection that is over.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Lost {
    /// What it was.
    pub connection: Connection,
    /// When it ended.
    pub ended: Millis,
    /// Why.
    pub why: String,
}

/// A clock that was further ahead than this at the last start was plainly wrong.
const SET_BACK: Duration = Duration::from_secs(24 * 3600);

/// Why the connection of an agent that is not running any more is over.
const STOPPED: &str = "the agent stopped";

impl Status {
    /// The last connection of an agent that is not running. When one stood to the last, nobody wrote when it ended.
    pub fn lost_by_now(&self) -> Option<Lost> {
        match &self.connection {
            Some(connection) => {
                Some(Lost { connection: connection.clone(), ended: connection.since, why: STOPPED.into() })
            }
            None => self.last.clone(),
        }
    }
}

/// The status file of the running agent.
#[derive(Debug)]
pub struct StatusFile {
    path: PathBuf,
    told: Mutex<Status>,
}

impl StatusFile {
    /// Tells that the agent has started and is not connected. The last connection of the run before stays.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn begin(state: &StateDir, host: &HostName, now: Millis) -> io::Result<Self> {
        let before = read(state)?;
        let started = unlike(before.as_ref().map(|before| before.started), now);
        let last = before.and_then(|before| match before.connection {
            Some(connection) => Some(Lost { connection, ended: started, why: STOPPED.into() }),
            None => before.last,
        });
        let told = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            host: host.clone(),
            started,
            connected: false,
            connection: None,
            last,
        };
        let file = Self { path: state.file(STATUS), told: Mutex::new(told) };
        file.write(&file.told())?;
        Ok(file)
    }

    /// Changes what is told. A file that cannot be written is logged: status is no reason to stop.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        let mut told = self.told();
        change(&mut told);
        told.connected = told.connection.as_ref().is_some_and(|connection| connection.answered);
        if let Err(error) = self.write(&told) {
            tracing::warn!(%error, path = %self.path.display(), "The status file could not be written");
        }
    }

    /// What is told at the moment.
    pub fn current(&self) -> Status {
        self.told().clone()
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Status> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, status: &Status) -> io::Result<()> {
        write_secret(&self.path, &serde_json::to_vec(status)?)
    }
}

/// `now`, or just after `before` where the clock stands still or was set back a little: masters tell two runs apart by
/// their moments.
fn unlike(before: Option<Millis>, now: Millis) -> Millis {
    match before {
        Some(before) if before >= now && before.since(now) < SET_BACK => before.plus(Duration::from_millis(1)),
        Some(_) | None => now,
    }
}

/// Reads what an agent last told; none before its first run.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn read(state: &StateDir) -> io::Result<Option<Status>> {
    let bytes = read_if_there(&state.file(STATUS))?;
    Ok(bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose()?)
}

/// Counts the programs that this process has started, in a file that anyone who may read the state can look at.
#[derive(Debug)]
pub struct Programs {
    file: File,
    count: Mutex<u64>,
}

impl Programs {
    /// Begins at 0.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn begin(state: &StateDir) -> io::Result<Self> {
        let path = state.file(PROGRAMS);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        let programs = Self { file, count: Mutex::new(0) };
        programs.write(0)?;
        Ok(programs)
    }

    /// One more is about to start. The number is in the file when this returns.
    pub fn one_more(&self) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count = count.saturating_add(1);
        if let Err(error) = self.write(*count) {
            tracing::warn!(%error, "The number of started programs could not be written");
        }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Always as long, so that a reader never sees parts of two numbers.
    fn write(&self, count: u64) -> io::Result<()> {
        self.file.write_all_at(format!("{count:020}\n").as_bytes(), 0)
    }
}

/// How many programs the running agent, or else the last one, has started.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn programs_started(state: &StateDir) -> io::Result<Option<u64>> {
    let bytes = read_if_there(&state.file(PROGRAMS))?;
    Ok(bytes.and_then(|bytes| std::str::from_utf8(&bytes).ok()?.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_connection_is_known_after_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::take(&dir.path().join("state")).unwrap();
        let host: HostName = "contoso/web01".parse().unwrap();
        let connection = Connection {
            master: "noc1".parse().unwrap(),
            address: "127.0.0.1:443".into(),
            since: Millis(5),
            answered: true,
            refusal: None,
        };
        assert_eq!(read(&state).unwrap(), None);
        let file = StatusFile::begin(&state, &host, Millis(1)).unwrap();
        file.update(|status| status.connection = Some(connection.clone()));
        let told = read(&state).unwrap().unwrap();
        assert_eq!((told.connected, told.connection.as_ref()), (true, Some(&connection)));

        let file = StatusFile::begin(&state, &host, Millis(9)).unwrap();

        assert_eq!((file.current().connected, file.current().connection), (false, None));
        let lost = file.current().last.unwrap();
        assert_eq!((lost.connection, lost.ended), (connection, Millis(9)));
    }

    #[test]
    fn no_two_runs_have_the_same_moment() {
        let day = SET_BACK.as_millis() as u64;
        for (before, now, expected) in
            [(None, 5, 5), (Some(4), 5, 5), (Some(5), 5, 6), (Some(9), 5, 10), (Some(5 + day), 5, 5)]
        {
            assert_eq!(unlike(before.map(Millis), Millis(now)), Millis(expected), "{before:?} {now}");
        }
    }

    #[test]
    fn the_count_of_programs_is_in_the_file_before_the_program_runs() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::take(&dir.path().join("state")).unwrap();
        assert_eq!(programs_started(&state).unwrap(), None);
        let programs = Programs::begin(&state).unwrap();
        assert_eq!(programs_started(&state).unwrap(), Some(0));

        (0..12).for_each(|_| programs.one_more());

        assert_eq!(programs_started(&state).unwrap(), Some(12));
        assert_eq!(programs.count(), 12);
    }
}
