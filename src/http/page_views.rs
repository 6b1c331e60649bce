//! `/api/traffic/{request_id}`: one page view.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::{JsonBytes, PathId};
use super::openapi::{Conflict, Malformed, NotFound, Overloaded, Unprocessable, WrongBody};
use super::problem::{Kind, Problem};
use super::state::AppState;
use crate::domain::{Claim, ClaimSet, PageView, RequestId};
use crate::pipeline::Ack;
use crate::repository::{Removal, Update};

/// A page view as a client sends it.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "documents the body, which the domain parses field by field"
)]
pub(super) struct PageViewBody {
    /// Whose report counts the view.
    #[schema(example = 42)]
    user_id: u32,
    /// When it happened: RFC 3339; without an offset UTC; fractions of a second are cut off. Not in
    /// the future, not before the retention.
    #[schema(example = "2026-01-31T12:00:00Z", format = DateTime)]
    created_at: String,
    /// An absolute URL or a path, 1 to 2048 bytes of UTF-8, no control characters.
    #[schema(example = "/pricing", min_length = 1, max_length = 2048)]
    page_url: String,
}

/// The fields of a page view that change; those left out stay.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "documents the body, which the domain parses field by field"
)]
pub(super) struct PageViewPatch {
    /// A new owner.
    #[schema(example = 42, nullable = false)]
    user_id: Option<u32>,
    /// A new time.
    #[schema(example = "2026-01-31T12:00:00Z", format = DateTime, nullable = false)]
    created_at: Option<String>,
    /// A new page.
    #[schema(
        example = "/pricing",
        min_length = 1,
        max_length = 2048,
        nullable = false
    )]
    page_url: Option<String>,
}

/// Where an acknowledged view is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum StorageState {
    /// Committed in ClickHouse.
    Stored,
}

/// A page view as the service has it.
#[derive(Serialize, ToSchema)]
pub(super) struct PageViewDocument {
    /// Its identity, 0 to 2^64-1.
    #[schema(example = 1)]
    request_id: u64,
    /// Whose report counts it.
    #[schema(example = 42)]
    user_id: u32,
    /// When it happened, UTC, whole seconds.
    #[schema(example = "2026-01-31T12:00:00Z", format = DateTime)]
    created_at: String,
    /// What was viewed.
    #[schema(example = "/pricing")]
    page_url: String,
    /// 0 as first posted; every update has a higher one. A string, because it needs all 64 bits.
    #[schema(example = "0")]
    version: String,
    /// Where it is.
    state: StorageState,
}

impl From<&Claim> for PageViewDocument {
    fn from(claim: &Claim) -> Self {
        Self {
            request_id: claim.view.request_id.get(),
            user_id: claim.view.user_id.get(),
            created_at: claim.view.created_at.to_string(),
            page_url: claim.view.page_url.as_str().to_owned(),
            version: claim.version.get().to_string(),
            state: StorageState::Stored,
        }
    }
}

type Created = (
    StatusCode,
    [(HeaderName, String); 1],
    Json<PageViewDocument>,
);

/// Post a page view
///
/// Idempotent: the same view again gives the same answer and counts once, so retry until you get
/// one. A 201 means that the view is committed in ClickHouse and counted by every report from now
/// on. A retry that arrives after the view was updated or deleted leaves it so.
#[utoipa::path(post, path = "/api/traffic/{request_id}", tag = "page views",
    params(("request_id" = u64, Path, description = "The view's identity, chosen by the client")),
    request_body = PageViewBody,
    responses((status = CREATED, description = "Stored in ClickHouse", body = PageViewDocument,
        headers(("location" = String, description = "The view's own address"))),
        Malformed, Conflict, WrongBody, Unprocessable, Overloaded))]
