//! One service as a process: settings, ports, telemetry, the service, and the shutdown.

use std::{io::Read, path::PathBuf, process::ExitCode};

use phoenix_executor::ExecutorConfig;
use phoenix_gateway::GatewayConfig;
use phoenix_health::HealthConfig;
use phoenix_planner::PlannerConfig;
use phoenix_platform::{
    config::{EXIT_CONFIG, Role, RoleSettings, process_env},
    connections, init_metrics, init_tracing, listener,
    metrics::Metric,
    privacy,
    readiness::Readiness,
    shutdown,
    telemetry::TelemetryConfig,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{args::RoleArgs, terminal::print_error};

/// Any error of a start or a service; its text is for the operator.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Runs `role` until it is stopped.
pub(crate) fn run(role: Role, args: RoleArgs) -> ExitCode {
    let exe = match executable() {
        Ok(exe) => exe,
        Err(error) => {
            print_error(format_args!("cannot find its own executable: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let settings = match RoleSettings::resolve(role, &args.flags, &exe, &process_env) {
        Ok(settings) => settings,
        Err(problems) => {
            print_error(format_args!("the {role} was not started; {problems}"));
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
                print_error(format_args!("cannot start its threads: {error}"));
                return ExitCode::FAILURE;
            }
        };
    match runtime.block_on(serve(settings, exe, args.supervised, args.log_folder)) {
        Ok(()) => ExitCode::SUCCESS,
        // Settings that only the service can validate.
        Err(error) if matches!(error.downcast_ref(), Some(phoenix_gateway::ServeError::Setting { .. })) => {
            print_error(format_args!("the {role} was not started; {error}"));
            ExitCode::from(EXIT_CONFIG)
        }
        Err(error) => {
            print_error(format_args!("the {role} stopped: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Path of this executable, which starts built-in agents and child processes.
pub(crate) fn executable() -> std::io::Result<String> {
    Ok(std::env::current_exe()?.to_string_lossy().into_owned())
}

async fn serve(
    settings: RoleSettings,
    exe: String,
    supervised: bool,
    log_folder: Option<PathBuf>,
) -> Result<(), BoxError> {
    // Ports first: a port in use stops the start before anything is changed.
    let listener = listener::bind(settings.role.addr_variable(), settings.addr).await?;
    let metrics_listener = listener::bind("METRICS_ADDR", settings.metrics_addr).await?;
    // The limit of an executor is also that of its agents.
    if settings.role != Role::Executor {
        connections::raise_descriptor_limit();
    }
    let telemetry =
        init_tracing(TelemetryConfig { prefix: supervised, log_folder, ..settings.telemetry.clone() })?;
    let readiness = Readiness::starting();
    let mut exporter = init_metrics(metrics_of(settings.role))?;
    // The gateway's own port has `/readyz`, which asks the services behind it.
    if settings.role != Role::Gateway {
        exporter = exporter.with_readiness(readiness.clone());
    }
    let shutdown = shutdown::on_signal()?;
    if supervised {
        stop_with_parent(shutdown.clone());
    }
    // Metrics stay available during the drain.
    let stop_metrics = CancellationToken::new();
    let metrics =
        tokio::spawn(exporter.serve(metrics_listener, settings.metrics_token.clone(), stop_metrics.clone()));
    let served = tokio::select! {
        served = serve_role(&settings, exe, readiness, listener, shutdown) => served,
        never = follow_certificates(&settings) => never,
    };
    stop_metrics.cancel();
    let _ = metrics.await;
    tracing::info!("stopped");
    telemetry.flush().await;
    served
}

/// Reloads certificates when their files change.
async fn follow_certificates<T>(settings: &RoleSettings) -> T {
    let never = CancellationToken::new();
    let service = async {
        if let Some(tls) = &settings.identity.tls {
            tls.follow(&never).await;
        }
    };
    let gateway = async {
        if let Some(tls) = &settings.gateway_tls {
            tls.follow(&never).await;
        }
    };
    tokio::join!(service, gateway);
    std::future::pending().await
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
    readiness: Readiness,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), BoxError> {
    match settings.role {
        Role::Gateway => phoenix_gateway::serve(GatewayConfig::from(settings), listener, shutdown).await?,
        Role::Planner => {
            let config = PlannerConfig { readiness, ..PlannerConfig::from(settings) };
            phoenix_planner::serve(config, listener, shutdown).await?;
        }
        Role::Executor => {
            let guard = Some(vec![exe, "executor-guard".into()]);
            let config =
                ExecutorConfig { guard, adopts_orphans: true, readiness, ..ExecutorConfig::from(settings) };
            phoenix_executor::serve(config, listener, shutdown).await?;
        }
        Role::Health => {
            let config = HealthConfig { readiness, ..HealthConfig::from(settings) };
            phoenix_health::serve(config, listener, shutdown).await?;
        }
    }
    Ok(())
}

/// Shuts down when standard input ends. The parent holds the only other end of the pipe, so it ends with the parent.
fn stop_with_parent(shutdown: CancellationToken) {
    // A thread instead of the runtime: a read of standard input cannot be cancelled, and would delay the exit.
    std::thread::spawn(move || {
        let mut byte = [0];
        while let Ok(1..) = std::io::stdin().read(&mut byte) {}
        tracing::info!("supervisor exited; shutting down");
        shutdown.cancel();
    });
}
