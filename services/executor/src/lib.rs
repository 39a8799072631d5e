//! The executor: runs agents as supervised processes.
//!
//! ```text
//!  grpc.rs ──▶ executor.rs ──▶ executor/task_run.rs ──▶ agents/<mode>.rs ──▶ process.rs
//!  decode      task_queue.rs   attempts, retries       one attempt           spawn, kill, reap
//!  encode      running.rs           │                  output.rs, response.rs
//!     ▲                             │
//!     ├────── task.rs (events) ◀────┴──▶ health_reports.rs
//!     └────── catalog.rs ◀── load.rs
//! ```
//!
//! A task runs while the stream of its events is polled; dropping the stream cancels it. Work that must be finished in
//! any case goes to `cleanup.rs`.
//!
//! No process of an attempt outlives it: its process group is killed (process.rs), and so are the processes that left the
//! group and became children of the executor (reaper.rs). No agent process outlives the executor:
//!
//! ```text
//! SIGTERM          running tasks finish or exceed the drain time, then every group is killed, then every process that
//!                  still carries the marker, then every remaining child
//! serve() dropped  every group is killed
//! SIGKILL          guard.rs kills every process that carries the marker, everything those started, and the
//!                  executor's last children
//! guard killed too the next executor finds them (orphans.rs)
//! ```

mod agents;
mod catalog;
mod cleanup;
pub mod config;
mod executor;
mod failure;
mod grpc;
pub mod guard;
mod health_reports;
mod load;
pub mod metrics;
mod observed;
mod orphans;
mod output;
mod pipes;
mod priority;
mod process;
mod processes;
mod published;
mod reaper;
mod redact;
mod registry;
mod response;
mod running;
mod settings_socket;
mod start_slots;
mod task;
mod task_queue;

use std::{sync::Arc, time::Duration};

use phoenix_domain::{
    action::{ActionRequest, ActionResult},
    llm::LlmSettings,
};
use phoenix_platform::{
    client::InvalidUrl,
    record_counter,
    server::{self, GrpcServer, MAX_MESSAGE_BYTES},
};
use phoenix_proto::executor::executor_service_server::ExecutorServiceServer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use catalog::CatalogTooLarge;
pub use config::ExecutorConfig;

use crate::{
    catalog::CatalogFeed,
    cleanup::Cleanup,
    executor::Executor,
    grpc::ExecutorGrpc,
    guard::{GUARD_CONDITION, Guard},
    metrics::ORPHANS_KILLED,
    orphans::{ExecutorLock, Marker},
    priority::AgentPriority,
    process::ExecutorIdentity,
    reaper::Reaper,
    redact::Redactor,
    running::RunningTasks,
    start_slots::StartSlots,
};

/// Time that processes and reports may take after the server has stopped.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Reason why the service could not start, or stopped early.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The URL of the health service is invalid.
    #[error("HEALTH_URL {0}")]
    HealthUrl(#[from] InvalidUrl),
    /// There are too many agents, or their schemas are too large.
    #[error(transparent)]
    Catalog(#[from] CatalogTooLarge),
    /// The gRPC server failed.
    #[error(transparent)]
    Server(#[from] server::ServeError),
}

/// Warns about configured models whose end their provider has announced.
fn warn_of_retired_models(llm: &LlmSettings) {
    for (provider, model) in llm.retired_models() {
        tracing::warn!(
            provider = provider.name,
            model = provider.model_name,
            setting = provider.setting("model_name"),
            end = model.end,
            successor = model.successor,
            "the provider shuts the configured model down"
        );
    }
}

/// Serves `phoenix.executor.v1.ExecutorService` on `listener` until `shutdown`. No agent process is left when it returns;
/// dropping the future kills them too, in the background.
///
/// # Errors
/// When the URL of the health service is invalid, the catalog is too large, or the server fails.
pub async fn serve(
    config: ExecutorConfig,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    warn_of_retired_models(&config.llm);
    let stop = CancellationToken::new();
    let stop_on_drop = stop.clone().drop_guard();
    let marker = Marker::new();
    let lock = ExecutorLock::acquire(&marker).inspect_err(|error| {
        tracing::warn!(%error, "no lock file for this executor; a later one cannot kill its orphans");
    });
    let identity = ExecutorIdentity {
        registry: Arc::default(),
        marker: marker.clone(),
        start_slots: StartSlots::of_this_machine(),
        agent_priority: AgentPriority::below_this_process(config.agent_nice),
    };
    let registry = Arc::clone(&identity.registry);
    let reaper =
        config.adopts_orphans.then(|| Reaper::start(Arc::clone(&registry), marker.clone())).flatten();
    let running = RunningTasks::new(stop.clone());
    let cleanup = Cleanup::new(stop);
    let executor = Executor::new(&config, &identity, running.clone(), cleanup.clone())?;
    let catalog = CatalogFeed::new(executor.published().clone(), &config.labels, executor.loads())?;

    let conditions: &[_] = if config.guard.is_some() { &[GUARD_CONDITION] } else { &[] };
    let readiness = config.readiness;
    readiness.require(conditions);
    let presented = config.identity;
    let guard =
        config.guard.map(|command| Guard::supervise(command, marker.clone(), registry, readiness.clone()));
    // In the background, because the service does not depend on it.
    tokio::task::spawn_blocking(kill_orphans);

    let executor = ExecutorGrpc::new(executor, catalog, readiness.clone(), shutdown.clone());
    let service = ExecutorServiceServer::new(executor.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let server = GrpcServer::new(readiness, presented)
        .add_service(service)
        .add_multiplexed(executor)
        .serve(listener, shutdown.clone());
    let served = tokio::select! {
        served = server => served,
        never = log_drain(&running, &shutdown) => never,
    };

    drop(stop_on_drop);
    if !cleanup.finish(CLEANUP_TIMEOUT).await {
        tracing::warn!("agent processes did not exit in time");
    }
    let _ = tokio::task::spawn_blocking(move || orphans::kill_marked(&marker.to_string(), &[], 1)).await;
    if let Some(reaper) = reaper {
        reaper.finish().await;
    }
    if let Some(guard) = guard {
        guard.release().await;
    }
    drop(lock);
    Ok(served?)
}

fn kill_orphans() {
    let killed = orphans::kill_orphans();
    if killed > 0 {
        record_counter(&ORPHANS_KILLED, killed as u64);
        tracing::warn!(killed, "killed agent processes of an earlier executor");
    }
}

/// Logs at shutdown how many tasks the drain waits for.
async fn log_drain<T>(running: &RunningTasks, shutdown: &CancellationToken) -> T {
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
    response::read(line, request, &redactor).map_err(|failure| failure.description)
}
