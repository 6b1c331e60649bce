//! The owner's side of the spool: one process, many threads.
//!
//! Purpose: put batches on disk and get them back, oldest first, within a fixed size.
//!
//! Invariants: the numbers and the index count a batch before it becomes visible in the directory
//! and no longer than it is, so neither ever denies a batch that somebody was told about. The sizes
//! of all batches, those being written included, never exceed the maximum.
//!
//! Refuses to know: clocks (callers pass the time), retries, the order of replay.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use tracing::{info, warn};
use uuid::Uuid;

use super::directory::{self, REJECTED};
use super::durable::{self, Remains};
use super::glance::glance;
use super::ledger::{Ledger, on_disk};
use super::opening::{self, Opened};
use super::{Error, Held, Name, ReadError, Shelf, Spooled, format};
use crate::pipeline::Batch;

/// A spool that this process owns until it is dropped. All methods may be called from any thread;
/// all of them block on the disk unless they say otherwise.
pub struct Spool {
    dir: PathBuf,
    rejected: PathBuf,
    ledger: Mutex<Ledger>,
    /// Shared by whoever changes the directory, exclusive for counting it anew.
    changes: RwLock<()>,
    /// Held while a file finds its name among the rejected ones.
    aside: Mutex<()>,
    /// The lock ends with the file's last handle, however the process ends.
    _lock: File,
}

/// The spool in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Batches that wait, those being written included.
    pub files: u64,
    /// Rows in them; a batch that was there before and could not be read counts as one.
    pub rows: u64,
    /// What they take on disk, in blocks of 4 KiB.
    pub bytes: u64,
    /// What they may take.
    pub max_bytes: u64,
    /// Files in `rejected`.
    pub rejected_files: u64,
    /// What those take on disk.
    pub rejected_bytes: u64,
    /// When the oldest batch was spooled, in milliseconds since 1970. While a replay is under way it
    /// may be the time of one that has just gone.
    pub oldest_ms: Option<u64>,
    /// The operating system refused the last attempt to write.
    pub last_write_failed: bool,
}

impl Spool {
    /// Opens the spool in `dir`, which is created where it is missing. `max_bytes` bounds what the
    /// batches take on disk, and separately what quarantined rows may; `index_capacity` is how many
    /// identities [`Spool::holds`] can know, at about 40 bytes each, and 40 more per file.
    ///
    /// Temporary files are removed, files that are not the spool's are moved to `rejected`. No
    /// file's content makes this fail.
    ///
    /// # Errors
    /// [`Error::InUse`] if another process owns the directory; [`Error::Io`] if the directory can't
    /// be used.
    pub fn open(
        dir: &Path,
        max_bytes: u64,
        index_capacity: usize,
    ) -> Result<(Spool, Opened), Error> {
        let rejected = dir.join(REJECTED);
        durable::create_directories(&rejected)?;
        let lock = opening::lock(dir)?;
        let mut ledger = Ledger::new(max_bytes, index_capacity);
        let opened = opening::take_stock(dir, &rejected, &mut ledger)?;
        let spool = Spool {
            dir: dir.to_owned(),
            rejected,
            ledger: Mutex::new(ledger),
            changes: RwLock::new(()),
            aside: Mutex::new(()),
            _lock: lock,
        };
        Ok((spool, opened))
    }

    /// Keeps a batch. `Ok` means that it survives a crash; `now_ms` is milliseconds since 1970.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Io`] or [`Error::Unfit`]: nothing of the batch is kept.
    pub fn put(&self, batch: &Batch, now_ms: u64) -> Result<Name, Error> {
        self.publish(batch, now_ms, None)
    }

    /// Puts the rest of the batch `whole` in its place: its name tells the same time, so that nothing
    /// seems fresher than it is, and it may go beyond the maximum until `whole` is gone. A crash in
    /// between leaves both.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Unfit`]: `whole` is as it was, or still there beside the rest.
    pub(super) fn put_instead(&self, whole: &Name, rest: &Batch) -> Result<(), Error> {
        self.put_beside(whole, rest)?;
        self.remove(whole)
    }

    /// The same, and `whole` stays.
    pub(super) fn put_beside(&self, whole: &Name, rest: &Batch) -> Result<Name, Error> {
        self.publish(rest, whole.ms(), Some(*whole))
    }

