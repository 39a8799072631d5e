//! Export of spans to a collector, and accounting of lost spans.
//!
//! The SDK collects batches on a thread of its own; each batch is sent on the runtime, which both transports need. Rejected
//! batches and spans beyond the queue's capacity are counted, and logged ([`report`]).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
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

use super::{
    error::TelemetryError,
    report::{self, Exported, Failures},
    settings::{OtlpProtocol, OtlpTarget, Sampling, TraceExport},
    transport,
};

/// Builds the tracer provider for `export`.
///
/// # Errors
/// When the exporter cannot be built.
pub(super) fn provider(
    resource: &[(String, String)],
    export: &TraceExport,
) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = match export.target.protocol {
        OtlpProtocol::Grpc => grpc(&export.target)?,
        OtlpProtocol::HttpProtobuf => http(&export.target)?,
    };
    let queue = Arc::new(Queue { spans: AtomicUsize::new(0), capacity: export.queue_spans });
    let exporter = ReportingExporter {
        exporter: Arc::new(exporter),
        runtime: Handle::current(),
        queue: Arc::clone(&queue),
        failures: Mutex::new(Failures::new(Exported::Spans)),
    };
    let config = BatchConfigBuilder::default().with_max_queue_size(export.queue_spans).build();
    let batches = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
    let attributes = resource.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    Ok(SdkTracerProvider::builder()
        .with_sampler(sampler(export.sampling))
        .with_resource(Resource::builder().with_attributes(attributes).build())
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

fn grpc(target: &OtlpTarget) -> Result<OtlpExporter, ExporterBuildError> {
    let builder =
        OtlpExporter::builder().with_tonic().with_endpoint(&target.endpoint).with_timeout(target.timeout);
    match transport::grpc_tls(target) {
        Some(tls) => builder.with_tls_config(tls).build(),
        None => builder.build(),
    }
}

fn http(target: &OtlpTarget) -> Result<OtlpExporter, TelemetryError> {
    let mut builder = OtlpExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(&target.endpoint)
        .with_timeout(target.timeout)
        .with_http_client(transport::http_client(target)?);
    if target.gzip {
        builder = builder.with_compression(Compression::Gzip);
    }
    Ok(builder.build()?)
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
            report::count_lost(Exported::Spans, 1);
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
