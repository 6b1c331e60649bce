//! What a client is told of a record that is safe, and whether it is content with the spool.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::pipeline::Ack;

/// Where an acknowledged record is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum StorageState {
    /// Committed in ClickHouse; counted by every report.
    Stored,
    /// Fsynced on the disk of the instance that answered; counted once it has reached ClickHouse.
    Spooled,
}

impl From<Ack> for StorageState {
    fn from(ack: Ack) -> Self {
        match ack {
            Ack::Stored => StorageState::Stored,
            Ack::Spooled => StorageState::Spooled,
        }
    }
}

pub(super) const PREFER: HeaderName = HeaderName::from_static("prefer");
pub(super) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const RESPOND_ASYNC: &str = "respond-async";

/// Whether the client is content with a record that is fsynced but not yet in ClickHouse (RFC 7240).
pub(super) fn prefers_async(headers: &HeaderMap) -> bool {
    headers
        .get_all(PREFER)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|preference| preference.split([';', '=']).next())
        .any(|name| name.trim().eq_ignore_ascii_case(RESPOND_ASYNC))
}

/// The answer; where the client was content with the spool and that is what it got, it says so.
pub(super) fn acknowledged(
    status: StatusCode,
    prefers_async: bool,
    answer: impl IntoResponse,
) -> Response {
    let mut response = (status, answer).into_response();
    if prefers_async && status == StatusCode::ACCEPTED {
        let applied = HeaderValue::from_static(RESPOND_ASYNC);
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
    }
    response
}
