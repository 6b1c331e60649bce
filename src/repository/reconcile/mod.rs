//! Reconciliation: accepted = stored = counted, day by day, and what is not is named and mended.
//!
//! Purpose: find what no invariant allows: claims that one of the two tables lacks, request ids with
//! two live claims, sealed counts of views or events that differ from the claims although reports use them.
//!
//! Invariants: it may run beside a service at work. Whatever it reads in two places is read at two
//! moments, so a difference is only a suspicion at first; it is named if, after longer than any
//! insert and any settlement of rivals may take, it is still exactly the same. Memory does not grow
//! with the data: what one statement may find is bounded, and suspicions are settled before more are
//! gathered. Mending only adds what an update or the sealer would have written, so it may be
//! repeated, stopped anywhere, and done by several at once.
//!
//! Refuses to know: how anything is printed.

mod cells;
mod chunks;
mod claims;
mod events;
mod finding;
mod mend;
mod periodic;
mod spooled;
mod totals;
mod walk;

use std::ops::Range;
use std::time::Duration;

use clickhouse::{RowOwned, RowRead};

use super::server_time::INSERT_LIMIT;
use super::{ClickHouse, Error, deadline};
use crate::domain::{AcceptanceWindow, Clock};

use finding::EVENT_CELL;
pub use finding::{Finding, Findings, LastWord, LiveClaim};
pub use mend::Mended;
pub use periodic::{PeriodicCheck, ReconcileStats};
pub use spooled::{Spooled, spooled};
use totals::DAY;
pub use totals::DayTotals;

/// How long a difference must last to be one: by then every insert that was under way has ended, and
/// so has the settlement of rivals behind it.
pub const PATIENCE: Duration = INSERT_LIMIT;

/// How long one statement may take; ClickHouse gives up a little earlier.
const DEADLINE: Duration = Duration::from_secs(1810);
const EXECUTION_SECS: &str = "1800";
/// One thread, and behind all statements that have a priority.
const THREADS: &str = "1";
const PRIORITY: &str = "10";
const MEMORY_BEFORE_DISK: &str = "536870912";

/// Compares what must be equal in one database.
pub struct Reconciler {
    clickhouse: ClickHouse,
    clock: Clock,
    patience: Duration,
    limit: usize,
}

/// What a run read and found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// Every day with views, in order.
    pub days: Vec<DayTotals>,
    /// What differs.
    pub findings: Findings,
}

impl Comparison {
    /// Totals that differ are a finding of their own only where nothing else explains them.
    fn new(days: Vec<DayTotals>, mut findings: Findings) -> Self {
        let explains = |kind: &&str| *kind != EVENT_CELL;
        if !findings.counts.keys().any(explains) {
            let unexplained = days.iter().filter(|day| !day.agree() && !day.moving);
            unexplained.for_each(|day| findings.add(Finding::Totals(*day)));
        }
        Self { days, findings }
    }
}

impl Reconciler {
    /// Of the database in `clickhouse`, at `clock`'s time. A difference must last `patience`,
    /// [`PATIENCE`] beside a running service; with zero the first look decides. The first `limit`
    /// findings are kept in full.
    pub fn new(clickhouse: ClickHouse, clock: Clock, patience: Duration, limit: usize) -> Self {
        Self {
            clickhouse,
            clock,
            patience,
            limit,
        }
    }

    /// Compares everything within `window`, in seconds since the Unix epoch; cut to the retention.
    ///
    /// # Errors
    /// When ClickHouse can't answer.
    pub async fn compare(&self, window: Range<u32>) -> Result<Comparison, Error> {
        let (window, events) = (self.retained(&window), self.retained_events(&window));
        let (findings, _) = self.walk(&window, &events, None).await?;
        Ok(Comparison::new(self.totals(&window).await?, findings))
    }

    /// The last second beyond the retention of views.
    fn expired(&self) -> u32 {
        self.expired_after(self.clickhouse.schema.retention_days)
    }

    fn expired_after(&self, days: u32) -> u32 {
        let window = AcceptanceWindow::new(self.clock.now(), days, 0);
        window.expired_until().unix()
    }

    /// Of `window` what can hold views: clients' clocks may run up to a day ahead.
    fn retained(&self, window: &Range<u32>) -> Range<u32> {
        self.between(self.expired().saturating_add(1), window)
    }

    /// Of `window` what can hold events.
    fn retained_events(&self, window: &Range<u32>) -> Range<u32> {
        let days = self.clickhouse.schema.event_retention_days;
        let first = days.map_or(0, |days| self.expired_after(days).saturating_add(1));
        self.between(first, window)
    }

    fn between(&self, first: u32, window: &Range<u32>) -> Range<u32> {
        let tomorrow = self.clock.now().timestamp() + i64::from(DAY);
        let end =
            u32::try_from(tomorrow).map_or(u32::MAX, |at| (at - at % DAY).saturating_add(DAY));
        window.start.max(first)..window.end.min(end)
    }

    /// Runs a statement and takes its rows one by one.
    async fn each<T: RowOwned + RowRead>(
        &self,
        sql: &str,
        mut take: impl FnMut(T),
    ) -> Result<(), Error> {
        let client = self
            .clickhouse
            .database()?
            .with_setting("max_execution_time", EXECUTION_SECS)
            .with_setting("max_threads", THREADS)
            .with_setting("priority", PRIORITY)
            .with_setting("max_bytes_before_external_group_by", MEMORY_BEFORE_DISK);
        let query = client.query(sql);
        let rows = async {
            let mut rows = query.fetch::<T>()?;
            while let Some(row) = rows.next().await? {
                take(row);
            }
            Ok(())
        };
        deadline(DEADLINE, rows).await
    }
}

/// Numbers for `IN (...)`.
fn list<T: std::fmt::Display>(numbers: &[T]) -> String {
    let numbers: Vec<String> = numbers.iter().map(T::to_string).collect();
    numbers.join(", ")
}
