//! The roles as processes of their own, in chosen numbers, on a chosen database.

use std::{
    fs::{File, OpenOptions},
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use phoenix_platform::{config::Role, service_token};
use tokio::{
    process::{Child, Command},
    time::timeout,
};
use uuid::Uuid;

use crate::{
    failure::{Doing, Failure, Result},
    rest::Rest,
    stack::Home,
};

const READY_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Interval of the checks of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Ports of the processes, none of which Linux gives to outgoing connections.
const PORTS: Range<u16> = 12_000..19_000;

/// Order in which the roles stop: each before those that it depends on.
const STOP_ORDER: [Role; 4] = [Role::Gateway, Role::Planner, Role::Executor, Role::Health];

/// What to start, in addition to one gateway and one health service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup<'a> {
    /// URL of the database of planners and health service; SQLite in the folder without one.
    pub(crate) database: Option<&'a str>,
    pub(crate) planners: usize,
    pub(crate) executors: usize,
}

/// Running processes that are ready for chats. A drop kills them and waits for their end.
pub(crate) struct Replicas<'home> {
    /// URL of the gateway.
    pub(crate) url: String,
    members: Vec<Member>,
    home: &'home Home,
    is_on_postgres: bool,
}

struct Member {
    role: Role,
    requests: u16,
    metrics: u16,
    process: Option<Child>,
}

impl<'home> Replicas<'home> {
    /// Starts the processes in `home`, and waits until all are ready.
    pub(crate) async fn start(phoenix: &Path, home: &'home Home, setup: Setup<'_>) -> Result<Self> {
        let mut ports = free_ports(2 * (2 + setup.planners + setup.executors))?.into_iter();
        let mut members = Vec::new();
        for role in Role::ALL {
            let count = match role {
                Role::Planner => setup.planners,
                Role::Executor => setup.executors,
                Role::Gateway | Role::Health => 1,
            };
            for _ in 0..count {
                let mut port = || ports.next().ok_or_else(|| Failure::new("no free ports"));
                members.push(Member { role: *role, requests: port()?, metrics: port()?, process: None });
            }
        }
        File::create(home.log())?;
        let is_on_postgres = setup.database.is_some();
        let mut replicas = Self { url: String::new(), members, home, is_on_postgres };
        replicas.url = replicas.urls(Role::Gateway);
        // The same for all, so that they accept each other.
        let token = Uuid::new_v4().simple().to_string();
        for index in 0..replicas.members.len() {
            let mut command = replicas.command(phoenix, index, setup.database, &token)?;
            let process = command.spawn().doing("cannot start phoenix")?;
            replicas.members[index].process = Some(process);
        }
        match timeout(READY_LIMIT, replicas.until_ready()).await {
            Ok(()) => Ok(replicas),
            Err(_) => Err(replicas.blamed(Failure::new("the services did not become ready"))),
        }
    }

    fn command(&self, phoenix: &Path, index: usize, database: Option<&str>, token: &str) -> Result<Command> {
        let Member { role, requests, metrics, .. } = &self.members[index];
        let log = OpenOptions::new().append(true).open(self.home.log())?;
        let mut command = Command::new(phoenix);
        command
            .args([role.as_str(), "--data-dir"])
            .arg(self.home.data())
            .arg("--config")
            .arg(self.home.path().join("phoenix.toml"))
            .args(["--addr", &format!("127.0.0.1:{requests}")])
            .args(["--metrics-addr", &format!("127.0.0.1:{metrics}")])
            .args(["--planner-url", &self.urls(Role::Planner), "--executor-url", &self.urls(Role::Executor)])
            .args(["--health-url", &self.urls(Role::Health)])
            .current_dir(self.home.path())
            // The settings of the shell that starts the benchmark are not what is measured.
            .env_clear()
            .env("HOME", self.home.path())
            .env(service_token::VARIABLE, token)
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("TOKIO_WORKER_THREADS", worker_threads().to_string())
            .envs(database.map(|url| ("DATABASE_URL", url)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C is for the benchmark, which then ends them.
            .process_group(0)
            .kill_on_drop(true);
        Ok(command)
    }

    async fn until_ready(&self) {
        for Member { role, requests, metrics, .. } in &self.members {
            // A gateway has its probes beside the requests.
            let port = if *role == Role::Gateway { requests } else { metrics };
            let probes = Rest::new(&format!("http://127.0.0.1:{port}"));
            while !probes.is_ok("/readyz").await {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
    }

    fn urls(&self, role: Role) -> String {
        let members = self.members.iter().filter(|member| member.role == role);
        members.map(|member| format!("http://127.0.0.1:{}", member.requests)).collect::<Vec<_>>().join(",")
    }

    /// Whether they use PostgreSQL.
    pub(crate) const fn is_on_postgres(&self) -> bool {
        self.is_on_postgres
    }

    /// Process ids of a role.
    pub(crate) fn pids(&self, role: Role) -> Vec<u32> {
        let members = self.members.iter().filter(|member| member.role == role);
        members.filter_map(|member| member.process.as_ref()?.id()).collect()
    }

    /// `failure`, with the end of what the processes logged meanwhile.
    pub(crate) fn blamed(&self, failure: Failure) -> Failure {
        Failure::new(format_args!("{failure}\nThe end of the log:\n{}", self.home.end_of_log()))
    }

    /// Stops the processes and waits for their drain.
    pub(crate) async fn stop(mut self) -> Result<()> {
        for role in STOP_ORDER {
            for member in self.members.iter_mut().filter(|member| member.role == role) {
                let Some(process) = &mut member.process else { continue };
                if let Some(pid) = process.id() {
                    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM).doing("cannot stop phoenix")?;
                }
                let ended = timeout(STOP_LIMIT, process.wait()).await;
                ended.map_err(|_| Failure::new(format_args!("the {role} did not stop when asked to")))??;
                member.process = None;
            }
        }
        Ok(())
    }
}

impl Drop for Replicas<'_> {
    /// Nothing is measured at this time: the run has ended, has failed or was interrupted. The guard of an executor ends its
    /// agents.
    fn drop(&mut self) {
        let mut processes: Vec<_> =
            self.members.iter_mut().filter_map(|member| member.process.take()).collect();
        for process in &mut processes {
            let _ = process.start_kill();
        }
        let limit = Instant::now() + STOP_LIMIT;
        for mut process in processes {
            while matches!(process.try_wait(), Ok(None)) && Instant::now() < limit {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "there is no waiting otherwise in a destructor"
                )]
                std::thread::sleep(POLL_INTERVAL);
            }
        }
    }
}

/// Worker threads of each process, as under `phoenix up`.
fn worker_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}

/// Ports that are free just now.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    // Not always the same ones: several sets are started one after the other, and a port may linger.
    let first = usize::from(Uuid::new_v4().as_u128() as u16) % PORTS.len();
    let mut held = Vec::new();
    for port in PORTS.cycle().skip(first).take(PORTS.len()) {
        held.extend(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok().map(|listener| (port, listener)));
        if held.len() == count {
            return Ok(held.into_iter().map(|(port, _)| port).collect());
        }
    }
    Err(Failure::new("no free ports"))
}
