//! Rows of a projection.

use phoenix_domain::{
    OrchestratorError,
    plan::{AttemptOutcome, Plan, Task},
};

use crate::store::{
    projection::{
        Acceptance, AttemptChanges, PlanChanges, PlanUpdate, Projection, Redrive, TaskChanges, TaskUpdate,
    },
    record::{error_text, output_text},
    sqlite::{
        document::{Document, EndedAttempt, EndedTask},
        rows::{Cell, Row, Rows, json, micros, row},
    },
};

/// The rows of a projection. Events receive the positions after `position`; those of one plan keep their order.
pub(super) fn rows_of(projection: Projection<'_>, position: i64) -> Rows {
    let Projection { plans, redrives, .. } = projection;
    let redrive = |Redrive { plan_id, at, by, reason }| row![plan_id, micros(at), by, reason];
    let mut rows = Rows { redrives: redrives.into_iter().map(redrive).collect(), ..Rows::default() };
    for plan in plans {
        let first = position + 1 + rows.event_count;
        rows.event_count += plan.events.count;
        add_plan(plan, first, &mut rows);
    }
    rows
}

/// Adds the rows of a plan; `first` is the position of its first event.
fn add_plan(plan: PlanChanges<'_>, first: i64, rows: &mut Rows) {
    if let Some(task) = plan.compact_task() {
        rows.compacted_plans.push(plan_row(&plan, Some((first, task.spec.agent.as_str()))));
        let document = json(&document(&plan, task));
        rows.documents.push(row![first, document, plan.events.into_text()]);
        return;
    }
    let PlanChanges { plan_id, ref accepted, ref update, ref tasks, .. } = plan;
    match (accepted, update) {
        (Some(_), _) => rows.plans.push(plan_row(&plan, None)),
        (None, Some(PlanUpdate { status, ended_at, result })) => {
            let (_, error) = parts(*result);
            let (ended_at, error) = (ended_at.map(micros), error.map(error_text));
            rows.plan_updates.push(row![plan_id, status.as_str(), ended_at, error]);
        }
        (None, None) => {}
    }
    add_tasks(&plan, rows);
    for task in tasks {
        rows.attempts.extend(task.attempts.iter().filter_map(|attempt| attempt_row(&plan, task, attempt)));
        let ends = task.attempts.iter().filter_map(|attempt| attempt_end_row(&plan, task, attempt));
        rows.attempt_ends.extend(ends);
        rows.dead_letters.extend(task.dead_lettered.then(|| row![plan_id, task.ordinal]));
    }
    if plan.events.count > 0 {
        rows.events.push(row![plan_id, first, plan.events.into_text()]);
    }
}

/// Adds the new tasks of a plan, and the updates of earlier ones.
fn add_tasks(plan: &PlanChanges<'_>, rows: &mut Rows) {
    let new_tasks = plan.accepted.as_ref().map_or(&[][..], |accepted| &accepted.plan.tasks);
    let mut changes = plan.tasks.iter().peekable();
    for (ordinal, task) in new_tasks.iter().enumerate() {
        let own = changes.next_if(|changes| changes.ordinal == ordinal);
        rows.tasks.push(task_row(plan, ordinal, task, own.and_then(|changes| changes.update.as_ref())));
    }
    for TaskChanges { ordinal, update, .. } in changes {
        if let Some(TaskUpdate { status, dispatched_at, ended_at, result }) = update {
            let (output, error) = parts(*result);
            rows.task_updates.push(row![
                plan.plan_id,
                *ordinal,
                status.as_str(),
                dispatched_at.map(micros),
                ended_at.map(micros),
                output.map(output_text),
                error.map(error_text)
            ]);
        }
    }
}

/// The state of an accepted plan after the batch, with the position of its document and its agent if it is compacted.
fn plan_row(plan: &PlanChanges<'_>, compacted: Option<(i64, &str)>) -> Row {
    let Some(Acceptance { planner, plan: accepted }) = plan.accepted else { return Row::new() };
    let Plan { plan_id, correlation_id, kind, created_at, deadline_at, context, redrive_of, .. } = accepted;
    let update = plan.update.as_ref();
    let (_, error) = parts(update.and_then(|update| update.result));
    let (document, agent) = compacted.unzip();
    row![
        *plan_id,
        *correlation_id,
        kind.as_str(),
        update.map_or(accepted.status, |update| update.status).as_str(),
        planner,
        micros(*created_at),
        deadline_at.map(micros),
        context.as_str(),
        update.and_then(|update| update.ended_at).map(micros),
        error.map(error_text),
        *redrive_of,
        document,
        agent
    ]
}

