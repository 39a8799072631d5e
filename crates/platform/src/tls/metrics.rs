//! Metrics of certificates.

use crate::metrics::Metric;

/// Failed reloads of certificate files.
pub const RELOAD_FAILURES: Metric = Metric::counter(
    "phoenix_tls_reload_failures_total",
    "Changes of certificate, key or CA files that could not be loaded; the earlier ones stay in use.",
);

/// Expiry of the certificate in use.
pub const CERTIFICATE_EXPIRES: Metric = Metric::gauge(
    "phoenix_tls_certificate_expires_timestamp_seconds",
    "Expiry of the certificate in use, in seconds since 1970, by `use`: service or gateway.",
)
.labelled();
