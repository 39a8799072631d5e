//! The services of a stack, checked before any is started.

use std::{
    ffi::OsString,
    io,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use phoenix_platform::{
    config::{PhoenixConfig, Problems, Role, RoleFlags, RoleSettings, process_env},
    logging::LogFormat,
    service_token,
    telemetry::{OtlpExports, TelemetryConfig},
    tls::PublicTls,
};
use tokio::process::Command;

use super::{
    data_folder::DataFolder,
    environment::{self, RecordedReads},
    error::StartError,
};
use crate::{args::UpArgs, role::executable};

/// A stack to start.
pub(crate) struct StackPlan {
    exe: String,
    data: DataFolder,
    /// Folder of the log files, if lines are kept.
    logs: Option<PathBuf>,
    gateway_addr: SocketAddr,
    gateway_tls: Option<PublicTls>,
    telemetry: TelemetryConfig,
    ignored_variables: Option<String>,
    services: Vec<Service>,
}

/// One service to start.
struct Service {
    role: Role,
    flags: RoleFlags,
    environment: Vec<(OsString, OsString)>,
}

/// One service with its settings, or what is wrong with them.
pub(crate) struct Candidate {
    pub(crate) role: Role,
    pub(crate) flags: RoleFlags,
    pub(crate) settings: Result<RoleSettings, Problems>,
    reads: RecordedReads,
}

impl Candidate {
    /// The services of a stack.
    ///
    /// # Errors
    /// When a port does not exist.
    pub(crate) fn all(args: &UpArgs, exe: &str) -> Result<Vec<Self>, StartError> {
        let UpArgs { port_offset, data_dir, config, log_format, no_log_files: _ } = args;
        let brings_token = brings_token();
        let candidate = |role: &Role| {
            let (role, flags) =
                flags(*role, *port_offset, data_dir, config.as_deref(), log_format.as_deref())?;
            let reads = RecordedReads::default();
            // The token is in the data folder, which is not opened before the settings are valid.
            let placeholder = |name: &str| {
                (name == service_token::VARIABLE && !brings_token).then(|| "not-read-yet".to_owned())
            };
            let env = |name: &str| placeholder(name).or_else(|| reads.read(name));
            let settings = RoleSettings::resolve(role, &flags, exe, &env);
            Ok(Self { role, flags, settings, reads })
        };
        Role::ALL.iter().map(candidate).collect()
    }
}

/// Whether the environment has the token of the services.
fn brings_token() -> bool {
    [service_token::VARIABLE, service_token::FILE_VARIABLE].iter().any(|name| process_env(name).is_some())
}

/// What is wrong with a file for a stack, and not for each service alone.
pub(crate) fn problems_of_stack(config: &PhoenixConfig) -> Problems {
    let mut problems = conflicting_settings(config);
    problems.extend(config.unknown_default_agent());
    problems
}

impl StackPlan {
    /// Resolves all settings, checks the ports and locks the data folder.
    pub(crate) fn resolve(args: UpArgs) -> Result<Self, StartError> {
        let exe = executable()
            .map_err(|error| StartError::System(format!("cannot find its own executable: {error}")))?;
        let mut problems = Problems::default();
        let (mut services, mut resolved) = (Vec::new(), Vec::new());
        for candidate in Candidate::all(&args, &exe)? {
            match candidate.settings {
                Ok(settings) => {
                    problems.extend(problems_of_stack(&settings.config));
                    let environment = candidate.reads.environment(&settings);
                    services.push(Service { role: candidate.role, flags: candidate.flags, environment });
                    resolved.push(settings);
                }
                Err(found) => problems.extend(found),
            }
        }
        problems.into_result(()).map_err(StartError::Settings)?;
        check_ports(&resolved)?;
        let UpArgs { port_offset, data_dir, no_log_files, .. } = args;
        let brings_token = brings_token();
        let data = DataFolder::open(&data_dir)?;
        let token_file = if brings_token { None } else { Some(data.service_token()?) };
        for service in &mut services {
            service.flags.data_dir = Some(data.path().to_owned());
            service.flags.service_token_file.clone_from(&token_file);
        }
        let gateway = resolved.into_iter().find(|settings| settings.role == Role::Gateway);
        let Some(gateway) = gateway else { return Err(StartError::System("no gateway to start".into())) };
        Ok(Self {
            exe,
            logs: (!no_log_files).then(|| data.logs()),
            data,
            gateway_addr: gateway.addr,
            gateway_tls: gateway.gateway_tls,
            telemetry: gateway.telemetry,
            ignored_variables: environment::ignored(port_offset),
            services,
        })
    }

    /// Address of the gateway.
    pub(crate) const fn gateway_addr(&self) -> SocketAddr {
        self.gateway_addr
    }

    /// Certificate of the gateway, if it serves HTTPS.
    pub(crate) const fn gateway_tls(&self) -> Option<&PublicTls> {
        self.gateway_tls.as_ref()
    }

    /// Log settings of the supervisor itself.
    pub(crate) fn telemetry(&self) -> TelemetryConfig {
        let log_folder = self.logs.clone();
        let otlp = OtlpExports::default();
        TelemetryConfig { service: "up", prefix: true, log_folder, otlp, ..self.telemetry.clone() }
    }

    /// The variables that are set and have no effect, each with its replacement.
    pub(crate) fn ignored_variables(&self) -> Option<&str> {
        self.ignored_variables.as_deref()
    }

    /// The command that starts the service `role`.
    pub(crate) fn command(&self, role: Role) -> impl Fn() -> Command + Send + use<> {
        let service = self.services.iter().find(|service| service.role == role);
        let (flags, mut environment) =
            service.map(|service| (service.flags.clone(), service.environment.clone())).unwrap_or_default();
        let args = to_args(&flags, self.telemetry.format);
        let colour = if self.telemetry.colour { "1" } else { "0" };
        environment.push(("CLICOLOR_FORCE".into(), colour.into()));
        if role == Role::Executor && process_env("OBSIDIAN_AGENT_VAULT_ROOT").is_none() {
            environment.push(("OBSIDIAN_AGENT_VAULT_ROOT".into(), self.data.vault().into()));
        }
        let (exe, logs) = (self.exe.clone(), self.logs.clone());
        move || {
            let mut command = Command::new(&exe);
            command.arg(role.as_str()).arg("--supervised").args(&args).env_clear();
            if let Some(logs) = &logs {
                command.arg("--log-folder").arg(logs);
            }
            command.envs(environment.iter().map(|(name, value)| (name, value)));
            command
        }
    }
}

/// Settings of the file that conflict with `phoenix up`, which decides on the addresses and the data folder of a stack.
fn conflicting_settings(config: &PhoenixConfig) -> Problems {
    let mut problems = Problems::default();
    for setting in config.configured_endpoints() {
        let instead = match setting.rsplit_once('.') {
            Some((_, "database_url")) => "--data-dir",
            Some((_, "http_addr")) => "HTTP_ADDR or --port-offset",
            _ => "--port-offset",
        };
        problems.add(
            setting,
            format_args!(
                "`phoenix up` manages this setting; remove it and use {instead}, or start the services one by one"
            ),
        );
    }
    problems
}

fn flags(
    role: Role,
    offset: u16,
    data_dir: &Path,
    config: Option<&Path>,
    log_format: Option<&str>,
) -> Result<(Role, RoleFlags), StartError> {
    let port = |base: u16| {
        base.checked_add(offset).ok_or_else(|| {
            let mut problems = Problems::default();
            problems.add(
                "--port-offset",
                format_args!("{offset} is too large: port {base} + {offset} does not exist"),
            );
            StartError::Settings(problems)
        })
    };
    let url = |peer: Role| port(peer.default_port()).map(|port| Some(format!("http://127.0.0.1:{port}")));
    let addr = |base: u16| port(base).map(|port| Some(format!("127.0.0.1:{port}")));
    // HTTP_ADDR may expose the gateway; the services behind it stay on loopback.
    let has_http_addr = role == Role::Gateway && offset == 0 && process_env("HTTP_ADDR").is_some();
    let flags = RoleFlags {
        addr: if has_http_addr { process_env("HTTP_ADDR") } else { addr(role.default_port())? },
        metrics_addr: addr(role.default_metrics_port())?,
        planner_url: url(Role::Planner)?,
        executor_url: url(Role::Executor)?,
        health_url: url(Role::Health)?,
        // Its address, as planners on loopback advertise it.
        advertise_url: None,
        database_url: None,
        data_dir: Some(data_dir.to_owned()),
        service_token_file: None,
        tls_cert: None,
        tls_key: None,
        tls_ca: None,
        // PHOENIX_INSECURE is passed on as it is.
        insecure: false,
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
        advertise_url,
        database_url,
        data_dir,
        service_token_file,
        tls_cert: _,
        tls_key: _,
        tls_ca: _,
        insecure: _,
        config,
        log_format: _,
    } = flags;
    let texts = [
        ("--addr", addr),
        ("--metrics-addr", metrics_addr),
        ("--planner-url", planner_url),
        ("--executor-url", executor_url),
        ("--health-url", health_url),
        ("--advertise-url", advertise_url),
        ("--database-url", database_url),
    ];
    let mut args: Vec<OsString> = Vec::new();
    for (name, value) in texts {
        args.extend(value.iter().flat_map(|value| [name.into(), value.into()]));
    }
    args.extend(data_dir.iter().flat_map(|path| ["--data-dir".into(), path.into()]));
    args.extend(service_token_file.iter().flat_map(|path| ["--service-token-file".into(), path.into()]));
    args.extend(config.iter().flat_map(|path| ["--config".into(), path.into()]));
    args.extend(["--log-format".into(), log_format.as_str().into()]);
    args
}

/// Binds and releases every port, so that all ports in use are reported before any service is started.
fn check_ports(services: &[RoleSettings]) -> Result<(), StartError> {
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
    Err(StartError::System(format!(
        "nothing was started; these ports cannot be bound:\n{}\nStop the processes that use them, or start another stack \
         with --port-offset 1000 and another --data-dir",
        taken.join("\n")
    )))
}

fn port_problem(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process uses it".into(),
        _ => error.to_string(),
    }
}
