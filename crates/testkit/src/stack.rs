//! `phoenix up` as a real process with real children.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use phoenix_platform::{
    config::Role,
    service_token::{self, ServiceToken},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    task::JoinHandle,
};

use crate::{
    http::Rest,
    phoenix_bin,
    processes::{children_of, command_line, is_alive},
    scrape::{metric_in, value_in},
    wait::{TIMEOUT, until_some},
};

/// User and group id without privileges.
const UNPRIVILEGED_ID: u32 = 65534;

/// A running stack. Dropping it kills all of its processes.
#[derive(Debug)]
pub struct Stack {
    /// Process of the supervisor.
    process: Child,
    offset: u16,
    dir: Arc<TempDir>,
    token: Option<String>,
    stdout: Lines,
    stderr: Lines,
    readers: Vec<JoinHandle<()>>,
}

/// Lines of output so far.
type Lines = Arc<Mutex<Vec<String>>>;

/// Options of a stack.
#[derive(Debug)]
pub struct StackBuilder {
    dir: Arc<TempDir>,
    environment: BTreeMap<String, String>,
    /// Program, with its first arguments, that executes phoenix.
    launcher: Vec<String>,
    data_dir: String,
}

impl Default for StackBuilder {
    fn default() -> Self {
        let dir = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        Self { dir, environment: BTreeMap::new(), launcher: Vec::new(), data_dir: "data".into() }
    }
}

impl StackBuilder {
    /// Writes `phoenix.toml`.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn config(self, text: &str) -> Self {
        std::fs::write(self.dir.path().join("phoenix.toml"), text).expect("the configuration can be written");
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Starts the stack with a program that gets phoenix and its arguments as arguments, and executes it.
    #[must_use]
    pub fn launcher(mut self, program: &[&str]) -> Self {
        self.launcher = program.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Starts the stack as an unprivileged user, who becomes the owner of the folder. Has no effect for an unprivileged user.
    ///
    /// # Panics
    /// When the owner of the folder cannot be changed.
    #[must_use]
    pub fn unprivileged(self) -> Self {
        if !geteuid().is_root() {
            return self;
        }
        let (user, group) = (UNPRIVILEGED_ID.to_string(), UNPRIVILEGED_ID.to_string());
        std::os::unix::fs::chown(self.dir.path(), Some(UNPRIVILEGED_ID), Some(UNPRIVILEGED_ID))
            .expect("root may change the owner");
        self.launcher(&["setpriv", "--reuid", &user, "--regid", &group, "--clear-groups"])
    }

    /// Sets the name of the data folder, `data` by default.
    #[must_use]
    pub fn data_dir(mut self, name: &str) -> Self {
        self.data_dir = name.into();
        self
    }

    /// The folder in which the stack runs.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The command that starts the stack on free ports, and their offset.
    #[must_use]
    pub fn command(&self) -> (Command, u16) {
        let offset = free_offset();
        let words = self.launcher.iter().map(OsString::from).chain([phoenix_bin().into_os_string()]);
        // Under `nohup` the tests ignore SIGHUP, which `phoenix up` would inherit.
        let mut command = Command::new("env");
        command
            .arg("--default-signal=HUP")
            .args(words)
            .args(["up", "--data-dir", &self.data_dir, "--port-offset", &offset.to_string()])
            .current_dir(self.dir.path())
            .env_clear()
            .envs(["PATH", "HOME", "TMPDIR"].iter().filter_map(|name| Some((*name, std::env::var_os(name)?))))
            .env("LOG_FORMAT", "json")
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        (command, offset)
    }

    /// Starts the stack and waits for its ready line.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start(self) -> Stack {
        self.start_and(true).await
    }

    /// Like [`Self::start`], with a standard error that is not read until the stack is dropped.
    pub async fn start_unread(self) -> Stack {
        self.start_and(false).await
    }

    async fn start_and(self, reads_stderr: bool) -> Stack {
        let (mut command, offset) = self.command();
        let mut process = command.spawn().expect("phoenix can be started");
        let (stdout, stderr) = (Lines::default(), Lines::default());
        let mut readers = vec![collect(process.stdout.take().expect("piped"), Arc::clone(&stdout))];
        if reads_stderr {
            readers.push(collect(process.stderr.take().expect("piped"), Arc::clone(&stderr)));
        }
        let token = self.environment.get("ORCH_API_TOKEN").cloned();
        let stack = Stack { process, offset, dir: self.dir, token, stdout, stderr, readers };
        let ready = until_some("phoenix prints its ready line", async || {
            let lines = stack.stdout.lock().unwrap().clone();
            assert!(stack.is_running(), "phoenix exited before it was ready:\n{}", stack.stderr_text());
            lines.into_iter().find(|line| line.starts_with("phoenix is ready: "))
        });
        let line = ready.await;
        assert_eq!(line, format!("phoenix is ready: http://127.0.0.1:{}", 8181 + offset));
        stack
    }
}

impl Stack {
    /// Options of a stack to start.
    #[must_use]
    pub fn builder() -> StackBuilder {
        StackBuilder::default()
    }

