//! What the handlers work with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Semaphore;

use super::rejected::Rejected;
use crate::domain::{AcceptanceWindow, ClaimSet, Clock, RecentWrites, RequestId};
use crate::pipeline::{Delivery, Writer};
use crate::repository::{ClickHouse, PageViews, PeriodicCheck, Reports, Sealer};
use crate::telemetry::metrics::Metrics;

/// Which times of a view are acceptable.
#[derive(Debug, Clone, Copy)]
pub struct Acceptance {
    /// How long views are kept, in days.
    pub retention_days: u32,
    /// How far a client's clock may run ahead, in seconds.
    pub max_clock_skew_secs: u32,
}

/// What all requests share.
pub struct AppState {
    /// Where new views go.
    pub writer: Writer<ClaimSet>,
    /// Single views.
    pub page_views: Arc<PageViews>,
    /// Reports.
    pub reports: Reports,
    /// What is known of the store's health, and what waits on this node's disk.
    pub delivery: Arc<Delivery<ClickHouse>>,
    /// What is known of the pre-aggregate.
    pub sealer: Arc<Sealer>,
    /// What is known of the agreement between claims and counts.
    pub check: Arc<PeriodicCheck>,
    /// For the sign of life.
    pub clickhouse: ClickHouse,
    /// What was posted lately, to find conflicts.
    pub recent: RecentWrites<RequestId>,
    /// The time.
    pub clock: Clock,
    /// Which times are acceptable.
    pub acceptance: Acceptance,
    /// The largest body of a single view and the longest line of a batch, in bytes.
    pub max_body_bytes: usize,
    /// One permit for each batch that may be read at once.
    pub batches: Semaphore,
    /// What is counted.
    pub metrics: Metrics,
    /// Views that are not kept.
    pub rejected: Rejected,
    /// Set while the service stops: not ready any more, though still answering.
    pub stopping: Arc<AtomicBool>,
}

/// A router clones its state for every request, so it is behind one pointer.
pub(super) type Shared = Arc<AppState>;

impl AppState {
    pub(super) fn window(&self) -> AcceptanceWindow {
        AcceptanceWindow::new(
            self.clock.now(),
            self.acceptance.retention_days,
            self.acceptance.max_clock_skew_secs,
        )
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}
