//! Rows of a projection, as cells.

use phoenix_domain::{
    PlanId,
    approval::ApprovalKind,
    budget::Limits,
    plan::{Plan, Task},
};

use crate::store::{
    changes::{
        AttemptEnd, ChangedAttempt, ChangedPlan, ChangedTask, NewApproval, NewAttempt, NewPlan, NewTask,
        RowChanges,
    },
    projection::{Projection, Redrive},
    record::{budget_text, calls_text, conditions_text, error_text, output_text},
    sqlite::rows::{Cell, Row, Rows, row},
    stored::value::{json, micros},
};

/// The rows of a projection. Events receive the positions after `position`; those of one plan keep their order.
pub(super) fn rows_of(projection: Projection<'_>, position: i64) -> Rows {
    let Projection { plans, redrives, .. } = projection;
    let mut rows = Rows::default();
    let mut changes = RowChanges { redrives, ..RowChanges::default() };
    // Positions of the first events of the plans in `changes`.
    let mut firsts = Vec::new();
    for plan in plans {
        let first = position + 1 + rows.event_count;
        rows.event_count += plan.events.count;
        firsts.extend((plan.events.count > 0).then_some(first));
        changes.add(plan);
    }
    add_changes(changes, firsts, &mut rows);
    rows
}

/// Adds the rows of `changes`; the events of its plans are at `firsts`.
fn add_changes(changes: RowChanges<'_>, firsts: Vec<i64>, rows: &mut Rows) {
    let RowChanges {
        plans,
        tasks,
        attempts,
        attempt_ends,
        task_updates,
        plan_updates,
        plan_budgets,
        approvals,
        dead_letters,
        redrives,
        events,
    } = changes;
    rows.plans.extend(plans.iter().map(plan_row));
    rows.plan_budgets.extend(plans.iter().filter_map(budget_row));
    let new_budget = |(plan_id, limits): &(PlanId, Limits)| Some(row![*plan_id, budget_text(limits)?]);
    rows.plan_budgets.extend(plan_budgets.iter().filter_map(new_budget));
    rows.tasks.extend(tasks.iter().map(task_row));
    rows.task_conditions.extend(tasks.iter().filter_map(conditions_row));
    let (pauses, approvals): (Vec<_>, Vec<_>) =
        approvals.iter().partition(|new| new.approval.kind == ApprovalKind::Budget);
    rows.approvals.extend(approvals.into_iter().map(approval_row));
    rows.pauses.extend(pauses.into_iter().map(approval_row));
    let ends = attempt_ends.iter().map(|ended| (ended.plan_id, ended.ordinal, ended.number, &ended.end));
    let whole =
        attempts.iter().map(|attempt| (attempt.plan_id, attempt.ordinal, attempt.number, &attempt.end));
    let used = whole.chain(ends).filter(|(.., end)| !end.model_calls.is_empty());
    let used = used
        .map(|(plan_id, ordinal, number, end)| row![plan_id, ordinal, number, calls_text(end.model_calls)]);
    rows.attempt_calls.extend(used);
    rows.attempts.extend(attempts.into_iter().map(attempt_row));
    rows.attempt_ends.extend(attempt_ends.into_iter().map(attempt_end_row));
    rows.task_updates.extend(task_updates.iter().map(task_update_row));
    let plan_update = |ChangedPlan { plan_id, status, ended_at, error }| {
        row![plan_id, status, ended_at, error.map(error_text)]
    };
    rows.plan_updates.extend(plan_updates.into_iter().map(plan_update));
    rows.dead_letters.extend(dead_letters.into_iter().map(|(plan_id, ordinal)| row![plan_id, ordinal]));
    let redrive = |Redrive { plan_id, at, by, reason, .. }| row![plan_id, micros(at), by, reason];
    rows.redrives.extend(redrives.into_iter().map(redrive));
    let events = events.into_iter().zip(firsts);
    rows.events.extend(events.map(|((plan_id, events), first)| row![plan_id, first, events.into_text()]));
}

/// The state of an accepted plan after the batch.
fn plan_row(NewPlan { planner, plan, status, ended_at, error, is_applied_early }: &NewPlan<'_>) -> Row {
    let Plan { plan_id, correlation_id, kind, created_at, deadline_at, context, redrive_of, .. } = plan;
    row![
        *plan_id,
        *correlation_id,
        kind.as_str(),
        *status,
        *planner,
        micros(*created_at),
        deadline_at.map(micros),
        context.as_str(),
        *ended_at,
        error.map(error_text),
        *redrive_of,
        is_applied_early.then_some(1_i64)
    ]
}

/// The budget of a new plan, if it has one.
fn budget_row(NewPlan { plan, .. }: &NewPlan<'_>) -> Option<Row> {
    let budget = budget_text(&plan.budget)?;
    Some(row![plan.plan_id, budget])
}

/// The state of a new task after the batch.
fn task_row(NewTask { plan_id, ordinal, task, state }: &NewTask<'_>) -> Row {
    let Task { task_id, spec, queued_at, .. } = task;
    row![
        *plan_id,
        *ordinal,
        *task_id,
        spec.key.as_str(),
        spec.agent.as_str(),
        spec.action.as_str(),
        json(&spec.payload),
        json(&spec.depends_on),
        spec.on_failure.as_str(),
        state.status.as_str(),
        micros(*queued_at),
        state.dispatched_at,
        state.ended_at,
        state.output.map(output_text),
        state.error.map(error_text)
    ]
}

/// The conditions of a new task, if it has any.
fn conditions_row(NewTask { plan_id, ordinal, task, .. }: &NewTask<'_>) -> Option<Row> {
    let conditions = conditions_text(&task.spec.start)?;
    Some(row![*plan_id, *ordinal, conditions])
}

fn approval_row(NewApproval { plan_id, ordinal, approval }: &NewApproval<'_>) -> Row {
    row![
        *plan_id,
        *ordinal,
        micros(approval.requested_at),
        micros(approval.expires_at),
        approval.reason.as_str(),
        approval.approver.as_str(),
        approval.on_expiry.as_str(),
        json(&approval.input),
        approval.input_hash.as_str()
    ]
}

fn task_update_row(ChangedTask { plan_id, ordinal, state }: &ChangedTask<'_>) -> Row {
    row![
        *plan_id,
        *ordinal,
        state.status.as_str(),
        state.dispatched_at,
        state.ended_at,
        state.output.map(output_text),
        state.error.map(error_text)
    ]
}

/// An attempt that starts in the batch.
fn attempt_row(attempt: NewAttempt<'_>) -> Row {
    let NewAttempt { plan_id, ordinal, number, started_at, worker, end, is_of_new_plan } = attempt;
    let mut row = row![i64::from(is_of_new_plan), plan_id, ordinal, number, started_at, worker];
    row.extend(end_cells(end));
    row
}

/// The end of an attempt that started in an earlier batch.
fn attempt_end_row(ChangedAttempt { plan_id, ordinal, number, end }: ChangedAttempt<'_>) -> Row {
    let mut row = row![plan_id, ordinal, number];
    row.extend(end_cells(end));
    row
}

/// Cells of an attempt's end, in the order of the columns.
fn end_cells(
    AttemptEnd { ended_at, outcome, error_class, message, stderr_tail, model_calls: _ }: AttemptEnd<'_>,
) -> [Cell; 5] {
    [ended_at.into(), outcome.into(), error_class.into(), message.into(), stderr_tail.into()]
}
