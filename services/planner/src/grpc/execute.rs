//! `ExecutePlan`: decode, open the plan's stream, encode its steps.

use std::pin::Pin;

use futures_util::{Stream, stream};
use phoenix_domain::OrchestratorError;
use phoenix_platform::RequestContext;
use phoenix_proto::{
    id,
    planner::{
        ExecutePlanRequest, ExecutePlanResponse, PlanAccepted, PlanResult, ResumeExecution,
        execute_plan_request::Subject, execute_plan_response::Step, plan_result::Outcome,
    },
    required, status_from_error,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    decode::plan_request,
    encode::{encode_event, encode_result, text},
};
use crate::{
    plan_run::active::PlanResult as StoredResult,
    plan_stream::{PlanStep, PlanStream, Resume},
    planning::request::{PlanRequest, WaitMode},
    service::Planner,
};

/// The answer of `ExecutePlan`.
pub(super) type Steps = Pin<Box<dyn Stream<Item = Result<ExecutePlanResponse, Status>> + Send>>;

/// Starts the plan of `request`, or follows the one that it resumes. A stream that does not own its plan ends at `shutdown`.
pub(super) async fn open(
    planner: &Planner,
    context: RequestContext,
    request: ExecutePlanRequest,
    shutdown: &CancellationToken,
) -> Result<PlanStream, Status> {
    let ExecutePlanRequest { subject, with_output } = request;
    let stream = match required("subject", subject)? {
        Subject::Plan(request) => {
            let plan = plan_request(request, WaitMode::Sync, context.correlation_id);
            let plan = plan.map_err(|error| status_from_error(&error))?;
            let plan = PlanRequest { with_output, ..plan };
            planner.execute_plan(context, plan, shutdown).await
        }
        Subject::Resume(ResumeExecution { plan_id, after_position, continue_on_disconnect }) => {
            let plan_id = id("plan_id", &plan_id)?;
            let resume = Resume { plan_id, after_position, with_output, continue_on_disconnect };
            planner.resume_execution(context, resume, shutdown).await
        }
    };
    stream.map_err(|error| status_from_error(&error))
}

/// The steps of a plan on the wire. Dropping them drops the plan's stream.
pub(super) fn steps(stream: PlanStream) -> Steps {
    // A state in a box is moved without a copy of it in the future.
    Box::pin(stream::try_unfold(Box::new(stream), |mut stream| async move {
        let step = stream.next().await.map_err(|error| status_from_error(&error))?;
        Ok(step.map(|step| (ExecutePlanResponse { step: Some(encode(step)) }, stream)))
    }))
}

fn encode(step: PlanStep) -> Step {
    match step {
        PlanStep::Accepted { plan_id, replay_of } => {
            Step::Accepted(PlanAccepted { plan_id: plan_id.to_string(), replay_of: text(replay_of) })
        }
        PlanStep::Event(event) => Step::Event(encode_event(event)),
        PlanStep::Result(result) => Step::Result(PlanResult { outcome: Some(outcome(result)) }),
    }
}

fn outcome(result: Result<StoredResult, OrchestratorError>) -> Outcome {
    match result {
        Ok(result) => Outcome::Success(encode_result(result, None)),
        Err(error) => Outcome::Failure(error.into()),
    }
}
