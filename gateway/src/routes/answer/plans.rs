//! The plans of a request: the one of an agent, and the one of the model with the same name.

use phoenix_domain::OrchestratorError;
use phoenix_proto::{common::Budget, planner::PlanAndExecuteRequest};

use crate::{
    clients::Gateway,
    delivery::IdempotencyKey,
    request_scope::RequestScope,
    wire::model_request::{ModelPlans, ModelRequest, names_unknown_agent, of_model},
};

/// A request of a client of a model's API.
pub(crate) struct AnswerCall {
    /// Who answers, and what.
    pub(crate) request: ModelRequest,
    /// Idempotency key of the request.
    pub(crate) key: IdempotencyKey,
    /// Whether the plan continues when the caller disconnects.
    pub(crate) continues: bool,
    /// Limits of the plan.
    pub(crate) budget: Option<Budget>,
    /// Whether what the agent says before it ends is journaled.
    pub(crate) records_output: bool,
}

/// Runs the first plan of `call` by `run`, and the other one when no agent has the name of the first one's.
///
/// # Errors
/// Those of `run`; an unknown agent is a model that does not exist.
pub(super) async fn run<T>(
    (gateway, scope): (&Gateway, &RequestScope),
    call: AnswerCall,
    run: impl AsyncFn(&Gateway, &RequestScope, PlanAndExecuteRequest) -> Result<T, OrchestratorError>,
) -> Result<T, OrchestratorError> {
    let AnswerCall { request, key, continues, budget, records_output } = call;
    let base = PlanAndExecuteRequest {
        idempotency_key: key.key,
        idempotency_digest: key.digest,
        continue_on_disconnect: continues,
        budget,
        record_output: records_output,
        ..Default::default()
    };
    let name = request.name().to_owned();
    let ModelPlans { first, otherwise } = request.into_plans(&base);
    let result = match (run(gateway, scope, first).await, otherwise) {
        (Err(error), Some(plan)) if names_unknown_agent(&error) => run(gateway, scope, plan).await,
        (result, _) => result,
    };
    result.map_err(|error| of_model(error, &name))
}
