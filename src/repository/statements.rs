//! What our statements are called in ClickHouse's own log (`system.query_log`), so that an operator who
//! reads of one in ours finds it there.

use std::sync::atomic::{AtomicU32, Ordering};

use uuid::Uuid;

/// The setting that carries the name.
pub(super) const QUERY_ID: &str = "query_id";

/// The statements of one report: a common name, and a number each.
pub(super) struct Statements {
    name: String,
    sent: AtomicU32,
}

impl Statements {
    /// None yet, of a report of this kind.
    pub(super) fn of(report: &str) -> Self {
        Self {
            name: Self::alone(report),
            sent: AtomicU32::new(0),
        }
    }

    /// The name of a statement that belongs to no other.
    pub(super) fn alone(kind: &str) -> String {
        format!("{kind}-{}", Uuid::from_u128(rand::random()))
    }

    /// The name of the next one; a server may not yet have forgotten the one before.
    pub(super) fn next(&self) -> String {
        let number = self.sent.fetch_add(1, Ordering::Relaxed) + 1;
        format!("{}-{number}", self.name)
    }

    /// What all names begin with.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// How many there were.
    pub(super) fn sent(&self) -> u32 {
        self.sent.load(Ordering::Relaxed)
    }
}
