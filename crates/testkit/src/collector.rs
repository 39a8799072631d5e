//! A trace collector that receives OTLP over gRPC and over HTTP with protobuf, and records every span.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io::Read,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use flate2::read::GzDecoder;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Method, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_ENCODING, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{AnyValue, KeyValue, any_value},
    trace::v1::{Span, span::SpanKind, status::StatusCode as SpanStatus},
};
use prost::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

/// A running collector. Dropping it stops it.
#[derive(Debug)]
pub struct Collector {
    addr: SocketAddr,
    spans: Spans,
    _stop: DropGuard,
}

type Spans = Arc<Mutex<Vec<CollectedSpan>>>;

/// One span, with the service that sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectedSpan {
    /// `service.name`, without `phoenix-`.
    pub service: String,
    /// Name of the span.
    pub name: String,
    /// Trace id in hexadecimal.
    pub trace_id: String,
    /// Span id in hexadecimal.
    pub span_id: String,
    /// Id of the parent in hexadecimal; empty for a root.
    pub parent_id: String,
    /// Message of the status, if it is ERROR.
    pub error: Option<String>,
    /// `Internal`, `Server`, `Client`.
    pub kind: &'static str,
    /// Attributes, as text.
    pub attributes: BTreeMap<String, String>,
    /// Linked spans: trace id and span id.
    pub links: Vec<(String, String)>,
    /// Start and end in nanoseconds since 1970.
    pub times: (u64, u64),
}

#[derive(Debug, Clone)]
struct Receiver(Spans);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.record(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Receiver {
    fn record(&self, request: ExportTraceServiceRequest) {
        for resource_spans in request.resource_spans {
            let attributes = resource_spans.resource.map(|resource| resource.attributes).unwrap_or_default();
            let name = attributes.into_iter().find(|attribute| attribute.key == "service.name");
            let name = match name.and_then(|attribute| attribute.value?.value) {
                Some(any_value::Value::StringValue(name)) => name,
                _ => String::new(),
            };
            let spans = resource_spans.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.0.lock().unwrap().extend(spans.map(|span| collected(&name, span)));
        }
    }

    /// Records the spans of one `POST /v1/traces`.
    async fn record_http(
        self,
        request: hyper::Request<Incoming>,
    ) -> Result<hyper::Response<Empty<Bytes>>, Infallible> {
        let is_expected = request.method() == Method::POST
            && request.uri().path() == "/v1/traces"
            && request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/x-protobuf");
        let is_gzip = request.headers().get(CONTENT_ENCODING).is_some_and(|encoding| encoding == "gzip");
        let mut response = hyper::Response::new(Empty::new());
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let body = if is_gzip { unzipped(&body) } else { body };
        match ExportTraceServiceRequest::decode(body) {
            Ok(spans) if is_expected => self.record(spans),
            _ => *response.status_mut() = StatusCode::BAD_REQUEST,
        }
        Ok(response)
    }
}

/// The content of a compressed body; nothing if it is not valid.
fn unzipped(body: &[u8]) -> Bytes {
    let mut content = Vec::new();
    match GzDecoder::new(body).read_to_end(&mut content) {
        Ok(_) => content.into(),
        Err(_) => Bytes::new(),
    }
}

fn collected(service: &str, span: Span) -> CollectedSpan {
    let status = span.status.unwrap_or_default();
    let kind = match SpanKind::try_from(span.kind) {
        Ok(SpanKind::Server) => "Server",
        Ok(SpanKind::Client) => "Client",
        Ok(SpanKind::Internal) => "Internal",
        _ => "other",
    };
    let attributes = span.attributes.into_iter().map(|KeyValue { key, value, .. }| (key, text(value)));
    CollectedSpan {
        kind,
        attributes: attributes.collect(),
        links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
        times: (span.start_time_unix_nano, span.end_time_unix_nano),
        error: (status.code == SpanStatus::Error as i32).then_some(status.message),
        service: service.strip_prefix("phoenix-").unwrap_or(service).into(),
        name: span.name,
        trace_id: hex(&span.trace_id),
        span_id: hex(&span.span_id),
        parent_id: hex(&span.parent_span_id),
    }
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::DoubleValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(is_set)) => is_set.to_string(),
        Some(any_value::Value::ArrayValue(array)) => {
            array.values.into_iter().map(|value| text(Some(value))).collect::<Vec<_>>().join(",")
        }
        _ => String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Collector {
    /// Starts a gRPC collector on a free port.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let spans = Spans::default();
        let stop = CancellationToken::new();
        let service = TraceServiceServer::new(Receiver(Arc::clone(&spans)));
        let server = Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.clone().cancelled_owned());
        tokio::spawn(async move { server.await.expect("the collector serves") });
        Self { addr, spans, _stop: stop.drop_guard() }
    }

    /// Starts an HTTP collector on a free port.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start_http() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let spans = Spans::default();
        let stop = CancellationToken::new();
        let (receiver, stopped) = (Receiver(Arc::clone(&spans)), stop.clone());
        tokio::spawn(async move {
            while let Some(Ok((stream, _))) = stopped.run_until_cancelled(listener.accept()).await {
                let connection = serve_http(stream, receiver.clone());
                let stopped = stopped.clone();
                tokio::spawn(async move { stopped.run_until_cancelled(connection).await });
            }
        });
        Self { addr, spans, _stop: stop.drop_guard() }
    }

    /// The value for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Every span so far.
    ///
    /// # Panics
    /// Never, unless a receiver panicked.
    #[must_use]
    pub fn spans(&self) -> Vec<CollectedSpan> {
        self.spans.lock().unwrap().clone()
    }
}

async fn serve_http(stream: TcpStream, receiver: Receiver) {
    let service = service_fn(move |request| receiver.clone().record_http(request));
    // A broken connection is an error of the sender.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
