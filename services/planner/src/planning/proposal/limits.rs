//! Limits of a round of a plan: what an answer may propose.

use phoenix_domain::planning::PlanningSettings;

/// What an answer in a round may propose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RoundLimits {
    /// Number of tasks.
    pub(super) tasks: usize,
    /// Number of tasks that depend on each other in a row.
    pub(super) depth: usize,
    /// Whether it may answer the message instead.
    pub(super) may_answer: bool,
    /// How often the model may be asked again after the tasks of this round.
    pub(super) continuations: u32,
}

impl RoundLimits {
    /// The limits of the first round of a plan.
    pub(super) fn first(settings: &PlanningSettings, continuations: u32) -> Self {
        let (tasks, depth) = (settings.task_limit(), settings.max_depth);
        Self { tasks, depth, may_answer: false, continuations }
    }

    /// Whether no task is left.
    pub(super) const fn is_exhausted(&self) -> bool {
        self.tasks == 0 || self.depth == 0
    }

    /// Members of an answer. `tasks` is left out where none may be proposed.
    pub(super) fn members(&self) -> Vec<&'static str> {
        let members = [
            ("answer", self.may_answer),
            ("tasks", !self.is_exhausted()),
            ("continue", self.continuations > 0 && !self.is_exhausted()),
        ];
        members.into_iter().filter(|(_, is_allowed)| *is_allowed).map(|(name, _)| name).collect()
    }
}
