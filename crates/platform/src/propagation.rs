//! What a request carries from process to process: its correlation id, its W3C trace context and the time it has left.
//!
//! [`ServeContext`] reads them from a call's metadata, [`SendContext`] writes them into the next call's; both are tower
//! layers, live side by side here and are tested as a round trip. Handlers see a [`RequestContext`] and never touch
//! metadata: `RequestContext::of(&request)` on the way in, `context.request(message)` on the way out.

use std::{
    collections::HashMap,
    pin::Pin,
    task::{Context as TaskContext, Poll},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::TraceContextExt,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use phoenix_domain::CorrelationId;
use phoenix_proto::InvalidField;
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::{Instrument, Span, field::Empty, instrument::Instrumented};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The header, and gRPC metadata key, of the correlation id.
pub const CORRELATION_HEADER: HeaderName = HeaderName::from_static("x-correlation-id");

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
}

impl RequestContext {
    /// A context for work that begins here.
    #[must_use]
    pub fn new(correlation_id: CorrelationId) -> Self {
        Self { correlation_id, deadline: None }
    }

    /// The same, to be done before `deadline`.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The context that [`ServeContext`] found on `request`.
    #[must_use]
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        // Absent only when a service is called without the chassis' server, as a unit test may.
        request.extensions().get().cloned().unwrap_or_else(|| Self::new(CorrelationId::generate()))
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
}

/// The span in which a request is served. Every line logged inside it carries `correlation_id` and `trace_id`.
#[must_use]
pub fn correlation_span(operation: &str, correlation_id: CorrelationId, headers: &HeaderMap) -> Span {
    let span = tracing::info_span!(
        "request", otel.name = operation, otel.kind = "server", %correlation_id, trace_id = Empty
    );
    // Without a subscriber that exports, there is no trace to continue.
    let _ = span.set_parent(extract_trace(headers));
    let context = span.context();
    let trace = context.span().span_context().clone();
    if trace.is_valid() {
        span.record("trace_id", tracing::field::display(trace.trace_id()));
    }
    span
}

/// The `traceparent` of the current span, for peers that are not spoken to over gRPC (agents).
#[must_use]
pub fn current_traceparent() -> Option<String> {
    let mut carrier = HashMap::<String, String>::new();
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut carrier);
    carrier.remove("traceparent")
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
pub fn correlation_value(id: CorrelationId) -> HeaderValue {
    let mut buffer = [0; 36];
    let text = id.as_uuid().as_hyphenated().encode_lower(&mut buffer);
    // Hexadecimal digits and hyphens are always allowed in a header.
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

fn extract_trace(headers: &HeaderMap) -> Context {
    if headers.contains_key("traceparent") {
        TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers))
    } else {
        Context::new()
    }
}

fn inject(context: &RequestContext, headers: &mut HeaderMap) {
    headers.insert(CORRELATION_HEADER, correlation_value(context.correlation_id));
    if let Some(left) = context.remaining() {
        let millis = left.as_millis().clamp(1, 99_999_999);
        if let Ok(value) = HeaderValue::try_from(format!("{millis}m")) {
            headers.insert(GRPC_TIMEOUT, value);
        }
    }
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut HeadersMut(headers));
}

fn extract(headers: &HeaderMap) -> Result<RequestContext, InvalidField> {
    let correlation_id = correlation_id(headers)?.unwrap_or_else(CorrelationId::generate);
    let deadline = match headers.get(GRPC_TIMEOUT).and_then(|value| value.to_str().ok()) {
        Some(text) => {
            let left = parse_grpc_timeout(text).ok_or_else(|| {
                InvalidField::new("grpc-timeout", "must be up to 8 digits and one of H M S m u n")
            })?;
            Instant::now().checked_add(left - MARGIN.min(left / 10))
        }
        None => None,
    };
    Ok(RequestContext { correlation_id, deadline })
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

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct HeadersMut<'a>(&'a mut HeaderMap);

impl Injector for HeadersMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        // An empty tracestate says nothing.
        if value.is_empty() {
            return;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

/// Client side: writes the [`RequestContext`] of a call into its metadata.
#[derive(Debug, Clone, Copy, Default)]
pub struct SendContext;

impl<S> Layer<S> for SendContext {
    type Service = SendContextService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SendContextService { inner }
    }
}

/// The service of [`SendContext`].
#[derive(Debug, Clone)]
pub struct SendContextService<S> {
    inner: S,
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
        // Probes and reflection are not part of any request's story.
        if request.uri().path().starts_with("/grpc.") {
            let served = Some(self.inner.call(request).instrument(Span::none()));
            return ServeContextFuture { served, refused: None };
        }
        let context = match extract(request.headers()) {
            Ok(context) => context,
            Err(invalid) => return ServeContextFuture { served: None, refused: Some(invalid.into()) },
        };
        let operation = request.uri().path().trim_start_matches('/');
        let span = correlation_span(operation, context.correlation_id, request.headers());
        request.extensions_mut().insert(context);
        let _entered = span.enter();
        ServeContextFuture { served: Some(self.inner.call(request).instrument(span.clone())), refused: None }
    }
}

