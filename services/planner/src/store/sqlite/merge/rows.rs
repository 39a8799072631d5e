//! The rows that a batch comes to.

use phoenix_domain::{
    OrchestratorError,
    plan::{AttemptOutcome, Plan, Task},
};

use super::{
    super::{
        super::record::{answer_text, error_text},
        document::{Document, EndedAttempt, EndedTask},
        rows::{Cell, Row, Rows, json, micros, row},
    },
    Acceptance, AttemptSteps, Batch, PlanChange, PlanSteps, TaskChange, TaskSteps,
};

impl Batch<'_> {
    /// The rows to write; events get the positions after `position`, those of a plan in the order in which they happened.
    pub(in super::super) fn into_rows(self, position: i64) -> Rows {
        let mut rows = Rows { redrives: self.redrives, ..Rows::default() };
        for plan in self.plans {
            let first = position + 1 + rows.event_count;
            rows.event_count += plan.events.count;
            plan.into_rows(first, &mut rows);
        }
        rows
    }
}

impl PlanSteps<'_> {
    /// Adds the plan's rows; `first` is the position of the first of its events.
    fn into_rows(self, first: i64, rows: &mut Rows) {
        if let Some(task) = self.only_task() {
            rows.whole_plans.push(self.plan_row(Some((first, task.spec.agent.as_str()))));
            rows.documents.push(row![first, json(&self.document(task)), self.events.into_text()]);
            return;
        }
        let Self { plan_id, ref accepted, ref change, ref tasks, .. } = self;
        match (accepted, change) {
            (Some(_), _) => rows.plans.push(self.plan_row(None)),
            (None, Some(PlanChange { status, ended_at, result })) => {
                let (_, error) = parts(*result);
                rows.plan_changes.push(row![plan_id, status.as_str(), *ended_at, error.map(error_text)]);
            }
            (None, None) => {}
        }
        let new_tasks = accepted.as_ref().map_or(&[][..], |accepted| &accepted.plan.tasks);
        let mut steps = tasks.iter().peekable();
        for (ordinal, task) in new_tasks.iter().enumerate() {
            let own = steps.next_if(|steps| steps.ordinal == ordinal);
            rows.tasks.push(self.task_row(ordinal, task, own.and_then(|steps| steps.change.as_ref())));
        }
        for TaskSteps { ordinal, change, .. } in steps {
            if let Some(TaskChange { status, dispatched_at, ended_at, result }) = change {
                let (output, error) = parts(*result);
                let (output, error) = (output.map(answer_text), error.map(error_text));
                rows.task_changes.push(row![
                    plan_id,
                    *ordinal,
                    status.as_str(),
                    *dispatched_at,
                    *ended_at,
                    output,
                    error
                ]);
            }
        }
        for task in tasks {
            rows.attempts.extend(task.attempts.iter().filter_map(|attempt| self.attempt_row(task, attempt)));
            let ends = task.attempts.iter().filter_map(|attempt| self.attempt_end_row(task, attempt));
            rows.attempt_ends.extend(ends);
            rows.dead_letters.extend(task.dead_lettered.then(|| row![plan_id, task.ordinal]));
        }
        if self.events.count > 0 {
            rows.events.push(row![plan_id, first, self.events.into_text()]);
        }
    }

    /// The task of a plan that is kept whole: all there is of it lies in this batch, and nothing will be done about it.
    fn only_task(&self) -> Option<&Task> {
        let ([task], [steps]) = (&self.accepted.as_ref()?.plan.tasks[..], &self.tasks[..]) else {
            return None;
        };
        let task_has_ended = steps.change.as_ref().is_some_and(|change| change.status.is_terminal());
        let is_whole = self.has_ended() && task_has_ended && !steps.dead_lettered;
        (is_whole && steps.attempts.iter().all(|attempt| attempt.began.is_some())).then_some(task)
    }

    /// The plan as it is after this batch, with the position of its document and its agent if it is kept whole.
    fn plan_row(&self, whole: Option<(i64, &str)>) -> Row {
        let Some(Acceptance { planner, plan }) = self.accepted else { return Row::new() };
        let Plan { plan_id, correlation_id, kind, created_at, deadline_at, context, redrive_of, .. } = plan;
        let change = self.change.as_ref();
        let (_, error) = parts(change.and_then(|change| change.result));
        let (document, agent) = whole.unzip();
        row![
            *plan_id,
            *correlation_id,
            kind.as_str(),
            change.map_or(plan.status, |change| change.status).as_str(),
            planner,
            micros(*created_at),
            deadline_at.map(micros),
            context.as_str(),
            change.and_then(|change| change.ended_at),
            error.map(error_text),
            *redrive_of,
            document,
            agent
        ]
    }

    /// A task as it is after this batch.
    fn task_row(&self, ordinal: usize, task: &Task, change: Option<&TaskChange<'_>>) -> Row {
        let Task { task_id, spec, status, queued_at, .. } = task;
        let (output, error) = parts(change.and_then(|change| change.result));
        row![
            self.plan_id,
            ordinal,
            *task_id,
            spec.key.as_str(),
            spec.agent.as_str(),
            spec.action.as_str(),
            json(&spec.payload),
            json(&spec.depends_on),
            spec.on_failure.as_str(),
            change.map_or(*status, |change| change.status).as_str(),
            micros(*queued_at),
            change.and_then(|change| change.dispatched_at),
            change.and_then(|change| change.ended_at),
            output.map(answer_text),
            error.map(error_text)
        ]
    }

    /// An attempt that began in this batch.
    fn attempt_row(&self, task: &TaskSteps<'_>, attempt: &AttemptSteps<'_>) -> Option<Row> {
        let (started_at, worker) = attempt.began?;
        let mut row = row![self.plan_id, task.ordinal, attempt.number, started_at, worker];
        row.extend(end_cells(attempt));
        Some(row)
    }

    /// The end of one that had begun before.
    fn attempt_end_row(&self, task: &TaskSteps<'_>, attempt: &AttemptSteps<'_>) -> Option<Row> {
        if attempt.began.is_some() {
            return None;
        }
        let mut row = row![self.plan_id, task.ordinal, attempt.number];
        row.extend(end_cells(attempt));
        Some(row)
    }

    /// What there is of a plan beside its own row.
    fn document<'s>(&'s self, task: &'s Task) -> Document<'s> {
        let Task { task_id, spec, status, queued_at, .. } = task;
        let steps = self.tasks.first();
        let change = steps.and_then(|steps| steps.change.as_ref());
        let (output, error) = parts(change.and_then(|change| change.result));
        let attempt = |attempt: &'s AttemptSteps<'_>| {
            let (started_at, worker) = attempt.began?;
            let End { ended_at, outcome, error_class, message, stderr_tail } = End::of(attempt);
            let number = attempt.number;
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
                status: change.map_or(*status, |change| change.status).as_str(),
                queued_at: micros(*queued_at),
                dispatched_at: change.and_then(|change| change.dispatched_at),
                ended_at: change.and_then(|change| change.ended_at),
                output: output.map(Into::into),
                error: error.map(Into::into),
            },
            attempts: steps.map_or(&[][..], |steps| &steps.attempts).iter().filter_map(attempt).collect(),
        }
    }
}

/// How an attempt ended, if it has.
#[derive(Default)]
struct End<'a> {
    ended_at: Option<i64>,
    outcome: Option<&'a str>,
    error_class: Option<&'a str>,
    message: Option<&'a str>,
    stderr_tail: Option<&'a str>,
}

impl<'a> End<'a> {
    fn of(attempt: &AttemptSteps<'a>) -> Self {
        let Some((at, outcome)) = attempt.ended else { return Self::default() };
        let ended = Self { ended_at: Some(at), outcome: Some(outcome.as_str()), ..Self::default() };
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

/// In the order of the columns.
fn end_cells(attempt: &AttemptSteps<'_>) -> [Cell; 5] {
    let End { ended_at, outcome, error_class, message, stderr_tail } = End::of(attempt);
    [ended_at.into(), outcome.into(), error_class.into(), message.into(), stderr_tail.into()]
}

/// What came of it, and why nothing did.
fn parts<T>(result: Option<&Result<T, OrchestratorError>>) -> (Option<&T>, Option<&OrchestratorError>) {
    match result {
        Some(Ok(output)) => (Some(output), None),
        Some(Err(error)) => (None, Some(error)),
        None => (None, None),
    }
}
