//! Versions order the rival claims about one view; two updates must never share one.

use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, Utc};

/// 2020-01-01T00:00:00Z: 41 bits of milliseconds from here last until 2089.
const EPOCH_MS: i64 = 1_577_836_800_000;
const NODE_BITS: u32 = 10;
const COUNTER_BITS: u32 = 12;

/// The rank of a claim; the highest wins. 0 is a first POST.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    /// What a POST writes: below every update, so that a late duplicate cannot undo one.
    pub const FIRST: Version = Version(0);

    /// Where a first POST that lost to another first POST is put to rest: above every late copy of
    /// it, and below every update.
    pub const ABOVE_FIRST: Version = Version(1);

    /// Wraps a stored number.
    pub const fn new(version: u64) -> Self {
        Self(version)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Gives versions that rise and that no other source with another node number gives: 41 bits of
/// milliseconds, 10 bits of node, 12 bits of counter.
#[derive(Debug)]
pub struct VersionSource {
    node: u64,
    /// The last (milliseconds, counter) given, as one number.
    last: AtomicU64,
}

impl VersionSource {
    /// The largest node number.
    pub const MAX_NODE: u16 = (1 << NODE_BITS) - 1;

    /// A source for one node; of a larger number only the low 10 bits are used.
    pub fn new(node: u16) -> Self {
        Self {
            node: u64::from(node & Self::MAX_NODE),
            last: AtomicU64::new(0),
        }
    }

    /// A version above every one given before by this source, and above `known`, which may come
    /// from a node whose clock runs ahead of ours.
    pub fn above(&self, known: Version, now: DateTime<Utc>) -> Version {
        let now_ms = u64::try_from(now.timestamp_millis() - EPOCH_MS).unwrap_or(0);
        let known_ms = known.0 >> (NODE_BITS + COUNTER_BITS);
        let floor = now_ms.max(known_ms + 1) << COUNTER_BITS;
        let step = |last: u64| floor.max(last + 1);
        let previous = self
            .last
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                Some(step(last))
            })
            .unwrap_or_else(|last| last);
        let ticks = step(previous);
        let (ms, counter) = (ticks >> COUNTER_BITS, ticks & ((1 << COUNTER_BITS) - 1));
        Version((((ms << NODE_BITS) | self.node) << COUNTER_BITS) | counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_rise_and_differ_between_nodes() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let (a, b) = (VersionSource::new(1), VersionSource::new(2));
        let mut seen = std::collections::BTreeSet::new();
        let mut last = Version::FIRST;
        for _ in 0..10_000 {
            let version = a.above(Version::FIRST, now);
            assert!(version > last);
            last = version;
            assert!(seen.insert(version));
            assert!(seen.insert(b.above(Version::FIRST, now)));
        }
    }

    #[test]
    fn no_update_gets_a_version_of_the_first_posts() {
        let epoch = DateTime::from_timestamp_millis(EPOCH_MS).unwrap();
        let version = VersionSource::new(0).above(Version::FIRST, epoch);
        assert!(version > Version::ABOVE_FIRST);
    }

    #[test]
    fn a_clock_that_runs_behind_still_gives_a_higher_version() {
        let fast = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let slow = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let live = VersionSource::new(1).above(Version::FIRST, fast);
        assert!(VersionSource::new(0).above(live, slow) > live);
    }
}
