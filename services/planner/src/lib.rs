//! The planner: decides which agents run, journals every step, answers what happened.
//!
//! | module | what |
//! |---|---|
//! | [`grpc`] | the service: decode, call, encode |
//! | [`planner`] | the life of a plan |
//! | [`routing`] | which agent a message is meant for |
//! | [`agent_health`] | may the agent run now? |
//! | [`execution`] | one task, through the executor |
//! | [`store`] | the journal |

pub mod agent_health;
pub mod config;
pub mod execution;
pub mod grpc;
pub mod metrics;
pub mod planner;
pub mod routing;
pub mod store;

use std::time::Duration;

use phoenix_domain::{OrchestratorError, OrchestratorErrorCode};
use phoenix_platform::{
    client::{self, InvalidUrl, PeerChannel},
    readiness::Readiness,
    server::{self, GrpcServer, MAX_MESSAGE_BYTES},
    sqlite::OpenError,
};
use phoenix_proto::planner::planner_service_server::PlannerServiceServer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use config::PlannerConfig;

use crate::{
    agent_health::HealthView, execution::TaskRunner, grpc::PlannerGrpc, planner::Planner, store::Journal,
};

/// How often the executor is asked whether it can take work.
const EXECUTOR_CHECK: Duration = Duration::from_millis(500);

/// How long plans that were cancelled by the shutdown may take to write their end.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Why the planner could not start, or ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The journal can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The journal can't be brought in order.
    #[error(transparent)]
    Journal(#[from] store::JournalError),
    /// A peer's address is of no use.
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    /// The server broke.
    #[error(transparent)]
    Server(#[from] server::ServeError),
}

/// Serves until `shutdown`; plans in flight then end first.
///
/// # Errors
/// When the journal can't be used or the server breaks.
pub async fn serve(
    config: PlannerConfig,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let PlannerConfig { agents, database_url, executor_url, health_url } = config;
    let readiness = Readiness::needing(&["journal", "executor", "health"]);
    let executor = client::channel(&executor_url)?;
    let health = HealthView::new(client::channel(&health_url)?);
    let journal = Journal::open(&database_url, readiness.clone()).await?;
    let interrupted = journal.end_interrupted(&interrupted()).await?;
    if interrupted > 0 {
        tracing::warn!(plans = interrupted, "plans that the last planner left behind were ended as failed");
    }
    let runner = TaskRunner::new(executor.clone(), journal.clone(), health.clone());
    let planner = Planner::new(agents, journal, health.clone(), runner);
    // Ends the two watchers however this function ends.
    let watching = CancellationToken::new();
    let _stop_watching = watching.clone().drop_guard();
    tokio::spawn(health.follow(readiness.clone(), watching.clone()));
    tokio::spawn(follow_executor(executor, readiness.clone(), watching));
    let service = PlannerServiceServer::new(PlannerGrpc::new(planner.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    GrpcServer::new(readiness).add_service(service).serve(listener, shutdown).await?;
    planner.drained(LAST_WORDS).await;
    Ok(())
}

fn interrupted() -> OrchestratorError {
    OrchestratorError::new(
        OrchestratorErrorCode::AgentUnavailable,
        "the planner stopped while this plan ran; send it again",
    )
}

/// Keeps the condition `executor` true to what the executor says of itself.
async fn follow_executor(executor: PeerChannel, readiness: Readiness, stop: CancellationToken) {
    // Quick until it is there for the first time, so that a stack starts fast.
    let mut every = Duration::from_millis(20);
    while !stop.is_cancelled() {
        let serving = client::is_serving(executor.clone(), EXECUTOR_CHECK).await;
        readiness.set("executor", serving);
        if serving {
            every = EXECUTOR_CHECK;
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = stop.cancelled() => {}
        }
    }
}
