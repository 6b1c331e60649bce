//! Extractors whose rejections are problems.

use std::convert::Infallible;
use std::str::FromStr;

use axum::body::{Bytes, HttpBody as _};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::{HeaderMap, StatusCode, header, request};

use percent_encoding::percent_decode_str;
use tokio::time::timeout;

use super::problem::{Kind, Problem};
use super::state::Shared;
use crate::domain::Parameters;

/// The single id in a path.
pub(super) struct PathId<T>(pub(super) T);

impl<T, S> FromRequestParts<S> for PathId<T>
where
    T: FromStr<Err: std::fmt::Display>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut request::Parts, state: &S) -> Result<Self, Problem> {
        let malformed = || Problem::new(Kind::MalformedId);
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| malformed().with_detail("the id in the path is not valid UTF-8"))?;
        text.parse()
            .map(Self)
            .map_err(|reason| malformed().with_detail(format!("the id in the path {reason}")))
    }
}

/// The parameters behind the path, decoded as HTML forms encode them.
pub(super) struct QueryParameters(pub(super) Parameters);

impl<S: Send + Sync> FromRequestParts<S> for QueryParameters {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut request::Parts, _: &S) -> Result<Self, Infallible> {
        let query = parts.uri.query().unwrap_or_default();
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let parameters = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name), decoded(value));
            (String::from_utf8_lossy(&name).into_owned(), value)
        });
        let parameters = parameters.map(|(name, value)| (name, String::from_utf8(value).ok()));
        Ok(Self(Parameters(parameters.collect())))
    }
}

fn decoded(text: &str) -> Vec<u8> {
    percent_decode_str(&text.replace('+', " ")).collect()
}

/// A body that is declared as JSON, not yet parsed.
pub(super) struct JsonBytes(Bytes);

impl FromRequest<Shared> for JsonBytes {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &Shared) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(Kind::UnsupportedMediaType)
                .with_detail("send the header content-type: application/json"));
        }
        if let Some(encoding) = request.headers().get(header::CONTENT_ENCODING)
            && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
        {
            return Err(Problem::new(Kind::UnsupportedMediaType)
                .with_detail("a single page view must not be compressed"));
        }
        // Before a byte is read, which would tell a client that asks (`Expect`) to go on.
        if request.body().size_hint().lower() > state.max_body_bytes as u64 {
            return Err(Problem::new(Kind::BodyTooLarge));
        }
        let bytes = timeout(state.body_timeout, Bytes::from_request(request, state)).await;
        match bytes.map_err(|_| Problem::new(Kind::BodyTooSlow))? {
            Ok(bytes) => Ok(Self(bytes)),
            Err(e) if e.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(Problem::new(Kind::BodyTooLarge))
            }
            // The client went away or broke HTTP in the middle of the body.
            Err(_) => Err(Problem::new(Kind::MalformedJson).with_detail("the body is incomplete")),
        }
    }
}

impl JsonBytes {
    /// The body.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// `application/json` or a `+json` suffix, with or without parameters.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
    else {
        return false;
    };
    let essence = value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}
