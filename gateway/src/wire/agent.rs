//! Bodies of agents.

use jiff::Timestamp;
use phoenix_domain::{AgentName, health::HealthState};
use phoenix_proto::{
    HealthSnapshot, InvalidField,
    health_v1::{AgentAction, GetAgentHealthResponse},
    required,
};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::schemas::states;

/// Health of one agent.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AgentHealthSummaryV1 {
    /// Name of the agent.
    #[schema(value_type = String, examples("git_agent"))]
    agent_id: AgentName,
    /// `healthy`, `degraded` after a failure, `unhealthy` while the circuit is open.
    #[schema(schema_with = health_states)]
    health: HealthState,
    /// Failures since the last success.
    consecutive_failures: u32,
    /// When the agent last failed.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    last_failure_at: Option<Timestamp>,
    /// When the agent last succeeded.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    last_success_at: Option<Timestamp>,
    /// When the circuit admits one chat as a probe; chats are rejected until then.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    circuit_open_until: Option<Timestamp>,
}

/// One agent.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AgentV1 {
    #[serde(flatten)]
    health: AgentHealthSummaryV1,
    /// Purpose in one line.
    #[schema(examples("Shows and changes a git repository: status, diff, log, add, commit"))]
    description: String,
    /// Declared actions by name, in addition to `chat`. An agent without declarations accepts any action.
    actions: Vec<AgentActionV1>,
}

/// An action of an agent.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AgentActionV1 {
    /// Name, as a task has it in `action`.
    #[schema(examples("git_status"))]
    name: String,
    /// Purpose.
    description: String,
    /// JSON Schema of the input; null when any input is accepted.
    #[schema(value_type = Option<Object>, required)]
    input_schema: Option<Value>,
}

fn health_states() -> utoipa::openapi::schema::Object {
    let description = "`healthy`, `degraded` after a failure, `unhealthy` while the circuit is open.";
    states(description, HealthState::ALL.iter().map(|state| state.as_str()))
}

impl From<HealthSnapshot> for AgentHealthSummaryV1 {
    fn from(snapshot: HealthSnapshot) -> Self {
        let HealthSnapshot {
            agent,
            state,
            consecutive_failures,
            last_failure_at,
            last_success_at,
            circuit_open_until,
            probe_until: _,
            revision: _,
        } = snapshot;
        Self {
            agent_id: agent,
            health: state,
            consecutive_failures,
            last_failure_at,
            last_success_at,
            circuit_open_until,
        }
    }
}

impl TryFrom<GetAgentHealthResponse> for AgentV1 {
    type Error = InvalidField;

    fn try_from(agent: GetAgentHealthResponse) -> Result<Self, InvalidField> {
        let GetAgentHealthResponse { health, description, actions } = agent;
        let health = HealthSnapshot::try_from(required("health", health)?)?.into();
        let actions = actions.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        Ok(Self { health, description, actions })
    }
}

impl TryFrom<AgentAction> for AgentActionV1 {
    type Error = InvalidField;

    fn try_from(action: AgentAction) -> Result<Self, InvalidField> {
        let AgentAction { name, description, input_schema_json: schema } = action;
        let input_schema = (!schema.is_empty())
            .then(|| serde_json::from_str(&schema))
            .transpose()
            .map_err(|problem| InvalidField::new("input_schema_json", problem))?;
        Ok(Self { name, description, input_schema })
    }
}
