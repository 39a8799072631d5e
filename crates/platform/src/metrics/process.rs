//! Metrics of every process, whatever its role.

use metrics_process::Collector;

use super::metric::Metric;
use crate::{
    logging::LINES_DROPPED,
    telemetry::{EXPORT_FAILURES, LOG_LINES_LOST, SPANS_LOST},
    tls::{CERTIFICATE_EXPIRES, RELOAD_FAILURES},
};

/// Version and profile of the build.
const BUILD_INFO: Metric = Metric::gauge(
    "phoenix_build_info",
    "Always 1; the labels are the version of this build and its profile, debug or release.",
)
.labelled();

/// Metrics of every process, in addition to those of its role. The `process_…` names are those of the Prometheus client
/// libraries.
pub const PROCESS: &[Metric] = &[
    BUILD_INFO,
    LINES_DROPPED,
    EXPORT_FAILURES,
    SPANS_LOST,
    LOG_LINES_LOST,
    RELOAD_FAILURES,
    CERTIFICATE_EXPIRES,
    Metric::counter("process_cpu_seconds_total", "Processor time used, user and system, in seconds."),
    Metric::gauge("process_open_fds", "Open file descriptors."),
    Metric::gauge("process_max_fds", "The most file descriptors that may be open."),
    Metric::gauge("process_threads", "Threads."),
    Metric::gauge("process_resident_memory_bytes", "Resident memory in bytes."),
    Metric::gauge("process_virtual_memory_bytes", "Virtual memory in bytes."),
    Metric::gauge("process_virtual_memory_max_bytes", "The most virtual memory in bytes."),
    Metric::gauge("process_start_time_seconds", "When the process started, in seconds since 1970."),
];

/// Sets the build gauge.
pub(super) fn record_build() {
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    metrics::gauge!(BUILD_INFO.name, "version" => env!("CARGO_PKG_VERSION"), "profile" => profile).set(1.0);
}

/// Reads the process's resource usage from the system, for a scrape.
pub(super) fn collect() {
    Collector::default().collect();
}
