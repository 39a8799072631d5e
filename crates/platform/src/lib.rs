//! The chassis: what every service needs and none should write again. One file per concern.
//!
//! | concern | module |
//! |---|---|
//! | settings from flags, environment and `phoenix.toml` | [`config`] |
//! | log lines and OTLP traces | [`telemetry`], [`logging`] |
//! | counters and histograms, `/metrics` | [`metrics`] |
//! | correlation id, trace context and deadline across processes | [`propagation`] |
//! | gRPC servers and clients | [`server`], [`client`] |
//! | many calls on one stream | [`multiplex`] |
//! | what callers present and whom they address | [`service_token`], [`bearer`], [`loopback`] |
//! | "can this process take work?" | [`readiness`] |
//! | ports, connections and signals | [`listener`], [`connections`], [`shutdown`] |
//! | SQLite databases | [`sqlite`] |
//! | modes of files, processes that others cannot look into | [`privacy`] |
//!
//! Process globals are two: the tracing subscriber and the metrics recorder. Everything else is a value.

pub mod bearer;
pub mod client;
pub mod config;
pub mod connections;
pub mod listener;
pub mod log_limit;
pub mod logging;
pub mod loopback;
pub mod metrics;
pub mod multiplex;
pub mod privacy;
pub mod propagation;
pub mod readiness;
mod reflection;
pub mod rpc_metrics;
pub mod server;
pub mod service_token;
pub mod shutdown;
pub mod sqlite;
pub mod telemetry;

/// The names most services use.
pub use metrics::{init_metrics, record_counter, record_histogram};
pub use propagation::{RequestContext, correlation_span};
pub use telemetry::init_tracing;
