//! `/api/traffic`: many page views in one request.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use futures_util::StreamExt;
use serde::Serialize;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout};
use utoipa::ToSchema;

use super::access::Caller;
use super::acknowledgement::{acknowledged, prefers_async};
use super::body::{self, Chunks};
use super::elements::{Element, Elements, Separation};
use super::ingest::{Ingest, Posted};
use super::intake::Intake;
use super::openapi::{ContentCoding, Malformed, Overloaded, WrongBody};
use super::problem::{BadField, Kind, Problem};
use super::state::{AppState, Shared};

/// How many bad lines are named in full.
pub(super) const MAX_REJECTED_NAMED: usize = 100;
/// How much is parsed before other tasks get their turn.
const TURN_BYTES: usize = 64 << 10;
/// Records that arrived are sent off after this time, even if the client pauses: meanwhile they take
/// memory that others need.
const MAX_AGE: Duration = Duration::from_secs(1);

/// How long the rest of a batch that is broken off may take to arrive.
const LEFT_UNREAD: Duration = Duration::from_secs(2);

/// One line of a batch.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "documents the body, which the domain parses field by field"
)]
pub(super) struct BatchLine {
    /// The view's identity, chosen by the client; also taken as a string of its digits.
    #[schema(example = 1, maximum = 18446744073709551615_u64)]
    request_id: u64,
    /// Whose report counts the view.
    #[schema(example = 42, maximum = 4294967295_u64)]
    user_id: u32,
    /// When it happened: as in a single POST.
    #[schema(example = "2026-01-31T12:00:00Z", format = DateTime)]
    created_at: String,
    /// An absolute URL or a path: as in a single POST.
    #[schema(
        example = "/pricing",
        min_length = 1,
        max_length = 2048,
        pattern = "^(/|[A-Za-z][A-Za-z0-9+.-]*://[^\\u0000-\\u001f\\u007f-\\u009f])[^\\u0000-\\u001f\\u007f-\\u009f]*$"
    )]
    page_url: String,
}

/// What became of a batch.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct BatchReceipt {
    /// Lines that are safe: those stored and those spooled.
    #[schema(example = 998)]
    pub(super) accepted: u64,
    /// Lines that are committed in ClickHouse.
    #[schema(example = 998)]
    pub(super) stored: u64,
    /// Lines that are fsynced on this instance's disk, on their way to ClickHouse.
    #[schema(example = 0)]
    pub(super) spooled: u64,
    /// Lines that are not kept: mend them and send them again.
    #[schema(example = 2)]
    pub(super) rejected_count: u64,
    /// The first 100 of them.
    pub(super) rejected: Vec<RejectedLine>,
}

/// A line that is not kept.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RejectedLine {
    /// Its number from 1, empty lines included; in an array the element's place.
    #[schema(example = 17)]
    pub(super) line: u64,
    /// All that is wrong with it.
    pub(super) errors: Vec<BadField>,
}

impl BatchReceipt {
    pub(super) fn reject(&mut self, line: u64, errors: impl FnOnce() -> Vec<BadField>) {
        self.rejected_count += 1;
        // What only the store refuses, and conflicts, are found later than errors in later lines.
        let place = self.rejected.partition_point(|other| other.line < line);
        if place < MAX_REJECTED_NAMED {
            self.rejected.truncate(MAX_REJECTED_NAMED - 1);
            let errors = errors();
            self.rejected.insert(place, RejectedLine { line, errors });
        }
    }
}

/// Post many page views
///
/// One JSON object a line (`application/x-ndjson`), or one JSON array of them
/// (`application/json`); of any length, also with `Content-Encoding: gzip` or `zstd`. Every line is
/// judged by itself: good ones are stored, bad ones are named with their number and do no harm to the
/// others. Idempotent like a single POST: without an answer, send the whole batch again; what
/// arrives twice counts once. 200 means that every accepted line is committed in ClickHouse, 202 that
/// some are fsynced on this instance's disk and will get there.
#[utoipa::path(post, path = "/api/traffic", operation_id = "post_batch", tag = "page views",
    security(("bearer" = ["write"])), extensions(("x-restricted-keys" = json!(true))),
    params(("content-encoding" = inline(Option<ContentCoding>), Header,
            description = "How the body is compressed"),
        ("prefer" = Option<String>, Header,
            description = "`respond-async`: answer 202 as soon as the views are on disk")),
    request_body(content((BatchLine = "application/x-ndjson"), (Vec<BatchLine> = "application/json"))),
    responses((status = OK, description = "All accepted lines are stored in ClickHouse",
            body = BatchReceipt),
        (status = ACCEPTED, description = "Some accepted lines are safe on this instance's disk",
            body = BatchReceipt,
            headers(("preference-applied" = String, description = "`respond-async` where asked for"))),
        Malformed, WrongBody, Overloaded))]
pub(super) async fn post(
    State(state): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let separation = body::separation(&headers)?;
    let chunks = body::chunks(body, body::encoding(&headers)?, state.body_timeout);
    take_in(&state, &state.views, caller, separation, chunks, &headers).await
}

/// Reads a batch of any stream to its end and says what became of it.
pub(super) async fn take_in<R: Posted>(
    state: &AppState,
    ingest: &Ingest<R>,
    caller: Caller,
    separation: Separation,
    mut chunks: Chunks,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let Some(_place) = state.batches.take(caller.who()) else {
        return Err(Problem::new(Kind::BufferFull).with_detail("too many batches at once"));
    };
    let prefers_async = prefers_async(headers);
    let mut elements = Elements::new(separation, state.max_body_bytes);
    let mut intake = Intake::new(ingest, caller, state.max_body_bytes, prefers_async);
    if let Err(problem) = read_all(&mut chunks, &mut elements, &mut intake).await {
        // Whoever is still sending would find the connection closed, and no answer.
        let _ = timeout(LEFT_UNREAD, body::discard(&mut chunks)).await;
        return Err(problem);
    }
    let receipt = intake.finish().await?;

    let status = if receipt.spooled > 0 {
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    Ok(acknowledged(status, prefers_async, Json(receipt)))
}

async fn read_all<R: Posted>(
    chunks: &mut Chunks,
    elements: &mut Elements,
    intake: &mut Intake<'_, R>,
) -> Result<(), Problem> {
    let mut bytes: u64 = 0;
    loop {
        let until = intake.oldest().map(|since| since + MAX_AGE);
        let chunk = tokio::select! {
            chunk = chunks.next() => chunk,
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                intake.send_off().await?;
                continue;
            }
        };
        match chunk {
            Some(Ok(chunk)) => {
                for piece in chunk.chunks(TURN_BYTES) {
                    elements.feed(piece);
                    while let Some((number, element)) = elements.next() {
                        if let Some(left) = intake.take(number, element)? {
                            intake.send_off_and_take(number, left).await?;
                        }
                    }
                    bytes += piece.len() as u64;
                    intake.pay(elements.number(), bytes)?;
                    yield_now().await;
                }
            }
            None => break,
            Some(Err(error)) => {
                let reason = body::undecodable(&error)?;
                intake.take(elements.number() + 1, Element::Broken(reason))?;
                return Ok(());
            }
        }
        if intake.is_broken() {
            return Ok(());
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            intake.send_off().await?;
        }
    }
    while let Some((number, element)) = elements.finish() {
        if let Some(left) = intake.take(number, element)? {
            intake.send_off_and_take(number, left).await?;
        }
    }
    Ok(())
}

pub(super) fn malformed(reason: &str) -> Problem {
    Problem::new(Kind::MalformedJson).with_detail(reason)
}
