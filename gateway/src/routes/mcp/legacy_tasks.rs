//! `tasks/get`, `tasks/result`, `tasks/list` and `tasks/cancel` of the version 2025-11-25: every plan is a task, by its id.

use axum::{http::StatusCode, response::Response};
use futures_util::stream;
use jiff::Timestamp;
use phoenix_domain::{
    OrchestratorError, OrchestratorErrorCode as Code, PlanId,
    json::{Json, Object},
    plan::PlanStatus,
};
use phoenix_proto::planner::{ListPlansRequest, Plan};

use super::{
    context::CallContext,
    messages::{Sent, deliver},
    response::{answered, refused},
    running_call, tasks,
};
use crate::{
    clients::Gateway,
    plan_stream::{PLAN_ENDED, PlanItem, PlanStream},
    planner_client::{PlannerClient, WatchedOutput, deadline_exceeded, unexpected_response},
    routes::followed_plan::stopping,
    wire::{
        mcp::{
            legacy_task::{Begun, LegacyTask, TaskList},
            message::{self, INTERNAL_ERROR, INVALID_PARAMS, RpcError},
            result::{CallResult, Origin},
        },
        plan::PlanV1,
    },
};

/// The response to a request about a task.
pub(super) async fn respond(context: CallContext<'_>, method: &str, params: &Object) -> Response {
    if method == "tasks/list" {
        return match list(&context, params).await {
            Ok(page) => answered(&context.id, &page),
            Err(error) => refused(Some(&context.id), &error),
        };
    }
    let plan_id = match tasks::plan_id(params) {
        Ok(plan_id) => plan_id,
        Err(error) => return refused(Some(&context.id), &error),
    };
    let task = match method {
        "tasks/result" => return result(context, plan_id).await,
        "tasks/cancel" => cancel(&context, plan_id).await,
        _ => get(&context, plan_id).await,
    };
    match task {
        Ok(task) => answered(&context.id, &task),
        Err(error) => refused(Some(&context.id), &error),
    }
}

/// The response that the plan `plan_id` has begun as a task. The plan was accepted, so the client gets its id also when it cannot
/// be read.
pub(super) async fn begun(context: &CallContext<'_>, plan_id: PlanId) -> Response {
    let task = get(context, plan_id).await;
    let task = task.unwrap_or_else(|_| LegacyTask::accepted(plan_id, Timestamp::now()));
    answered(&context.id, &Begun { task })
}

/// The response to a call that could not become a task: its result would not be a task.
pub(super) fn refuse(context: &CallContext<'_>, error: OrchestratorError) -> Response {
    let is_wrong = matches!(error.code, Code::ValidationFailed | Code::PlanningFailed);
    let code = if is_wrong { INVALID_PARAMS } else { INTERNAL_ERROR };
    let correlation_id = context.origin().correlation_id;
    let error = RpcError { code, ..RpcError::of_failure(StatusCode::OK, error, correlation_id) };
    refused(Some(&context.id), &error)
}

async fn get(context: &CallContext<'_>, plan_id: PlanId) -> Result<LegacyTask, RpcError> {
    let plan = tasks::read(context, plan_id).await?;
    LegacyTask::of(plan_id, &plan).map_err(|_| unexpected_response().into())
}

/// The task, which is cancelled. One that has ended cannot be.
async fn cancel(context: &CallContext<'_>, plan_id: PlanId) -> Result<LegacyTask, RpcError> {
    match tasks::cancel_plan(context, plan_id).await {
        Err(error) if error.code == Code::Conflict => {
            return Err(RpcError { code: INVALID_PARAMS, ..error.into() });
        }
        cancelled => cancelled.map_err(tasks::refusal)?,
    }
    get(context, plan_id).await
}

/// One page of plans, the newest first.
async fn list(context: &CallContext<'_>, params: &Object) -> Result<TaskList, RpcError> {
    let page_token = match params.get("cursor") {
        None | Some(Json::Null) => String::new(),
        Some(cursor) => {
            let last = cursor.as_str().and_then(|cursor| cursor.parse::<PlanId>().ok());
            let wrong =
                || RpcError::new(INVALID_PARAMS, "`params.cursor` is not one that tasks/list has returned");
            last.ok_or_else(|| wrong().with_status(StatusCode::OK))?.to_string()
        }
    };
    let request = ListPlansRequest { page_token, ..Default::default() };
    let page =
        PlannerClient::new(context.gateway, context.scope).list(request).await.map_err(RpcError::from)?;
    let task = |plan: &Plan| {
        let plan_id = phoenix_proto::id("plan_id", &plan.plan_id)?;
        LegacyTask::of(plan_id, plan)
    };
    let tasks = page.plans.iter().map(task).collect::<Result<_, _>>();
    let tasks = tasks.map_err(|_| RpcError::from(unexpected_response()))?;
    Ok(TaskList { tasks, next_cursor: Some(page.next_page_token).filter(|token| !token.is_empty()) })
}

/// The response with the result of a task, once it has ended. A client that closes it leaves the task alone.
async fn result(context: CallContext<'_>, plan_id: PlanId) -> Response {
    let CallContext { gateway, scope, streams, ref id, .. } = context;
    let planner = PlannerClient::new(gateway, scope);
    let ended = ended(gateway.clone(), planner, plan_id, context.origin());
    if !streams {
        let ended = tokio::time::timeout_at(scope.deadline().into(), ended).await;
        return match ended.unwrap_or_else(|_| Err(deadline_exceeded(true).into())) {
            Ok(result) => answered(id, &result),
            Err(error) => refused(Some(id), &error),
        };
    }
    let id = id.clone();
    deliver(stream::once(async move {
        Sent::Answer(match ended.await {
            Ok(result) => message::answer(&id, &result),
            Err(error) => message::error(Some(&id), &error),
        })
    }))
    .await
}

/// The result of the call whose plan is `plan_id`, once the plan has ended.
async fn ended(
    gateway: Gateway,
    planner: PlannerClient,
    plan_id: PlanId,
    origin: Origin,
) -> Result<CallResult, RpcError> {
    Box::pin(until_ended(&gateway, &planner, plan_id)).await.map_err(tasks::refusal)?;
    let plan = running_call::read(&planner, plan_id).await.map_err(tasks::refusal)?;
    let has_succeeded = Option::<PlanStatus>::from(plan.status()) == Some(PlanStatus::Succeeded);
    let plan = PlanV1::at(Timestamp::now(), plan).map_err(|_| RpcError::from(unexpected_response()))?;
    let origin = Origin { plan_id: Some(plan_id), ..origin };
    Ok(CallResult::document(origin, &plan, !has_succeeded).of_task(plan_id))
}

/// Waits for the end of a plan, through restarts of the planner.
async fn until_ended(
    gateway: &Gateway,
    planner: &PlannerClient,
    plan_id: PlanId,
) -> Result<(), OrchestratorError> {
    let mut events = PlanStream::watch(planner.clone(), plan_id, 0, WatchedOutput::Nothing).await?;
    while !events.had_ended() {
        let next = Box::pin(events.next());
        let item = gateway.shutdown.run_until_cancelled(next).await.ok_or_else(stopping)?;
        match item {
            Some(PlanItem::Event(event)) if event.kind == PLAN_ENDED => break,
            Some(_) => {}
            None => return Err(OrchestratorError::new(Code::NotFound, "the plan no longer exists")),
        }
    }
    Ok(())
}
