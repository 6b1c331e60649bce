//! Taking over a spool's directory: the lock, what a dead process left, and what waits.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::Path;

use tracing::warn;

use super::directory::{self, Found, LOCK};
use super::glance::{Glance, glance};
use super::ledger::{Ledger, on_disk};
use super::{Error, Name};

/// What was found when the spool was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Opened {
    /// Batches that wait for their replay.
    pub files: u64,
    /// What they take on disk.
    pub bytes: u64,
    /// Half-written files that were removed; none of them was ever acknowledged.
    pub temporary_files: u64,
    /// Files that were not the spool's and were moved to `rejected` just now.
    pub foreign_files: u64,
    /// Files in `rejected`, those included.
    pub rejected_files: u64,
    /// How many identities [`holds`](super::Spool::holds) knows.
    pub identities: usize,
    /// Whether it knows all of them.
    pub index_complete: bool,
}

/// Cleans the directory and counts what is in it.
pub(super) fn take_stock(
    dir: &Path,
    rejected: &Path,
    ledger: &mut Ledger,
) -> Result<Opened, Error> {
    let mut opened = Opened::default();
    directory::walk(dir, |found, entry| {
        let path = entry.path();
        match found {
            Found::Batch(name) => {
                if let Some(length) = directory::length(entry)? {
                    enter(ledger, name, on_disk(length), &path);
                }
            }
            Found::Temporary => opened.temporary_files += remove_temporary(&path),
            Found::Foreign => match directory::move_aside(&path, rejected) {
                Ok(to) => {
                    opened.foreign_files += 1;
                    warn!(file = %path.display(), to = %to.display(), "foreign file moved aside");
                }
                Err(reason) => {
                    warn!(file = %path.display(), %reason, "foreign file left where it is");
                }
            },
        }
        Ok(())
    })
    .map_err(Error::io("list", dir))?;
    directory::walk(rejected, |found, entry| {
        if let Found::Temporary = found {
            opened.temporary_files += remove_temporary(&entry.path());
        }
        Ok(())
    })
    .map_err(Error::io("list", rejected))?;
    ledger.rejected = directory::count_rejected(rejected).map_err(Error::io("list", rejected))?;
    opened.files = ledger.tally.batches.files;
    opened.bytes = ledger.tally.batches.bytes;
    opened.rejected_files = ledger.rejected.files;
    opened.identities = ledger.waiting.len();
    opened.index_complete = ledger.waiting.is_complete();
    Ok(opened)
}

/// Makes this process the owner for as long as the file is open.
pub(super) fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(Error::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(Error::io("lock", &path)(source)),
    }
}

/// Counts a batch that was there before the spool was opened.
fn enter(ledger: &mut Ledger, name: Name, size: u64, path: &Path) {
    // Beyond the capacity no file is opened: a million of them would take minutes.
    let glance = if ledger.waiting.has_room() {
        glance(path).ok().flatten()
    } else {
        None
    };
    match glance.as_ref().and_then(Glance::identities) {
        Some(identities) => {
            let rows = glance.as_ref().map_or(1, Glance::rows);
            ledger.add(name, size, rows, identities);
        }
        None => {
            ledger.tally.add(name, size, 1);
            ledger.waiting.leave_out(name);
        }
    }
}

/// How many files were removed.
fn remove_temporary(path: &Path) -> u64 {
    match fs::remove_file(path) {
        Ok(()) => 1,
        Err(reason) => {
            warn!(file = %path.display(), %reason, "a temporary file stays until the next start");
            0
        }
    }
}
