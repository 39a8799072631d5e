//! Infrastructure that every service needs, one module per concern.
//!
//! | concern | module |
//! |---|---|
//! | settings from flags, environment and `phoenix.toml` | [`config`] |
//! | log lines and OTLP export | [`telemetry`], [`logging`] |
//! | what spans contain | [`spans`], [`semconv`] |
//! | counters and histograms, `/metrics` | [`metrics`], [`rpc_metrics`] |
//! | correlation id, trace context and deadline across processes | [`propagation`] |
//! | gRPC servers and clients | [`server`], [`client`] |
//! | many calls on one stream | [`multiplex`] |
//! | the agents of all executors | [`catalogs`] |
//! | authentication and host checks | [`identity`], [`service_token`], [`tls`], [`bearer`], [`loopback`] |
//! | readiness | [`readiness`] |
//! | ports, connections and signals | [`listener`], [`connections`], [`shutdown`] |
//! | databases: their URLs, SQLite, PostgreSQL | [`database_url`], [`sqlite`], [`postgres`] |
//! | file modes and process isolation | [`privacy`] |
//!
//! The only process globals are the tracing subscriber, the tracer beside it and the metrics recorder; everything else is passed as a value.

pub mod bearer;
pub mod catalogs;
pub mod client;
pub mod config;
pub mod connections;
pub mod database_url;
mod http2;
pub mod identity;
pub mod listener;
pub mod log_limit;
pub mod logging;
pub mod loopback;
pub mod metrics;
pub mod multiplex;
pub mod postgres;
pub mod privacy;
pub mod propagation;
pub mod readiness;
mod reflection;
pub mod rpc_metrics;
pub mod semconv;
pub mod server;
pub mod service_token;
pub mod shutdown;
pub mod spans;
pub mod sqlite;
pub mod telemetry;
pub mod tls;

pub use metrics::{init_metrics, record_counter, record_histogram};
pub use propagation::{RequestContext, correlation_span};
pub use telemetry::init_tracing;
