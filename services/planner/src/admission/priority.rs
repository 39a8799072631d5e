//! Priorities in which permits are given out.

/// Priority of a plan: the order in which this planner accepted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlanPriority(u64);

/// Priority of a task: that of its plan, then its ordinal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(PlanPriority, usize);

impl PlanPriority {
    /// The priority of the plan with this number; lower numbers come first.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The priority of the plan's task `ordinal`.
    #[must_use]
    pub const fn task(self, ordinal: usize) -> Priority {
        Priority(self, ordinal)
    }
}
