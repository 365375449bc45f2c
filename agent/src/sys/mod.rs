//! What safe interfaces cannot do: the only unsafe code of the agent, all of it about descriptors.

#![expect(unsafe_code, reason = "see each use")]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Once;

use rustix::io::{FdFlags, fcntl_setfd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Waits on `fd` until it can be read. Must be called within a tokio runtime.
///
/// # Errors
///
/// The kernel's, when `fd` is of a kind that cannot be waited on.
pub fn readiness(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, owns its descriptor and names the same one for as long as it lives.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    registered.map_err(|refused| refused.into_parts().1)
}

/// Keeps the descriptors that the agent inherited from whoever started it away from the programs that it starts.
///
/// Everything that the agent opens is close-on-exec from the start; what a careless parent left open is not, and
/// would reach every operation. Only the first call does anything.
pub fn keep_inherited_descriptors() {
    static DONE: Once = Once::new();
    DONE.call_once(|| {
        if let Err(error) = mark_close_on_exec() {
            tracing::warn!(%error, "Descriptors that the agent inherited could not be listed; programs may see them");
        }
    });
}

/// Marks every descriptor above stderr close-on-exec.
fn mark_close_on_exec() -> io::Result<()> {
    let open: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&fd| fd > 2)
        .collect();
    for fd in open {
        // SAFETY: the number is used for one fcntl that neither closes nor reads. Should another thread have closed
        // it since it was listed, the call fails; should the number have a new owner, the flag is set there already,
        // because the standard library and rustix open everything close-on-exec.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        if let Err(error) = fcntl_setfd(fd, FdFlags::CLOEXEC) {
            tracing::debug!(%error, "A descriptor was gone before it could be marked");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd as _;
    use std::process::Command;

    use super::*;

    fn descriptors_of_a_child() -> String {
        let listed = Command::new("/bin/ls").arg("/proc/self/fd").output().unwrap();
        String::from_utf8(listed.stdout).unwrap()
    }

    #[test]
    fn a_descriptor_left_open_by_the_parent_reaches_no_program() {
        let file = File::open("/dev/null").unwrap();
        let left_open = rustix::io::fcntl_dupfd_cloexec(&file, 200).unwrap();
        fcntl_setfd(&left_open, FdFlags::empty()).unwrap();
        let number = left_open.as_raw_fd().to_string();
        assert!(descriptors_of_a_child().lines().any(|line| line == number), "the test leaks no descriptor");

        mark_close_on_exec().unwrap();

        let seen = descriptors_of_a_child();
        assert!(seen.lines().all(|line| line.parse::<i32>().unwrap() <= 3), "{seen}");
    }
}
