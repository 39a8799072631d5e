//! Entries as rows. A batch is handed to SQLite as one JSON array per kind of change; the trigger behind the view
//! `journal_batch` (in `migrations/`) turns them into rows. Far cheaper than one statement per row.

use jiff::Timestamp;
use phoenix_domain::{
    OrchestratorError, OrchestratorErrorCode,
    plan::{AttemptOutcome, Plan},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Entry, IdempotencyKey, TaskRef};

/// The rows of one batch, by table and kind of change: the columns of the view `journal_batch`, which writes them.
#[derive(Debug, Default)]
pub(super) struct Rows {
    plans: Vec<Value>,
    keys: Vec<Value>,
    tasks: Vec<Value>,
    attempts: Vec<Value>,
    task_steps: Vec<Value>,
    attempt_ends: Vec<Value>,
    task_ends: Vec<Value>,
    plan_ends: Vec<Value>,
    events: Vec<Value>,
}

/// Writes one batch, renews the lease and commits: one statement, so that the way to SQLite's thread and back is paid once.
pub(super) const WRITE_BATCH: &str = "
    INSERT INTO journal_batch (instance, lease_until, plans, keys, tasks, attempts, task_steps, attempt_ends, task_ends,
                               plan_ends, events)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

impl Rows {
    /// The batch as the columns of [`WRITE_BATCH`], after the first two.
    pub(super) fn into_columns(self) -> [String; 9] {
        let Self { plans, keys, tasks, attempts, task_steps, attempt_ends, task_ends, plan_ends, events } =
            self;
        [plans, keys, tasks, attempts, task_steps, attempt_ends, task_ends, plan_ends, events]
            .map(|rows| Value::Array(rows).to_string())
    }

    pub(super) fn add(&mut self, entry: &Entry, owner: &str) {
        match entry {
            Entry::PlanAccepted { plan, key } => self.accept(plan, key.as_ref(), owner),
            Entry::TaskDispatched { task, at } => {
                self.task_steps.push(json!([task.plan_id, task.ordinal, "dispatched", micros(*at)]));
                self.event(*task, "task_dispatched", *at, &json!({}));
            }
            Entry::AttemptStarted { task, number, at, worker } => {
                self.attempts.push(json!([task.plan_id, task.ordinal, number, micros(*at), worker]));
                self.task_steps.push(json!([task.plan_id, task.ordinal, "in_progress", micros(*at)]));
                self.event(*task, "attempt_started", *at, &json!({"attempt": number, "worker": worker}));
            }
            Entry::AttemptEnded { task, number, at, outcome, retried } => {
                self.end_attempt(*task, *number, *at, outcome, *retried);
            }
            Entry::TaskEnded { task, status, at, result } => {
                let (output, error) = match result {
                    Ok(output) => (Some(json!(output).to_string()), None),
                    Err(error) => (None, Some(error_text(error))),
                };
                self.task_ends.push(json!([
                    task.plan_id,
                    task.ordinal,
                    status.as_str(),
                    micros(*at),
                    output,
                    error
                ]));
                self.event(*task, "task_ended", *at, &json!({"status": status.as_str()}));
            }
            Entry::PlanEnded { plan_id, status, at, result } => {
                let (output, error) = match result {
                    Ok(output) => (Some(output), None),
                    Err(error) => (None, Some(error_text(error))),
                };
                self.plan_ends.push(json!([plan_id, status.as_str(), micros(*at), output, error]));
                let data = json!({"status": status.as_str()}).to_string();
                self.events.push(json!([plan_id, null, "plan_ended", micros(*at), data]));
            }
        }
    }

    fn accept(&mut self, plan: &Plan, key: Option<&IdempotencyKey>, owner: &str) {
        let at = micros(plan.created_at);
        let plan_id = plan.plan_id;
        self.plans.push(json!([
            plan_id,
            plan.correlation_id,
            plan.kind.as_str(),
            plan.status.as_str(),
            owner,
            at,
            plan.deadline_at.map(micros),
            plan.context,
        ]));
        if let Some(IdempotencyKey { key, digest }) = key {
            self.keys.push(json!([key, digest, plan_id, at]));
        }
        for (ordinal, task) in plan.tasks.iter().enumerate() {
            self.tasks.push(json!([
                plan_id,
                ordinal,
                task.task_id,
                task.spec.key,
                task.spec.agent,
                task.spec.action,
                json!(task.spec.payload).to_string(),
                json!(task.spec.depends_on).to_string(),
                task.spec.on_failure,
                task.status.as_str(),
                micros(task.queued_at),
            ]));
        }
        let data = json!({"correlation_id": plan.correlation_id, "tasks": plan.tasks.len()}).to_string();
        self.events.push(json!([plan_id, null, "plan_accepted", at, data]));
    }

    fn end_attempt(
        &mut self,
        task: TaskRef,
        number: u32,
        at: Timestamp,
        outcome: &AttemptOutcome,
        retried: bool,
    ) {
        let (class, message, stderr) = match outcome {
            AttemptOutcome::Failed { class, message, stderr_tail } => {
                (Some(class.as_str()), Some(message), Some(stderr_tail))
            }
            AttemptOutcome::Succeeded | AttemptOutcome::Cancelled => (None, None, None),
        };
        let name = outcome.as_str();
        let row = json!([task.plan_id, task.ordinal, number, micros(at), name, class, message, stderr]);
        self.attempt_ends.push(row);
        if retried {
            self.task_steps.push(json!([task.plan_id, task.ordinal, "retried", micros(at)]));
        }
        let data = json!({"attempt": number, "outcome": name, "error_class": class, "retried": retried});
        self.event(task, "attempt_ended", at, &data);
    }

    fn event(&mut self, task: TaskRef, kind: &str, at: Timestamp, data: &Value) {
        self.events.push(json!([task.plan_id, task.ordinal, kind, micros(at), data.to_string()]));
    }
}

pub(super) fn micros(time: Timestamp) -> i64 {
    time.as_microsecond()
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
    json!(StoredError { code, message, details, retry_after_ms }).to_string()
}

pub(super) fn read_error(text: &str) -> Result<OrchestratorError, serde_json::Error> {
    let StoredError { code, message, details, retry_after_ms } = serde_json::from_str(text)?;
    let retry_after = retry_after_ms.map(std::time::Duration::from_millis);
    Ok(OrchestratorError { code, message, details, retry_after })
}
