//! Connections to collectors, and the sending of batches of metrics and log lines.
//!
//! A batch is sent again while its collector cannot take it, within the time limit of the batch. An answer is read to a bound, and what
//! it says is cut: a collector may answer anything.

use std::{fmt, io::Write, net::IpAddr, time::Duration};

use flate2::{Compression, write::GzEncoder};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse, logs_service_client::LogsServiceClient},
    metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_client::MetricsServiceClient,
    },
};
use prost::Message;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Status,
    metadata::MetadataMap,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::{
    error::TelemetryError,
    settings::{OtlpProtocol, OtlpTarget, OtlpTls},
};

/// First delay before a batch is sent again. It doubles.
const FIRST_DELAY: Duration = Duration::from_millis(500);

/// Longest delay before a batch is sent again.
const MAX_DELAY: Duration = Duration::from_secs(5);

/// Bytes of an answer that are read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Characters of a collector's own words in a log line.
const MAX_REASON_CHARS: usize = 200;

/// The TLS settings of a collector that is reached over gRPC, unless it is reached in clear text.
pub(super) fn grpc_tls(target: &OtlpTarget) -> Option<ClientTlsConfig> {
    if !target.endpoint.starts_with("https:") {
        return None;
    }
    let OtlpTls { ca, identity } = &target.tls;
    let tls = match ca {
        Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)),
        None => ClientTlsConfig::new().with_enabled_roots(),
    };
    Some(match identity {
        Some((certificate, key)) => tls.identity(Identity::from_pem(certificate, key)),
        None => tls,
    })
}

/// The HTTP client of a collector.
///
/// # Errors
/// When the certificates cannot be used.
pub(super) fn http_client(target: &OtlpTarget) -> Result<reqwest::Client, TelemetryError> {
    // An error means that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // A redirect would forward the headers.
    let mut client =
        reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(target.timeout);
    let OtlpTls { ca, identity } = &target.tls;
    if let Some(ca) = ca {
        client = client.tls_certs_only(reqwest::Certificate::from_pem_bundle(ca)?);
    } else if target.endpoint.starts_with("http:") {
        client = client.tls_certs_only([]);
    }
    if let Some((certificate, key)) = identity {
        client = client.identity(reqwest::Identity::from_pem(&[&**certificate, b"\n", &**key].concat())?);
    }
    if is_loopback(&target.endpoint) {
        client = client.no_proxy();
    }
    Ok(client.build()?)
}

fn is_loopback(endpoint: &str) -> bool {
    let uri = endpoint.parse::<http::Uri>().ok();
    let host = uri.as_ref().and_then(|uri| uri.host()).unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Metrics or log lines.
#[derive(Debug, Clone)]
pub(super) enum Batch {
    /// Metrics.
    Metrics(ExportMetricsServiceRequest),
    /// Log lines.
    Logs(ExportLogsServiceRequest),
}

/// A part of a batch that the collector refused.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rejected {
    /// Number of data points or log lines.
    pub(super) items: usize,
    /// What the collector says about it.
    pub(super) reason: String,
}

/// Why a batch was not accepted.
#[derive(Debug)]
pub(super) struct SendError {
    reason: String,
    /// Whether it may be accepted later.
    is_passing: bool,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// Sends batches of metrics and log lines to one collector.
#[derive(Debug)]
pub(super) struct Sender {
    transport: Transport,
    timeout: Duration,
}

#[derive(Debug)]
enum Transport {
    Grpc { channel: Channel, headers: MetadataMap },
    Http { client: reqwest::Client, endpoint: String, headers: HeaderMap, gzip: bool },
}

impl Sender {
    /// A sender to `target`, which connects with its first batch. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the certificates or the address cannot be used.
    pub(super) fn new(target: &OtlpTarget) -> Result<Self, TelemetryError> {
        let headers = headers(target);
        let transport = match target.protocol {
            OtlpProtocol::Grpc => {
                let mut endpoint =
                    Endpoint::from_shared(target.endpoint.clone())?.connect_timeout(target.timeout);
                if let Some(tls) = grpc_tls(target) {
                    endpoint = endpoint.tls_config(tls)?;
                }
                Transport::Grpc {
                    channel: endpoint.connect_lazy(),
                    headers: MetadataMap::from_headers(headers),
                }
            }
            OtlpProtocol::HttpProtobuf => Transport::Http {
                client: http_client(target)?,
                endpoint: target.endpoint.clone(),
                headers,
                gzip: target.gzip,
            },
        };
        Ok(Self { transport, timeout: target.timeout })
    }

    /// Sends `batch`, and again while the collector cannot take it. Once `last_try` is cancelled, a try is the last.
    ///
    /// # Errors
    /// When the collector did not accept the batch within the time limit.
    pub(super) async fn send(
        &self,
        batch: &Batch,
        last_try: &CancellationToken,
    ) -> Result<Rejected, SendError> {
        let end = Instant::now() + self.timeout;
        let mut delay = FIRST_DELAY;
        loop {
            let sent = timeout_at(end, self.try_send(batch)).await.unwrap_or_else(|_| {
                let reason = format!("the collector did not answer within {} ms", self.timeout.as_millis());
                Err(SendError { reason, is_passing: false })
            });
            let error = match sent {
                Ok(rejected) => return Ok(rejected),
                Err(error) => error,
            };
            let pause = delay.mul_f64(0.8 + 0.4 * fastrand::f64());
            let has_time = Instant::now() + pause < end;
            if !error.is_passing || !has_time || last_try.is_cancelled() {
                return Err(error);
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = last_try.cancelled() => {}
            }
            delay = (delay * 2).min(MAX_DELAY);
        }
    }

