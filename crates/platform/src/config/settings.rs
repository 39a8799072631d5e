//! Settings of one process, resolved from flags, environment and configuration file.

use std::{io::IsTerminal, net::SocketAddr, path::PathBuf};

use phoenix_domain::llm::Secret;

use super::{
    address::addresses, env::Lookup, file::PhoenixConfig, flags::RoleFlags, otel, problems::Problems,
    role::Role, tls::TlsSettings,
};
use crate::{
    client, database_url::DatabaseUrl, identity::ServiceIdentity, logging::LogFormat, postgres::Pooler,
    service_token::ServiceToken, sqlite, telemetry::TelemetryConfig, tls::PublicTls,
};

/// Settings of one process.
#[derive(Debug, Clone)]
pub struct RoleSettings {
    /// Role of the process.
    pub role: Role,
    /// Address of its main listener.
    pub addr: SocketAddr,
    /// Address of `/metrics`.
    pub metrics_addr: SocketAddr,
    /// URL of the planner, or several URLs separated by commas.
    pub planner_url: String,
    /// The same of the executor.
    pub executor_url: String,
    /// The same of the health service.
    pub health_url: String,
    /// URL at which other planners reach this one, for planners.
    pub advertise_url: Option<String>,
    /// URL of its database, for roles with a database.
    pub database_url: DatabaseUrl,
    /// The pooler in front of a PostgreSQL database.
    pub database_pooler: Pooler,
    /// Token that callers of the gateway must present, if any.
    pub api_token: Option<Secret>,
    /// Token that callers of `/metrics` must present, if any.
    pub metrics_token: Option<Secret>,
    /// What the process presents to other services.
    pub identity: ServiceIdentity,
    /// Certificate of the gateway for its callers, if any.
    pub gateway_tls: Option<PublicTls>,
    /// Logging and tracing.
    pub telemetry: TelemetryConfig,
    /// The configuration file.
    pub config: PhoenixConfig,
}

impl RoleSettings {
    /// Resolves every setting of a process with the role `role`. `exe` is the executable that runs built-in agents.
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
        let mut sources = Sources { role, flags, env, problems: &mut problems };
        let addrs = sources.main_addresses(file.http_addr.or(file.grpc_addr));
        let metrics_addr = sources.metrics_address(file.metrics_addr);
        let tls = TlsSettings::resolve(role, flags, env, &addrs, sources.problems);
        let planner_url = sources.peer_url(&flags.planner_url, "PLANNER_URL", Role::Planner, &tls);
        let executor_url = sources.peer_url(&flags.executor_url, "EXECUTOR_URL", Role::Executor, &tls);
        let health_url = sources.peer_url(&flags.health_url, "HEALTH_URL", Role::Health, &tls);
        let advertise_url = sources.advertise_url(&tls);
        let database_url = sources.database_url(file.database_url);
        let database_pooler = sources.database_pooler(config.database.pooler);
        let api_token = sources.api_token(&addrs);
        let service_token = ServiceToken::resolve(flags.service_token_file.as_deref(), env)
            .map_err(|found| sources.problems.extend(found))
            .ok();
        let telemetry = sources.telemetry();
        let problems = problems.redacted(&config.confidential);
        let Some(service_token) = service_token else { return Err(problems) };
        problems.into_result(Self {
            role,
            addr: addrs[0],
            metrics_addr,
            planner_url,
            executor_url,
            health_url,
            advertise_url,
            database_url,
            database_pooler,
            api_token,
            metrics_token: env("METRICS_TOKEN").map(Secret::from),
            identity: ServiceIdentity { token: service_token, tls: tls.service },
            gateway_tls: tls.gateway,
            telemetry,
            config,
        })
    }
}

/// Sources of the settings of one role, and the problems found so far.
struct Sources<'a> {
    role: Role,
    flags: &'a RoleFlags,
    env: Lookup<'a>,
    problems: &'a mut Problems,
}

