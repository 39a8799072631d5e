//! `phoenix.toml`: where it is, what it may say, and what it means.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    time::Duration,
};

use phoenix_domain::{
    AgentCatalog, AgentName, AgentSpec,
    builtin::{BUILTINS, LLM_ROUTER},
    llm::LlmSettings,
};
use serde::{Deserialize, de::DeserializeOwned};

use super::{Lookup, Problems, agents::AgentTable, confidential::Confidential, interpolate, role::Role};

/// Where the file is looked for unless one is named.
pub(super) const DEFAULT_PATH: &str = "phoenix.toml";

/// How long an idempotency key counts when nobody says otherwise.
const DEFAULT_KEY_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// Plans in flight when nobody says how many.
const MAX_PLANS_IN_FLIGHT: u32 = 20_000;

/// What the file says, with every default filled in. The same in every service.
#[derive(Debug, Clone)]
pub struct PhoenixConfig {
    /// The agents.
    pub agents: AgentCatalog,
    /// The language model.
    pub llm: LlmSettings,
    /// What only the gateway reads.
    pub gateway: GatewaySection,
    /// What only the planner reads.
    pub planner: PlannerSection,
    /// Addresses and databases, by role.
    pub(super) roles: BTreeMap<Role, RoleSection>,
    /// The variables whose values only the executor needs: they stand in providers' keys and agents' commands.
    pub(super) executor_variables: BTreeSet<String>,
    /// What no message may quote.
    pub(super) confidential: Confidential,
}

/// `[gateway]`, beside its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewaySection {
    /// Web origins that may call the API from a browser; none unless configured.
    pub cors_allowed_origins: Vec<String>,
    /// After this a chat that is still running is answered with `timeout`.
    pub request_timeout: Duration,
}

/// `[planner]`, beside its addresses and the default agent, which the catalog knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannerSection {
    /// Plans in flight at once; one more is answered with `overloaded`.
    pub max_plans_in_flight: u32,
    /// How long plans stay after their end; for ever when absent.
    pub retention: Option<Duration>,
    /// How long an idempotency key stands for what it was first used for.
    pub idempotency_key_ttl: Duration,
    /// How long an unfinished plan of a planner that stopped waits for a planner that knows its agents, before it fails.
    pub takeover_grace: Duration,
}

