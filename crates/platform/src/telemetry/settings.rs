//! Settings of logs and traces.

use std::{path::PathBuf, time::Duration};

use crate::logging::LogFormat;

/// Log filter when `RUST_LOG` is not set.
pub const DEFAULT_FILTER: &str = "info,h2=warn,hyper=warn,hyper_util=warn,opentelemetry=warn,opentelemetry_sdk=warn,sqlx=warn,sqlx::pool=error,sqlx::query=error,sqlx_core::pool=off,tonic=warn,tower=warn";

/// Logging and tracing of one process.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// The role: `service` in log lines, `service.name = phoenix-<role>` in traces.
    pub service: &'static str,
    /// Format of log lines.
    pub format: LogFormat,
    /// Whether `pretty` lines are coloured.
    pub colour: bool,
    /// Whether `pretty` lines begin with the service, for services that share a terminal.
    pub prefix: bool,
    /// Log filter in the syntax of `RUST_LOG`; empty for [`DEFAULT_FILTER`].
    pub filter: String,
    /// Folder of a file with the same lines as JSON, which is bounded; absent when there is none.
    pub log_folder: Option<PathBuf>,
    /// Export of spans; absent when spans are not exported.
    pub traces: Option<TraceExport>,
}

/// Export of spans, as the standard `OTEL_*` variables configure it.
#[derive(Debug, Clone)]
pub struct TraceExport {
    /// Protocol of the collector.
    pub protocol: OtlpProtocol,
    /// URL of the collector; over HTTP with the path.
    pub endpoint: String,
    /// Time limit for one batch.
    pub timeout: Duration,
    /// Whether batches are compressed.
    pub gzip: bool,
    /// Certificates for a collector that is reached over TLS.
    pub tls: TraceTls,
    /// Which traces are exported.
    pub sampling: Sampling,
    /// The `service.name`, instead of `phoenix-<role>`.
    pub service_name: Option<String>,
    /// Resource attributes of the process.
    pub resource: Vec<(String, String)>,
    /// Whether spans contain messages, inputs and outputs.
    pub captures_content: bool,
    /// Capacity of the export queue in spans.
    pub queue_spans: usize,
}

/// Transport of OTLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// OTLP over gRPC.
    Grpc,
    /// OTLP over HTTP, in protobuf.
    HttpProtobuf,
}

/// Certificates in PEM, instead of the system's.
#[derive(Clone, Default)]
pub struct TraceTls {
    /// Certificate authority of the collector.
    pub ca: Option<Vec<u8>>,
    /// Client certificate and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for TraceTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (has_ca, has_identity) = (self.ca.is_some(), self.identity.is_some());
        f.debug_struct("TraceTls").field("has_ca", &has_ca).field("has_identity", &has_identity).finish()
    }
}

/// Sampling of traces.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Whether the caller's sampling decision is followed.
    pub follows_parent: bool,
    /// Share of the other traces that is exported, from 0 to 1.
    pub share: f64,
}
