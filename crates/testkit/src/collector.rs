//! A trace collector that receives OTLP over gRPC and over HTTP with protobuf, and records every span.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use http_body_util::{BodyExt, Empty};
use hyper::{
    Method, StatusCode,
    body::{Bytes, Incoming},
    header::CONTENT_TYPE,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value,
    trace::v1::{Span, status::StatusCode as SpanStatus},
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
        let mut response = hyper::Response::new(Empty::new());
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        match ExportTraceServiceRequest::decode(body) {
            Ok(spans) if is_expected => self.record(spans),
            _ => *response.status_mut() = StatusCode::BAD_REQUEST,
        }
        Ok(response)
    }
}

fn collected(service: &str, span: Span) -> CollectedSpan {
    let status = span.status.unwrap_or_default();
    CollectedSpan {
        error: (status.code == SpanStatus::Error as i32).then_some(status.message),
        service: service.strip_prefix("phoenix-").unwrap_or(service).into(),
        name: span.name,
        trace_id: hex(&span.trace_id),
        span_id: hex(&span.span_id),
        parent_id: hex(&span.parent_span_id),
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