/// What each role may say about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct RoleSection {
    /// Where it serves gRPC (services) …
    pub grpc_addr: Option<String>,
    /// … or HTTP (gateway).
    pub http_addr: Option<String>,
    /// Where it serves `/metrics`.
    pub metrics_addr: Option<String>,
    /// Its database (planner, health).
    pub database_url: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GatewayTable {
    cors_allowed_origins: Vec<String>,
    request_timeout_secs: Option<u64>,
    http_addr: Option<String>,
    metrics_addr: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PlannerTable {
    default_agent: Option<AgentName>,
    retention_days: Option<f64>,
    idempotency_key_ttl_secs: Option<u64>,
    max_plans_in_flight: Option<u32>,
    takeover_grace_secs: Option<u64>,
    grpc_addr: Option<String>,
    metrics_addr: Option<String>,
    database_url: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HealthTable {
    grpc_addr: Option<String>,
    metrics_addr: Option<String>,
    database_url: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ExecutorTable {
    grpc_addr: Option<String>,
    metrics_addr: Option<String>,
}

/// How long unfinished plans wait for a planner that knows their agents, by default.
const TAKEOVER_GRACE: Duration = Duration::from_secs(600);

/// How long plans stay after their end when nobody says.
const RETENTION_DAYS: f64 = 30.0;

const SECTIONS: &[&str] = &["agents", "executor", "gateway", "health", "llm", "planner"];

impl PhoenixConfig {
    /// Reads the file at `path`, or `phoenix.toml` in the current directory if there is one. `exe` is the executable
    /// that runs the built-in agents.
    ///
    /// # Errors
    /// Every problem of the file.
    pub fn load(path: Option<&Path>, exe: &str, env: Lookup<'_>) -> Result<Self, Problems> {
        let (path, text) = match path {
            Some(path) => (path, read(path)?),
            // A file that is there and cannot be read is a problem, not an absent file.
            None => (Path::new(DEFAULT_PATH), read_if_any(Path::new(DEFAULT_PATH))?),
        };
        Self::parse_at(path, &text, exe, env)
    }

    /// The same, from the text of a file in the current directory.
    ///
    /// # Errors
    /// Every problem of the text.
    pub fn parse(text: &str, exe: &str, env: Lookup<'_>) -> Result<Self, Problems> {
        Self::parse_at(Path::new(DEFAULT_PATH), text, exe, env)
    }

    /// Addresses and databases that the file sets, such as `planner.grpc_addr`.
    #[must_use]
    pub fn configured_endpoints(&self) -> Vec<String> {
        let set = self.roles.iter().flat_map(|(role, file)| {
            let RoleSection { grpc_addr, http_addr, metrics_addr, database_url } = file;
            let settings = [
                ("grpc_addr", grpc_addr),
                ("http_addr", http_addr),
                ("metrics_addr", metrics_addr),
                ("database_url", database_url),
            ];
            settings
                .into_iter()
                .filter(|(_, value)| value.is_some())
                .map(move |(key, _)| format!("{role}.{key}"))
        });
        set.collect()
    }

    /// The variables of the file whose values only the executor needs: those of providers' keys and agents' commands.
    #[must_use]
    pub const fn executor_variables(&self) -> &BTreeSet<String> {
        &self.executor_variables
    }

    fn parse_at(path: &Path, text: &str, exe: &str, env: Lookup<'_>) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut root = match text.parse::<toml::Table>() {
            Ok(table) => toml::Value::Table(table),
            Err(error) => {
                // The error itself would show the line, in which there may be a key.
                problems.add(place_of(path, text, &error), error.message());
                return Err(problems);
            }
        };
        let executor_variables = executor_variables(&root);
        let mut confidential = Confidential::default();
        interpolate::table(&mut root, "", env, &mut confidential, &mut problems);
        confidential.add_secret_fields(&root, &mut Vec::new());
        let folder = path.parent().unwrap_or(path);
        let config = Self::from_sections(root, folder, exe, env, &mut problems);
        match config {
            Some(config) if problems.is_empty() => Ok(Self { executor_variables, confidential, ..config }),
            _ => Err(problems.without(&confidential)),
        }
    }

    fn from_sections(
        root: toml::Value,
        folder: &Path,
        exe: &str,
        env: Lookup<'_>,
        problems: &mut Problems,
    ) -> Option<Self> {
        let toml::Value::Table(mut sections) = root else { return None };
        for unknown in sections.keys().filter(|name| !SECTIONS.contains(&name.as_str())) {
            problems.add(unknown, format_args!("unknown section; there are {}", SECTIONS.join(", ")));
        }
        let mut take =
            |name: &str| sections.remove(name).unwrap_or_else(|| toml::Value::Table(toml::Table::new()));
        let gateway: GatewayTable = section("gateway", take("gateway"), problems);
        let planner: PlannerTable = section("planner", take("planner"), problems);
        let executor: ExecutorTable = section("executor", take("executor"), problems);
        let health: HealthTable = section("health", take("health"), problems);
        let mut llm: LlmSettings = section("llm", take("llm"), problems);
        let variables = llm.fill_from_environment(env);
        for (setting, problem) in llm.problems(&variables) {
            problems.add(setting, problem);
        }
        let agents = agents(take("agents"), folder, exe, problems);
        let default_agent = default_agent(planner.default_agent.clone(), &agents, problems);
        let max_plans_in_flight = planner.max_plans_in_flight.unwrap_or(MAX_PLANS_IN_FLIGHT);
        if max_plans_in_flight == 0 {
            problems.add("planner.max_plans_in_flight", "must be at least 1");
        }
        Some(Self {
            agents: AgentCatalog::new(agents.into_values(), default_agent),
            llm,
            gateway: GatewaySection {
                cors_allowed_origins: gateway.cors_allowed_origins,
                request_timeout: Duration::from_secs(gateway.request_timeout_secs.unwrap_or(120).max(1)),
            },
            planner: PlannerSection {
                max_plans_in_flight,
                retention: retention(planner.retention_days, problems),
                idempotency_key_ttl: planner
                    .idempotency_key_ttl_secs
                    .map_or(DEFAULT_KEY_TTL, |secs| Duration::from_secs(secs.max(1))),
                takeover_grace: planner.takeover_grace_secs.map_or(TAKEOVER_GRACE, Duration::from_secs),
            },
            roles: BTreeMap::from([
                (
                    Role::Gateway,
                    RoleSection {
                        grpc_addr: None,
                        http_addr: gateway.http_addr,
                        metrics_addr: gateway.metrics_addr,
                        database_url: None,
                    },
                ),
                (
                    Role::Planner,
                    RoleSection {
                        grpc_addr: planner.grpc_addr,
                        http_addr: None,
                        metrics_addr: planner.metrics_addr,
                        database_url: planner.database_url,
                    },
                ),
                (Role::Executor, executor.into()),
                (Role::Health, health.into()),
            ]),
            executor_variables: BTreeSet::new(),
            confidential: Confidential::default(),
        })
    }
}

impl From<HealthTable> for RoleSection {
    fn from(HealthTable { grpc_addr, metrics_addr, database_url }: HealthTable) -> Self {
        Self { grpc_addr, http_addr: None, metrics_addr, database_url }
    }
}

impl From<ExecutorTable> for RoleSection {
    fn from(ExecutorTable { grpc_addr, metrics_addr }: ExecutorTable) -> Self {
        Self { grpc_addr, http_addr: None, metrics_addr, database_url: None }
    }
}

fn read(path: &Path) -> Result<String, Problems> {
    std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))
}

