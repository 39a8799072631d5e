//! Sections of `phoenix.toml`: `[gateway]`, `[planner]`, `[executor]`, `[health]`.

use std::{collections::BTreeMap, time::Duration};

use phoenix_domain::{
    AgentName,
    catalog::AGENT_GRACE,
    limits::{MAX_LABEL_BYTES, MAX_LABELS},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::{problems::Problems, role::Role};
use crate::postgres::{Pooler, is_postgres_url};

/// Names of the sections.
pub(super) const NAMES: &[&str] =
    &["agents", "budgets", "database", "executor", "gateway", "health", "llm", "planner", "planning"];

/// Default lifetime of an idempotency key.
const DEFAULT_KEY_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Default limit of plans in flight.
const MAX_PLANS_IN_FLIGHT: u32 = 20_000;

/// Default time for which unfinished plans wait for a planner that knows their agents.
const TAKEOVER_GRACE: Duration = Duration::from_secs(600);

/// Default of what is added to the nice value of agent processes.
const DEFAULT_AGENT_NICE: u8 = 10;

/// Highest nice value (`setpriority(2)`).
const MAX_NICE: u8 = 19;

/// Default retention of finished plans in days.
const RETENTION_DAYS: f64 = 30.0;

/// Default time limit of a chat in seconds.
const REQUEST_TIMEOUT_SECS: u64 = 120;

/// `[gateway]`, except its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewaySection {
    /// Web origins that may call the API from a browser.
    pub cors_allowed_origins: Vec<String>,
    /// Patterns of actions, such as `git_agent.*`, that are tools of the gateway's MCP server.
    pub mcp_actions: Vec<String>,
    /// Time after which a running chat is answered with `timeout`.
    pub request_timeout: Duration,
}

/// `[planner]`, except its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannerSection {
    /// Agent for messages without a matching route. When absent, the language-model agent, or the first agent by name.
    pub default_agent: Option<AgentName>,
    /// Time for which an agent that no executor offers any more stays known, and for which its tasks wait.
    pub agent_grace: Duration,
    /// Limit of plans in flight; a plan beyond it is rejected with `overloaded`.
    pub max_plans_in_flight: u32,
    /// Retention of finished plans; unlimited when absent.
    pub retention: Option<Duration>,
    /// Lifetime of an idempotency key.
    pub idempotency_key_ttl: Duration,
    /// Time for which an unfinished plan of a stopped planner waits for a planner that knows its agents, before it fails.
    pub takeover_grace: Duration,
}

/// `[database]`: what all roles with a database have in common.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DatabaseSection {
    /// The pooler in front of a PostgreSQL database.
    pub pooler: Option<Pooler>,
}

/// `[executor]`, except its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorSection {
    /// Labels of the executor in its catalog.
    pub labels: BTreeMap<String, String>,
    /// How much is added to the nice value of agent processes (`setpriority(2)`): 0 to 19.
    pub agent_nice: u8,
}

impl Default for ExecutorSection {
    fn default() -> Self {
        Self { labels: BTreeMap::new(), agent_nice: DEFAULT_AGENT_NICE }
    }
}

