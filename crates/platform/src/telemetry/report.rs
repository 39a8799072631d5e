//! Accounting of what a collector did not accept: counted, and logged as a warning at most once a minute.

use std::{
    fmt,
    time::{Duration, Instant},
};

use crate::metrics::{Metric, record_counter};

/// Batches that the collector did not accept.
pub const EXPORT_FAILURES: Metric = Metric::counter(
    "phoenix_telemetry_export_failures_total",
    "Batches of spans, metrics or log lines that the collector did not accept, retries included.",
);

/// Lost spans.
pub const SPANS_LOST: Metric = Metric::counter(
    "phoenix_telemetry_spans_lost_total",
    "Spans lost with a batch that the collector did not accept, or to a full export queue.",
);

/// Lost log lines.
pub const LOG_LINES_LOST: Metric = Metric::counter(
    "phoenix_telemetry_log_lines_lost_total",
    "Log lines lost with a batch that the collector did not accept, or to a full export queue; they are on standard error.",
);

/// Minimum time between two warnings.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// What a batch consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exported {
    /// Spans.
    Spans,
    /// Metrics, of which the next export has the same sums.
    Metrics,
    /// Log lines.
    LogLines,
}

/// Failed batches of one exporter.
#[derive(Debug)]
pub(super) struct Failures {
    of: Exported,
    warned_at: Option<Instant>,
    /// Count since the last warning.
    batches: u64,
    lost: u64,
    /// Whether the last warning still holds.
    is_failing: bool,
}

impl Failures {
    /// Of an exporter that has not failed.
    pub(super) const fn new(of: Exported) -> Self {
        Self { of, warned_at: None, batches: 0, lost: 0, is_failing: false }
    }

    /// Counts a batch of which `lost` items were not accepted.
    pub(super) fn add(&mut self, lost: usize, reason: &dyn fmt::Display) {
        let lost = u64::try_from(lost).unwrap_or(u64::MAX);
        record_counter(&EXPORT_FAILURES, 1);
        count_lost(self.of, lost);
        self.batches += 1;
        self.lost += lost;
        if self.warned_at.is_some_and(|at| at.elapsed() < WARN_EVERY) {
            return;
        }
        let (batches, lost) = (self.batches, self.lost);
        match self.of {
            Exported::Spans => {
                tracing::warn!(%reason, batches, spans = lost, "spans cannot be exported; they are lost");
            }
            Exported::Metrics => {
                tracing::warn!(%reason, batches, "metrics cannot be exported");
            }
            Exported::LogLines => {
                tracing::warn!(%reason, batches, lines = lost, "log lines cannot be exported; the collector lacks them");
            }
        }
        *self = Self { warned_at: Some(Instant::now()), is_failing: true, ..Self::new(self.of) };
    }

    /// Notes that a batch was accepted.
    pub(super) fn end(&mut self) {
        if std::mem::take(&mut self.is_failing) {
            match self.of {
                Exported::Spans => tracing::info!("spans are exported again"),
                Exported::Metrics => tracing::info!("metrics are exported again"),
                Exported::LogLines => tracing::info!("log lines are exported again"),
            }
        }
    }
}

/// Counts items that were lost.
pub(super) fn count_lost(of: Exported, lost: u64) {
    match of {
        Exported::Spans => record_counter(&SPANS_LOST, lost),
        Exported::LogLines => record_counter(&LOG_LINES_LOST, lost),
        Exported::Metrics => {}
    }
}
