//! Entries that end a plan's tasks when the plan ends without running them.

use jiff::Timestamp;
use phoenix_domain::{
    OrchestratorError, OrchestratorErrorCode, PlanId,
    graph::Graph,
    plan::{AttemptOutcome, Plan, PlanStatus, Task},
};

use crate::{
    plan_run::progress::TaskProgress,
    planning::build::specs_of,
    store::{entry::Entry, takeover::OpenTask, task_ref::TaskRef},
};

/// The status of a plan that ends with this error, or without one.
pub(crate) fn terminal_status(error: Option<&OrchestratorError>) -> PlanStatus {
    match error.map(|error| error.code) {
        None => PlanStatus::Succeeded,
        Some(OrchestratorErrorCode::Cancelled) => PlanStatus::Cancelled,
        Some(_) => PlanStatus::Failed,
    }
}

/// Error of a task that its plan's end cancels.
pub(crate) fn plan_ended_first() -> OrchestratorError {
    OrchestratorError::new(OrchestratorErrorCode::Cancelled, "the plan ended before this task did")
}

/// Cancels every unfinished task of a plan.
pub(crate) fn cancel_tasks(plan: &Plan) -> Vec<Entry> {
    let end = |(ordinal, task)| end_task(plan, ordinal, task, plan_ended_first());
    unfinished(plan).flat_map(end).collect()
}

/// Ends every unfinished task of a plan that its run condemns: tasks that ran or were ready fail with `error`, the others are
/// cancelled.
pub(crate) fn fail_tasks(plan: &Plan, error: &OrchestratorError) -> Vec<Entry> {
    let graph = Graph::of_accepted(&specs_of(plan)).ok();
    let has_ended = |ordinal: &usize| plan.tasks[*ordinal].status.is_terminal();
    let is_ready =
        |ordinal| graph.as_ref().is_none_or(|graph| graph.dependencies(ordinal).iter().all(has_ended));
    let end = |(ordinal, task): (usize, &Task)| {
        let fails = task.dispatched_at.is_some() || is_ready(ordinal);
        end_task(plan, ordinal, task, if fails { error.clone() } else { plan_ended_first() })
    };
    unfinished(plan).flat_map(end).collect()
}

/// As [`close_open_attempts`] and [`fail_tasks`], for a plan that must not be read: tasks that were dispatched fail.
pub(crate) fn fail_unread(plan_id: PlanId, tasks: &[OpenTask], error: &OrchestratorError) -> Vec<Entry> {
    let mut entries = Vec::new();
    for OpenTask { ordinal, is_dispatched, open_attempts } in tasks {
        let task = TaskRef { plan_id, ordinal: *ordinal };
        entries.extend(open_attempts.iter().map(|number| lost_attempt(task, *number)));
        let error = if *is_dispatched { error.clone() } else { plan_ended_first() };
        entries.extend(TaskProgress::default().end(task, &Err(error)));
    }
    entries
}

/// Reason of attempts that ran when their planner stopped.
const PLANNER_STOPPED: &str = "its planner stopped while it ran; another planner took the plan over";

/// Closes attempts that ran when their planner stopped; their outcome is lost.
pub(crate) fn close_open_attempts(plan: &Plan) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (ordinal, task) in plan.tasks.iter().enumerate() {
        for attempt in task.attempts.iter().filter(|attempt| attempt.outcome.is_none()) {
            entries.push(lost_attempt(TaskRef { plan_id: plan.plan_id, ordinal }, attempt.number));
        }
    }
    entries
}

fn lost_attempt(task: TaskRef, number: u32) -> Entry {
    Entry::AttemptEnded {
        task,
        number,
        at: Timestamp::now(),
        outcome: AttemptOutcome::Cancelled { reason: PLANNER_STOPPED.to_owned() },
        retried: true,
    }
}

fn unfinished(plan: &Plan) -> impl Iterator<Item = (usize, &Task)> {
    plan.tasks.iter().enumerate().filter(|(_, task)| !task.status.is_terminal())
}

fn end_task(plan: &Plan, ordinal: usize, task: &Task, error: OrchestratorError) -> Vec<Entry> {
    TaskProgress::of(task).end(TaskRef { plan_id: plan.plan_id, ordinal }, &Err(error))
}
