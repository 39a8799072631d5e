//! What a request carries from process to process: its correlation id, its W3C trace context and the time it has left.
//!
//! [`ServeContext`] reads them from a call's metadata, [`SendContext`] writes them into the next call's; both are tower
//! layers, live side by side here and are tested as a round trip. Handlers see a [`RequestContext`] and never touch
//! metadata: `RequestContext::of(&request)` on the way in, `context.request(message)` on the way out.

mod trace;

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context as TaskContext, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use phoenix_domain::CorrelationId;
use phoenix_proto::{InvalidField, common::CallStart};
use tokio::time::Sleep;
use tonic::{Code, body::Body};
use tower::{Layer, Service};
use tracing::{Instrument, Span, field::Empty, instrument::Instrumented};
use uuid::Uuid;

pub use self::trace::TraceContext;
use crate::{rpc_metrics::code_name, service_token::ServiceToken};

/// The header, and gRPC metadata key, of the correlation id.
pub const CORRELATION_HEADER: HeaderName = HeaderName::from_static("x-correlation-id");

/// The service whose streams carry calls that have a context each.
const MULTIPLEX: &str = "/phoenix.common.v1.MultiplexService/";

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// What a service keeps of the time its caller gave, at most, so that it gives up before its caller does and its own,
/// better, message gets out.
const MARGIN: Duration = Duration::from_millis(100);

/// What a request carries from process to process.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// The request's name everywhere.
    pub correlation_id: CorrelationId,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
    /// The trace it belongs to.
    pub trace: TraceContext,
    /// Why the caller leaves, if it says so before it does.
    pub cancel_reason: CancelReason,
}

/// Why a caller leaves its calls, all of one connection; shared by them. A caller that breaks off gives none.
#[derive(Debug, Clone, Default)]
pub struct CancelReason(Arc<OnceLock<String>>);

impl CancelReason {
    /// The longest reason that is kept, in bytes.
    const LONGEST: usize = 256;

    /// The reason, once the caller has given one.
    #[must_use]
    pub fn get(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    /// The caller leaves for this reason. The first one counts.
    pub(crate) fn set(&self, mut reason: String) {
        reason.truncate(reason.floor_char_boundary(Self::LONGEST));
        let _ = self.0.set(reason);
    }
}

impl RequestContext {
    /// A context for work that begins here, in a trace of its own.
    #[must_use]
    pub fn new(correlation_id: CorrelationId) -> Self {
        Self::in_trace(correlation_id, TraceContext::generate())
    }

    /// A context for work in `trace`.
    #[must_use]
    pub fn in_trace(correlation_id: CorrelationId, trace: TraceContext) -> Self {
        Self { correlation_id, deadline: None, trace, cancel_reason: CancelReason::default() }
    }

    /// The same, to be done before `deadline`.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The same, as part of `trace`.
    #[must_use]
    pub fn with_trace(mut self, trace: TraceContext) -> Self {
        self.trace = trace;
        self
    }

    /// The context that [`ServeContext`] found on `request`.
    #[must_use]
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        // Absent only when a service is called without the chassis' server, as a unit test may.
        request.extensions().get().cloned().unwrap_or_else(|| Self::new(CorrelationId::generate()))
    }

    /// Why the caller of `request` may leave, as the connection knows.
    pub(crate) fn cancel_reason_of<T>(request: &tonic::Request<T>) -> CancelReason {
        request.extensions().get().cloned().unwrap_or_default()
    }

    /// A call to the next process under this context.
    pub fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.extensions_mut().insert(self.clone());
        request
    }

    /// The time left, if it is limited.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// The `traceparent` for peers that are not spoken to over gRPC (agents): that of the current span where spans are
    /// exported, else the one that came with the request.
    #[must_use]
    pub fn traceparent(&self) -> String {
        self.trace.traceparent()
    }
}

/// The span in which a request is served. Every line logged inside it carries `correlation_id` and `trace_id`.
#[must_use]
pub fn correlation_span(operation: &str, context: &RequestContext) -> Span {
    let span = tracing::info_span!(
        "request",
        otel.name = operation,
        otel.kind = "server",
        otel.status_description = Empty,
        correlation_id = %context.correlation_id,
        trace_id = Empty
    );
    context.trace.begin(&span);
    span
}

