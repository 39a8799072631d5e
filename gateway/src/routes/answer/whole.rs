//! An answer in one piece.

use phoenix_domain::OrchestratorError;

use super::plans;
use crate::{
    clients::Gateway,
    delivery::IdempotencyKey,
    planner_client::PlannerClient,
    request_scope::RequestScope,
    wire::{answer::Answer, model_request::ModelRequest},
};

/// Runs the plan of `request` to its end.
///
/// # Errors
/// What prevents the plan from being accepted, and what fails it.
pub(crate) async fn whole(
    gateway: &Gateway,
    scope: &RequestScope,
    request: ModelRequest,
    key: IdempotencyKey,
) -> Result<Answer, OrchestratorError> {
    let (plan_id, response) = plans::run((gateway, scope), request, key, async |gateway, scope, plan| {
        PlannerClient::new(gateway, scope).run(plan).await
    })
    .await?;
    Ok(Answer::of(plan_id, response))
}
