//! `/health`: for probes and operators.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use tracing::warn;
use utoipa::ToSchema;

use super::state::AppState;

/// Liveness.
#[derive(Serialize, ToSchema)]
pub(super) struct Liveness {
    #[schema(example = "ok")]
    status: &'static str,
}

/// Readiness and what is degraded.
#[derive(Serialize, ToSchema)]
pub(super) struct Readiness {
    /// `ok`, or `unavailable` when views can't be stored.
    #[schema(example = "ok")]
    status: &'static str,
    /// `up`, or `down` when ClickHouse gives no sign of life.
    #[schema(example = "up")]
    clickhouse: &'static str,
    /// The service takes no new work.
    stopping: bool,
}

/// Is the process alive?
#[utoipa::path(get, path = "/health", tag = "health",
    responses((status = OK, description = "Alive", body = Liveness)))]
pub(super) async fn live() -> Json<Liveness> {
    Json(Liveness { status: "ok" })
}

/// Can the service do its work?
#[utoipa::path(get, path = "/health/ready", tag = "health",
    responses((status = OK, description = "Views can be stored and read", body = Readiness),
        (status = SERVICE_UNAVAILABLE, description = "Views can't be stored", body = Readiness)))]
pub(super) async fn ready(State(state): State<AppState>) -> (StatusCode, Json<Readiness>) {
    let up = match state.clickhouse.ping().await {
        Ok(()) => true,
        Err(error) => {
            warn!(%error, "not ready");
            false
        }
    };
    let stopping = state.is_stopping();
    let (code, status) = if up && !stopping {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
    };
    let clickhouse = if up { "up" } else { "down" };
    (
        code,
        Json(Readiness {
            status,
            clickhouse,
            stopping,
        }),
    )
}
