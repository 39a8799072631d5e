//! JSON bodies. Whatever is wrong with one, the answer names it: the media type, the size, the line, the field.

use std::time::{Duration, Instant};

use axum::{
    body::{Body, HttpBody},
    extract::{FromRequest, FromRequestParts, OptionalFromRequest, Request},
    http::{HeaderMap, StatusCode, header},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use phoenix_domain::{CorrelationId, OrchestratorError, OrchestratorErrorCode};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::error::Category;

use crate::{correlation::Scope, problem::Failure};

/// The largest body.
pub(crate) const MAX_BODY_BYTES: usize = 1024 * 1024;

/// How long a body may take to arrive, within the request's own deadline.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How much of a body that is refused for its size is read on, and for how long: a caller that is still sending would
/// otherwise see a broken connection instead of the answer.
const DISCARD_BYTES: usize = 16 * MAX_BODY_BYTES;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// How much of a name that a caller made up is repeated in an answer.
const MAX_NAME_CHARS: usize = 64;

/// A body that is one JSON object.
///
/// When the object can't be used but names a valid `correlation_id`, the answer carries that id.
#[derive(Debug)]
pub(crate) struct JsonObject<T>(pub(crate) T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for JsonObject<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Failure> {
        let (parts, body) = request.into_parts();
        let Some(scope) = parts.extensions.get::<Scope>() else {
            return Err(OrchestratorError::internal("a body was read outside a request").into());
        };
        check_content_type(&parts.headers)?;
        let bytes = read(&parts.headers, body, scope.deadline()).await?;
        let text = std::str::from_utf8(&bytes).map_err(|problem| {
            Failure::from(
                invalid_body("the body is not valid UTF-8").with_detail("offset", problem.valid_up_to()),
            )
        })?;
        match parse(text) {
            Ok(value) => Ok(Self(value)),
            Err(error) => {
                if let Some(id) = named_id(text) {
                    scope.adopt(id);
                }
                Err(error.into())
            }
        }
    }
}

impl<S: Sync, T: DeserializeOwned> OptionalFromRequest<S> for JsonObject<T> {
    type Rejection = Failure;

    /// Nothing when there is no body, whatever its type is said to be.
    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, Failure> {
        if request.body().is_end_stream() {
            return Ok(None);
        }
        <Self as FromRequest<S>>::from_request(request, state).await.map(Some)
    }
}

/// What a handler that goes by the path takes out of a request itself: something of its head, and its body if it has one.
///
/// # Errors
/// What is wrong with either.
pub(crate) async fn parts_and_body<P, T>(request: Request) -> Result<(P, T), Failure>
where
    P: FromRequestParts<(), Rejection = Failure>,
    T: DeserializeOwned + Default,
{
    let (mut parts, body) = request.into_parts();
    let found = P::from_request_parts(&mut parts, &()).await?;
    let request = Request::from_parts(parts, body);
    let body = <JsonObject<T> as OptionalFromRequest<()>>::from_request(request, &()).await?;
    Ok((found, body.map(|JsonObject(value)| value).unwrap_or_default()))
}

/// `application/json`, or a type of its family, with any parameters.
fn check_content_type(headers: &HeaderMap) -> Result<(), Failure> {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = essence == "application/json"
        || essence.strip_prefix("application/").is_some_and(|subtype| subtype.ends_with("+json"));
    if is_json {
        return Ok(());
    }
    let message = "the body must be JSON: send the header `Content-Type: application/json`";
    Err(Failure::invalid(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
}

async fn read(headers: &HeaderMap, mut body: Body, deadline: Instant) -> Result<Bytes, Failure> {
    let announced: Option<usize> =
        headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_none_or(|length| length <= MAX_BODY_BYTES) {
        let deadline = deadline.min(Instant::now() + BODY_TIMEOUT);
        match tokio::time::timeout_at(deadline.into(), collect(&mut body)).await {
            Ok(Ok(Some(bytes))) => return Ok(bytes),
            Ok(Ok(None)) => {}
            Ok(Err(_)) => return Err(invalid_body("the body ended before it was complete").into()),
            Err(_) => return Err(too_slow()),
        }
    }
    // A caller that waits for a sign to begin sends nothing that would have to be discarded.
    if !headers.contains_key(header::EXPECT) {
        let _ = tokio::time::timeout(DISCARD_TIMEOUT, discard(&mut body)).await;
    }
    let message = format!("the body is larger than {MAX_BODY_BYTES} bytes");
    Err(Failure::invalid(StatusCode::PAYLOAD_TOO_LARGE, message))
}

fn too_slow() -> Failure {
    let message = "the body took too long to arrive";
    Failure::http(
        StatusCode::REQUEST_TIMEOUT,
        OrchestratorError::new(OrchestratorErrorCode::Timeout, message),
    )
}

/// The whole body, or `None` when it is too large.
async fn collect(body: &mut Body) -> Result<Option<Bytes>, axum::Error> {
    let mut collected = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if collected.len() + data.len() > MAX_BODY_BYTES {
            return Ok(None);
        }
        collected.extend_from_slice(&data);
    }
    Ok(Some(collected.freeze()))
}

async fn discard(body: &mut Body) {
    let mut left = DISCARD_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            return;
        }
    }
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, OrchestratorError> {
    let start = text.trim_ascii_start();
    if start.is_empty() {
        return Err(invalid_body("the body is empty; send a JSON object"));
    }
    // serde would also take an array of a struct's fields in their order.
    let is_object = start.starts_with('{');
    if !is_object && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() {
        return Err(invalid_body("the body must be a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().to_string();
        explain(&field, &error.into_inner())
    })?;
    json.end().map_err(|error| explain(".", &error))?;
    if is_object { Ok(value) } else { Err(invalid_body("the body must be a JSON object")) }
}

fn invalid_body(message: &str) -> OrchestratorError {
    OrchestratorError::new(OrchestratorErrorCode::ValidationFailed, message)
}

/// What serde says, in words for the caller: the field first.
fn explain(path: &str, error: &serde_json::Error) -> OrchestratorError {
    let text = error.to_string();
    let (text, _) = text.rsplit_once(" at line ").unwrap_or((&text, ""));
    if error.classify() != Category::Data {
        return invalid_body(&format!("the body is not valid JSON: {text}"))
            .with_detail("line", error.line())
            .with_detail("column", error.column());
    }
    let named = |prefix: &str| text.strip_prefix(prefix)?.strip_suffix('`');
    if let Some(field) = named("missing field `") {
        OrchestratorError::invalid(field, "is missing")
    } else if let Some(field) = named("duplicate field `") {
        OrchestratorError::invalid(field, "is given twice")
    } else if let Some((field, known)) =
        text.strip_prefix("unknown field `").and_then(|rest| rest.rsplit_once("`, expected "))
    {
        let known = known.trim_start_matches("one of ").replace(" or ", ", ");
        OrchestratorError::invalid(&shorten(field), format_args!("is not a known field; known are {known}"))
    } else {
        let (found, expected) = text.rsplit_once(", expected ").unwrap_or((text, "something else"));
        let found = match found.trim_start_matches("invalid type: ") {
            "map" => "an object",
            "sequence" => "an array",
            other => other,
        };
        OrchestratorError::invalid(path, format_args!("must be {expected}, not {found}"))
    }
}

/// A name that a caller made up, short enough to be repeated.
pub(crate) fn shorten(name: &str) -> String {
    match name.char_indices().nth(MAX_NAME_CHARS) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

/// The valid id that a body names although it can't be used.
fn named_id(text: &str) -> Option<CorrelationId> {
    #[derive(Deserialize)]
    struct Named {
        correlation_id: String,
    }
    serde_json::from_str::<Named>(text).ok()?.correlation_id.parse().ok()
}
