//! Several instances of the roles on one database, as real processes that a test can kill and restart one by one.

use std::{
    fs::{File, OpenOptions},
    path::{Path, PathBuf},
    process::ExitStatus,
};

use nix::sys::signal::{Signal, kill};
use phoenix_platform::config::Role;
use tempfile::TempDir;
use tokio::process::Child;

use crate::{
    command::RoleCommand,
    http::Rest,
    ports::{Ports, free_ports},
    services::{STOP_ORDER, pid_of},
    wait::{TIMEOUT, until},
};

/// Number of instances of each role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replicas {
    /// Planners; more than one needs a database that they can share.
    pub planners: usize,
    /// Executors, all with the same agents.
    pub executors: usize,
    /// Gateways.
    pub gateways: usize,
    /// Health services; as planners.
    pub health_services: usize,
}

/// The database of planners and health service, and what every instance gets.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// URL of the database, such as `postgres://…`; SQLite without one.
    pub database: Option<&'a str>,
    /// The `phoenix.toml` of all of them.
    pub config: &'a str,
    /// Variables whose values are paths in the folder of the cluster, relative to it.
    pub paths: &'a [(&'a str, &'a str)],
    /// File of the JSON logs, which is truncated.
    pub log: &'a Path,
    /// The executable, such as one of an earlier version; the built one without it.
    pub program: Option<&'a Path>,
}

/// Running instances. Dropping it kills them; they drain when the test process exits.
#[derive(Debug)]
pub struct Cluster {
    dir: TempDir,
    environment: Vec<(String, String)>,
    log: PathBuf,
    program: Option<PathBuf>,
    instances: Vec<Instance>,
}

#[derive(Debug)]
struct Instance {
    role: Role,
    ports: Ports,
    /// Absent while it is down.
    process: Option<Child>,
}

