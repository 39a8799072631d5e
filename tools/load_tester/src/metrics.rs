//! What the load tester counts about itself, on its own `/metrics`.

use std::time::Duration;

use phoenix_platform::metrics::{Metric, record_counter, record_histogram};

/// Ended chats of every outcome, those of the warm-up included.
pub const REQUESTS: Metric = Metric::counter(
    "load_tester_requests_total",
    "Chats sent by the load tester that ended, with whatever outcome.",
);

/// Time from when a chat was due until it ended.
pub const SECONDS: Metric = Metric::histogram(
    "load_tester_request_duration_seconds",
    "Time from when a chat of the load tester was due until it ended.",
);

/// Every metric of this process.
pub const METRICS: &[Metric] = &[REQUESTS, SECONDS];

pub(crate) fn record(took: Duration) {
    record_counter(&REQUESTS, 1);
    record_histogram(&SECONDS, took.as_secs_f64());
}
