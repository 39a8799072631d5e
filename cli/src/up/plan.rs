//! What a stack is made of, checked before any of it is started.

use std::{
    ffi::OsString,
    io,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use phoenix_platform::{
    config::{Problems, Role, RoleFlags, RoleSettings, process_env},
    telemetry::LogFormat,
};
use tokio::process::Command;

use crate::{args::UpArgs, backup::VAULT, role::executable};

/// Why a stack is not started.
pub(crate) enum Refusal {
    /// The settings can't be used.
    Settings(Problems),
    /// The machine says no: a port in use, a folder that can't be written.
    Machine(String),
}

/// The stack to start.
pub(crate) struct StackPlan {
    exe: String,
    vault: PathBuf,
    gateway_addr: SocketAddr,
    log_format: LogFormat,
    colour: bool,
    services: Vec<(Role, RoleFlags)>,
}

impl StackPlan {
    /// Settles every setting, and checks ports and the data folder.
    pub(crate) fn resolve(args: UpArgs) -> Result<Self, Refusal> {
        let exe = executable()
            .map_err(|error| Refusal::Machine(format!("cannot find its own executable: {error}")))?;
        let UpArgs { port_offset, data_dir, config, log_format } = args;
        let services = Role::ALL
            .iter()
            .map(|role| flags(*role, port_offset, &data_dir, config.as_deref(), log_format.as_deref()))
            .collect::<Result<Vec<_>, _>>()?;
        let mut resolved = Vec::new();
        for (role, flags) in &services {
            let settings =
                RoleSettings::resolve(*role, flags, &exe, &process_env).map_err(Refusal::Settings)?;
            resolved.push(settings);
        }
        check_ports(&resolved)?;
        let data_dir = make_data_dir(&data_dir)?;
        let gateway = resolved.iter().find(|settings| settings.role == Role::Gateway);
        let Some(gateway) = gateway else { return Err(Refusal::Machine("no gateway to start".into())) };
        Ok(Self {
            exe,
            vault: data_dir.join(VAULT),
            gateway_addr: gateway.addr,
            log_format: gateway.telemetry.format,
            colour: gateway.telemetry.colour,
            services,
        })
    }

    /// Where the stack is reached.
    pub(crate) const fn gateway_addr(&self) -> SocketAddr {
        self.gateway_addr
    }

    /// The command that starts the service `role`.
    pub(crate) fn command(&self, role: Role) -> impl Fn() -> Command + Send + use<> {
        let flags = self.services.iter().find(|(other, _)| *other == role).map(|(_, flags)| flags.clone());
        let args = to_args(&flags.unwrap_or_default(), self.log_format);
        let (exe, vault) = (self.exe.clone(), self.vault.clone());
        let colour = if self.colour { "1" } else { "0" };
        move || {
            let mut command = Command::new(&exe);
            command.arg(role.as_str()).arg("--supervised").args(&args).env("CLICOLOR_FORCE", colour);
            if process_env("OBSIDIAN_AGENT_VAULT_ROOT").is_none() {
                command.env("OBSIDIAN_AGENT_VAULT_ROOT", &vault);
            }
            command
        }
    }
}

fn flags(
    role: Role,
    offset: u16,
    data_dir: &Path,
    config: Option<&Path>,
    log_format: Option<&str>,
) -> Result<(Role, RoleFlags), Refusal> {
    let port = |base: u16| {
        base.checked_add(offset).ok_or_else(|| {
            let mut problems = Problems::default();
            problems.add(
                "--port-offset",
                format_args!("{offset} is too much: port {base} + {offset} does not exist"),
            );
            Refusal::Settings(problems)
        })
    };
    let url = |peer: Role| port(peer.default_port()).map(|port| Some(format!("http://127.0.0.1:{port}")));
    let addr = |base: u16| port(base).map(|port| Some(format!("127.0.0.1:{port}")));
    // The gateway may be made to serve others by HTTP_ADDR; the services behind it stay on loopback.
    let gateway_elsewhere = role == Role::Gateway && offset == 0 && process_env("HTTP_ADDR").is_some();
    let flags = RoleFlags {
        addr: if gateway_elsewhere { process_env("HTTP_ADDR") } else { addr(role.default_port())? },
        metrics_addr: addr(role.default_metrics_port())?,
        planner_url: url(Role::Planner)?,
        executor_url: url(Role::Executor)?,
        health_url: url(Role::Health)?,
        database_url: Some(format!("sqlite://{}", data_dir.join(role.database_file()).display())),
        data_dir: Some(data_dir.to_owned()),
        config: config.map(Path::to_owned),
        log_format: log_format.map(str::to_owned),
    };
    Ok((role, flags))
}

fn to_args(flags: &RoleFlags, log_format: LogFormat) -> Vec<OsString> {
    let RoleFlags {
        addr,
        metrics_addr,
        planner_url,
        executor_url,
        health_url,
        database_url,
        data_dir: _,
        config,
        log_format: _,
    } = flags;
    let texts = [
        ("--addr", addr),
        ("--metrics-addr", metrics_addr),
        ("--planner-url", planner_url),
        ("--executor-url", executor_url),
        ("--health-url", health_url),
        ("--database-url", database_url),
    ];
    let mut args: Vec<OsString> = Vec::new();
    for (name, value) in texts {
        args.extend(value.iter().flat_map(|value| [name.into(), value.into()]));
    }
    args.extend(config.iter().flat_map(|path| ["--config".into(), path.into()]));
    args.extend(["--log-format".into(), log_format.as_str().into()]);
    args
}

/// Binds every port and lets it go again, so that all that are taken are named before anything runs.
fn check_ports(services: &[RoleSettings]) -> Result<(), Refusal> {
    let mut held = Vec::new();
    let mut taken = Vec::new();
    for settings in services {
        for (what, addr) in [("requests", settings.addr), ("/metrics", settings.metrics_addr)] {
            match TcpListener::bind(addr) {
                Ok(listener) => held.push(listener),
                Err(error) => {
                    taken.push(format!("  - {addr} ({} {what}): {}", settings.role, port_problem(&error)));
                }
            }
        }
    }
    if taken.is_empty() {
        return Ok(());
    }
    Err(Refusal::Machine(format!(
        "nothing was started; these ports cannot be had:\n{}\nStop what uses them, or start another stack beside it with --port-offset 1000",
        taken.join("\n")
    )))
}

fn port_problem(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process uses it".into(),
        _ => error.to_string(),
    }
}

fn make_data_dir(dir: &Path) -> Result<PathBuf, Refusal> {
    let refuse = |error: io::Error| {
        Refusal::Machine(format!(
            "nothing was started; the data folder {} cannot be written: {error}. Choose another with --data-dir",
            dir.display()
        ))
    };
    std::fs::create_dir_all(dir.join(VAULT)).map_err(refuse)?;
    let probe = dir.join(format!(".writable-{}", std::process::id()));
    std::fs::write(&probe, b"").and_then(|()| std::fs::remove_file(&probe)).map_err(refuse)?;
    dir.canonicalize().map_err(refuse)
}
