//! `/health`: for probes and operators.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::state::Shared;

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

/// Is the process alive?
#[utoipa::path(get, path = "/health", tag = "health",
    responses((status = OK, description = "Alive", body = Liveness)))]
pub(super) async fn live() -> Json<Liveness> {
    Json(Liveness { status: "ok" })
}

/// Can the service do its work?
#[utoipa::path(get, path = "/health/ready", tag = "health",
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
        stopping,
    };
    (code, Json(readiness))
}
