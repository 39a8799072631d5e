//! The known agents: at an executor those of its configuration, elsewhere those that the executors offer.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    agent::{AgentName, AgentSpec},
    builtin::llm_router,
    error::{OrchestratorError, OrchestratorErrorCode},
};

/// Default time for which an agent stays known that no executor offers any more.
pub const AGENT_GRACE: Duration = Duration::from_secs(60);

/// Every known agent by name, and the default agent. Cheap to clone.
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

    /// A catalog of `agents` whose default agent is the configured one, else the language-model agent, else the first by name.
    #[must_use]
    pub fn with_default(
        agents: impl IntoIterator<Item = AgentSpec>,
        default_agent: Option<AgentName>,
    ) -> Self {
        let catalog = Self::new(agents, llm_router());
        let known = &catalog.agents;
        let router = || known.get_key_value(&catalog.default_agent);
        let fallback = || router().or_else(|| known.first_key_value()).map(|(name, _)| name.clone());
        match default_agent.or_else(fallback) {
            Some(default_agent) => Self { default_agent, ..catalog },
            None => catalog,
        }
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
    /// `planning_failed` with the known agents, if there is no such agent.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_agent_is_the_configured_the_model_or_the_first() {
        let default = |agents: &[&str], configured: Option<&str>| {
            let agents = agents.iter().map(|name| AgentSpec::new(name.parse().unwrap(), Vec::new()));
            let configured = configured.map(|name| name.parse().unwrap());
            AgentCatalog::with_default(agents, configured).default_agent().to_string()
        };
        assert_eq!(default(&["b", "a"], Some("b")), "b");
        assert_eq!(default(&["a", "llm_router_agent"], None), "llm_router_agent");
        assert_eq!(default(&["b", "a"], None), "a");
        assert_eq!(default(&["a"], Some("elsewhere")), "elsewhere");
        assert_eq!(default(&[], None), llm_router().to_string());
        assert_eq!(Ok(llm_router()), llm_router().as_str().parse());
    }
}