    fn publish(&self, batch: &Batch, now_ms: u64, whole: Option<Name>) -> Result<Name, Error> {
        self.rooms()?;
        let encoded = format::encode(batch, now_ms).map_err(Error::Unfit)?;
        let (size, rows) = (on_disk(encoded.length()), batch.rows as u64);
        let identities = || batch.records.iter().map(|mark| mark.identity);
        let _unchanged = shared(&self.changes);
        let name = {
            let mut ledger = self.ledger();
            if whole.is_none() && !ledger.has_room_for(size) {
                return Err(Error::Full {
                    used: ledger.tally.batches.bytes,
                    max: ledger.max_bytes(),
                });
            }
            let name = match whole {
                Some(whole) => whole.of_rest(batch.token),
                None => ledger.next_name(now_ms, batch.token),
            };
            // Before it is visible: a replay may take it away at once.
            ledger.add(name, size, rows, identities());
            name
        };
        let outcome = durable::publish(
            &self.dir.join(name.temporary()),
            &self.path(name),
            &encoded.parts(),
        );
        let mut ledger = self.ledger();
        ledger.last_write_failed = outcome.is_err();
        outcome.map(|()| name).map_err(|unpublished| {
            if unpublished.remains == Remains::Nothing {
                ledger.subtract(name, size, rows, Some(identities()));
            }
            unpublished.error
        })
    }

    /// The `limit` oldest names beyond `after`, oldest first. Reads the whole directory each time,
    /// so ask for many; a batch being put meanwhile may be in it or not.
    ///
    /// # Errors
    /// Those of listing the directory.
    pub fn oldest(&self, after: Option<&Name>, limit: usize) -> io::Result<Vec<Name>> {
        let names = directory::oldest(&self.dir, after, limit)?;
        if after.is_none()
            && let Some(first) = names.first()
        {
            let mut ledger = self.ledger();
            // Empty means that it went while it was listed.
            ledger.tally.oldest = ledger.tally.oldest.map(|_| *first);
        }
        Ok(names)
    }

