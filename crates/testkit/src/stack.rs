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
    wait::{PATIENCE, until_some},
};

/// The user without rights.
const NOBODY: u32 = 65534;

/// A running stack. Everything of it is killed when it is dropped.
#[derive(Debug)]
pub struct Stack {
    /// The supervisor.
    process: Child,
    offset: u16,
    dir: Arc<TempDir>,
    token: Option<String>,
    stdout: Lines,
    stderr: Lines,
    readers: Vec<JoinHandle<()>>,
}

/// Lines that a process has written so far.
type Lines = Arc<Mutex<Vec<String>>>;

/// A stack to be started.
#[derive(Debug)]
pub struct StackBuilder {
    dir: Arc<TempDir>,
    environment: BTreeMap<String, String>,
    /// What it is started through: a program and its first arguments.
    through: Vec<String>,
    data_dir: String,
}

impl Default for StackBuilder {
    fn default() -> Self {
        let dir = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        Self { dir, environment: BTreeMap::new(), through: Vec::new(), data_dir: "data".into() }
    }
}

impl StackBuilder {
    /// Writes `phoenix.toml`.
    ///
    /// # Panics
    /// When it can't be written.
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

    /// Starts it through a program that is given phoenix and its arguments, and becomes it.
    #[must_use]
    pub fn through(mut self, program: &[&str]) -> Self {
        self.through = program.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Starts it as a user without rights over the system, to whom the folder is given. A user who has none anyway stays.
    ///
    /// # Panics
    /// When the folder cannot be given away.
    #[must_use]
    pub fn unprivileged(self) -> Self {
        if !geteuid().is_root() {
            return self;
        }
        let (user, group) = (NOBODY.to_string(), NOBODY.to_string());
        std::os::unix::fs::chown(self.dir.path(), Some(NOBODY), Some(NOBODY)).expect("root may");
        self.through(&["setpriv", "--reuid", &user, "--regid", &group, "--clear-groups"])
    }

    /// Keeps its data in a folder of another name than `data`.
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

    /// The command that starts it on ports that are free at the moment, and their offset.
    #[must_use]
    pub fn command(&self) -> (Command, u16) {
        let offset = free_offset();
        let words = self.through.iter().map(OsString::from).chain([phoenix_bin().into_os_string()]);
        let words: Vec<_> = words.collect();
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
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

    /// Starts it and waits for its ready line.
    ///
    /// # Panics
    /// When it does not get ready.
    pub async fn start(self) -> Stack {
        self.start_and(true).await
    }

    /// The same, with a standard error that nothing reads until the stack is dropped.
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
            assert!(stack.is_running(), "phoenix ended before it was ready:\n{}", stack.stderr_text());
            lines.into_iter().find(|line| line.starts_with("phoenix is ready: "))
        });
        let line = ready.await;
        assert_eq!(line, format!("phoenix is ready: http://127.0.0.1:{}", 8181 + offset));
        stack
    }
}

impl Stack {
    /// A stack to be started.
    #[must_use]
    pub fn builder() -> StackBuilder {
        StackBuilder::default()
    }

