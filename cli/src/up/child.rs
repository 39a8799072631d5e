//! One service under supervision.

use std::{
    io,
    os::fd::AsFd,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use phoenix_platform::config::Role;
use tokio::{process::Command, sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::terminal::print_error;

/// First and longest wait before a service that exited is restarted; it doubles while the service keeps exiting.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Runtime after which a service counts as stable, and the backoff is reset.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// Time that a service may take to stop: its drain limit and a margin.
const STOP_TIMEOUT: Duration = Duration::from_secs(35);

/// An exit of a service that was not stopped.
pub(crate) struct ChildExit {
    pub(crate) role: Role,
    /// The exit as a predicate, such as "was killed by signal 9".
    pub(crate) how: String,
}

/// How a service stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stopped {
    /// It exited after its drain.
    Drained,
    /// It did not drain in time, or was killed otherwise.
    Killed,
}

/// A service under supervision.
pub(crate) struct Child<C> {
    pub(crate) role: Role,
    /// Returns the command that starts it.
    pub(crate) command: C,
    /// Cancelled once the whole stack has been ready; an earlier exit is not repaired.
    pub(crate) stack_ready: CancellationToken,
    /// Stops the service after a drain.
    pub(crate) stop: CancellationToken,
    /// Kills the service.
    pub(crate) kill: CancellationToken,
    /// Receives exits.
    pub(crate) exits: mpsc::Sender<ChildExit>,
}

enum RunEnd {
    Stopped(Stopped),
    Exited(String),
}

impl<C: Fn() -> Command> Child<C> {
    /// Runs the service and restarts it until it is stopped.
    pub(crate) async fn supervise(self) -> (Role, Stopped) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let started = Instant::now();
            let how = match self.run_once().await {
                Ok(RunEnd::Stopped(stopped)) => return (self.role, stopped),
                Ok(RunEnd::Exited(how)) => how,
                Err(error) => format!("could not be started: {error}"),
            };
            let _ = self.exits.try_send(ChildExit { role: self.role, how: how.clone() });
            if !self.stack_ready.is_cancelled() {
                return (self.role, Stopped::Drained);
            }
            if started.elapsed() >= STABLE_AFTER {
                backoff = FIRST_BACKOFF;
            }
            print_error(format_args!(
                "the {} {how}; starting it again in {} ms",
                self.role,
                backoff.as_millis()
            ));
            tokio::select! {
                () = tokio::time::sleep(backoff) => {}
                () = self.stop.cancelled() => return (self.role, Stopped::Drained),
            }
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }

    async fn run_once(&self) -> io::Result<RunEnd> {
        let mut process = (self.command)()
            // In its own process group, so that Ctrl-C reaches only the supervisor, which stops the services in order.
            .process_group(0)
            // Ends with this process.
            .stdin(Stdio::piped())
            // The log of the service goes directly to standard error: each line names its service, and is one write.
            // Standard output is reserved for the ready line.
            .stdout(io::stderr().as_fd().try_clone_to_owned()?)
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()?;
        let _stdin = process.stdin.take();
        let end = tokio::select! {
            status = process.wait() => RunEnd::Exited(describe(status?)),
            () = self.stop.cancelled() => {
                if let Some(pid) = process.id().and_then(|pid| i32::try_from(pid).ok()) {
                    // The process may just have exited.
                    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
                }
                tokio::select! {
                    status = process.wait() => RunEnd::Stopped(outcome_of_stop(status?)),
                    () = self.kill.cancelled() => RunEnd::Stopped(Stopped::Killed),
                    () = tokio::time::sleep(STOP_TIMEOUT) => {
                        print_error(format_args!("the {} did not stop in {} s; killing it", self.role, STOP_TIMEOUT.as_secs()));
                        RunEnd::Stopped(Stopped::Killed)
                    }
                }
            }
            () = self.kill.cancelled() => RunEnd::Stopped(Stopped::Killed),
        };
        // Has no effect on a process that has exited.
        let _ = process.kill().await;
        Ok(end)
    }
}

/// The outcome of a stop. A service that is stopped before it handles signals ends by SIGTERM, and has nothing to drain.
fn outcome_of_stop(status: ExitStatus) -> Stopped {
    use std::os::unix::process::ExitStatusExt;
    match status.signal().map(Signal::try_from) {
        None | Some(Ok(Signal::SIGTERM)) => Stopped::Drained,
        Some(_) => Stopped::Killed,
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".into(),
    }
}
