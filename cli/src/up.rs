//! `phoenix up`: the four services as child processes of the same executable, on one machine.
//!
//! ```text
//! check settings → check ports → lock the data folder → start the four → wait for /readyz → print the ready line
//!   a child exits                → it is restarted, with a backoff that doubles while it keeps exiting
//!   a child exits before ready   → everything is stopped: nothing is left half started
//!   Ctrl-C, SIGTERM or SIGHUP    → gateway, planner, executor, health drain in this order
//!   a second signal              → everything is killed
//!   this process is killed       → the standard input of the children ends, and they drain
//! ```

mod child;
pub(crate) mod data_folder;
pub(crate) mod environment;
pub(crate) mod error;
pub(crate) mod plan;
pub(crate) mod ready;

use std::{process::ExitCode, time::Duration};

use phoenix_platform::{
    config::{EXIT_CONFIG, Role},
    init_tracing,
    shutdown::StopSignals,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use self::{
    child::{Child, ChildExit, Stopped},
    error::StartError,
    plan::StackPlan,
};
use crate::{
    args::UpArgs,
    terminal::{print_error, print_line},
};

/// Time that the stack may take to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Order in which services are stopped: each before those that it depends on.
const STOP_ORDER: [Role; 4] = [Role::Gateway, Role::Planner, Role::Executor, Role::Health];

/// Runs the stack until it is stopped.
pub(crate) fn run(args: UpArgs) -> ExitCode {
    let plan = match StackPlan::resolve(args) {
        Ok(plan) => plan,
        Err(StartError::Settings(problems)) => {
            print_error(problems);
            return ExitCode::from(EXIT_CONFIG);
        }
        Err(StartError::System(problem)) => {
            print_error(problem);
            return ExitCode::FAILURE;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            print_error(format_args!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(supervise(plan))
}

async fn supervise(plan: StackPlan) -> ExitCode {
    let _telemetry = match init_tracing(plan.telemetry()) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            print_error(error);
            return ExitCode::FAILURE;
        }
    };
    if let Some(variables) = plan.ignored_variables() {
        tracing::warn!(variables, "`phoenix up` ignores environment variables");
    }
    let (stop, kill) = match stop_signals() {
        Ok(tokens) => tokens,
        Err(error) => {
            print_error(format_args!("cannot catch signals: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let (exits_sender, mut exits) = mpsc::channel(8);
    let ready = CancellationToken::new();
    let mut children = JoinSet::new();
    let mut stops = Vec::new();
    for role in Role::ALL {
        let stop_child = CancellationToken::new();
        let child = Child {
            role: *role,
            command: plan.command(*role),
            stack_ready: ready.clone(),
            stop: stop_child.clone(),
            kill: kill.clone(),
            exits: exits_sender.clone(),
        };
        stops.push((*role, stop_child));
        children.spawn(child.supervise());
    }
    drop(exits_sender);
    let code = tokio::select! {
        code = watch_start(&plan, &ready, &mut exits) => code,
        () = stop.cancelled() => ExitCode::SUCCESS,
        () = kill.cancelled() => ExitCode::from(130),
    };
    let stopped = stop_in_order(stops, &mut children).await;
    match stopped {
        _ if kill.is_cancelled() => ExitCode::from(130),
        Stopped::Drained => code,
        Stopped::Killed => ExitCode::FAILURE,
    }
}

/// Prints the ready line once the stack is ready, and then never resolves. Resolves if the start fails.
async fn watch_start(
    plan: &StackPlan,
    ready: &CancellationToken,
    exits: &mut mpsc::Receiver<ChildExit>,
) -> ExitCode {
    let deadline = Instant::now() + READY_TIMEOUT;
    let failed = tokio::select! {
        waited = timeout_at(deadline, ready::wait(plan.gateway_addr(), plan.gateway_tls())) => match waited {
            Ok(()) => None,
            Err(_) => Some(format!(
                "the stack is not ready after {} s: {}",
                READY_TIMEOUT.as_secs(),
                ready::missing(plan.gateway_addr(), plan.gateway_tls()).await
            )),
        },
        // The service has printed the reason already.
        Some(ChildExit { role, how }) = exits.recv() => Some(format!("the {role} {how}; stopping the others")),
    };
    if let Some(problem) = failed {
        print_error(problem);
        return ExitCode::FAILURE;
    }
    ready.cancel();
    print_ready(plan);
    std::future::pending().await
}

/// Prints the line that tells users and programs that the stack is ready.
fn print_ready(plan: &StackPlan) {
    let scheme = if plan.gateway_tls().is_some() { "https" } else { "http" };
    print_line(format_args!("phoenix is ready: {scheme}://{}", plan.gateway_addr()));
}

/// Stops one service after the other, each when the one before has drained. Returns the worst outcome.
async fn stop_in_order(
    stops: Vec<(Role, CancellationToken)>,
    children: &mut JoinSet<(Role, Stopped)>,
) -> Stopped {
    let mut gone = Vec::new();
    let mut worst = Stopped::Drained;
    for role in STOP_ORDER {
        stops.iter().filter(|(other, _)| *other == role).for_each(|(_, stop)| stop.cancel());
        while !gone.contains(&role) {
            match children.join_next().await {
                Some(Ok((ended, stopped))) => {
                    gone.push(ended);
                    worst = worst.max(stopped);
                }
                Some(Err(_)) => {}
                None => break,
            }
        }
    }
    worst
}

/// Tokens that the first and the second stop signal cancel.
fn stop_signals() -> std::io::Result<(CancellationToken, CancellationToken)> {
    let mut signals = StopSignals::catch()?;
    let (stop, kill) = (CancellationToken::new(), CancellationToken::new());
    let (first, second) = (stop.clone(), kill.clone());
    tokio::spawn(async move {
        for token in [first, second] {
            signals.next().await;
            token.cancel();
        }
    });
    Ok((stop, kill))
}
