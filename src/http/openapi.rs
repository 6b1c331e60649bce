//! The OpenAPI document and the browser for it.

use axum::Router;
use utoipa::IntoResponses;
use utoipa::openapi::{ComponentsBuilder, Header, InfoBuilder, OpenApi, OpenApiBuilder, RefOr};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::problem::{BadField, Problem};

/// What the routes are added to.
pub(super) fn base() -> OpenApi {
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("traffic-api")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(
                    "Takes in page views and answers exact per-user daily reports. \
                     Every error is a problem document (RFC 9457).",
                ))
                .build(),
        )
        .components(Some(
            ComponentsBuilder::new()
                .schema_from::<Problem>()
                .schema_from::<BadField>()
                .build(),
        ))
        .build()
}

/// The document that `/openapi.json` serves.
pub fn document() -> OpenApi {
    let mut document = super::api().into_openapi();
    complete(&mut document);
    document
}

/// Adds to every report what all of them answer with.
pub(super) fn complete(document: &mut OpenApi) {
    let headers = [
        ("etag", "Of the body; strong"),
        (
            "data-complete-through",
            "An RFC 3339 time: every view that this instance acknowledged before it is counted",
        ),
        (
            "rows-spooled",
            "How many rows wait on this instance's disk, counted by no report yet",
        ),
    ];
    let reports = document.paths.paths.values_mut();
    let reports = reports.filter_map(|path| path.get.as_mut()).filter(|get| {
        let tags = get.tags.as_deref().unwrap_or_default();
        tags.iter().any(|tag| tag == "reports")
    });
    for report in reports {
        for status in ["200", "304"] {
            if let Some(RefOr::T(response)) = report.responses.responses.get_mut(status) {
                for (name, description) in headers {
                    let mut header = Header::default();
                    header.description = Some(description.to_owned());
                    response.headers.insert(name.to_owned(), header.into());
                }
            }
        }
    }
}

/// Swagger UI at `/docs`, from files inside the binary.
pub(super) fn browser() -> Router {
    SwaggerUi::new("/docs")
        .config(Config::from("/openapi.json"))
        .into()
}

// The problems that several routes share, for the document. The bodies are `Problem` in all of them.

#[derive(IntoResponses)]
#[response(status = BAD_REQUEST, content_type = "application/problem+json",
    description = "The id in the path or the JSON is malformed")]
#[expect(dead_code, reason = "documents a response")]
pub(super) struct Malformed(Problem);

#[derive(IntoResponses)]
#[response(status = NOT_FOUND, content_type = "application/problem+json",
    description = "No page view has this request_id")]
#[expect(dead_code, reason = "documents a response")]
pub(super) struct NotFound(Problem);

#[derive(IntoResponses)]
#[response(status = CONFLICT, content_type = "application/problem+json",
    description = "Another page view is known under this request_id")]
#[expect(dead_code, reason = "documents a response")]
pub(super) struct Conflict(Problem);

#[derive(IntoResponses)]
#[response(status = NOT_MODIFIED,
    description = "The answer has the tag that `If-None-Match` names")]
pub(super) struct NotModified;

#[derive(IntoResponses)]
#[response(status = NOT_ACCEPTABLE, content_type = "application/problem+json",
    description = "`Accept` allows neither application/json nor text/csv")]
#[expect(dead_code, reason = "documents a response")]
pub(super) struct NotAcceptable(Problem);

#[derive(IntoResponses)]
#[response(status = GONE, content_type = "application/problem+json",
    description = "The rest of the answer is not kept any more; start over without `after`")]
#[expect(dead_code, reason = "documents a response")]
pub(super) struct CursorExpired(Problem);

#[derive(IntoResponses)]
#[response(status = UNPROCESSABLE_ENTITY, content_type = "application/problem+json",
    description = "Parameters are unknown, repeated or out of range; all are named")]
#[expect(dead_code, reason = "documents a response")]
pub(super) struct InvalidParameters(Problem);

#[derive(IntoResponses)]
#[response(status = UNPROCESSABLE_ENTITY, content_type = "application/problem+json",
    description = "Fields are missing, unknown or out of range; all are named")]
#[expect(dead_code, reason = "documents a response")]
pub(super) struct Unprocessable(Problem);

#[derive(IntoResponses)]
#[expect(dead_code, reason = "documents responses")]
pub(super) enum WrongBody {
    #[response(status = PAYLOAD_TOO_LARGE, content_type = "application/problem+json",
        description = "The body is too large")]
    TooLarge(Problem),
    #[response(status = UNSUPPORTED_MEDIA_TYPE, content_type = "application/problem+json",
        description = "The body is of a type or coding that this path does not take")]
    NotJson(Problem),
}

#[derive(IntoResponses)]
#[expect(dead_code, reason = "documents responses")]
pub(super) enum Overloaded {
    #[response(status = TOO_MANY_REQUESTS, content_type = "application/problem+json",
        description = "The ingest buffer is full; nothing was kept",
        headers(("retry-after" = u32, description = "Seconds to wait before the next try")))]
    Full(Problem),
    #[response(status = SERVICE_UNAVAILABLE, content_type = "application/problem+json",
        description = "The store did not confirm; try again",
        headers(("retry-after" = u32, description = "Seconds to wait before the next try")))]
    Unavailable(Problem),
}