    /// Where its gateway is.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}", 8181 + self.offset)
    }

    /// A client of its gateway.
    #[must_use]
    pub fn rest(&self) -> Rest {
        let rest = Rest::new(self.base_url());
        match &self.token {
            Some(token) => rest.with_token(token),
            None => rest,
        }
    }

    /// What its services ask of callers over gRPC: what is in the file in the data folder.
    ///
    /// # Panics
    /// When there is no such file.
    #[must_use]
    pub fn service_token(&self) -> ServiceToken {
        let path = self.dir.path().join("data").join(service_token::FILE_NAME);
        let text = std::fs::read_to_string(path).expect("the service token can be read");
        ServiceToken::new(&text).expect("a valid token")
    }

    /// Where a service is.
    #[must_use]
    pub fn url(&self, role: Role) -> String {
        format!("http://127.0.0.1:{}", role.default_port() + self.offset)
    }

    /// The folder in which it runs.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.dir.path().into()
    }

    /// The supervisor's process id.
    ///
    /// # Panics
    /// When it has ended.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.process.id().expect("phoenix runs")).expect("a process id")
    }

    /// The process id of a service that runs now, if it does.
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

    /// Stops the stack and gives its exit code.
    ///
    /// # Panics
    /// When it does not stop.
    pub async fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        self.wait().await
    }

    /// Waits until the supervisor has ended and gives its exit code.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn wait(&mut self) -> Option<i32> {
        let status =
            tokio::time::timeout(PATIENCE * 2, self.process.wait()).await.expect("phoenix ends in time");
        for reader in self.readers.drain(..) {
            let _ = tokio::time::timeout(PATIENCE, reader).await;
        }
        status.expect("phoenix can be waited for").code()
    }

    /// The text of a service's `/metrics`.
    pub async fn metrics(&self, role: Role) -> String {
        let port = role.default_metrics_port() + self.offset;
        Rest::new(format!("http://127.0.0.1:{port}")).get("/metrics").await.text
    }

    /// The value of a metric without labels.
    ///
    /// # Panics
    /// When it is not there.
    pub async fn metric(&self, role: Role, name: &str) -> f64 {
        metric_in(&self.metrics(role).await, name)
    }

    /// The same of a metric that may carry labels, which are part of its name here; `None` while the service can't be asked.
    pub async fn try_metric(&self, role: Role, name: &str) -> Option<f64> {
        let port = role.default_metrics_port() + self.offset;
        let rest = Rest::new(format!("http://127.0.0.1:{port}"));
        value_in(&rest.try_send("GET".parse().ok()?, "/metrics", None).await?.text, name)
    }

    /// Every log line that carries this correlation id.
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

/// The value of a metric without labels in the text of a `/metrics`.
pub(crate) fn metric_in(text: &str, name: &str) -> f64 {
    value_in(text, name).unwrap_or_else(|| panic!("there is no {name} in:\n{text}"))
}

fn value_in(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?.parse().ok()
}

fn collect(from: impl AsyncRead + Send + Unpin + 'static, into: Lines) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut lines = BufReader::new(from).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            into.lock().unwrap().push(line);
        }
    })
}

/// An offset at which every port of a stack is free, and none of another test's stack.
fn free_offset() -> u16 {
    let seed = std::process::id().wrapping_mul(7919).wrapping_add(jitter());
    for step in 0..1000_u32 {
        let offset = u16::try_from(200 + seed.wrapping_add(step * 37) % 14_000).expect("below 65536");
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

/// Whether a process lives; a zombie does not.
#[must_use]
pub fn is_alive(pid: i32) -> bool {
    stat(pid).is_some_and(|stat| stat.0 != "Z" && stat.0 != "X")
}

/// The living children of a process.
#[must_use]
pub fn children_of(parent: i32) -> Vec<i32> {
    all_pids().filter(|pid| stat(*pid).is_some_and(|(state, ppid)| ppid == parent && state != "Z")).collect()
}

/// Living processes whose environment holds `text`.
#[must_use]
pub fn pids_with_environment(text: &str) -> Vec<i32> {
    let holds = |pid: &i32| {
        std::fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|environ| environ.windows(text.len()).any(|window| window == text.as_bytes()))
    };
    all_pids().filter(holds).filter(|pid| is_alive(*pid)).collect()
}

/// Living processes of the stack in `dir`, agents with the variable `MARK` included. Services show their environment to root
/// only, and their command line, with the folder of their data, to everyone.
#[must_use]
pub fn pids_of_stack(dir: &Path) -> Vec<i32> {
    let dir = dir.to_string_lossy();
    let mut pids = pids_with_environment(&format!("MARK={dir}"));
    let named = all_pids().filter(|pid| command_line(*pid).iter().any(|word| word.contains(&*dir)));
    pids.extend(named.filter(|pid| is_alive(*pid)));
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// The command line of a process, word by word.
#[must_use]
pub fn command_line(pid: i32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// The memory that a process holds now, in bytes; what it shares with others included.
///
/// # Panics
/// When it has ended.
#[must_use]
pub fn resident_bytes(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

fn all_pids() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// State and parent of a process.
fn stat(pid: i32) -> Option<(String, i32)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name, in parentheses, may hold anything.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.into(), fields.next()?.parse().ok()?))
}
