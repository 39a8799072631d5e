//! `tools/call`: every call is a plan, or a question about one.

use axum::{http::StatusCode, response::Response};
use phoenix_domain::{OrchestratorError, json::Object};
use phoenix_proto::planner::{PlanAndExecuteRequest, TaskSpec};

use super::{
    actions::list_of_actions,
    context::{CallContext, TaskUse},
    legacy_tasks,
    own_tools::{self, Prepared},
    response::{answered, refused},
    running_call::{self, Shape},
    tasks,
};
use crate::{
    action_tools::Action,
    delivery::{KeyHeader, Operation},
    wire::mcp::{
        call::{ToolCall, verbatim},
        era::Era,
        message::{INVALID_PARAMS, RpcError},
        progress::Progress,
        result::CallResult,
        task_support,
        tool::OwnTool,
    },
};

/// Key of the one task of a call of an action.
const TASK: &str = "call";

/// The response to a call.
pub(super) async fn call(context: CallContext<'_>, params: Object) -> Response {
    let mut call = match ToolCall::read(params) {
        Ok(call) => call,
        Err(error) => return refused(Some(&context.id), &in_era(error, context.era)),
    };
    if let Some(trace) = call.trace.take() {
        context.scope.set_trace(trace);
    }
    if context.tasks == TaskUse::Asked && call.name != OwnTool::TASK.name() {
        return refused(Some(&context.id), &task_support::no_task_of(&call.name));
    }
    let progress = call.progress.take();
    let prepared = match prepare(&context, call).await {
        Ok(Some(prepared)) => prepared,
        Ok(None) => return refused(Some(&context.id), &unknown_tool(context.era)),
        Err(error) if context.tasks == TaskUse::Asked => return legacy_tasks::refuse(&context, error),
        Err(error) => Prepared::Done(CallResult::error(context.origin(), error)),
    };
    match prepared {
        Prepared::Done(result) => answered(&context.id, &result),
        Prepared::Task(plan_id) => match context.era {
            Era::Legacy => legacy_tasks::begun(&context, plan_id).await,
            Era::Modern => answered(&context.id, &tasks::begun(&context, plan_id).await),
        },
        Prepared::Run(request, shape) => {
            let progress = progress.map(|token| Progress::new(token, request.tasks.len().max(1)));
            running_call::run(context, *request, shape, progress).await
        }
    }
}

/// What a call runs, or its result; `None` when there is no such tool.
async fn prepare(context: &CallContext<'_>, call: ToolCall) -> Result<Option<Prepared>, OrchestratorError> {
    let ToolCall { name, arguments, idempotency_key, .. } = call;
    let key = KeyHeader::of(idempotency_key)?;
    if let Some(tool) = OwnTool::from_name(&name) {
        return own_tools::prepare(context, tool, arguments, key).await.map(Some);
    }
    let actions = list_of_actions(context.gateway, context.scope).await?;
    let Some(Action { agent, action }) = actions.action(&name).cloned() else { return Ok(None) };
    let key = key.key_of(&Operation::new("MCP tools/call"), &(&name, &arguments));
    let task = TaskSpec {
        key: TASK.into(),
        agent,
        action,
        input_json: verbatim(arguments).to_string(),
        ..Default::default()
    };
    let request = PlanAndExecuteRequest {
        tasks: vec![task],
        idempotency_key: key.key,
        idempotency_digest: key.digest,
        ..Default::default()
    };
    Ok(Some(Prepared::Run(Box::new(request), Shape::Action)))
}

fn unknown_tool(era: Era) -> RpcError {
    let message = "there is no tool with the name in `params.name`; tools/list lists the tools, and gateway.mcp_actions says which \
                   actions of agents are among them";
    in_era(RpcError::new(INVALID_PARAMS, message), era)
}

/// An error of the parameters of a request that was understood.
fn in_era(error: RpcError, era: Era) -> RpcError {
    error.with_status(era.status(StatusCode::OK))
}
