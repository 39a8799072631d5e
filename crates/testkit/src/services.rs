//! The four services as real processes without a supervisor, which a test can kill and restart at any time.
//!
//! `phoenix up` restarts a service that keeps exiting with a growing backoff. A test that kills services continuously would
//! mostly wait for it.

mod further;

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    path::{Path, PathBuf},
    process::ExitStatus,
};

use nix::sys::signal::{Signal, kill};
use phoenix_platform::config::Role;
use tempfile::TempDir;
use tokio::process::{Child, Command};

pub(crate) use self::further::pid_of;
pub use self::further::{SecondExecutor, SecondPlanner, SharedGateway};
use crate::{
    certificates::Authority,
    command::RoleCommand,
    http::Rest,
    ports::{Ports, free_ports},
    wait::{TIMEOUT, until},
};

/// Order in which services stop: each before those that it depends on.
pub(crate) const STOP_ORDER: [Role; 4] = [Role::Gateway, Role::Planner, Role::Executor, Role::Health];

/// The four services in their own folder. Dropping it kills them; they drain when the test process exits.
#[derive(Debug)]
pub struct Services {
    dir: TempDir,
    environment: Vec<(String, String)>,
    ports: BTreeMap<Role, Ports>,
    running: BTreeMap<Role, Child>,
    log: PathBuf,
    second_executor: Option<Ports>,
    /// Folder of the certificates, with TLS between the services.
    certificates: Option<PathBuf>,
}

impl Services {
    /// Starts the four with `config` as their `phoenix.toml`, and waits until they are ready. Each of them has the
    /// variable `mark`, whose value is the folder. Their JSON logs go to the file `log`, which is truncated.
    ///
    /// # Panics
    /// When they do not become ready.
    pub async fn start(config: &str, mark: &str, log: &Path) -> Self {
        Self::start_with(&[], config, mark, log, None).await
    }

    /// Like [`Self::start`], with the database at `url`, such as `postgres://…`, for the planner and the health service.
    ///
    /// # Panics
    /// When they do not become ready.
    pub async fn start_on(url: &str, config: &str, mark: &str, log: &Path) -> Self {
        Self::start_in(&[("DATABASE_URL", url)], config, mark, log).await
    }

    /// Like [`Self::start`], with further variables in the environment of each service.
    ///
    /// # Panics
    /// When they do not become ready.
    pub async fn start_in(environment: &[(&str, &str)], config: &str, mark: &str, log: &Path) -> Self {
        Self::start_with(environment, config, mark, log, None).await
    }

    /// Like [`Self::start`], with mutual TLS between the services, whose certificates `authority` signs.
    ///
    /// # Panics
    /// When they do not become ready.
    pub async fn start_with_tls(config: &str, log: &Path, authority: &Authority) -> Self {
        Self::start_with(&[], config, "MARK", log, Some(authority)).await
    }

    async fn start_with(
        further: &[(&str, &str)],
        config: &str,
        mark: &str,
        log: &Path,
        authority: Option<&Authority>,
    ) -> Self {
        File::create(log).expect("the log can be written");
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("phoenix.toml"), config).expect("the configuration can be written");
        let mut free = free_ports();
        let mut port = || free.next().expect("a free port");
        let ports = Role::ALL.iter().map(|role| (*role, Ports { requests: port(), metrics: port() }));
        let mut environment = vec![(mark.to_owned(), dir.path().display().to_string())];
        environment.extend(further.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let ports = ports.collect();
        let certificates = authority.map(|authority| {
            for role in Role::ALL {
                let folder = dir.path().join("certificates").join(role.as_str());
                let _ = authority.issue(&folder, &[role.as_str(), "127.0.0.1"]);
            }
            dir.path().join("certificates")
        });
        let (running, log) = (BTreeMap::new(), log.to_owned());
        let second_executor = None;
        let mut services = Self { dir, environment, ports, running, log, second_executor, certificates };
        for role in Role::ALL {
            services.start_one(*role);
        }
        services.until_ready().await;
        services
    }

