//! What happened, merged: a batch of entries as rows, each of which is written once, however often it changed in the
//! batch. A chat that was accepted and answered within one batch is inserted as it ended.

use std::collections::{HashMap, hash_map::Entry as Slot};

use jiff::Timestamp;
use phoenix_domain::{
    CorrelationId, PlanId, SweepId,
    plan::{AttemptOutcome, Plan, PlanStatus, Task, TaskStatus},
};
use serde::Serialize;

use super::{
    super::TaskRef,
    Entry,
    rows::{Row, Rows, json, micros, row},
};

/// The rows of one batch, by table and kind of change.
#[derive(Debug, Default)]
pub(super) struct Batch<'a> {
    /// With the planner that accepted each.
    plans: HashMap<PlanId, (&'a str, &'a Plan)>,
    tasks: Vec<(TaskRef, &'a Task)>,
    attempts: HashMap<(TaskRef, u32), NewAttempt<'a>>,
    attempt_ends: Vec<Row>,
    task_changes: HashMap<TaskRef, TaskChange>,
    plan_changes: HashMap<PlanId, PlanChange<'a>>,
    dead_letters: Vec<Row>,
    redrives: Vec<Row>,
    /// Of each plan, as JSON.
    events: HashMap<PlanId, Events>,
}

/// Events as the beginning of a JSON array.
#[derive(Debug, Default)]
struct Events {
    count: i64,
    json: String,
}

/// An attempt that began in this batch, and may have ended in it.
#[derive(Debug)]
struct NewAttempt<'a> {
    started_at: i64,
    worker: &'a str,
    end: Option<AttemptEnd<'a>>,
}

/// Ended at, outcome, error class, message, the end of stderr.
type AttemptEnd<'a> = (i64, &'a str, Option<&'a str>, Option<&'a str>, Option<&'a str>);

/// What becomes of a task in this batch.
#[derive(Debug)]
struct TaskChange {
    status: TaskStatus,
    dispatched_at: Option<i64>,
    ended_at: Option<i64>,
    output: Option<String>,
    error: Option<String>,
}

/// What becomes of a plan in this batch.
#[derive(Debug)]
struct PlanChange<'a> {
    status: PlanStatus,
    ended_at: Option<i64>,
    output: Option<&'a str>,
    error: Option<String>,
}

impl<'a> Batch<'a> {
    /// Adds what `planner` wrote.
    pub(super) fn add(&mut self, planner: &'a str, entry: &'a Entry) {
        match entry {
            Entry::PlanAccepted { plan } => self.accept(planner, plan),
            Entry::PlanRedriven { plan_id, redriven_as, at, by, reason, sweep } => {
                self.redrives.push(row![*plan_id, micros(*at), *by, reason.as_str()]);
                let (plan, sweep_id) = (*redriven_as, *sweep);
                let facts = Redriven { plan_id: plan, correlation_id: *by, reason, sweep_id };
                self.event_of_plan(*plan_id, None, "plan_redriven", *at, &facts);
            }
            // Written together with the log, beside it.
            Entry::KeyUsed { .. } | Entry::SweepBegun { .. } | Entry::SweepEnded { .. } => {}
            Entry::TaskDispatched { task, at } => {
                self.step(*task, TaskStatus::Dispatched, micros(*at));
                self.event(*task, "task_dispatched", *at, &NoFacts {});
            }
            Entry::AttemptStarted { task, number, at, worker } => {
                let attempt = NewAttempt { started_at: micros(*at), worker, end: None };
                self.attempts.insert((*task, *number), attempt);
                self.step(*task, TaskStatus::InProgress, micros(*at));
                self.event(*task, "attempt_started", *at, &AttemptStarted { attempt: *number, worker });
            }
            Entry::AttemptEnded { task, number, at, outcome, retried } => {
                self.end_attempt(*task, *number, *at, outcome, *retried);
            }
            Entry::TaskEnded { task, status, at, result } => {
                let (output, error) = match result {
                    Ok(output) => (Some(json(output)), None),
                    Err(error) => (None, Some(json(error))),
                };
                let change = self.task_change(*task);
                if !change.status.is_terminal() {
                    (change.status, change.ended_at) = (*status, Some(micros(*at)));
                    (change.output, change.error) = (output, error);
                }
                if *status == TaskStatus::DeadLettered {
                    self.dead_letters.push(row![task.plan_id, task.ordinal]);
                }
                self.event(*task, "task_ended", *at, &Ended { status: status.as_str() });
            }
            Entry::PlanEnded { plan_id, status, at, result } => {
                let (output, error) = match result {
                    Ok(output) => (Some(output.as_str()), None),
                    Err(error) => (None, Some(json(error))),
                };
                let change = PlanChange { status: *status, ended_at: Some(micros(*at)), output, error };
                match self.plan_changes.entry(*plan_id) {
                    Slot::Occupied(known) if known.get().status.is_terminal() => {}
                    Slot::Occupied(mut known) => drop(known.insert(change)),
                    Slot::Vacant(free) => drop(free.insert(change)),
                }
                self.event_of_plan(*plan_id, None, "plan_ended", *at, &Ended { status: status.as_str() });
            }
        }
    }

