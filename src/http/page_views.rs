//! `/api/traffic/{request_id}`: one page view.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::access::Caller;
use super::acknowledgement::{StorageState, acknowledged, prefers_async};
use super::extract::{JsonBytes, PathId};
use super::openapi::{
    Conflict, ErasedUser, Malformed, NotFound, Overloaded, Unprocessable, WrongBody,
};
use super::problem::{Kind, Problem};
use super::state::{AppState, Shared};
use crate::domain::{Claim, ClaimSet, PageView, RequestId, read_change, read_view};
use crate::pipeline::Ack;
use crate::repository::{Lookup, Removal, Update};

/// A page view as a client sends it.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "documents the body, which the domain parses field by field"
)]
pub(super) struct PageViewBody {
    /// Whose report counts the view.
    #[schema(example = 42, maximum = 4294967295_u64)]
    user_id: u32,
    /// When it happened: RFC 3339; without an offset UTC; fractions of a second are cut off. Not in
    /// the future, not before the retention.
    #[schema(example = "2026-01-31T12:00:00Z", format = DateTime)]
    created_at: String,
    /// An absolute URL or a path, 1 to 2048 bytes of UTF-8, no control characters.
    #[schema(
        example = "/pricing",
        min_length = 1,
        max_length = 2048,
        pattern = "^(/|[A-Za-z][A-Za-z0-9+.-]*://[^\\u0000-\\u001f\\u007f-\\u009f])[^\\u0000-\\u001f\\u007f-\\u009f]*$"
    )]
    page_url: String,
}

/// The fields of a page view that change; those left out stay.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "documents the body, which the domain parses field by field"
)]
pub(super) struct PageViewPatch {
    /// A new owner.
    #[schema(example = 42, nullable = false, maximum = 4294967295_u64)]
    user_id: Option<u32>,
    /// A new time.
    #[schema(example = "2026-01-31T12:00:00Z", format = DateTime, nullable = false)]
    created_at: Option<String>,
    /// A new page.
    #[schema(
        example = "/pricing",
        min_length = 1,
        max_length = 2048,
        nullable = false,
        pattern = "^(/|[A-Za-z][A-Za-z0-9+.-]*://[^\\u0000-\\u001f\\u007f-\\u009f])[^\\u0000-\\u001f\\u007f-\\u009f]*$"
    )]
    page_url: Option<String>,
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

impl PageViewDocument {
    fn new(claim: &Claim, state: StorageState) -> Self {
        Self {
            request_id: claim.view.request_id.get(),
            user_id: claim.view.user_id.get(),
            created_at: claim.view.created_at.to_string(),
            page_url: claim.view.page_url.as_str().to_owned(),
            version: claim.version.get().to_string(),
            state,
        }
    }
}

/// Post a page view
///
/// Idempotent: the same view again gives the same answer and counts once, so retry until you get
/// one. A 201 means that the view is committed in ClickHouse and counted by every report from now
/// on. A 202 means that it is fsynced on this instance's disk and will get there: because ClickHouse
/// can't be reached, or because you asked for it with `Prefer: respond-async`. A retry that arrives
/// after the view was updated or deleted leaves it so.
#[utoipa::path(post, path = "/api/traffic/{request_id}", tag = "page views",
    security(("bearer" = ["write"])), extensions(("x-restricted-keys" = json!(true))),
    params(("request_id" = u64, Path, maximum = 18446744073709551615_u64, description = "The view's identity, chosen by the client"),
        ("prefer" = Option<String>, Header,
            description = "`respond-async`: answer 202 as soon as the view is on disk")),
    request_body = PageViewBody,
    responses((status = CREATED, description = "Stored in ClickHouse", body = PageViewDocument,
            headers(("location" = String, description = "The view's own address")),
            links(("view" = (operation_id = "get",
                parameters(("request_id" = "$response.body#/request_id")))),
                ("replace" = (operation_id = "put",
                parameters(("request_id" = "$response.body#/request_id")))),
                ("change" = (operation_id = "patch",
                parameters(("request_id" = "$response.body#/request_id")))),
                ("delete" = (operation_id = "delete",
                parameters(("request_id" = "$response.body#/request_id")))))),
        (status = ACCEPTED, description = "Safe on this instance's disk", body = PageViewDocument,
            headers(("location" = String, description = "The view's own address"),
                ("preference-applied" = String, description = "`respond-async` where asked for"))),
        Malformed, Conflict, ErasedUser, WrongBody, Unprocessable, Overloaded))]
pub(super) async fn post(
    State(state): State<Shared>,
    caller: Caller,
    PathId(request_id): PathId<RequestId>,
    headers: HeaderMap,
    body: JsonBytes,
) -> Result<Response, Problem> {
    let view = read_view(body.bytes(), request_id, &state.window())?;
    caller.check_user(view.user_id)?;
    let claim = Claim::first(view);
    let mut document = PageViewDocument::new(&claim, StorageState::Stored);
    let prefers_async = prefers_async(&headers);
    let posted = ClaimSet::One(claim);
    let ack = state.views.post(posted, prefers_async).await?;
    let status = match ack {
        Ack::Stored => StatusCode::CREATED,
        Ack::Spooled => StatusCode::ACCEPTED,
    };
    document.state = ack.into();
    let location = (
        header::LOCATION,
        format!("/api/traffic/{}", request_id.get()),
    );
    Ok(acknowledged(
        status,
        prefers_async,
        ([location], Json(document)),
    ))
}

