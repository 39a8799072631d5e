//! The orphan guard: a tiny process that outlives an executor that is killed, for as long as it takes to end its agents.
//!
//! The executor holds the only write end of the guard's standard input and never writes. However the executor ends, the
//! kernel closes that end; the guard reads "end of input", ends every process that carries the executor's marker and what
//! those started (`orphans.rs`), and exits. A guard that dies is started again.
//!
//! A process that left its agent, its group and its environment has become a child of the executor, and can't be told from
//! others once the executor is gone. So the guard remembers the children that the executor had last, and ends them too.

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
    registry::{Registered, Registry},
};

/// The readiness condition "somebody watches over the agents".
pub(crate) const GUARD_CONDITION: &str = "guard";

/// Between the death of a guard and the start of the next.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// How long the executor waits for its guard to leave.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

/// How often the guard looks at the executor's children, in milliseconds.
const LOOK_EVERY_MS: u16 = 200;

/// A process that was being started when its executor died shows its marker within these.
const CLEAN_SCANS: u32 = 5;

/// Is the guard of the executor called `marker`, until standard input ends. To be called on the main thread before any
/// other is started.
#[must_use]
pub fn run(marker: &str) -> ExitCode {
    // A supervisor that stops a whole service sends SIGTERM to every process of it. The guard goes last, when its
    // executor is gone; a blocked signal stays pending for ever.
    let _ = SigSet::all().thread_block();
    if !cfg!(target_os = "linux") {
        let _ = writeln!(
            io::stderr(),
            "executor-guard: this system has no /proc; agents of a killed executor stay"
        );
    }
    let children = watch_executor(getppid());
    orphans::kill_marked(marker, &children, CLEAN_SCANS);
    ExitCode::SUCCESS
}

/// Waits for the end of standard input. Answers the children that `executor` had at the last look.
fn watch_executor(executor: Pid) -> Vec<ProcessId> {
    let (stdin, mut children) = (io::stdin(), Vec::new());
    loop {
        match poll(&mut [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)], LOOK_EVERY_MS) {
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

/// The children of `executor` but for this process, if it is still its parent. An executor that is gone has none, and
/// its id may be another's.
fn children_of(executor: Pid) -> Option<Vec<ProcessId>> {
    let children = processes::children(executor).into_iter().filter(|&pid| pid != Pid::this());
    let children = children.filter_map(|pid| Some(processes::status(pid)?.id)).collect();
    (getppid() == executor).then_some(children)
}

/// Keeps a guard running. Dropping it lets the guard do its work.
pub(crate) struct Guard {
    keeper: AbortOnDropHandle<()>,
    release: CancellationToken,
}

impl Guard {
    /// Starts a guard with `command` and keeps one running; meets [`GUARD_CONDITION`] when the first one runs.
    pub(crate) fn keep(
        command: Vec<String>,
        marker: Marker,
        registry: Arc<Registry>,
        readiness: Readiness,
    ) -> Self {
        let release = CancellationToken::new();
        let keeper = tokio::spawn(keep(command, marker, registry, readiness, release.clone()));
        Self { keeper: AbortOnDropHandle::new(keeper), release }
    }

    /// Lets the guard do its work and waits for its end.
    pub(crate) async fn release(self) {
        self.release.cancel();
        let _ = tokio::time::timeout(RELEASE_LIMIT, self.keeper).await;
    }
}

async fn keep(
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
                        tracing::error!(exit_status = ?status, "the orphan guard died; starting another");
                    }
                    () = release.cancelled() => {
                        drop(stdin);
                        let _ = guard.wait().await;
                        return;
                    }
                }
            }
            Err(error) => tracing::error!(%error, "the orphan guard cannot be started; trying again"),
        }
        tokio::select! {
            () = tokio::time::sleep(RESTART_PAUSE) => record_counter(&GUARD_RESTARTS, 1),
            () = release.cancelled() => return,
        }
    }
}

/// In a group of its own, so that Ctrl-C on the executor's terminal does not reach it, and without the environment that
/// an agent of another executor may have given to this one.
fn start(command: &[String], marker: &Marker, registry: &Arc<Registry>) -> io::Result<(Child, Registered)> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(io::Error::other("its command is empty"));
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .arg(marker.to_string())
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .process_group(0);
    registry.spawn(registry.next_number(), &mut command)
}
