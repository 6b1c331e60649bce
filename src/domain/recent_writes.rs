//! What this node has lately been told about each identity, to catch a client that posts two
//! different records under one.
//!
//! An aid, not what correctness rests on: another node, or this one after a restart or after enough
//! other writes, does not know. Two-phase: an identity is held while its write is under way and
//! released if the write fails, so that a refused record blocks nobody.
//!
//! A batch holds and settles thousands of identities, so both are one look-up in a hash table without
//! pointers to follow. Forgetting goes by generations: the young table takes what is written; once it
//! is full it becomes the old one, and what nobody wrote since is dropped with the old one before.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::hash::{BuildHasher, Hash};
use std::mem;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::quality::RandomState;

/// Another record is already known under this identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another record is already known under this identity")]
pub struct Conflict;

/// What becomes of a record whose identity is known with other content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    /// It is not held.
    Refuse,
    /// It is held, and its content is known from now on. Whatever is written under such an identity later
    /// is in conflict too, even if its content is known: who wrote that may have gone before it was settled.
    Note,
}

/// The identities of the last writes with a fingerprint of what was written, oldest forgotten first.
#[derive(Clone)]
pub struct RecentWrites<K: Hash + Eq>(Arc<Inner<K>>);

struct Inner<K: Hash + Eq> {
    hasher: RandomState,
    entries: Mutex<Entries<K>>,
}

/// Stands for the content of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(u64);

struct Entry {
    /// The first content, which a post may repeat.
    first: Fingerprint,
    /// What updates made of it, which a post may repeat too.
    updates: Vec<Fingerprint>,
    in_flight: u32,
    confirmed: bool,
}

/// How many updates of one identity may be known; beyond that the oldest is forgotten.
const MAX_UPDATES: usize = 7;
/// So many identities of a block are looked up before others get their turn.
const TURN: usize = 512;

impl Entry {
    fn new(first: Fingerprint) -> Self {
        Self {
            first,
            updates: Vec::new(),
            in_flight: 0,
            confirmed: false,
        }
    }

    fn knows(&self, content: Fingerprint) -> bool {
        self.first == content || self.updates.contains(&content)
    }

    fn note(&mut self, content: Fingerprint) {
        if self.updates.len() == MAX_UPDATES {
            self.updates.remove(0);
        }
        self.updates.push(content);
    }
}

/// The young and the old generation; an identity is in one of them.
struct Entries<K> {
    young: HashMap<K, Entry, RandomState>,
    old: HashMap<K, Entry, RandomState>,
    /// The most identities in one generation.
    generation: usize,
}

impl<K: Hash + Eq + Copy> Entries<K> {
    /// Whether it is held, and whether it is in conflict.
    fn hold(&mut self, identity: K, content: Fingerprint, then: OnConflict) -> (bool, bool) {
        if self.young.len() >= self.generation && !self.young.contains_key(&identity) {
            mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        let entry = match self.young.entry(identity) {
            Slot::Occupied(slot) => slot.into_mut(),
            Slot::Vacant(slot) => {
                let known = self.old.remove(&identity);
                slot.insert(known.unwrap_or_else(|| Entry::new(content)))
            }
        };
        let conflict = !entry.knows(content);
        if conflict && then == OnConflict::Refuse {
            return (false, true);
        }
        if conflict {
            entry.note(content);
        }
        entry.in_flight += 1;
        let has_rivals = then == OnConflict::Note && !entry.updates.is_empty();
        (true, conflict || has_rivals)
    }

    fn find(&mut self, identity: &K) -> Option<&mut Entry> {
        match self.young.get_mut(identity) {
            Some(entry) => Some(entry),
            None => self.old.get_mut(identity),
        }
    }

    fn settle(&mut self, identity: &K, stored: bool) {
        let Some(entry) = self.find(identity) else {
            return;
        };
        entry.in_flight = entry.in_flight.saturating_sub(1);
        entry.confirmed |= stored;
        if entry.in_flight == 0 && !entry.confirmed {
            self.young.remove(identity);
            self.old.remove(identity);
        }
    }
}

impl<K: Hash + Eq + Copy> RecentWrites<K> {
    /// Remembers up to `capacity` identities, and half of it at least; about 100 bytes each.
    pub fn new(capacity: NonZeroUsize) -> Self {
        let hasher = RandomState::default();
        let entries = Entries {
            young: HashMap::with_hasher(hasher.clone()),
            old: HashMap::with_hasher(hasher.clone()),
            generation: (capacity.get() / 2).max(1),
        };
        Self(Arc::new(Inner {
            hasher,
            entries: Mutex::new(entries),
        }))
    }

