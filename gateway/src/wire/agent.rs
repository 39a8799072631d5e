//! Bodies of agents.

use jiff::Timestamp;
use phoenix_domain::{AgentName, health::HealthState};
use phoenix_proto::HealthSnapshot;
use serde::Serialize;
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
