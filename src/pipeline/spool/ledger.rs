//! What the spool has on disk, in numbers: kept with every change, so that nothing has to be counted
//! when it is asked for.

use std::hash::{DefaultHasher, Hash, Hasher};

use uuid::Uuid;

use super::Name;
use super::waiting::Waiting;

/// A file takes whole blocks of this size on disk.
const BLOCK_BYTES: u64 = 4096;

/// What a file of `length` bytes takes on disk.
pub(super) fn on_disk(length: u64) -> u64 {
    length.max(1).next_multiple_of(BLOCK_BYTES)
}

/// The files of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) files: u64,
    /// On disk.
    pub(super) bytes: u64,
}

impl Count {
    pub(super) fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }

    // An operator may have put a file back that was never counted.
    pub(super) fn subtract(&mut self, bytes: u64) {
        self.files = self.files.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// Which batches are there, as far as it can be said without naming each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) batches: Count,
    /// Rows in them, as far as they were read; a batch that was not counts as one.
    pub(super) rows: u64,
    pub(super) oldest: Option<Name>,
    pub(super) newest: Option<Name>,
    /// The sum of the names' hashes: two directories of equal sums hold the same names.
    pub(super) fingerprint: u64,
}

impl Tally {
    pub(super) fn add(&mut self, name: Name, bytes: u64, rows: u64) {
        self.batches.add(bytes);
        self.rows += rows;
        self.oldest = Some(self.oldest.map_or(name, |oldest| oldest.min(name)));
        self.newest = self.newest.max(Some(name));
        self.fingerprint = self.fingerprint.wrapping_add(hash(name));
    }

    pub(super) fn has_the_names_of(&self, other: &Tally) -> bool {
        (self.batches.files, self.fingerprint) == (other.batches.files, other.fingerprint)
    }
}

fn hash(name: Name) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

pub(super) struct Ledger {
    max_bytes: u64,
    /// `oldest` stays when that file goes, until the directory is listed again: so it is never
    /// later than the truth.
    pub(super) tally: Tally,
    pub(super) rejected: Count,
    pub(super) waiting: Waiting,
    pub(super) last_write_failed: bool,
}

impl Ledger {
    pub(super) fn new(max_bytes: u64, index_capacity: usize) -> Self {
        Self {
            max_bytes,
            tally: Tally::default(),
            rejected: Count::default(),
            waiting: Waiting::new(index_capacity),
            last_write_failed: false,
        }
    }

    pub(super) fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    pub(super) fn has_room_for(&self, bytes: u64) -> bool {
        self.tally.batches.bytes.saturating_add(bytes) <= self.max_bytes
    }

    /// Refused rows have as much room as batches, and of their own: neither can crowd out the other.
    pub(super) fn has_room_for_refused(&self, bytes: u64) -> bool {
        self.rejected.bytes.saturating_add(bytes) <= self.max_bytes
    }

    /// Rows that wait; of batches that were not read, at least one each.
    pub(super) fn rows(&self) -> u64 {
        self.tally.rows.max(self.tally.batches.files)
    }

    pub(super) fn next_name(&mut self, now_ms: u64, token: Uuid) -> Name {
        let name = Name::following(self.tally.newest, now_ms, token);
        self.tally.newest = Some(name);
        name
    }

    pub(super) fn add(
        &mut self,
        name: Name,
        bytes: u64,
        rows: u64,
        identities: impl Iterator<Item = u64>,
    ) {
        self.tally.add(name, bytes, rows);
        self.waiting.note(name, identities);
    }

    /// A batch has left the spool; `identities` is `None` where its table can't be read.
    pub(super) fn subtract(
        &mut self,
        name: Name,
        bytes: u64,
        rows: u64,
        identities: Option<impl Iterator<Item = u64>>,
    ) {
        let tally = &mut self.tally;
        tally.batches.subtract(bytes);
        tally.rows = tally.rows.saturating_sub(rows);
        tally.fingerprint = tally.fingerprint.wrapping_sub(hash(name));
        // What was never counted must not be taken off the counts of others.
        let identities = identities.filter(|_| !name.is_restored());
        self.waiting.forget(name, identities);
        if self.tally.batches.files == 0 {
            match (self.tally.fingerprint, self.tally.newest) {
                (0, _) => {
                    self.tally.oldest = None;
                    self.tally.batches.bytes = 0;
                    self.tally.rows = 0;
                    self.waiting.clear();
                }
                // Other files went than came: some are left that were never counted.
                (_, Some(newest)) => self.waiting.leave_out(newest),
                (_, None) => {}
            }
        }
    }

    /// The directory was counted while nothing changed in it.
    pub(super) fn replace(&mut self, found: Tally) {
        let newest = self.tally.newest.max(found.newest);
        self.tally = Tally { newest, ..found };
        match newest {
            _ if found.batches.files == 0 => self.waiting.clear(),
            Some(newest) => self.waiting.leave_out(newest),
            None => {}
        }
    }
}
