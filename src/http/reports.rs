//! `/api/traffic/daily/{user_id}`: what one user viewed in the last 24 hours.

use axum::Json;
use axum::extract::State;

use super::extract::PathId;
use super::openapi::{Malformed, Overloaded};
use super::problem::Problem;
use super::state::Shared;
use crate::domain::{DailyReport, ReportWindow, UserId};

/// Views of the last 24 hours by page
///
/// Counts the user's views with `now - 24 h < created_at <= now`, most viewed page first. Exact and
/// current: it contains every view that was acknowledged before the request. `{}` for an unknown
/// user.
#[utoipa::path(get, path = "/api/traffic/daily/{user_id}", tag = "reports",
    params(("user_id" = u32, Path, description = "The user")),
    responses((status = OK, description = "Views by page URL", body = BTreeMap<String, u64>,
        example = json!({"/pricing": 12, "/": 3})),
        Malformed, Overloaded))]
pub(super) async fn daily(
    State(state): State<Shared>,
    PathId(user_id): PathId<UserId>,
) -> Result<Json<DailyReport>, Problem> {
    let window = ReportWindow::ending_at(state.clock.now());
    Ok(Json(state.reports.daily(user_id, window).await?))
}
