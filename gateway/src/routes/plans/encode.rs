//! Plans as response bodies.

use jiff::Timestamp;
use phoenix_domain::OrchestratorError;
use phoenix_proto::planner::Plan;

use crate::{
    plan_stream::has_ended,
    planner_client::{PlannerClient, unexpected_response},
    wire::plan::PlanV1,
};

/// The body of a plan as it is now.
pub(super) fn encode(plan: Plan) -> Result<PlanV1, OrchestratorError> {
    PlanV1::at(Timestamp::now(), plan).map_err(|_| unexpected_response())
}

/// The body of a plan as it was when it ended: a replayed response is the same after the plan was redriven.
pub(super) fn encode_ended(plan: Plan) -> Result<PlanV1, OrchestratorError> {
    encode(Plan { redriven_as: None, ..plan })
}

/// The plan that `error` belongs to, if the plan has ended: the plan itself has the error then.
///
/// # Errors
/// `error`, when it belongs to no plan that has ended.
pub(super) async fn ended_plan(
    planner: &PlannerClient,
    error: OrchestratorError,
) -> Result<Plan, OrchestratorError> {
    let Some(plan_id) = error.details.get("plan_id").and_then(|id| id.parse().ok()) else {
        return Err(error);
    };
    match planner.get(plan_id).await {
        Ok(plan) if has_ended(&plan) => Ok(plan),
        _ => Err(error),
    }
}
