//! What is known of the sink's health, so that nobody waits for a sink that is known to be down.
//!
//! Closed: batches go to the sink. Open: they go to the spool at once. Whoever fails opens it; only
//! the replay closes it, after a write or a sign of life has succeeded (the half-open probe), so one
//! task asks a server in trouble, not every sender.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Instant;

use tokio::sync::Notify;
use tracing::{info, warn};

/// Shared by the lanes and the replay of one sink.
#[derive(Debug, Default)]
pub struct Breaker {
    /// Since when the sink is down; `None` while it is well.
    open_since: Mutex<Option<Instant>>,
    opened: Notify,
}

impl Breaker {
    /// Whether batches should not be sent to the sink now.
    pub fn is_open(&self) -> bool {
        self.open_since().is_some()
    }

    /// The sink failed.
    pub(super) fn open(&self, reason: &str) {
        let mut since = self.open_since();
        if since.is_none() {
            *since = Some(Instant::now());
            warn!(reason, "the store is down, spooling");
            self.opened.notify_one();
        }
    }

    /// The sink works.
    pub(super) fn close(&self) {
        if let Some(since) = self.open_since().take() {
            let down_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            info!(down_ms, "the store is back");
        }
    }

    /// Waits until the sink fails; at once if it did so unseen.
    pub(super) async fn opened(&self) {
        self.opened.notified().await;
    }

    fn open_since(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.open_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn opens_once_and_closes() {
        let breaker = Breaker::default();
        assert!(!breaker.is_open());
        breaker.open("a");
        breaker.open("b");
        breaker.opened().await;
        assert!(breaker.is_open());
        breaker.close();
        assert!(!breaker.is_open());
    }
}
