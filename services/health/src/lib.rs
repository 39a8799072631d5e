//! The health service: the only owner of agents' health and of their circuit breakers.
//!
//! ```text
//!  grpc.rs ──▶ health.rs ──queue──▶ writer.rs ──one transaction per batch──▶ store.rs (SQLite or PostgreSQL)
//!     ▲            ▲                    │ ◀──────── changes of other processes ────┘
//!     │            └── memory ◀─────────┤ published after each commit
//!     └── watch.rs ◀── memory ◀─────────┘
//! ```
//!
//! The agents, their circuit breakers and their time limits come from the executors' catalogs.
//!
//! Changes (an outcome, a lease for a probe) wait in a queue; the writer commits all that arrived during its last commit,
//! and answers each caller after the commit. Reads and watches come from memory and continue while the disk does not
//! work. The rules are the pure state machine of [`phoenix_domain::health`].
//!
//! Several processes on one table cannot lose an update, because every change is read, applied and written inside one
//! transaction that holds its rows. On PostgreSQL each follows the changes of the others: a notification is a hint, and the table
//! is read every second in any case. The memory of a second process on one file of SQLite may be older than the file.

mod change;
pub mod config;
mod grpc;
mod health;
pub mod metrics;
mod processes;
mod store;
mod watch;
mod writer;

use phoenix_domain::catalog::AGENT_GRACE;
use phoenix_platform::{
    catalogs::{self, CatalogView, Follow},
    client::{InvalidUrl, PeerAddresses},
    server::{self, GrpcServer, MAX_MESSAGE_BYTES},
};
use phoenix_proto::health_v1::agent_health_service_server::AgentHealthServiceServer;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub use config::HealthConfig;
pub use store::{OpenError, POSTGRES_CONNECTIONS, POSTGRES_SCHEMA, StoreError};

use crate::{grpc::HealthGrpc, health::Health, store::Store, writer::STORE_CONDITION};

/// Reason why the service could not start, or stopped early.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The database cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The content of the database cannot be read.
    #[error("the health database cannot be read: {0}")]
    Read(#[from] StoreError),
    /// The URL of the executor is invalid.
    #[error("EXECUTOR_URL {0}")]
    ExecutorUrl(#[from] InvalidUrl),
    /// The gRPC server failed.
    #[error(transparent)]
    Server(#[from] server::ServeError),
    /// The writer panicked; without it no change can be recorded.
    #[error("the writer of the health database failed: {0}")]
    Writer(tokio::task::JoinError),
}

/// Serves `phoenix.health.v1.AgentHealthService` on `listener` until `shutdown`.
///
/// # Errors
/// When the URL of the executor is invalid, the database cannot be opened, migrated or read, or the server fails.
pub async fn serve(
    config: HealthConfig,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let HealthConfig { executor_url, database_url, database_pooler, identity, readiness } = config;
    readiness.require(&[STORE_CONDITION]);
    let executors = PeerAddresses::of(&executor_url)?;
    // The start may wait for the database.
    let opening = Store::open(&database_url, database_pooler);
    let Some(store) = shutdown.run_until_cancelled(opening).await.transpose()? else { return Ok(()) };
    let agents = CatalogView::new(None, AGENT_GRACE);
    let (health, writer) = Health::start(agents.clone(), store, readiness.clone());
    let (what, caller) = (Follow::Agents, identity.clone());
    let following = catalogs::follow(agents, what, executors, caller, shutdown.clone());
    // Ends with this future.
    let _follower = AbortOnDropHandle::new(tokio::spawn(following));

    let service = AgentHealthServiceServer::new(HealthGrpc::new(health, shutdown.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let server = GrpcServer::new(readiness, identity).add_service(service).serve(listener, shutdown);

    // The writer outlives the server, so that drained calls are still committed.
    let stop = CancellationToken::new();
    let mut writer = tokio::spawn(writer.run(stop.clone()));
    let served = tokio::select! {
        served = server => served,
        ended = &mut writer => return Ok(ended.map_err(ServeError::Writer)??),
    };
    stop.cancel();
    writer.await.map_err(ServeError::Writer)??;
    Ok(served?)
}
