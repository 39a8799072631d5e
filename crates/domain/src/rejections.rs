//! Refusals in one place, for the service that gives them and for the document that shows them.

use std::time::Duration;

use crate::{
    agent::AgentName,
    error::{OrchestratorError, OrchestratorErrorCode as Code},
    ids::PlanId,
    plan::PlanStatus,
};

/// The detail of an error that answers an idempotency key again: the request that was answered first.
pub const REPLAY_OF: &str = "replay_of";

/// There is no plan of this name.
#[must_use]
pub fn no_such_plan(plan_id: PlanId) -> OrchestratorError {
    OrchestratorError::new(Code::NotFound, format!("there is no plan {plan_id}"))
}

/// A plan in this state can't be cancelled any more.
#[must_use]
pub fn plan_has_ended(status: PlanStatus) -> OrchestratorError {
    OrchestratorError::new(Code::Conflict, format!("the plan has ended already: {status}"))
}

/// A plan in this state can't be redriven yet.
#[must_use]
pub fn plan_has_not_ended(status: PlanStatus) -> OrchestratorError {
    OrchestratorError::new(Code::Conflict, format!("the plan has not ended yet: it is {status}"))
}

/// The first request with an idempotency key is not done.
#[must_use]
pub fn key_in_use() -> OrchestratorError {
    let message = "a request with this idempotency key is still running; ask again shortly";
    OrchestratorError::new(Code::Conflict, message).with_retry_after(Duration::from_secs(1))
}

/// An idempotency key belongs to another request.
#[must_use]
pub fn key_used_otherwise() -> OrchestratorError {
    let message = "the idempotency key was used before, for a different request; send a new key";
    OrchestratorError::new(Code::IdempotencyMismatch, message).with_detail("field", "Idempotency-Key")
}

/// As many plans are in flight as there may be.
#[must_use]
pub fn too_many_plans(max: u32, retry_after: Duration) -> OrchestratorError {
    OrchestratorError::new(Code::Overloaded, format!("{max} plans are in flight; try again shortly"))
        .with_detail("in_flight", max)
        .with_retry_after(retry_after)
}

/// An agent failed for good, after so many attempts. `deed` is what it did the last time, as the rest of a sentence.
#[must_use]
pub fn agent_failed(agent: &AgentName, attempts: u32, deed: &str) -> OrchestratorError {
    OrchestratorError::new(Code::ExecutionFailed, agent_failure(agent, attempts, deed))
        .with_detail("agent", agent)
        .with_detail("attempts", attempts)
}

/// The same in a sentence, whatever the error's code.
#[must_use]
pub fn agent_failure(agent: &AgentName, attempts: u32, deed: &str) -> String {
    if attempts > 1 {
        format!("agent `{agent}` failed {attempts} times; the last time it {deed}")
    } else {
        format!("agent `{agent}` {deed}")
    }
}