/// Addresses and database of a role.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct RoleSection {
    /// gRPC address (planner, executor, health).
    pub grpc_addr: Option<String>,
    /// HTTP address (gateway).
    pub http_addr: Option<String>,
    /// Address of `/metrics`.
    pub metrics_addr: Option<String>,
    /// Database URL (planner, health).
    pub database_url: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct GatewayTable {
    cors_allowed_origins: Vec<String>,
    mcp_actions: Vec<String>,
    request_timeout_secs: Option<u64>,
    http_addr: Option<String>,
    metrics_addr: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PlannerTable {
    default_agent: Option<AgentName>,
    agent_grace_secs: Option<u64>,
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
pub(super) struct DatabaseTable {
    pooler: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct HealthTable {
    grpc_addr: Option<String>,
    metrics_addr: Option<String>,
    database_url: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ExecutorTable {
    labels: BTreeMap<String, String>,
    agent_nice: Option<i64>,
    grpc_addr: Option<String>,
    metrics_addr: Option<String>,
}

impl GatewayTable {
    /// The section, and the gateway's addresses.
    pub(super) fn into_sections(self, problems: &mut Problems) -> (GatewaySection, RoleSection) {
        let Self { cors_allowed_origins, mcp_actions, request_timeout_secs, http_addr, metrics_addr } = self;
        let request_timeout =
            Duration::from_secs(request_timeout_secs.unwrap_or(REQUEST_TIMEOUT_SECS).max(1));
        for pattern in mcp_actions.iter().filter(|pattern| !pattern.contains(['.', '*'])) {
            let problem =
                format_args!("`{pattern}` must be `agent.action`, in which `*` stands for any text");
            problems.add("gateway.mcp_actions", problem);
        }
        let section = GatewaySection { cors_allowed_origins, mcp_actions, request_timeout };
        (section, RoleSection { http_addr, metrics_addr, ..RoleSection::default() })
    }
}

impl PlannerTable {
    /// The section, and the planner's addresses and database.
    pub(super) fn into_sections(self, problems: &mut Problems) -> (PlannerSection, RoleSection) {
        let Self {
            default_agent,
            agent_grace_secs,
            retention_days,
            idempotency_key_ttl_secs,
            max_plans_in_flight,
            takeover_grace_secs,
            grpc_addr,
            metrics_addr,
            database_url,
        } = self;
        let max_plans_in_flight = max_plans_in_flight.unwrap_or(MAX_PLANS_IN_FLIGHT);
        if max_plans_in_flight == 0 {
            problems.add("planner.max_plans_in_flight", "must be at least 1");
        }
        let section = PlannerSection {
            default_agent,
            agent_grace: agent_grace_secs.map_or(AGENT_GRACE, Duration::from_secs),
            max_plans_in_flight,
            retention: retention(retention_days, problems),
            idempotency_key_ttl: idempotency_key_ttl_secs
                .map_or(DEFAULT_KEY_TTL, |secs| Duration::from_secs(secs.max(1))),
            takeover_grace: takeover_grace_secs.map_or(TAKEOVER_GRACE, Duration::from_secs),
        };
        (section, RoleSection { grpc_addr, http_addr: None, metrics_addr, database_url })
    }
}

impl DatabaseTable {
    /// The section.
    pub(super) fn into_section(self, problems: &mut Problems) -> DatabaseSection {
        let Self { pooler } = self;
        let pooler = pooler.and_then(|pooler| {
            pooler.parse().map_err(|problem| problems.add("database.pooler", problem)).ok()
        });
        DatabaseSection { pooler }
    }
}

impl From<HealthTable> for RoleSection {
    fn from(HealthTable { grpc_addr, metrics_addr, database_url }: HealthTable) -> Self {
        Self { grpc_addr, http_addr: None, metrics_addr, database_url }
    }
}

impl ExecutorTable {
    /// The section, and the executor's addresses.
    pub(super) fn into_sections(self, problems: &mut Problems) -> (ExecutorSection, RoleSection) {
        let Self { labels, agent_nice, grpc_addr, metrics_addr } = self;
        if labels.len() > MAX_LABELS {
            let found = labels.len();
            problems
                .add("executor.labels", format_args!("has {found} labels; at most {MAX_LABELS} are allowed"));
        }
        for (name, value) in &labels {
            if name.trim().is_empty() || name.len() > MAX_LABEL_BYTES || value.len() > MAX_LABEL_BYTES {
                let problem = format_args!("must have a name and a value of at most {MAX_LABEL_BYTES} bytes");
                problems.add(format_args!("executor.labels.{name}"), problem);
            }
        }
        let agent_nice = match agent_nice.map(|found| (found, u8::try_from(found))) {
            None => DEFAULT_AGENT_NICE,
            Some((_, Ok(nice @ 0..=MAX_NICE))) => nice,
            Some((found, _)) => {
                problems
                    .add("executor.agent_nice", format_args!("must be from 0 to {MAX_NICE}, not {found}"));
                DEFAULT_AGENT_NICE
            }
        };
        (
            ExecutorSection { labels, agent_nice },
            RoleSection { grpc_addr, metrics_addr, ..RoleSection::default() },
        )
    }
}

/// Names of the addresses and of the databases in files that are set, such as `planner.grpc_addr`.
pub(super) fn configured_endpoints(roles: &BTreeMap<Role, RoleSection>) -> Vec<String> {
    let set = roles.iter().flat_map(|(role, section)| {
        let RoleSection { grpc_addr, http_addr, metrics_addr, database_url } = section;
        let settings = [
            ("grpc_addr", grpc_addr),
            ("http_addr", http_addr),
            ("metrics_addr", metrics_addr),
            ("database_url", database_url),
        ];
        let is_file = |value: &&String| !is_postgres_url(value);
        let set = settings.into_iter().filter(move |(_, value)| value.as_ref().filter(is_file).is_some());
        set.map(move |(key, _)| format!("{role}.{key}"))
    });
    set.collect()
}

/// Deserializes one section. Unknown keys and the first wrong value are problems; a section with a wrong value is replaced by
/// its default.
pub(super) fn section<T: DeserializeOwned + Default>(
    name: &str,
    value: toml::Value,
    problems: &mut Problems,
) -> T {
    let mut unknown = Vec::new();
    let read = serde_ignored::deserialize(value, |path| unknown.push(keys(&path).join(".")));
    for key in unknown {
        problems.add(format_args!("{name}.{key}"), "unknown key");
    }
    read.unwrap_or_else(|error: toml::de::Error| {
        problems.add(name, error.message());
        T::default()
    })
}

/// The keys to a value, without the optional values in between, which a file does not have.
fn keys(path: &serde_ignored::Path<'_>) -> Vec<String> {
    use serde_ignored::Path;
    let (parent, key) = match path {
        Path::Root => return Vec::new(),
        Path::Map { parent, key } => (parent, Some(key.clone())),
        Path::Seq { parent, index } => (parent, Some(index.to_string())),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            (parent, None)
        }
    };
    let mut keys = keys(parent);
    keys.extend(key);
    keys
}

/// A retention in days; 0 is unlimited.
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
