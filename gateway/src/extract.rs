//! JSON bodies. Errors name the media type, the size, the line or the field.

use std::time::{Duration, Instant};

use axum::{
    body::{Body, HttpBody},
    extract::{FromRequest, OptionalFromRequest, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use phoenix_domain::{
    CorrelationId, OrchestratorError, OrchestratorErrorCode,
    limits::{MAX_CONVERSATION_REQUEST_BYTES, MAX_REQUEST_BYTES},
};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    bodies::BodyReservation,
    decode_error::{explain, invalid_body, shorten},
    members::Members,
    problem::Failure,
    request_scope::RequestScope,
};

/// The largest body.
pub(crate) const MAX_BODY_BYTES: usize = MAX_REQUEST_BYTES;

/// Time limit for a body to arrive, within the deadline of the request.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How much of a body that is too large is read and discarded, and for how long: a caller that is still sending would
/// otherwise see a broken connection instead of the response.
const DISCARD_BYTES: usize = 16 * MAX_BODY_BYTES;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Character that some programs write before JSON, although it is not part of JSON.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// A body that is one JSON object of at most `MAX_BYTES`.
///
/// The response to an invalid object with a valid `correlation_id` carries that id.
#[derive(Debug)]
pub(crate) struct JsonObject<T, const MAX_BYTES: usize = MAX_BODY_BYTES>(pub(crate) T);

/// A body with a conversation.
pub(crate) type ConversationBody<T> = JsonObject<T, MAX_CONVERSATION_REQUEST_BYTES>;

impl<S: Sync, T: DeserializeOwned, const MAX_BYTES: usize> FromRequest<S> for JsonObject<T, MAX_BYTES> {
    type Rejection = Failure;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Failure> {
        let (parts, body) = request.into_parts();
        check_type(&parts.headers)?;
        let (scope, bytes) = receive(&parts, body, MAX_BYTES).await?;
        decode(&scope, text(&bytes)?).map(Self)
    }
}

impl<S: Sync, T: DeserializeOwned> OptionalFromRequest<S> for JsonObject<T> {
    type Rejection = Failure;

    /// `None` without a body, whatever the content type and transfer encoding, and for `null`.
    async fn from_request(request: Request, _state: &S) -> Result<Option<Self>, Failure> {
        let (parts, body) = request.into_parts();
        if body.is_end_stream() {
            return Ok(None);
        }
        let (scope, bytes) = receive(&parts, body, MAX_BODY_BYTES).await?;
        if bytes.is_empty() {
            return Ok(None);
        }
        check_type(&parts.headers)?;
        match text(&bytes)? {
            "" => Ok(None),
            text if text.trim_ascii() == "null" => Ok(None),
            text => decode(&scope, text).map(|value| Some(Self(value))),
        }
    }
}

/// Checks that the body is JSON without a content encoding.
fn check_type(headers: &HeaderMap) -> Result<(), Failure> {
    check_encoding(headers)?;
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = essence == "application/json"
        || essence.strip_prefix("application/").is_some_and(|subtype| subtype.ends_with("+json"));
    if is_json { Ok(()) } else { Err(wrong_type()) }
}

fn check_encoding(headers: &HeaderMap) -> Result<(), Failure> {
    let values = headers.get_all(header::CONTENT_ENCODING).into_iter();
    let mut codings =
        values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    match codings.find(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity")) {
        Some(coding) => Err(encoded(&shorten(&String::from_utf8_lossy(coding)))),
        None => Ok(()),
    }
}

/// The failure of a body of another type than JSON.
pub(crate) fn wrong_type() -> Failure {
    let message = "the body must be JSON: send the header `Content-Type: application/json`";
    Failure::invalid(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
}

/// The failure of a body with a content encoding.
fn encoded(coding: &str) -> Failure {
    let problem = format_args!("is `{coding}`; send the body without an encoding");
    Failure::http(StatusCode::UNSUPPORTED_MEDIA_TYPE, OrchestratorError::invalid("Content-Encoding", problem))
}

/// The whole body, within the deadline of the request.
async fn receive(parts: &Parts, body: Body, max_bytes: usize) -> Result<(RequestScope, Bytes), Failure> {
    let Some(scope) = parts.extensions.get::<RequestScope>() else {
        return Err(OrchestratorError::internal("a body was read outside a request").into());
    };
    let mut reserved = scope.bodies().reservation();
    let bytes = read(&parts.headers, (body, max_bytes), scope.deadline(), &mut reserved).await?;
    Ok((scope.clone(), bytes))
}

fn text(bytes: &[u8]) -> Result<&str, Failure> {
    let text = std::str::from_utf8(bytes).map_err(|problem| {
        Failure::from(
            invalid_body("the body is not valid UTF-8").with_detail("offset", problem.valid_up_to()),
        )
    })?;
    Ok(text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text))
}

fn decode<T: DeserializeOwned>(scope: &RequestScope, text: &str) -> Result<T, Failure> {
    parse(text).map_err(|error| {
        if let Some(id) = named_id(text) {
            scope.set_id(id);
        }
        error.into()
    })
}

async fn read(
    headers: &HeaderMap,
    (mut body, max_bytes): (Body, usize),
    deadline: Instant,
    reserved: &mut BodyReservation,
) -> Result<Bytes, Failure> {
    let announced: Option<usize> =
        headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_none_or(|length| length <= max_bytes) {
        let deadline = deadline.min(Instant::now() + BODY_TIMEOUT);
        match tokio::time::timeout_at(deadline.into(), collect(&mut body, max_bytes, reserved)).await {
            Ok(Ok(Some(bytes))) => return Ok(bytes),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(too_slow()),
        }
    }
    // A caller that waits for `100 Continue` has not sent its body.
    if !headers.contains_key(header::EXPECT) {
        let _ = tokio::time::timeout(DISCARD_TIMEOUT, discard(&mut body)).await;
    }
    Err(too_large(max_bytes))
}

/// The failure of a body of more than `max_bytes`.
pub(crate) fn too_large(max_bytes: usize) -> Failure {
    let message = format!("the body is larger than {max_bytes} bytes");
    Failure::invalid(StatusCode::PAYLOAD_TOO_LARGE, message)
}

/// The failure of a body that does not arrive in time.
pub(crate) fn too_slow() -> Failure {
    let message = "the body took too long to arrive";
    Failure::http(
        StatusCode::REQUEST_TIMEOUT,
        OrchestratorError::new(OrchestratorErrorCode::Timeout, message),
    )
}

/// The whole body, or `None` when it is too large.
async fn collect(
    body: &mut Body,
    max_bytes: usize,
    reserved: &mut BodyReservation,
) -> Result<Option<Bytes>, OrchestratorError> {
    let mut collected = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| invalid_body("the body ended before it was complete"))?;
        let Ok(data) = frame.into_data() else { continue };
        if collected.len() + data.len() > max_bytes {
            return Ok(None);
        }
        reserved.reserve(data.len())?;
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

/// Decodes a JSON object. Errors name the field.
///
/// # Errors
/// `validation_failed` with what is wrong.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, OrchestratorError> {
    if text.trim_ascii_start().is_empty() {
        return Err(invalid_body("the body is empty; send a JSON object"));
    }
    let is_object = text.trim_ascii_start().starts_with('{');
    if !is_object && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() {
        return Err(invalid_body("the body must be a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let Members(value) = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        explain(&path, &error.into_inner())
    })?;
    json.end().map_err(|error| explain(".", &error))?;
    Ok(value)
}

/// The valid correlation id of a body that is otherwise invalid.
fn named_id(text: &str) -> Option<CorrelationId> {
    #[derive(Deserialize)]
    struct Named {
        correlation_id: String,
    }
    serde_json::from_str::<Named>(text).ok()?.correlation_id.parse().ok()
}