    fn accept(&mut self, planner: &'a str, plan: &'a Plan) {
        let Plan { plan_id, correlation_id, created_at, tasks, .. } = plan;
        self.plans.insert(*plan_id, (planner, plan));
        let task_ref = |ordinal| TaskRef { plan_id: *plan_id, ordinal };
        self.tasks.extend(tasks.iter().enumerate().map(|(ordinal, task)| (task_ref(ordinal), task)));
        let (tasks, redrive_of) = (tasks.len(), plan.redrive_of);
        let facts = Accepted { correlation_id: *correlation_id, tasks, redrive_of };
        self.event_of_plan(*plan_id, None, "plan_accepted", *created_at, &facts);
    }

    fn end_attempt(
        &mut self,
        task: TaskRef,
        number: u32,
        at: Timestamp,
        outcome: &'a AttemptOutcome,
        retried: bool,
    ) {
        let (class, message, stderr) = match outcome {
            AttemptOutcome::Failed { class, message, stderr_tail } => {
                (Some(class.as_str()), Some(message.as_str()), Some(stderr_tail.as_str()))
            }
            AttemptOutcome::Succeeded | AttemptOutcome::Cancelled => (None, None, None),
        };
        let name = outcome.as_str();
        let end = (micros(at), name, class, message, stderr);
        match self.attempts.get_mut(&(task, number)) {
            Some(attempt) => drop(attempt.end.get_or_insert(end)),
            None => {
                let TaskRef { plan_id, ordinal } = task;
                self.attempt_ends.push(row![
                    plan_id,
                    ordinal,
                    number,
                    micros(at),
                    name,
                    class,
                    message,
                    stderr
                ]);
            }
        }
        if retried {
            self.step(task, TaskStatus::Retried, micros(at));
        }
        let facts = AttemptEnded { attempt: number, outcome: name, error_class: class, retried };
        self.event(task, "attempt_ended", at, &facts);
    }

    /// A task goes on; with its first step it is dispatched, and its plan runs.
    fn step(&mut self, task: TaskRef, status: TaskStatus, at: i64) {
        let change = self.task_change(task);
        if !change.status.is_terminal() {
            change.status = status;
            change.dispatched_at.get_or_insert(at);
        }
        let runs = PlanChange { status: PlanStatus::Running, ended_at: None, output: None, error: None };
        self.plan_changes.entry(task.plan_id).or_insert(runs);
    }

    fn task_change(&mut self, task: TaskRef) -> &mut TaskChange {
        self.task_changes.entry(task).or_insert(TaskChange {
            status: TaskStatus::Queued,
            dispatched_at: None,
            ended_at: None,
            output: None,
            error: None,
        })
    }

    fn event(&mut self, task: TaskRef, kind: &str, at: Timestamp, facts: &impl Serialize) {
        self.event_of_plan(task.plan_id, Some(task.ordinal), kind, at, facts);
    }

    fn event_of_plan(
        &mut self,
        plan_id: PlanId,
        ordinal: Option<usize>,
        kind: &str,
        at: Timestamp,
        facts: &impl Serialize,
    ) {
        let Events { count, json: text } = self.events.entry(plan_id).or_default();
        text.push(if *count == 0 { '[' } else { ',' });
        text.push_str(&json(&(ordinal, kind, micros(at), facts)));
        *count += 1;
    }

