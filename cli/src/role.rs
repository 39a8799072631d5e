//! One service as a process: settings, ports, telemetry, the service, and the ladder down.

use std::{io::Read, process::ExitCode};

use phoenix_executor::ExecutorConfig;
use phoenix_gateway::GatewayConfig;
use phoenix_health::HealthConfig;
use phoenix_planner::PlannerConfig;
use phoenix_platform::{
    config::{EXIT_CONFIG, Role, RoleSettings, process_env},
    connections, init_metrics, init_tracing, listener,
    metrics::Metric,
    privacy, shutdown,
    telemetry::TelemetryConfig,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{args::RoleArgs, terminal::complain};

/// Whatever stops a start or breaks a service; its text is for the operator.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Runs `role` until it is told to stop.
pub(crate) fn run(role: Role, args: RoleArgs) -> ExitCode {
    let exe = match executable() {
        Ok(exe) => exe,
        Err(error) => {
            complain(format_args!("cannot find its own executable: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let settings = match RoleSettings::resolve(role, &args.flags, &exe, &process_env) {
        Ok(settings) => settings,
        Err(problems) => {
            complain(format_args!("the {role} was not started; {problems}"));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    // The executor starts agents, which keep the umask of the operator.
    if role != Role::Executor {
        privacy::restrict_new_files();
    }
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name(role.as_str()).build() {
            Ok(runtime) => runtime,
            Err(error) => {
                complain(format_args!("cannot start its threads: {error}"));
                return ExitCode::FAILURE;
            }
        };
    match runtime.block_on(serve(settings, exe, args.supervised)) {
        Ok(()) => ExitCode::SUCCESS,
        // Settings that only the service itself can judge.
        Err(error) if matches!(error.downcast_ref(), Some(phoenix_gateway::ServeError::Setting { .. })) => {
            complain(format_args!("the {role} was not started; {error}"));
            ExitCode::from(EXIT_CONFIG)
        }
        Err(error) => {
            complain(format_args!("the {role} stopped: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// The path of this executable, by which built-in agents and children are started.
pub(crate) fn executable() -> std::io::Result<String> {
    Ok(std::env::current_exe()?.to_string_lossy().into_owned())
}

async fn serve(settings: RoleSettings, exe: String, supervised: bool) -> Result<(), BoxError> {
    // Ports first: a port in use stops the start before anything is touched.
    let listener = listener::bind(settings.role.addr_variable(), settings.addr).await?;
    let metrics_listener = listener::bind("METRICS_ADDR", settings.metrics_addr).await?;
    // An executor's limit is also that of its agents.
    if settings.role != Role::Executor {
        connections::raise_descriptor_limit();
    }
    let telemetry = init_tracing(TelemetryConfig { prefix: supervised, ..settings.telemetry.clone() })?;
    let exporter = init_metrics(metrics_of(settings.role))?;
    let shutdown = shutdown::on_signal()?;
    if supervised {
        stop_with_parent(shutdown.clone());
    }
    // Metrics can be scraped until the very end: the drain is worth seeing.
    let stop_metrics = CancellationToken::new();
    let metrics =
        tokio::spawn(exporter.serve(metrics_listener, settings.metrics_token.clone(), stop_metrics.clone()));
    let served = serve_role(&settings, exe, listener, shutdown).await;
    stop_metrics.cancel();
    let _ = metrics.await;
    tracing::info!("stopped");
    telemetry.flush().await;
    served
}

const fn metrics_of(role: Role) -> &'static [Metric] {
    match role {
        Role::Gateway => phoenix_gateway::metrics::METRICS,
        Role::Planner => phoenix_planner::metrics::METRICS,
        Role::Executor => phoenix_executor::metrics::METRICS,
        Role::Health => phoenix_health::metrics::METRICS,
    }
}

async fn serve_role(
    settings: &RoleSettings,
    exe: String,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), BoxError> {
    match settings.role {
        Role::Gateway => phoenix_gateway::serve(GatewayConfig::from(settings), listener, shutdown).await?,
        Role::Planner => phoenix_planner::serve(PlannerConfig::from(settings), listener, shutdown).await?,
        Role::Executor => {
            let guard = Some(vec![exe, "executor-guard".into()]);
            let config = ExecutorConfig { guard, adopts_orphans: true, ..ExecutorConfig::from(settings) };
            phoenix_executor::serve(config, listener, shutdown).await?;
        }
        Role::Health => phoenix_health::serve(HealthConfig::from(settings), listener, shutdown).await?,
    }
    Ok(())
}

/// Standard input is a pipe whose other end only the parent holds: it ends when the parent does, however that happens.
fn stop_with_parent(shutdown: CancellationToken) {
    // A thread of its own, not the runtime's: a read of standard input can't be given up, and would hold the exit.
    std::thread::spawn(move || {
        let mut byte = [0];
        while let Ok(1..) = std::io::stdin().read(&mut byte) {}
        tracing::info!("the supervisor has gone; shutting down");
        shutdown.cancel();
    });
}
