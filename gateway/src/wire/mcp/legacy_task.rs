//! Tasks of the version 2025-11-25, whose client asks for a task (`params.task` of a call) and for its result.
//!
//! <https://modelcontextprotocol.io/specification/2025-11-25/basic/utilities/tasks>

use jiff::Timestamp;
use phoenix_domain::{PlanId, plan::PlanStatus};
use phoenix_proto::{InvalidField, planner};
use serde::Serialize;

use super::task::{CANCELLED, COMPLETED, POLL_INTERVAL_MS, Seen, WORKING};

/// A task.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LegacyTask {
    task_id: PlanId,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_message: Option<String>,
    created_at: Timestamp,
    last_updated_at: Timestamp,
    /// A plan is kept as long as the journal keeps it.
    ttl: Option<u64>,
    poll_interval: u32,
}

impl LegacyTask {
    /// The task that is this plan.
    ///
    /// # Errors
    /// For a plan that is not valid.
    pub(crate) fn of(plan_id: PlanId, plan: &planner::Plan) -> Result<Self, InvalidField> {
        let Seen { created_at, last_updated_at, status, waits_for } = Seen::of(plan)?;
        let status = match status {
            Some(PlanStatus::Succeeded) => COMPLETED,
            Some(PlanStatus::Failed) => "failed",
            Some(PlanStatus::Cancelled) => CANCELLED,
            Some(PlanStatus::Draft | PlanStatus::Pending | PlanStatus::Running) | None => WORKING,
        };
        let reason = plan.error.as_ref().map(|error| error.message.clone());
        let status_message = reason.or_else(|| waits_for.map(str::to_owned));
        Ok(Self { status, status_message, last_updated_at, ..Self::accepted(plan_id, created_at) })
    }

    /// A task that was accepted at `at`, and about whose plan nothing more is known.
    pub(crate) fn accepted(task_id: PlanId, at: Timestamp) -> Self {
        Self {
            task_id,
            status: WORKING,
            status_message: None,
            created_at: at,
            last_updated_at: at,
            ttl: None,
            poll_interval: POLL_INTERVAL_MS,
        }
    }
}

/// That a task has begun.
#[derive(Debug, Serialize)]
pub(crate) struct Begun {
    /// The task.
    pub(crate) task: LegacyTask,
}

/// One page of tasks.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TaskList {
    /// The tasks.
    pub(crate) tasks: Vec<LegacyTask>,
    /// Names the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_cursor: Option<String>,
}