    /// The rows to write; events get the positions after `position`, those of a plan in the order in which they happened.
    pub(super) fn into_rows(self, position: i64) -> Rows {
        let Self {
            plans,
            tasks,
            attempts,
            attempt_ends,
            mut task_changes,
            mut plan_changes,
            dead_letters,
            redrives,
            events,
        } = self;
        let mut event_count = 0;
        let event = |(plan_id, Events { count, json: mut text })| {
            text.push(']');
            let first = position + 1 + event_count;
            event_count += count;
            row![plan_id, first, text]
        };
        let events = events.into_iter().map(event).collect();
        let plan =
            |(planner, plan): &(&str, &Plan)| plan_row(planner, plan, plan_changes.remove(&plan.plan_id));
        let plans = plans.values().map(plan).collect();
        let task = |(task_ref, task)| task_row(task_ref, task, task_changes.remove(&task_ref));
        let tasks = tasks.into_iter().map(task).collect();
        let attempt = |((TaskRef { plan_id, ordinal }, number), attempt)| {
            let NewAttempt { started_at, worker, end } = attempt;
            let (at, outcome) = end.map(|(at, outcome, ..)| (at, outcome)).unzip();
            let (class, message, stderr) =
                end.map_or((None, None, None), |(_, _, class, message, stderr)| (class, message, stderr));
            row![plan_id, ordinal, number, started_at, worker, at, outcome, class, message, stderr]
        };
        let change = |(TaskRef { plan_id, ordinal }, change)| {
            let TaskChange { status, dispatched_at, ended_at, output, error } = change;
            row![plan_id, ordinal, status.as_str(), dispatched_at, ended_at, output, error]
        };
        let plan_change = |(plan_id, change)| {
            let PlanChange { status, ended_at, output, error } = change;
            row![plan_id, status.as_str(), ended_at, output, error]
        };
        Rows {
            plans,
            tasks,
            attempts: attempts.into_iter().map(attempt).collect(),
            attempt_ends,
            task_changes: task_changes.into_iter().map(change).collect(),
            plan_changes: plan_changes.into_iter().map(plan_change).collect(),
            dead_letters,
            redrives,
            events,
            event_count,
        }
    }
}

/// A plan as it is after `change`.
fn plan_row(planner: &str, plan: &Plan, change: Option<PlanChange<'_>>) -> Row {
    let Plan { plan_id, correlation_id, kind, status, created_at, deadline_at, context, redrive_of, .. } =
        plan;
    let unchanged = PlanChange { status: *status, ended_at: None, output: None, error: None };
    let PlanChange { status, ended_at, output, error } = change.unwrap_or(unchanged);
    row![
        *plan_id,
        *correlation_id,
        kind.as_str(),
        status.as_str(),
        planner,
        micros(*created_at),
        deadline_at.map(micros),
        context.as_str(),
        ended_at,
        output,
        error,
        *redrive_of
    ]
}

/// A task as it is after `change`.
fn task_row(task_ref: TaskRef, task: &Task, change: Option<TaskChange>) -> Row {
    let Task { task_id, spec, status, queued_at, .. } = task;
    let unchanged =
        TaskChange { status: *status, dispatched_at: None, ended_at: None, output: None, error: None };
    let TaskChange { status, dispatched_at, ended_at, output, error } = change.unwrap_or(unchanged);
    row![
        task_ref.plan_id,
        task_ref.ordinal,
        *task_id,
        spec.key.as_str(),
        spec.agent.as_str(),
        spec.action.as_str(),
        json(&spec.payload),
        json(&spec.depends_on),
        spec.on_failure.as_str(),
        status.as_str(),
        micros(*queued_at),
        dispatched_at,
        ended_at,
        output,
        error
    ]
}

// The facts of events, as readers of the journal find them.

#[derive(Serialize)]
struct NoFacts {}

#[derive(Serialize)]
struct Accepted {
    correlation_id: CorrelationId,
    tasks: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    redrive_of: Option<PlanId>,
}

#[derive(Serialize)]
struct Redriven<'a> {
    plan_id: PlanId,
    correlation_id: CorrelationId,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sweep_id: Option<SweepId>,
}

#[derive(Serialize)]
struct AttemptStarted<'a> {
    attempt: u32,
    worker: &'a str,
}

#[derive(Serialize)]
struct AttemptEnded<'a> {
    attempt: u32,
    outcome: &'a str,
    error_class: Option<&'a str>,
    retried: bool,
}

#[derive(Serialize)]
struct Ended<'a> {
    status: &'a str,
}