    /// Waits until every service is ready.
    ///
    /// # Panics
    /// When they do not become ready.
    pub async fn until_ready(&self) {
        until_ready(&self.rest()).await;
    }

    /// Starts a second planner on the same journal and a gateway in front of it, and waits until they are ready.
    ///
    /// # Panics
    /// When they do not become ready.
    pub async fn start_second_planner(&self) -> SecondPlanner {
        self.start_second_planner_in(&[]).await
    }

    /// Like [`Self::start_second_planner`], with further variables in the environment of the planner.
    ///
    /// # Panics
    /// When they do not become ready.
    pub async fn start_second_planner_in(&self, environment: &[(&str, &str)]) -> SecondPlanner {
        let mut free = free_ports();
        let mut port = || free.next().expect("a free port");
        let mut ports = self.ports.clone();
        for role in [Role::Planner, Role::Gateway] {
            ports.insert(role, Ports { requests: port(), metrics: port() });
        }
        let start = |role| {
            let log = OpenOptions::new().append(true).open(&self.log).expect("the log can be written");
            let mut command = self.command(role, &ports);
            let environment = if role == Role::Planner { environment } else { &[] };
            command.envs(environment.iter().copied()).stderr(log).spawn().expect("phoenix can be started")
        };
        let (mut planner, gateway) = (start(Role::Planner), start(Role::Gateway));
        // Taken, because waiting for the process would close it, which stops the planner.
        let stdin = planner.stdin.take();
        let second = SecondPlanner::new(planner, stdin, gateway, ports);
        until_ready(&second.rest()).await;
        second
    }

