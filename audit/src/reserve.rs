//! Room that is kept free for the results of what already runs.
//!
//! A file of real blocks lies beside the ledger. When the disk is full it is removed, so that results and what takes
//! rights away still fit, while nothing new is begun. A ledger with a size limit keeps the same room below it.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

/// What the reserve file is written in.
const PIECE: usize = 256 * 1024;

/// The reserve of one ledger.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    bytes: u64,
    limit: Option<u64>,
}

/// The reserve cannot be set aside.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoReserve {
    #[error("the disk has no room for the reserve file: {0}")]
    Disk(#[source] std::io::Error),
    #[error("the ledger has reached its size limit")]
    Limit,
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

impl Reserve {
    /// A reserve of `bytes` for the ledger at `ledger`, which may take `limit` bytes in all.
    pub(crate) fn new(ledger: &Path, bytes: u64, limit: Option<u64>) -> Self {
        let mut path = ledger.as_os_str().to_owned();
        path.push(".reserve");
        Self { path: path.into(), bytes, limit }
    }

    /// Sets the room aside, or makes sure that it still is.
    pub(crate) fn set_aside(&self, ledger: &Connection) -> Result<(), NoReserve> {
        if let Some(limit) = self.limit {
            let pages = self.pages(ledger, limit.saturating_sub(self.bytes))?;
            let used: u64 = ledger.pragma_query_one(None, "page_count")?;
            if used >= pages {
                return Err(NoReserve::Limit);
            }
            set_pages(ledger, pages)?;
        }
        if std::fs::metadata(&self.path).is_ok_and(|file| file.len() >= self.bytes) {
            return Ok(());
        }
        self.write().map_err(|error| {
            drop(std::fs::remove_file(&self.path));
            NoReserve::Disk(error)
        })
    }

    /// Gives the room to the ledger.
    pub(crate) fn release(&self, ledger: &Connection) -> Result<(), rusqlite::Error> {
        if let Some(limit) = self.limit {
            set_pages(ledger, self.pages(ledger, limit)?)?;
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "The reserve file cannot be removed");
        }
        Ok(())
    }

    fn pages(&self, ledger: &Connection, bytes: u64) -> Result<u64, rusqlite::Error> {
        let page: u64 = ledger.pragma_query_one(None, "page_size")?;
        Ok((bytes / page.max(1)).max(1))
    }

    /// Real blocks, or an error: a sparse file would keep no room.
    fn write(&self) -> std::io::Result<()> {
        let mut file = File::create(&self.path)?;
        match allocate(&file, self.bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::Unsupported => fill(&mut file, self.bytes)?,
            allocated => allocated?,
        }
        file.sync_all()
    }
}

#[cfg(target_os = "linux")]
fn allocate(file: &File, bytes: u64) -> std::io::Result<()> {
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn allocate(_: &File, _: u64) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// The content repeats nothing, so that no file system stores it in less room.
fn fill(file: &mut File, bytes: u64) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut left = bytes;
    while left > 0 {
        rand::fill(piece.as_mut_slice());
        let length = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
        file.write_all(piece.get(..length).unwrap_or_default())?;
        left = left.saturating_sub(length as u64);
    }
    Ok(())
}

fn set_pages(ledger: &Connection, pages: u64) -> Result<(), rusqlite::Error> {
    ledger.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_has_real_blocks_and_goes_when_it_is_released() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Connection::open(directory.path().join("audit.db")).unwrap();
        let reserve = Reserve::new(&directory.path().join("audit.db"), 1024 * 1024 + 1, None);
        reserve.set_aside(&ledger).unwrap();
        let file = directory.path().join("audit.db.reserve");
        assert_eq!(file.metadata().unwrap().len(), 1024 * 1024 + 1);
        #[cfg(unix)]
        assert!(std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap()) >= 2048);
        reserve.release(&ledger).unwrap();
        assert!(!file.exists());

        let mut other = File::create(&file).unwrap();
        fill(&mut other, 300_001).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 300_001);
        reserve.set_aside(&ledger).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 1024 * 1024 + 1, "one that is too short is made again");
    }

    #[test]
    fn below_a_limit_the_reserve_is_pages_that_only_results_may_take() {
        let ledger = Connection::open_in_memory().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let page: u64 = ledger.pragma_query_one(None, "page_size").unwrap();
        let reserve = Reserve::new(&directory.path().join("audit.db"), 10 * page, Some(30 * page));
        let most = || -> u64 { ledger.pragma_query_one(None, "max_page_count").unwrap() };
        reserve.set_aside(&ledger).unwrap();
        assert_eq!(most(), 20);
        reserve.release(&ledger).unwrap();
        assert_eq!(most(), 30);
        ledger.execute_batch("CREATE TABLE filler (x); INSERT INTO filler VALUES (zeroblob(100000))").unwrap();
        assert!(matches!(reserve.set_aside(&ledger), Err(NoReserve::Limit)));
    }
}
