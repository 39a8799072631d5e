//! An answer that is read later.

use phoenix_domain::{OrchestratorError, PlanId};

use super::plans::{self, AnswerCall};
use crate::{clients::Gateway, planner_client::PlannerClient, request_scope::RequestScope};

/// Submits the plan of `call`.
///
/// # Errors
/// What prevents the plan from being accepted.
pub(crate) async fn submitted(
    gateway: &Gateway,
    scope: &RequestScope,
    call: AnswerCall,
) -> Result<PlanId, OrchestratorError> {
    plans::run((gateway, scope), call, async |gateway, scope, plan| {
        PlannerClient::new(gateway, scope).submit(plan).await
    })
    .await
}
