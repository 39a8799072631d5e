//! Tasks: calls that outlive their request. Every plan is one, by its id. An extension of the version without a handshake; those of the
//! versions with one are in [`legacy_task`](super::legacy_task).
//!
//! <https://modelcontextprotocol.io/seps/2663-tasks-extension>

use jiff::Timestamp;
use phoenix_domain::{PlanId, plan::PlanStatus};
use phoenix_proto::{InvalidField, planner, required_timestamp, timestamp};
use serde::Serialize;

use super::{
    era::Era,
    result::{COMPLETE, CallResult, ResultMeta},
};

/// Type of a result that is a task which has just begun.
const TASK: &str = "task";

pub(crate) const WORKING: &str = "working";
pub(crate) const COMPLETED: &str = "completed";
pub(crate) const CANCELLED: &str = "cancelled";

/// How often a client should ask for a task.
pub(crate) const POLL_INTERVAL_MS: u32 = 1000;

/// What tasks of every version say about their plan.
pub(crate) struct Seen {
    pub(crate) created_at: Timestamp,
    pub(crate) last_updated_at: Timestamp,
    pub(crate) status: Option<PlanStatus>,
    /// What the plan waits for, if that is a decision.
    pub(crate) waits_for: Option<&'static str>,
}

impl Seen {
    /// # Errors
    /// For a plan that is not valid.
    pub(crate) fn of(plan: &planner::Plan) -> Result<Self, InvalidField> {
        let created_at = required_timestamp("created_at", plan.created_at)?;
        let mut last_updated_at = timestamp("ended_at", plan.ended_at)?.unwrap_or(created_at);
        for task in &plan.tasks {
            last_updated_at =
                last_updated_at.max(timestamp("tasks.ended_at", task.ended_at)?.unwrap_or(created_at));
        }
        let waits = |status| plan.tasks.iter().any(|task| task.status() == status);
        let waits_for = if waits(planner::TaskStatus::AwaitingApproval) {
            Some("waits for an approval")
        } else if waits(planner::TaskStatus::AwaitingBudget) {
            Some("waits for a larger budget")
        } else {
            None
        };
        Ok(Self { created_at, last_updated_at, status: plan.status().into(), waits_for })
    }
}

/// A task, or that it has begun.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Task {
    result_type: &'static str,
    task_id: PlanId,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_message: Option<&'static str>,
    created_at: Timestamp,
    last_updated_at: Timestamp,
    /// A plan is kept as long as the journal keeps it.
    ttl_ms: Option<u64>,
    poll_interval_ms: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<CallResult>,
    #[serde(rename = "_meta")]
    meta: ResultMeta,
}

impl Task {
    /// That a task has begun, which is this plan.
    ///
    /// # Errors
    /// For a plan that is not valid.
    pub(crate) fn begun(plan_id: PlanId, plan: &planner::Plan) -> Result<Self, InvalidField> {
        Ok(Self { result_type: TASK, ..Self::of(plan_id, plan)? })
    }

    /// That a task has begun, about whose plan nothing more is known.
    pub(crate) fn accepted(plan_id: PlanId, at: Timestamp) -> Self {
        Self { result_type: TASK, ..Self::new(plan_id, WORKING, (at, at)) }
    }

    /// The task that is this plan.
    ///
    /// # Errors
    /// For a plan that is not valid.
    pub(crate) fn of(plan_id: PlanId, plan: &planner::Plan) -> Result<Self, InvalidField> {
        let Seen { created_at, last_updated_at, status, waits_for } = Seen::of(plan)?;
        let status = match status {
            Some(PlanStatus::Succeeded | PlanStatus::Failed) => COMPLETED,
            Some(PlanStatus::Cancelled) => CANCELLED,
            Some(PlanStatus::Draft | PlanStatus::Pending | PlanStatus::Running) | None => WORKING,
        };
        Ok(Self { status_message: waits_for, ..Self::new(plan_id, status, (created_at, last_updated_at)) })
    }

    fn new(
        task_id: PlanId,
        status: &'static str,
        (created_at, last_updated_at): (Timestamp, Timestamp),
    ) -> Self {
        Self {
            result_type: COMPLETE,
            task_id,
            status,
            status_message: None,
            created_at,
            last_updated_at,
            ttl_ms: None,
            poll_interval_ms: POLL_INTERVAL_MS,
            result: None,
            meta: ResultMeta::of(Era::Modern),
        }
    }

    /// Whether the task has a result. So has a plan that failed: a failure of a task is one of the protocol.
    pub(crate) fn is_completed(&self) -> bool {
        self.status == COMPLETED
    }

    /// The task with its result.
    pub(crate) fn with_result(self, result: CallResult) -> Self {
        Self { result: Some(result), ..self }
    }
}

/// That a request about a task was taken.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Acknowledged {
    result_type: &'static str,
    #[serde(rename = "_meta")]
    meta: ResultMeta,
}

impl Acknowledged {
    pub(crate) fn new() -> Self {
        Self { result_type: COMPLETE, meta: ResultMeta::of(Era::Modern) }
    }
}
