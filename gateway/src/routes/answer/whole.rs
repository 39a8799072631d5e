//! An answer in one piece.

use phoenix_domain::OrchestratorError;

use super::plans::{self, AnswerCall};
use crate::{
    clients::Gateway, planner_client::PlannerClient, request_scope::RequestScope, wire::answer::Answer,
};

/// Runs the plan of `call` to its end.
///
/// # Errors
/// What prevents the plan from being accepted, and what fails it.
pub(crate) async fn whole(
    gateway: &Gateway,
    scope: &RequestScope,
    call: AnswerCall,
) -> Result<Answer, OrchestratorError> {
    let (plan_id, response) = plans::run((gateway, scope), call, async |gateway, scope, plan| {
        PlannerClient::new(gateway, scope).run(plan).await
    })
    .await?;
    Ok(Answer::of(plan_id, response))
}
