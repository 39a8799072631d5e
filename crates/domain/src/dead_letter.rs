//! Dead letters: tasks that failed for good, kept until somebody has decided what becomes of them.
//!
//! ```text
//! open → redriven | discarded
//! ```
//!
//! The task itself stays what it is: a terminal state never changes. A redrive makes a new plan, in which the task is
//! another one.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    agent::AgentName,
    error::OrchestratorError,
    ids::{CorrelationId, PlanId, TaskId},
    limits::{MAX_REASON_BYTES, check_text},
    plan::states,
};

states! {
    /// What has become of a dead letter.
    DeadLetterState {
        /// Nobody has decided yet.
        Open = "open",
        /// Its plan was taken up again by another.
        Redriven = "redriven",
        /// Somebody has decided to do without it.
        Discarded = "discarded",
    }
}

/// A task that failed for good, and what has become of it since.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// Its plan.
    pub plan_id: PlanId,
    /// The task's place in its plan, from 0.
    pub ordinal: usize,
    /// The request that made the plan.
    pub correlation_id: CorrelationId,
    /// The task.
    pub task_id: TaskId,
    /// The task's name inside its plan.
    pub key: String,
    /// Who was to do it.
    pub agent: AgentName,
    /// What was to be done.
    pub action: String,
    /// Why it was not.
    pub error: OrchestratorError,
    /// How often it was tried.
    pub attempts: u32,
    /// When it failed for good.
    pub at: Timestamp,
    /// What has become of it.
    pub state: DeadLetterState,
    /// Who decided that; absent while it is open.
    pub resolution: Option<Resolution>,
}

/// The decision about a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// When.
    pub at: Timestamp,
    /// By which request. There is one token and nobody has a name, so the request is all that can be known of who it was.
    pub by: CorrelationId,
    /// Why, in the words of whoever it was; empty when they gave none.
    pub reason: String,
    /// The plan in which the task is tried again, of a redriven one.
    pub redriven_as: Option<PlanId>,
}

/// Checks a reason that may be left out.
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
    fn a_reason_may_be_long_but_not_endless() {
        assert!(check_reason(&"x".repeat(MAX_REASON_BYTES)).is_ok() && check_reason("").is_ok());
        let error = check_reason(&"ä".repeat(MAX_REASON_BYTES)).unwrap_err();
        assert_eq!(error.details["field"], "reason");
    }
}