    /// What stands for `content` in here.
    pub fn fingerprint(&self, content: &impl Hash) -> Fingerprint {
        Fingerprint(self.0.hasher.hash_one(content))
    }

    /// Holds `identity` for a record with this `content` until the returned guard says how the
    /// write ended.
    ///
    /// # Errors
    /// [`Conflict`] when the identity is known with other content.
    pub fn hold(&self, identity: K, content: Fingerprint) -> Result<Pending<K>, Conflict> {
        let (held, _) = self.entries().hold(identity, content, OnConflict::Refuse);
        let pending = || Pending {
            writes: self.clone(),
            identity: Some(identity),
        };
        held.then(pending).ok_or(Conflict)
    }

    /// Holds many identities for records whose writes end together; beside the guard, the places of
    /// those that are in [`Conflict`], in order.
    pub fn hold_all(
        &self,
        records: &[(K, Fingerprint)],
        then: OnConflict,
    ) -> (PendingBlock<K>, Vec<usize>) {
        let mut held = Vec::with_capacity(records.len());
        let mut conflicts = Vec::new();
        for (turn, records) in records.chunks(TURN).enumerate() {
            let mut entries = self.entries();
            for (place, (identity, content)) in records.iter().enumerate() {
                let (is_held, conflict) = entries.hold(*identity, *content, then);
                if is_held {
                    held.push(*identity);
                }
                if conflict {
                    conflicts.push(turn * TURN + place);
                }
            }
        }
        let writes = self.clone();
        (PendingBlock { writes, held }, conflicts)
    }

