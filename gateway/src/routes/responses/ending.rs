//! How the plan of a response has ended.

use phoenix_domain::{OrchestratorError, OrchestratorErrorCode, PlanId};
use phoenix_proto::planner::{GetTaskOutputRequest, Plan, PlanStatus};

use crate::{
    decode_error::shorten,
    planner_client::{PlannerClient, unexpected_response},
    wire::answer::Answer,
};

/// How a plan has ended.
pub(super) enum Ending {
    Answer(Box<Answer>),
    Failure(OrchestratorError),
}

/// How the plan of a response has ended, if it has.
///
/// # Errors
/// What keeps the planner from answering.
pub(super) async fn ending(
    planner: &PlannerClient,
    plan_id: PlanId,
    plan: &Plan,
) -> Result<Option<Ending>, OrchestratorError> {
    let Some(task) = plan.tasks.last() else { return Ok(None) };
    Ok(match plan.status() {
        PlanStatus::Succeeded => {
            let request = GetTaskOutputRequest { plan_id: plan.plan_id.clone(), task_key: task.key.clone() };
            let output = planner.task_output(request).await?;
            Some(Ending::Answer(Box::new(Answer::of_output(plan_id, task.agent.clone(), output))))
        }
        PlanStatus::Failed | PlanStatus::Cancelled => {
            let error = plan.error.clone().map_or_else(unexpected_response, OrchestratorError::from);
            Some(Ending::Failure(error))
        }
        _ => None,
    })
}

/// The error of a response that does not exist.
pub(crate) fn no_such_response(id: &str) -> OrchestratorError {
    let message = format!("there is no response `{}`", shorten(id));
    OrchestratorError::new(OrchestratorErrorCode::NotFound, message).with_detail("field", "response_id")
}
