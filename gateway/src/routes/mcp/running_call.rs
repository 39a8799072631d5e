//! A call that runs a plan: its answer, after notifications of progress. A client that closes the response cancels the plan.

use axum::response::{IntoResponse, Response};
use futures_util::stream;
use jiff::Timestamp;
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode, PlanId};
use phoenix_proto::planner::{Plan, PlanAndExecuteRequest, PlanAndExecuteResponse};

use super::{
    context::CallContext,
    messages::{Sent, deliver},
    response::answered,
};
use crate::{
    clients::Gateway,
    plan_stream::{Backoff, PlanItem, has_ended},
    planner_client::{PlannerClient, unexpected_response},
    request_scope::RequestScope,
    routes::{answer::plan_header, followed_plan::FollowedPlan},
    wire::{
        mcp::{
            era::Era,
            message::{self, RequestId},
            progress::Progress,
            result::{CallResult, Origin},
        },
        plan::PlanV1,
    },
};

/// How often the plan of a call that has ended is read.
const READ_TRIES: u32 = 5;

/// What the result of a call shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// The output of a chat.
    Output,
    /// The output of an action, whose input are the arguments.
    Action,
    /// The plan.
    Plan,
}

/// Runs a plan, and responds with its result.
pub(super) async fn run(
    context: CallContext<'_>,
    request: PlanAndExecuteRequest,
    shape: Shape,
    progress: Option<Progress>,
) -> Response {
    let CallContext { gateway, scope, era, id, streams, tasks: _ } = context;
    let ending = Ending { planner: PlannerClient::new(gateway, scope), scope: scope.clone(), era, shape };
    if !streams {
        let result = match ending.planner.run(request).await {
            Ok((plan_id, response)) => ending.result(Some(plan_id), &Ok(response)).await,
            Err(error) => {
                let plan_id = error.details.get("plan_id").and_then(|plan_id| plan_id.parse().ok());
                ending.result(plan_id, &Err(error)).await
            }
        };
        return answered(&id, &result);
    }
    let call = RunningCall::start(gateway, request, progress, (id.clone(), ending)).await;
    let call = match call {
        Ok(call) => call,
        Err((error, ending)) => return answered(&id, &ending.result(None, &Err(error)).await),
    };
    let header = plan_header(call.plan.plan_id());
    let messages = stream::unfold(call, |mut call| async { Some((call.next().await?, call)) });
    (header, deliver(messages).await).into_response()
}

/// A call that runs. Dropping it before its end cancels the plan.
struct RunningCall {
    id: RequestId,
    plan: FollowedPlan,
    ending: Ending,
    progress: Option<Progress>,
    /// Whether the acceptance of the plan still has to be said.
    is_new: bool,
    /// The result of the plan, when it has one.
    result: Option<Result<PlanAndExecuteResponse, OrchestratorError>>,
    is_over: bool,
}

impl RunningCall {
    async fn start(
        gateway: &Gateway,
        request: PlanAndExecuteRequest,
        progress: Option<Progress>,
        (id, ending): (RequestId, Ending),
    ) -> Result<Self, (OrchestratorError, Ending)> {
        let plan = match FollowedPlan::start(gateway, &ending.scope, request).await {
            Ok(plan) => plan,
            Err(error) => return Err((error, ending)),
        };
        let is_new = progress.is_some();
        Ok(Self { id, plan, ending, progress, is_new, result: None, is_over: false })
    }

