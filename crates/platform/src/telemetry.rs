//! Logs to standard error; traces, metrics and logs over OTLP.

mod error;
mod exposition;
mod log_export;
mod log_records;
mod metric_export;
mod panics;
mod report;
mod resource;
mod settings;
mod span_export;
mod transport;

use std::{future::Future, time::Duration};

use opentelemetry_proto::tonic::{common::v1::any_value, resource::v1::Resource};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt, util::SubscriberInitExt};

pub use self::{
    error::TelemetryError,
    report::{EXPORT_FAILURES, LOG_LINES_LOST, SPANS_LOST},
    settings::{
        DEFAULT_FILTER, LogExport, MetricExport, OtlpExports, OtlpProtocol, OtlpTarget, OtlpTls,
        ResourceSettings, Sampling, TelemetryConfig, TraceExport,
    },
};
use self::{log_export::LogQueue, transport::Sender};
use crate::{
    logging::{LineSink, LogFormat, LogLayer, LogWriter, file::LogFile},
    spans,
};

/// Time limit for the last exports at shutdown.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Running telemetry. [`Telemetry::flush`] exports what is left; log lines are flushed on drop.
#[derive(Debug)]
#[must_use = "spans are lost when this is dropped without `flush`"]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
    /// Exports of metrics and log lines, until `stop`.
    exports: JoinSet<()>,
    stop: CancellationToken,
    stderr: LogWriter,
    file: Option<LogWriter>,
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.stderr.flush();
        self.file.iter().for_each(LogWriter::flush);
    }
}

impl Telemetry {
    /// Exports what waits for its export. Called last on shutdown; a time limit keeps a collector that does not answer from delaying
    /// the exit.
    pub async fn flush(mut self) {
        // The exporter's thread needs the runtime, so the wait must not occupy a runtime thread.
        let spans = self
            .provider
            .take()
            .map(|provider| tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_LIMIT)));
        self.stop.cancel();
        let _ =
            tokio::time::timeout(FLUSH_LIMIT, async { while self.exports.join_next().await.is_some() {} })
                .await;
        if let Some(spans) = spans {
            let _ = spans.await;
        }
    }
}

/// Destinations of the lines of one format.
#[derive(Debug, Clone, Default)]
struct Lines {
    stderr: Option<LogWriter>,
    file: Option<LogWriter>,
    queue: Option<LogQueue>,
}

impl LineSink for Lines {
    fn line(&self, level: tracing::Level, line: &[u8]) {
        if let Some(stderr) = &self.stderr {
            stderr.line(level, line);
        }
        if let Some(file) = &self.file {
            file.line(level, line);
        }
        if let Some(queue) = &self.queue {
            queue.line(level, line);
        }
    }
}

/// Starts logs and exports for this process, and logs its version. Must be called inside a tokio runtime.
///
/// Every request has a trace id in logs and towards agents, also when spans are not exported
/// ([`crate::propagation::TraceContext`]); spans are recorded only when an exporter is configured.
///
/// # Errors
/// When the filter or the exporter is not valid, or on a second call.
pub fn init_tracing(config: TelemetryConfig) -> Result<Telemetry, TelemetryError> {
    let TelemetryConfig { service, format, colour, prefix, filter, log_folder, otlp } = config;
    let OtlpExports { resource, traces, metrics, logs } = otlp;
    let filter = EnvFilter::try_new(if filter.is_empty() { DEFAULT_FILTER } else { &filter })?;
    let resource = resource::attributes(service, &resource);
    let captures_content = traces.as_ref().is_some_and(|traces| traces.captures_content);
    let provider = traces.map(|traces| span_export::provider(&resource, &traces)).transpose()?;
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
    let (stop, mut exports) = (CancellationToken::new(), JoinSet::new());
    let queue = logs.as_ref().map(LogQueue::new);
    for export in started(resource, metrics, logs.zip(queue.clone()), &stop)? {
        exports.spawn(export);
    }
    // A line of standard error that is JSON is the line of the file and of the collector, too.
    let others = Lines { stderr: None, file: file.clone(), queue };
    let (main, second) = match format {
        LogFormat::Json => (Lines { stderr: Some(stderr.clone()), ..others }, None),
        LogFormat::Pretty => {
            let has_others = others.file.is_some() || others.queue.is_some();
            let json = has_others.then(|| LogLayer::new(service, LogFormat::Json, false, false, others));
            (Lines { stderr: Some(stderr.clone()), ..Lines::default() }, json)
        }
    };
    let layer = LogLayer::new(service, format, colour, prefix, main);
    Registry::default().with(filter).with(layer).with(second).with(layer_of_spans).try_init()?;
    panics::install_hook();
    if let Some((error, folder)) = problem.zip(log_folder) {
        tracing::warn!(%error, folder = %folder.display(), "log lines are not kept in a file");
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "starting");
    Ok(Telemetry { provider, exports, stop, stderr, file })
}

type Export = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// The exports of metrics and log lines, each of which ends after `stop`.
fn started(
    attributes: Vec<(String, String)>,
    metrics: Option<MetricExport>,
    logs: Option<(LogExport, LogQueue)>,
    stop: &CancellationToken,
) -> Result<Vec<Export>, TelemetryError> {
    let text = |(name, value)| exposition::attribute(name, any_value::Value::StringValue(value));
    let attributes = attributes.into_iter().map(text).collect();
    let resource = Resource { attributes, ..Resource::default() };
    let mut exports: Vec<Export> = Vec::new();
    if let Some(metrics) = metrics {
        let sender = Sender::new(&metrics.target)?;
        exports.push(Box::pin(metric_export::run(sender, resource.clone(), metrics, stop.clone())));
    }
    if let Some((logs, queue)) = logs {
        let sender = Sender::new(&logs.target)?;
        exports.push(Box::pin(queue.run(sender, resource, logs, stop.clone())));
    }
    Ok(exports)
}
