//! Processes beside the four.

use std::{collections::BTreeMap, process::ExitStatus};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use phoenix_platform::config::Role;
use tokio::process::{Child, ChildStdin};

use crate::{http::Rest, ports::Ports, wait::TIMEOUT};

/// A second planner of the same journal, with its own gateway.
#[derive(Debug)]
pub struct SecondPlanner {
    planner: Child,
    _stdin: Option<ChildStdin>,
    _gateway: Child,
    ports: BTreeMap<Role, Ports>,
}

/// A second executor.
#[derive(Debug)]
pub struct SecondExecutor {
    executor: Child,
}

impl SecondExecutor {
    pub(super) const fn new(executor: Child) -> Self {
        Self { executor }
    }

    /// Sends a signal to the executor.
    ///
    /// # Panics
    /// When it is not running.
    pub fn signal(&self, signal: Signal) {
        kill(pid_of(&self.executor), signal).expect("the signal can be sent");
    }

    /// Kills the executor, and waits for its exit.
    ///
    /// # Panics
    /// When it is not running.
    pub async fn kill(&mut self) {
        self.executor.kill().await.expect("the process can be killed");
    }
}

/// A gateway in front of two planners.
#[derive(Debug)]
pub struct SharedGateway {
    _gateway: Child,
    url: String,
}

impl SharedGateway {
    pub(super) const fn new(gateway: Child, url: String) -> Self {
        Self { _gateway: gateway, url }
    }

    /// A client of the gateway.
    #[must_use]
    pub fn rest(&self) -> Rest {
        Rest::new(self.url.clone())
    }
}

impl SecondPlanner {
    pub(super) const fn new(
        planner: Child,
        stdin: Option<ChildStdin>,
        gateway: Child,
        ports: BTreeMap<Role, Ports>,
    ) -> Self {
        Self { planner, _stdin: stdin, _gateway: gateway, ports }
    }

    /// Its ports, by role.
    pub(super) const fn ports(&self) -> &BTreeMap<Role, Ports> {
        &self.ports
    }

    /// Whether the planner runs.
    ///
    /// # Panics
    /// When that cannot be found out.
    pub fn is_running(&mut self) -> bool {
        self.planner.try_wait().expect("it can be asked").is_none()
    }

    /// A client of its gateway.
    #[must_use]
    pub fn rest(&self) -> Rest {
        Rest::new(self.ports[&Role::Gateway].url())
    }

    /// The value of a metric of the planner.
    ///
    /// # Panics
    /// When the metric does not exist.
    pub async fn metric(&self, name: &str) -> f64 {
        self.ports[&Role::Planner].metric(name).await
    }

    /// Sends a signal to the planner.
    ///
    /// # Panics
    /// When it is not running.
    pub fn signal(&self, signal: Signal) {
        kill(pid_of(&self.planner), signal).expect("the signal can be sent");
    }

    /// Waits for the exit of the planner.
    ///
    /// # Panics
    /// When it does not exit in time.
    pub async fn wait(&mut self) -> ExitStatus {
        let status = tokio::time::timeout(TIMEOUT, self.planner.wait()).await;
        status.expect("it exits in time").expect("it can be waited for")
    }
}

pub(crate) fn pid_of(process: &Child) -> Pid {
    Pid::from_raw(i32::try_from(process.id().expect("it runs")).expect("a process id"))
}