    async fn try_send(&self, batch: &Batch) -> Result<Rejected, SendError> {
        match &self.transport {
            Transport::Grpc { channel, headers } => {
                send_grpc(channel.clone(), headers, batch).await.map_err(|status| refused(&status))
            }
            Transport::Http { client, endpoint, headers, gzip } => {
                let body = match batch {
                    Batch::Metrics(request) => request.encode_to_vec(),
                    Batch::Logs(request) => request.encode_to_vec(),
                };
                let mut request = client
                    .post(endpoint)
                    .headers(headers.clone())
                    .header(header::CONTENT_TYPE, "application/x-protobuf");
                request = match gzip.then(|| zipped(&body)).flatten() {
                    Some(zipped) => request.header(header::CONTENT_ENCODING, "gzip").body(zipped),
                    None => request.body(body),
                };
                let answer = request.send().await.map_err(|error| unsent(&error))?;
                let status = answer.status();
                if !status.is_success() {
                    return Err(SendError {
                        reason: format!("the collector answered {status}"),
                        is_passing: is_passing(status),
                    });
                }
                Ok(rejected(batch, &read(answer).await))
            }
        }
    }
}

fn headers(target: &OtlpTarget) -> HeaderMap {
    let header = |name: &str, value: &str| {
        let mut value = HeaderValue::try_from(value).ok()?;
        value.set_sensitive(true);
        Some((HeaderName::try_from(name).ok()?, value))
    };
    // The settings refuse what is not a header.
    target.headers.iter().filter_map(|(name, value)| header(name, value.expose())).collect()
}

async fn send_grpc(channel: Channel, headers: &MetadataMap, batch: &Batch) -> Result<Rejected, Status> {
    match batch {
        Batch::Metrics(batch) => {
            let request =
                tonic::Request::from_parts(headers.clone(), tonic::Extensions::default(), batch.clone());
            let answer = MetricsServiceClient::new(channel)
                .max_decoding_message_size(MAX_ANSWER_BYTES)
                .export(request)
                .await?;
            Ok(of_metrics(answer.into_inner()))
        }
        Batch::Logs(batch) => {
            let request =
                tonic::Request::from_parts(headers.clone(), tonic::Extensions::default(), batch.clone());
            let answer = LogsServiceClient::new(channel)
                .max_decoding_message_size(MAX_ANSWER_BYTES)
                .export(request)
                .await?;
            Ok(of_logs(answer.into_inner()))
        }
    }
}

fn of_metrics(answer: ExportMetricsServiceResponse) -> Rejected {
    let partial = answer.partial_success.unwrap_or_default();
    Rejected::new(partial.rejected_data_points, &partial.error_message)
}

fn of_logs(answer: ExportLogsServiceResponse) -> Rejected {
    let partial = answer.partial_success.unwrap_or_default();
    Rejected::new(partial.rejected_log_records, &partial.error_message)
}

/// What an answer over HTTP says. An answer that is none means that everything was accepted.
fn rejected(batch: &Batch, answer: &[u8]) -> Rejected {
    match batch {
        Batch::Metrics(_) => ExportMetricsServiceResponse::decode(answer).map(of_metrics).unwrap_or_default(),
        Batch::Logs(_) => ExportLogsServiceResponse::decode(answer).map(of_logs).unwrap_or_default(),
    }
}

impl Rejected {
    fn new(items: i64, reason: &str) -> Self {
        Self { items: usize::try_from(items).unwrap_or_default(), reason: shortened(reason) }
    }
}

/// The beginning of an answer.
async fn read(answer: reqwest::Response) -> Vec<u8> {
    let (mut body, mut pieces) = (Vec::new(), answer.bytes_stream());
    while let Some(Ok(piece)) = pieces.next().await {
        if body.len() + piece.len() > MAX_ANSWER_BYTES {
            break;
        }
        body.extend_from_slice(&piece);
    }
    body
}

fn zipped(body: &[u8]) -> Option<Vec<u8>> {
    let mut zipped = GzEncoder::new(Vec::new(), Compression::fast());
    zipped.write_all(body).ok()?;
    zipped.finish().ok()
}

fn refused(status: &Status) -> SendError {
    let is_passing = matches!(
        status.code(),
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
    );
    let reason = format!("{}: {}", status.code().description(), shortened(status.message()));
    SendError { reason, is_passing }
}

fn unsent(error: &reqwest::Error) -> SendError {
    // The URL may have a key.
    let reason = if error.is_timeout() {
        "the collector did not answer in time"
    } else if error.is_connect() {
        "the collector cannot be reached"
    } else {
        "the collector broke the connection"
    };
    SendError { reason: reason.to_owned(), is_passing: !error.is_timeout() }
}

fn is_passing(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_REASON_CHARS).collect()
}