/// Gives `span` the status ERROR in its trace. `code` says why: the name of an error code or class, never a message, which may
/// quote what a caller or an agent said. The span must have been made with the field `otel.status_description`.
pub fn mark_failed(span: &Span, code: &str) {
    // A description alone makes the status an error.
    span.record("otel.status_description", code);
}

/// The same for the span in which a call was served, if its answer is a failure on this side and not a refusal of what the
/// caller sent.
pub(crate) fn mark_answered(span: &Span, code: Code) {
    use Code::{Aborted, DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
    if matches!(
        code,
        Aborted | DataLoss | DeadlineExceeded | Internal | Unavailable | Unimplemented | Unknown
    ) {
        mark_failed(span, code_name(code));
    }
}

/// The correlation id among `headers`, if there is one.
///
/// # Errors
/// When it is no UUID.
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

fn inject(context: &RequestContext, headers: &mut HeaderMap) {
    headers.insert(CORRELATION_HEADER, correlation_header_value(context.correlation_id));
    if let Some(left) = context.remaining() {
        let millis = left.as_millis().clamp(1, 99_999_999);
        if let Ok(value) = HeaderValue::try_from(format!("{millis}m")) {
            headers.insert(GRPC_TIMEOUT, value);
        }
    }
    context.trace.inject(headers);
}

fn extract(headers: &HeaderMap) -> Result<RequestContext, InvalidField> {
    let correlation_id = correlation_id(headers)?.unwrap_or_else(CorrelationId::generate);
    let deadline = match headers.get(GRPC_TIMEOUT).and_then(|value| value.to_str().ok()) {
        Some(text) => {
            let left = parse_grpc_timeout(text).ok_or_else(|| {
                InvalidField::new("grpc-timeout", "must be up to 8 digits and one of H M S m u n")
            })?;
            own_deadline(left)
        }
        None => None,
    };
    let trace = TraceContext::of(headers).unwrap_or_else(TraceContext::generate);
    Ok(RequestContext { deadline, ..RequestContext::in_trace(correlation_id, trace) })
}

/// How long the caller waits, if it says so.
fn time_limit(headers: &HeaderMap) -> Option<Duration> {
    parse_grpc_timeout(headers.get(GRPC_TIMEOUT)?.to_str().ok()?)
}

/// By when to be done for a caller that waits so long.
fn own_deadline(left: Duration) -> Option<Instant> {
    Instant::now().checked_add(left - MARGIN.min(left / 10))
}

/// The same facts as fields, for a call that shares a stream.
impl RequestContext {
    /// The first frame of a call of `method` under this context.
    pub(crate) fn start_call(&self, method: &str, message: Bytes) -> CallStart {
        let (traceparent, tracestate) = self.trace.texts();
        CallStart {
            method: method.into(),
            correlation_id: self.correlation_id.as_uuid().as_bytes().to_vec(),
            traceparent,
            tracestate,
            timeout_us: self.remaining().map(|left| u64::try_from(left.as_micros()).unwrap_or(u64::MAX)),
            message,
            credit: None,
        }
    }

    /// The method, the context and the request of a call.
    ///
    /// # Errors
    /// When the correlation id is no UUID.
    pub(crate) fn of_call(start: CallStart) -> Result<(String, Self, Bytes), InvalidField> {
        let CallStart { method, correlation_id, traceparent, tracestate, timeout_us, message, credit: _ } =
            start;
        let correlation_id = match &*correlation_id {
            [] => CorrelationId::generate(),
            bytes => Uuid::from_slice(bytes)
                .map_err(|_| InvalidField::new("correlation_id", "must be the 16 bytes of a UUID"))?
                .into(),
        };
        let deadline = timeout_us.and_then(|left| own_deadline(Duration::from_micros(left)));
        let trace = TraceContext::of_texts(traceparent, tracestate).unwrap_or_else(TraceContext::generate);
        Ok((method, Self { deadline, ..Self::in_trace(correlation_id, trace) }, message))
    }
}

/// `TimeoutValue TimeoutUnit` of the gRPC protocol (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
fn parse_grpc_timeout(text: &str) -> Option<Duration> {
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

/// Client side: writes the [`RequestContext`] of a call, and the service token, into its metadata.
#[derive(Debug, Clone)]
pub struct SendContext(HeaderValue);

impl SendContext {
    /// Calls that present `token`.
    #[must_use]
    pub fn new(token: &ServiceToken) -> Self {
        Self(token.header())
    }
}

impl<S> Layer<S> for SendContext {
    type Service = SendContextService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SendContextService { inner, authorization: self.0.clone() }
    }
}

/// The service of [`SendContext`].
#[derive(Debug, Clone)]
pub struct SendContextService<S> {
    inner: S,
    authorization: HeaderValue,
}

impl<S, B> Service<http::Request<B>> for SendContextService<S>
where
    S: Service<http::Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> S::Future {
        if let Some(context) = request.extensions_mut().remove::<RequestContext>() {
            inject(&context, request.headers_mut());
        }
        request.headers_mut().insert(header::AUTHORIZATION, self.authorization.clone());
        self.inner.call(request)
    }
}

