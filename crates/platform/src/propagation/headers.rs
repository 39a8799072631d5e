//! The context of a request as headers, that is gRPC metadata.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use phoenix_domain::CorrelationId;
use phoenix_proto::InvalidField;

use super::{
    context::{RequestContext, service_deadline},
    trace::TraceContext,
};

/// The header, and gRPC metadata key, of the correlation id.
pub const CORRELATION_HEADER: HeaderName = HeaderName::from_static("x-correlation-id");

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The correlation id among `headers`, if there is one.
///
/// # Errors
/// When it is not a UUID.
pub fn correlation_id(headers: &HeaderMap) -> Result<Option<CorrelationId>, InvalidField> {
    let Some(value) = headers.get(CORRELATION_HEADER) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    text.parse().map(Some).map_err(|problem| InvalidField::new("x-correlation-id", problem))
}

/// A correlation id as a header value.
#[must_use]
pub fn correlation_header_value(id: CorrelationId) -> HeaderValue {
    let mut buffer = [0; 36];
    let text = id.as_uuid().as_hyphenated().encode_lower(&mut buffer);
    // Hexadecimal digits and hyphens are always allowed in a header.
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

/// Writes `context` into the headers of a call.
pub(super) fn inject(context: &RequestContext, headers: &mut HeaderMap) {
    headers.insert(CORRELATION_HEADER, correlation_header_value(context.correlation_id));
    if let Some(remaining) = context.remaining() {
        let millis = remaining.as_millis().clamp(1, 99_999_999);
        if let Ok(value) = HeaderValue::try_from(format!("{millis}m")) {
            headers.insert(GRPC_TIMEOUT, value);
        }
    }
    context.trace.inject(headers);
}

/// Reads the context of a call from its headers.
///
/// # Errors
/// When the correlation id or the timeout is not valid.
pub(super) fn extract(headers: &HeaderMap) -> Result<RequestContext, InvalidField> {
    let correlation_id = correlation_id(headers)?.unwrap_or_else(CorrelationId::generate);
    let deadline = match headers.get(GRPC_TIMEOUT).and_then(|value| value.to_str().ok()) {
        Some(text) => {
            let remaining = parse_grpc_timeout(text).ok_or_else(|| {
                InvalidField::new("grpc-timeout", "must be up to 8 digits and one of H M S m u n")
            })?;
            service_deadline(remaining)
        }
        None => None,
    };
    let trace = TraceContext::of(headers).unwrap_or_else(TraceContext::generate);
    Ok(RequestContext { deadline, ..RequestContext::in_trace(correlation_id, trace) })
}

/// The caller's time limit, if there is one.
pub(super) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    parse_grpc_timeout(headers.get(GRPC_TIMEOUT)?.to_str().ok()?)
}

/// Parses `TimeoutValue TimeoutUnit` of the gRPC protocol (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
pub(super) fn parse_grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}
