//! What is known of the sink's health, so that nobody waits for a sink that is known to be down.
//!
//! Closed: batches go to the sink. Open: they go to the spool at once. Whoever fails opens it. The
//! replay brings it back: a write of its own that succeeds closes it. Where nothing waits to be
//! replayed it asks for a sign of life; that closes the breaker when the sink was unreachable, and
//! when it had answered with an error, lets a single batch through as the half-open probe.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;
use tracing::{info, warn};

use super::Failure;

/// Shared by the lanes and the replay of one sink.
#[derive(Debug, Default)]
pub struct Breaker {
    /// `None` while the sink is well.
    outage: Mutex<Option<Outage>>,
    opened: Notify,
    outages: AtomicU64,
}

/// Where batches go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// To the sink.
    Closed,
    /// To the spool.
    Open,
    /// To the spool but for one, which may try the sink.
    HalfOpen,
}

#[derive(Debug)]
struct Outage {
    since: Instant,
    /// A server answered, with an error: that it answers again proves nothing.
    answered: bool,
    /// One batch may try.
    probe: bool,
}

impl Breaker {
    /// Whether the sink is known to be in trouble.
    pub fn is_open(&self) -> bool {
        self.outage().is_some()
    }

    /// Where batches go at present.
    pub fn state(&self) -> BreakerState {
        match self.outage().as_ref() {
            None => BreakerState::Closed,
            Some(outage) if outage.probe => BreakerState::HalfOpen,
            Some(_) => BreakerState::Open,
        }
    }

    /// How often the sink failed and batches went to the spool from then on.
    pub fn outages(&self) -> u64 {
        self.outages.load(Ordering::Relaxed)
    }

    /// Whether a batch should be sent to the sink now; takes the half-open probe if there is one.
    pub(super) fn lets_through(&self) -> bool {
        match self.outage().as_mut() {
            None => true,
            Some(outage) => std::mem::take(&mut outage.probe),
        }
    }

    /// The sink failed.
    pub(super) fn open(&self, failure: &Failure) {
        let answered = !matches!(failure, Failure::Unreachable(_));
        let mut outage = self.outage();
        if let Some(outage) = outage.as_mut() {
            outage.answered |= answered;
            return;
        }
        *outage = Some(Outage {
            since: Instant::now(),
            answered,
            probe: false,
        });
        self.outages.fetch_add(1, Ordering::Relaxed);
        warn!(reason = %failure, "the store is down, spooling");
        self.opened.notify_one();
    }

    /// The sink has taken a batch.
    pub(super) fn close(&self) {
        if let Some(outage) = self.outage().take() {
            let down_ms = u64::try_from(outage.since.elapsed().as_millis()).unwrap_or(u64::MAX);
            info!(down_ms, "the store is back");
        }
    }

    /// The sink has given a sign of life.
    pub(super) fn alive(&self) {
        let mut outage = self.outage();
        match outage.as_mut() {
            Some(outage) if outage.answered => outage.probe = true,
            _ => {
                drop(outage);
                self.close();
            }
        }
    }

    /// Waits until the sink fails; at once if it did so unseen.
    pub(super) async fn opened(&self) {
        self.opened.notified().await;
    }

    fn outage(&self) -> MutexGuard<'_, Option<Outage>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_unreachable_sink_is_well_when_it_gives_a_sign_of_life() {
        let breaker = Breaker::default();
        assert!(breaker.lets_through());
        assert_eq!(breaker.state(), BreakerState::Closed);
        breaker.open(&Failure::Unreachable(String::new()));
        breaker.opened().await;
        assert!(breaker.is_open() && !breaker.lets_through());
        breaker.alive();
        assert!(!breaker.is_open());
    }

    #[test]
    fn a_sink_that_answered_with_an_error_has_to_take_a_batch() {
        let breaker = Breaker::default();
        breaker.open(&Failure::Transient(String::new()));
        assert_eq!(breaker.state(), BreakerState::Open);
        breaker.alive();
        assert!(breaker.is_open());
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        assert!(breaker.lets_through(), "the probe");
        assert!(!breaker.lets_through(), "only one");
        breaker.close();
        assert!(breaker.lets_through());
        assert_eq!(breaker.outages(), 1);
    }
}