/// Replace a page view
///
/// Any field may change, the hour and the day too; reports follow at once. Where another update
/// wins a race with this one, the body is the winner's view.
#[utoipa::path(put, path = "/api/traffic/{request_id}", tag = "page views",
    security(("bearer" = ["write"])), extensions(("x-restricted-keys" = json!(true))),
    params(("request_id" = u64, Path, maximum = 18446744073709551615_u64, description = "The view's identity")),
    request_body = PageViewBody,
    responses((status = OK, description = "The view as it now stands", body = PageViewDocument),
        Malformed, NotFound, ErasedUser, WrongBody, Unprocessable, Overloaded))]
pub(super) async fn put(
    State(state): State<Shared>,
    caller: Caller,
    PathId(request_id): PathId<RequestId>,
    body: JsonBytes,
) -> Result<Json<PageViewDocument>, Problem> {
    let view = read_view(body.bytes(), request_id, &state.window())?;
    caller.check_user(view.user_id)?;
    update(&state, &caller, request_id, move |_| view.clone()).await
}

/// Change some fields of a page view
///
/// As PUT, with the fields that are left out taken from the stored view.
#[utoipa::path(patch, path = "/api/traffic/{request_id}", tag = "page views",
    security(("bearer" = ["write"])), extensions(("x-restricted-keys" = json!(true))),
    params(("request_id" = u64, Path, maximum = 18446744073709551615_u64, description = "The view's identity")),
    request_body = PageViewPatch,
    responses((status = OK, description = "The view as it now stands", body = PageViewDocument),
        Malformed, NotFound, ErasedUser, WrongBody, Unprocessable, Overloaded))]
pub(super) async fn patch(
    State(state): State<Shared>,
    caller: Caller,
    PathId(request_id): PathId<RequestId>,
    body: JsonBytes,
) -> Result<Json<PageViewDocument>, Problem> {
    let change = read_change(body.bytes(), &state.window())?;
    if let Some(user_id) = change.user_id {
        caller.check_user(user_id)?;
    }
    update(&state, &caller, request_id, move |view| change.apply(view)).await
}

async fn update(
    state: &AppState,
    caller: &Caller,
    request_id: RequestId,
    change: impl Fn(&PageView) -> PageView + Send + Sync + 'static,
) -> Result<Json<PageViewDocument>, Problem> {
    match state
        .page_views
        .update(request_id, caller.users(), change)
        .await?
    {
        Update::Stored(claim) => {
            state.views.recent.updated(&request_id, &claim.view);
            Ok(Json(PageViewDocument::new(&claim, StorageState::Stored)))
        }
        Update::Unknown => Err(Problem::new(Kind::PageViewNotFound)),
    }
}

/// Look up a page view
///
/// The receipt for a POST: 200 once ClickHouse has the view, 202 while it waits on this instance's
/// disk.
#[utoipa::path(get, path = "/api/traffic/{request_id}", tag = "page views",
    security(("bearer" = ["read"])), extensions(("x-restricted-keys" = json!(true))),
    params(("request_id" = u64, Path, maximum = 18446744073709551615_u64, description = "The view's identity")),
    responses((status = OK, description = "The view", body = PageViewDocument),
        (status = ACCEPTED, description = "The view, not yet in ClickHouse", body = PageViewDocument),
        Malformed, NotFound, Overloaded))]
pub(super) async fn get(
    State(state): State<Shared>,
    caller: Caller,
    PathId(request_id): PathId<RequestId>,
) -> Result<(StatusCode, Json<PageViewDocument>), Problem> {
    let (status, claim, place) = match state.page_views.get(request_id, &caller.users()).await? {
        Lookup::Stored(claim) => (StatusCode::OK, claim, StorageState::Stored),
        Lookup::Spooled(claim) => (StatusCode::ACCEPTED, claim, StorageState::Spooled),
        Lookup::Unknown => return Err(Problem::new(Kind::PageViewNotFound)),
    };
    Ok((status, Json(PageViewDocument::new(&claim, place))))
}

/// Delete a page view
///
/// No report counts it any more; a late retry of its POST does not bring it back.
#[utoipa::path(delete, path = "/api/traffic/{request_id}", tag = "page views",
    security(("bearer" = ["write"])), extensions(("x-restricted-keys" = json!(true))),
    params(("request_id" = u64, Path, maximum = 18446744073709551615_u64, description = "The view's identity")),
    responses((status = NO_CONTENT, description = "Deleted"), Malformed, NotFound, Overloaded))]
pub(super) async fn delete(
    State(state): State<Shared>,
    caller: Caller,
    PathId(request_id): PathId<RequestId>,
) -> Result<StatusCode, Problem> {
    match state.page_views.delete(request_id, caller.users()).await? {
        Removal::Removed => Ok(StatusCode::NO_CONTENT),
        Removal::Unknown => Err(Problem::new(Kind::PageViewNotFound)),
    }
}
