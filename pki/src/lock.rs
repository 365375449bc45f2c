//! One invocation at a time on one folder, so that no serial, bundle number or library version is given twice.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long another invocation is waited for: as long as a person may take to type a passphrase.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often it is looked whether the other one is done.
const LOOK: Duration = Duration::from_millis(20);

/// How a folder is locked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Lock {
    /// To act: nobody else acts or looks.
    Exclusive,
    /// To look: others may look too.
    Shared,
}

/// Locks a folder until the file is dropped. `None` when another invocation holds it for longer than is waited.
pub(crate) fn folder(path: &Path, how: Lock) -> std::io::Result<Option<File>> {
    held_within(path, how, PATIENCE)
}

fn held_within(path: &Path, how: Lock, patience: Duration) -> std::io::Result<Option<File>> {
    let folder = File::open(path)?;
    let began = Instant::now();
    loop {
        let taken = match how {
            Lock::Exclusive => folder.try_lock(),
            Lock::Shared => folder.try_lock_shared(),
        };
        match taken {
            Ok(()) => return Ok(Some(folder)),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if began.elapsed() >= patience => return Ok(None),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_acts_is_alone_and_who_looks_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let take = |how| held_within(folder.path(), how, Duration::ZERO).unwrap();
        let acting = take(Lock::Exclusive).unwrap();
        assert!(take(Lock::Exclusive).is_none() && take(Lock::Shared).is_none());
        drop(acting);
        let _looking = take(Lock::Shared).unwrap();
        assert!(take(Lock::Shared).is_some() && take(Lock::Exclusive).is_none());
    }
}
