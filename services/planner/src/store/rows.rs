//! Entries as rows. A batch becomes at most seven statements, each given all of its rows as one JSON array: far cheaper
//! than one statement per row.

use jiff::Timestamp;
use phoenix_domain::{
    OrchestratorError, OrchestratorErrorCode,
    plan::{AttemptOutcome, Plan},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Entry, TaskRef};

/// The rows of one batch, by the statement that writes them. Inserts are written before updates.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) plans: Vec<Value>,
    pub(super) tasks: Vec<Value>,
    pub(super) attempts: Vec<Value>,
    pub(super) task_steps: Vec<Value>,
    pub(super) attempt_ends: Vec<Value>,
    pub(super) task_ends: Vec<Value>,
    pub(super) plan_ends: Vec<Value>,
    pub(super) events: Vec<Value>,
}

pub(super) const INSERT_PLANS: &str = "
    INSERT INTO plans (plan_id, correlation_id, status, created_at, context)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?)";

pub(super) const INSERT_TASKS: &str = "
    INSERT INTO tasks (plan_id, ordinal, task_id, key, agent, action, payload, status, queued_at)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
           value ->> 8
    FROM json_each(?)";

pub(super) const INSERT_ATTEMPTS: &str = "
    INSERT INTO attempts (plan_id, ordinal, number, started_at, worker)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?)";

/// Several steps of one task may be in a batch; the last one counts, and a terminal state never changes.
pub(super) const UPDATE_TASKS: &str = "
    UPDATE tasks
    SET status = step.status, dispatched_at = coalesce(tasks.dispatched_at, step.dispatched_at)
    FROM (SELECT value ->> 0 AS plan_id, value ->> 1 AS ordinal, value ->> 2 AS status, value ->> 3 AS dispatched_at,
                 max(key)
          FROM json_each(?) GROUP BY 1, 2) AS step
    WHERE tasks.plan_id = step.plan_id AND tasks.ordinal = step.ordinal
      AND tasks.status NOT IN ('succeeded', 'dead_lettered', 'cancelled')";

/// With its first task, a plan runs.
pub(super) const UPDATE_RUNNING: &str = "
    UPDATE plans SET status = 'running'
    WHERE status = 'pending' AND plan_id IN (SELECT value ->> 0 FROM json_each(?))";

pub(super) const END_ATTEMPTS: &str = "
    UPDATE attempts
    SET ended_at = ended.at, outcome = ended.outcome, error_class = ended.error_class, message = ended.message,
        stderr_tail = ended.stderr_tail
    FROM (SELECT value ->> 0 AS plan_id, value ->> 1 AS ordinal, value ->> 2 AS number, value ->> 3 AS at,
                 value ->> 4 AS outcome, value ->> 5 AS error_class, value ->> 6 AS message,
                 value ->> 7 AS stderr_tail
          FROM json_each(?)) AS ended
    WHERE attempts.plan_id = ended.plan_id AND attempts.ordinal = ended.ordinal AND attempts.number = ended.number
      AND attempts.outcome IS NULL";

pub(super) const END_TASKS: &str = "
    UPDATE tasks
    SET status = ended.status, ended_at = ended.at, output = ended.output, error = ended.error
    FROM (SELECT value ->> 0 AS plan_id, value ->> 1 AS ordinal, value ->> 2 AS status, value ->> 3 AS at,
                 value ->> 4 AS output, value ->> 5 AS error
          FROM json_each(?)) AS ended
    WHERE tasks.plan_id = ended.plan_id AND tasks.ordinal = ended.ordinal
      AND tasks.status NOT IN ('succeeded', 'dead_lettered', 'cancelled')";

pub(super) const END_PLANS: &str = "
    UPDATE plans
    SET status = ended.status, ended_at = ended.at, output = ended.output, error = ended.error
    FROM (SELECT value ->> 0 AS plan_id, value ->> 1 AS status, value ->> 2 AS at, value ->> 3 AS output,
                 value ->> 4 AS error
          FROM json_each(?)) AS ended
    WHERE plans.plan_id = ended.plan_id AND plans.status NOT IN ('succeeded', 'failed', 'cancelled')";

pub(super) const INSERT_EVENTS: &str = "
    INSERT INTO events (plan_id, ordinal, kind, at, data)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?) ORDER BY key";

impl Rows {
    pub(super) fn add(&mut self, entry: &Entry) {
        match entry {
            Entry::PlanAccepted(plan) => self.accept(plan),
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

    fn accept(&mut self, plan: &Plan) {
        let at = micros(plan.created_at);
        let (plan_id, status) = (plan.plan_id, plan.status.as_str());
        self.plans.push(json!([plan_id, plan.correlation_id, status, at, plan.context]));
        for (ordinal, task) in plan.tasks.iter().enumerate() {
            self.tasks.push(json!([
                plan_id,
                ordinal,
                task.task_id,
                task.spec.key,
                task.spec.agent,
                task.spec.action,
                json!(task.spec.payload).to_string(),
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
