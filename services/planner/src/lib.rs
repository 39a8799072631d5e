//! The planner: decides which agents run, journals every step, answers what happened.
//!
//! | module | what |
//! |---|---|
//! | [`grpc`] | the service: decode, call, encode |
//! | [`planner`] | plans: asked for, cancelled |
//! | [`make`] | from what a caller asks for to a plan |
//! | `keys` | requests that are sent twice |
//! | [`admission`] | who may hand a task over now, and who waits |
//! | `accept` | a new plan on its way |
//! | [`redrive`] | plans that are taken up again |
//! | [`sweep`] | many dead letters at once |
//! | `flight` | a plan in flight: its turn, its run, its end |
//! | [`run`] | the tasks of one plan |
//! | [`watch`] | what happens to a plan, as it happens |
//! | [`routing`] | which agent a message is meant for |
//! | [`agent_health`] | may the agent run now? |
//! | [`execution`] | one task, through the executor |
//! | [`agent_time`] | how long agents worked for a plan |
//! | [`retention`] | what is old goes |
//! | [`journal`] | every step, durable before anybody is told of it |
//! | [`store`] | where the journal is kept |

mod accept;
pub mod admission;
pub mod agent_health;
pub mod agent_time;
pub mod config;
pub mod execution;
mod flight;
pub mod grpc;
pub mod journal;
mod keys;
pub mod make;
pub mod metrics;
pub mod planner;
pub mod redrive;
pub mod retention;
pub mod routing;
pub mod run;
mod running;
pub mod store;
pub mod sweep;
pub mod watch;

use std::time::Duration;

use phoenix_platform::{
    client::{self, InvalidUrl, PeerChannel},
    readiness::Readiness,
    server::{self, GrpcServer, MAX_MESSAGE_BYTES},
};
use phoenix_proto::planner::planner_service_server::PlannerServiceServer;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use config::PlannerConfig;

use crate::{
    agent_health::HealthView,
    execution::TaskRunner,
    grpc::PlannerGrpc,
    journal::Journal,
    metrics::PlanMeters,
    planner::{Limits, Planner},
};

/// How often the executor is asked whether it can take work.
const EXECUTOR_CHECK: Duration = Duration::from_millis(500);

/// How often unfinished plans of other planners are looked for.
const TAKE_OVER_EVERY: Duration = Duration::from_millis(500);

/// How often requests to cancel plans are looked for that other planners have written.
const CANCELS_EVERY: Duration = Duration::from_millis(250);

/// How long plans that were cancelled by the shutdown may take to write their end, and watchers to notice theirs.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Why the planner could not start, or ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The journal can't be opened.
    #[error(transparent)]
    Journal(#[from] journal::StartError),
    /// Another planner has taken over.
    #[error("another planner took this one for dead and went on with its plans")]
    Fenced,
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
    let PlannerConfig {
        agents,
        max_plans_in_flight,
        takeover_grace,
        database_url,
        executor_url,
        health_url,
        service_token,
        retention,
    } = config;
    let readiness = Readiness::needing(&["journal", "takeover", "executor", "health"]);
    let executor = client::channel(&executor_url, &service_token)?;
    let health = HealthView::new(client::channel(&health_url, &service_token)?);
    let journal = Journal::open(&database_url, readiness.clone()).await?;
    let runner = TaskRunner::new(executor.clone(), journal.clone(), health.clone());
    let (meters, stopping) = (PlanMeters::new(), shutdown.child_token());
    let limits = Limits { plans: max_plans_in_flight, key_life: retention.keys, takeover_grace };
    let planner = Planner::new(agents, limits, journal.clone(), health.clone(), runner, meters, stopping);
    // Ends the watchers however this function ends.
    let (watchers, watching) = (TaskTracker::new(), CancellationToken::new());
    let _stop_watching = watching.clone().drop_guard();
    watchers.spawn(health.follow(readiness.clone(), watching.clone()));
    watchers.spawn(follow_executor(executor, readiness.clone(), watching.clone()));
    watchers.spawn(retention::run(journal.clone(), retention, watching.clone()));
    watchers.spawn(sweep::measure(journal.clone(), watching.clone()));
    watchers.spawn(metrics::measure_oldest(journal.clone(), watching.clone()));
    watchers.spawn(take_over(planner.clone(), readiness.clone(), watching.clone()));
    watchers.spawn(follow_cancels(planner.clone(), watching.clone()));
    let grpc = PlannerGrpc::new(planner.clone(), shutdown.clone());
    let service = PlannerServiceServer::new(grpc.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let server = GrpcServer::new(readiness, service_token).add_service(service).add_multiplexed(grpc);
    tokio::select! {
        served = server.serve(listener, shutdown) => served?,
        () = journal.fenced().cancelled() => return Err(ServeError::Fenced),
    }
    planner.drained(LAST_WORDS).await;
    watching.cancel();
    watchers.close();
    let _ = tokio::time::timeout(LAST_WORDS, watchers.wait()).await;
    journal.close().await;
    Ok(())
}

/// Looks for plans whose planner is gone, until `stop`. Meets the condition `takeover` of `readiness` while they can be
/// looked for: a planner that can't read the journal is none to count on.
async fn take_over(planner: Planner, readiness: Readiness, stop: CancellationToken) {
    let mut trouble_told = false;
    while !stop.is_cancelled() {
        let recovered = planner.recover().await;
        readiness.set("takeover", recovered.is_ok());
        match recovered {
            Ok(plans) => {
                trouble_told = false;
                if plans > 0 {
                    metrics::recovered_now();
                    tracing::warn!(plans, "plans of a planner that stopped were taken over");
                }
            }
            Err(error) if !std::mem::replace(&mut trouble_told, true) => {
                tracing::error!(%error, "unfinished plans cannot be looked for; it is tried again");
            }
            Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(TAKE_OVER_EVERY) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Cancels plans of this planner that others were asked to cancel, until `stop`.
async fn follow_cancels(planner: Planner, stop: CancellationToken) {
    let mut every = tokio::time::interval(CANCELS_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(every.tick()).await.is_some() {
        if let Err(error) = planner.cancel_requested().await {
            // The writer reports a journal that can't be used.
            tracing::debug!(%error, "requests to cancel plans cannot be read");
        }
    }
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
