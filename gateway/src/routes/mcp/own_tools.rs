//! Phoenix's own tools.

use jiff::Timestamp;
use phoenix_domain::{
    AgentName, OrchestratorError, PlanId,
    agent::InvalidAgentName,
    ids::InvalidId,
    json::{Json, Object},
    plan::PlanStatus,
};
use phoenix_proto::planner::{CancelPlanRequest, PlanAndExecuteRequest};
use serde::Deserialize;

use super::{
    context::{CallContext, TaskUse},
    running_call::Shape,
};
use crate::{
    delivery::{Delivery, KeyHeader, Operation},
    extract::parse,
    planner_client::{PlannerClient, unexpected_response},
    routes::{
        agents::{described_agent, described_agents, unexpected},
        chat::{ChatParts, into_chat, into_request},
    },
    wire::{
        agent::AgentV1,
        chat::ChatRequestV1,
        mcp::{agent::AgentList, result::CallResult, tool::OwnTool},
        members_body::optional_flag,
        plan::{AcceptedV1, PlanV1},
        plan_request::PlanRequestV1,
        strategy::wire_strategy,
    },
};

/// What to do for a call.
pub(super) enum Prepared {
    /// Run this plan. Its result has this shape.
    Run(Box<PlanAndExecuteRequest>, Shape),
    /// This plan is a task.
    Task(PlanId),
    /// Nothing more.
    Done(CallResult),
}

/// Arguments of `get_plan`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GetPlan {
    plan_id: String,
}

/// Arguments of `cancel_plan`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CancelPlan {
    plan_id: String,
    reason: Option<String>,
}

/// Arguments of `list_agents`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListAgents {
    agent: Option<String>,
}

/// What a call of `tool` does.
///
/// # Errors
/// When the arguments are not valid, or a service does not answer.
pub(super) async fn prepare(
    context: &CallContext<'_>,
    tool: OwnTool,
    arguments: Object,
    key: KeyHeader,
) -> Result<Prepared, OrchestratorError> {
    match tool {
        OwnTool::Chat => chat(context, &arguments, key),
        OwnTool::RunPlan => run_plan(context, arguments, key).await,
        OwnTool::GetPlan => {
            let GetPlan { plan_id } = parse(&arguments.to_string())?;
            show_plan(context, parse_plan_id(&plan_id)?).await
        }
        OwnTool::CancelPlan => cancel_plan(context, &arguments, &key).await,
        OwnTool::ListAgents => list_agents(context, &arguments).await,
    }
}

fn chat(
    context: &CallContext<'_>,
    arguments: &Object,
    key: KeyHeader,
) -> Result<Prepared, OrchestratorError> {
    let request: ChatRequestV1 = parse(&arguments.to_string())?;
    let bound = key.key_of(&Operation::new("MCP chat"), &request);
    let ChatParts { chat, budget, strategy } = into_chat(request, context.scope)?;
    let request = into_request(chat, Delivery::of_call(key), bound);
    let request = PlanAndExecuteRequest { budget, strategy: wire_strategy(strategy), ..request };
    Ok(Prepared::Run(Box::new(request), Shape::Output))
}

async fn run_plan(
    context: &CallContext<'_>,
    mut arguments: Object,
    key: KeyHeader,
) -> Result<Prepared, OrchestratorError> {
    let wait = match arguments.shift_remove("wait") {
        None | Some(Json::Null) => true,
        Some(wait) => optional_flag("wait", &wait)?,
    };
    let request: PlanRequestV1 = parse(&arguments.to_string())?;
    context.scope.set_id_of_body(request.correlation_id())?;
    let bound = key.key_of(&Operation::new("MCP run_plan"), &request);
    let mut request = request.into_request()?;
    Delivery::of_call(key).apply(&mut request, bound);
    let is_task = match context.tasks {
        TaskUse::No => false,
        TaskUse::Taken => wait,
        TaskUse::Asked => true,
    };
    if wait && !is_task {
        return Ok(Prepared::Run(Box::new(request), Shape::Plan));
    }
    let plan_id = PlannerClient::new(context.gateway, context.scope).submit(request).await?;
    if is_task {
        return Ok(Prepared::Task(plan_id));
    }
    let mut origin = context.origin();
    origin.plan_id = Some(plan_id);
    let accepted = AcceptedV1 { plan_id, correlation_id: origin.correlation_id, status: PlanStatus::Pending };
    Ok(Prepared::Done(CallResult::document(origin, &accepted, false)))
}

async fn cancel_plan(
    context: &CallContext<'_>,
    arguments: &Object,
    key: &KeyHeader,
) -> Result<Prepared, OrchestratorError> {
    let CancelPlan { plan_id, reason } = parse(&arguments.to_string())?;
    let plan_id = parse_plan_id(&plan_id)?;
    let bound = key.key_of(&Operation::new("MCP cancel_plan"), arguments);
    let request = CancelPlanRequest {
        plan_id: plan_id.to_string(),
        reason: reason.unwrap_or_default(),
        idempotency_key: bound.key,
        idempotency_digest: bound.digest,
    };
    PlannerClient::new(context.gateway, context.scope).cancel(request).await?;
    show_plan(context, plan_id).await
}

async fn show_plan(context: &CallContext<'_>, plan_id: PlanId) -> Result<Prepared, OrchestratorError> {
    let plan = PlannerClient::new(context.gateway, context.scope).get(plan_id).await?;
    let plan = PlanV1::at(Timestamp::now(), plan).map_err(|_| unexpected_response())?;
    let mut origin = context.origin();
    origin.plan_id = Some(plan_id);
    Ok(Prepared::Done(CallResult::document(origin, &plan, false)))
}

async fn list_agents(context: &CallContext<'_>, arguments: &Object) -> Result<Prepared, OrchestratorError> {
    let ListAgents { agent } = parse(&arguments.to_string())?;
    let (gateway, scope, origin) = (context.gateway, context.scope, context.origin());
    let Some(name) = agent else {
        let agents = AgentList::new(described_agents(gateway, scope).await?).map_err(|_| unexpected())?;
        return Ok(Prepared::Done(CallResult::document(origin, &agents, false)));
    };
    let name: AgentName =
        name.parse().map_err(|problem: InvalidAgentName| OrchestratorError::invalid("agent", problem))?;
    let agent = AgentV1::try_from(described_agent(gateway, scope, &name).await?).map_err(|_| unexpected())?;
    Ok(Prepared::Done(CallResult::document(origin, &agent, false)))
}

fn parse_plan_id(text: &str) -> Result<PlanId, OrchestratorError> {
    text.parse().map_err(|problem: InvalidId| OrchestratorError::invalid("plan_id", problem))
}
