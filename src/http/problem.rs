//! Errors as clients see them: problem documents (RFC 9457).
//!
//! The message for the client is made here from the kind of the error alone; what happened inside
//! goes to the log, where it happened.

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tracing::warn;
use utoipa::ToSchema;

use crate::domain::{FieldError, Invalid, Rejection};
use crate::pipeline::Seldom;
use crate::{pipeline, repository};

/// Every kind of problem; the slugs are stable, `docs/problems.md` has a section for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The path's id is not a decimal number of the right width.
    MalformedId,
    /// The body is not JSON.
    MalformedJson,
    /// No key, or none that is known.
    Unauthenticated,
    /// The key is not good for this.
    Forbidden,
    /// There are no keys, and the request is made for a page of another origin.
    ForeignPage,
    /// The service is called by a name that is none of its own.
    UnknownHost,
    /// No live view has this request id.
    PageViewNotFound,
    /// The path leads nowhere.
    NoSuchRoute,
    /// The client accepts neither form of a report.
    NotAcceptable,
    /// The rest of a long answer is not kept any more.
    CursorExpired,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// Another view is known under this request id.
    RequestIdConflict,
    /// The view is of a user who was erased, and from before that.
    Erased,
    /// The body did not arrive in time.
    BodyTooSlow,
    /// The body is larger than the service accepts.
    BodyTooLarge,
    /// The body is declared as something that this path does not take.
    UnsupportedMediaType,
    /// Fields are missing, unknown or out of range.
    InvalidPageView,
    /// Fields of an event are missing, unknown or out of range.
    InvalidEvent,
    /// Parameters are unknown, repeated or out of range.
    InvalidParameters,
    /// A long answer is too long to be kept for reading it in parts.
    AnswerTooLong,
    /// ClickHouse refuses this very record for good.
    RefusedByStore,
    /// The caller has used up a limit.
    RateLimited,
    /// The ingest buffer is full.
    BufferFull,
    /// ClickHouse can't be reached or did not answer in time.
    StoreUnavailable,
    /// ClickHouse does not know the view, but this node's spool may hold it.
    NotYetKnown,
    /// An erasure is not done yet.
    ErasureUnfinished,
    /// The service is stopping.
    Stopping,
    /// A defect of the service.
    Internal,
}

/// How long a client should wait before it tries again, in seconds.
const RETRY_AFTER_FULL_SECS: u32 = 1;
const RETRY_AFTER_UNAVAILABLE_SECS: u32 = 2;
const RETRY_AFTER_STOPPING_SECS: u32 = 5;
const RETRY_AFTER_ERASURE_SECS: u32 = 10;

impl Kind {
    /// All kinds, for the documentation's tests.
    pub const ALL: &[Kind] = &[
        Kind::MalformedId,
        Kind::MalformedJson,
        Kind::Unauthenticated,
        Kind::Forbidden,
        Kind::ForeignPage,
        Kind::UnknownHost,
        Kind::PageViewNotFound,
        Kind::NoSuchRoute,
        Kind::NotAcceptable,
        Kind::CursorExpired,
        Kind::MethodNotAllowed,
        Kind::RequestIdConflict,
        Kind::Erased,
        Kind::BodyTooSlow,
        Kind::BodyTooLarge,
        Kind::UnsupportedMediaType,
        Kind::InvalidPageView,
        Kind::InvalidEvent,
        Kind::InvalidParameters,
        Kind::AnswerTooLong,
        Kind::RefusedByStore,
        Kind::RateLimited,
        Kind::BufferFull,
        Kind::StoreUnavailable,
        Kind::NotYetKnown,
        Kind::ErasureUnfinished,
        Kind::Stopping,
        Kind::Internal,
    ];

