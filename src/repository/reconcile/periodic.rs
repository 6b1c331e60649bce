//! The light run inside the service: are the last closed days' totals equal, and has any id two live
//! claims?
//!
//! It reads a few statements' worth of two days on one thread, never repairs and never names: one
//! warning with the numbers sends an operator to `traffic-api reconcile`.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::totals::DAY;
use super::{DayTotals, Reconciler};
use crate::repository::Error;
use crate::repository::erasures::NOT_ERASED;
use crate::repository::sealed::within;

/// How many days it looks at.
const DAYS: u32 = 2;
/// A day is closed when its last hour has had so long to be sealed.
const CLOSED_AFTER: u32 = 2 * 3600;
/// How often a difference is looked at; in between it waits as long as a difference must last.
const LOOKS: usize = 3;

/// What the latest light run said; and how many there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReconcileStats {
    /// Runs that came to an end.
    pub runs: u64,
    /// Runs that failed.
    pub failures: u64,
    /// Whether the latest one did.
    pub failing: bool,
    /// When the latest run that came to an end did, by this node's clock.
    pub checked_at: Option<DateTime<Utc>>,
    /// The days that it looked at: the first second of the first, and the first behind the last.
    pub window: Option<(u32, u32)>,
    /// How long it took, without waiting.
    pub took: Duration,
    /// Claims stored in those days.
    pub stored: u64,
    /// Days on which accepted, stored and counted were not the same.
    pub differing_days: u64,
    /// Request ids with two live claims or more within those days.
    pub rival_ids: u64,
}

/// Runs a light comparison now and then.
pub struct PeriodicCheck {
    reconciler: Reconciler,
    stats: Mutex<ReconcileStats>,
}

impl PeriodicCheck {
    /// With this reconciler; does nothing until [`PeriodicCheck::run`].
    pub fn new(reconciler: Reconciler) -> Arc<Self> {
        Arc::new(Self {
            reconciler,
            stats: Mutex::default(),
        })
    }

    /// What the latest run said.
    pub fn stats(&self) -> ReconcileStats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs about every `interval` until it is dropped, which may be at any time. The first run
    /// comes earlier, at a moment of its own, so that instances do not keep step.
    pub async fn run(self: Arc<Self>, interval: Duration) {
        sleep(interval.mul_f64(rand::random_range(0.05..0.5))).await;
        loop {
            let outcome = self.reconciler.light().await;
            {
                let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
                stats.failing = outcome.is_err();
                match &outcome {
                    Ok(found) => {
                        *stats = ReconcileStats {
                            runs: stats.runs + 1,
                            failures: stats.failures,
                            ..*found
                        }
                    }
                    Err(_) => stats.failures += 1,
                }
            }
            match outcome {
                Ok(found) if found.differing_days + found.rival_ids > 0 => warn!(
                    differing_days = found.differing_days,
                    rival_ids = found.rival_ids,
                    "counts differ; traffic-api reconcile names what and mends it"
                ),
                Ok(_) => {}
                Err(error) => warn!(%error, "reconciliation failed"),
            }
            sleep(interval.mul_f64(rand::random_range(0.9..1.1))).await;
        }
    }
}

impl Reconciler {
    /// One light run. A difference counts if it is the same at a look as late as
    /// [`super::PATIENCE`] asks for.
    async fn light(&self) -> Result<ReconcileStats, Error> {
        let now = u32::try_from(self.clock.now().timestamp()).unwrap_or(u32::MAX);
        let until = now.saturating_sub(CLOSED_AFTER) / DAY * DAY;
        let window = self.retained(&(until.saturating_sub(DAYS * DAY)..until));
        let mut took = Duration::ZERO;
        let mut before: Option<(Vec<DayTotals>, u64)> = None;
        for look in 1..=LOOKS {
            let began = Instant::now();
            let found = (
                self.totals(&window).await?,
                self.count_rivals(&window).await?,
            );
            took += began.elapsed();
            let differing = found.0.iter().filter(|day| !day.agree()).count() as u64;
            let lasts = before.as_ref() == Some(&found) || self.patience.is_zero();
            if differing + found.1 == 0 || lasts || look == LOOKS {
                let counts = |number: u64| if lasts { number } else { 0 };
                return Ok(ReconcileStats {
                    checked_at: Some(self.clock.now()),
                    window: Some((window.start, window.end)),
                    took,
                    stored: found.0.iter().map(|day| day.stored).sum(),
                    differing_days: counts(differing),
                    rival_ids: counts(found.1),
                    ..ReconcileStats::default()
                });
            }
            before = Some(found);
            sleep(self.patience).await;
        }
        Ok(ReconcileStats::default())
    }

    /// Ids with more than one live claim within the window.
    async fn count_rivals(&self, window: &Range<u32>) -> Result<u64, Error> {
        let times = within("created_at", std::slice::from_ref(window));
        let sql = format!(
            "SELECT count() FROM (SELECT request_id FROM traffic_by_request FINAL \
             PREWHERE {times} AND {NOT_ERASED} GROUP BY request_id HAVING count() > 1) \
             SETTINGS optimize_aggregation_in_order = 1"
        );
        let mut rivals = 0;
        self.each(&sql, |count: u64| rivals = count).await?;
        Ok(rivals)
    }
}
