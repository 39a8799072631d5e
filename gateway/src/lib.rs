//! The gateway: REST in front, gRPC behind, nothing of its own in between.
//!
//! ```text
//! server      connections: accept, time limits, drain
//! ├─ unrouted     bodies for what the HTTP library refuses by itself
//! router      every route and every layer, at a glance
//! ├─ headers      security headers, CORS
//! ├─ correlation  one id, one span and one deadline per request
//! ├─ auth         the bearer token
//! ├─ observe      one counter, one duration and one log line per request; panics become answers
//! ├─ bodies       what bodies may take while they are read
//! ├─ extract      JSON bodies, every mistake with its field
//! ├─ members      members of bodies: objects, whole numbers, null for absent
//! ├─ wording      what a decoder says, in words for callers
//! ├─ query        query strings, every mistake with its parameter
//! ├─ accept       lists in headers, and which media type a caller prefers
//! ├─ delivery     how a caller wants its answer: now or later, once or as it comes
//! ├─ routes/      the endpoints: decode, call, encode
//! ├─ calls        what is asked of the planner, each call with its time limit
//! ├─ plan_stream  a plan's stream, through the planner's restarts
//! └─ problem      every failure as the body its endpoint promises
//! ```
//!
//! Wire types stop in `routes/`; what a chat may be is decided by [`phoenix_domain::chat`], what may be planned by the
//! planner. An endpoint is a function in `routes/`, a line in `router`, and a row in [`metrics`].

mod accept;
mod auth;
mod bodies;
mod calls;
mod config;
mod correlation;
mod delivery;
mod extract;
mod headers;
mod members;
pub mod metrics;
mod observe;
mod peers;
mod plan_stream;
mod problem;
mod query;
mod router;
mod routes;
mod server;
mod unrouted;
mod wording;

use phoenix_platform::connections::{Options, Protocol};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use config::GatewayConfig;
pub use routes::openapi::document as openapi_document;

/// Why the gateway could not serve, or stopped before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A setting can't be used.
    #[error("{setting}: {problem}")]
    Setting {
        /// Its name in the environment or in `phoenix.toml`.
        setting: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The listener is of no use.
    #[error("listener: {0}")]
    Listener(#[from] std::io::Error),
}

impl ServeError {
    fn setting(setting: &'static str, problem: impl ToString) -> Self {
        Self::Setting { setting, problem: problem.to_string() }
    }
}

/// Serves REST on `listener` until `shutdown`, then lets the requests in flight end.
///
/// # Errors
/// When a setting can't be used, before anything is served; or when the listener breaks.
pub async fn serve(
    config: GatewayConfig,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let addr = listener.local_addr()?;
    if config.token().is_none() && !addr.ip().is_loopback() {
        return Err(ServeError::setting(
            "ORCH_API_TOKEN",
            format_args!("must be set to serve on {addr}, which others can reach"),
        ));
    }
    let gateway = peers::Gateway::new(&config, shutdown.clone())?;
    let router = router::build(&config, gateway.clone())?;
    let options = Options::new(Protocol::Http);
    let overdue = options.overdue.clone();
    tokio::select! {
        served = server::run(listener, router, options, shutdown) => served?,
        never = gateway.leave_when(overdue) => never,
    }
    // Each of these has a time limit of its own.
    gateway.afterwards.close();
    gateway.afterwards.wait().await;
    Ok(())
}