    /// The last part of the type URI.
    pub const fn slug(self) -> &'static str {
        match self {
            Kind::MalformedId => "malformed-id",
            Kind::MalformedJson => "malformed-json",
            Kind::Unauthenticated => "unauthenticated",
            Kind::Forbidden => "forbidden",
            Kind::ForeignPage => "foreign-page",
            Kind::UnknownHost => "unknown-host",
            Kind::PageViewNotFound => "page-view-not-found",
            Kind::NoSuchRoute => "no-such-route",
            Kind::NotAcceptable => "not-acceptable",
            Kind::CursorExpired => "cursor-expired",
            Kind::MethodNotAllowed => "method-not-allowed",
            Kind::RequestIdConflict => "request-id-conflict",
            Kind::Erased => "erased",
            Kind::ErasureUnfinished => "erasure-unfinished",
            Kind::BodyTooSlow => "body-too-slow",
            Kind::BodyTooLarge => "body-too-large",
            Kind::UnsupportedMediaType => "unsupported-media-type",
            Kind::InvalidPageView => "invalid-page-view",
            Kind::InvalidEvent => "invalid-event",
            Kind::InvalidParameters => "invalid-parameters",
            Kind::AnswerTooLong => "answer-too-long",
            Kind::RefusedByStore => "refused-by-store",
            Kind::RateLimited => "rate-limited",
            Kind::BufferFull => "buffer-full",
            Kind::StoreUnavailable => "store-unavailable",
            Kind::NotYetKnown => "not-yet-known",
            Kind::Stopping => "stopping",
            Kind::Internal => "internal",
        }
    }

    /// The HTTP status.
    pub const fn status(self) -> StatusCode {
        match self {
            Kind::MalformedId | Kind::MalformedJson => StatusCode::BAD_REQUEST,
            Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
            Kind::Forbidden | Kind::ForeignPage => StatusCode::FORBIDDEN,
            Kind::UnknownHost => StatusCode::MISDIRECTED_REQUEST,
            Kind::PageViewNotFound | Kind::NoSuchRoute => StatusCode::NOT_FOUND,
            Kind::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Kind::CursorExpired | Kind::Erased => StatusCode::GONE,
            Kind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Kind::RequestIdConflict => StatusCode::CONFLICT,
            Kind::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Kind::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Kind::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Kind::InvalidPageView
            | Kind::InvalidEvent
            | Kind::InvalidParameters
            | Kind::AnswerTooLong
            | Kind::RefusedByStore => StatusCode::UNPROCESSABLE_ENTITY,
            Kind::RateLimited | Kind::BufferFull => StatusCode::TOO_MANY_REQUESTS,
            Kind::StoreUnavailable
            | Kind::NotYetKnown
            | Kind::ErasureUnfinished
            | Kind::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Kind::MalformedId => "The id in the path is not a valid number",
            Kind::MalformedJson => "The body is not well-formed JSON",
            Kind::Unauthenticated => "A key is needed that this service knows",
            Kind::Forbidden => "The key is not good for this",
            Kind::ForeignPage => "Pages of other origins may not call",
            Kind::UnknownHost => "This service does not go by that name",
            Kind::PageViewNotFound => "No page view has this request_id",
            Kind::NoSuchRoute => "There is nothing at this path",
            Kind::NotAcceptable => "The report is not available in any accepted type",
            Kind::CursorExpired => "The rest of this answer is not kept any more; start over",
            Kind::MethodNotAllowed => "This path does not support the method",
            Kind::RequestIdConflict => "Another page view is known under this request_id",
            Kind::Erased => "The user was erased; views from before that are not taken in",
            Kind::ErasureUnfinished => "The erasure is not done yet; ask again",
            Kind::BodyTooSlow => "The body did not arrive in time; try again",
            Kind::BodyTooLarge => "The body is too large",
            Kind::UnsupportedMediaType => "The type or coding of the body is not supported",
            Kind::InvalidPageView => "The page view is not valid",
            Kind::InvalidEvent => "The event is not valid",
            Kind::InvalidParameters => "The parameters are not valid",
            Kind::AnswerTooLong => "The answer is too long to be read in parts; ask for less",
            Kind::RefusedByStore => "The store refuses this record",
            Kind::RateLimited => "A limit is used up; try again",
            Kind::BufferFull => "The service is busy; nothing was kept, try again",
            Kind::StoreUnavailable => "The store did not confirm; try again",
            Kind::NotYetKnown => "The page view may still be on its way to the store",
            Kind::Stopping => "The service is stopping; try again",
            Kind::Internal => "The service made a mistake",
        }
    }

    const fn retry_after_secs(self) -> Option<u32> {
        match self {
            Kind::BufferFull => Some(RETRY_AFTER_FULL_SECS),
            Kind::StoreUnavailable | Kind::NotYetKnown => Some(RETRY_AFTER_UNAVAILABLE_SECS),
            Kind::ErasureUnfinished => Some(RETRY_AFTER_ERASURE_SECS),
            Kind::Stopping => Some(RETRY_AFTER_STOPPING_SECS),
            _ => None,
        }
    }
}

