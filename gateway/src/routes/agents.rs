//! `GET /api/v1/agents`: the health of every agent; `GET /api/v1/agents/{agent_id}`: one agent with its actions.

use std::time::{Duration, Instant};

use axum::{
    Json,
    extract::{Extension, Path, State, rejection::PathRejection},
};
use phoenix_domain::{AgentName, OrchestratorError, OrchestratorErrorCode, agent::InvalidAgentName};
use phoenix_platform::{
    RequestContext,
    client::{UNREACHABLE_RETRY_AFTER, call_error},
};
use phoenix_proto::{
    HealthSnapshot,
    health_v1::{
        GetAgentHealthRequest, GetAgentHealthResponse, ListAgentHealthRequest, ListAgentHealthResponse,
        ListAgentsRequest,
    },
};
use tonic::{Response, Status};
use tracing::Instrument;

use crate::{
    clients::Gateway,
    problem::Failure,
    request_scope::RequestScope,
    wire::agent::{AgentHealthSummaryV1, AgentV1},
};

/// Time limit of the call to the health service.
const TIMEOUT: Duration = Duration::from_secs(2);

/// List the health of agents
///
/// Every configured agent, by name.
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
    Extension(scope): Extension<RequestScope>,
) -> Result<Json<Vec<AgentHealthSummaryV1>>, Failure> {
    let agents = agents_of(&gateway, &scope).await?;
    Ok(Json(agents.into_iter().map(Into::into).collect()))
}

/// Get an agent
///
/// Its health, and its actions with their input schemas. Those of an MCP server are its tools.
#[utoipa::path(
    get, path = "/api/v1/agents/{agent_id}", tag = "agents",
    params((
        "agent_id" = String, Path, description = "Name of the agent",
        pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", min_length = 1, max_length = 64,
    )),
    responses((status = 200, body = AgentV1, description = "The agent"))
)]
pub(crate) async fn get_agent(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<AgentV1>, Failure> {
    let name = name.map(|Path(name)| name).unwrap_or_default();
    let agent: AgentName =
        name.parse().map_err(|problem: InvalidAgentName| OrchestratorError::invalid("agent_id", problem))?;
    let agent = described_agent(&gateway, &scope, &agent).await?;
    Ok(Json(agent.try_into().map_err(|_| unexpected())?))
}

/// One agent with its actions.
///
/// # Errors
/// `not_found`, or what keeps the health service from answering.
pub(crate) async fn described_agent(
    gateway: &Gateway,
    scope: &RequestScope,
    agent: &AgentName,
) -> Result<GetAgentHealthResponse, OrchestratorError> {
    let request = GetAgentHealthRequest { agent_id: agent.to_string() };
    let mut health = gateway.health();
    answer(scope, health.get_agent_health(context(scope).request(request))).await
}

/// Every agent with its actions, by name.
///
/// # Errors
/// When the health service does not answer.
pub(crate) async fn described_agents(
    gateway: &Gateway,
    scope: &RequestScope,
) -> Result<Vec<GetAgentHealthResponse>, OrchestratorError> {
    let mut health = gateway.health();
    let answered = answer(scope, health.list_agents(context(scope).request(ListAgentsRequest {}))).await?;
    Ok(answered.agents)
}

/// The health of every agent, by name.
///
/// # Errors
/// When the health service does not answer.
pub(crate) async fn agents_of(
    gateway: &Gateway,
    scope: &RequestScope,
) -> Result<Vec<HealthSnapshot>, OrchestratorError> {
    let mut health = gateway.health();
    let call = health.list_agent_health(context(scope).request(ListAgentHealthRequest {}));
    let ListAgentHealthResponse { agents } = answer(scope, call).await?;
    let agents = agents.into_iter().map(HealthSnapshot::try_from);
    agents.collect::<Result<_, _>>().map_err(|_| unexpected())
}

/// The context of a call to the health service.
fn context(scope: &RequestScope) -> RequestContext {
    scope.context().with_deadline(scope.deadline().min(Instant::now() + TIMEOUT))
}

/// The answer to a call to the health service.
async fn answer<T>(
    scope: &RequestScope,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, OrchestratorError> {
    match tokio::time::timeout(TIMEOUT, call.instrument(scope.span().clone())).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(without_timeout(call_error("the health service", &status))),
        Err(_) => Err(unavailable()),
    }
}

/// The error of an answer that violates the contract.
pub(super) fn unexpected() -> OrchestratorError {
    OrchestratorError::internal("the health service answered in an unexpected way")
}

/// A timeout of the call is `unavailable`, because the request itself has time left.
fn without_timeout(error: OrchestratorError) -> OrchestratorError {
    if error.code == OrchestratorErrorCode::Timeout { unavailable() } else { error }
}

fn unavailable() -> OrchestratorError {
    OrchestratorError::new(
        OrchestratorErrorCode::Unavailable,
        "the health service does not respond; try again shortly",
    )
    .with_retry_after(UNREACHABLE_RETRY_AFTER)
}
