//! Where the page comes from that calls.

use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

use crate::http::access::{API_KEY, RATE_LIMIT, RATE_LIMIT_POLICY};
use crate::http::acknowledgement::{PREFER, PREFERENCE_APPLIED};
use crate::http::answer::{COMPLETE_THROUGH, NEXT_AFTER, ROWS_SPOOLED};
use crate::http::request_id::X_REQUEST_ID;

/// What browsers say of a page that they call for (<https://www.w3.org/TR/fetch-metadata/>). No page can
/// set them.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// How long a browser may remember what it was told beforehand.
const PREFLIGHT_AGE: Duration = Duration::from_secs(600);

/// Which pages of other origins may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// None.
    None,
    /// All. They have no credentials but a key that a person has given them.
    Any,
    /// Those of these origins, as browsers write them.
    These(Vec<HeaderValue>),
}

impl Origins {
    fn have(&self, origin: &HeaderValue) -> bool {
        match self {
            Origins::None => false,
            Origins::Any => true,
            Origins::These(origins) => origins.contains(origin),
        }
    }

    /// Whether the request is made for a page of another origin that is not among these. Old browsers
    /// say only the origin, and no browser says anything on requests by an address that is neither
    /// loopback nor https; what is no browser says nothing either.
    pub(super) fn are_foreign_to(&self, request: &Request) -> bool {
        let headers = request.headers();
        let origin = headers.get(header::ORIGIN);
        if origin.is_some_and(|origin| self.have(origin)) {
            return false;
        }
        match headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes) {
            // By the browser's own hand: an address that was typed, a bookmark.
            Some(b"same-origin" | b"none") => false,
            Some(_) => !is_link(request),
            None => origin.is_some_and(|origin| !is_own(origin, request)),
        }
    }
}

/// A link from another site shows a page and changes nothing.
fn is_link(request: &Request) -> bool {
    let mode = request.headers().get(SEC_FETCH_MODE);
    matches!(*request.method(), Method::GET | Method::HEAD)
        && mode.is_some_and(|mode| mode == "navigate")
}

/// Whether an origin is what the service was called by: in HTTP/2 that stands in the target.
fn is_own(origin: &HeaderValue, request: &Request) -> bool {
    let host = request.headers().get(header::HOST);
    let in_target = request
        .uri()
        .authority()
        .map(|name| name.as_str().as_bytes());
    let origin = origin.as_bytes();
    let authority = origin
        .strip_prefix(b"http://")
        .or_else(|| origin.strip_prefix(b"https://"));
    authority
        .zip(in_target.or(host.map(HeaderValue::as_bytes)))
        .is_some_and(|(origin, host)| origin.eq_ignore_ascii_case(host))
}

/// What browsers are told about `origins`; nothing where there are none. Credentials of the browser's
/// own (cookies, certificates) are never allowed: a key is a header that the page itself sends.
pub(in crate::http) fn cors(origins: &Origins) -> Option<CorsLayer> {
    let layer = match origins {
        Origins::None => return None,
        Origins::Any => CorsLayer::new().allow_origin(Any),
        Origins::These(origins) => {
            CorsLayer::new().allow_origin(AllowOrigin::list(origins.iter().cloned()))
        }
    };
    Some(
        layer
            .allow_methods([
                Method::GET,
                Method::HEAD,
                Method::POST,
                Method::PUT,
                Method::PATCH,
                Method::DELETE,
            ])
            .allow_headers([
                header::ACCEPT,
                header::AUTHORIZATION,
                header::CONTENT_ENCODING,
                header::CONTENT_TYPE,
                header::IF_NONE_MATCH,
                API_KEY,
                PREFER,
                X_REQUEST_ID,
            ])
            .expose_headers([
                header::ETAG,
                header::LINK,
                header::LOCATION,
                header::RETRY_AFTER,
                header::WWW_AUTHENTICATE,
                COMPLETE_THROUGH,
                NEXT_AFTER,
                PREFERENCE_APPLIED,
                RATE_LIMIT,
                RATE_LIMIT_POLICY,
                ROWS_SPOOLED,
                X_REQUEST_ID,
            ])
            .max_age(PREFLIGHT_AGE),
    )
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn foreign(method: &Method, headers: &[(&str, &str)]) -> bool {
        let own = Origins::These(vec![HeaderValue::from_static("https://app.example.org")]);
        let mut request = Request::builder().method(method).uri("/");
        request = request.header("host", "localhost:8000");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        own.are_foreign_to(&request.body(Body::empty()).unwrap())
    }

    #[test]
    fn a_page_is_known_by_what_its_browser_says() {
        let site = |site| ("sec-fetch-site", site);
        let origin = |origin| ("origin", origin);
        let link = ("sec-fetch-mode", "navigate");
        let app = origin("https://app.example.org");
        for (headers, is_foreign) in [
            (&[][..], false),
            (
                &[site("same-origin"), origin("http://localhost:8000")],
                false,
            ),
            // Behind a proxy that changes the name.
            (
                &[site("same-origin"), origin("https://site.example")],
                false,
            ),
            (&[site("none")], false),
            (&[site("cross-site"), app], false),
            (&[app], false),
            (&[origin("http://localhost:8000")], false),
            (&[origin("https://LOCALHOST:8000")], false),
            (&[site("cross-site"), origin("https://evil.example")], true),
            (&[site("cross-site")], true),
            (&[site("same-site"), origin("http://localhost:3000")], true),
            (&[site("anything")], true),
            (&[origin("http://localhost:3000")], true),
            (&[origin("http://localhost")], true),
            (&[origin("https://app.example.org.evil.example")], true),
            (&[origin("null")], true),
        ] {
            assert_eq!(foreign(&Method::POST, headers), is_foreign, "{headers:?}");
            assert_eq!(foreign(&Method::GET, headers), is_foreign, "{headers:?}");
            let linked = [headers, &[link]].concat();
            assert_eq!(foreign(&Method::POST, &linked), is_foreign, "{linked:?}");
        }
        let linked = [site("cross-site"), link];
        assert!(!foreign(&Method::GET, &linked));
    }

    #[test]
    fn in_http_2_the_target_says_what_was_called() {
        let by = |target: &str| {
            let request = Request::builder().uri(target);
            let request = request.header("origin", "http://localhost:8000");
            Origins::None.are_foreign_to(&request.body(Body::empty()).unwrap())
        };
        assert!(!by("http://localhost:8000/"));
        assert!(by("http://localhost:9000/"));
        assert!(by("/"), "nothing says what was called");
    }
}
