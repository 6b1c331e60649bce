//! A report on its way out: its form, how fresh it is, and whether the client has it already.

use std::fmt::Write;

use axum::body::Bytes;
use axum::extract::FromRequestParts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SecondsFormat};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tracing::error;

use super::accept::Form;
use super::problem::{Kind, Problem};
use crate::pipeline::Freshness;

pub(super) const COMPLETE_THROUGH: HeaderName = HeaderName::from_static("data-complete-through");
pub(super) const ROWS_SPOOLED: HeaderName = HeaderName::from_static("rows-spooled");
/// What to send as `after` for the next part of a report.
pub(super) const NEXT_AFTER: HeaderName = HeaderName::from_static("next-after");

/// How a client wants a report, and what it has of it.
pub(super) struct Wanted {
    pub(super) form: Form,
    known: KnownTags,
}

/// The values of `If-None-Match`.
pub(super) struct KnownTags(Vec<HeaderValue>);

impl<S: Send + Sync> FromRequestParts<S> for Wanted {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut request::Parts, state: &S) -> Result<Self, Problem> {
        let form = Form::from_request_parts(parts, state).await?;
        let known = KnownTags::of(&parts.headers);
        Ok(Self { form, known })
    }
}

impl KnownTags {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let values = headers.get_all(header::IF_NONE_MATCH);
        Self(values.iter().cloned().collect())
    }

    /// Tags are compared without their weakness, as RFC 9110 (section 13.1.2) has it: a proxy that
    /// compresses may have added it.
    pub(super) fn have(&self, etag: &str) -> bool {
        let lists = self.0.iter().filter_map(|value| value.to_str().ok());
        // No tag of ours holds a comma.
        let mut tags = lists.flat_map(|list| list.split(',')).map(str::trim);
        tags.any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
    }
}

impl Wanted {
    /// The report in the form that is wanted: `json` as it is, or the rows of `csv` under a header.
    pub(super) fn body<const N: usize>(
        &self,
        json: &impl Serialize,
        columns: [&str; N],
        rows: impl IntoIterator<Item = [String; N]>,
    ) -> Result<Bytes, Problem> {
        let body = match self.form {
            Form::Json => serde_json::to_vec(json).map_err(|error| error.to_string()),
            Form::Csv => table(columns, rows).map_err(|error| error.to_string()),
        };
        body.map(Bytes::from).map_err(|error| {
            error!(error, "report not written");
            Problem::new(Kind::Internal)
        })
    }

    /// The answer, or that the client has it.
    pub(super) fn answer(&self, body: Bytes, freshness: Freshness, next: Option<&str>) -> Response {
        let etag = etag(&body);
        let mut response = if self.known.have(&etag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            ([(header::CONTENT_TYPE, self.form.content_type())], body).into_response()
        };
        let millis = i64::try_from(freshness.complete_through_ms).unwrap_or(i64::MAX);
        let through = DateTime::from_timestamp_millis(millis).unwrap_or_default();
        let through = through.to_rfc3339_opts(SecondsFormat::Millis, true);
        let link = next.map(|uri| (header::LINK, format!("<{uri}>; rel=\"next\"")));
        let headers = [
            (header::ETAG, etag),
            // Of the client itself, who asks each time whether it is still good.
            (header::CACHE_CONTROL, "private, no-cache".to_owned()),
            (header::VARY, "accept".to_owned()),
            (COMPLETE_THROUGH, through),
            (ROWS_SPOOLED, freshness.spooled_rows.to_string()),
        ];
        for (name, text) in headers.into_iter().chain(link) {
            if let Ok(value) = HeaderValue::try_from(text) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}

/// A strong tag: the same for the same bytes alone.
pub(super) fn etag(body: &[u8]) -> String {
    let digest = Sha256::digest(body);
    let mut tag = String::from("\"");
    for byte in &digest[..16] {
        // Writing to a string can't fail.
        let _ = write!(tag, "{byte:02x}");
    }
    tag.push('"');
    tag
}

fn table<const N: usize>(
    columns: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> Result<Vec<u8>, csv::Error> {
    let mut writer = csv::WriterBuilder::new()
        .terminator(csv::Terminator::CRLF)
        .from_writer(Vec::new());
    writer.write_record(columns)?;
    for row in rows {
        writer.write_record(&row)?;
    }
    writer
        .into_inner()
        .map_err(|error| error.into_error().into())
}
