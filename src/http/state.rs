//! What the handlers work with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::batch_places::BatchPlaces;
use super::ingest::Ingest;
use crate::domain::{AcceptanceWindow, ClaimSet, Clock, Event};
use crate::pipeline::Delivery;
use crate::repository::{
    ClickHouse, Eraser, EventReports, PageViews, PeriodicCheck, Reports, Sealer,
};
use crate::telemetry::metrics::Metrics;

/// What all requests share.
pub struct AppState {
    /// Where new views come in.
    pub views: Ingest<ClaimSet>,
    /// Where events come in.
    pub events: Ingest<Event>,
    /// Single views.
    pub page_views: Arc<PageViews>,
    /// Erases people.
    pub eraser: Arc<Eraser>,
    /// Reports on views.
    pub reports: Reports,
    /// Reports on events.
    pub event_reports: EventReports,
    /// What is known of the store's health, and what waits on this node's disk.
    pub delivery: Arc<Delivery<ClickHouse>>,
    /// What is known of the pre-aggregate.
    pub sealer: Arc<Sealer>,
    /// The same for events.
    pub event_sealer: Arc<Sealer>,
    /// What is known of the agreement between claims and counts.
    pub check: Arc<PeriodicCheck>,
    /// For the sign of life.
    pub clickhouse: ClickHouse,
    /// The time.
    pub clock: Clock,
    /// The largest body of a single view and the longest line of a batch, in bytes.
    pub max_body_bytes: usize,
    /// How long a body may keep us waiting.
    pub body_timeout: Duration,
    /// Places for batches that are read.
    pub batches: BatchPlaces,
    /// What is counted.
    pub metrics: Metrics,
    /// Set while the service stops: not ready any more, though still answering.
    pub stopping: Arc<AtomicBool>,
}

/// A router clones its state for every request, so it is behind one pointer.
pub(super) type Shared = Arc<AppState>;

impl AppState {
    /// Which times of a view are acceptable now.
    pub(super) fn window(&self) -> AcceptanceWindow {
        self.views.window()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}
