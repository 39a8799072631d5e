//! Export of metrics to a collector, beside `/metrics`.
//!
//! Every export has the sums since the start, so a failed one loses nothing that the next one does not have.

use std::time::SystemTime;

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::InstrumentationScope,
    metrics::v1::{Metric, ResourceMetrics, ScopeMetrics},
    resource::v1::Resource,
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    exposition::{self, Times},
    report::{Exported, Failures},
    settings::MetricExport,
    transport::{Batch, Sender},
};
use crate::metrics;

/// Data points of one batch. Each has some hundred bytes, and collectors accept four megabytes.
const MAX_BATCH_POINTS: usize = 4000;

/// Sends the metrics of this process at each interval, until `stop`, and then once more.
pub(super) async fn run(sender: Sender, resource: Resource, export: MetricExport, stop: CancellationToken) {
    let began = nanoseconds(SystemTime::now());
    let mut failures = Failures::new(Exported::Metrics);
    loop {
        tokio::select! {
            () = sleep(export.interval) => {}
            () = stop.cancelled() => {}
        }
        let is_last = stop.is_cancelled();
        let text = metrics::scrape().unwrap_or_default();
        let metrics = exposition::metrics(&text, Times { began, read: nanoseconds(SystemTime::now()) });
        for metrics in batches(metrics) {
            let points = metrics.iter().map(exposition::points).sum();
            match sender.send(&Batch::Metrics(request(&resource, metrics)), &stop).await {
                Ok(rejected) if rejected.items == 0 => failures.end(),
                Ok(rejected) => failures.add(rejected.items, &rejected.reason),
                Err(error) => failures.add(points, &error),
            }
        }
        if is_last {
            return;
        }
    }
}

fn request(resource: &Resource, metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
    let scope = InstrumentationScope {
        name: "phoenix".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_metrics = ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() };
    let metrics = ResourceMetrics {
        resource: Some(resource.clone()),
        scope_metrics: vec![scope_metrics],
        ..ResourceMetrics::default()
    };
    ExportMetricsServiceRequest { resource_metrics: vec![metrics] }
}

/// Splits metrics into batches of bounded size.
fn batches(metrics: Vec<Metric>) -> Vec<Vec<Metric>> {
    let mut batches: Vec<Vec<Metric>> = Vec::new();
    let mut points = 0;
    for metric in metrics {
        let own = exposition::points(&metric);
        points += own;
        match batches.last_mut() {
            Some(batch) if points <= MAX_BATCH_POINTS => batch.push(metric),
            _ => {
                points = own;
                batches.push(vec![metric]);
            }
        }
    }
    batches
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
