//! Who was erased, and up to when.
//!
//! An erasure says: of this user, nothing that happened up to this second is kept or counted. Two of
//! one user are the later one. So the set of them is the same in whatever order they are heard of, and
//! whether a view is erased depends on its user and its time alone: a copy, a replay or a retry of it is
//! erased as well, whenever and wherever it arrives. What happens later is not.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::{CreatedAt, UserId};

/// The erasures that are known here; cheap to clone, all clones are one.
#[derive(Clone, Default)]
pub struct Erasures(Arc<RwLock<HashMap<UserId, CreatedAt>>>);

impl Erasures {
    /// Whether a view of `user` at `created_at` is erased.
    pub fn cover(&self, user: UserId, created_at: CreatedAt) -> bool {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&user).is_some_and(|until| created_at <= *until)
    }

    /// Whether nobody was erased.
    pub fn is_empty(&self) -> bool {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.is_empty()
    }

    /// Notes that `user` is erased up to `until`; whether that says anything new.
    pub fn note(&self, user: UserId, until: CreatedAt) -> bool {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = known.get(&user).is_none_or(|known| *known < until);
        if is_new {
            known.insert(user, until);
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_of_two_erasures_counts_in_either_order() {
        let at = CreatedAt::from_unix;
        let user = UserId::new(7);
        for order in [[10, 20], [20, 10]] {
            let erasures = Erasures::default();
            assert!(!erasures.cover(user, at(0)) && erasures.is_empty());
            for until in order {
                erasures.note(user, at(until));
            }
            assert!(!erasures.note(user, at(20)), "known");
            assert!(erasures.cover(user, at(20)));
            assert!(!erasures.cover(user, at(21)));
            assert!(!erasures.cover(UserId::new(8), at(1)));
        }
    }
}
