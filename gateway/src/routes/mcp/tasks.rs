//! `tasks/get`, `tasks/update` and `tasks/cancel`: every plan is a task, by its id.

use axum::{http::StatusCode, response::Response};
use jiff::Timestamp;
use phoenix_domain::{
    OrchestratorError, OrchestratorErrorCode as Code, PlanId,
    json::{Json, Object},
    plan::PlanStatus,
};
use phoenix_proto::planner::{CancelPlanRequest, Plan};

use super::{
    context::CallContext,
    response::{answered, refused},
};
use crate::{
    planner_client::{PlannerClient, unexpected_response},
    wire::{
        mcp::{
            message::{INVALID_PARAMS, RpcError},
            result::{CallResult, Origin},
            task::{Acknowledged, Task},
            task_support::{is_declared, not_declared},
        },
        plan::PlanV1,
    },
};

/// The response to a request about a task.
pub(super) async fn respond(context: &CallContext<'_>, method: &str, params: &Object) -> Response {
    if !is_declared(params) {
        return refused(Some(&context.id), &not_declared());
    }
    let plan_id = match plan_id(params) {
        Ok(plan_id) => plan_id,
        Err(error) => return refused(Some(&context.id), &error),
    };
    let taken = match method {
        "tasks/get" => {
            return match get(context, plan_id).await {
                Ok(task) => answered(&context.id, &task),
                Err(error) => refused(Some(&context.id), &error),
            };
        }
        "tasks/cancel" => cancel(context, plan_id).await,
        // A task asks its client for nothing, and what it was not asked for is ignored.
        _ => read(context, plan_id).await.map(drop),
    };
    match taken {
        Ok(()) => answered(&context.id, &Acknowledged::new()),
        Err(error) => refused(Some(&context.id), &error),
    }
}

/// That the plan `plan_id` has begun as a task. The plan was accepted, so the client gets its id also when it cannot be read.
pub(super) async fn begun(context: &CallContext<'_>, plan_id: PlanId) -> Task {
    let plan = PlannerClient::new(context.gateway, context.scope).get(plan_id).await;
    let shown = plan.ok().and_then(|plan| Task::begun(plan_id, &plan).ok());
    shown.unwrap_or_else(|| Task::accepted(plan_id, Timestamp::now()))
}

async fn get(context: &CallContext<'_>, plan_id: PlanId) -> Result<Task, RpcError> {
    let plan = read(context, plan_id).await?;
    let task = Task::of(plan_id, &plan).map_err(|_| RpcError::from(unexpected_response()))?;
    if !task.is_completed() {
        return Ok(task);
    }
    let is_failed = Option::<PlanStatus>::from(plan.status()) == Some(PlanStatus::Failed);
    let shown = PlanV1::at(Timestamp::now(), plan).map_err(|_| RpcError::from(unexpected_response()))?;
    let origin = Origin { plan_id: Some(plan_id), ..context.origin() };
    Ok(task.with_result(CallResult::document(origin, &shown, is_failed)))
}

async fn cancel(context: &CallContext<'_>, plan_id: PlanId) -> Result<(), RpcError> {
    match cancel_plan(context, plan_id).await {
        // It has ended.
        Err(error) if error.code == Code::Conflict => Ok(()),
        cancelled => cancelled.map_err(refusal),
    }
}

/// The plan whose task these parameters name.
///
/// # Errors
/// When the name is not one of a plan.
pub(super) fn plan_id(params: &Object) -> Result<PlanId, RpcError> {
    let plan_id = params.get("taskId").and_then(Json::as_str).and_then(|id| id.parse().ok());
    plan_id.ok_or_else(unknown)
}

/// Cancels a plan.
///
/// # Errors
/// `conflict` when it has ended.
pub(super) async fn cancel_plan(context: &CallContext<'_>, plan_id: PlanId) -> Result<(), OrchestratorError> {
    let request = CancelPlanRequest {
        plan_id: plan_id.to_string(),
        reason: "the client cancelled the task".into(),
        ..Default::default()
    };
    PlannerClient::new(context.gateway, context.scope).cancel(request).await
}

/// The plan of a task.
///
/// # Errors
/// When there is none, or it cannot be read.
pub(super) async fn read(context: &CallContext<'_>, plan_id: PlanId) -> Result<Plan, RpcError> {
    PlannerClient::new(context.gateway, context.scope).get(plan_id).await.map_err(refusal)
}

/// The error of a request about a task.
pub(super) fn refusal(error: OrchestratorError) -> RpcError {
    if error.code == Code::NotFound { unknown() } else { error.into() }
}

fn unknown() -> RpcError {
    let message = "there is no task with the id in `params.taskId`; plans are kept for a limited time";
    RpcError::new(INVALID_PARAMS, message).with_status(StatusCode::OK)
}
