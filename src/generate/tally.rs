//! What became of what was sent.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of one load.
#[derive(Debug, Default)]
pub struct Tally {
    accepted: AtomicU64,
    rejected: AtomicU64,
    updated: AtomicU64,
    lost: AtomicU64,
    done: AtomicU64,
    retries: AtomicU64,
}

impl Tally {
    /// Posts that the service has acknowledged, repeats included.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Posts and updates that the service refused.
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// Updates that it has acknowledged.
    pub fn updated(&self) -> u64 {
        self.updated.load(Ordering::Relaxed)
    }

    /// Posts and updates that were given up.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Views or visits of which all is done, repeats and updates too.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Requests that were sent once more.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    pub(super) fn add_accepted(&self, count: u64) {
        self.accepted.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn add_rejected(&self, count: u64) {
        self.rejected.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn add_updated(&self) {
        self.updated.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_lost(&self, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn add_done(&self, count: u64) {
        self.done.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn add_retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }
}
