//! Token buckets for any number of senders in memory that never grows.
//!
//! A bucket is one number: the time at which it will be full again (the generic cell rate algorithm,
//! ITU-T I.371). A time that has passed says the same as no bucket, so old ones need no sweeping: a
//! new sender takes the place of the one in its set whose time comes first, which is nearly always
//! long past. Where more senders are in debt at once than there are places, those with the smallest
//! debt are forgiven it, and the largest stay: who floods the table can't wash himself clean.
//!
//! A table in a library would do, but for that: the one that fits (`governor`) keeps an entry for each
//! key that it has ever seen until it is told to sweep, and what can be sent with forged or many
//! addresses would fill the memory in between.

use std::hash::{BuildHasher, Hash};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Places that a sender may take; one cache line holds four.
const WAYS: usize = 8;
/// As many sets: 65,536 senders, 1.1 MiB.
const SETS: usize = 8192;

/// How much a bucket holds, and how fast it fills up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    quota: u32,
    window: Duration,
    nanos_per_unit: u64,
}

impl Rate {
    /// A bucket of `quota` units, filled up in `window`. Both are at least 1 (second).
    pub fn new(quota: u32, window: Duration) -> Self {
        let window = window.max(Duration::from_secs(1));
        let quota = quota.max(1);
        let nanos = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX);
        Self {
            quota,
            window,
            nanos_per_unit: (nanos / u64::from(quota)).max(1),
        }
    }

    /// What a full bucket holds.
    pub const fn quota(&self) -> u32 {
        self.quota
    }

    /// How long an empty bucket takes to be full.
    pub const fn window(&self) -> Duration {
        self.window
    }

    const fn capacity_nanos(&self) -> u64 {
        self.nanos_per_unit * self.quota as u64
    }
}

/// How a bucket stands after a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Whether anything was taken.
    pub is_allowed: bool,
    /// The units that are left.
    pub remaining: u32,
    /// Until the bucket is full again.
    pub full_in: Duration,
    /// Until a unit is there; zero where one is.
    pub wait: Duration,
}

#[derive(Clone, Copy, Default)]
struct Place {
    /// Who has it: 64 bits of a hash that nobody outside can foresee.
    who: u64,
    full_at: u64,
}

/// The buckets of one limit.
pub struct Buckets {
    sets: Box<[Mutex<[Place; WAYS]>]>,
    hasher: foldhash::quality::RandomState,
}

impl Default for Buckets {
    fn default() -> Self {
        Self {
            sets: (0..SETS).map(|_| Mutex::default()).collect(),
            hasher: foldhash::quality::RandomState::default(),
        }
    }
}

impl Buckets {
    /// Takes `cost` units out of the bucket of `sender` if there is any unit in it. The last one may be
    /// overdrawn, by what the caller asks for at once, and is then paid back first: so what costs more
    /// than a bucket holds is slowed down, but not impossible. `now` is the time since some fixed
    /// moment.
    pub fn take(&self, sender: &impl Hash, rate: &Rate, cost: u32, now: Duration) -> Taken {
        let who = self.hasher.hash_one(sender);
        // 0 would be an empty place, where it makes no difference.
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let set = &self.sets[who as usize % SETS];
        let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
        let found = set.iter().position(|place| place.who == who);
        let full_at = found.map_or(now, |place| set[place].full_at.max(now));
        let capacity = rate.capacity_nanos();
        let is_allowed = full_at - now + rate.nanos_per_unit <= capacity;
        let full_at = if is_allowed {
            full_at.saturating_add(rate.nanos_per_unit.saturating_mul(cost.into()))
        } else {
            full_at
        };
        if is_allowed {
            let place = found.unwrap_or_else(|| {
                let first = set
                    .iter()
                    .enumerate()
                    .min_by_key(|(_, place)| place.full_at);
                first.map_or(0, |(place, _)| place)
            });
            set[place] = Place { who, full_at };
        }
        drop(set);
        let debt = full_at - now;
        let remaining = capacity.saturating_sub(debt) / rate.nanos_per_unit;
        let wait = (debt + rate.nanos_per_unit).saturating_sub(capacity);
        Taken {
            is_allowed,
            remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
            full_in: Duration::from_nanos(debt),
            wait: Duration::from_nanos(wait),
        }
    }

    /// The memory that all buckets take together, in bytes; always the same.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.sets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_bucket_gives_what_it_holds_and_fills_up_again() {
        let buckets = Buckets::default();
        let rate = Rate::new(10, 5 * SECOND);
        let take = |cost, at| buckets.take(&"a", &rate, cost, at);
        for left in (0..10).rev() {
            let taken = take(1, SECOND);
            assert!(taken.is_allowed && taken.remaining == left, "{taken:?}");
        }
        let refused = take(1, SECOND);
        assert!(!refused.is_allowed && refused.remaining == 0);
        assert_eq!(refused.wait, SECOND / 2);
        assert_eq!(refused.full_in, 5 * SECOND);
        assert!(!take(1, SECOND + refused.wait - Duration::from_nanos(1)).is_allowed);
        assert!(take(1, SECOND + refused.wait).is_allowed);
        // Others have buckets of their own.
        assert!(buckets.take(&"b", &rate, 1, SECOND).is_allowed);
        // More than a full bucket does not gather.
        let late = 1000 * SECOND;
        assert_eq!((0..20).filter(|_| take(1, late).is_allowed).count(), 10);
    }

    #[test]
    fn what_is_overdrawn_is_paid_back() {
        let buckets = Buckets::default();
        let rate = Rate::new(10, 10 * SECOND);
        let take = |cost, at| buckets.take(&"a", &rate, cost, at);
        let large = take(25, SECOND);
        assert!(large.is_allowed && large.remaining == 0);
        assert_eq!(large.wait, 16 * SECOND);
        assert!(!take(1, 16 * SECOND).is_allowed);
        assert!(take(1, 17 * SECOND).is_allowed);
        // In the long run never more than the rate, whatever is asked for at once.
        let mut taken = 0;
        for at in 0..1000 {
            if take(7, (100 + at) * SECOND).is_allowed {
                taken += 7;
            }
        }
        assert!((1000..=1000 + 10 + 7).contains(&taken), "{taken}");
    }

    #[test]
    fn a_flood_of_addresses_takes_no_memory_and_frees_no_offender() {
        let buckets = Buckets::default();
        let rate = Rate::new(100, 100 * SECOND);
        let offender = "198.51.100.7";
        let spent = (0..200).filter(|_| buckets.take(&offender, &rate, 1, SECOND).is_allowed);
        assert_eq!(spent.count(), 100);
        let before = buckets.bytes();
        // Twenty times as many as there are places, each within its rate.
        for address in 0..1_310_720_u32 {
            assert!(buckets.take(&address, &rate, 1, SECOND).is_allowed);
        }
        assert_eq!(buckets.bytes(), before);
        assert!(before < 1_200_000, "{before}");
        assert!(!buckets.take(&offender, &rate, 1, SECOND).is_allowed);
        // And a newcomer is let in as ever.
        assert!(buckets.take(&"203.0.113.9", &rate, 1, SECOND).is_allowed);
    }
}
