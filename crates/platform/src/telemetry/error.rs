//! Errors of starting telemetry.

use std::io;

/// Error of starting telemetry.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `RUST_LOG` is not a log filter.
    #[error("RUST_LOG is not a log filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The OTLP exporter of spans cannot be built.
    #[error("the exporter of spans cannot be built from the variables OTEL_EXPORTER_OTLP_…: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// The HTTP client of the OTLP exporter cannot be built.
    #[error(
        "the HTTP client of an exporter cannot be built; check OTEL_EXPORTER_OTLP_CERTIFICATE and the system's certificates: {0}"
    )]
    Client(#[from] reqwest::Error),
    /// The gRPC client of the OTLP exporter cannot be built.
    #[error(
        "the gRPC client of an exporter cannot be built; check OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_CERTIFICATE: {0}"
    )]
    Channel(#[from] tonic::transport::Error),
    /// The thread that writes log lines cannot be started.
    #[error("the thread that writes log lines cannot be started: {0}")]
    Thread(#[from] io::Error),
    /// A tracing subscriber is installed already.
    #[error("logging was started twice: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}
