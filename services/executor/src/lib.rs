//! The executor: runs agents as supervised processes.
//!
//! ```text
//!  grpc.rs ──▶ executor.rs ──▶ executor/run.rs ──▶ agents/<mode>.rs ──▶ process.rs
//!  decode      limits.rs       attempts,           one attempt           spawn, kill, reap
//!  encode      running.rs      retries, the end    output.rs, response.rs
//!     ▲                             │
//!     └────── task.rs (events) ◀────┴──▶ health_reports.rs
//! ```
//!
//! A task is driven by the stream of its events: who listens keeps it going, who leaves cancels it. What must be finished
//! all the same goes to `cleanup.rs`.
//!
//! What an attempt started is gone when it ends: its process group is killed (process.rs), and so is what left the group
//! and became a child of the executor (reaper.rs). No agent process outlives the executor:
//!
//! ```text
//! SIGTERM          running tasks finish or run out of drain time, then every group is killed, then every process that
//!                  still carries the marker, then every child that is left
//! serve() dropped  every group is killed
//! SIGKILL          guard.rs notices and kills every process that carries the marker, what that started, and the
//!                  executor's last children
//! guard killed too the next executor finds them (orphans.rs)
//! ```

mod agents;
mod cleanup;
pub mod config;
mod executor;
mod failure;
mod grpc;
pub mod guard;
mod health_reports;
mod limits;
pub mod metrics;
mod orphans;
mod output;
mod pipes;
mod process;
mod processes;
mod reaper;
mod redact;
mod registry;
mod response;
mod running;
mod task;

use std::{sync::Arc, time::Duration};

use phoenix_domain::{
    action::{ActionRequest, ActionResult},
    llm::LlmSettings,
};
use phoenix_platform::{
    client::InvalidUrl,
    readiness::Readiness,
    record_counter,
    server::{self, GrpcServer, MAX_MESSAGE_BYTES},
};
use phoenix_proto::executor::executor_service_server::ExecutorServiceServer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use config::ExecutorConfig;

use crate::{
    cleanup::Cleanup,
    executor::Executor,
    grpc::ExecutorGrpc,
    guard::{GUARD_CONDITION, Guard},
    metrics::ORPHANS_KILLED,
    orphans::{Marker, Presence},
    process::Origin,
    reaper::Reaper,
    redact::Redactor,
    running::RunningTasks,
};

/// How long processes and reports may take to end once the server has.
const CLEANUP_LIMIT: Duration = Duration::from_secs(5);

/// Why the service could not start, or ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is nowhere to report to.
    #[error("HEALTH_URL {0}")]
    HealthUrl(#[from] InvalidUrl),
    /// The gRPC server broke.
    #[error(transparent)]
    Server(#[from] server::ServeError),
}

/// Serves `phoenix.executor.v1.ExecutorService` on `listener` until `shutdown`. No agent process is left when it returns;
/// dropping the future ends them too, in the background.
///
/// # Errors
/// When the URL of the health service can't be used, or the server breaks.
pub async fn serve(
    config: ExecutorConfig,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let stop = CancellationToken::new();
    let stop_on_drop = stop.clone().drop_guard();
    let marker = Marker::new();
    let presence = Presence::establish(&marker).inspect_err(|error| {
        tracing::warn!(%error, "no lock file for this executor; a later one will not end what it leaves behind");
    });
    let origin = Origin { registry: Arc::default(), marker: marker.clone() };
    let registry = Arc::clone(&origin.registry);
    let reaper =
        config.adopts_orphans.then(|| Reaper::start(Arc::clone(&registry), marker.clone())).flatten();
    let running = RunningTasks::new(stop.clone());
    let cleanup = Cleanup::new(stop);
    let executor = Executor::new(&config, &origin, running.clone(), cleanup.clone())?;

    let conditions: &[_] = if config.guard.is_some() { &[GUARD_CONDITION] } else { &[] };
    let readiness = Readiness::needing(conditions);
    let token = config.service_token;
    let guard = config.guard.map(|command| Guard::keep(command, marker.clone(), registry, readiness.clone()));
    // On the side: they are nobody's business but ours.
    tokio::task::spawn_blocking(end_orphans);

    let executor = ExecutorGrpc::new(executor);
    let service = ExecutorServiceServer::new(executor.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let server = GrpcServer::new(readiness, token)
        .add_service(service)
        .add_multiplexed(executor)
        .serve(listener, shutdown.clone());
    let served = tokio::select! {
        served = server => served,
        never = tell_running(&running, &shutdown) => never,
    };

    drop(stop_on_drop);
    if !cleanup.finish(CLEANUP_LIMIT).await {
        tracing::warn!("gave up waiting for agent processes to end");
    }
    let _ = tokio::task::spawn_blocking(move || orphans::kill_marked(&marker.to_string(), &[], 1)).await;
    if let Some(reaper) = reaper {
        reaper.finish().await;
    }
    if let Some(guard) = guard {
        guard.release().await;
    }
    drop(presence);
    Ok(served?)
}

fn end_orphans() {
    let killed = orphans::kill_orphans();
    if killed > 0 {
        record_counter(&ORPHANS_KILLED, killed as u64);
        tracing::warn!(killed, "ended agent processes that an earlier executor left behind");
    }
}

/// Says at shutdown what the drain waits for.
async fn tell_running<T>(running: &RunningTasks, shutdown: &CancellationToken) -> T {
    shutdown.cancelled().await;
    tracing::info!(tasks = running.len(), "waiting for running tasks");
    std::future::pending().await
}

/// Parses the response line of an agent to `request`. For fuzzing.
///
/// # Errors
/// The failure that the line causes.
#[doc(hidden)]
pub fn parse_response_line(line: &[u8], request: &ActionRequest) -> Result<ActionResult, String> {
    let redactor = Redactor::new(&LlmSettings::default());
    response::read(line, request, &redactor).map_err(|failure| failure.deed)
}
