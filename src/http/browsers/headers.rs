//! What every answer tells a browser, as the OWASP REST security cheat sheet has it
//! (<https://cheatsheetseries.owasp.org/cheatsheets/REST_Security_Cheat_Sheet.html>).
//!
//! Not `Strict-Transport-Security`: a browser ignores it without TLS, and it binds the whole name, so it
//! is for whoever holds the name's certificate (`nginx/tls.conf.example` has it).

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

const PERMISSIONS_POLICY: HeaderName = HeaderName::from_static("permissions-policy");
const CROSS_ORIGIN_OPENER_POLICY: HeaderName =
    HeaderName::from_static("cross-origin-opener-policy");
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName =
    HeaderName::from_static("cross-origin-resource-policy");

const fn value(text: &'static str) -> HeaderValue {
    HeaderValue::from_static(text)
}

/// Of all answers, where the answer itself says nothing else: it is data, not to be shown as a page, not
/// to be guessed at, and not to be kept by anybody on the way.
static ALL: [(HeaderName, HeaderValue); 6] = [
    (header::CACHE_CONTROL, value("no-store")),
    (
        header::CONTENT_SECURITY_POLICY,
        value("default-src 'none'; frame-ancestors 'none'"),
    ),
    (CROSS_ORIGIN_RESOURCE_POLICY, value("same-origin")),
    (header::REFERRER_POLICY, value("no-referrer")),
    (header::X_CONTENT_TYPE_OPTIONS, value("nosniff")),
    // What browsers without `frame-ancestors` know.
    (header::X_FRAME_OPTIONS, value("DENY")),
];

/// Of pages, besides: they share no window with others, and use none of what browsers offer.
pub(in crate::http) const PAGE_HEADERS: [(HeaderName, HeaderValue); 2] = [
    (CROSS_ORIGIN_OPENER_POLICY, value("same-origin")),
    (
        PERMISSIONS_POLICY,
        value("camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()"),
    ),
];

/// Adds what the answer has not got.
pub(super) fn complete(headers: &mut HeaderMap) {
    // At once, for these and those that are still to come.
    headers.reserve(2 * ALL.len());
    for (name, value) in &ALL {
        headers.entry(name).or_insert_with(|| value.clone());
    }
}