/// The state of a new task after the batch.
fn task_row(plan: &PlanChanges<'_>, ordinal: usize, task: &Task, update: Option<&TaskUpdate<'_>>) -> Row {
    let Task { task_id, spec, status, queued_at, .. } = task;
    let (output, error) = parts(update.and_then(|update| update.result));
    row![
        plan.plan_id,
        ordinal,
        *task_id,
        spec.key.as_str(),
        spec.agent.as_str(),
        spec.action.as_str(),
        json(&spec.payload),
        json(&spec.depends_on),
        spec.on_failure.as_str(),
        update.map_or(*status, |update| update.status).as_str(),
        micros(*queued_at),
        update.and_then(|update| update.dispatched_at).map(micros),
        update.and_then(|update| update.ended_at).map(micros),
        output.map(output_text),
        error.map(error_text)
    ]
}

/// An attempt that starts in the batch.
fn attempt_row(plan: &PlanChanges<'_>, task: &TaskChanges<'_>, attempt: &AttemptChanges<'_>) -> Option<Row> {
    let (started_at, worker) = attempt.started?;
    let mut row = row![plan.plan_id, task.ordinal, attempt.number, micros(started_at), worker];
    row.extend(end_cells(attempt));
    Some(row)
}

/// The end of an attempt that started in an earlier batch.
fn attempt_end_row(
    plan: &PlanChanges<'_>,
    task: &TaskChanges<'_>,
    attempt: &AttemptChanges<'_>,
) -> Option<Row> {
    if attempt.started.is_some() {
        return None;
    }
    let mut row = row![plan.plan_id, task.ordinal, attempt.number];
    row.extend(end_cells(attempt));
    Some(row)
}

/// The document of a compacted plan.
fn document<'s>(plan: &'s PlanChanges<'_>, task: &'s Task) -> Document<'s> {
    let Task { task_id, spec, status, queued_at, .. } = task;
    let changes = plan.tasks.first();
    let update = changes.and_then(|changes| changes.update.as_ref());
    let (output, error) = parts(update.and_then(|update| update.result));
    let attempt = |attempt: &'s AttemptChanges<'_>| {
        let (started_at, worker) = attempt.started?;
        let AttemptEnd { ended_at, outcome, error_class, message, stderr_tail } = AttemptEnd::of(attempt);
        let (number, started_at) = (attempt.number, micros(started_at));
        Some(EndedAttempt {
            number,
            started_at,
            worker,
            ended_at,
            outcome,
            error_class,
            message,
            stderr_tail,
        })
    };
    Document {
        task: EndedTask {
            task_id: *task_id,
            key: &spec.key,
            agent: spec.agent.as_str(),
            action: &spec.action,
            payload: &spec.payload,
            depends_on: &spec.depends_on,
            on_failure: spec.on_failure.as_str(),
            status: update.map_or(*status, |update| update.status).as_str(),
            queued_at: micros(*queued_at),
            dispatched_at: update.and_then(|update| update.dispatched_at).map(micros),
            ended_at: update.and_then(|update| update.ended_at).map(micros),
            output: output.map(Into::into),
            error: error.map(Into::into),
        },
        attempts: changes.map_or(&[][..], |changes| &changes.attempts).iter().filter_map(attempt).collect(),
    }
}

/// End of an attempt, if it has ended.
#[derive(Default)]
struct AttemptEnd<'a> {
    ended_at: Option<i64>,
    outcome: Option<&'a str>,
    error_class: Option<&'a str>,
    message: Option<&'a str>,
    stderr_tail: Option<&'a str>,
}

impl<'a> AttemptEnd<'a> {
    fn of(attempt: &AttemptChanges<'a>) -> Self {
        let Some((at, outcome)) = attempt.ended else { return Self::default() };
        let ended = Self { ended_at: Some(micros(at)), outcome: Some(outcome.as_str()), ..Self::default() };
        match outcome {
            AttemptOutcome::Failed { class, message, stderr_tail } => Self {
                error_class: Some(class.as_str()),
                message: Some(message),
                stderr_tail: Some(stderr_tail),
                ..ended
            },
            AttemptOutcome::Succeeded | AttemptOutcome::Cancelled => ended,
        }
    }
}

/// Cells of an attempt's end, in the order of the columns.
fn end_cells(attempt: &AttemptChanges<'_>) -> [Cell; 5] {
    let AttemptEnd { ended_at, outcome, error_class, message, stderr_tail } = AttemptEnd::of(attempt);
    [ended_at.into(), outcome.into(), error_class.into(), message.into(), stderr_tail.into()]
}

/// The output and the error of a result.
fn parts<T>(result: Option<&Result<T, OrchestratorError>>) -> (Option<&T>, Option<&OrchestratorError>) {
    match result {
        Some(Ok(output)) => (Some(output), None),
        Some(Err(error)) => (None, Some(error)),
        None => (None, None),
    }
}
