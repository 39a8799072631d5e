//! Counters, gauges and histograms, and the `/metrics` endpoint that Prometheus scrapes.
//!
//! Each service lists its metrics in one `metrics.rs` as [`Metric`] constants. [`init_metrics`] describes them and creates
//! each at zero, so that a rate over a scrape before the first event is right.

mod exporter;
mod metric;
mod process;

pub use self::{
    exporter::{MetricsError, MetricsExporter, init_metrics, scrape},
    metric::{DURATION_BUCKETS, Metric, MetricKind, record_counter, record_histogram},
    process::PROCESS,
};