    /// Starts a gateway in front of the first planner and `second`, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start_gateway_of_both(&self, second: &SecondPlanner) -> SharedGateway {
        let mut free = free_ports();
        let mut port = || free.next().expect("a free port");
        let mut ports = self.ports.clone();
        ports.insert(Role::Gateway, Ports { requests: port(), metrics: port() });
        let planners = [ports[&Role::Planner], second.ports()[&Role::Planner]].map(Ports::url).join(",");
        let log = OpenOptions::new().append(true).open(&self.log).expect("the log can be written");
        let mut command = self.command_for(Role::Gateway, &ports, &planners);
        let gateway = command.stderr(log).spawn().expect("phoenix can be started");
        let shared = SharedGateway::new(gateway, ports[&Role::Gateway].url());
        until_ready(&shared.rest()).await;
        shared
    }

    /// Starts a further gateway with `environment`, and returns its port and its process.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start_gateway_with(&self, environment: &[(&str, &Path)]) -> (u16, Child) {
        self.start_further(Role::Gateway, environment)
    }

    /// Starts a further process of `role` with `environment`, and returns its port and itself.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start_further(&self, role: Role, environment: &[(&str, &Path)]) -> (u16, Child) {
        let mut free = free_ports();
        let mut port = || free.next().expect("a free port");
        let (requests, metrics) = (port(), port());
        let mut ports = self.ports.clone();
        ports.insert(role, Ports { requests, metrics });
        let log = OpenOptions::new().append(true).open(&self.log).expect("the log can be written");
        let mut command = self.command(role, &ports);
        let process = command.envs(environment.iter().copied()).stderr(log).spawn();
        (requests, process.expect("phoenix can be started"))
    }

    /// Starts a second executor with `config`, restarts planner and health service so that they follow both, and waits until
    /// all are ready.
    ///
    /// # Panics
    /// When they do not become ready.
    pub async fn start_second_executor(&mut self, config: &str) -> SecondExecutor {
        std::fs::write(self.dir.path().join("second.toml"), config)
            .expect("the configuration can be written");
        let mut free = free_ports();
        let mut port = || free.next().expect("a free port");
        let own = Ports { requests: port(), metrics: port() };
        let mut ports = self.ports.clone();
        ports.insert(Role::Executor, own);
        let log = OpenOptions::new().append(true).open(&self.log).expect("the log can be written");
        let mut command = self.command(Role::Executor, &ports);
        command.args(["--config", "second.toml"]).stderr(log);
        let executor = command.spawn().expect("phoenix can be started");
        self.second_executor = Some(own);
        for role in [Role::Planner, Role::Health] {
            self.kill(role).await;
            self.start_one(role);
        }
        self.until_ready().await;
        SecondExecutor::new(executor)
    }

    /// Starts a service that is not running.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_one(&mut self, role: Role) {
        self.start_one_in(role, &[]);
    }

    /// Like [`Self::start_one`], with further variables in its environment.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_one_in(&mut self, role: Role, environment: &[(&str, &str)]) {
        let log = OpenOptions::new().append(true).open(&self.log).expect("the log can be written");
        let mut command = self.command(role, &self.ports);
        let process = command.envs(environment.iter().copied()).stderr(log).spawn();
        let process = process.expect("phoenix can be started");
        self.running.insert(role, process);
    }

    /// Kills a running service, and waits for its exit.
    ///
    /// # Panics
    /// When it is not running.
    pub async fn kill(&mut self, role: Role) {
        let mut process = self.running.remove(&role).expect("the service runs");
        process.kill().await.expect("the process can be killed");
    }

    /// The exit status of a service that ends.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn ended(&mut self, role: Role) -> ExitStatus {
        let mut process = self.running.remove(&role).expect("the service was started");
        // Waiting would close it, and the service would drain.
        let _stdin = process.stdin.take();
        let status = tokio::time::timeout(TIMEOUT, process.wait()).await;
        status.expect("it ends in time").expect("it can be waited for")
    }

    /// Stops every service in order.
    ///
    /// # Panics
    /// When one does not stop in time, or fails.
    pub async fn stop(&mut self) {
        for role in STOP_ORDER {
            let Some(mut process) = self.running.remove(&role) else { continue };
            kill(pid_of(&process), Signal::SIGTERM).expect("the signal can be sent");
            let status = tokio::time::timeout(TIMEOUT * 2, process.wait()).await;
            let status = status.expect("it stops in time").expect("it can be waited for");
            assert!(status.success(), "the {role} ended with {status}");
        }
    }

    /// A client of the gateway.
    #[must_use]
    pub fn rest(&self) -> Rest {
        Rest::new(self.ports[&Role::Gateway].url())
    }

    /// URL of a service for calls over TLS.
    #[must_use]
    pub fn secure_url(&self, role: Role) -> String {
        self.peer_url(self.ports[&role])
    }

    /// The folder in which the services run.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The value of a service's metric.
    ///
    /// # Panics
    /// When the metric does not exist.
    pub async fn metric(&self, role: Role, name: &str) -> f64 {
        self.ports[&role].metric(name).await
    }

    fn command(&self, role: Role, ports: &BTreeMap<Role, Ports>) -> Command {
        self.command_for(role, ports, &self.peer_url(ports[&Role::Planner]))
    }

    /// URL for calls between the services.
    fn peer_url(&self, ports: Ports) -> String {
        let url = ports.url();
        if self.certificates.is_some() { url.replace("http://", "https://") } else { url }
    }

    fn command_for(&self, role: Role, ports: &BTreeMap<Role, Ports>, planners: &str) -> Command {
        let url = |role| self.peer_url(ports[&role]);
        let second_executor = self.second_executor.map(|second| self.peer_url(second));
        let executors: Vec<_> = [url(Role::Executor)].into_iter().chain(second_executor).collect();
        let command = RoleCommand {
            program: None,
            role,
            ports: ports[&role],
            planners,
            executors: &executors.join(","),
            health: &url(Role::Health),
            dir: self.dir.path(),
            environment: &self.environment,
        };
        let mut command = command.command();
        if let Some(certificates) = &self.certificates {
            let file = |name: &str| certificates.join(role.as_str()).join(name);
            command.arg("--tls-cert").arg(file("tls.crt")).arg("--tls-key").arg(file("tls.key"));
            command.arg("--tls-ca").arg(file("ca.crt"));
        }
        command
    }
}

async fn until_ready(rest: &Rest) {
    until("the services are ready", async || {
        let answer = rest.try_send("GET".parse().unwrap(), "/readyz", None).await;
        answer.is_some_and(|answer| answer.json["status"] == "ready")
    })
    .await;
}
