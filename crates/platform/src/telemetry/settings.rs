//! Settings of logs and traces.

use std::{path::PathBuf, time::Duration};

use phoenix_domain::llm::Secret;

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
    /// Export to collectors.
    pub otlp: OtlpExports,
}

/// What is exported to collectors, as the standard `OTEL_*` variables configure it. By default nothing.
#[derive(Debug, Clone, Default)]
pub struct OtlpExports {
    /// What the process says of itself.
    pub resource: ResourceSettings,
    /// Export of spans; absent when they are not exported.
    pub traces: Option<TraceExport>,
    /// Export of metrics; absent when they are not exported.
    pub metrics: Option<MetricExport>,
    /// Export of log lines; absent when they are not exported.
    pub logs: Option<LogExport>,
}

/// Attributes of the process beside its own.
#[derive(Debug, Clone, Default)]
pub struct ResourceSettings {
    /// The `service.name`, instead of `phoenix-<role>`.
    pub service_name: Option<String>,
    /// Further attributes.
    pub attributes: Vec<(String, String)>,
}

/// A collector, and how it is reached.
#[derive(Debug, Clone)]
pub struct OtlpTarget {
    /// Protocol of the collector.
    pub protocol: OtlpProtocol,
    /// URL of the collector; over HTTP with the path.
    pub endpoint: String,
    /// Time limit for one batch, retries included.
    pub timeout: Duration,
    /// Whether batches are compressed.
    pub gzip: bool,
    /// Certificates for a collector that is reached over TLS.
    pub tls: OtlpTls,
    /// Headers of each batch.
    pub headers: Vec<(String, Secret)>,
}

/// Export of spans.
#[derive(Debug, Clone)]
pub struct TraceExport {
    /// The collector.
    pub target: OtlpTarget,
    /// Which traces are exported.
    pub sampling: Sampling,
    /// Whether spans contain messages, inputs and outputs.
    pub captures_content: bool,
    /// Capacity of the export queue in spans.
    pub queue_spans: usize,
}

/// Export of metrics.
#[derive(Debug, Clone)]
pub struct MetricExport {
    /// The collector.
    pub target: OtlpTarget,
    /// Time between two exports.
    pub interval: Duration,
}

/// Export of log lines.
#[derive(Debug, Clone)]
pub struct LogExport {
    /// The collector.
    pub target: OtlpTarget,
    /// Time for which lines are collected into a batch.
    pub delay: Duration,
    /// Capacity of the export queue in lines.
    pub queue_lines: usize,
    /// The most lines of a batch.
    pub batch_lines: usize,
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
pub struct OtlpTls {
    /// Certificate authority of the collector.
    pub ca: Option<Vec<u8>>,
    /// Client certificate and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for OtlpTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (has_ca, has_identity) = (self.ca.is_some(), self.identity.is_some());
        f.debug_struct("OtlpTls").field("has_ca", &has_ca).field("has_identity", &has_identity).finish()
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
