//! `/health`: for probes and operators.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::state::Shared;
use crate::repository::{ReconcileStats, SealerStats, ServerTime};

/// Liveness.
#[derive(Serialize, ToSchema)]
pub(super) struct Liveness {
    #[schema(example = "ok")]
    status: &'static str,
}

/// Readiness and what is degraded.
#[derive(Serialize, ToSchema)]
pub(super) struct Readiness {
    /// `ok`; `degraded` when views can be spooled but not stored; `unavailable` when neither.
    #[schema(example = "ok")]
    status: &'static str,
    /// `up`; `down` when ClickHouse gives no sign of life; `refusing` when it does but took no views of
    /// late.
    #[schema(example = "up")]
    clickhouse: &'static str,
    /// What waits on this instance's disk.
    spool: SpoolState,
    /// The pre-aggregate that large reports are read from, as this instance's sealer knows it.
    view: ViewState,
    /// The same for events.
    event_view: ViewState,
    /// Whether what was accepted, stored and counted was the same on the last closed days. For
    /// information: it changes neither the status nor the code.
    reconciliation: ReconciliationState,
    /// The service takes no new work.
    stopping: bool,
}

/// What waits on this instance's disk.
#[derive(Serialize, ToSchema)]
pub(super) struct SpoolState {
    /// Batches on their way to ClickHouse.
    #[schema(example = 0)]
    files: u64,
    /// Their size on disk, in bytes.
    #[schema(example = 0)]
    bytes: u64,
    /// Where the spool ends (`SPOOL_MAX_BYTES`).
    #[schema(example = 8_589_934_592_u64)]
    max_bytes: u64,
    /// Files that an operator should look at: `traffic-api spool list`.
    #[schema(example = 0)]
    rejected_files: u64,
}

/// The pre-aggregate. Reports are exact whatever it says; only their cost depends on it.
#[derive(Serialize, ToSchema)]
pub(super) struct ViewState {
    /// When the sealer last looked; null before its first look, and where it does not run (`SEALER`).
    #[schema(example = "2026-11-21T09:40:57Z")]
    looked_at: Option<String>,
    /// Whether its latest look or count failed.
    failing: bool,
    /// The newest run of hours that are sealed without a gap begins here.
    #[schema(example = "2026-08-23T00:00:00Z")]
    sealed_from: Option<String>,
    /// And ends here.
    #[schema(example = "2026-11-21T08:00:00Z")]
    sealed_through: Option<String>,
    /// Closed hours that are not sealed yet.
    #[schema(example = 0)]
    unsealed_hours: u64,
    /// Sealed hours with rows that came later; for those, reports read the views themselves.
    #[schema(example = 0)]
    late_hours: u64,
    /// Up to when the latest count of this instance counted.
    #[schema(example = "2026-11-21T09:40:31Z")]
    refreshed_at: Option<String>,
    /// How long it took, in milliseconds.
    #[schema(example = 44)]
    refresh_ms: Option<u64>,
}

/// The latest light reconciliation of this instance (`RECONCILE_INTERVAL_SECS`).
#[derive(Serialize, ToSchema)]
pub(super) struct ReconciliationState {
    /// When it ended; null before the first.
    #[schema(example = "2026-11-21T09:12:03Z")]
    checked_at: Option<String>,
    /// Whether the latest attempt failed.
    failing: bool,
    /// The first day that it looked at.
    #[schema(example = "2026-11-19T00:00:00Z")]
    from: Option<String>,
    /// The first second behind the last one.
    #[schema(example = "2026-11-21T00:00:00Z")]
    until: Option<String>,
    /// Days on which the totals differ: `traffic-api reconcile` names what.
    #[schema(example = 0)]
    differing_days: u64,
    /// Request ids with two live claims.
    #[schema(example = 0)]
    rival_ids: u64,
    /// How long it took, in milliseconds.
    #[schema(example = 420)]
    took_ms: Option<u64>,
}

impl ReconciliationState {
    fn of(stats: &ReconcileStats) -> Self {
        let text = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
        let second = |at: u32| text(DateTime::from_timestamp(at.into(), 0).unwrap_or_default());
        Self {
            checked_at: stats.checked_at.map(text),
            failing: stats.failing,
            from: stats.window.map(|(from, _)| second(from)),
            until: stats.window.map(|(_, until)| second(until)),
            differing_days: stats.differing_days,
            rival_ids: stats.rival_ids,
            took_ms: stats
                .checked_at
                .map(|_| u64::try_from(stats.took.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

impl ViewState {
    fn of(stats: &SealerStats) -> Self {
        let time = |seconds: i64| {
            let time = DateTime::<Utc>::from_timestamp(seconds, 0).unwrap_or_default();
            time.to_rfc3339_opts(SecondsFormat::Secs, true)
        };
        let server_time = |at: ServerTime| time(at.millis() / 1000);
        Self {
            looked_at: stats.surveyed_at.map(server_time),
            failing: stats.failing,
            sealed_from: stats.sealed.map(|(from, _)| time(from.into())),
            sealed_through: stats.sealed.map(|(_, until)| time(until.into())),
            unsealed_hours: stats.unsealed_hours,
            late_hours: stats.late_hours,
            refreshed_at: stats.last.map(|last| server_time(last.as_of)),
            refresh_ms: stats
                .last
                .map(|last| u64::try_from(last.took.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// Is the process alive?
#[utoipa::path(get, path = "/health", tag = "health", security(()),
    responses((status = OK, description = "Alive", body = Liveness)))]
pub(super) async fn live() -> Json<Liveness> {
    Json(Liveness { status: "ok" })
}

/// Can the service do its work?
#[utoipa::path(get, path = "/health/ready", tag = "health", security(()),
    responses((status = OK, description = "Views can be taken in; reports too unless `degraded`",
            body = Readiness),
        (status = SERVICE_UNAVAILABLE, description = "Views can neither be stored nor spooled",
            body = Readiness)))]
pub(super) async fn ready(State(state): State<Shared>) -> (StatusCode, Json<Readiness>) {
    let up = state.clickhouse.ping().await.is_ok();
    // A server may answer and still take no views: a missing table, a full disk.
    let stores = up && !state.delivery.is_down();
    let spool = Arc::clone(state.delivery.spool());
    let (waiting, writable) = tokio::task::spawn_blocking(move || {
        // Only asked where it matters: it costs an fsync.
        (spool.state(), stores || spool.probe().is_ok())
    })
    .await
    .unwrap_or_else(|_| (state.delivery.spool().state(), false));
    let stopping = state.is_stopping();
    let (code, status) = match (stores, writable) {
        _ if stopping => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        (true, _) => (StatusCode::OK, "ok"),
        (false, true) => (StatusCode::OK, "degraded"),
        (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    let readiness = Readiness {
        status,
        clickhouse: match (up, stores) {
            (true, true) => "up",
            (true, false) => "refusing",
            (false, _) => "down",
        },
        spool: SpoolState {
            files: waiting.files,
            bytes: waiting.bytes,
            max_bytes: waiting.max_bytes,
            rejected_files: waiting.rejected_files,
        },
        view: ViewState::of(&state.sealer.stats()),
        event_view: ViewState::of(&state.event_sealer.stats()),
        reconciliation: ReconciliationState::of(&state.check.stats()),
        stopping,
    };
    (code, Json(readiness))
}
