//! The OpenAPI document and the browser for it.

use std::collections::BTreeMap;

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::schema::{Schema, SchemaType, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{
    ComponentsBuilder, Header, InfoBuilder, OpenApi, OpenApiBuilder, RefOr,
    Response as OpenApiResponse,
};
use utoipa::{IntoResponses, ToSchema};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::access::{API_KEY, SCHEME, needs_key};
use super::browsers::PAGE_HEADERS;
use super::problem::{BadField, Kind, Problem};

/// The same keys in another header.
const OTHER_SCHEME: &str = "api_key";

/// Where the documents and the browser for them are.
pub(super) const PATHS: &[&str] = &[
    "/openapi.json",
    "/problems",
    "/docs",
    "/docs/",
    "/docs/{*rest}",
];

/// What the routes are added to.
pub(super) fn base() -> OpenApi {
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("traffic-api")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(
                    "Takes in page views and events and answers exact reports. \
                     Every error is a problem document (RFC 9457). Where the service has keys, an \
                     operation needs one with the scope that it names; answers then say how the \
                     caller stands with its limits (`RateLimit`, `RateLimit-Policy`).\n\n\
                     `/latest` serves the same as `/v1`, now and in every later version; a client that \
                     must not be surprised uses `/v1`. Both also serve `/api/traffic` \
                     (`/v1/api/traffic/...`), which stays at its plain path as well. Each path is listed \
                     once here.",
                ))
                .build(),
        )
        .components(Some(
            ComponentsBuilder::new()
                .schema_from::<Problem>()
                .schema_from::<BadField>()
                .security_scheme(
                    SCHEME,
                    SecurityScheme::Http(
                        HttpBuilder::new()
                            .scheme(HttpAuthScheme::Bearer)
                            .description(Some("A key as `traffic-api key new` prints it"))
                            .build(),
                    ),
                )
                .security_scheme(
                    OTHER_SCHEME,
                    SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(
                        API_KEY.as_str(),
                        "The same key",
                    ))),
                )
                .build(),
        ))
        .build()
}

/// The document that `/openapi.json` serves.
pub fn document() -> OpenApi {
    let mut document = super::api().into_openapi();
    complete(&mut document);
    with_registered_formats(&document)
}

/// The formats of numbers under their names in OpenAPI's registry: `uint64`, which utoipa writes `u-int64`.
fn with_registered_formats(document: &OpenApi) -> OpenApi {
    let text = serde_json::to_string(document).expect("a document is JSON");
    let text = text.replace(r#""format":"u-int"#, r#""format":"uint"#);
    serde_json::from_str(&text).expect("it was a document before")
}

/// Adds what all reports answer with, and all operations that need a key.
pub(super) fn complete(document: &mut OpenApi) {
    complete_reports(document);
    for operation in document.paths.paths.values_mut().flat_map(operations) {
        for parameter in operation.parameters.iter_mut().flatten() {
            if let RefOr::T(parameter) = parameter
                && let Some(RefOr::T(schema)) = &mut parameter.schema
            {
                not_null(schema);
            }
        }
        if !needs_key(operation) {
            add(operation, Anywhere::responses());
            continue;
        }
        let security = operation.security.get_or_insert_default();
        let scopes = security.iter().filter_map(scope_of);
        let scopes: Vec<String> = scopes.collect();
        security.push(SecurityRequirement::new(OTHER_SCHEME, scopes));
        add(operation, Guarded::responses());
        add(operation, Anywhere::responses());
    }
}

/// Adds what the operation does not say itself.
fn add(operation: &mut Operation, responses: BTreeMap<String, RefOr<OpenApiResponse>>) {
    for (status, response) in responses {
        let known = &mut operation.responses.responses;
        known.entry(status).or_insert(response);
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem {
        get,
        put,
        post,
        patch,
        delete,
        ..
    } = item;
    [get, put, post, patch, delete].into_iter().flatten()
}

/// A parameter may be left out, but is never null.
fn not_null(schema: &mut Schema) {
    let null = SchemaType::Type(Type::Null);
    match schema {
        Schema::Object(object) => strip_null(&mut object.schema_type),
        Schema::Array(array) => strip_null(&mut array.schema_type),
        Schema::OneOf(one_of) => {
            let is_null = |item: &RefOr<Schema>| matches!(item, RefOr::T(Schema::Object(object)) if object.schema_type == null);
            one_of.items.retain(|item| !is_null(item));
            if let [RefOr::T(only)] = &one_of.items[..] {
                *schema = only.clone();
            }
        }
        _ => {}
    }
}

fn strip_null(of: &mut SchemaType) {
    if let SchemaType::Array(types) = of {
        types.retain(|of| *of != Type::Null);
        if let [only] = &types[..] {
            *of = SchemaType::Type(only.clone());
        }
    }
}

fn scope_of(requirement: &SecurityRequirement) -> Option<String> {
    let value = serde_json::to_value(requirement).ok()?;
    value[SCHEME][0].as_str().map(str::to_owned)
}

fn complete_reports(document: &mut OpenApi) {
    let headers = [
        ("etag", "Of the body; strong"),
        (
            "data-complete-through",
            "An RFC 3339 time: whatever this instance acknowledged before it is counted",
        ),
        (
            "rows-spooled",
            "How many rows wait on this instance's disk, of views and events together, counted by no \
             report yet",
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

/// The browser's files run nothing but themselves. It draws with `data:` images and styles its elements
/// one by one.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; \
     img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; form-action 'none'",
);

/// What the browser answers, with what it does not say itself. Its own errors are not problem documents.
pub(super) async fn shown(response: Response) -> Response {
    if response.status().is_client_error() {
        return Problem::new(Kind::NoSuchRoute).into_response();
    }
    let headers = [
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::CONTENT_SECURITY_POLICY, POLICY),
    ];
    (PAGE_HEADERS, headers, response).into_response()
}

/// Swagger UI at `/docs`, from files inside the binary.
pub(super) fn browser() -> Router {
    SwaggerUi::new("/docs")
        .config(Config::from("/openapi.json"))
        .into()
}

// The values of parameters, for the document; the domain reads the texts.

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "documents a parameter")]
pub(super) enum IntervalWord {
    Hour,
    Day,
    Total,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "documents a parameter")]