impl Sources<'_> {
    /// The value with the highest precedence.
    fn first(&self, flag: &Option<String>, variable: &str, file: Option<String>) -> Option<String> {
        flag.clone().or_else(|| (self.env)(variable)).or(file)
    }

    fn main_addresses(&mut self, file: Option<String>) -> Vec<SocketAddr> {
        let variable = self.role.addr_variable();
        let addr = self.first(&self.flags.addr, variable, file);
        addresses(variable, addr, self.role.default_port(), self.problems)
    }

    fn metrics_address(&mut self, file: Option<String>) -> SocketAddr {
        let addr = self.first(&self.flags.metrics_addr, "METRICS_ADDR", file);
        addresses("METRICS_ADDR", addr, self.role.default_metrics_port(), self.problems)[0]
    }

    fn peer_url(&mut self, flag: &Option<String>, variable: &str, peer: Role, tls: &TlsSettings) -> String {
        let scheme = if tls.is_required { "https" } else { "http" };
        let default = format!("{scheme}://127.0.0.1:{}", peer.default_port());
        let url = self.first(flag, variable, None).unwrap_or(default);
        if let Err(problem) = client::check_urls(&url, tls.is_required) {
            self.problems.add(variable, problem);
        }
        url
    }

    /// The URL that a planner advertises. Other roles never look the variable up, so `phoenix up` does not pass it to them.
    fn advertise_url(&mut self, tls: &TlsSettings) -> Option<String> {
        if self.role != Role::Planner {
            return None;
        }
        let url = self.first(&self.flags.advertise_url, "PLANNER_ADVERTISE_URL", None)?;
        match client::check_urls(&url, tls.is_required) {
            Err(problem) => self.problems.add("PLANNER_ADVERTISE_URL", problem),
            Ok(()) if url.contains(',') => {
                self.problems.add("PLANNER_ADVERTISE_URL", format_args!("`{url}` must be one URL"));
            }
            Ok(()) => {}
        }
        Some(url)
    }

    /// The database of a role that has one. Other roles never look the variable up, so `phoenix up` does not pass it to them.
    fn database_url(&mut self, file: Option<String>) -> DatabaseUrl {
        if self.role.has_database()
            && let Some(url) = self.first(&self.flags.database_url, "DATABASE_URL", file)
        {
            let url = DatabaseUrl::from(url);
            if let Err(problem) = url.check() {
                self.problems.add("DATABASE_URL", problem);
            }
            return url;
        }
        let data_dir =
            self.flags.data_dir.clone().or_else(|| (self.env)("PHOENIX_DATA_DIR").map(PathBuf::from));
        let file = data_dir.unwrap_or_else(|| "data".into()).join(self.role.database_file());
        let url = sqlite::file_url(&file).unwrap_or_else(|problem| {
            self.problems.add("--data-dir", problem);
            String::new()
        });
        url.into()
    }

    fn database_pooler(&mut self, file: Option<Pooler>) -> Pooler {
        let variable = self.role.has_database().then(|| (self.env)("DATABASE_POOLER")).flatten();
        let Some(variable) = variable else { return file.unwrap_or_default() };
        variable.parse().unwrap_or_else(|problem| {
            self.problems.add("DATABASE_POOLER", problem);
            Pooler::default()
        })
    }

    /// The token of the gateway's API. Other roles never look the variable up, so `phoenix up` does not pass it to them.
    fn api_token(&mut self, addrs: &[SocketAddr]) -> Option<Secret> {
        if self.role != Role::Gateway {
            return None;
        }
        let token = (self.env)("ORCH_API_TOKEN").map(Secret::from);
        if token.is_none()
            && let Some(open) = addrs.iter().find(|addr| !addr.ip().is_loopback())
        {
            self.problems.add(
                "ORCH_API_TOKEN",
                format_args!("must be set to serve on {open}, which other machines can reach"),
            );
        }
        token
    }

    fn telemetry(&mut self) -> TelemetryConfig {
        let env = self.env;
        let format = match self.flags.log_format.clone().or_else(|| env("LOG_FORMAT")).as_deref() {
            None => LogFormat::detect(),
            Some("pretty") => LogFormat::Pretty,
            Some("json") => LogFormat::Json,
            Some(other) => {
                self.problems.add("LOG_FORMAT", format_args!("`{other}` must be pretty or json"));
                LogFormat::Json
            }
        };
        let filter = env("RUST_LOG").unwrap_or_default();
        if let Err(problem) = tracing_subscriber::EnvFilter::try_new(&filter) {
            self.problems.add("RUST_LOG", problem);
        }
        let otlp = otel::exports(env, self.problems);
        let colour =
            std::io::stderr().is_terminal() || env("CLICOLOR_FORCE").is_some_and(|value| value != "0");
        let service = self.role.as_str();
        TelemetryConfig { service, format, colour, prefix: false, filter, log_folder: None, otlp }
    }
}

#[cfg(test)]
mod tests;
