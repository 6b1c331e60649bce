//! `/metrics`: for Prometheus.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::state::Shared;
use crate::telemetry::metrics::CONTENT_TYPE;

/// What does the service do?
///
/// Prometheus' text format; `docs/metrics.md` explains every metric.
#[utoipa::path(get, path = "/metrics", tag = "health",
    security(("bearer" = ["read"])),
    responses((status = OK, description = "All metrics",
        content((String = "text/plain",
            example = "traffic_rows_total{outcome=\"stored\"} 42\n")))))]
pub(super) async fn scrape(State(state): State<Shared>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, CONTENT_TYPE)],
        state.metrics.render(),
    )
}
