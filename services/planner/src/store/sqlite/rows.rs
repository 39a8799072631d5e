//! Entries as rows. A batch is handed to SQLite as one JSON array per kind of change; the trigger behind the view
//! `journal_batch` (in `migrations/`) turns them into rows. Far cheaper than one statement per row.
//!
//! What happens to the same task, attempt or plan within one batch is merged, so that each row is written once. A quick
//! task is dispatched, started and ended in a single batch, and costs one insert and two updates.

use std::collections::{HashMap, hash_map::Entry as Slot};

use jiff::Timestamp;
use phoenix_domain::{
    OrchestratorError, OrchestratorErrorCode, PlanId,
    plan::{AttemptOutcome, Plan, PlanStatus, TaskStatus},
};
use serde::{Deserialize, Serialize};
use sqlx::SqlitePool;

use super::{
    super::{IdempotencyKey, TaskRef},
    Entry, JournalError,
};

/// Writes one batch and commits: one statement, so that the way to SQLite's thread and back is paid once.
const WRITE_BATCH: &str = "
    INSERT INTO journal_batch (planner, plans, keys, tasks, attempts, attempt_ends, task_changes, plan_changes, events)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";

pub(super) async fn write(pool: &SqlitePool, planner: &str, entries: &[&Entry]) -> Result<(), JournalError> {
    let mut batch = Batch::default();
    entries.iter().for_each(|entry| batch.add(entry));
    let mut query = sqlx::query(WRITE_BATCH).bind(planner.to_owned());
    for column in batch.into_columns() {
        query = query.bind(column);
    }
    match query.execute(pool).await {
        Ok(_) => Ok(()),
        Err(sqlx::Error::Database(error)) if error.message() == "fenced" => Err(JournalError::Fenced),
        Err(error) => Err(error.into()),
    }
}

