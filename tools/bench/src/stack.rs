//! `phoenix up`, in a folder and on ports of its own.

use std::{
    fs::File,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
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

/// One process per chat, whatever the product's default is: that is what the spawn ceiling is compared with.
const CONFIG: &str = "[agents.echo_agent]\nmode = \"oneshot\"\n";

/// A stack that is ready for chats.
pub(crate) struct Stack {
    /// Where chats go.
    pub(crate) url: String,
    /// From starting the process to its ready line.
    pub(crate) ready_after: Duration,
    process: Child,
    folder: TempDir,
}

impl Stack {
    pub(crate) async fn start(phoenix: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("phoenix-bench-").tempdir()?;
        let config = folder.path().join("phoenix.toml");
        std::fs::write(&config, CONFIG)?;
        let offset = free_port_offset()?.to_string();
        let mut command = Command::new(phoenix);
        command.args(["up", "--port-offset", &offset, "--data-dir"]).arg(folder.path().join("data"));
        command.arg("--config").arg(&config).current_dir(folder.path());
        // Settings of whoever runs the benchmark are not what is measured.
        command.env_clear().env("HOME", folder.path());
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        let log = File::create(folder.path().join("log"))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        // Ctrl-C is for the benchmark, which then stops the stack in good order.
        command.process_group(0);
        let started = Instant::now();
        let mut process = command.spawn().doing("cannot start phoenix up")?;
        let url = timeout(READY_LIMIT, ready_url(&mut process)).await;
        let ready_after = started.elapsed();
        match url {
            Ok(Ok(Some(url))) => Ok(Self { url, ready_after, process, folder }),
            Ok(Err(problem)) => Err(problem),
            Ok(Ok(None)) | Err(_) => {
                let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
                Err(Failure::new(format_args!("phoenix up did not become ready:\n{log}")))
            }
        }
    }

    /// The process id of `phoenix up` itself.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// The end of what it logged, for the message about something that went wrong.
    pub(crate) fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Lets it drain, and waits until it has.
    pub(crate) async fn stop(mut self) -> Result<()> {
        if let Some(pid) = self.process.id() {
            kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM).doing("cannot stop phoenix up")?;
        }
        if timeout(STOP_LIMIT, self.process.wait()).await.is_err() {
            self.process.kill().await?;
            return Err(Failure::new("phoenix up did not stop when asked to"));
        }
        Ok(())
    }
}

/// Reads until the ready line; `None` when the output ends without one.
async fn ready_url(process: &mut Child) -> Result<Option<String>> {
    let stdout = process.stdout.take().ok_or("no standard output").doing("phoenix up")?;
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await? {
        if let Some(url) = line.strip_prefix(READY_LINE) {
            // Whatever it says later must not fill the pipe.
            let url = url.trim().to_owned();
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok(Some(url));
        }
    }
    Ok(None)
}

/// An offset at which every port of a stack is free just now.
fn free_port_offset() -> Result<u16> {
    // Not always the same ones: a port that was just given up may linger.
    let first = 1000 + u16::try_from(std::process::id() % 9000).unwrap_or_default();
    (first..first + 4000)
        .step_by(11)
        .find(|offset| {
            let ports = Role::ALL.iter().flat_map(|role| [role.default_port(), role.default_metrics_port()]);
            let listeners: Vec<_> =
                ports.map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port + offset))).collect();
            listeners.iter().all(std::result::Result::is_ok)
        })
        .ok_or("no free ports")
        .doing("phoenix up")
}
