//! Agents, as the tool `list_agents` lists them.

use phoenix_proto::{
    HealthSnapshot, InvalidField,
    health_v1::{AgentAction, GetAgentHealthResponse},
    required,
};
use serde::Serialize;

/// Every agent.
#[derive(Debug, Serialize)]
pub(crate) struct AgentList {
    agents: Vec<ListedAgent>,
}

/// An agent without the input schemas of its actions, which may be long.
#[derive(Debug, Serialize)]
struct ListedAgent {
    agent: String,
    description: String,
    /// `healthy`, `degraded` or `unhealthy`.
    health: &'static str,
    actions: Vec<ListedAction>,
}

#[derive(Debug, Serialize)]
struct ListedAction {
    action: String,
    description: String,
}

impl AgentList {
    /// The list of `agents`.
    ///
    /// # Errors
    /// When the health service violates the contract.
    pub(crate) fn new(agents: Vec<GetAgentHealthResponse>) -> Result<Self, InvalidField> {
        let agents = agents.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        Ok(Self { agents })
    }
}

impl TryFrom<GetAgentHealthResponse> for ListedAgent {
    type Error = InvalidField;

    fn try_from(agent: GetAgentHealthResponse) -> Result<Self, InvalidField> {
        let GetAgentHealthResponse { health, description, actions, .. } = agent;
        let health = HealthSnapshot::try_from(required("health", health)?)?;
        let actions = actions.into_iter();
        let actions =
            actions.map(|AgentAction { name, description, .. }| ListedAction { action: name, description });
        Ok(Self {
            agent: health.agent.to_string(),
            description,
            health: health.state.as_str(),
            actions: actions.collect(),
        })
    }
}
