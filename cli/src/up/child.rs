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
    Stopped,
    ByItself(String),
}

impl<C: Fn() -> Command> Child<C> {
    /// Runs the service, again and again, until it is stopped.
    pub(crate) async fn keep_alive(self) -> Role {
        let mut wait = FIRST_WAIT;
        loop {
            let started = Instant::now();
            let how = match self.run_once().await {
                Ok(Ended::Stopped) => return self.role,
                Ok(Ended::ByItself(how)) => how,
                Err(error) => format!("could not be started: {error}"),
            };
            let _ = self.deaths.try_send(Died { role: self.role, how: how.clone() });
            if !self.stack_ready.is_cancelled() {
                return self.role;
            }
            if started.elapsed() >= WELL_AFTER {
                wait = FIRST_WAIT;
            }
            complain(format_args!("the {} {how}; starting it again in {} ms", self.role, wait.as_millis()));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.stop.cancelled() => return self.role,
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
                    _ = process.wait() => {}
                    () = self.kill.cancelled() => {}
                    () = tokio::time::sleep(STOP_LIMIT) => complain(format_args!("the {} did not stop in time", self.role)),
                }
                Ended::Stopped
            }
            () = self.kill.cancelled() => Ended::Stopped,
        };
        // Does nothing to a process that has ended.
        let _ = process.kill().await;
        Ok(ended)
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
