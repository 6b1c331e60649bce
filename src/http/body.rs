//! The body of a batch: how its elements are told apart, and how it is decoded while it arrives.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use futures_util::{Stream, StreamExt, TryStreamExt};
use tokio_util::io::{ReaderStream, StreamReader};

use super::elements::Separation;
use super::extract::is_json;
use super::pace::Paced;
use super::problem::{Kind, Problem};

/// How much is decoded at once.
const DECODED_BYTES: usize = 64 << 10;
/// The window that a decoder of the content coding must support, and may refuse to exceed: 8 MiB
/// (<https://www.rfc-editor.org/rfc/rfc9659#section-3>).
const MAX_ZSTD_WINDOW_LOG: u32 = 23;

/// How many times what was received may come out of a compressed body, beyond what is always free. Views
/// pack about ten times, and less than fifty times however alike they are; a bomb packs a thousand times
/// and more.
const MAX_RATIO: u64 = 200;
const FREE_BYTES: u64 = 16 << 20;

/// How much of the rest is read of a body that is refused in its middle.
const DISCARDED_BYTES: usize = 16 << 20;

/// Media types of one JSON value a line; no registered one exists.
const LINES: &[&str] = &[
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/x-jsonlines",
];

/// The decoded body, piece by piece.
pub(super) type Chunks = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// A content coding that is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

/// How the elements are told apart, from `content-type`.
pub(super) fn separation(headers: &HeaderMap) -> Result<Separation, Problem> {
    if is_json(headers) {
        return Ok(Separation::Array);
    }
    let value = headers.get(header::CONTENT_TYPE);
    let essence = value
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .unwrap_or_default()
        .trim();
    if LINES.iter().any(|line| essence.eq_ignore_ascii_case(line)) {
        return Ok(Separation::Lines);
    }
    Err(Problem::new(Kind::UnsupportedMediaType).with_detail(
        "send the header content-type: application/x-ndjson for lines, or application/json for an array",
    ))
}

/// The coding, from `content-encoding`.
pub(super) fn encoding(headers: &HeaderMap) -> Result<Encoding, Problem> {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    let coding = codings
        .next()
        .map_or(&b"identity"[..], |value| value.as_bytes());
    let known = [
        ("identity", Encoding::Identity),
        ("gzip", Encoding::Gzip),
        ("x-gzip", Encoding::Gzip),
        ("zstd", Encoding::Zstd),
    ];
    let named = |name: &str| coding.trim_ascii().eq_ignore_ascii_case(name.as_bytes());
    match known.iter().find(|(name, _)| named(name)) {
        Some((_, encoding)) if codings.next().is_none() => Ok(*encoding),
        _ => Err(Problem::new(Kind::UnsupportedMediaType)
            .with_detail("content-encoding may be gzip or zstd, once")),
    }
}

/// The pieces of `body`, decoded, from a client with whom we have `patience`.
pub(super) fn chunks(body: Body, encoding: Encoding, patience: Duration) -> Chunks {
    let encoded = body
        .into_data_stream()
        .map_err(|error| io::Error::new(io::ErrorKind::ConnectionAborted, error));
    let received = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&received);
    let encoded = encoded.inspect_ok(move |bytes| {
        counter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    });
    let encoded = Paced::new(encoded, patience);
    match encoding {
        Encoding::Identity => Box::pin(encoded),
        Encoding::Gzip => {
            let mut decoder = GzipDecoder::new(StreamReader::new(encoded));
            decoder.multiple_members(true);
            bounded(
                ReaderStream::with_capacity(decoder, DECODED_BYTES),
                received,
            )
        }
        Encoding::Zstd => {
            let limits = [DParameter::window_log_max(MAX_ZSTD_WINDOW_LOG)];
            let mut decoder = ZstdDecoder::with_params(StreamReader::new(encoded), &limits);
            decoder.multiple_members(true);
            bounded(
                ReaderStream::with_capacity(decoder, DECODED_BYTES),
                received,
            )
        }
    }
}

/// The decoded pieces, as long as they are no more than what was received can honestly hold.
fn bounded(
    decoded: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    received: Arc<AtomicU64>,
) -> Chunks {
    let mut unpacked = 0;
    Box::pin(decoded.map(move |chunk| {
        let chunk = chunk?;
        unpacked += chunk.len() as u64;
        let honest = MAX_RATIO.saturating_mul(received.load(Ordering::Relaxed));
        if unpacked > FREE_BYTES.saturating_add(honest) {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok(chunk)
    }))
}

/// Reads on without keeping anything, though not for ever.
pub(super) async fn discard(chunks: &mut Chunks) {
    let mut left = DISCARDED_BYTES;
    while let Some(Ok(chunk)) = chunks.next().await {
        left = left.saturating_sub(chunk.len());
        if left == 0 {
            break;
        }
    }
}

/// What to tell the client when the body does not fit its `content-encoding`.
///
/// # Errors
/// That the body is too slow, or its connection broke.
pub(super) fn undecodable(error: &io::Error) -> Result<&'static str, Problem> {
    match error.kind() {
        io::ErrorKind::TimedOut => Err(Problem::new(Kind::BodyTooSlow)),
        // The client went away or broke HTTP in the middle of the body.
        io::ErrorKind::ConnectionAborted => {
            Err(Problem::new(Kind::MalformedJson).with_detail("the body is incomplete"))
        }
        io::ErrorKind::QuotaExceeded => Ok("from here on the body is packed more than 200 times"),
        _ => Ok("from here on the body does not fit its content-encoding"),
    }
}
