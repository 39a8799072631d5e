//! Logs to standard error, traces over OTLP.

mod error;
mod export;
mod panics;
mod settings;

use std::time::Duration;

use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt, util::SubscriberInitExt};

pub use self::{
    error::TelemetryError,
    export::{EXPORT_FAILURES, SPANS_LOST},
    settings::{DEFAULT_FILTER, OtlpProtocol, Sampling, TelemetryConfig, TraceExport, TraceTls},
};
use crate::{
    logging::{LogFormat, LogLayer, LogWriter, Tee, file::LogFile},
    spans,
};

/// Time limit for the last export of spans at shutdown.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Running telemetry. [`Telemetry::flush`] exports the remaining spans; log lines are flushed on drop.
#[derive(Debug)]
#[must_use = "spans are lost when this is dropped without `flush`"]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
    lines: Tee,
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        let Tee { stderr, file } = &self.lines;
        stderr.flush();
        file.iter().for_each(LogWriter::flush);
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
    let TelemetryConfig { service, format, colour, prefix, filter, log_folder, traces } = config;
    let filter = EnvFilter::try_new(if filter.is_empty() { DEFAULT_FILTER } else { &filter })?;
    let captures_content = traces.as_ref().is_some_and(|traces| traces.captures_content);
    let provider = traces.map(|traces| export::provider(service, traces)).transpose()?;
    let layer_of_spans = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(spans::enable(provider, captures_content))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
    });
    let stderr = LogWriter::stderr()?;
    let opened = log_folder.as_deref().map(|folder| (LogFile::open(folder, service), folder));
    let (file, problem) = match opened {
        Some((Ok(file), _)) => (Some(file), None),
        // A disk that is full, for instance, must not keep a service from starting. It may have space later.
        Some((Err(error), folder)) => (Some(LogFile::later(folder, service)), Some(error)),
        None => (None, None),
    };
    let file = file.map(LogWriter::file).transpose()?;
    let lines = Tee { stderr, file };
    // A line of standard error that is JSON is the line of the file, too.
    let (main, second) = match format {
        LogFormat::Json => (lines.clone(), None),
        LogFormat::Pretty => {
            let json = |file| LogLayer::new(service, LogFormat::Json, false, false, file);
            (Tee { file: None, ..lines.clone() }, lines.file.clone().map(json))
        }
    };
    let layer = LogLayer::new(service, format, colour, prefix, main);
    Registry::default().with(filter).with(layer).with(second).with(layer_of_spans).try_init()?;
    panics::install_hook();
    if let Some((error, folder)) = problem.zip(log_folder) {
        tracing::warn!(%error, folder = %folder.display(), "log lines are not kept in a file");
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "starting");
    Ok(Telemetry { provider, lines })
}