/// The text of the file, and no text when there is none. A link that leads nowhere is a file that cannot be read.
fn read_if_any(path: &Path) -> Result<String, Problems> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() => {
            Ok(String::new())
        }
        read => read.map_err(|error| unreadable(path, &error)),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Problems {
    let mut problems = Problems::default();
    // With the folder, in which the reason often lies.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    problems.add(path.display(), format_args!("the configuration file cannot be read: {error}"));
    problems
}

/// File, line and column of a syntax error.
fn place_of(path: &Path, text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    match before {
        Some(before) => {
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            format!("{}, line {line}, column {column}", path.display())
        }
        None => path.display().to_string(),
    }
}

/// The variables that only the executor has a use for: those of providers' keys and agents' commands.
fn executor_variables(root: &toml::Value) -> BTreeSet<String> {
    let tables = |section: &str| {
        let tables = root.get(section).and_then(toml::Value::as_table);
        tables.into_iter().flat_map(|table| table.values())
    };
    let keys = tables("llm").filter_map(|provider| provider.get("api_key"));
    let commands = tables("agents").filter_map(|agent| agent.get("command"));
    keys.chain(commands).flat_map(interpolate::names_in).collect()
}

/// Reads one section: unknown keys and the first wrong value are problems, and defaults stand in for it.
fn section<T: DeserializeOwned + Default>(name: &str, value: toml::Value, problems: &mut Problems) -> T {
    let mut unknown = Vec::new();
    let read = serde_ignored::deserialize(value, |path| unknown.push(path.to_string()));
    for key in unknown {
        problems.add(format_args!("{name}.{key}"), "unknown key");
    }
    read.unwrap_or_else(|error: toml::de::Error| {
        problems.add(name, error.message());
        T::default()
    })
}

fn agents(
    value: toml::Value,
    folder: &Path,
    exe: &str,
    problems: &mut Problems,
) -> BTreeMap<AgentName, AgentSpec> {
    let mut tables = BTreeMap::new();
    match value {
        toml::Value::Table(entries) => {
            for (name, table) in entries {
                let table: AgentTable = section(&format!("agents.{name}"), table, problems);
                tables.insert(name, table);
            }
        }
        _ => problems.add("agents", "must hold tables such as [agents.reviewer]"),
    }
    let mut agents = BTreeMap::new();
    let Ok(nobody) = "default".parse::<AgentName>() else { return agents };
    let mut base = AgentSpec::new(nobody, Vec::new());
    let defaults = tables.remove("default").unwrap_or_default();
    defaults.apply(&mut base, "agents.default", problems);
    defaults.declare(&mut base, folder, problems);
    for builtin in BUILTINS {
        let own = tables.remove(builtin.name).unwrap_or_default();
        let Ok(mut spec) = builtin.spec(&base, exe) else { continue };
        defaults.apply_to_builtin(&mut spec);
        own.apply(&mut spec, &format!("agents.{}", builtin.name), problems);
        own.declare(&mut spec, folder, problems);
        if !own.is_disabled() {
            agents.insert(spec.name.clone(), spec);
        }
    }
    for (name, table) in tables {
        match name.parse::<AgentName>() {
            Ok(name) if !table.is_disabled() => {
                let mut spec = table.own_agent(name, &base, problems);
                table.declare(&mut spec, folder, problems);
                agents.insert(spec.name.clone(), spec);
            }
            Ok(_) => {}
            Err(problem) => problems.add(format_args!("agents.{name}"), format_args!("the name {problem}")),
        }
    }
    agents
}

/// An age in days; 0 is for ever.
fn retention(days: Option<f64>, problems: &mut Problems) -> Option<Duration> {
    const DAY_SECS: f64 = 24.0 * 60.0 * 60.0;
    let Ok(age) = Duration::try_from_secs_f64(days.unwrap_or(RETENTION_DAYS) * DAY_SECS) else {
        problems.add(
            "planner.retention_days",
            "must be a number of days such as 30, or 0 to keep plans for ever",
        );
        return None;
    };
    (!age.is_zero()).then_some(age)
}

/// The configured default agent, else the language model, else any agent there is.
fn default_agent(
    configured: Option<AgentName>,
    agents: &BTreeMap<AgentName, AgentSpec>,
    problems: &mut Problems,
) -> AgentName {
    if let Some(name) = &configured
        && !agents.contains_key(name)
    {
        let known: Vec<_> = agents.keys().map(AgentName::as_str).collect();
        let problem = format!("no agent is called `{name}`; there are {}", known.join(", "));
        problems.add("planner.default_agent", problem);
    }
    let fallback = || agents.get_key_value(LLM_ROUTER).or_else(|| agents.first_key_value());
    match configured.or_else(|| fallback().map(|(name, _)| name.clone())).or_else(|| LLM_ROUTER.parse().ok())
    {
        Some(name) => name,
        None => unreachable!("the built-in name is valid, as a test in phoenix-domain checks"),
    }
}

#[cfg(test)]
mod tests;
