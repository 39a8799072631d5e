//! Logs to standard error, traces over OTLP.

use std::io::IsTerminal;

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider},
};
use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt, util::SubscriberInitExt};

use crate::log_lines::{LogLines, Outbox};

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
    /// Where spans go (`OTEL_EXPORTER_OTLP_ENDPOINT`, gRPC); nowhere when absent.
    pub otlp_endpoint: Option<String>,
}

/// Why telemetry could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `RUST_LOG` can't be read.
    #[error("RUST_LOG is not a log filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The OTLP exporter can't be made.
    #[error("OTEL_EXPORTER_OTLP_ENDPOINT can't be used: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// There already is a subscriber.
    #[error("logging was started twice: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Keeps traces flowing; [`Telemetry::flush`] sends what is left. Log lines are written in any case.
#[derive(Debug)]
#[must_use = "spans are lost when this is dropped without `flush`"]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
    lines: Outbox,
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.lines.flush();
    }
}

impl Telemetry {
    /// Sends the spans that wait for export. Called last on shutdown; bounded by the exporter's own time limit.
    pub async fn flush(mut self) {
        // The exporter's thread talks to the runtime, so waiting for it must not hold a runtime thread.
        if let Some(provider) = self.provider.take() {
            let _ = tokio::task::spawn_blocking(move || provider.shutdown()).await;
        }
    }
}

/// Starts logs and traces for this process. To be called inside a tokio runtime.
///
/// Every request has a trace id, in logs and towards agents, also when spans are exported nowhere
/// ([`crate::propagation::TraceContext`]); spans are made for export only when there is somewhere to send them.
///
/// # Errors
/// When the filter or the endpoint can't be used, or when called twice.
pub fn init_tracing(config: TelemetryConfig) -> Result<Telemetry, TelemetryError> {
    let TelemetryConfig { service, format, colour, prefix, filter, otlp_endpoint } = config;
    let filter = EnvFilter::try_new(if filter.is_empty() { DEFAULT_FILTER } else { &filter })?;
    let provider = otlp_endpoint.map(|endpoint| exporting_provider(service, endpoint)).transpose()?;
    let spans = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("phoenix"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
    });
    let lines = Outbox::stderr();
    let layer = LogLines::new(service, format, colour, prefix, lines.clone());
    Registry::default().with(filter).with(layer).with(spans).try_init()?;
    Ok(Telemetry { provider, lines })
}

fn exporting_provider(service: &str, endpoint: String) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
    Ok(SdkTracerProvider::builder()
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
        .with_resource(Resource::builder().with_service_name(format!("phoenix-{service}")).build())
        .with_batch_exporter(exporter)
        .build())
}
