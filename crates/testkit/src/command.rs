//! The command that starts one role as a real process.

use std::{path::Path, process::Stdio};

use phoenix_platform::{config::Role, service_token};
use tokio::process::Command;

use crate::{phoenix_bin, ports::Ports};

/// A role, its ports, and where it finds the others.
#[derive(Debug)]
pub(crate) struct RoleCommand<'a> {
    /// The executable; the built one without it.
    pub(crate) program: Option<&'a Path>,
    pub(crate) role: Role,
    pub(crate) ports: Ports,
    /// URLs, separated by commas.
    pub(crate) planners: &'a str,
    /// URLs, separated by commas.
    pub(crate) executors: &'a str,
    pub(crate) health: &'a str,
    /// The folder in which it runs, with its `phoenix.toml`.
    pub(crate) dir: &'a Path,
    pub(crate) environment: &'a [(String, String)],
}

impl RoleCommand<'_> {
    /// The command, whose process drains when the test process exits and is killed when it is dropped.
    pub(crate) fn command(&self) -> Command {
        let Self { program, role, ports, planners, executors, health, dir, environment } = self;
        let Ports { requests, metrics } = ports;
        let mut command = Command::new(program.map_or_else(phoenix_bin, Path::to_owned));
        command
            .args([role.as_str(), "--supervised", "--data-dir", "data"])
            .args(["--addr", &format!("127.0.0.1:{requests}")])
            .args(["--metrics-addr", &format!("127.0.0.1:{metrics}")])
            .args(["--planner-url", planners, "--executor-url", executors, "--health-url", health])
            .current_dir(dir)
            .env_clear()
            .envs(["PATH", "HOME", "TMPDIR"].iter().filter_map(|name| Some((*name, std::env::var_os(name)?))))
            .env("LOG_FORMAT", "json")
            .env(service_token::VARIABLE, crate::SERVICE_TOKEN)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            // Its end, which comes with that of this process, makes a service drain.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        command
    }
}
