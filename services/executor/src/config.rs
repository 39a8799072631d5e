//! Configuration of the executor.

use std::{collections::BTreeMap, path::PathBuf};

use phoenix_domain::{AgentCatalog, llm::LlmSettings};
use phoenix_platform::{
    config::RoleSettings, identity::ServiceIdentity, readiness::Readiness, service_token,
};

/// Settings of the executor. Without `Debug`, because the environment may hold secrets.
#[derive(Clone)]
pub struct ExecutorConfig {
    /// Every agent that can be run.
    pub agents: AgentCatalog,
    /// Labels of this executor in its catalog, such as `gpu = "true"`.
    pub labels: BTreeMap<String, String>,
    /// How much is added to the nice value of agent processes.
    pub agent_nice: u8,
    /// Model settings, passed as JSON to the agents whose `env` names
    /// [`SETTINGS_VARIABLE`](phoenix_domain::llm::SETTINGS_VARIABLE), and to no other. The built-in language-model agent
    /// collects them over a socket; its environment names only the socket.
    pub llm: LlmSettings,
    /// URL of the health service, which receives the outcomes of attempts, such as `http://127.0.0.1:50053`.
    pub health_url: String,
    /// Token that callers present, and what this executor presents to the health service.
    pub identity: ServiceIdentity,
    /// Environment of this process, without the service token. An agent gets the variables that its `env` names.
    pub environment: BTreeMap<String, String>,
    /// Executable of this installation, which runs the built-in agents. `None` passes the model settings through the
    /// environment in all cases.
    pub executable: Option<PathBuf>,
    /// Command that starts the orphan guard ([`crate::guard`]), without its argument. Without a guard, the agents of an
    /// executor that is killed with SIGKILL run until the next executor starts.
    pub guard: Option<Vec<String>>,
    /// Whether this process runs nothing but the executor. It then adopts the orphans of its agents, and ends every child
    /// that the executor did not start.
    pub adopts_orphans: bool,
    /// Readiness, which the process reports.
    pub readiness: Readiness,
}

impl From<&RoleSettings> for ExecutorConfig {
    /// Reads the environment of this process once. The executable sets the guard and the adoption of orphans: it knows
    /// how to run a guard, and what else its process does.
    fn from(settings: &RoleSettings) -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self {
            agents: settings.config.agents.clone(),
            labels: settings.config.executor.labels.clone(),
            agent_nice: settings.config.executor.agent_nice,
            llm: settings.config.llm.clone(),
            health_url: settings.health_url.clone(),
            identity: settings.identity.clone(),
            environment: std::env::vars_os()
                .filter_map(text)
                .filter(|(name, _)| !service_token::is_variable(name))
                .collect(),
            executable: std::env::current_exe().ok(),
            guard: None,
            adopts_orphans: false,
            readiness: Readiness::starting(),
        }
    }
}
