//! Dead letters: tasks that failed permanently, kept until they are redriven or discarded.
//!
//! ```text
//! open → redriven | discarded
//! ```
//!
//! The task itself does not change, since its state is terminal. A redrive creates a new plan with a new task.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    agent_name::AgentName,
    error::OrchestratorError,
    ids::{CorrelationId, PlanId, TaskId},
    limits::{MAX_REASON_BYTES, check_text},
    states::states,
};

states! {
    /// State of a dead letter.
    DeadLetterState {
        /// Neither redriven nor discarded.
        Open = "open",
        /// Its plan was redriven as a new plan.
        Redriven = "redriven",
        /// An operator has discarded it.
        Discarded = "discarded",
    }
}

/// A task that failed permanently, and its resolution.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// Plan of the task.
    pub plan_id: PlanId,
    /// Index of the task in its plan, from 0.
    pub ordinal: usize,
    /// Correlation id of the request that created the plan.
    pub correlation_id: CorrelationId,
    /// Identifier of the task.
    pub task_id: TaskId,
    /// Key of the task in its plan.
    pub key: String,
    /// Agent of the task.
    pub agent: AgentName,
    /// Action of the task.
    pub action: String,
    /// Error of the last attempt.
    pub error: OrchestratorError,
    /// Number of attempts.
    pub attempts: u32,
    /// When the task failed permanently.
    pub at: Timestamp,
    /// State.
    pub state: DeadLetterState,
    /// Resolution; absent while the state is open.
    pub resolution: Option<Resolution>,
}

/// Resolution of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// When it was resolved.
    pub at: Timestamp,
    /// Correlation id of the request. Callers share one token, so the request is the only known identity.
    pub by: CorrelationId,
    /// Reason given by the caller; empty without one.
    pub reason: String,
    /// New plan of a redriven dead letter.
    pub redriven_as: Option<PlanId>,
}

/// Validates an optional reason.
///
/// # Errors
/// `validation_failed` that names `reason`.
pub fn check_reason(reason: &str) -> Result<(), OrchestratorError> {
    check_text("reason", reason, MAX_REASON_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_found_by_their_names() {
        for &state in DeadLetterState::ALL {
            assert_eq!(DeadLetterState::from_name(state.as_str()), Some(state));
        }
        assert_eq!(DeadLetterState::from_name("dead"), None);
    }

    #[test]
    fn reason_over_the_limit_is_rejected() {
        assert!(check_reason(&"x".repeat(MAX_REASON_BYTES)).is_ok() && check_reason("").is_ok());
        let error = check_reason(&"ä".repeat(MAX_REASON_BYTES)).unwrap_err();
        assert_eq!(error.details["field"], "reason");
    }
}