/// Server side: reads the metadata of a call into a [`RequestContext`] and serves it inside its [`correlation_span`].
#[derive(Debug, Clone, Copy, Default)]
pub struct ServeContext;

impl<S> Layer<S> for ServeContext {
    type Service = ServeContextService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ServeContextService { inner }
    }
}

/// The service of [`ServeContext`].
#[derive(Debug, Clone)]
pub struct ServeContextService<S> {
    inner: S,
}

impl<S, B> Service<http::Request<B>> for ServeContextService<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ServeContextFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        // Probes and reflection are not part of any request's story, and a stream is part of many.
        let path = request.uri().path();
        if path.starts_with("/grpc.") || path.starts_with(MULTIPLEX) {
            let served = Some(self.inner.call(request).instrument(Span::none()));
            return ServeContextFuture { served, refused: None, limit: None };
        }
        let mut context = match extract(request.headers()) {
            Ok(context) => context,
            Err(invalid) => {
                return ServeContextFuture { served: None, refused: Some(invalid.into()), limit: None };
            }
        };
        if let Some(reason) = request.extensions().get::<CancelReason>() {
            context.cancel_reason = reason.clone();
        }
        let limit = time_limit(request.headers()).map(tokio::time::sleep);
        let operation = request.uri().path().trim_start_matches('/');
        let span = correlation_span(operation, &context);
        request.extensions_mut().insert(context);
        let _entered = span.enter();
        ServeContextFuture {
            served: Some(self.inner.call(request).instrument(span.clone())),
            refused: None,
            limit,
        }
    }
}

pin_project_lite::pin_project! {
    /// The future of [`ServeContextService`]: the call, or the refusal of its metadata.
    pub struct ServeContextFuture<F> {
        #[pin]
        served: Option<Instrumented<F>>,
        refused: Option<tonic::Status>,
        // When the caller stops waiting for the answer to begin.
        #[pin]
        limit: Option<Sleep>,
    }
}

impl<F, E> Future for ServeContextFuture<F>
where
    F: Future<Output = Result<http::Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.served.as_pin_mut() {
            Some(mut served) => {
                let answer = match served.as_mut().poll(cx) {
                    Poll::Ready(answer) => answer,
                    Poll::Pending => {
                        let Some(limit) = this.limit.as_pin_mut() else { return Poll::Pending };
                        ready!(limit.poll(cx));
                        let message = "the call took longer than its `grpc-timeout`";
                        Ok(tonic::Status::deadline_exceeded(message).into_http())
                    }
                };
                if let Ok(response) = &answer
                    && let Some(status) = tonic::Status::from_header_map(response.headers())
                {
                    mark_answered(served.span(), status.code());
                }
                Poll::Ready(answer)
            }
            None => {
                let status =
                    this.refused.take().unwrap_or_else(|| tonic::Status::internal("polled after its end"));
                Poll::Ready(Ok(status.into_http()))
            }
        }
    }
}

#[cfg(test)]
mod tests;