pin_project_lite::pin_project! {
    /// The future of [`ServeContextService`]: the call, or the refusal of its metadata.
    pub struct ServeContextFuture<F> {
        #[pin]
        served: Option<Instrumented<F>>,
        refused: Option<tonic::Status>,
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
            Some(served) => served.poll(cx),
            None => {
                let status =
                    this.refused.take().unwrap_or_else(|| tonic::Status::internal("polled after its end"));
                Poll::Ready(Ok(status.into_http()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tower::{ServiceBuilder, ServiceExt, service_fn};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// What the server side saw of one call.
    #[derive(Debug, Clone)]
    struct Seen {
        context: RequestContext,
        trace_id: String,
    }

    /// Sends one call through the client layer and the server layer, with `tamper` between them.
    async fn call(
        context: &RequestContext,
        tamper: impl Fn(&mut HeaderMap) + Clone + Send + 'static,
    ) -> Result<Seen, tonic::Status> {
        let handler = service_fn(|request: http::Request<Body>| async move {
            let mut response = http::Response::new(Body::empty());
            let context = request.extensions().get::<RequestContext>().unwrap().clone();
            let trace_id = Span::current().context().span().span_context().trace_id().to_string();
            response.extensions_mut().insert(Seen { context, trace_id });
            Ok::<_, std::convert::Infallible>(response)
        });
        let chain = ServiceBuilder::new()
            .layer(SendContext)
            .map_request(move |mut request: http::Request<Body>| {
                tamper(request.headers_mut());
                request
            })
            .layer(ServeContext)
            .service(handler);
        let (_, extensions, ()) = context.request(()).into_parts();
        let mut request = http::Request::new(Body::empty());
        *request.extensions_mut() = extensions;
        let response = chain.oneshot(request).await.unwrap();
        match tonic::Status::from_header_map(response.headers()) {
            Some(status) => Err(status),
            None => Ok(response.extensions().get::<Seen>().unwrap().clone()),
        }
    }

    fn with_traces() -> tracing::subscriber::DefaultGuard {
        let provider = SdkTracerProvider::builder().build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        tracing::subscriber::set_default(tracing_subscriber::registry().with(layer))
    }

    #[tokio::test]
    async fn what_is_sent_is_what_is_served() {
        let _traces = with_traces();
        let context = RequestContext::new(CorrelationId::generate())
            .with_deadline(Instant::now() + Duration::from_secs(10));
        let span = tracing::info_span!("caller");
        let trace_id = span.context().span().span_context().trace_id().to_string();
        let seen = call(&context, |_| ()).instrument(span).await.unwrap();
        assert_eq!(seen.context.correlation_id, context.correlation_id);
        assert_eq!(seen.trace_id, trace_id, "one trace, no broken parent");
        let left = seen.context.remaining().unwrap();
        assert!(left < Duration::from_secs(10) && left > Duration::from_secs(5), "{left:?}");
    }

    #[tokio::test]
    async fn a_traceparent_alone_is_enough() {
        let _traces = with_traces();
        let context = RequestContext::new(CorrelationId::generate());
        let seen = call(&context, |headers| {
            headers.remove("tracestate");
            let parent = HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
            headers.insert("traceparent", parent);
        });
        assert_eq!(seen.await.unwrap().trace_id, "0af7651916cd43dd8448eb211c80319c");
    }

    #[tokio::test]
    async fn invalid_metadata_is_the_callers_mistake_and_missing_metadata_is_none() {
        let context = RequestContext::new(CorrelationId::generate());
        for (name, value) in [("x-correlation-id", "not-a-uuid"), ("grpc-timeout", "soon")] {
            let refused = call(&context, move |headers| {
                headers.insert(name, HeaderValue::from_static(value));
            });
            let status = refused.await.unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert!(status.message().contains(name), "{status}");
        }
        let seen = call(&context, |headers| headers.clear()).await.unwrap();
        assert_ne!(seen.context.correlation_id, context.correlation_id);
        assert!(seen.context.deadline.is_none());
    }

    #[test]
    fn grpc_timeouts_are_read_in_every_unit() {
        for (text, expected) in [
            ("2H", Some(Duration::from_secs(7200))),
            ("1M", Some(Duration::from_secs(60))),
            ("30S", Some(Duration::from_secs(30))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("9n", Some(Duration::from_nanos(9))),
            ("123456789S", None),
            ("S", None),
            ("", None),
            ("1s", None),
            ("+1S", None),
            ("1ä", None),
        ] {
            assert_eq!(parse_grpc_timeout(text), expected, "{text}");
        }
    }
}