pub(super) enum HourOrDay {
    Hour,
    Day,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "documents a parameter")]
pub(super) enum ByPage {
    Page,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "documents a parameter")]
pub(super) enum ContentCoding {
    Gzip,
    Zstd,
    Identity,
}

#[derive(ToSchema)]
#[schema(value_type = String, format = Date)]
#[expect(dead_code, reason = "documents a parameter")]
pub(super) struct DateText(String);

#[derive(ToSchema)]
#[schema(value_type = String, format = DateTime)]
#[expect(dead_code, reason = "documents a parameter")]
pub(super) struct TimeText(String);

#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "documents a parameter")]
pub(super) enum DateOrTime {
    Date(#[schema(inline)] DateText),
    Time(#[schema(inline)] TimeText),
}

#[derive(ToSchema)]
#[schema(value_type = String, format = "uuid")]
#[expect(dead_code, reason = "documents a parameter")]
pub(super) struct SiteUuid(String);

#[derive(ToSchema)]
#[schema(value_type = String, min_length = 1, max_length = 32, pattern = "^[a-z][a-z0-9_.-]*$")]
#[expect(dead_code, reason = "documents a parameter")]
pub(super) struct TypeName(String);

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
#[response(status = GONE, content_type = "application/problem+json",
    description = "The user was erased; views from before that are not taken in")]
#[expect(dead_code, reason = "documents a response")]
pub(super) struct ErasedUser(Problem);

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
    #[response(status = REQUEST_TIMEOUT, content_type = "application/problem+json",
        description = "The body did not arrive in time")]
    TooSlow(Problem),
    #[response(status = PAYLOAD_TOO_LARGE, content_type = "application/problem+json",
        description = "The body is too large")]
    TooLarge(Problem),
    #[response(status = UNSUPPORTED_MEDIA_TYPE, content_type = "application/problem+json",
        description = "The body is of a type or coding that this path does not take")]
    NotJson(Problem),
}

#[derive(IntoResponses)]
#[expect(dead_code, reason = "documents responses")]
enum Guarded {
    #[response(status = UNAUTHORIZED, content_type = "application/problem+json",
        description = "No key, or none that the service knows",
        headers(("www-authenticate" = String, description = "`Bearer`")))]
    Unauthenticated(Problem),
    #[response(status = FORBIDDEN, content_type = "application/problem+json",
        description = "The key has not got the scope, or is restricted to something else; where there \
            are no keys, the request is made for a page of another origin")]
    Forbidden(Problem),
    #[response(status = TOO_MANY_REQUESTS, content_type = "application/problem+json",
        description = "A limit of the key or of the address is used up",
        headers(("retry-after" = u32, description = "Seconds to wait before the next try")))]
    RateLimited(Problem),
}

#[derive(IntoResponses)]
#[expect(dead_code, reason = "documents responses")]
enum Anywhere {
    #[response(status = FORBIDDEN, content_type = "application/problem+json",
        description = "There are no keys, and the request is made for a page of another origin")]
    ForeignPage(Problem),
    #[response(status = MISDIRECTED_REQUEST, content_type = "application/problem+json",
        description = "The name in `Host` is none of the service's own")]
    UnknownHost(Problem),
}

#[derive(IntoResponses)]
#[expect(dead_code, reason = "documents responses")]
pub(super) enum Overloaded {
    #[response(status = TOO_MANY_REQUESTS, content_type = "application/problem+json",
        description = "A limit is used up, or the ingest buffer is full",
        headers(("retry-after" = u32, description = "Seconds to wait before the next try")))]
    Full(Problem),
    #[response(status = SERVICE_UNAVAILABLE, content_type = "application/problem+json",
        description = "The store did not confirm; try again",
        headers(("retry-after" = u32, description = "Seconds to wait before the next try")))]
    Unavailable(Problem),
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn operations_have_names_of_their_own_and_no_parameter_is_null() {
        let mut document = document();
        let mut names = BTreeSet::new();
        for operation in document.paths.paths.values_mut().flat_map(operations) {
            let name = operation.operation_id.clone().unwrap();
            assert!(names.insert(name.clone()), "{name} twice");
            for parameter in operation.parameters.iter().flatten() {
                let text = serde_json::to_string(parameter).unwrap();
                assert!(!text.contains("\"null\""), "{text}");
            }
        }
        assert!(names.len() > 10);
    }
}
