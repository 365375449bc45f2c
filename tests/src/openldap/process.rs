//! A process that outlives us, found again by its id and its start time: an id alone may be another's by then.

use std::fs;
use std::path::Path;
use std::process::Child;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::{OpenLdapError, While, write_secret};

/// One process, for as long as it lives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    id: Pid,
    started: u64,
}

impl Process {
    pub(crate) fn of(child: &Child) -> Result<Self, OpenLdapError> {
        let gone = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let id = Pid::from_child(child);
        let (_, started) = look(id).ok_or_else(gone).during("looking at slapd's process")?;
        Ok(Self { id, started })
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), OpenLdapError> {
        write_secret(path, &format!("{} {}\n", self.pid(), self.started))
    }

    pub(crate) fn read(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let (id, started) = text.trim().split_once(' ')?;
        Some(Self { id: Pid::from_raw(id.parse().ok()?)?, started: started.parse().ok()? })
    }

    pub(crate) const fn pid(&self) -> u32 {
        self.id.as_raw_nonzero().get().unsigned_abs()
    }

    pub(crate) fn is_alive(&self) -> bool {
        match look(self.id) {
            Some((state, started)) if started == self.started => match state {
                // Our own child disappears when it is waited for, and that is not before its last thread has ended.
                'Z' | 'X' => matches!(waitpid(Some(self.id), WaitOptions::NOHANG), Ok(None)),
                _ => true,
            },
            _ => false,
        }
    }

    /// Whether every thread of it stands still.
    pub(crate) fn is_frozen(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid()));
        let mut threads = tasks.into_iter().flatten().flatten();
        threads.all(|thread| matches!(look_at(&thread.path()), Some(('T', _))))
    }

    /// Call it on a process that was just found alive; one that ends meanwhile is no error.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), OpenLdapError> {
        match kill_process(self.id, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(e) => Err(e).during("signalling slapd"),
        }
    }
}

fn look(id: Pid) -> Option<(char, u64)> {
    look_at(Path::new(&format!("/proc/{}", id.as_raw_nonzero())))
}

/// State and start time of a process or thread, from its `stat` (proc(5)): fields 3 and 22, after the name in
/// brackets.
fn look_at(place: &Path) -> Option<(char, u64)> {
    let stat = fs::read_to_string(place.join("stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let started = fields.nth(18)?.parse().ok()?;
    Some((state, started))
}
