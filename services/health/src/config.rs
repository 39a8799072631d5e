//! Configuration of the health service.

use phoenix_platform::{
    config::RoleSettings, database_url::DatabaseUrl, identity::ServiceIdentity, postgres::Pooler,
    readiness::Readiness,
};

/// Settings of the health service.
#[derive(Debug, Clone)]
pub struct HealthConfig {
    /// URLs of the executors, whose catalogs name the agents and their circuit breakers.
    pub executor_url: String,
    /// The database with the `agent_health` table, such as `sqlite://data/health.db`.
    pub database_url: DatabaseUrl,
    /// The pooler in front of a PostgreSQL database.
    pub database_pooler: Pooler,
    /// Token that callers present, and the certificate of this service.
    pub identity: ServiceIdentity,
    /// Readiness, which the process reports.
    pub readiness: Readiness,
}

impl From<&RoleSettings> for HealthConfig {
    fn from(settings: &RoleSettings) -> Self {
        Self {
            executor_url: settings.executor_url.clone(),
            database_url: settings.database_url.clone(),
            database_pooler: settings.database_pooler,
            identity: settings.identity.clone(),
            readiness: Readiness::starting(),
        }
    }
}
