//! The configured agents. Built from the configuration once; the same in every service.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    agent::{AgentName, AgentSpec},
    error::{OrchestratorError, OrchestratorErrorCode},
};

/// Every configured agent by name, and the default agent. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AgentCatalog {
    agents: Arc<BTreeMap<AgentName, AgentSpec>>,
    default_agent: AgentName,
}

impl AgentCatalog {
    /// A catalog of `agents`. `default_agent` may be absent; chats without a route are then rejected.
    #[must_use]
    pub fn new(agents: impl IntoIterator<Item = AgentSpec>, default_agent: AgentName) -> Self {
        let agents = agents.into_iter().map(|spec| (spec.name.clone(), spec)).collect();
        Self { agents: Arc::new(agents), default_agent }
    }

    /// The agent for messages without a matching route.
    #[must_use]
    pub const fn default_agent(&self) -> &AgentName {
        &self.default_agent
    }

    /// Every agent in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = &AgentSpec> {
        self.agents.values()
    }

    /// The agent with this name.
    ///
    /// # Errors
    /// `planning_failed` with the configured agents, if there is no such agent.
    pub fn get(&self, name: &AgentName) -> Result<&AgentSpec, OrchestratorError> {
        self.agents.get(name).ok_or_else(|| {
            let known: Vec<_> = self.agents.keys().map(AgentName::as_str).collect();
            OrchestratorError::new(
                OrchestratorErrorCode::PlanningFailed,
                format!("unknown agent `{name}`; configured agents: {}", known.join(", ")),
            )
            .with_detail("field", "agent")
            .with_detail("agent", name)
        })
    }
}