pub(super) async fn post(
    State(state): State<AppState>,
    PathId(request_id): PathId<RequestId>,
    body: JsonBytes,
) -> Result<Created, Problem> {
    let view = body.page_view()?.into_view(request_id, &state.window())?;
    let pending = state
        .recent
        .hold(request_id, &view)
        .map_err(|_| Problem::new(Kind::RequestIdConflict))?;
    let claim = Claim::first(view);
    let document = PageViewDocument::from(&claim);
    let acknowledged = async { state.writer.admit(ClaimSet::One(claim))?.await }.await;
    match acknowledged {
        Ok(Ack::Stored) => {
            let location = (
                header::LOCATION,
                format!("/api/traffic/{}", request_id.get()),
            );
            Ok((StatusCode::CREATED, [location], Json(document)))
        }
        Err(error) => {
            pending.release();
            Err(error.into())
        }
    }
}

/// Replace a page view
///
/// Any field may change, the hour and the day too; reports follow at once. Where another update
/// wins a race with this one, the body is the winner's view.
#[utoipa::path(put, path = "/api/traffic/{request_id}", tag = "page views",
    params(("request_id" = u64, Path, description = "The view's identity")),
    request_body = PageViewBody,
    responses((status = OK, description = "The view as it now stands", body = PageViewDocument),
        Malformed, NotFound, WrongBody, Unprocessable, Overloaded))]
pub(super) async fn put(
    State(state): State<AppState>,
    PathId(request_id): PathId<RequestId>,
    body: JsonBytes,
) -> Result<Json<PageViewDocument>, Problem> {
    let view = body.page_view()?.into_view(request_id, &state.window())?;
    update(&state, request_id, |_| view.clone()).await
}

/// Change some fields of a page view
///
/// As PUT, with the fields that are left out taken from the stored view.
#[utoipa::path(patch, path = "/api/traffic/{request_id}", tag = "page views",
    params(("request_id" = u64, Path, description = "The view's identity")),
    request_body = PageViewPatch,
    responses((status = OK, description = "The view as it now stands", body = PageViewDocument),
        Malformed, NotFound, WrongBody, Unprocessable, Overloaded))]
pub(super) async fn patch(
    State(state): State<AppState>,
    PathId(request_id): PathId<RequestId>,
    body: JsonBytes,
) -> Result<Json<PageViewDocument>, Problem> {
    let change = body.page_view()?.into_change(&state.window())?;
    update(&state, request_id, |view| change.apply(view)).await
}

async fn update(
    state: &AppState,
    request_id: RequestId,
    change: impl Fn(&PageView) -> PageView,
) -> Result<Json<PageViewDocument>, Problem> {
    match state.page_views.update(request_id, change).await? {
        Update::Stored(claim) => {
            state.recent.updated(&request_id, &claim.view);
            Ok(Json(PageViewDocument::from(&claim)))
        }
        Update::Unknown => Err(Problem::new(Kind::PageViewNotFound)),
    }
}

/// Look up a page view
///
/// The receipt for a POST whose answer got lost.
#[utoipa::path(get, path = "/api/traffic/{request_id}", tag = "page views",
    params(("request_id" = u64, Path, description = "The view's identity")),
    responses((status = OK, description = "The view", body = PageViewDocument),
        Malformed, NotFound, Overloaded))]
pub(super) async fn get(
    State(state): State<AppState>,
    PathId(request_id): PathId<RequestId>,
) -> Result<Json<PageViewDocument>, Problem> {
    match state.page_views.get(request_id).await? {
        Some(claim) => Ok(Json(PageViewDocument::from(&claim))),
        None => Err(Problem::new(Kind::PageViewNotFound)),
    }
}

/// Delete a page view
///
/// No report counts it any more; a late retry of its POST does not bring it back.
#[utoipa::path(delete, path = "/api/traffic/{request_id}", tag = "page views",
    params(("request_id" = u64, Path, description = "The view's identity")),
    responses((status = NO_CONTENT, description = "Deleted"), Malformed, NotFound, Overloaded))]
pub(super) async fn delete(
    State(state): State<AppState>,
    PathId(request_id): PathId<RequestId>,
) -> Result<StatusCode, Problem> {
    match state.page_views.delete(request_id).await? {
        Removal::Removed => Ok(StatusCode::NO_CONTENT),
        Removal::Unknown => Err(Problem::new(Kind::PageViewNotFound)),
    }
}
