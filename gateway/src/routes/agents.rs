//! `GET /api/v1/agents`: the health of every agent; `GET /api/v1/agents/{agent_id}`: one agent with its actions and its circuit;
//! `POST …:isolate` and `…:restore`: decisions of operators.

pub(crate) mod segment;

use std::time::{Duration, Instant};

use axum::{
    Json,
    extract::{Extension, State},
};
use phoenix_domain::{AgentName, OrchestratorError, OrchestratorErrorCode};
use phoenix_platform::{
    RequestContext,
    client::{UNREACHABLE_RETRY_AFTER, call_error},
};
use phoenix_proto::{
    HealthSnapshot,
    health_v1::{
        GetAgentHealthRequest, GetAgentHealthResponse, IsolateAgentRequest, ListAgentHealthRequest,
        ListAgentHealthResponse, ListAgentsRequest, RestoreAgentRequest,
    },
};
use tonic::{Response, Status};
use tracing::Instrument;

use self::segment::AgentSegment;
use crate::{
    clients::Gateway,
    extract::JsonObject,
    problem::Failure,
    request_scope::RequestScope,
    wire::agent::{AgentDecisionV1, AgentHealthSummaryV1, AgentV1},
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
/// Its health and its actions with their input schemas, why and since when its circuit is as it is, and the newest changes of
/// the circuit. The actions of an MCP server are its tools.
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
    segment: AgentSegment,
) -> Result<Json<AgentV1>, Failure> {
    Ok(Json(agent_of(&gateway, &scope, &segment.agent()?).await?))
}

/// Isolate an agent
///
/// The agent gets no tasks until it is restored: tasks are rejected with `agent_unavailable`, which names the reason. Tasks
/// that run are not stopped. Responds when the decision is durable.
#[utoipa::path(
    post, path = "/api/v1/agents/{agent_id}:isolate", tag = "agents", request_body = AgentDecisionV1,
    params((
        "agent_id" = String, Path, description = "Name of the agent",
        pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", min_length = 1, max_length = 64,
    )),
    responses((status = 200, body = AgentV1, description = "The isolated agent"))
)]
pub(crate) async fn isolate_agent(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    segment: AgentSegment,
    JsonObject(decision): JsonObject<AgentDecisionV1>,
) -> Result<Json<AgentV1>, Failure> {
    let agent = segment.agent()?;
    let (actor, reason) = decision.checked()?;
    let request = IsolateAgentRequest { agent_id: agent.to_string(), actor, reason };
    let mut health = gateway.health();
    answer(&scope, health.isolate_agent(context(&scope).request(request))).await?;
    Ok(Json(agent_of(&gateway, &scope, &agent).await?))
}

/// Restore an agent
///
/// Ends an isolation, or closes an open circuit at once. Earlier failures no longer count. Responds when the decision is
/// durable. An agent with a closed circuit stays as it is.
#[utoipa::path(
    post, path = "/api/v1/agents/{agent_id}:restore", tag = "agents", request_body = AgentDecisionV1,
    params((
        "agent_id" = String, Path, description = "Name of the agent",
        pattern = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", min_length = 1, max_length = 64,
    )),
    responses((status = 200, body = AgentV1, description = "The restored agent"))
)]
pub(crate) async fn restore_agent(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    segment: AgentSegment,
    JsonObject(decision): JsonObject<AgentDecisionV1>,
) -> Result<Json<AgentV1>, Failure> {
    let agent = segment.agent()?;
    let (actor, reason) = decision.checked()?;
    let request = RestoreAgentRequest { agent_id: agent.to_string(), actor, reason };
    let mut health = gateway.health();
    answer(&scope, health.restore_agent(context(&scope).request(request))).await?;
    Ok(Json(agent_of(&gateway, &scope, &agent).await?))
}

async fn agent_of(
    gateway: &Gateway,
    scope: &RequestScope,
    agent: &AgentName,
) -> Result<AgentV1, OrchestratorError> {
    described_agent(gateway, scope, agent).await?.try_into().map_err(|_| unexpected())
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
