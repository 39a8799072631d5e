//! Export of spans to a collector, and accounting of lost spans.
//!
//! The SDK collects batches on a thread of its own; each batch is sent on the runtime, which both transports need. Rejected
//! batches and spans beyond the queue's capacity are counted, and logged as a warning at most once a minute.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use opentelemetry::{Context, KeyValue, context::FutureExt};
use opentelemetry_otlp::{
    Compression, ExporterBuildError, Protocol, SpanExporter as OtlpExporter, WithExportConfig,
    WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, Span, SpanData, SpanExporter,
        SpanProcessor,
    },
};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::{
    error::TelemetryError,
    settings::{OtlpProtocol, Sampling, TraceExport, TraceTls},
};
use crate::metrics::{Metric, record_counter};

/// Batches of spans that the collector did not accept.
pub const EXPORT_FAILURES: Metric = Metric::counter(
    "phoenix_telemetry_export_failures_total",
    "Batches of spans that the collector did not accept, retries included.",
);

/// Lost spans.
pub const SPANS_LOST: Metric = Metric::counter(
    "phoenix_telemetry_spans_lost_total",
    "Spans lost with a batch that the collector did not accept, or to a full export queue.",
);

/// Minimum time between two warnings.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Builds the tracer provider for `export`.
///
/// # Errors
/// When the exporter cannot be built.
pub(super) fn provider(service: &str, export: TraceExport) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = match export.protocol {
        OtlpProtocol::Grpc => grpc(&export)?,
        OtlpProtocol::HttpProtobuf => http(&export)?,
    };
    let queue = Arc::new(Queue { spans: AtomicUsize::new(0), capacity: export.queue_spans });
    let exporter = ReportingExporter {
        exporter: Arc::new(exporter),
        runtime: Handle::current(),
        queue: Arc::clone(&queue),
        failures: Mutex::default(),
    };
    let config = BatchConfigBuilder::default().with_max_queue_size(export.queue_spans).build();
    let batches = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
    Ok(SdkTracerProvider::builder()
        .with_sampler(sampler(export.sampling))
        .with_resource(resource(service, &export))
        .with_span_processor(CountingProcessor { batches, queue })
        .build())
}

fn sampler(Sampling { follows_parent, share }: Sampling) -> Sampler {
    let own = match share {
        all if all >= 1.0 => Sampler::AlwaysOn,
        none if none <= 0.0 => Sampler::AlwaysOff,
        share => Sampler::TraceIdRatioBased(share),
    };
    if follows_parent { Sampler::ParentBased(Box::new(own)) } else { own }
}

/// Resource attributes: configured ones override the built-in ones, and `OTEL_SERVICE_NAME` overrides both.
fn resource(service: &str, export: &TraceExport) -> Resource {
    let own = [
        KeyValue::new("service.name", format!("phoenix-{service}")),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        // Distinguishes processes that share a service name.
        KeyValue::new("phoenix.role", service.to_owned()),
    ];
    let given = export.resource.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    let named = export.service_name.iter().map(|name| KeyValue::new("service.name", name.clone()));
    Resource::builder().with_attributes(own).with_attributes(given).with_attributes(named).build()
}

fn grpc(export: &TraceExport) -> Result<OtlpExporter, ExporterBuildError> {
    let builder =
        OtlpExporter::builder().with_tonic().with_endpoint(&export.endpoint).with_timeout(export.timeout);
    if !export.endpoint.starts_with("https:") {
        return builder.build();
    }
    let TraceTls { ca, identity } = &export.tls;
    let tls = match ca {
        Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)),
        None => ClientTlsConfig::new().with_enabled_roots(),
    };
    let tls = match identity {
        Some((certificate, key)) => tls.identity(Identity::from_pem(certificate, key)),
        None => tls,
    };
    builder.with_tls_config(tls).build()
}

