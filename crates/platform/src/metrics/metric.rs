//! Metrics as constants: name, kind and help text.

/// Histogram buckets in seconds: from the 100 µs of a warm call to a day in a queue, about three per factor of ten.
pub const DURATION_BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 10_800.0, 21_600.0, 43_200.0, 86_400.0,
];

/// Kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Monotonic count.
    Counter,
    /// Current value.
    Gauge,
    /// Distribution of durations in seconds.
    Histogram,
}

/// One metric: name, kind and help text.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Name in the Prometheus exposition.
    pub name: &'static str,
    /// Kind.
    pub kind: MetricKind,
    /// Help text: a noun phrase with its unit.
    pub help: &'static str,
    /// Whether the metric carries labels. A metric without labels exists at zero from the start.
    pub labelled: bool,
}

impl Metric {
    /// A counter without labels.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: MetricKind::Counter, help, labelled: false }
    }

    /// A gauge without labels.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: MetricKind::Gauge, help, labelled: false }
    }

    /// A histogram of durations, without labels.
    #[must_use]
    pub const fn histogram(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: MetricKind::Histogram, help, labelled: false }
    }

    /// Marks the metric as labelled.
    #[must_use]
    pub const fn labelled(self) -> Self {
        Self { labelled: true, ..self }
    }

    /// Registers the help text, and creates a metric without labels at zero.
    pub(super) fn describe(&self) {
        match self.kind {
            MetricKind::Counter => metrics::describe_counter!(self.name, self.help),
            MetricKind::Gauge => metrics::describe_gauge!(self.name, self.help),
            MetricKind::Histogram => {
                metrics::describe_histogram!(self.name, metrics::Unit::Seconds, self.help);
            }
        }
        if self.labelled {
            return;
        }
        match self.kind {
            MetricKind::Counter => metrics::counter!(self.name).absolute(0),
            MetricKind::Gauge => metrics::gauge!(self.name).set(0.0),
            MetricKind::Histogram => drop(metrics::histogram!(self.name)),
        }
    }
}

/// Adds `value` to a counter without labels.
pub fn record_counter(metric: &Metric, value: u64) {
    metrics::counter!(metric.name).increment(value);
}

/// Adds one duration in seconds to a histogram without labels.
pub fn record_histogram(metric: &Metric, seconds: f64) {
    metrics::histogram!(metric.name).record(seconds);
}
