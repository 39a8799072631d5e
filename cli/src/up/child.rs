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

use crate::terminal::complain;

/// The wait before a service that died is started again; doubles while it keeps dying.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A service that ran so long is well: the next wait is the first one again.
const WELL_AFTER: Duration = Duration::from_secs(30);

/// How long a service may take to stop: its drain limit and a little more.
const STOP_LIMIT: Duration = Duration::from_secs(35);

/// A service that died by itself.
pub(crate) struct Died {
    /// Which.
    pub(crate) role: Role,
    /// "was killed by signal 9".
    pub(crate) how: String,
}

/// How a service ended that was to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stopped {
    /// By itself, with its work done or handed over.
    Drained,
    /// By SIGKILL: it did not drain in time, or something else killed it.
    Killed,
}

/// A service, and what decides about it.
pub(crate) struct Child<C> {
    pub(crate) role: Role,
    /// Makes the command that starts it.
    pub(crate) command: C,
    /// Whether the whole stack has been ready once; before, a death is not repaired.
    pub(crate) stack_ready: CancellationToken,
    /// Drain and end.
    pub(crate) stop: CancellationToken,
    /// End at once.
    pub(crate) kill: CancellationToken,
    /// Who is told of a death.
    pub(crate) deaths: mpsc::Sender<Died>,
}

enum Ended {
    Stopped(Stopped),
    ByItself(String),
}

impl<C: Fn() -> Command> Child<C> {
    /// Runs the service, again and again, until it is stopped.
    pub(crate) async fn keep_alive(self) -> (Role, Stopped) {
        let mut wait = FIRST_WAIT;
        loop {
            let started = Instant::now();
            let how = match self.run_once().await {
                Ok(Ended::Stopped(stopped)) => return (self.role, stopped),
                Ok(Ended::ByItself(how)) => how,
                Err(error) => format!("could not be started: {error}"),
            };
            let _ = self.deaths.try_send(Died { role: self.role, how: how.clone() });
            if !self.stack_ready.is_cancelled() {
                return (self.role, Stopped::Drained);
            }
            if started.elapsed() >= WELL_AFTER {
                wait = FIRST_WAIT;
            }
            complain(format_args!("the {} {how}; starting it again in {} ms", self.role, wait.as_millis()));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.stop.cancelled() => return (self.role, Stopped::Drained),
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    async fn run_once(&self) -> io::Result<Ended> {
        let mut process = (self.command)()
            // A group of its own, so that Ctrl-C reaches only the supervisor, which stops the services in order.
            .process_group(0)
            // Ends when this process does, however that happens.
            .stdin(Stdio::piped())
            // Its log goes where ours goes, past us: each line says whose it is, and is one write. Standard output is
            // for the ready line alone.
            .stdout(io::stderr().as_fd().try_clone_to_owned()?)
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()?;
        let _stdin = process.stdin.take();
        let ended = tokio::select! {
            status = process.wait() => Ended::ByItself(describe(status?)),
            () = self.stop.cancelled() => {
                if let Some(pid) = process.id().and_then(|pid| i32::try_from(pid).ok()) {
                    // It may have ended in this moment.
                    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
                }
                tokio::select! {
                    status = process.wait() => Ended::Stopped(how_it_stopped(status?)),
                    () = self.kill.cancelled() => Ended::Stopped(Stopped::Killed),
                    () = tokio::time::sleep(STOP_LIMIT) => {
                        complain(format_args!("the {} did not stop in {} s; killing it", self.role, STOP_LIMIT.as_secs()));
                        Ended::Stopped(Stopped::Killed)
                    }
                }
            }
            () = self.kill.cancelled() => Ended::Stopped(Stopped::Killed),
        };
        // Does nothing to a process that has ended.
        let _ = process.kill().await;
        Ok(ended)
    }
}

/// A service that is stopped before it can catch signals ends by SIGTERM, and has nothing to drain.
fn how_it_stopped(status: ExitStatus) -> Stopped {
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