impl Cluster {
    /// Starts every instance, and waits until all are ready.
    ///
    /// # Panics
    /// When they do not become ready.
    pub async fn start(replicas: Replicas, settings: Settings<'_>) -> Self {
        let Settings { database, config, paths, log, program } = settings;
        File::create(log).expect("the log can be written");
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("phoenix.toml"), config).expect("the configuration can be written");
        let path =
            |(name, path): &(&str, &str)| ((*name).into(), dir.path().join(path).display().to_string());
        let mut environment: Vec<(String, String)> = paths.iter().map(path).collect();
        environment.extend(database.map(|url| ("DATABASE_URL".into(), url.into())));
        let mut free = free_ports();
        let mut port = || free.next().expect("a free port");
        let mut instances = Vec::new();
        for role in Role::ALL {
            for _ in 0..replicas.of(*role) {
                let ports = Ports { requests: port(), metrics: port() };
                instances.push(Instance { role: *role, ports, process: None });
            }
        }
        let (log, program) = (log.to_owned(), program.map(Path::to_owned));
        let mut cluster = Self { dir, environment, log, program, instances };
        (0..cluster.size()).for_each(|index| cluster.start_one(index));
        cluster.until_ready().await;
        cluster
    }

    /// Number of instances.
    #[must_use]
    pub fn size(&self) -> usize {
        self.instances.len()
    }

    /// The role of an instance.
    ///
    /// # Panics
    /// When there is no such instance.
    #[must_use]
    pub fn role(&self, index: usize) -> Role {
        self.instances[index].role
    }

    /// Makes instances that are started from now on run the built executable.
    pub fn upgrade(&mut self) {
        self.program = None;
    }

    /// Starts an instance that is not running.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_one(&mut self, index: usize) {
        let Instance { role, ports, .. } = self.instances[index];
        let log = OpenOptions::new().append(true).open(&self.log).expect("the log can be written");
        let command = RoleCommand {
            program: self.program.as_deref(),
            role,
            ports,
            planners: &self.urls(Role::Planner),
            executors: &self.urls(Role::Executor),
            health: &self.urls(Role::Health),
            dir: self.dir.path(),
            environment: &self.environment,
        };
        let process = command.command().stderr(log).spawn().expect("phoenix can be started");
        self.instances[index].process = Some(process);
    }

    /// Kills an instance with SIGKILL, and waits for its exit. Returns its status if it had exited before.
    ///
    /// # Panics
    /// When it was not started.
    pub async fn kill(&mut self, index: usize) -> Option<ExitStatus> {
        let mut process = self.instances[index].process.take().expect("it was started");
        let ended = process.try_wait().expect("it can be waited for");
        process.kill().await.expect("the process can be killed");
        ended
    }

    /// Sends a signal to an instance.
    ///
    /// # Panics
    /// When it is not running.
    pub fn signal(&self, index: usize, signal: Signal) {
        let process = self.instances[index].process.as_ref().expect("it was started");
        kill(pid_of(process), signal).expect("the signal can be sent");
    }

    /// The exit status of an instance that ends.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn ended(&mut self, index: usize) -> ExitStatus {
        let mut process = self.instances[index].process.take().expect("it was started");
        // Waiting would close it, and the service would drain.
        let _stdin = process.stdin.take();
        let status = tokio::time::timeout(TIMEOUT, process.wait()).await;
        status.expect("it ends in time").expect("it can be waited for")
    }

    /// Waits until every instance is ready.
    ///
    /// # Panics
    /// When one does not become ready.
    pub async fn until_ready(&self) {
        for Instance { role, ports, .. } in &self.instances {
            // A gateway has its probes beside the requests.
            let is_gateway = *role == Role::Gateway;
            let probes = Rest::new(if is_gateway { ports.url() } else { ports.metrics_url() });
            until(&format!("the {role} is ready"), async || {
                let answer = probes.try_send("GET".parse().unwrap(), "/readyz", None).await;
                answer.is_some_and(|answer| answer.status == 200)
            })
            .await;
        }
    }

    /// Stops every instance in order.
    ///
    /// # Panics
    /// When one does not stop in time, or fails.
    pub async fn stop(&mut self) {
        for role in STOP_ORDER {
            for instance in self.instances.iter_mut().filter(|instance| instance.role == role) {
                let Some(mut process) = instance.process.take() else { continue };
                if process.id().is_some() {
                    kill(pid_of(&process), Signal::SIGTERM).expect("the signal can be sent");
                }
                let status = tokio::time::timeout(TIMEOUT * 2, process.wait()).await;
                let status = status.expect("it stops in time").expect("it can be waited for");
                assert!(status.success(), "the {role} ended with {status}");
            }
        }
    }

    /// A client that sends its requests to one gateway after the other.
    #[must_use]
    pub fn rest(&self) -> Rest {
        Rest::balanced(self.of(Role::Gateway).map(|gateway| gateway.ports.url()).collect())
    }

    /// The folder in which they run.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The values of a metric of every instance of a role.
    ///
    /// # Panics
    /// When the metric does not exist.
    pub async fn metrics(&self, role: Role, name: &str) -> Vec<f64> {
        let mut values = Vec::new();
        for instance in self.of(role) {
            values.push(instance.ports.metric(name).await);
        }
        values
    }

    fn of(&self, role: Role) -> impl Iterator<Item = &Instance> {
        self.instances.iter().filter(move |instance| instance.role == role)
    }

    fn urls(&self, role: Role) -> String {
        self.of(role).map(|instance| instance.ports.url()).collect::<Vec<_>>().join(",")
    }
}

impl Replicas {
    /// One instance of every role.
    pub const ONE: Self = Self { planners: 1, executors: 1, gateways: 1, health_services: 1 };

    /// Two instances of every role.
    pub const TWO: Self = Self { planners: 2, executors: 2, gateways: 2, health_services: 2 };

    const fn of(self, role: Role) -> usize {
        match role {
            Role::Gateway => self.gateways,
            Role::Planner => self.planners,
            Role::Executor => self.executors,
            Role::Health => self.health_services,
        }
    }
}
