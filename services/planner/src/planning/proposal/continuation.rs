//! Whether a plan continues after its tasks have ended, and what its next round may propose.

use phoenix_domain::{graph::Graph, plan::Plan, planning::PlanningSettings};

use super::{
    answer::says_continue,
    limits::RoundLimits,
    prompt::{CONTINUING_PROMPT, prompt_version},
    rounds::{depth_of, proposed_before, rounds},
};

/// Whether the tasks of the last round have ended and the model wants to be asked what follows from them. What was accepted counts,
/// whatever the settings say now.
pub(crate) fn wants_continuation(plan: &Plan) -> bool {
    let Some(last) = rounds(plan).pop().filter(|round| !round.tasks.is_empty()) else { return false };
    let accepted = &plan.tasks[last.questions.end - 1];
    may_continue(plan) && accepted.output.as_ref().is_some_and(|output| says_continue(&output.data))
}

/// Whether the plan began with a question that explains continuations.
fn may_continue(plan: &Plan) -> bool {
    let first = plan.tasks.first().and_then(|question| prompt_version(&question.spec));
    first.as_deref() == Some(CONTINUING_PROMPT)
}

/// The limits of a round of a plan: what the rounds before have left.
pub(super) fn limits_of(plan: &Plan, round: usize, settings: &PlanningSettings) -> RoundLimits {
    let (tasks, rounds) = proposed_before(plan, round);
    let depth = match Graph::of_accepted(&tasks) {
        Ok(graph) => (0..round).map(|round| depth_of(&graph, &rounds, round)).sum(),
        Err(_) => 0,
    };
    let continuations = if may_continue(plan) { settings.max_continuations } else { 0 };
    let left = u32::try_from(round).map_or(0, |round| continuations.saturating_sub(round));
    let first = RoundLimits::first(settings, left);
    RoundLimits {
        tasks: first.tasks.saturating_sub(tasks.len()),
        depth: first.depth.saturating_sub(depth),
        may_answer: round > 0,
        ..first
    }
}
