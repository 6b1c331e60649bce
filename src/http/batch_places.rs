//! How many batches are read at once: so many of all, and half of them of one caller.
//!
//! A batch takes its place for as long as its body arrives, which a slow client may draw out. So no
//! caller can take all places, and leave the others answered with 429.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::access::Who;

/// The places, and who has how many.
pub struct BatchPlaces {
    limit: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by: HashMap<Who, usize>,
}

/// A place, until it is dropped.
pub(super) struct BatchPlace<'a> {
    places: &'a BatchPlaces,
    who: Option<Who>,
}

impl BatchPlaces {
    /// So many, at least two.
    pub fn new(limit: usize) -> Self {
        let limit = limit.max(2);
        let taken = Mutex::default();
        Self { limit, taken }
    }

    /// A place for a caller, where it is known who that is; none if all are taken, or half of them by
    /// the same.
    pub(super) fn take(&self, who: Option<Who>) -> Option<BatchPlace<'_>> {
        let mut taken = self.taken();
        let of_caller = who.as_ref().and_then(|who| taken.by.get(who));
        if taken.all == self.limit || of_caller.is_some_and(|places| *places >= self.limit / 2) {
            return None;
        }
        taken.all += 1;
        if let Some(who) = &who {
            *taken.by.entry(who.clone()).or_default() += 1;
        }
        Some(BatchPlace { places: self, who })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // No code that can panic runs under the lock.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for BatchPlace<'_> {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all -= 1;
        let Some(who) = self.who.take() else {
            return;
        };
        if let Some(places) = taken.by.get_mut(&who) {
            *places -= 1;
            if *places == 0 {
                taken.by.remove(&who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_leaves_half_of_the_places_to_others() {
        let places = BatchPlaces::new(4);
        let who = |last: u8| Some(Who::Address([127, 0, 0, last].into()));
        let first = places.take(who(1)).unwrap();
        let _second = places.take(who(1)).unwrap();
        assert!(places.take(who(1)).is_none());
        let _other = places.take(who(2)).unwrap();
        let unknown = places.take(None).unwrap();
        assert!(places.take(who(3)).is_none(), "all are taken");
        drop(unknown);
        assert!(places.take(who(1)).is_none(), "still half");
        drop(first);
        let again = places.take(who(1)).unwrap();
        drop(again);
        assert_eq!(places.taken().by.len(), 2);
    }
}
