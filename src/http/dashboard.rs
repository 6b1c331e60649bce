//! The page at `/`: the reports for people, from files inside the binary.
//!
//! Invariants: everything comes from this service and nothing from elsewhere, which the browser is told
//! to enforce; text that clients have sent can run nothing even if the page had a flaw. The page has no
//! numbers of its own: it asks the same API as everybody.

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::answer::{KnownTags, etag};
use super::browsers::PAGE_HEADERS;

/// Paths, types and contents. The page names the others relative to its own path.
const FILES: &[(&str, &str, &str)] = &[
    (
        "/",
        "text/html; charset=utf-8",
        include_str!("dashboard/index.html"),
    ),
    (
        "/dashboard/style.css",
        "text/css; charset=utf-8",
        include_str!("dashboard/style.css"),
    ),
    (
        "/dashboard/dashboard.js",
        SCRIPT,
        include_str!("dashboard/dashboard.js"),
    ),
    (
        "/dashboard/api.js",
        SCRIPT,
        include_str!("dashboard/api.js"),
    ),
    (
        "/dashboard/chart.js",
        SCRIPT,
        include_str!("dashboard/chart.js"),
    ),
    (
        "/dashboard/range.js",
        SCRIPT,
        include_str!("dashboard/range.js"),
    ),
    (
        "/dashboard/show.js",
        SCRIPT,
        include_str!("dashboard/show.js"),
    ),
];

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Trusted types make the browser refuse whatever would turn text into markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; form-action 'self'; \
    require-trusted-types-for 'script'";

/// Where the page and its parts are.
pub(super) fn paths() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(path, ..)| *path)
}

/// The page and what it is made of.
pub(super) fn pages() -> Router {
    let mut router = Router::new();
    for (path, content_type, text) in FILES {
        // A tag for each, once: the files are as old as the binary.
        let etag = etag(text.as_bytes());
        let serve = async move |headers: HeaderMap| answer(content_type, text, &etag, &headers);
        router = router.route(path, get(serve));
    }
    router
}

fn answer(content_type: &str, text: &'static str, etag: &str, headers: &HeaderMap) -> Response {
    let content = if KnownTags::of(headers).have(etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let body = Bytes::from_static(text.as_bytes());
        ([(header::CONTENT_TYPE, content_type)], body).into_response()
    };
    let common = [
        (header::ETAG, etag),
        // Asked for each time, so that page and scripts are of one version.
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
    ];
    (PAGE_HEADERS, common, content).into_response()
}
