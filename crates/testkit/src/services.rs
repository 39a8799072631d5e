//! The four services as real processes without a supervisor: a test kills one and starts it again when it likes.
//!
//! `phoenix up` waits longer and longer before it starts a service again that keeps dying, as it should; a test that kills
//! services all the time would mostly wait for it.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use phoenix_platform::{config::Role, service_token};
use tempfile::TempDir;
use tokio::process::{Child, ChildStdin, Command};

use crate::{
    http::Rest,
    phoenix_bin,
    stack::metric_in,
    wait::{PATIENCE, until},
};

/// The order in which services stop: first those that bring work, last those that others need.
const STOP_ORDER: [Role; 4] = [Role::Gateway, Role::Planner, Role::Executor, Role::Health];

/// Ports are looked for from here on: below those that the system gives to outgoing connections, one of which might else
/// sit on the port of a service that is down.
const FIRST_PORT: u16 = 12_000;

/// The four services in a folder of their own. What runs is killed when this is dropped, and drains when the test dies.
#[derive(Debug)]
pub struct Services {
    dir: TempDir,
    environment: Vec<(String, String)>,
    ports: BTreeMap<Role, Ports>,
    running: BTreeMap<Role, Child>,
    log: PathBuf,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    requests: u16,
    metrics: u16,
}

impl Services {
    /// Starts the four with `config` as their `phoenix.toml`, and waits until they are ready. Each of them has the
    /// variable `mark`, whose value is the folder. What they log, as JSON, ends up in the file `log`, which is emptied.
    ///
    /// # Panics
    /// When they do not get ready.
    pub async fn start(config: &str, mark: &str, log: &Path) -> Self {
        File::create(log).expect("the log can be written");
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("phoenix.toml"), config).expect("the configuration can be written");
        let mut free = free_ports();
        let mut port = || free.next().expect("a free port");
        let ports = Role::ALL.iter().map(|role| (*role, Ports { requests: port(), metrics: port() }));
        let environment = vec![(mark.to_owned(), dir.path().display().to_string())];
        let ports = ports.collect();
        let mut services = Self { dir, environment, ports, running: BTreeMap::new(), log: log.to_owned() };
        for role in Role::ALL {
            services.start_one(*role);
        }
        services.until_ready().await;
        services
    }

    /// Waits until every service is ready.
    ///
    /// # Panics
    /// When that does not happen.
    pub async fn until_ready(&self) {
        until_ready(&self.rest()).await;
    }

    /// Starts another planner on the same journal and a gateway in front of it, and waits until they are ready.
    ///
    /// # Panics
    /// When they do not get ready.
    pub async fn start_beside(&self) -> Beside {
        let mut free = free_ports();
        let mut port = || free.next().expect("a free port");
        let mut ports = self.ports.clone();
        for role in [Role::Planner, Role::Gateway] {
            ports.insert(role, Ports { requests: port(), metrics: port() });
        }
        let start = |role| {
            let log = OpenOptions::new().append(true).open(&self.log).expect("the log can be written");
            self.command(role, &ports).stderr(log).spawn().expect("phoenix can be started")
        };
        let (mut planner, gateway) = (start(Role::Planner), start(Role::Gateway));
        // Waiting for a process would close it, which tells the planner to stop.
        let stdin = planner.stdin.take();
        let beside = Beside { planner, _stdin: stdin, _gateway: gateway, ports };
        until_ready(&beside.rest()).await;
        beside
    }

    /// Starts a service that does not run.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn start_one(&mut self, role: Role) {
        let log = OpenOptions::new().append(true).open(&self.log).expect("the log can be written");
        let process = self.command(role, &self.ports).stderr(log).spawn().expect("phoenix can be started");
        self.running.insert(role, process);
    }

    /// Kills a service that runs, and waits until it is gone.
    ///
    /// # Panics
    /// When it does not run.
    pub async fn kill(&mut self, role: Role) {
        let mut process = self.running.remove(&role).expect("the service runs");
        process.kill().await.expect("it can be killed");
    }

    /// Stops every service, in order, and gives how each ended.
    ///
    /// # Panics
    /// When one does not stop.
    pub async fn stop(&mut self) -> Vec<(Role, ExitStatus)> {
        let mut ended = Vec::new();
        for role in STOP_ORDER {
            let Some(mut process) = self.running.remove(&role) else { continue };
            kill(pid_of(&process), Signal::SIGTERM).expect("the signal can be sent");
            let status = tokio::time::timeout(PATIENCE * 2, process.wait()).await;
            ended.push((role, status.expect("it stops in time").expect("it can be waited for")));
        }
        ended
    }

    /// A client of the gateway.
    #[must_use]
    pub fn rest(&self) -> Rest {
        Rest::new(self.ports[&Role::Gateway].url())
    }

    /// The folder in which they run.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The value of a service's metric without labels.
    ///
    /// # Panics
    /// When it is not there.
    pub async fn metric(&self, role: Role, name: &str) -> f64 {
        metric(self.ports[&role], name).await
    }

    fn command(&self, role: Role, ports: &BTreeMap<Role, Ports>) -> Command {
        let Ports { requests, metrics } = ports[&role];
        let url = |role| ports[&role].url();
        let mut command = Command::new(phoenix_bin());
        command
            .args([role.as_str(), "--supervised", "--data-dir", "data"])
            .args([
                "--addr",
                &format!("127.0.0.1:{requests}"),
                "--metrics-addr",
                &format!("127.0.0.1:{metrics}"),
            ])
            .args(["--planner-url", &url(Role::Planner), "--executor-url", &url(Role::Executor)])
            .args(["--health-url", &url(Role::Health)])
            .current_dir(self.dir.path())
            .env_clear()
            .envs(["PATH", "HOME", "TMPDIR"].iter().filter_map(|name| Some((*name, std::env::var_os(name)?))))
            .env("LOG_FORMAT", "json")
            .env(service_token::VARIABLE, crate::SERVICE_TOKEN)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            // Its end, with this process, makes a service drain.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        command
    }
}

