//! The settings of one process.

use std::{
    fmt,
    io::IsTerminal,
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
};

use clap::Args;
use phoenix_domain::llm::Secret;

use super::{Lookup, PhoenixConfig, Problems, RoleSection, otel};
use crate::{
    client,
    service_token::ServiceToken,
    sqlite,
    telemetry::{LogFormat, TelemetryConfig},
};

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// REST in front of everything.
    Gateway,
    /// Owns plans.
    Planner,
    /// Runs agents.
    Executor,
    /// Owns agents' health.
    Health,
}

impl Role {
    /// Every role, in the order in which a stack is started.
    pub const ALL: &'static [Self] = &[Self::Health, Self::Executor, Self::Planner, Self::Gateway];

    /// Its name: subcommand, `service` in logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Planner => "planner",
            Self::Executor => "executor",
            Self::Health => "health",
        }
    }

    /// Its usual port for requests.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Gateway => 8181,
            Self::Planner => 50051,
            Self::Executor => 50052,
            Self::Health => 50053,
        }
    }

    /// Its usual port for `/metrics`.
    #[must_use]
    pub const fn default_metrics_port(self) -> u16 {
        match self {
            Self::Gateway => 9000,
            Self::Planner => 9001,
            Self::Executor => 9002,
            Self::Health => 9003,
        }
    }

    /// The variable that sets its address.
    #[must_use]
    pub const fn addr_variable(self) -> &'static str {
        match self {
            Self::Gateway => "HTTP_ADDR",
            Self::Planner | Self::Executor | Self::Health => "GRPC_ADDR",
        }
    }

    /// The name of its database in a data folder.
    #[must_use]
    pub fn database_file(self) -> String {
        format!("{self}.db")
    }

    /// Whether it keeps a database.
    #[must_use]
    pub const fn has_database(self) -> bool {
        matches!(self, Self::Planner | Self::Health)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The flags of every role. Each has an environment variable of the same meaning, named in its help.
#[derive(Debug, Clone, Default, Args)]
pub struct RoleFlags {
    /// Address to serve on [env: HTTP_ADDR for the gateway, GRPC_ADDR for the others]
    #[arg(long, value_name = "HOST:PORT", visible_aliases = ["http-addr", "grpc-addr"])]
    pub addr: Option<String>,
    /// Address to serve /metrics on [env: METRICS_ADDR]
    #[arg(long, value_name = "HOST:PORT")]
    pub metrics_addr: Option<String>,
    /// Where the planner is [env: PLANNER_URL]
    #[arg(long, value_name = "URL")]
    pub planner_url: Option<String>,
    /// Where the executor is [env: EXECUTOR_URL]
    #[arg(long, value_name = "URL")]
    pub executor_url: Option<String>,
    /// Where the health service is [env: HEALTH_URL]
    #[arg(long, value_name = "URL")]
    pub health_url: Option<String>,
    /// Database of the planner or the health service, such as sqlite://data/planner.db [env: DATABASE_URL]
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// Folder of the databases, unless DATABASE_URL names one [env: PHOENIX_DATA_DIR; default: data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// File with the token that the services of a stack present to one another [env: PHOENIX_SERVICE_TOKEN_FILE, or
    /// PHOENIX_SERVICE_TOKEN for the token itself]
    #[arg(long, value_name = "FILE")]
    pub service_token_file: Option<PathBuf>,
    /// Configuration file [env: PHOENIX_CONFIG; default: phoenix.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// pretty or json [env: LOG_FORMAT; default: pretty on a terminal, else json]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// Everything one process is told.
#[derive(Debug, Clone)]
pub struct RoleSettings {
    /// What it is.
    pub role: Role,
    /// Where it serves requests.
    pub addr: SocketAddr,
    /// Where it serves `/metrics`.
    pub metrics_addr: SocketAddr,
    /// Where the planner is.
    pub planner_url: String,
    /// Where the executor is.
    pub executor_url: String,
    /// Where the health service is.
    pub health_url: String,
    /// Its database, for the roles that have one.
    pub database_url: String,
    /// What callers of the gateway must present; nothing when absent.
    pub api_token: Option<Secret>,
    /// What callers of `/metrics` must present; nothing when absent.
    pub metrics_token: Option<Secret>,
    /// What services present to one another.
    pub service_token: ServiceToken,
    /// How it tells what it does.
    pub telemetry: TelemetryConfig,
    /// What `phoenix.toml` says.
    pub config: PhoenixConfig,
}

impl RoleSettings {
    /// Settles every setting of a process with the role `role`. `exe` is the executable that runs built-in agents.
    ///
    /// # Errors
    /// Every problem.
    pub fn resolve(role: Role, flags: &RoleFlags, exe: &str, env: Lookup<'_>) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let path = flags.config.clone().or_else(|| env("PHOENIX_CONFIG").map(PathBuf::from));
        let config = PhoenixConfig::load(path.as_deref(), exe, env)
            .map_err(|found| problems.extend(found))
            .or_else(|()| PhoenixConfig::parse("", exe, env))?;
        let file = config.roles.get(&role).cloned().unwrap_or_default();
        let RoleSection { grpc_addr, http_addr, metrics_addr, database_url } = file;
        let setting = |flag: &Option<String>, variable: &str, file: Option<String>| {
            flag.clone().or_else(|| env(variable)).or(file)
        };

        let addr = setting(&flags.addr, role.addr_variable(), http_addr.or(grpc_addr));
        let addrs = addresses(role.addr_variable(), addr, role.default_port(), &mut problems);
        let addr = addrs[0];
        let metrics_addr = setting(&flags.metrics_addr, "METRICS_ADDR", metrics_addr);
        let metrics_addr =
            addresses("METRICS_ADDR", metrics_addr, role.default_metrics_port(), &mut problems)[0];
        let mut url = |flag: &Option<String>, variable: &str, peer: Role| {
            let default = format!("http://127.0.0.1:{}", peer.default_port());
            let url = setting(flag, variable, None).unwrap_or(default);
            if let Err(problem) = client::check_url(&url) {
                problems.add(variable, problem);
            }
            url
        };
        let planner_url = url(&flags.planner_url, "PLANNER_URL", Role::Planner);
        let executor_url = url(&flags.executor_url, "EXECUTOR_URL", Role::Executor);
        let health_url = url(&flags.health_url, "HEALTH_URL", Role::Health);
        let database_url = match setting(&flags.database_url, "DATABASE_URL", database_url) {
            Some(url) => {
                if role.has_database()
                    && let Err(problem) = sqlite::file_from_url(&url)
                {
                    let problem = problem.to_string();
                    problems.add("DATABASE_URL", problem.trim_start_matches("DATABASE_URL "));
                }
                url
            }
            None => {
                let data_dir = flags.data_dir.clone().or_else(|| env("PHOENIX_DATA_DIR").map(PathBuf::from));
                let file = data_dir.unwrap_or_else(|| "data".into()).join(role.database_file());
                sqlite::file_url(&file).unwrap_or_else(|problem| {
                    problems.add("--data-dir", problem);
                    String::new()
                })
            }
        };
        // Only the gateway asks for it, so only the gateway is given it.
        let api_token = (role == Role::Gateway).then(|| env("ORCH_API_TOKEN")).flatten().map(Secret::from);
        if role == Role::Gateway
            && api_token.is_none()
            && let Some(open) = addrs.iter().find(|addr| !addr.ip().is_loopback())
        {
            problems.add(
                "ORCH_API_TOKEN",
                format_args!("must be set to serve on {open}, which others can reach"),
            );
        }
        let service_token = ServiceToken::resolve(flags.service_token_file.as_deref(), env)
            .map_err(|found| problems.extend(found))
            .ok();
        let telemetry = telemetry(role, &flags.log_format, env, &mut problems);
        let problems = problems.without(&config.confidential);
        let Some(service_token) = service_token else { return Err(problems) };
        problems.into_result(Self {
            role,
            addr,
            metrics_addr,
            planner_url,
            executor_url,
            health_url,
            database_url,
            api_token,
            metrics_token: env("METRICS_TOKEN").map(Secret::from),
            service_token,
            telemetry,
            config,
        })
    }
}

/// The addresses that a setting means, at least one. A name may mean several; the process serves on the first.
fn addresses(
    variable: &str,
    text: Option<String>,
    default_port: u16,
    problems: &mut Problems,
) -> Vec<SocketAddr> {
    let default = SocketAddr::from(([127, 0, 0, 1], default_port));
    let Some(text) = text else { return vec![default] };
    match resolve(&text) {
        Ok(addresses) => addresses,
        Err(problem) => {
            let example = format_args!("an address and port such as {default} or localhost:{default_port}");
            problems.add(variable, format_args!("`{text}` must be {example}{problem}"));
            vec![default]
        }
    }
}

fn resolve(text: &str) -> Result<Vec<SocketAddr>, String> {
    let text = text.trim();
    if let Ok(address) = text.parse() {
        return Ok(vec![address]);
    }
    let named = text.rsplit_once(':').filter(|(host, _)| !host.is_empty() && !host.contains(':'));
    let (host, port) = named.ok_or_else(String::new)?;
    let port: u16 = port.parse().map_err(|_| String::new())?;
    let found =
        (host, port).to_socket_addrs().map_err(|error| format!("; the name cannot be resolved: {error}"))?;
    let mut addresses: Vec<_> = found.collect();
    // Stable: IPv4 first, which is what clients try that know no IPv6.
    addresses.sort_by_key(SocketAddr::is_ipv6);
    if addresses.is_empty() { Err("; the name has no address".into()) } else { Ok(addresses) }
}

fn telemetry(
    role: Role,
    format: &Option<String>,
    env: Lookup<'_>,
    problems: &mut Problems,
) -> TelemetryConfig {
    let format = match format.clone().or_else(|| env("LOG_FORMAT")).as_deref() {
        None => LogFormat::detect(),
        Some("pretty") => LogFormat::Pretty,
        Some("json") => LogFormat::Json,
        Some(other) => {
            problems.add("LOG_FORMAT", format_args!("`{other}` must be pretty or json"));
            LogFormat::Json
        }
    };
    let filter = env("RUST_LOG").unwrap_or_default();
    if let Err(problem) = tracing_subscriber::EnvFilter::try_new(&filter) {
        problems.add("RUST_LOG", problem);
    }
    let traces = otel::trace_export(env, problems);
    let colour = std::io::stderr().is_terminal() || env("CLICOLOR_FORCE").is_some_and(|value| value != "0");
    TelemetryConfig { service: role.as_str(), format, colour, prefix: false, filter, traces }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service_token;

    fn resolve(role: Role, flags: &RoleFlags, env: &[(&str, &str)]) -> Result<RoleSettings, Problems> {
        let token = (service_token::VARIABLE, "of-the-test");
        let lookup = |name: &str| {
            let found = env.iter().chain([&token]).find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned()).filter(|value| !value.is_empty())
        };
        RoleSettings::resolve(role, flags, "phoenix", &lookup)
    }

    #[test]
    fn flags_win_over_the_environment_which_wins_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("phoenix.toml");
        std::fs::write(&path, "[planner]\ngrpc_addr = \"127.0.0.1:1\"\nmetrics_addr = \"127.0.0.1:2\"\n")
            .unwrap();
        let mut flags = RoleFlags { config: Some(path), ..RoleFlags::default() };
        assert_eq!(resolve(Role::Planner, &flags, &[]).unwrap().addr.port(), 1);
        let env = [("GRPC_ADDR", "127.0.0.1:3")];
        assert_eq!(resolve(Role::Planner, &flags, &env).unwrap().addr.port(), 3);
        flags.addr = Some("127.0.0.1:4".into());
        let settings = resolve(Role::Planner, &flags, &env).unwrap();
        assert_eq!((settings.addr.port(), settings.metrics_addr.port()), (4, 2));
        assert_eq!(resolve(Role::Health, &RoleFlags::default(), &[]).unwrap().metrics_addr.port(), 9003);
    }

    #[test]
    fn every_problem_is_listed_at_once() {
        let env = [
            ("HTTP_ADDR", "localhost"),
            ("METRICS_ADDR", "9000"),
            ("PLANNER_URL", "planner"),
            ("LOG_FORMAT", "xml"),
            ("RUST_LOG", "a=b=c"),
            ("PHOENIX_CONFIG", "/nonexistent/phoenix.toml"),
        ];
        let problems = resolve(Role::Gateway, &RoleFlags::default(), &env).unwrap_err().to_string();
        for (name, _) in &env[..5] {
            assert!(problems.contains(&format!("{name}: ")), "{name} is missing from:\n{problems}");
        }
        assert!(
            problems.contains("/nonexistent/phoenix.toml: the configuration file cannot be read"),
            "{problems}"
        );
    }

    #[test]
    fn address_by_name_is_resolved_for_every_listener() {
        for (role, variable) in
            [(Role::Gateway, "HTTP_ADDR"), (Role::Planner, "GRPC_ADDR"), (Role::Health, "METRICS_ADDR")]
        {
            let settings = resolve(role, &RoleFlags::default(), &[(variable, "localhost:18181")]).unwrap();
            let addr = if variable == "METRICS_ADDR" { settings.metrics_addr } else { settings.addr };
            assert_eq!((addr.ip().is_loopback(), addr.port()), (true, 18181), "{role}");
        }
        for wrong in
            ["localhost", ":8181", "localhost:http", "localhost:70000", "::1:8181", "no-such-host.invalid:80"]
        {
            let problems =
                resolve(Role::Gateway, &RoleFlags::default(), &[("HTTP_ADDR", wrong)]).unwrap_err();
            assert!(problems.to_string().contains(&format!("HTTP_ADDR: `{wrong}` must be")), "{problems}");
        }
    }

    #[test]
    fn gateway_address_by_name_beyond_loopback_needs_a_token() {
        // A name to the resolver, and an address that others can reach.
        let open = [("HTTP_ADDR", "0:8181")];
        let problems = resolve(Role::Gateway, &RoleFlags::default(), &open).unwrap_err().to_string();
        assert!(problems.contains("ORCH_API_TOKEN: must be set to serve on 0.0.0.0:8181"), "{problems}");
    }

    #[test]
    fn data_folder_of_odd_characters_is_a_literal_path() {
        for name in ["percent%20sign", "question?mark", "file:x", ":memory:"] {
            let flags = RoleFlags { data_dir: Some(name.into()), ..RoleFlags::default() };
            let settings = resolve(Role::Planner, &flags, &[]).unwrap();
            let expected = std::path::absolute(name).unwrap().join("planner.db");
            assert_eq!(sqlite::file_from_url(&settings.database_url).unwrap(), expected);
        }
        let problems = resolve(Role::Planner, &RoleFlags::default(), &[("DATABASE_URL", "sqlite::memory:")]);
        assert!(problems.unwrap_err().to_string().contains("DATABASE_URL: must look like"));
    }

    #[test]
    fn value_from_a_variable_of_the_file_is_never_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("phoenix.toml");
        let text = "[planner]\ngrpc_addr = \"${A}\"\nmetrics_addr = \"x ${A}\"\ndatabase_url = \"${A}\"\n";
        std::fs::write(&path, text).unwrap();
        let flags = RoleFlags { config: Some(path), ..RoleFlags::default() };
        let problems = resolve(Role::Planner, &flags, &[("A", "sk-live-0123")]).unwrap_err().to_string();
        assert!(problems.contains("3 problems") && !problems.contains("sk-live"), "{problems}");
    }

    #[test]
    fn role_without_service_token_is_refused_on_any_address() {
        for role in Role::ALL {
            for addr in ["127.0.0.1:0", "0.0.0.0:0"] {
                let env =
                    [(role.addr_variable(), addr), ("ORCH_API_TOKEN", "t"), (service_token::VARIABLE, "")];
                let problems = resolve(*role, &RoleFlags::default(), &env).unwrap_err().to_string();
                assert!(problems.contains("PHOENIX_SERVICE_TOKEN_FILE"), "{role}: {problems}");
            }
        }
    }

    #[test]
    fn a_gateway_that_others_can_reach_needs_a_token() {
        let open = [("HTTP_ADDR", "0.0.0.0:8181")];
        assert!(resolve(Role::Gateway, &RoleFlags::default(), &open).is_err());
        let closed = [("HTTP_ADDR", "0.0.0.0:8181"), ("ORCH_API_TOKEN", "t")];
        let settings = resolve(Role::Gateway, &RoleFlags::default(), &closed).unwrap();
        assert!(!format!("{settings:?}").contains("\"t\""), "the token is not printed");
    }
}