    /// Notes that an update gave a known identity new content, which a post may now repeat.
    pub fn updated(&self, identity: &K, content: &impl Hash) {
        let content = self.fingerprint(content);
        if let Some(entry) = self.entries().find(identity)
            && !entry.knows(content)
        {
            entry.note(content);
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries<K>> {
        // No code that can panic runs under the lock, and a lost note is harmless.
        self.0
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// An identity whose write is under way. Dropped without a word (the client went away), the write
/// counts as stored, because it may well be.
#[must_use]
pub struct Pending<K: Hash + Eq + Copy> {
    writes: RecentWrites<K>,
    identity: Option<K>,
}

impl<K: Hash + Eq + Copy> Pending<K> {
    /// The write failed: forget the identity unless another write under it goes on.
    pub fn release(mut self) {
        if let Some(identity) = self.identity.take() {
            self.writes.entries().settle(&identity, false);
        }
    }
}

impl<K: Hash + Eq + Copy> Drop for Pending<K> {
    fn drop(&mut self) {
        if let Some(identity) = self.identity.take() {
            self.writes.entries().settle(&identity, true);
        }
    }
}

/// Identities whose writes are under way together; dropped without a word like [`Pending`].
#[must_use]
pub struct PendingBlock<K: Hash + Eq + Copy> {
    writes: RecentWrites<K>,
    held: Vec<K>,
}

impl<K: Hash + Eq + Copy> PendingBlock<K> {
    /// Says for each that is held, in order, whether its write was `stored` or failed.
    pub fn settle(mut self, stored: impl Fn(usize) -> bool) {
        self.settle_all(stored);
    }

    fn settle_all(&mut self, stored: impl Fn(usize) -> bool) {
        let held = mem::take(&mut self.held);
        for (turn, identities) in held.chunks(TURN).enumerate() {
            let mut entries = self.writes.entries();
            for (place, identity) in identities.iter().enumerate() {
                entries.settle(identity, stored(turn * TURN + place));
            }
        }
    }
}

impl<K: Hash + Eq + Copy> Drop for PendingBlock<K> {
    fn drop(&mut self) {
        self.settle_all(|_| true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writes(capacity: usize) -> RecentWrites<u64> {
        RecentWrites::new(NonZeroUsize::new(capacity).unwrap())
    }

    fn hold(writes: &RecentWrites<u64>, id: u64, content: &str) -> Result<Pending<u64>, Conflict> {
        writes.hold(id, writes.fingerprint(&content))
    }

    #[test]
    fn the_same_again_is_welcome_and_another_is_a_conflict() {
        let writes = writes(10);
        drop(hold(&writes, 1, "a"));
        assert!(hold(&writes, 1, "a").is_ok());
        assert_eq!(hold(&writes, 1, "b").err(), Some(Conflict));
        writes.updated(&1, &"b");
        assert!(hold(&writes, 1, "b").is_ok());
        assert!(
            hold(&writes, 1, "a").is_ok(),
            "a late retry of the first post"
        );
    }

    #[test]
    fn a_failed_write_releases_its_identity_only_when_it_was_the_last() {
        let writes = writes(10);
        let first = hold(&writes, 1, "a").unwrap();
        let retry = hold(&writes, 1, "a").unwrap();
        first.release();
        assert!(hold(&writes, 1, "b").is_err());
        retry.release();
        assert!(hold(&writes, 1, "b").is_ok());
    }

    #[test]
    fn a_stored_write_is_not_released_by_a_failed_retry() {
        let writes = writes(10);
        drop(hold(&writes, 1, "a"));
        hold(&writes, 1, "a").unwrap().release();
        assert!(hold(&writes, 1, "b").is_err());
    }

    #[test]
    fn memory_is_bounded() {
        let writes = writes(2);
        for id in 0..100 {
            drop(hold(&writes, id, "a"));
        }
        let entries = writes.entries();
        assert_eq!(entries.young.len() + entries.old.len(), 2);
        drop(entries);
        assert!(hold(&writes, 0, "b").is_ok(), "forgotten");
    }

    #[test]
    fn what_is_written_again_is_remembered_longer() {
        let writes = writes(20);
        for id in 0..100 {
            drop(hold(&writes, 1000, "a"));
            drop(hold(&writes, id, "a"));
        }
        assert!(hold(&writes, 1000, "b").is_err());
        assert!(
            hold(&writes, 91, "b").is_err(),
            "half of the capacity at least"
        );
    }

    #[test]
    fn a_block_is_held_and_settled_like_its_records_one_by_one() {
        let writes = writes(10_000);
        drop(hold(&writes, 7, "other"));
        let (a, b) = (writes.fingerprint(&"a"), writes.fingerprint(&"b"));
        let mut records: Vec<_> = (0..2000).map(|id| (id, a)).collect();
        records.extend([(3, a), (1999, b)]);
        let (pending, conflicts) = writes.hold_all(&records, OnConflict::Refuse);
        assert_eq!(conflicts, [7, 2001]);
        assert!(hold(&writes, 3, "b").is_err(), "under way");
        // What is behind the conflict has moved up by one.
        pending.settle(|place| place != 1499 && place != 3);
        assert!(hold(&writes, 1500, "b").is_ok(), "released");
        assert!(hold(&writes, 1499, "b").is_err());
        assert!(hold(&writes, 3, "b").is_err(), "stored once of twice");
        drop(writes.hold_all(&[(5000, a)], OnConflict::Refuse));
        assert!(hold(&writes, 5000, "b").is_err(), "may well be stored");
    }

    #[test]
    fn a_conflict_that_is_noted_is_held_and_stays_one() {
        let writes = writes(10);
        let (a, b) = (writes.fingerprint(&"a"), writes.fingerprint(&"b"));
        let (pending, conflicts) = writes.hold_all(&[(1, a), (2, a), (1, b)], OnConflict::Note);
        assert_eq!(conflicts, [2]);
        pending.settle(|place| place != 1);
        let (pending, conflicts) = writes.hold_all(&[(1, b), (2, b), (1, a)], OnConflict::Note);
        assert_eq!(conflicts, [0, 2], "the second was released");
        // Neither the write nor the settlement may have come about.
        pending.settle(|_| false);
        let (pending, conflicts) = writes.hold_all(&[(1, b), (2, b)], OnConflict::Note);
        assert_eq!(conflicts, [0]);
        drop(pending);
    }
}
