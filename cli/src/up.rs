//! `phoenix up`: the four services as child processes of the same executable, on one machine.
//!
//! ```text
//! check settings → check ports → take the data folder → start the four → wait until /readyz says ready → say so
//!   a child dies                → it is started again, after a wait that doubles while it keeps dying
//!   a child dies before ready   → everything is stopped: nothing is left half started
//!   Ctrl-C, SIGTERM or SIGHUP   → gateway, planner, executor, health drain in this order
//!   a second signal             → everything is killed
//!   this process is killed      → the children see their standard input end, and drain
//! ```

mod child;
mod data_folder;
mod environment;
mod plan;
mod ready;

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
    child::{Child, Died, Stopped},
    plan::StackPlan,
};
use crate::{
    args::UpArgs,
    terminal::{announce, complain},
};

/// How long the stack may take to become ready before the operator is told what is missing.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// The order in which services are stopped: first those that bring work, last those that others need.
const STOP_ORDER: [Role; 4] = [Role::Gateway, Role::Planner, Role::Executor, Role::Health];

/// Runs the stack until it is told to stop.
pub(crate) fn run(args: UpArgs) -> ExitCode {
    let plan = match StackPlan::resolve(args) {
        Ok(plan) => plan,
        Err(plan::Refusal::Settings(problems)) => {
            complain(problems);
            return ExitCode::from(EXIT_CONFIG);
        }
        Err(plan::Refusal::Machine(problem)) => {
            complain(problem);
            return ExitCode::FAILURE;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(supervise(plan))
}

async fn supervise(plan: StackPlan) -> ExitCode {
    let _telemetry = match init_tracing(plan.telemetry()) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            complain(error);
            return ExitCode::FAILURE;
        }
    };
    if let Some(variables) = plan.ignored_variables() {
        tracing::warn!(variables, "`phoenix up` ignores environment variables");
    }
    let (stop, kill) = match stop_signals() {
        Ok(tokens) => tokens,
        Err(error) => {
            complain(format_args!("cannot catch signals: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let (deaths, mut died) = mpsc::channel(8);
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
            deaths: deaths.clone(),
        };
        stops.push((*role, stop_child));
        children.spawn(child.keep_alive());
    }
    drop(deaths);
    let code = tokio::select! {
        code = watch_over(&plan, &ready, &mut died) => code,
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

/// Says when the stack is ready, then waits for ever; ends only when the stack can't be started.
async fn watch_over(
    plan: &StackPlan,
    ready: &CancellationToken,
    died: &mut mpsc::Receiver<Died>,
) -> ExitCode {
    let limit = Instant::now() + READY_LIMIT;
    let failed = tokio::select! {
        waited = timeout_at(limit, ready::wait(plan.gateway_addr())) => match waited {
            Ok(()) => None,
            Err(_) => Some(format!(
                "the stack is not ready after {} s: {}",
                READY_LIMIT.as_secs(),
                ready::what_is_missing(plan.gateway_addr()).await
            )),
        },
        // Its own words are on the terminal already.
        Some(Died { role, how }) = died.recv() => Some(format!("the {role} {how}; stopping the others")),
    };
    if let Some(problem) = failed {
        complain(problem);
        return ExitCode::FAILURE;
    }
    ready.cancel();
    announce(format_args!("phoenix is ready: http://{}", plan.gateway_addr()));
    std::future::pending().await
}

/// Stops one service after the other, each when the one before has drained. Says whether all of them did.
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

/// Tokens that the first and the second signal to stop cancel.
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
