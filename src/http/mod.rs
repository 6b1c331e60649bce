//! The HTTP interface.
//!
//! Purpose: turn requests into calls of the domain, the pipeline and the repository, and their
//! outcomes into answers whose status says exactly where the data is.
//!
//! Invariants: the router and the OpenAPI document are built from the same list; every error is a
//! problem document (RFC 9457) of a kind that `docs/problems.md` explains; nothing that a client
//! sends gives a 5xx; no text of an inner error reaches a client.
//!
//! Refuses to know: SQL, ClickHouse's client, the engine, configuration sources.

mod accept;
mod access;
mod acknowledgement;
mod answer;
mod batch_places;
mod batches;
mod body;
mod browsers;
mod dashboard;
mod elements;
mod erasure;
mod event_reports;
mod events;
mod extract;
mod health;
mod ingest;
mod intake;
mod metrics;
mod openapi;
mod pace;
mod page_views;
mod postman;
mod problem;
mod rejected;
mod reports;
mod request_id;
mod requests;
mod server;
mod state;
mod versions;

use std::any::Any;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::{Response, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::IntoResponse;
use axum::routing::get;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::sensitive_headers::SetSensitiveRequestHeadersLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use access::Access;
use access::{API_KEY, Guard, guard};
pub use batch_places::BatchPlaces;
pub use browsers::{Browsers, Hosts, Origins};
use browsers::{Protect, cors};
pub use ingest::{Acceptance, EventRules, Ingest, Posted};
pub use openapi::document;
pub use postman::collection as postman_collection;
pub use problem::{Kind, Problem};
pub use rejected::Rejected;
use requests::{Observe, Requests};
pub use server::{Connections, Peer, PerAddress, Server, Timeouts};
pub use state::AppState;
use state::Shared;

/// All routes, over `state`, for those whom `access` lets in.
pub fn router(state: AppState, access: Access) -> Router {
    let max_body_bytes = state.max_body_bytes;
    let document = document();
    let others = ["/", "/openapi.json", "/problems"].map(str::to_owned);
    let routes = document.paths.paths.keys().cloned().chain(others);
    let requests = Requests::new(routes, &state.metrics, state.views.rejected.clone());
    let docs = dashboard::paths().chain(openapi::PATHS.iter().copied());
    let browsers = Arc::clone(&access.browsers);
    let guards = Guard::new(access, &document, docs, state.clock.clone());
    // Rendered once: a router is copied for every connection.
    let document = Bytes::from(serde_json::to_vec(&document).unwrap_or_default());
    let (traffic, events) = (Router::from(traffic()), Router::from(events()));
    let version = traffic.clone().merge(events);
    let router = traffic
        .merge(Router::from(health()))
        .nest("/v1", version.clone())
        .nest("/latest", version)
        .with_state(Arc::new(state))
        .route(
            "/openapi.json",
            get(move || serve_document(document.clone())),
        )
        .route("/problems", get(problem_page))
        .merge(openapi::browser().layer(map_response(openapi::shown)))
        .merge(dashboard::pages())
        .fallback(|| async { Problem::new(Kind::NoSuchRoute) })
        .method_not_allowed_fallback(|| async { Problem::new(Kind::MethodNotAllowed) });
    let router = if guards.is_needed() {
        router.layer(from_fn_with_state(guards, guard))
    } else {
        router
    };
    let router = router
        .layer(DefaultBodyLimit::max(max_body_bytes))
        .layer(CatchPanicLayer::custom(panicked));
    // Outside the guard: a browser asks beforehand without the key.
    let router = match cors(&browsers.origins) {
        Some(cors) => router.layer(cors),
        None => router,
    };
    router
        .layer(Protect(browsers))
        .layer(Observe(requests))
        // Nothing that writes headers down writes these.
        .layer(SetSensitiveRequestHeadersLayer::new([
            header::AUTHORIZATION,
            API_KEY,
        ]))
}

/// Page views and the reports on them.
fn traffic() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(
            page_views::post,
            page_views::put,
            page_views::patch,
            page_views::get,
            page_views::delete
        ))
        .routes(routes!(batches::post))
        .routes(routes!(reports::daily))
        .routes(routes!(reports::days))
        .routes(routes!(reports::pages))
        .routes(routes!(reports::site))
        .routes(routes!(erasure::delete))
}

/// Events and the reports on them.
fn events() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(events::post))
        .routes(routes!(event_reports::counters))
        .routes(routes!(event_reports::funnel))
}

/// What is no part of any version.
fn health() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(metrics::scrape))
}

/// All documented routes, each under one of its paths.
fn api() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(openapi::base())
        .merge(traffic())
        .nest("/v1", events())
        .merge(health())
}

async fn serve_document(document: Bytes) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        // It changes with the binary, and it is asked for seldom.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, document)
}

/// The page that the `type` of every problem points to, as plain text in its own words.
async fn problem_page() -> impl IntoResponse {
    const PAGE: &str = include_str!("../../docs/problems.md");
    (
        [
            (header::CONTENT_TYPE, "text/markdown; charset=utf-8"),
            (header::CACHE_CONTROL, "no-cache"),
        ],
        PAGE,
    )
}

fn panicked(_: Box<dyn Any + Send>) -> Response<axum::body::Body> {
    // The log has it already, with its place.
    Problem::new(Kind::Internal).into_response()
}
