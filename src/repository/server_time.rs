//! Time by the ClickHouse server's own clock.

use std::time::Duration;

/// How long a row that is marked may take until it can be read, and how far the clocks of a cluster's
/// servers may differ besides: five times the deadline of an insert.
pub(super) const INSERT_LIMIT: Duration = Duration::from_secs(60);

/// A moment by the ClickHouse server's own clock, in milliseconds since the Unix epoch. The service's
/// clock does not come into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerTime(i64);

impl ServerTime {
    /// This many milliseconds since the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Whether counts of this time hold every row whose newest mark is `mark`.
    pub(super) fn covers(self, mark: ServerTime) -> bool {
        self.0 > mark.0 + millis(INSERT_LIMIT)
    }

    /// How long after `earlier` this is; zero when it is not.
    pub fn since(self, earlier: ServerTime) -> Duration {
        Duration::from_millis(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }
}

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_covered_only_by_counts_made_after_its_insert_must_have_ended() {
        let at = |millis: i64| ServerTime(1_000_000 + millis);
        assert!(!at(0).covers(at(0)));
        assert!(!at(60_000).covers(at(0)));
        assert!(at(60_001).covers(at(0)));
    }
}
