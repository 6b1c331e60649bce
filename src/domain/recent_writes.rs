//! What this node has lately been told about each identity, to catch a client that posts two
//! different records under one.
//!
//! An aid, not what correctness rests on: another node, or this one after a restart or after enough
//! other writes, does not know. Two-phase: an identity is held while its write is under way and
//! released if the write fails, so that a refused record blocks nobody.

use std::hash::{BuildHasher, Hash, RandomState};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

/// Another record is already known under this identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another record is already known under this identity")]
pub struct Conflict;

/// The identities of the last writes with a fingerprint of what was written, oldest forgotten first.
#[derive(Clone)]
pub struct RecentWrites<K: Hash + Eq>(Arc<Inner<K>>);

struct Inner<K: Hash + Eq> {
    hasher: RandomState,
    entries: Mutex<LruCache<K, Entry>>,
}

#[derive(Default)]
struct Entry {
    /// What a post may repeat: the first content, and what updates made of it.
    known: Vec<u64>,
    in_flight: u32,
    confirmed: bool,
}

/// How many contents one identity may be known under; beyond that the oldest update is forgotten.
const MAX_KNOWN: usize = 8;

impl<K: Hash + Eq + Clone> RecentWrites<K> {
    /// Remembers up to `capacity` identities, about 100 bytes each.
    pub fn new(capacity: NonZeroUsize) -> Self {
        Self(Arc::new(Inner {
            hasher: RandomState::new(),
            entries: Mutex::new(LruCache::new(capacity)),
        }))
    }

    /// Holds `identity` for a record with this `content` until the returned guard says how the
    /// write ended.
    ///
    /// # Errors
    /// [`Conflict`] when the identity is known with other content.
    pub fn hold(&self, identity: K, content: &impl Hash) -> Result<Pending<K>, Conflict> {
        let content = self.0.hasher.hash_one(content);
        let mut entries = self.entries();
        let entry = entries.get_or_insert_mut(identity.clone(), Entry::default);
        if entry.known.is_empty() {
            entry.known.push(content);
        } else if !entry.known.contains(&content) {
            return Err(Conflict);
        }
        entry.in_flight += 1;
        drop(entries);
        Ok(Pending {
            writes: self.clone(),
            identity: Some(identity),
        })
    }

    /// Notes that an update gave a known identity new content, which a post may now repeat.
    pub fn updated(&self, identity: &K, content: &impl Hash) {
        let content = self.0.hasher.hash_one(content);
        if let Some(entry) = self.entries().get_mut(identity)
            && !entry.known.contains(&content)
        {
            if entry.known.len() == MAX_KNOWN {
                entry.known.remove(1);
            }
            entry.known.push(content);
        }
    }

    fn settle(&self, identity: &K, stored: bool) {
        let mut entries = self.entries();
        if let Some(entry) = entries.peek_mut(identity) {
            entry.in_flight = entry.in_flight.saturating_sub(1);
            entry.confirmed |= stored;
            if entry.in_flight == 0 && !entry.confirmed {
                entries.pop(identity);
            }
        }
    }

    fn entries(&self) -> MutexGuard<'_, LruCache<K, Entry>> {
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
pub struct Pending<K: Hash + Eq + Clone> {
    writes: RecentWrites<K>,
    identity: Option<K>,
}

impl<K: Hash + Eq + Clone> Pending<K> {
    /// The write failed: forget the identity unless another write under it goes on.
    pub fn release(mut self) {
        if let Some(identity) = self.identity.take() {
            self.writes.settle(&identity, false);
        }
    }
}

impl<K: Hash + Eq + Clone> Drop for Pending<K> {
    fn drop(&mut self) {
        if let Some(identity) = self.identity.take() {
            self.writes.settle(&identity, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writes(capacity: usize) -> RecentWrites<u64> {
        RecentWrites::new(NonZeroUsize::new(capacity).unwrap())
    }

    #[test]
    fn the_same_again_is_welcome_and_another_is_a_conflict() {
        let writes = writes(10);
        drop(writes.hold(1, &"a"));
        assert!(writes.hold(1, &"a").is_ok());
        assert_eq!(writes.hold(1, &"b").err(), Some(Conflict));
        writes.updated(&1, &"b");
        assert!(writes.hold(1, &"b").is_ok());
        assert!(
            writes.hold(1, &"a").is_ok(),
            "a late retry of the first post"
        );
    }

    #[test]
    fn a_failed_write_releases_its_identity_only_when_it_was_the_last() {
        let writes = writes(10);
        let first = writes.hold(1, &"a").unwrap();
        let retry = writes.hold(1, &"a").unwrap();
        first.release();
        assert!(writes.hold(1, &"b").is_err());
        retry.release();
        assert!(writes.hold(1, &"b").is_ok());
    }

    #[test]
    fn a_stored_write_is_not_released_by_a_failed_retry() {
        let writes = writes(10);
        drop(writes.hold(1, &"a"));
        writes.hold(1, &"a").unwrap().release();
        assert!(writes.hold(1, &"b").is_err());
    }

    #[test]
    fn memory_is_bounded() {
        let writes = writes(2);
        for id in 0..100 {
            drop(writes.hold(id, &"a"));
        }
        assert_eq!(writes.entries().len(), 2);
        assert!(writes.hold(0, &"b").is_ok(), "forgotten");
    }
}
