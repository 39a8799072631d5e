//! Configuration of the planner.

use std::time::Duration;

use phoenix_domain::{AgentName, budget::BudgetSettings, planning::PlanningSettings};
use phoenix_platform::{
    config::RoleSettings, database_url::DatabaseUrl, identity::ServiceIdentity, postgres::Pooler,
    readiness::Readiness,
};

/// Settings of the planner.
#[derive(Debug, Clone)]
pub struct PlannerConfig {
    /// Agent for messages without a matching route. When absent, the language-model agent, or the first agent by name.
    pub default_agent: Option<AgentName>,
    /// How long an agent that no executor offers any more stays known, and its tasks wait.
    pub agent_grace: Duration,
    /// Maximum number of plans in flight; further requests are rejected before anything is journaled.
    pub max_plans_in_flight: u32,
    /// How long an unfinished plan of a planner that stopped waits for one that knows its agents.
    pub takeover_grace: Duration,
    /// URL of the journal, such as `sqlite://data/planner.db` or `postgres://user:password@host/database`.
    pub database_url: DatabaseUrl,
    /// The pooler in front of a PostgreSQL database.
    pub database_pooler: Pooler,
    /// URLs of the executors.
    pub executor_url: String,
    /// URL of the health service.
    pub health_url: String,
    /// URL at which other planners reach this one. When absent, the address that it serves on, unless that is unspecified.
    pub advertise_url: Option<String>,
    /// Token that callers present, and what this planner presents to its peers.
    pub identity: ServiceIdentity,
    /// Limits on what plans, agents and providers may use.
    pub budgets: BudgetSettings,
    /// How the tasks of messages are found.
    pub planning: PlanningSettings,
    /// How long finished plans and idempotency keys are kept.
    pub retention: Retention,
    /// Readiness, which the process reports.
    pub readiness: Readiness,
}

/// How long data is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Lifetime of a plan after its end; unlimited when absent.
    pub plans: Option<Duration>,
    /// Lifetime of an idempotency key after its first use.
    pub keys: Duration,
}

impl From<&RoleSettings> for PlannerConfig {
    fn from(settings: &RoleSettings) -> Self {
        Self {
            default_agent: settings.config.planner.default_agent.clone(),
            agent_grace: settings.config.planner.agent_grace,
            max_plans_in_flight: settings.config.planner.max_plans_in_flight,
            takeover_grace: settings.config.planner.takeover_grace,
            database_url: settings.database_url.clone(),
            database_pooler: settings.database_pooler,
            executor_url: settings.executor_url.clone(),
            health_url: settings.health_url.clone(),
            advertise_url: settings.advertise_url.clone(),
            identity: settings.identity.clone(),
            budgets: settings.config.budgets.clone(),
            planning: settings.config.planning.clone(),
            retention: Retention {
                plans: settings.config.planner.retention,
                keys: settings.config.planner.idempotency_key_ttl,
            },
            readiness: Readiness::starting(),
        }
    }
}
