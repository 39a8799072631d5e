//! The planner service: decides which agents run, journals every step, and answers with the result.
//!
//! | module | responsibility |
//! |---|---|
//! | [`grpc`] | gRPC service: decode, call, encode |
//! | [`service`] | facade: the operations on plans |
//! | `submission`, `redrive`, `cancellation`, `recovery` | plans that start, run again, are cancelled, are taken over |
//! | `approvals` | decisions about tasks that wait for an approval |
//! | [`background`] | retention, bulk operations, gauges, the agents that executors offer |
//! | `plan_stream` | a plan followed from its acceptance to its result |
//! | `plan_trace` | the trace of a plan across its requests and planners |
//! | `plan_feed` | the events and the output of a plan, whichever planner runs it |
//! | `plan_run` | the run of one plan: scheduler, tasks, dispatch |
//! | `peers` | calls to other planners |
//! | `proposals` | tasks that are proposed and do not run |
//! | `idempotency` | requests that are sent twice |
//! | `budgets` | what calls reserve and use |
//! | `usage_metrics` | metrics of calls of language models |
//! | `deps` | dependencies that all of these share |
//! | [`planning`] | pure: a request becomes a plan |
//! | [`admission`] | which task may be dispatched now |
//! | [`agent_health`] | whether an agent may run a task now |
//! | [`events`] | event streams of plans |
//! | `live` | what running tasks have said so far |
//! | [`journal`] | durable writes, ownership, watchers |
//! | [`store`] | the database of the journal |
//!
//! A module uses modules further down only.

pub mod admission;
pub mod agent_health;
pub mod agent_time;
mod approvals;
pub mod background;
mod budgets;
mod cancellation;
pub mod config;
pub mod deps;
pub mod events;
pub mod grpc;
mod idempotency;
pub mod journal;
mod live;
pub mod metrics;
mod peers;
mod plan_feed;
pub mod plan_metrics;
mod plan_run;
mod plan_stream;
mod plan_trace;
pub mod planning;
mod proposals;
mod recovery;
mod redrive;
pub mod service;
pub mod store;
mod submission;
mod usage_metrics;

use std::time::Duration;

use phoenix_platform::{
    catalogs::{self, CatalogView, Follow},
    client::{self, InvalidUrl, PeerAddresses},
    identity::ServiceIdentity,
    server::{self, GrpcServer, MAX_MESSAGE_BYTES},
};
use phoenix_proto::planner::planner_service_server::PlannerServiceServer;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use config::PlannerConfig;

use crate::{
    agent_health::HealthView,
    background::{agents, gauges, retention},
    deps::Limits,
    grpc::PlannerGrpc,
    journal::Journal,
    service::Planner,
};

/// How long plans that the shutdown cancelled may take to record their end, and background work to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Reasons why the planner cannot start or stops early.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] journal::StartError),
    /// Another planner has taken over.
    #[error("another planner took this one for dead and went on with its plans")]
    Fenced,
    /// The URL of a peer is invalid.
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    /// The server failed.
    #[error(transparent)]
    Server(#[from] server::ServeError),
}

/// Serves until `shutdown`, then waits for the plans in flight.
///
/// # Errors
/// When the journal cannot be used or the server fails.
pub async fn serve(
    config: PlannerConfig,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let PlannerConfig {
        default_agent,
        agent_grace,
        max_plans_in_flight,
        takeover_grace,
        database_url,
        database_pooler,
        executor_url,
        health_url,
        advertise_url,
        identity,
        budgets,
        planning,
        retention,
        readiness,
    } = config;
    readiness.require(&["journal", "takeover", "executor", "health"]);
    let executors = PeerAddresses::of(&executor_url)?;
    let health = HealthView::new(client::channel(&health_url, &identity)?);
    let opening = Journal::open_behind(database_url.expose(), database_pooler, readiness.clone());
    // It may wait for a database that is down.
    let Some(opened) = shutdown.run_until_cancelled(opening).await else { return Ok(()) };
    let journal = opened?;
    advertise(&journal, advertise_url.or_else(|| served_url(&listener, &identity))).await;
    let (plans, key_ttl) = (max_plans_in_flight, retention.keys);
    let limits = Limits { plans, key_ttl, takeover_grace, budgets, planning };
    let stopping = shutdown.child_token();
    let known = CatalogView::new(default_agent, agent_grace);
    let planner =
        Planner::new(known.clone(), limits, journal.clone(), health.clone(), identity.clone(), stopping);
    let (background, stop) = (TaskTracker::new(), CancellationToken::new());
    // Stops background work on every return.
    let _stop_background = stop.clone().drop_guard();
    background.spawn(health.follow(readiness.clone(), stop.clone()));
    let (what, caller) = (Follow::AgentsAndLoad, identity.clone());
    background.spawn(catalogs::follow(known, what, executors, caller, stop.clone()));
    background.spawn(agents::run(planner.deps(), readiness.clone(), stop.clone()));
    background.spawn(retention::run(journal.clone(), retention, stop.clone()));
    background.spawn(gauges::run(journal.clone(), planner.deps(), stop.clone()));
    background.spawn(planner.recovery().run(readiness.clone(), stop.clone()));
    background.spawn(planner.cancellation().follow_requests(stop.clone()));
    background.spawn(planner.approvals().follow(stop.clone()));
    let grpc = PlannerGrpc::new(planner.clone(), shutdown.clone());
    let service = PlannerServiceServer::new(grpc.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let server = GrpcServer::new(readiness, identity).add_service(service).add_multiplexed(grpc);
    tokio::select! {
        served = server.serve(listener, shutdown) => served?,
        () = journal.fenced().cancelled() => return Err(ServeError::Fenced),
    }
    planner.drained(DRAIN_TIMEOUT).await;
    stop.cancel();
    background.close();
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, background.wait()).await;
    journal.close().await;
    Ok(())
}

/// The URL of a listener with one address.
fn served_url(listener: &TcpListener, identity: &ServiceIdentity) -> Option<String> {
    let addr = listener.local_addr().ok().filter(|addr| !addr.ip().is_unspecified())?;
    let scheme = if identity.tls.is_some() { "https" } else { "http" };
    Some(format!("{scheme}://{addr}"))
}

/// Tells the other planners of the journal where to reach this one.
async fn advertise(journal: &Journal, url: Option<String>) {
    let Some(url) = url else {
        tracing::info!(
            "this planner advertises no URL; other planners cancel its plans through the journal. Set PLANNER_ADVERTISE_URL to change that"
        );
        return;
    };
    match journal.advertise(&url).await {
        Ok(()) => tracing::info!(url, "URL for other planners registered"),
        Err(error) => {
            tracing::warn!(url, %error, "the URL for other planners cannot be registered; they use the journal");
        }
    }
}
