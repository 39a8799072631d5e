//! Errors of tasks that end without an attempt's verdict.

use std::time::Duration;

use phoenix_domain::{
    AgentName, AgentSpec, OrchestratorError, OrchestratorErrorCode, rejections::call_was_replaced,
};

use crate::running::CancelReason;

/// Wait that a rejected caller is asked for.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The agent's queue is full.
pub(super) fn overloaded(spec: &AgentSpec) -> OrchestratorError {
    let AgentSpec { name, max_queue, .. } = spec;
    let running = spec.concurrency();
    let seconds = RETRY_AFTER.as_secs();
    OrchestratorError::new(
        OrchestratorErrorCode::Overloaded,
        format!(
            "agent `{name}` is at capacity ({running} running, {max_queue} queued); retry after {seconds} s"
        ),
    )
    .with_detail("agent", name)
    .with_retry_after(RETRY_AFTER)
}

/// The task was cancelled after `attempts` attempts.
pub(super) fn cancelled(agent: &AgentName, attempts: u32, reason: CancelReason) -> OrchestratorError {
    let message = match reason {
        CancelReason::Superseded => return call_was_replaced(agent, attempts),
        CancelReason::CallerLeft => "the task was cancelled: its caller left",
        CancelReason::Requested => "the task was cancelled",
        CancelReason::Stopping => "the executor is shutting down; retry after 1 s",
    };
    let code = match reason {
        CancelReason::Stopping => OrchestratorErrorCode::Unavailable,
        _ => OrchestratorErrorCode::Cancelled,
    };
    let error =
        OrchestratorError::new(code, message).with_detail("agent", agent).with_detail("attempts", attempts);
    match reason {
        CancelReason::Stopping => error.with_retry_after(RETRY_AFTER),
        _ => error,
    }
}

/// The caller's deadline passed before the first attempt.
pub(super) fn deadline_exceeded(agent: &AgentName, attempts: u32) -> OrchestratorError {
    let message = format!("the request's deadline passed before agent `{agent}` could make its next attempt");
    OrchestratorError::new(OrchestratorErrorCode::Timeout, message)
        .with_detail("agent", agent)
        .with_detail("attempts", attempts)
}
