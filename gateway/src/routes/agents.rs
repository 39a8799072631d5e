//! `GET /api/v1/agents`: the health of every agent.

use std::time::{Duration, Instant};

use axum::{
    Json,
    extract::{Extension, State},
};
use jiff::Timestamp;
use phoenix_domain::{AgentName, OrchestratorError, OrchestratorErrorCode, health::HealthState};
use phoenix_platform::client::{UNREACHABLE_RETRY_AFTER, call_error};
use phoenix_proto::{
    HealthSnapshot,
    health_v1::{ListAgentHealthRequest, ListAgentHealthResponse},
};
use serde::Serialize;
use tracing::Instrument;
use utoipa::ToSchema;

use crate::{correlation::Scope, peers::Gateway, problem::Failure};

/// How long the health service has to answer: it reads a table.
const LIMIT: Duration = Duration::from_secs(2);

/// What is known of one agent's health.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AgentHealthSummaryV1 {
    /// The agent's name.
    #[schema(value_type = String, examples("git_agent"))]
    agent_id: AgentName,
    /// `healthy`, `degraded` after a failure, `unhealthy` while its circuit is open.
    #[schema(schema_with = health_states)]
    health: HealthState,
    /// Failures since the last success.
    consecutive_failures: u32,
    /// When it last failed.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    last_failure_at: Option<Timestamp>,
    /// When it last succeeded.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    last_success_at: Option<Timestamp>,
    /// Until when chats for it are refused. When this has passed, one chat is let through to try it.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    circuit_open_until: Option<Timestamp>,
}

fn health_states() -> utoipa::openapi::schema::Object {
    let names = HealthState::ALL.iter().map(|state| state.as_str());
    utoipa::openapi::ObjectBuilder::new()
        .schema_type(utoipa::openapi::schema::Type::String)
        .enum_values(Some(names))
        .description(Some("`healthy`, `degraded` after a failure, `unhealthy` while its circuit is open."))
        .build()
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

/// The health of every configured agent
///
/// The healthy ones too, by name.
#[utoipa::path(
    get, path = "/api/v1/agents", tag = "agents",
    responses((status = 200, body = Vec<AgentHealthSummaryV1>, description = "Every configured agent", example = json!([{
        "agent_id": "git_agent",
        "health": "unhealthy",
        "consecutive_failures": 3,
        "last_failure_at": "2026-01-31T12:00:00Z",
        "last_success_at": null,
        "circuit_open_until": "2026-01-31T12:01:00Z"
    }])))
)]
pub(crate) async fn list_agents(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<Scope>,
) -> Result<Json<Vec<AgentHealthSummaryV1>>, Failure> {
    let context = scope.context().with_deadline(scope.deadline().min(Instant::now() + LIMIT));
    let mut health = gateway.health();
    let call =
        health.list_agent_health(context.request(ListAgentHealthRequest {})).instrument(scope.span().clone());
    let answer = match tokio::time::timeout(LIMIT, call).await {
        Ok(answer) => answer.map_err(|status| available(call_error("the health service", &status)))?,
        Err(_) => return Err(unavailable().into()),
    };
    let ListAgentHealthResponse { agents } = answer.into_inner();
    let agents = agents.into_iter().map(|agent| HealthSnapshot::try_from(agent).map(Into::into));
    let agents = agents
        .collect::<Result<_, _>>()
        .map_err(|_| OrchestratorError::internal("the health service answered in an unexpected way"))?;
    Ok(Json(agents))
}

/// A table that can't be read in time is as good as not there; the request itself has time left.
fn available(error: OrchestratorError) -> OrchestratorError {
    if error.code == OrchestratorErrorCode::Timeout { unavailable() } else { error }
}

fn unavailable() -> OrchestratorError {
    OrchestratorError::new(
        OrchestratorErrorCode::Unavailable,
        "the health service does not answer at the moment; try again shortly",
    )
    .with_retry_after(UNREACHABLE_RETRY_AFTER)
}
