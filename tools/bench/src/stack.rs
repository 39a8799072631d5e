//! `phoenix up`, in a folder and on ports of its own.

use std::{
    fs::File,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        statfs::{TMPFS_MAGIC, statfs},
    },
    unistd::Pid,
};
use phoenix_platform::config::Role;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::failure::{Doing, Failure, Result};

const READY_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const READY_LINE: &str = "phoenix is ready: ";

/// Interval of the signals that end a stack at once: the second one makes `phoenix up` kill its services.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(300);

/// Interval of the checks whether a stack has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Folder with the data of a stack; removed on drop.
pub(crate) struct Home(TempDir);

impl Home {
    /// An empty folder, with `config` as its `phoenix.toml`.
    pub(crate) fn new(config: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("phoenix-bench-").tempdir()?;
        std::fs::write(folder.path().join("phoenix.toml"), config)?;
        Ok(Self(folder))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The planner's database.
    pub(crate) fn journal(&self) -> PathBuf {
        self.data().join("planner.db")
    }

    /// The folder of the databases.
    pub(crate) fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    /// The file of the logs.
    pub(crate) fn log(&self) -> PathBuf {
        self.0.path().join("log")
    }

    /// The last lines of the logs.
    pub(crate) fn end_of_log(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// Whether such folders are in memory, where an fsync costs nothing.
pub(crate) fn homes_are_in_memory() -> bool {
    statfs(&std::env::temp_dir()).is_ok_and(|system| system.filesystem_type() == TMPFS_MAGIC)
}

/// A stack that is ready for chats. A drop ends it at once and waits for its end.
pub(crate) struct Stack<'home> {
    /// URL of the gateway.
    pub(crate) url: String,
    /// Time from the start of the process to its ready line.
    pub(crate) ready_after: Duration,
    process: Child,
    home: &'home Home,
}

impl<'home> Stack<'home> {
    pub(crate) async fn start(phoenix: &Path, home: &'home Home) -> Result<Self> {
        let offset = free_port_offset()?.to_string();
        let mut command = Command::new(phoenix);
        command.args(["up", "--port-offset", &offset, "--data-dir"]).arg(home.data());
        command.arg("--config").arg(home.path().join("phoenix.toml")).current_dir(home.path());
        // The settings of the shell that starts the benchmark are not what is measured.
        command.env_clear().env("HOME", home.path());
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(home.log())?);
        // Ctrl-C is for the benchmark, which then stops the stack.
        command.process_group(0);
        let started = Instant::now();
        let process = command.spawn().doing("cannot start phoenix up")?;
        // Ends the process on every return.
        let mut stack = Self { url: String::new(), ready_after: Duration::ZERO, process, home };
        let url = timeout(READY_LIMIT, ready_url(&mut stack.process)).await;
        stack.ready_after = started.elapsed();
        match url {
            Ok(Ok(Some(url))) => {
                stack.url = url;
                Ok(stack)
            }
            Ok(Err(problem)) => Err(problem),
            Ok(Ok(None)) | Err(_) => Err(stack.blamed(Failure::new("phoenix up did not become ready"))),
        }
    }

    /// The process id of the service `role`.
    pub(crate) fn service(&self, role: Role) -> Result<u32> {
        crate::memory::child_of(self.pid()?, role.as_str())
            .ok_or_else(|| Failure::new(format_args!("the {role} does not run")))
    }

    /// The process id of `phoenix up` itself.
    pub(crate) fn pid(&self) -> Result<u32> {
        self.process.id().ok_or("it ended").doing("phoenix up")
    }

    /// `failure`, with the end of what the stack logged meanwhile.
    pub(crate) fn blamed(&self, failure: Failure) -> Failure {
        Failure::new(format_args!("{failure}\nThe end of the log of phoenix up:\n{}", self.home.end_of_log()))
    }

    /// Stops the stack and waits for its drain.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.signal()?;
        match timeout(STOP_LIMIT, self.process.wait()).await {
            Ok(ended) => ended.map(drop).doing("phoenix up"),
            Err(_) => Err(Failure::new("phoenix up did not stop when asked to")),
        }
    }

    /// SIGTERM, unless it has ended.
    fn signal(&self) -> Result<()> {
        let Some(pid) = self.process.id() else { return Ok(()) };
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM).doing("cannot stop phoenix up")
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }
}

impl Drop for Stack<'_> {
    /// Nothing is measured at this time: the run has ended, has failed or was interrupted.
    fn drop(&mut self) {
        let limit = Instant::now() + STOP_LIMIT;
        let mut next_signal = Instant::now();
        while !self.has_ended() && Instant::now() < limit {
            if Instant::now() >= next_signal {
                let _ = self.signal();
                next_signal += SIGNAL_INTERVAL;
            }
            #[expect(clippy::disallowed_methods, reason = "there is no waiting otherwise in a destructor")]
            std::thread::sleep(POLL_INTERVAL);
        }
        let _ = self.process.start_kill();
    }
}

/// Reads until the ready line; `None` when the output ends without one.
async fn ready_url(process: &mut Child) -> Result<Option<String>> {
    let stdout = process.stdout.take().ok_or("no standard output").doing("phoenix up")?;
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await? {
        if let Some(url) = line.strip_prefix(READY_LINE) {
            // Later output must not fill the pipe.
            let url = url.trim().to_owned();
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok(Some(url));
        }
    }
    Ok(None)
}

/// Offsets with which no port of a stack is among those that Linux gives to outgoing connections (32 768 to 60 999): one of
/// those might be in use when the stack binds it.
const OFFSETS: Range<u16> = 11_000..15_400;

/// An offset at which every port of a stack is free just now.
fn free_port_offset() -> Result<u16> {
    // Not always the same ones: a port that was just given up may linger.
    let first = usize::try_from(std::process::id()).unwrap_or_default() % OFFSETS.len();
    OFFSETS
        .cycle()
        .skip(first)
        .step_by(11)
        .take(OFFSETS.len() / 11)
        .find(|offset| {
            let ports = Role::ALL.iter().flat_map(|role| [role.default_port(), role.default_metrics_port()]);
            let listeners: Vec<_> =
                ports.map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port + offset))).collect();
            listeners.iter().all(std::result::Result::is_ok)
        })
        .ok_or("no free ports")
        .doing("phoenix up")
}
