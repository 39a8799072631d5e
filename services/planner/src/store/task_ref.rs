//! Identity of a task.

use phoenix_domain::PlanId;

/// Identity of a task: its plan and its ordinal in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TaskRef {
    /// The plan.
    pub plan_id: PlanId,
    /// Ordinal of the task, from 0.
    pub ordinal: usize,
}
