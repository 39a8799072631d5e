//! A collector that receives OTLP over gRPC and over HTTP with protobuf, and records every span, metric and log record.

mod collected;

use std::{
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
use opentelemetry_proto::tonic::collector::{
    logs::v1::{
        ExportLogsServiceRequest, ExportLogsServiceResponse,
        logs_service_server::{LogsService, LogsServiceServer},
    },
    metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
};
use prost::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

pub use self::collected::{CollectedLog, CollectedPoint, CollectedSpan};

/// A running collector. Dropping it stops it.
#[derive(Debug)]
pub struct Collector {
    addr: SocketAddr,
    received: Arc<Received>,
    _stop: DropGuard,
}

/// What has been received.
#[derive(Debug, Default)]
struct Received {
    spans: Mutex<Vec<CollectedSpan>>,
    points: Mutex<Vec<CollectedPoint>>,
    logs: Mutex<Vec<CollectedLog>>,
}

#[derive(Debug, Clone)]
struct Receiver(Arc<Received>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.record_spans(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.record_metrics(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.record_logs(request.into_inner());
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

impl Receiver {
    fn record_spans(&self, request: ExportTraceServiceRequest) {
        let spans = request.resource_spans.into_iter().flat_map(collected::spans);
        self.0.spans.lock().unwrap().extend(spans);
    }

    fn record_metrics(&self, request: ExportMetricsServiceRequest) {
        let points = request.resource_metrics.into_iter().flat_map(collected::points);
        self.0.points.lock().unwrap().extend(points);
    }

    fn record_logs(&self, request: ExportLogsServiceRequest) {
        let logs = request.resource_logs.into_iter().flat_map(collected::logs);
        self.0.logs.lock().unwrap().extend(logs);
    }

    /// Records the content of one `POST /v1/traces`, `/v1/metrics` or `/v1/logs`.
    async fn record_http(
        self,
        request: hyper::Request<Incoming>,
    ) -> Result<hyper::Response<Empty<Bytes>>, Infallible> {
        let is_expected = request.method() == Method::POST
            && request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/x-protobuf");
        let is_gzip = request.headers().get(CONTENT_ENCODING).is_some_and(|encoding| encoding == "gzip");
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let body = if is_gzip { unzipped(&body) } else { body };
        let recorded = match path.as_str() {
            "/v1/traces" => ExportTraceServiceRequest::decode(body).map(|request| self.record_spans(request)),
            "/v1/metrics" => {
                ExportMetricsServiceRequest::decode(body).map(|request| self.record_metrics(request))
            }
            "/v1/logs" => ExportLogsServiceRequest::decode(body).map(|request| self.record_logs(request)),
            _ => return Ok(answer(StatusCode::NOT_FOUND)),
        };
        let is_recorded = is_expected && recorded.is_ok();
        Ok(answer(if is_recorded { StatusCode::OK } else { StatusCode::BAD_REQUEST }))
    }
}

fn answer(status: StatusCode) -> hyper::Response<Empty<Bytes>> {
    let mut answer = hyper::Response::new(Empty::new());
    *answer.status_mut() = status;
    answer
}

/// The content of a compressed body; nothing if it is not valid.
fn unzipped(body: &[u8]) -> Bytes {
    let mut content = Vec::new();
    match GzDecoder::new(body).read_to_end(&mut content) {
        Ok(_) => content.into(),
        Err(_) => Bytes::new(),
    }
}

impl Collector {
    /// Starts a gRPC collector on a free port.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let received = Arc::<Received>::default();
        let stop = CancellationToken::new();
        let receiver = Receiver(Arc::clone(&received));
        let server = Server::builder()
            .add_service(TraceServiceServer::new(receiver.clone()))
            .add_service(MetricsServiceServer::new(receiver.clone()))
            .add_service(LogsServiceServer::new(receiver))
            .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.clone().cancelled_owned());
        tokio::spawn(async move { server.await.expect("the collector serves") });
        Self { addr, received, _stop: stop.drop_guard() }
    }

    /// Starts an HTTP collector on a free port.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start_http() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let received = Arc::<Received>::default();
        let stop = CancellationToken::new();
        let (receiver, stopped) = (Receiver(Arc::clone(&received)), stop.clone());
        tokio::spawn(async move {
            while let Some(Ok((stream, _))) = stopped.run_until_cancelled(listener.accept()).await {
                let connection = serve_http(stream, receiver.clone());
                let stopped = stopped.clone();
                tokio::spawn(async move { stopped.run_until_cancelled(connection).await });
            }
        });
        Self { addr, received, _stop: stop.drop_guard() }
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
        self.received.spans.lock().unwrap().clone()
    }

    /// Every data point of a metric so far.
    ///
    /// # Panics
    /// Never, unless a receiver panicked.
    #[must_use]
    pub fn points(&self) -> Vec<CollectedPoint> {
        self.received.points.lock().unwrap().clone()
    }

    /// Every log record so far.
    ///
    /// # Panics
    /// Never, unless a receiver panicked.
    #[must_use]
    pub fn logs(&self) -> Vec<CollectedLog> {
        self.received.logs.lock().unwrap().clone()
    }
}

async fn serve_http(stream: TcpStream, receiver: Receiver) {
    let service = service_fn(move |request| receiver.clone().record_http(request));
    // A broken connection is an error of the sender.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