/// One bad field.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct BadField {
    /// The field; empty for the body as a whole.
    #[schema(example = "created_at")]
    pub(super) field: String,
    /// A stable code.
    #[schema(example = "in_future")]
    pub(super) code: &'static str,
    /// What is wrong, for a person.
    #[schema(example = "is 1 s in the future; the server's time is 2026-01-31T12:00:00Z")]
    pub(super) detail: String,
}

/// A problem document (RFC 9457, `application/problem+json`).
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Problem {
    #[serde(skip)]
    kind: Kind,
    /// A stable URI reference for the kind of problem; this service explains it there.
    #[serde(rename = "type")]
    #[schema(example = "/problems#invalid-page-view")]
    type_uri: String,
    /// The kind in words.
    title: &'static str,
    /// The HTTP status.
    #[schema(example = 422)]
    status: u16,
    /// What is special about this occurrence.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// Every bad field.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<BadField>,
    #[serde(skip)]
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem of a kind, without more to say.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            type_uri: format!("/problems#{}", kind.slug()),
            title: kind.title(),
            status: kind.status().as_u16(),
            detail: None,
            errors: Vec::new(),
            headers: Vec::new(),
        }
    }

    /// What is wrong with the parameters of a report.
    pub(super) fn parameters(invalid: Invalid) -> Self {
        Self {
            errors: invalid.errors().iter().map(BadField::from).collect(),
            ..Problem::new(Kind::InvalidParameters)
        }
    }

    /// Why a body is not an event.
    pub(super) fn event(rejection: Rejection) -> Self {
        match rejection {
            Rejection::Malformed(reason) => Problem::new(Kind::MalformedJson).with_detail(reason),
            Rejection::Invalid(invalid) => Self {
                errors: invalid.errors().iter().map(BadField::from).collect(),
                ..Problem::new(Kind::InvalidEvent)
            },
        }
    }

    /// Its kind.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Adds what is special about this occurrence.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds a header to the answer.
    #[must_use]
    pub(super) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(mut self) -> Response {
        let own = std::mem::take(&mut self.headers);
        let kind = self.kind;
        let retry_after = kind.retry_after_secs();
        let mut response = (kind.status(), Json(self)).into_response();
        // For who counts it.
        response.extensions_mut().insert(kind);
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        headers.extend(own);
        response
    }
}

impl From<&FieldError> for BadField {
    fn from(error: &FieldError) -> Self {
        Self {
            field: error.field.to_string(),
            code: error.code,
            detail: error.detail.to_string(),
        }
    }
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        Self {
            errors: invalid.errors().iter().map(BadField::from).collect(),
            ..Problem::new(Kind::InvalidPageView)
        }
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::Malformed(reason) => Problem::new(Kind::MalformedJson).with_detail(reason),
            Rejection::Invalid(invalid) => invalid.into(),
        }
    }
}

impl From<pipeline::Error> for Problem {
    fn from(error: pipeline::Error) -> Self {
        // The lane has logged the failure, once for all records of the batch.
        Problem::new(match error {
            pipeline::Error::Full => Kind::BufferFull,
            pipeline::Error::Unavailable => Kind::StoreUnavailable,
            pipeline::Error::Refused => Kind::RefusedByStore,
            pipeline::Error::Stopping => Kind::Stopping,
        })
    }
}

/// In an outage every report fails alike.
static READ_FAILED: Seldom = Seldom::new();

impl From<repository::Error> for Problem {
    fn from(error: repository::Error) -> Self {
        match error {
            repository::Error::Write(error) => error.into(),
            repository::Error::Waiting => Problem::new(Kind::NotYetKnown),
            repository::Error::Erased(_) => Problem::new(Kind::Erased),
            repository::Error::Erasing => Problem::new(Kind::ErasureUnfinished),
            repository::Error::SnapshotGone => Problem::new(Kind::CursorExpired),
            repository::Error::AnswerTooLong { rows, max } => Problem::new(Kind::AnswerTooLong)
                .with_detail(format!(
                    "it has {rows} rows, at most {max} can be; \
                     choose a shorter range, a longer interval or a longer prefix"
                )),
            error => {
                READ_FAILED.say(|left_out| warn!(%error, left_out, "read failed"));
                Problem::new(Kind::StoreUnavailable)
            }
        }
    }
}
