//! Logs to standard error, traces over OTLP.

mod error;
mod export;
mod panics;
mod settings;

use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt, util::SubscriberInitExt};

pub use self::{
    error::TelemetryError,
    export::{EXPORT_FAILURES, SPANS_LOST},
    settings::{DEFAULT_FILTER, OtlpProtocol, Sampling, TelemetryConfig, TraceExport, TraceTls},
};
use crate::logging::{LogLayer, LogWriter};

/// Time limit for the last export of spans at shutdown.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Running telemetry. [`Telemetry::flush`] exports the remaining spans; log lines are flushed on drop.
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
    /// Exports the spans that wait in the queue. Called last on shutdown; a time limit keeps a collector that does not answer
    /// from delaying the exit.
    pub async fn flush(mut self) {
        // The exporter's thread needs the runtime, so the wait must not occupy a runtime thread.
        if let Some(provider) = self.provider.take() {
            let _ = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_LIMIT)).await;
        }
    }
}

/// Starts logs and traces for this process, and logs its version. Must be called inside a tokio runtime.
///
/// Every request has a trace id in logs and towards agents, also when spans are not exported
/// ([`crate::propagation::TraceContext`]); spans are recorded only when an exporter is configured.
///
/// # Errors
/// When the filter or the exporter is not valid, or on a second call.
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
    panics::install_hook();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "starting");
    Ok(Telemetry { provider, lines })
}