fn http(export: &TraceExport) -> Result<OtlpExporter, TelemetryError> {
    // An error means that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // A redirect would forward the headers.
    let mut client =
        reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(export.timeout);
    let TraceTls { ca, identity } = &export.tls;
    if let Some(ca) = ca {
        client = client.tls_certs_only(reqwest::Certificate::from_pem_bundle(ca)?);
    } else if export.endpoint.starts_with("http:") {
        client = client.tls_certs_only([]);
    }
    if let Some((certificate, key)) = identity {
        client = client.identity(reqwest::Identity::from_pem(&[&**certificate, b"\n", &**key].concat())?);
    }
    if is_loopback(&export.endpoint) {
        client = client.no_proxy();
    }
    let mut builder = OtlpExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(&export.endpoint)
        .with_timeout(export.timeout)
        .with_http_client(client.build()?);
    if export.gzip {
        builder = builder.with_compression(Compression::Gzip);
    }
    Ok(builder.build()?)
}

fn is_loopback(endpoint: &str) -> bool {
    let uri = endpoint.parse::<http::Uri>().ok();
    let host = uri.as_ref().and_then(|uri| uri.host()).unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Length and capacity of the export queue in spans.
#[derive(Debug)]
struct Queue {
    spans: AtomicUsize,
    capacity: usize,
}

/// Passes spans to the SDK's batch processor while the queue has capacity, and counts the others as lost.
#[derive(Debug)]
struct CountingProcessor {
    batches: BatchSpanProcessor,
    queue: Arc<Queue>,
}

impl SpanProcessor for CountingProcessor {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.batches.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.queue.spans.fetch_add(1, Ordering::Relaxed) < self.queue.capacity {
            self.batches.on_end(span);
        } else {
            self.queue.spans.fetch_sub(1, Ordering::Relaxed);
            record_counter(&SPANS_LOST, 1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

/// Sends batches on the runtime, and logs failures.
#[derive(Debug)]
struct ReportingExporter {
    exporter: Arc<OtlpExporter>,
    runtime: Handle,
    queue: Arc<Queue>,
    failures: Mutex<Failures>,
}

#[derive(Debug, Default)]
struct Failures {
    warned_at: Option<Instant>,
    /// Count since the last warning.
    batches: u64,
    spans: usize,
    /// Whether the last warning still holds.
    is_failing: bool,
}

impl SpanExporter for ReportingExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        self.queue.spans.fetch_sub(spans, Ordering::Relaxed);
        let exporter = Arc::clone(&self.exporter);
        // The export itself must not create spans.
        let quiet = Context::new().with_telemetry_suppressed();
        let sent = self.runtime.spawn(async move { exporter.export(batch).await }.with_context(quiet)).await;
        let sent =
            sent.unwrap_or_else(|_| Err(OTelSdkError::InternalFailure("the runtime has ended".into())));
        let mut failures = self.failures.lock();
        match &sent {
            Ok(()) => failures.end(),
            Err(error) => failures.add(spans, error),
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        // Before the first batch, while there is no other reference.
        if let Some(exporter) = Arc::get_mut(&mut self.exporter) {
            exporter.set_resource(resource);
        }
    }
}

impl Failures {
    fn add(&mut self, spans: usize, error: &OTelSdkError) {
        record_counter(&EXPORT_FAILURES, 1);
        record_counter(&SPANS_LOST, u64::try_from(spans).unwrap_or(u64::MAX));
        self.batches += 1;
        self.spans += spans;
        if self.warned_at.is_some_and(|at| at.elapsed() < WARN_EVERY) {
            return;
        }
        let (batches, spans) = (self.batches, self.spans);
        tracing::warn!(reason = %error, batches, spans, "spans cannot be exported; they are lost");
        *self = Self { warned_at: Some(Instant::now()), batches: 0, spans: 0, is_failing: true };
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.is_failing) {
            tracing::info!("spans are exported again");
        }
    }
}
