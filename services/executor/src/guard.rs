//! The orphan guard: a small process that outlives an executor that is killed, until it has killed that executor's agents.
//!
//! The executor holds the only write end of the guard's standard input and never writes. When the executor ends for any
//! reason, the kernel closes that end; the guard reads "end of input", kills every process that carries the executor's
//! marker and everything those started (`orphans.rs`), and exits. A guard that exits early is restarted.
//!
//! A process that left its agent, its group and its environment has become a child of the executor, and cannot be
//! recognized once the executor is gone. So the guard records the children of the executor and kills them as well.

use std::{
    io::{self, Read, Write},
    os::fd::AsFd,
    process::{ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
    sys::signal::SigSet,
    unistd::{Pid, getppid},
};
use phoenix_platform::{readiness::Readiness, record_counter};
use tokio::process::{Child, Command};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    metrics::GUARD_RESTARTS,
    orphans::{self, Marker},
    processes::{self, ProcessId},
    registry::{RegisteredProcess, Registry},
};

/// Readiness condition: a guard is running.
pub(crate) const GUARD_CONDITION: &str = "guard";

/// Pause between the exit of a guard and the start of the next.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Time that the executor waits for its guard to exit.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// Interval in milliseconds at which the guard records the children of the executor.
const POLL_INTERVAL_MS: u16 = 200;

/// Consecutive clean scans. A process that was being started when its executor died shows its marker within these.
const CLEAN_SCANS: u32 = 5;

/// Runs the guard of the executor with `marker` until standard input ends. Must be called on the main thread before any
/// other is started.
#[must_use]
pub fn run(marker: &str) -> ExitCode {
    // A supervisor that stops a service sends SIGTERM to all of its processes. The guard must exit last, after its
    // executor; a blocked signal stays pending.
    let _ = SigSet::all().thread_block();
    if !cfg!(target_os = "linux") {
        let _ = writeln!(
            io::stderr(),
            "executor-guard: this system has no /proc; agents of a killed executor keep running"
        );
    }
    let children = watch_executor(getppid());
    orphans::kill_marked(marker, &children, CLEAN_SCANS);
    ExitCode::SUCCESS
}

/// Waits for the end of standard input. Returns the children that `executor` had at the last poll.
fn watch_executor(executor: Pid) -> Vec<ProcessId> {
    let (stdin, mut children) = (io::stdin(), Vec::new());
    loop {
        match poll(&mut [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)], POLL_INTERVAL_MS) {
            Ok(0) => children = children_of(executor).unwrap_or(children),
            Err(Errno::EINTR) => {}
            Err(_) => return children,
            Ok(_) => match stdin.lock().read(&mut [0]) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return children,
            },
        }
    }
}

/// The children of `executor` except this process; `None` when `executor` is no longer its parent. The id of an executor
/// that is gone may belong to another process.
fn children_of(executor: Pid) -> Option<Vec<ProcessId>> {
    let children = processes::children(executor).into_iter().filter(|&pid| pid != Pid::this());
    let children = children.filter_map(|pid| Some(processes::status(pid)?.id)).collect();
    (getppid() == executor).then_some(children)
}

/// Keeps a guard running. Dropping it makes the guard kill the agents.
pub(crate) struct Guard {
    supervisor: AbortOnDropHandle<()>,
    release: CancellationToken,
}

impl Guard {
    /// Starts a guard with `command` and restarts it when it exits; meets [`GUARD_CONDITION`] when the first one runs.
    pub(crate) fn supervise(
        command: Vec<String>,
        marker: Marker,
        registry: Arc<Registry>,
        readiness: Readiness,
    ) -> Self {
        let release = CancellationToken::new();
        let supervisor = tokio::spawn(supervise(command, marker, registry, readiness, release.clone()));
        Self { supervisor: AbortOnDropHandle::new(supervisor), release }
    }

    /// Makes the guard kill the agents and waits for its exit.
    pub(crate) async fn release(self) {
        self.release.cancel();
        let _ = tokio::time::timeout(RELEASE_TIMEOUT, self.supervisor).await;
    }
}

async fn supervise(
    command: Vec<String>,
    marker: Marker,
    registry: Arc<Registry>,
    readiness: Readiness,
    release: CancellationToken,
) {
    loop {
        match start(&command, &marker, &registry) {
            Ok((mut guard, _registered)) => {
                readiness.set(GUARD_CONDITION, true);
                let stdin = guard.stdin.take();
                tokio::select! {
                    status = guard.wait() => {
                        tracing::error!(exit_status = ?status, "orphan guard exited; restarting it");
                    }
                    () = release.cancelled() => {
                        drop(stdin);
                        let _ = guard.wait().await;
                        return;
                    }
                }
            }
            Err(error) => tracing::error!(%error, "cannot start the orphan guard; retrying"),
        }
        tokio::select! {
            () = tokio::time::sleep(RESTART_PAUSE) => record_counter(&GUARD_RESTARTS, 1),
            () = release.cancelled() => return,
        }
    }
}

/// Starts a guard in its own process group, so that Ctrl-C on the executor's terminal does not reach it, and without an
/// environment, which might carry the marker of another executor.
fn start(
    command: &[String],
    marker: &Marker,
    registry: &Arc<Registry>,
) -> io::Result<(Child, RegisteredProcess)> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(io::Error::other("the command of the guard is empty"));
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .arg(marker.to_string())
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .process_group(0);
    registry.spawn(registry.next_number(), false, &mut command)
}