/// The rows of one batch, by table and kind of change.
#[derive(Debug, Default)]
struct Batch<'a> {
    plans: Rows,
    keys: Rows,
    tasks: Rows,
    events: Rows,
    attempt_ends: Rows,
    attempts: HashMap<(TaskRef, u32), NewAttempt<'a>>,
    task_changes: HashMap<TaskRef, TaskChange>,
    plan_changes: HashMap<PlanId, PlanChange<'a>>,
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
    fn add(&mut self, entry: &'a Entry) {
        match entry {
            Entry::PlanAccepted { plan, key } => self.accept(plan, key.as_ref()),
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
                    Err(error) => (None, Some(error_text(error))),
                };
                let change = self.task_change(*task);
                if !change.status.is_terminal() {
                    (change.status, change.ended_at) = (*status, Some(micros(*at)));
                    (change.output, change.error) = (output, error);
                }
                self.event(*task, "task_ended", *at, &Ended { status: status.as_str() });
            }
            Entry::PlanEnded { plan_id, status, at, result } => {
                let (output, error) = match result {
                    Ok(output) => (Some(output.as_str()), None),
                    Err(error) => (None, Some(error_text(error))),
                };
                let change = PlanChange { status: *status, ended_at: Some(micros(*at)), output, error };
                match self.plan_changes.entry(*plan_id) {
                    Slot::Occupied(known) if known.get().status.is_terminal() => {}
                    Slot::Occupied(mut known) => drop(known.insert(change)),
                    Slot::Vacant(free) => drop(free.insert(change)),
                }
                let data = json(&Ended { status: status.as_str() });
                self.events.push(&(plan_id, (), "plan_ended", micros(*at), data));
            }
        }
    }

    fn accept(&mut self, plan: &Plan, key: Option<&IdempotencyKey>) {
        let at = micros(plan.created_at);
        let Plan { plan_id, correlation_id, kind, status, deadline_at, context, .. } = plan;
        let deadline_at = deadline_at.map(micros);
        self.plans.push(&(plan_id, correlation_id, kind.as_str(), status.as_str(), at, deadline_at, context));
        if let Some(IdempotencyKey { key, digest }) = key {
            self.keys.push(&(key, digest, plan_id, at));
        }
        for (ordinal, task) in plan.tasks.iter().enumerate() {
            self.tasks.push(&(
                plan_id,
                ordinal,
                task.task_id,
                &task.spec.key,
                &task.spec.agent,
                &task.spec.action,
                json(&task.spec.payload),
                json(&task.spec.depends_on),
                task.spec.on_failure,
                task.status.as_str(),
                micros(task.queued_at),
            ));
        }
        let facts = json(&Accepted { correlation_id: correlation_id.to_string(), tasks: plan.tasks.len() });
        self.events.push(&(plan_id, (), "plan_accepted", at, facts));
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
                let (at, outcome, class, message, stderr) = end;
                let TaskRef { plan_id, ordinal } = task;
                self.attempt_ends.push(&(plan_id, ordinal, number, at, outcome, class, message, stderr));
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
        self.events.push(&(task.plan_id, task.ordinal, kind, micros(at), json(facts)));
    }

    /// The batch as the columns of [`WRITE_BATCH`], after the first.
    fn into_columns(self) -> [String; 8] {
        let Self { plans, keys, tasks, events, attempt_ends, attempts, task_changes, plan_changes } = self;
        let (mut new_attempts, mut tasks_changed, mut plans_changed) =
            (Rows::default(), Rows::default(), Rows::default());
        for ((TaskRef { plan_id, ordinal }, number), attempt) in attempts {
            let NewAttempt { started_at, worker, end } = attempt;
            let (at, outcome, class, message, stderr) = match end {
                Some((at, outcome, class, message, stderr)) => {
                    (Some(at), Some(outcome), class, message, stderr)
                }
                None => (None, None, None, None, None),
            };
            new_attempts
                .push(&(plan_id, ordinal, number, started_at, worker, at, outcome, class, message, stderr));
        }
        for (TaskRef { plan_id, ordinal }, change) in task_changes {
            let TaskChange { status, dispatched_at, ended_at, output, error } = change;
            tasks_changed.push(&(plan_id, ordinal, status.as_str(), dispatched_at, ended_at, output, error));
        }
        for (plan_id, PlanChange { status, ended_at, output, error }) in plan_changes {
            plans_changed.push(&(plan_id, status.as_str(), ended_at, output, error));
        }
        [plans, keys, tasks, new_attempts, attempt_ends, tasks_changed, plans_changed, events]
            .map(Rows::into_json)
    }
}

/// A JSON array of rows, each an array of its columns.
#[derive(Debug, Default)]
struct Rows(String);

impl Rows {
    fn push(&mut self, row: &impl Serialize) {
        self.0.push(if self.0.is_empty() { '[' } else { ',' });
        self.0.push_str(&json(row));
    }

    fn into_json(mut self) -> String {
        if self.0.is_empty() {
            self.0.push('[');
        }
        self.0.push(']');
        self.0
    }
}

// The facts of events, as readers of the journal find them.

#[derive(Serialize)]
struct NoFacts {}

#[derive(Serialize)]
struct Accepted {
    correlation_id: String,
    tasks: usize,
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

pub(super) fn micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

/// What is written has string keys and no number that JSON lacks, so it can always be written.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// An error as the journal keeps it.
#[derive(Debug, Serialize, Deserialize)]
struct StoredError {
    code: OrchestratorErrorCode,
    message: String,
    #[serde(default)]
    details: std::collections::BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

fn error_text(error: &OrchestratorError) -> String {
    let OrchestratorError { code, message, details, retry_after } = error.clone();
    let retry_after_ms = retry_after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
    json(&StoredError { code, message, details, retry_after_ms })
}

pub(super) fn read_error(text: &str) -> Result<OrchestratorError, serde_json::Error> {
    let StoredError { code, message, details, retry_after_ms } = serde_json::from_str(text)?;
    let retry_after = retry_after_ms.map(std::time::Duration::from_millis);
    Ok(OrchestratorError { code, message, details, retry_after })
}
