//! The lock that lets one process at a time change the devices file.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::{FileError, StoreError};

/// The pause between two attempts to take a lock that another process holds.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// Holds an advisory lock on `<file>.lock` until it is dropped or the process ends.
///
/// The lock file stays behind: removing it would let two processes hold locks on two files of that
/// name.
pub(crate) struct FileLock {
    _locked: File,
}

impl FileLock {
    /// Waits at most `patience` for the lock beside `path`. Blocks.
    pub(crate) fn acquire(path: &Path, patience: Duration) -> Result<Self, StoreError> {
        let mut name = OsString::from(path.file_name().unwrap_or_default());
        name.push(".lock");
        let lock_path = path.with_file_name(name);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|source| FileError::io(&lock_path, "cannot open the lock", source))?;
        let give_up = Instant::now() + patience;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _locked: file }),
                Err(TryLockError::WouldBlock) if Instant::now() < give_up => {
                    thread::sleep(RETRY_PAUSE);
                }
                Err(TryLockError::WouldBlock) => return Err(StoreError::Busy(lock_path)),
                Err(TryLockError::Error(source)) => {
                    return Err(FileError::io(&lock_path, "cannot lock", source).into());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_turned_away_until_the_first_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("devices.json");
        let first = FileLock::acquire(&path, Duration::ZERO).unwrap();
        let second = FileLock::acquire(&path, Duration::from_millis(30));
        assert!(matches!(second, Err(StoreError::Busy(_))));
        drop(first);
        FileLock::acquire(&path, Duration::ZERO).unwrap();
    }
}