    /// The next message; `None` after the answer.
    async fn next(&mut self) -> Option<Sent> {
        if self.is_over {
            return None;
        }
        let plan_id = self.plan.plan_id();
        if std::mem::take(&mut self.is_new)
            && let Some(progress) = &self.progress
        {
            return Some(Sent::Notification(progress.accepted(plan_id)));
        }
        while self.result.is_none() {
            let item = self.plan.next().await;
            let notification = match (&item, &mut self.progress) {
                (PlanItem::Event(event), Some(progress)) => progress.event(event),
                (PlanItem::Output(output), Some(progress)) => progress.output(output),
                _ => None,
            };
            match item {
                PlanItem::Result(result) => self.result = Some(result),
                PlanItem::Event(_) | PlanItem::Output(_) => {}
            }
            if let Some(notification) = notification {
                return Some(Sent::Notification(notification));
            }
        }
        let result = self.result.as_ref()?;
        let result = self.ending.result(Some(plan_id), result).await;
        self.is_over = true;
        Some(Sent::Answer(message::answer(&self.id, &result)))
    }
}

/// How a call ends.
struct Ending {
    planner: PlannerClient,
    scope: RequestScope,
    era: Era,
    shape: Shape,
}

impl Ending {
    /// The result of a call whose plan ended like this.
    async fn result(
        &self,
        plan_id: Option<PlanId>,
        result: &Result<PlanAndExecuteResponse, OrchestratorError>,
    ) -> CallResult {
        let origin = Origin { era: self.era, plan_id, correlation_id: self.scope.response_id() };
        match (self.shape, result, plan_id) {
            (Shape::Plan, result, Some(plan_id)) => {
                let error = result.as_ref().err();
                match self.plan(plan_id, error).await {
                    Ok(plan) => CallResult::document(origin, &plan, error.is_some()),
                    Err(error) => CallResult::error(origin, error),
                }
            }
            (_, Ok(response), _) => CallResult::output(origin, response.clone()),
            (Shape::Action, Err(error), _) => CallResult::error(origin, of_arguments(error.clone())),
            (_, Err(error), _) => CallResult::error(origin, error.clone()),
        }
    }

    /// The plan, which has ended with `error` or succeeded.
    async fn plan(
        &self,
        plan_id: PlanId,
        error: Option<&OrchestratorError>,
    ) -> Result<PlanV1, OrchestratorError> {
        let plan = match (read(&self.planner, plan_id).await, error) {
            (Ok(plan), None) => plan,
            (Ok(plan), Some(error)) => {
                if has_ended(&plan) {
                    plan
                } else {
                    return Err(error.clone());
                }
            }
            (Err(_), Some(error)) => return Err(error.clone()),
            (Err(unread), None) => {
                let message = format!(
                    "plan {plan_id} has succeeded, but could not be read; call get_plan: {}",
                    unread.message
                );
                return Err(OrchestratorError { message, ..unread });
            }
        };
        PlanV1::at(Timestamp::now(), plan).map_err(|_| unexpected_response())
    }
}

/// The plan, through a restart of the planner.
///
/// # Errors
/// What keeps the planner from answering.
pub(super) async fn read(planner: &PlannerClient, plan_id: PlanId) -> Result<Plan, OrchestratorError> {
    let mut backoff = Backoff::default();
    for _ in 1..READ_TRIES {
        match planner.get(plan_id).await {
            Err(error) if error.code.is_retryable() => backoff.wait().await,
            plan => return plan,
        }
    }
    planner.get(plan_id).await
}

/// The error of a plan with one task, in the words of its caller, who knows arguments and no tasks.
fn of_arguments(mut error: OrchestratorError) -> OrchestratorError {
    const INPUT: &str = "tasks[0].input";
    if error.code == OrchestratorErrorCode::ValidationFailed && error.message.contains(INPUT) {
        let field = |text: &str| text.replace(&format!("{INPUT}."), "").replace(INPUT, "arguments");
        error.message = field(&error.message);
        if let Some(name) = error.details.get_mut("field") {
            *name = field(name);
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_of_an_input_names_the_argument() {
        let error = |field: &str| of_arguments(OrchestratorError::invalid(field, "is missing"));
        assert_eq!(error("tasks[0].input.paths[1]").message, "`paths[1]` is missing");
        assert_eq!(error("tasks[0].input.paths[1]").details["field"], "paths[1]");
        assert_eq!(error("tasks[0].input").message, "`arguments` is missing");
    }
}
