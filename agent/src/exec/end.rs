//! The end of a program: noticing it, and bringing it about.
//!
//! The program leads a process group of its own. It is reaped only after the last signal to that group: until then
//! the kernel cannot give its number to another group, so no signal ever reaches a stranger.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid};
use tokio::io::unix::AsyncFd;
use tokio::process::Child;
use tokio::task::JoinHandle;

/// How long a group may take to end itself after SIGTERM before SIGKILL.
pub const GRACE: Duration = Duration::from_secs(2);

/// How long the kernel may take to end a group after SIGKILL before it counts as stuck in the kernel.
pub(super) const STUCK: Duration = Duration::from_secs(5);

/// How often a group that was asked to end is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A program and its process group. Dropping it kills both.
#[derive(Debug)]
pub(super) struct Group {
    id: Pid,
    leader: Child,
    end: EndOfLeader,
    reaped: bool,
}

/// How the end of the leader is noticed without reaping it.
#[derive(Debug)]
enum EndOfLeader {
    Pidfd(AsyncFd<OwnedFd>),
    /// On kernels before 5.3: a thread that waits.
    Thread(JoinHandle<()>),
    Seen,
}

impl EndOfLeader {
    fn of(id: Pid) -> io::Result<Self> {
        match pidfd_open(id, PidfdFlags::empty()) {
            Ok(fd) => Ok(Self::Pidfd(crate::sys::readiness(fd)?)),
            Err(Errno::NOSYS | Errno::PERM) => Ok(Self::by_thread(id)),
            Err(error) => Err(error.into()),
        }
    }

    fn by_thread(id: Pid) -> Self {
        Self::Thread(tokio::task::spawn_blocking(move || {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            if let Err(error) = retry_on_intr(|| waitid(WaitId::Pid(id), options)) {
                tracing::warn!(%error, "The end of a program could not be awaited");
            }
        }))
    }

    /// Waits for the leader's end. May be dropped and called again.
    async fn seen(&mut self) {
        let waited = match self {
            Self::Pidfd(fd) => fd.readable().await.map(|_| ()),
            Self::Thread(thread) => thread.await.map_err(io::Error::other),
            Self::Seen => return,
        };
        if let Err(error) = waited {
            tracing::warn!(%error, "The end of a program could not be awaited");
        }
        *self = Self::Seen;
    }
}

impl Group {
    /// Takes charge of `leader`, which was started as the leader of a new group.
    pub(super) fn of(leader: Child) -> io::Result<Self> {
        let id = leader.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let id = id.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Self { id, end: EndOfLeader::of(id)?, leader, reaped: false })
    }

    /// Waits until the leader has ended; it stays unreaped. May be dropped and called again.
    pub(super) async fn ended(&mut self) {
        self.end.seen().await;
    }

    /// Waits until every process of the group has ended. May be dropped and called again.
    pub(super) async fn all_ended(&mut self) {
        self.ended().await;
        while others_alive(self.id) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Asks every process of the group to end; a stopped one is woken to hear it.
    pub(super) fn ask(&self) {
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
    }

    /// Ends every process of the group.
    pub(super) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        if self.reaped {
            return;
        }
        match kill_process_group(self.id, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => tracing::warn!(%error, "A process group could not be signalled"),
        }
    }

    /// Collects the leader's status. No signal goes to the group afterwards.
    pub(super) async fn reap(&mut self) -> io::Result<ExitStatus> {
        let status = self.leader.wait().await;
        self.reaped = true;
        status
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether a process of group `id` is alive. The kernel announces only the leader's end.
pub(super) fn others_alive(id: Pid) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else { return true };
    processes.filter_map(Result::ok).any(|process| {
        let is_process = process.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
        is_process && std::fs::read(process.path().join("stat")).is_ok_and(|stat| is_alive_in(&stat, id))
    })
}

/// Reads proc(5)'s `pid (name) state ppid pgrp ...`, where the name may hold anything.
fn is_alive_in(stat: &[u8], id: Pid) -> bool {
    let after_name = stat.rsplit(|&byte| byte == b')').next().unwrap_or_default();
    let mut fields = after_name.split(|&byte| byte == b' ').filter(|field| !field.is_empty());
    let state = fields.next();
    let group = fields.nth(1).and_then(|field| std::str::from_utf8(field).ok()?.parse::<i32>().ok());
    group == Some(id.as_raw_pid()) && !matches!(state, Some(b"Z" | b"X"))
}

/// How a program that ended by itself did so: its exit status, or the signal that ended it.
pub(super) fn by_itself(status: ExitStatus) -> super::Outcome {
    match (status.code(), status.signal()) {
        (Some(code), _) => super::Outcome::Exited(code),
        (None, signal) => super::Outcome::Signalled(signal.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_process_is_read_past_any_name() {
        let id = Pid::from_raw(42).unwrap();

        assert!(is_alive_in(b"7 (sleep) S 1 42 42 0 -1", id));
        assert!(is_alive_in(b"7 (a) Z 1 9 (b) T 1 42 42 0 -1", id));
        assert!(!is_alive_in(b"7 (sleep) Z 1 42 42 0 -1", id));
        assert!(!is_alive_in(b"7 (sleep) S 1 43 42 0 -1", id));
        assert!(!is_alive_in(b"", id));
    }

    #[tokio::test]
    async fn the_end_is_noticed_without_a_pidfd_and_without_reaping() {
        let child = tokio::process::Command::new("/bin/sh").args(["-c", "exit 3"]).process_group(0).spawn().unwrap();
        let mut group = Group::of(child).unwrap();
        group.end = EndOfLeader::by_thread(group.id);

        group.ended().await;

        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        assert!(waitid(WaitId::Pid(group.id), options).unwrap().is_some(), "the leader was reaped");
        assert_eq!(group.reap().await.unwrap().code(), Some(3));
    }
}
