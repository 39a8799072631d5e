//! The gateway: REST in front, gRPC behind.
//!
//! Modules from top to bottom; each imports only modules below it:
//!
//! ```text
//! server            connections: accept, time limits, drain
//! ├─ unparsed         error bodies for requests that the HTTP library rejects
//! router            every route and every layer
//! ├─ headers          security headers, CORS
//! ├─ correlation      correlation id of every response, error bodies
//! ├─ auth             bearer token, hosts and origins
//! ├─ observe          counters and the access log; panics become responses
//! routes/           the endpoints: decode, call, encode; openai/, responses/ and anthropic/ are the APIs of models, mcp/ is that of tools
//! plan_stream       the stream of a plan, through restarts of the planner
//! planner_client    calls to the planner, each with a time limit
//! clients           channels to planner, executor and health service
//! delivery          how a caller wants its response: Prefer, Accept, on_disconnect, Idempotency-Key
//! extract           JSON bodies
//! request_scope     correlation id, span and deadline of a request
//! ├─ bodies           memory of request bodies
//! ├─ action_tools     actions of agents as tools
//! ├─ query, accept    query strings; lists in headers
//! problem           error responses
//! wire/             bodies of requests and responses
//! members           objects, whole numbers and null in bodies
//! decode_error      messages of decoding errors
//! ```
//!
//! An endpoint is a function in `routes/`, a line in `router`, and a row in [`metrics`]. [`phoenix_domain::chat`] validates
//! chats, the planner validates plans.

mod accept;
mod access_log;
mod action_tools;
mod auth;
mod bodies;
mod budget_header;
mod clients;
mod config;
mod correlation;
mod decode_error;
mod delivery;
mod error;
mod extract;
mod header_names;
mod headers;
mod members;
pub mod metrics;
mod observe;
mod plan_stream;
mod planner_client;
mod problem;
mod query;
mod rejections;
mod request_scope;
mod router;
mod routes;
mod server;
mod unparsed;
mod wire;

use phoenix_platform::{
    connections::{Options, Protocol},
    tls::PublicTls,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use config::GatewayConfig;
pub use error::ServeError;
pub use routes::openapi::document as openapi_document;

/// Serves REST on `listener` until `shutdown`, then drains the requests in flight.
///
/// # Errors
/// When a setting is invalid, before anything is served; or when the listener breaks.
pub async fn serve(
    config: GatewayConfig,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let addr = listener.local_addr()?;
    if config.token().is_none() && !addr.ip().is_loopback() {
        return Err(ServeError::setting(
            "ORCH_API_TOKEN",
            format_args!("must be set to serve on {addr}, which is reachable from other machines"),
        ));
    }
    let gateway = clients::Gateway::new(&config, shutdown.clone())?;
    let router = router::build(&config, gateway.clone())?;
    let options = Options::new(Protocol::Http).with_tls(config.tls.as_ref().map(PublicTls::server));
    let overdue = options.overdue.clone();
    tokio::select! {
        served = server::run(listener, router, options, shutdown) => served?,
        never = gateway.abort_calls_when(overdue) => never,
    }
    // Each background task has a time limit of its own.
    gateway.background.close();
    gateway.background.wait().await;
    Ok(())
}
