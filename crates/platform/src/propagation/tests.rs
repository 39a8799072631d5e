//! The layers as a round trip.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use opentelemetry::trace::{TraceContextExt, TracerProvider as _};
use opentelemetry_sdk::trace::SdkTracerProvider;
use phoenix_domain::CorrelationId;
use phoenix_proto::common::CallStart;
use tonic::body::Body;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::SubscriberExt;

use super::{headers::parse_grpc_timeout, *};
use crate::service_token::ServiceToken;

/// Context and trace of one call on the server side.
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
        .layer(SendContext::new(&ServiceToken::new("of-the-test").unwrap()))
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

#[test]
fn mark_of_a_forwarded_call_round_trips_and_is_not_inherited() {
    let mark = ForwardedTo("an-instance".into());
    let request = mark.clone().mark(tonic::Request::new(()));
    let (_, extensions, ()) = request.into_parts();
    assert_eq!(extensions.get::<ForwardedTo>(), Some(&mark));
    let mut headers = HeaderMap::new();
    mark.clone().inject(&mut headers);
    assert_eq!(ForwardedTo::extract(&headers), Some(mark));
    assert_eq!(ForwardedTo::extract(&HeaderMap::new()), None);
    headers.insert("x-phoenix-forwarded-to", HeaderValue::from_bytes(b"\xff").unwrap());
    assert_eq!(ForwardedTo::extract(&headers), Some(ForwardedTo(String::new())), "it names no instance");
    // The next call under the same context is not forwarded.
    let next = RequestContext::new(CorrelationId::generate()).request(());
    assert_eq!(ForwardedTo::of(&next), None);
}

/// Installs a layer that records spans, as when they are exported.
fn with_traces() -> tracing::subscriber::DefaultGuard {
    let provider = SdkTracerProvider::builder().build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    tracing::subscriber::set_default(tracing_subscriber::registry().with(layer))
}

#[tokio::test]
async fn context_round_trips_through_metadata() {
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
async fn traceparent_without_tracestate_is_accepted() {
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
async fn invalid_metadata_is_rejected_and_absent_metadata_is_not() {
    let context = RequestContext::new(CorrelationId::generate());
    for (name, value) in [("x-correlation-id", "not-a-uuid"), ("grpc-timeout", "soon")] {
        let rejected = call(&context, move |headers| {
            headers.insert(name, HeaderValue::from_static(value));
        });
        let status = rejected.await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().contains(name), "{status}");
    }
    let seen = call(&context, |headers| headers.clear()).await.unwrap();
    assert_ne!(seen.context.correlation_id, context.correlation_id);
    assert!(seen.context.deadline.is_none());
}

#[tokio::test]
async fn trace_without_an_exporter_is_passed_on_unchanged() {
    let context = RequestContext::new(CorrelationId::generate());
    let seen = call(&context, |_| ()).await.unwrap();
    assert_eq!(seen.context.traceparent(), context.traceparent(), "the first process creates it");
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let seen = call(&context, |headers| {
        headers.insert("traceparent", HeaderValue::from_static(parent));
        headers.insert("tracestate", HeaderValue::from_static("vendor=1"));
    });
    let seen = seen.await.unwrap().context;
    assert_eq!((seen.traceparent().as_str(), seen.trace.trace_id()), (parent, &parent[3..35]));
    let seen = call(&seen, |_| ()).await.unwrap().context;
    assert_eq!(seen.traceparent(), parent);
    for invalid in [
        "",
        "00-0",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ] {
        let seen = call(&context, move |headers| {
            headers.insert("traceparent", HeaderValue::from_static(invalid));
        });
        assert_eq!(seen.await.unwrap().context.traceparent().len(), parent.len(), "a new one: {invalid}");
    }
}

#[test]
fn context_round_trips_through_a_shared_stream() {
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned();
    let trace = TraceContext::of_texts(parent.clone(), "vendor=1".into()).unwrap();
    let context = RequestContext::new(CorrelationId::generate())
        .with_trace(trace)
        .with_deadline(Instant::now() + Duration::from_secs(10));
    let start = context.start_call("/a.Service/Method", Bytes::from_static(b"request"));
    let (method, seen, message) = RequestContext::of_call(start.clone()).unwrap();
    assert_eq!((method.as_str(), &*message), ("/a.Service/Method", &b"request"[..]));
    assert_eq!(seen.correlation_id, context.correlation_id);
    assert_eq!(seen.trace.texts(), (parent, "vendor=1".into()));
    let left = seen.remaining().unwrap();
    assert!(left < Duration::from_secs(10) && left > Duration::from_secs(5), "{left:?}");

    let bare = CallStart { method, ..CallStart::default() };
    let seen = RequestContext::of_call(bare).unwrap().1;
    assert_ne!(seen.correlation_id, context.correlation_id, "a new one");
    assert!(seen.deadline.is_none() && !seen.trace.trace_id().is_empty());
    let invalid = CallStart { correlation_id: vec![1; 15], ..start };
    assert!(RequestContext::of_call(invalid).unwrap_err().to_string().contains("correlation_id"));
}

#[test]
fn call_on_a_shared_stream_continues_the_current_trace() {
    let _traces = with_traces();
    let context = RequestContext::new(CorrelationId::generate());
    let span = tracing::info_span!("caller");
    let trace_id = span.context().span().span_context().trace_id().to_string();
    let start = span.in_scope(|| context.start_call("/a.Service/Method", Bytes::new()));
    let (method, seen, _) = RequestContext::of_call(start).unwrap();
    let served = correlation_span(&method, &seen);
    assert_eq!(served.context().span().span_context().trace_id().to_string(), trace_id);
}

#[test]
fn grpc_timeout_is_parsed_in_every_unit() {
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
