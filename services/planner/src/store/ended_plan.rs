//! A plan that has just ended, from the commits that hold all of it: its caller gets it without a read of the tables, which the
//! commits are not applied to yet.

use std::sync::Arc;

use jiff::Timestamp;
use phoenix_domain::{
    PlanId,
    budget::Limits,
    plan::{Attempt, AttemptOutcome, Plan, PlanStatus, TaskStatus},
};

use super::{entry::Entry, projection::Commit, stored::value};

/// The plan `plan_id` as the tables will have it. `commits` are numbered, the oldest first. None when they may not hold all of the plan,
/// or when it is none of a few tasks that have simply succeeded.
pub(super) fn ended_plan(commits: &[(i64, Arc<Commit>)], plan_id: PlanId) -> Option<Plan> {
    let mut found: Option<Plan> = None;
    let mut before: Option<i64> = None;
    for (number, commit) in commits {
        // What is missing may have entries of the plan.
        if before.replace(*number).is_some_and(|before| before + 1 != *number) && found.is_some() {
            return None;
        }
        for entry in commit.entries().filter(|entry| entry.plan_id() == Some(plan_id)) {
            match (entry, &mut found) {
                (Entry::PlanAccepted { plan, .. }, None) => found = Some(accepted(plan)?),
                (Entry::PlanEnded { status: PlanStatus::Succeeded, at, result: Ok(()), .. }, Some(plan)) => {
                    (plan.status, plan.ended_at) = (PlanStatus::Succeeded, Some(stored(*at)?));
                    let is_whole = plan.tasks.iter().all(|task| task.status == TaskStatus::Succeeded);
                    plan.output = plan.last_output();
                    return found.filter(|_| is_whole);
                }
                (entry, Some(plan)) => add(plan, entry)?,
                (_, None) => return None,
            }
        }
    }
    None
}

/// A plan as it was accepted, if it is a simple one.
fn accepted(plan: &Plan) -> Option<Plan> {
    let is_simple = !plan.kind.is_planned()
        && plan.budget == Limits::NONE
        && plan.tasks.iter().all(|task| task.spec.start.is_empty() && task.status == TaskStatus::Queued);
    let mut plan = is_simple.then(|| plan.clone())?;
    plan.created_at = stored(plan.created_at)?;
    if let Some(deadline) = &mut plan.deadline_at {
        *deadline = stored(*deadline)?;
    }
    for task in &mut plan.tasks {
        task.queued_at = stored(task.queued_at)?;
    }
    Some(plan)
}

/// Adds a step to a plan. None for a step of a plan that is not simple.
fn add(plan: &mut Plan, entry: &Entry) -> Option<()> {
    match entry {
        Entry::TaskDispatched { task, at } => {
            plan.tasks.get_mut(task.ordinal)?.dispatched_at.get_or_insert(stored(*at)?);
        }
        Entry::AttemptStarted { task, number, at, worker } => {
            let (task, started_at) = (plan.tasks.get_mut(task.ordinal)?, stored(*at)?);
            task.dispatched_at.get_or_insert(started_at);
            let is_next = task.attempts.last().is_none_or(|last| last.number < *number);
            let (number, worker) = (*number, worker.clone());
            let attempt = Attempt { number, started_at, ended_at: None, outcome: None, worker };
            is_next.then(|| task.attempts.push(attempt))?;
        }
        Entry::AttemptEnded { task, number, at, outcome: AttemptOutcome::Succeeded, .. } => {
            let attempts = &mut plan.tasks.get_mut(task.ordinal)?.attempts;
            let attempt =
                attempts.iter_mut().find(|known| known.number == *number && known.ended_at.is_none())?;
            (attempt.ended_at, attempt.outcome) = (Some(stored(*at)?), Some(AttemptOutcome::Succeeded));
        }
        Entry::TaskEnded { task, status: TaskStatus::Succeeded, at, result: Ok(output) } => {
            let task = plan.tasks.get_mut(task.ordinal)?;
            let is_first = task.status != TaskStatus::Succeeded;
            let has_ended = task.attempts.iter().all(|attempt| attempt.ended_at.is_some());
            (task.status, task.ended_at) = (TaskStatus::Succeeded, Some(stored(*at)?));
            task.output = Some(output.clone());
            (is_first && has_ended).then_some(())?;
        }
        // It is an event only.
        Entry::TaskOutput { .. } => {}
        _ => return None,
    }
    Some(())
}

/// A time as it is stored.
fn stored(time: Timestamp) -> Option<Timestamp> {
    value::time(value::micros(time)).ok()
}