    /// Reads a batch, which is exactly the one that was put.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read(&self, name: &Name) -> Result<Spooled, ReadError> {
        let mut file = File::open(self.path(*name))?;
        let length = file.metadata()?.len();
        format::read(&mut file, length)
    }

    /// Removes a batch that has been replayed, or does nothing if it is gone.
    ///
    /// Not synced: after a crash the file may be back and is replayed again, under the same token
    /// and with the same rows, which changes nothing.
    ///
    /// # Errors
    /// [`Error::Io`]: the batch is still there.
    pub fn remove(&self, name: &Name) -> Result<(), Error> {
        let path = self.path(*name);
        let Some(glance) = glance(&path)? else {
            return Ok(());
        };
        let _unchanged = shared(&self.changes);
        match fs::remove_file(&path) {
            Ok(()) => {
                self.ledger()
                    .subtract(*name, glance.size, glance.rows(), glance.identities());
                Ok(())
            }
            Err(gone) if gone.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("remove", &path)(error)),
        }
    }

    /// Moves a batch that can't be replayed to `rejected`, and logs why; does nothing if it is gone.
    ///
    /// # Errors
    /// [`Error::Io`]: the batch may still be there, or be there again after a crash.
    pub fn reject(&self, name: &Name, reason: &str) -> Result<(), Error> {
        self.rooms()?;
        let path = self.path(*name);
        let Some(glance) = glance(&path)? else {
            return Ok(());
        };
        let _unchanged = shared(&self.changes);
        let _alone = self.aside.lock().unwrap_or_else(PoisonError::into_inner);
        let to = match directory::move_aside(&path, &self.rejected) {
            Ok(to) => to,
            Err(gone) if gone.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io("move aside", &path)(error)),
        };
        {
            let mut ledger = self.ledger();
            ledger.subtract(*name, glance.size, glance.rows(), glance.identities());
            ledger.rejected.add(glance.size);
        }
        warn!(file = %path.display(), to = %to.display(), reason, "a spooled batch was moved aside");
        durable::sync_directory(&self.rejected)?;
        durable::sync_directory(&self.dir)
    }

    /// Keeps rows that the store refused, as one file of JSON lines in `rejected`. Each line is one
    /// JSON value without a line break. `Ok` means that they survive a crash; the answer is the
    /// file's name.
    ///
    /// # Errors
    /// [`Error::Full`] or [`Error::Io`]: nothing of them is kept.
    pub fn quarantine(&self, lines: &[String], now_ms: u64) -> Result<String, Error> {
        self.set_aside(lines, now_ms, false)
    }

    /// The same for the rest of a file of such rows, which may go `beyond` the maximum until that file
    /// is gone.
    pub(super) fn set_aside(
        &self,
        lines: &[String],
        now_ms: u64,
        beyond: bool,
    ) -> Result<String, Error> {
        self.rooms()?;
        let text: String = lines
            .iter()
            .flat_map(|line| [line.as_str(), "\n"])
            .collect();
        let size = on_disk(text.len() as u64);
        let _unchanged = shared(&self.changes);
        let name = {
            let mut ledger = self.ledger();
            if !beyond && !ledger.has_room_for_refused(size) {
                return Err(Error::Full {
                    used: ledger.rejected.bytes,
                    max: ledger.max_bytes(),
                });
            }
            ledger.rejected.add(size);
            ledger.next_name(now_ms, Uuid::new_v4())
        };
        let file = name.refused_rows();
        let outcome = durable::publish(
            &self.rejected.join(name.temporary()),
            &self.rejected.join(&file),
            &[text.as_bytes()],
        );
        let mut ledger = self.ledger();
        ledger.last_write_failed = outcome.is_err();
        outcome.map(|()| file).map_err(|unpublished| {
            if unpublished.remains != Remains::File {
                ledger.rejected.subtract(size);
            }
            unpublished.error
        })
    }

    /// Whether a record about `identity` waits here. Does not touch the disk; the file may be gone
    /// by the time it is read.
    pub fn holds(&self, identity: u64) -> Held {
        self.ledger().waiting.holds(identity)
    }

    /// The spool in numbers. Does not touch the disk.
    pub fn state(&self) -> State {
        let ledger = self.ledger();
        State {
            files: ledger.tally.batches.files,
            rows: ledger.rows(),
            bytes: ledger.tally.batches.bytes,
            max_bytes: ledger.max_bytes(),
            rejected_files: ledger.rejected.files,
            rejected_bytes: ledger.rejected.bytes,
            oldest_ms: ledger.tally.oldest.map(Name::ms),
            last_write_failed: ledger.last_write_failed,
        }
    }

    /// Finds out whether a batch could be put now, by writing, syncing and removing a small file.
    ///
    /// # Errors
    /// [`Error::Full`] if not even the smallest batch has room, [`Error::Io`] if the file could not
    /// be written.
    pub fn probe(&self) -> Result<(), Error> {
        self.rooms()?;
        let name = {
            let mut ledger = self.ledger();
            if !ledger.has_room_for(on_disk(1)) {
                return Err(Error::Full {
                    used: ledger.tally.batches.bytes,
                    max: ledger.max_bytes(),
                });
            }
            ledger.next_name(0, Uuid::nil())
        };
        let path = self.dir.join(name.temporary());
        let outcome = durable::write(&path, &[b"probe\n"])
            .and_then(|()| fs::remove_file(&path).map_err(Error::io("remove", &path)));
        self.ledger().last_write_failed = outcome.is_err();
        outcome
    }

    /// Counts anew, because an operator may have put files back or taken them away. Puts and
    /// removals wait meanwhile, but only names are read unless something has changed.
    ///
    /// # Errors
    /// [`Error::Io`]: the old numbers stay.
    pub fn rescan(&self) -> Result<(), Error> {
        self.rooms()?;
        let _alone = self.changes.write().unwrap_or_else(PoisonError::into_inner);
        let rejected =
            directory::count_rejected(&self.rejected).map_err(Error::io("list", &self.rejected))?;
        let mut found = directory::tally(&self.dir, false).map_err(Error::io("list", &self.dir))?;
        let same = found.has_the_names_of(&self.ledger().tally);
        if !same {
            found = directory::tally(&self.dir, true).map_err(Error::io("list", &self.dir))?;
        }
        let mut ledger = self.ledger();
        ledger.rejected = rejected;
        if same {
            ledger.tally.oldest = found.oldest;
        } else {
            info!(
                files_before = ledger.tally.batches.files,
                files = found.batches.files,
                "the spool's files were changed from outside"
            );
            ledger.replace(found);
        }
        Ok(())
    }

    /// Makes the directories again where somebody has removed them.
    fn rooms(&self) -> Result<(), Error> {
        if self.rejected.is_dir() {
            return Ok(());
        }
        let made = durable::create_directories(&self.rejected);
        match &made {
            Ok(()) => {
                warn!(dir = %self.dir.display(), "the spool's directory was gone, made again")
            }
            Err(_) => self.ledger().last_write_failed = true,
        }
        made
    }

    pub(super) fn directory(&self) -> &Path {
        &self.dir
    }

    /// The operator's side of it.
    pub(super) fn shelf(&self) -> Shelf {
        Shelf::at(&self.dir)
    }

    fn path(&self, name: Name) -> PathBuf {
        self.dir.join(name.to_string())
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shared(lock: &RwLock<()>) -> impl Drop + '_ {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}
