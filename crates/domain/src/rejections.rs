//! Errors of rejected requests, shared by the services that return them and the OpenAPI document that shows them.

use std::time::Duration;

use crate::{
    agent_name::AgentName,
    error::{OrchestratorError, OrchestratorErrorCode as Code},
    ids::PlanId,
    plan::{PlanStatus, TaskStatus},
};

/// Error detail of a replayed response: the correlation id of the original request.
pub const REPLAY_OF: &str = "replay_of";

/// Error detail of a call of a task that a newer call of the same task replaced: the reason of its end.
const REASON: &str = "reason";

const REPLACED: &str = "replaced";

/// Pause of a caller whose call was replaced. The other caller is a planner that this one took the plan from, or that took the
/// plan from this one: within this time, one of them learns that it no longer owns the plan.
pub const REPLACED_RETRY_AFTER: Duration = Duration::from_secs(2);

/// A newer call runs the task, after `attempts` attempts of this one.
#[must_use]
pub fn call_was_replaced(agent: &AgentName, attempts: u32) -> OrchestratorError {
    OrchestratorError::new(Code::Unavailable, "another call of the task replaced this one; try again shortly")
        .with_detail("agent", agent)
        .with_detail("attempts", attempts)
        .with_detail(REASON, REPLACED)
        .with_retry_after(REPLACED_RETRY_AFTER)
}

/// Whether `error` is that of [`call_was_replaced`].
#[must_use]
pub fn is_of_replaced_call(error: &OrchestratorError) -> bool {
    error.details.get(REASON).is_some_and(|reason| reason == REPLACED)
}

/// The agent does not exist, but those of `known` do.
#[must_use]
pub fn no_such_agent<'a>(
    agent: &AgentName,
    known: impl IntoIterator<Item = &'a AgentName>,
) -> OrchestratorError {
    let known: Vec<_> = known.into_iter().map(AgentName::as_str).collect();
    let message = format!("unknown agent `{agent}`; configured agents: {}", known.join(", "));
    OrchestratorError::new(Code::NotFound, message)
        .with_detail("field", "agent_id")
        .with_detail("agent", agent)
}

/// The plan does not exist.
#[must_use]
pub fn no_such_plan(plan_id: PlanId) -> OrchestratorError {
    OrchestratorError::new(Code::NotFound, format!("there is no plan {plan_id}"))
}

/// The plan has ended and cannot be cancelled.
#[must_use]
pub fn plan_has_ended(status: PlanStatus) -> OrchestratorError {
    OrchestratorError::new(Code::Conflict, format!("the plan has ended already: {status}"))
}

/// The plan has not ended and cannot be redriven.
#[must_use]
pub fn plan_has_not_ended(status: PlanStatus) -> OrchestratorError {
    OrchestratorError::new(Code::Conflict, format!("the plan has not ended yet: it is {status}"))
}

/// The task does not wait for an approval.
#[must_use]
pub fn does_not_await_approval(key: &str, status: TaskStatus) -> OrchestratorError {
    let message = format!("task `{key}` does not wait for an approval: it is {status}");
    OrchestratorError::new(Code::Conflict, message).with_detail("key", key)
}

/// The original request with an idempotency key is still running.
#[must_use]
pub fn key_in_use() -> OrchestratorError {
    let message = "a request with this idempotency key is still running; ask again shortly";
    OrchestratorError::new(Code::Conflict, message).with_retry_after(Duration::from_secs(1))
}

/// An idempotency key was used for a different request.
#[must_use]
pub fn key_used_otherwise() -> OrchestratorError {
    let message = "the idempotency key was used before, for a different request; send a new key";
    OrchestratorError::new(Code::IdempotencyMismatch, message).with_detail("field", "Idempotency-Key")
}

/// The limit of plans in flight is reached.
#[must_use]
pub fn too_many_plans(max: u32, retry_after: Duration) -> OrchestratorError {
    OrchestratorError::new(Code::Overloaded, format!("{max} plans are in flight; try again shortly"))
        .with_detail("in_flight", max)
        .with_retry_after(retry_after)
}

/// An agent failed permanently after `attempts` attempts. `description` completes a sentence about the last failure.
#[must_use]
pub fn agent_failed(agent: &AgentName, attempts: u32, description: &str) -> OrchestratorError {
    OrchestratorError::new(Code::ExecutionFailed, agent_failure(agent, attempts, description))
        .with_detail("agent", agent)
        .with_detail("attempts", attempts)
}

/// The message of [`agent_failed`].
#[must_use]
pub fn agent_failure(agent: &AgentName, attempts: u32, description: &str) -> String {
    if attempts > 1 {
        format!("agent `{agent}` failed {attempts} times; the last time it {description}")
    } else {
        format!("agent `{agent}` {description}")
    }
}
