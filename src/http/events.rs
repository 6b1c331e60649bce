//! `/v1/events`: events by site.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use futures_util::StreamExt;
use serde::Serialize;
use utoipa::ToSchema;

use super::access::Caller;
use super::acknowledgement::{StorageState, acknowledged, prefers_async};
use super::batches::{BatchReceipt, malformed, take_in};
use super::body::{self, Chunks};
use super::elements::Separation;
use super::openapi::{ContentCoding, Malformed, Overloaded, Unprocessable, WrongBody};
use super::problem::{Kind, Problem};
use super::state::Shared;
use crate::domain::{Event, read_event};
use crate::pipeline::Ack;

/// An event as a client sends it. Its identity is (`site_id`, `correlation_id`, `type`).
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "documents the body, which the domain parses field by field"
)]
pub(super) struct EventBody {
    /// Where it happened.
    #[schema(example = "c1a7e5d0-3b52-4f86-9d41-5e0f7a2b6c93", format = "uuid")]
    site_id: String,
    /// What happened: 1 to 32 of a-z, 0-9, `_`, `-` and `.`, beginning with a letter; where
    /// `EVENT_TYPES` is set, one of those.
    #[schema(
        example = "serve",
        min_length = 1,
        max_length = 32,
        pattern = "^[a-z][a-z0-9_.-]*$"
    )]
    r#type: String,
    /// What ties the events of one visit together.
    #[schema(example = "e2b40c71-8d6f-4a15-b3c9-70f4a1d85e26", format = "uuid")]
    correlation_id: String,
    /// When it happened: RFC 3339; without an offset UTC; fractions of a second are cut off. Not in
    /// the future, not before the retention of events.
    #[schema(example = "2026-01-31T12:00:00", format = DateTime)]
    time: String,
}

/// An event as the service has it.
#[derive(Serialize, ToSchema)]
pub(super) struct EventDocument {
    #[schema(example = "c1a7e5d0-3b52-4f86-9d41-5e0f7a2b6c93", format = "uuid")]
    site_id: String,
    #[schema(example = "serve")]
    r#type: String,
    #[schema(example = "e2b40c71-8d6f-4a15-b3c9-70f4a1d85e26", format = "uuid")]
    correlation_id: String,
    /// When it happened, UTC, whole seconds.
    #[schema(example = "2026-01-31T12:00:00Z", format = DateTime)]
    time: String,
    /// Where it is.
    state: StorageState,
}

impl EventDocument {
    fn new(event: &Event, state: StorageState) -> Self {
        Self {
            site_id: event.identity.site_id.to_string(),
            r#type: event.identity.of.as_str().to_owned(),
            correlation_id: event.identity.correlation_id.to_string(),
            time: event.time.to_string(),
            state,
        }
    }
}

/// Post events
///
/// One JSON object, a JSON array of them (`application/json`), or one object a line
/// (`application/x-ndjson`); arrays and lines of any length, all of them also with `Content-Encoding:
/// gzip` or `zstd`. Idempotent: the same event again counts once, so retry until you get an answer. What
/// makes it the same is (`site_id`, `correlation_id`, `type`); where it was sent with several times, it
/// counts at the earliest.
///
/// One object is answered with 201 when it is committed in ClickHouse and counted by every report from
/// now on, with 202 when it is fsynced on this instance's disk and will get there. Arrays and lines are
/// answered as `POST /api/traffic` is: every line is judged by itself, bad ones are named with their
/// number; 200 means that every accepted line is committed, 202 that some are on disk.
#[utoipa::path(post, path = "/events", operation_id = "post_events", tag = "events",
    security(("bearer" = ["write"])),
    params(("content-encoding" = inline(Option<ContentCoding>), Header,
            description = "How the body is compressed"),
        ("prefer" = Option<String>, Header,
            description = "`respond-async`: answer 202 as soon as the events are on disk")),
    request_body(content((EventBody = "application/json"), (EventBody = "application/x-ndjson"))),
    responses((status = CREATED, description = "One event, stored in ClickHouse",
            body = EventDocument),
        (status = OK, description = "Many: all accepted ones are stored in ClickHouse",
            body = BatchReceipt),
        (status = ACCEPTED, description = "One event, or of many some, safe on this instance's disk",
            body = EventOrReceipt,
            headers(("preference-applied" = String, description = "`respond-async` where asked for"))),
        Malformed, WrongBody, Unprocessable, Overloaded))]
pub(super) async fn post(
    State(state): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let separation = body::separation(&headers)?;
    let mut chunks = body::chunks(body, body::encoding(&headers)?, state.body_timeout);
    if separation == Separation::Lines {
        return take_in(&state, &state.events, caller, separation, chunks, &headers).await;
    }
    let start = first_of(&mut chunks, state.max_body_bytes).await?;
    if start.trim_ascii_start().starts_with(b"{") {
        let posted = post_one(&state, start, &mut chunks, &headers).await;
        return posted.inspect_err(|problem| state.events.rejected.single(problem.kind()));
    }
    let start = futures_util::stream::iter([Ok(start)]);
    let chunks: Chunks = Box::pin(start.chain(chunks));
    take_in(&state, &state.events, caller, separation, chunks, &headers).await
}

/// What answers with 202: one event's document, or many events' receipt.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "documents a response")]
pub(super) enum EventOrReceipt {
    One(EventDocument),
    Many(BatchReceipt),
}

async fn post_one(
    state: &Shared,
    start: Bytes,
    chunks: &mut Chunks,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let ingest = &state.events;
    let body = rest_of(start, chunks, state.max_body_bytes).await?;
    let event = read_event(&body, &ingest.window(), &ingest.rules.types).map_err(Problem::event)?;
    let prefers_async = prefers_async(headers);
    let ack = ingest.post(event, prefers_async).await?;
    let status = match ack {
        Ack::Stored => StatusCode::CREATED,
        Ack::Spooled => StatusCode::ACCEPTED,
    };
    let document = EventDocument::new(&event, ack.into());
    Ok(acknowledged(status, prefers_async, Json(document)))
}

/// The body up to the first byte that says what it is, which may be all of it.
async fn first_of(chunks: &mut Chunks, max_bytes: usize) -> Result<Bytes, Problem> {
    let mut blank = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| broken(&error))?;
        if !chunk.trim_ascii_start().is_empty() {
            return Ok(chunk);
        }
        blank += chunk.len();
        if blank > max_bytes {
            return Err(Problem::new(Kind::BodyTooLarge));
        }
    }
    Ok(Bytes::new())
}

/// All of a body of one event.
async fn rest_of(start: Bytes, chunks: &mut Chunks, max_bytes: usize) -> Result<Vec<u8>, Problem> {
    let mut body = Vec::from(start);
    while body.len() <= max_bytes {
        match chunks.next().await {
            Some(chunk) => body.extend_from_slice(&chunk.map_err(|error| broken(&error))?),
            None => return Ok(body),
        }
    }
    Err(Problem::new(Kind::BodyTooLarge))
}

fn broken(error: &std::io::Error) -> Problem {
    body::undecodable(error).map_or_else(|problem| problem, malformed)
}
