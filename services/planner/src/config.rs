//! What the planner is told.

use std::time::Duration;

use phoenix_domain::AgentCatalog;
use phoenix_platform::{config::RoleSettings, service_token::ServiceToken};

use crate::retention::Retention;

/// Settings of the planner.
#[derive(Debug, Clone)]
pub struct PlannerConfig {
    /// The agents that plans may use.
    pub agents: AgentCatalog,
    /// Plans in flight at once; one more is refused before anything is journalled.
    pub max_plans_in_flight: u32,
    /// How long an unfinished plan of a planner that stopped waits for one that knows its agents.
    pub takeover_grace: Duration,
    /// The journal, such as `sqlite://data/planner.db`.
    pub database_url: String,
    /// Where tasks are run.
    pub executor_url: String,
    /// Where agents' health is known.
    pub health_url: String,
    /// What callers present, and what is shown to peers.
    pub service_token: ServiceToken,
    /// How long what is finished stays, and idempotency keys.
    pub retention: Retention,
}

impl From<&RoleSettings> for PlannerConfig {
    fn from(settings: &RoleSettings) -> Self {
        Self {
            agents: settings.config.agents.clone(),
            max_plans_in_flight: settings.config.planner.max_plans_in_flight,
            takeover_grace: settings.config.planner.takeover_grace,
            database_url: settings.database_url.clone(),
            executor_url: settings.executor_url.clone(),
            health_url: settings.health_url.clone(),
            service_token: settings.service_token.clone(),
            retention: Retention {
                plans: settings.config.planner.retention,
                keys: settings.config.planner.idempotency_key_ttl,
            },
        }
    }
}
