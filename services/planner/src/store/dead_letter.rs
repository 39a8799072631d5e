//! Queries of dead letters, and bulk operations on them.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use phoenix_domain::{
    AgentName, BulkRedriveId, CorrelationId, FailureClass, OrchestratorErrorCode, PlanId,
    dead_letter::DeadLetterState,
};

use crate::store::task_ref::TaskRef;

/// Filter of dead letters; every given condition must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// Tasks of this agent.
    pub agent: Option<AgentName>,
    /// Tasks that failed with this code.
    pub code: Option<OrchestratorErrorCode>,
    /// Tasks whose last attempt failed with this class.
    pub error_class: Option<FailureClass>,
    /// Tasks of this plan.
    pub plan_id: Option<PlanId>,
    /// Tasks of the plans of this request.
    pub correlation_id: Option<CorrelationId>,
    /// Tasks that were dead-lettered at this time or later.
    pub since: Option<Timestamp>,
}

/// A listing of dead letters, newest first.
#[derive(Debug, Clone)]
pub struct DeadLetterQuery {
    /// Conditions.
    pub filter: DeadLetterFilter,
    /// State of the dead letters.
    pub state: DeadLetterState,
    /// Dead letters older than this one: the cursor of the next page.
    pub before: Option<DeadLetterCursor>,
    /// Maximum number of dead letters.
    pub limit: u32,
}

/// Cursor in the listing of dead letters, which is ordered by time. As text: `MICROSECONDS.PLAN.ORDINAL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadLetterCursor {
    /// When the task was dead-lettered.
    pub at: Timestamp,
    /// The task.
    pub task: TaskRef,
}

/// Text that is not a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be the `next_page_token` of an earlier page")]
pub struct InvalidCursor;

impl fmt::Display for DeadLetterCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, task: TaskRef { plan_id, ordinal } } = self;
        write!(f, "{}.{plan_id}.{ordinal}", at.as_microsecond())
    }
}

impl FromStr for DeadLetterCursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let mut parts = text.split('.');
        let (Some(at), Some(plan_id), Some(ordinal), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidCursor);
        };
        let at = at.parse().ok().and_then(|micros| Timestamp::from_microsecond(micros).ok());
        let plan_id = plan_id.parse().map_err(|_| InvalidCursor)?;
        let ordinal = ordinal.parse().map_err(|_| InvalidCursor)?;
        Ok(Self { at: at.ok_or(InvalidCursor)?, task: TaskRef { plan_id, ordinal } })
    }
}

/// The open dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenDeadLetters {
    /// Number of open dead letters.
    pub count: u64,
    /// When the oldest of them failed.
    pub oldest: Option<Timestamp>,
}

/// A bulk operation on dead letters. The REST API and the stored records call it a sweep.
#[derive(Debug, Clone, PartialEq)]
pub struct BulkOperation {
    /// Identifier of the operation.
    pub sweep_id: BulkRedriveId,
    /// Action on the selected dead letters.
    pub action: BulkAction,
    /// Time of the request.
    pub at: Timestamp,
    /// Correlation id of the request.
    pub by: CorrelationId,
    /// Reason of the request; empty when it gave none.
    pub reason: String,
}

/// Action of a bulk operation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BulkAction {
    /// Redrives the plans, one by one.
    Redrive {
        /// Plans per second.
        rate: f64,
    },
    /// Discards the dead letters at once.
    Discard,
}

impl BulkAction {
    /// Name of the action in the journal.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Redrive { .. } => "redrive",
            Self::Discard => "discard",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_round_trips_through_its_text_form() {
        let task = TaskRef { plan_id: PlanId::generate(), ordinal: 7 };
        let cursor =
            DeadLetterCursor { at: Timestamp::from_microsecond(1_800_000_000_000_001).unwrap(), task };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for bad in ["", "1", "1.2.3", "x.y.z", &format!("{cursor}.1"), &format!("x{cursor}")] {
            assert_eq!(bad.parse::<DeadLetterCursor>(), Err(InvalidCursor), "{bad}");
        }
    }
}
