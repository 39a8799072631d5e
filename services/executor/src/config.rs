//! What the executor is told.

use std::collections::BTreeMap;

use phoenix_domain::{AgentCatalog, llm::LlmSettings};
use phoenix_platform::{
    config::RoleSettings,
    service_token::{self, ServiceToken},
};

/// The settings of the executor. Not `Debug`: the environment holds whatever its owner put there.
#[derive(Clone)]
pub struct ExecutorConfig {
    /// Every agent that can be run.
    pub agents: AgentCatalog,
    /// Handed as JSON to the agents whose `env` names
    /// [`SETTINGS_VARIABLE`](phoenix_domain::llm::SETTINGS_VARIABLE), and to no other.
    pub llm: LlmSettings,
    /// Where outcomes of attempts are reported, such as `http://127.0.0.1:50053`.
    pub health_url: String,
    /// What callers present, and what is shown to the health service.
    pub service_token: ServiceToken,
    /// The process's own environment, without the service token. An agent gets those variables of it that its `env` names.
    pub environment: BTreeMap<String, String>,
    /// The command that starts the orphan guard ([`crate::guard`]), without its argument. Without a guard, agents
    /// outlive an executor that is killed with SIGKILL, until the next executor starts.
    pub guard: Option<Vec<String>>,
    /// Whether this process is the executor's alone. It then adopts what its agents leave behind, and ends every child that
    /// the executor did not start.
    pub adopts_orphans: bool,
}

impl From<&RoleSettings> for ExecutorConfig {
    /// Reads the process's environment, once. The guard is left to the executable, which knows how to be
    /// one, and so is the adoption of orphans: the executable knows what else its process does.
    fn from(settings: &RoleSettings) -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self {
            agents: settings.config.agents.clone(),
            llm: settings.config.llm.clone(),
            health_url: settings.health_url.clone(),
            service_token: settings.service_token.clone(),
            environment: std::env::vars_os()
                .filter_map(text)
                .filter(|(name, _)| !service_token::is_variable(name))
                .collect(),
            guard: None,
            adopts_orphans: false,
        }
    }
}
