//! Logs to standard error, traces over OTLP.

mod export;
mod panics;

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt, util::SubscriberInitExt};

pub use self::export::{EXPORT_FAILURES, SPANS_LOST};
use crate::logging::{LogLayer, LogWriter};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object per line.
    Json,
}

impl LogFormat {
    /// The name in settings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pretty => "pretty",
            Self::Json => "json",
        }
    }

    /// What suits standard error: `pretty` on a terminal, else `json`.
    #[must_use]
    pub fn detect() -> Self {
        if std::io::stderr().is_terminal() { Self::Pretty } else { Self::Json }
    }
}

/// What `RUST_LOG` says when it says nothing.
pub const DEFAULT_FILTER: &str = "info,h2=warn,hyper=warn,hyper_util=warn,opentelemetry=warn,opentelemetry_sdk=warn,sqlx=warn,tonic=warn,tower=warn";

/// How a process tells what it does.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// The role: `service` in log lines, `service.name = phoenix-<role>` in traces.
    pub service: &'static str,
    /// How log lines look.
    pub format: LogFormat,
    /// Whether `pretty` lines are coloured.
    pub colour: bool,
    /// Whether `pretty` lines begin with the service: where several share a terminal.
    pub prefix: bool,
    /// Which of them are written, in the syntax of `RUST_LOG`.
    pub filter: String,
    /// Where spans go; nowhere when absent.
    pub traces: Option<TraceExport>,
}

/// Where spans go and how: what the standard `OTEL_*` variables say.
#[derive(Debug, Clone)]
pub struct TraceExport {
    /// How the collector is spoken to.
    pub protocol: OtlpProtocol,
    /// Where it is; over HTTP with the path.
    pub endpoint: String,
    /// How long one batch may take.
    pub timeout: Duration,
    /// Whether batches are compressed.
    pub gzip: bool,
    /// Certificates, when the collector is reached over TLS.
    pub tls: TraceTls,
    /// Which traces are exported.
    pub sampling: Sampling,
    /// The `service.name`, instead of `phoenix-<role>`.
    pub service_name: Option<String>,
    /// Attributes of the process.
    pub resource: Vec<(String, String)>,
    /// The most spans that wait for export.
    pub queue_spans: usize,
}

/// How a collector is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// OTLP over gRPC.
    Grpc,
    /// OTLP over HTTP, in protobuf.
    HttpProtobuf,
}

/// Certificates in PEM, where they differ from the system's.
#[derive(Clone, Default)]
pub struct TraceTls {
    /// Who vouches for the collector.
    pub ca: Option<Vec<u8>>,
    /// The certificate and the key of this side.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for TraceTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (has_ca, has_identity) = (self.ca.is_some(), self.identity.is_some());
        f.debug_struct("TraceTls").field("has_ca", &has_ca).field("has_identity", &has_identity).finish()
    }
}

/// Which traces are exported.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Whether a caller that has decided already is followed.
    pub follows_parent: bool,
    /// The share of the others, from 0 to 1.
    pub share: f64,
}

/// How long what is left may take to be sent at the end.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Why telemetry could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `RUST_LOG` can't be read.
    #[error("RUST_LOG is not a log filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The OTLP exporter can't be made.
    #[error("the exporter of spans cannot be made of the variables OTEL_EXPORTER_OTLP_…: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// The HTTP client of the OTLP exporter can't be made.
    #[error(
        "the HTTP client of the exporter of spans cannot be made; check OTEL_EXPORTER_OTLP_CERTIFICATE and the system's certificates: {0}"
    )]
    Client(#[from] reqwest::Error),
    /// There is no thread for writing lines.
    #[error("the thread that writes log lines cannot be started: {0}")]
    Thread(#[from] io::Error),
    /// There already is a subscriber.
    #[error("logging was started twice: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Keeps traces flowing; [`Telemetry::flush`] sends what is left. Log lines are written in any case.
#[derive(Debug)]
#[must_use = "spans are lost when this is dropped without `flush`"]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
    lines: LogWriter,
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.lines.flush();
    }
}

impl Telemetry {
    /// Sends the spans that wait for export. Called last on shutdown; bounded by a time limit, so that a
    /// collector that does not answer does not hold the process.
    pub async fn flush(mut self) {
        // The exporter's thread talks to the runtime, so waiting for it must not hold a runtime thread.
        if let Some(provider) = self.provider.take() {
            let _ = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_LIMIT)).await;
        }
    }
}

/// Starts logs and traces for this process, and says first of all which version it is. To be called inside a tokio runtime.
///
/// Every request has a trace id, in logs and towards agents, also when spans are exported nowhere
/// ([`crate::propagation::TraceContext`]); spans are made for export only when there is somewhere to send them.
///
/// # Errors
/// When the filter or the exporter can't be used, or when called twice.
pub fn init_tracing(config: TelemetryConfig) -> Result<Telemetry, TelemetryError> {
    let TelemetryConfig { service, format, colour, prefix, filter, traces } = config;
    let filter = EnvFilter::try_new(if filter.is_empty() { DEFAULT_FILTER } else { &filter })?;
    let provider = traces.map(|traces| export::provider(service, traces)).transpose()?;
    let spans = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("phoenix"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
    });
    let lines = LogWriter::stderr()?;
    let layer = LogLayer::new(service, format, colour, prefix, lines.clone());
    Registry::default().with(filter).with(layer).with(spans).try_init()?;
    panics::log();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "starting");
    Ok(Telemetry { provider, lines })
}