/// A second planner of the same journal, with a gateway of its own.
#[derive(Debug)]
pub struct Beside {
    planner: Child,
    _stdin: Option<ChildStdin>,
    _gateway: Child,
    ports: BTreeMap<Role, Ports>,
}

impl Beside {
    /// A client of its gateway.
    #[must_use]
    pub fn rest(&self) -> Rest {
        Rest::new(self.ports[&Role::Gateway].url())
    }

    /// The value of the planner's metric without labels.
    ///
    /// # Panics
    /// When it is not there.
    pub async fn metric(&self, name: &str) -> f64 {
        metric(self.ports[&Role::Planner], name).await
    }

    /// Sends a signal to the planner.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, signal: Signal) {
        kill(pid_of(&self.planner), signal).expect("the signal can be sent");
    }

    /// Waits until the planner has ended: how.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn ended(&mut self) -> ExitStatus {
        let status = tokio::time::timeout(PATIENCE, self.planner.wait()).await;
        status.expect("it ends in time").expect("it can be waited for")
    }
}

impl Ports {
    fn url(self) -> String {
        format!("http://127.0.0.1:{}", self.requests)
    }
}

async fn metric(ports: Ports, name: &str) -> f64 {
    let rest = Rest::new(format!("http://127.0.0.1:{}", ports.metrics));
    metric_in(&rest.get("/metrics").await.text, name)
}

async fn until_ready(rest: &Rest) {
    until("the services are ready", async || {
        let answer = rest.try_send("GET".parse().unwrap(), "/readyz", None).await;
        answer.is_some_and(|answer| answer.json["status"] == "ready")
    })
    .await;
}

fn pid_of(process: &Child) -> Pid {
    Pid::from_raw(i32::try_from(process.id().expect("it runs")).expect("a process id"))
}

/// Ports that are free at the moment, and not those of another test that looks at the same time.
fn free_ports() -> impl Iterator<Item = u16> {
    let span = 32_000 - FIRST_PORT;
    let first = u16::try_from(std::process::id().wrapping_mul(7919) % u32::from(span)).expect("below 65536");
    let ports = (0..span).map(move |step| FIRST_PORT + (first + step) % span);
    ports.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
}