    /// URL of the gateway.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}", 8181 + self.offset)
    }

    /// A client of the gateway.
    #[must_use]
    pub fn rest(&self) -> Rest {
        let rest = Rest::new(self.base_url());
        match &self.token {
            Some(token) => rest.with_token(token),
            None => rest,
        }
    }

    /// The token that its services require over gRPC, from the file in the data folder.
    ///
    /// # Panics
    /// When the file does not exist.
    #[must_use]
    pub fn service_token(&self) -> ServiceToken {
        let path = self.dir.path().join("data").join(service_token::FILE_NAME);
        let text = std::fs::read_to_string(path).expect("the service token can be read");
        ServiceToken::new(&text).expect("a valid token")
    }

    /// URL of a service.
    #[must_use]
    pub fn url(&self, role: Role) -> String {
        format!("http://127.0.0.1:{}", role.default_port() + self.offset)
    }

    /// The folder in which the stack runs.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.dir.path().into()
    }

    /// Process id of the supervisor.
    ///
    /// # Panics
    /// When it has ended.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.process.id().expect("phoenix runs")).expect("a process id")
    }

    /// Process id of a service, if it is running.
    #[must_use]
    pub fn role_pid(&self, role: Role) -> Option<i32> {
        children_of(self.pid())
            .into_iter()
            .find(|pid| command_line(*pid).get(1).is_some_and(|arg| arg == role.as_str()))
    }

    /// Sends a signal to a service.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal_role(&self, role: Role, signal: Signal) {
        let pid = self.role_pid(role).unwrap_or_else(|| panic!("the {role} runs"));
        kill(Pid::from_raw(pid), signal).expect("the signal can be sent");
    }

    /// Sends a signal to the supervisor.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("the signal can be sent");
    }

    /// Stops the stack and returns its exit code.
    ///
    /// # Panics
    /// When it does not stop in time.
    pub async fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        self.wait().await
    }

    /// Waits for the exit of the supervisor and returns its exit code.
    ///
    /// # Panics
    /// When it does not exit in time.
    pub async fn wait(&mut self) -> Option<i32> {
        let status =
            tokio::time::timeout(TIMEOUT * 2, self.process.wait()).await.expect("phoenix exits in time");
        for reader in self.readers.drain(..) {
            let _ = tokio::time::timeout(TIMEOUT, reader).await;
        }
        status.expect("phoenix can be waited for").code()
    }

    /// Address of a service's `/metrics`.
    #[must_use]
    pub fn metrics_addr(&self, role: Role) -> String {
        format!("127.0.0.1:{}", role.default_metrics_port() + self.offset)
    }

    /// The text of a service's `/metrics`.
    pub async fn metrics(&self, role: Role) -> String {
        Rest::new(format!("http://{}", self.metrics_addr(role))).get("/metrics").await.text
    }

    /// The value of a metric without labels.
    ///
    /// # Panics
    /// When the metric does not exist.
    pub async fn metric(&self, role: Role, name: &str) -> f64 {
        metric_in(&self.metrics(role).await, name)
    }

    /// The value of a metric, with its labels as part of the name; `None` while the service is unreachable.
    pub async fn try_metric(&self, role: Role, name: &str) -> Option<f64> {
        let port = role.default_metrics_port() + self.offset;
        let rest = Rest::new(format!("http://127.0.0.1:{port}"));
        value_in(&rest.try_send("GET".parse().ok()?, "/metrics", None).await?.text, name)
    }

    /// Every log line with this correlation id.
    #[must_use]
    pub fn log_of(&self, correlation_id: &str) -> Vec<Value> {
        self.log().into_iter().filter(|line| line["correlation_id"] == correlation_id).collect()
    }

    /// Every log line so far.
    ///
    /// # Panics
    /// Never, unless a reader panicked.
    #[must_use]
    pub fn log(&self) -> Vec<Value> {
        let lines = self.stderr.lock().unwrap().clone();
        lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect()
    }

    /// Everything on standard error so far.
    #[must_use]
    pub fn stderr_text(&self) -> String {
        self.stderr.lock().unwrap().join("\n")
    }

    fn is_running(&self) -> bool {
        self.process.id().is_some_and(|pid| is_alive(i32::try_from(pid).unwrap_or(0)))
    }
}

fn collect(from: impl AsyncRead + Send + Unpin + 'static, into: Lines) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut lines = BufReader::new(from).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            into.lock().unwrap().push(line);
        }
    })
}

/// An offset at which every port of a stack is free, different from those of concurrent tests. No port is ephemeral: a connection
/// could take such a one in the moment before the service does.
fn free_offset() -> u16 {
    let seed = std::process::id().wrapping_mul(7919).wrapping_add(jitter());
    for step in 0..1000_u32 {
        let offset = u16::try_from(10_950 + seed.wrapping_add(step * 37) % 4_500).expect("below 65536");
        let ports = Role::ALL.iter().flat_map(|role| [role.default_port(), role.default_metrics_port()]);
        let held: Vec<_> =
            ports.map_while(|port| TcpListener::bind(("127.0.0.1", port + offset)).ok()).collect();
        if held.len() == Role::ALL.len() * 2 {
            return offset;
        }
    }
    panic!("no free ports");
}

fn jitter() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    NEXT.fetch_add(613, std::sync::atomic::Ordering::Relaxed)
}
