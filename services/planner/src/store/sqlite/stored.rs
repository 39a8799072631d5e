//! Rows and documents as they are read, and what is wrong with them.

use jiff::Timestamp;
use phoenix_domain::{
    FailureClass, OrchestratorError,
    action::ActionResult,
    json::Object,
    plan::{Attempt, AttemptOutcome, OnFailure, Plan, PlanKind, PlanStatus, Task, TaskSpec, TaskStatus},
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::value::RawValue;
use sqlx::FromRow;

use crate::store::{error::JournalError, record};

#[derive(FromRow)]
pub(super) struct PlanRow {
    pub(super) plan_id: String,
    correlation_id: String,
    kind: String,
    status: String,
    created_at: i64,
    deadline_at: Option<i64>,
    ended_at: Option<i64>,
    context: String,
    output: Option<String>,
    error: Option<String>,
    redrive_of: Option<String>,
    redriven_as: Option<String>,
}

impl PlanRow {
    pub(super) fn with(self, tasks: Vec<TaskRow>, attempts: Vec<AttemptRow>) -> Result<Plan, JournalError> {
        let mut plan = self.read()?;
        plan.tasks = tasks.into_iter().map(TaskRow::read).collect::<Result<_, _>>()?;
        if plan.status == PlanStatus::Succeeded && plan.output.is_none() {
            plan.output = plan.tasks.last().and_then(|task| task.output.as_ref()).map(ActionResult::to_text);
        }
        for row in attempts {
            let ordinal = usize::try_from(row.ordinal).unwrap_or(usize::MAX);
            let task = plan.tasks.get_mut(ordinal).ok_or_else(|| damaged("attempts.ordinal", row.ordinal))?;
            task.attempts.push(row.read()?);
        }
        Ok(plan)
    }

    pub(super) fn read(self) -> Result<Plan, JournalError> {
        let Self {
            plan_id,
            correlation_id,
            kind,
            status,
            created_at,
            deadline_at,
            ended_at,
            context,
            output,
            error,
            redrive_of,
            redriven_as,
        } = self;
        Ok(Plan {
            plan_id: parse("plans.plan_id", &plan_id)?,
            correlation_id: parse("plans.correlation_id", &correlation_id)?,
            kind: PlanKind::from_name(&kind).ok_or_else(|| damaged("plans.kind", &kind))?,
            status: PlanStatus::from_name(&status).ok_or_else(|| damaged("plans.status", &status))?,
            created_at: time(created_at)?,
            deadline_at: deadline_at.map(time).transpose()?,
            ended_at: ended_at.map(time).transpose()?,
            context,
            output,
            error: stored_error(error.as_deref())?,
            redrive_of: redrive_of.map(|id| parse("plans.redrive_of", &id)).transpose()?,
            redriven_as: redriven_as.map(|id| parse("plans.plan_id", &id)).transpose()?,
            tasks: Vec::new(),
        })
    }
}

/// A task, from its table or from a document.
#[derive(FromRow, Deserialize)]
pub(super) struct TaskRow {
    #[serde(skip)]
    pub(super) plan_id: String,
    task_id: String,
    pub(super) key: String,
    agent: String,
    action: String,
    #[serde(deserialize_with = "text")]
    payload: String,
    #[serde(deserialize_with = "text")]
    depends_on: String,
    on_failure: String,
    status: String,
    queued_at: i64,
    dispatched_at: Option<i64>,
    ended_at: Option<i64>,
    #[serde(default, deserialize_with = "optional_text")]
    output: Option<String>,
    #[serde(default, deserialize_with = "optional_text")]
    error: Option<String>,
}

impl TaskRow {
    fn read(self) -> Result<Task, JournalError> {
        let Self {
            plan_id: _,
            task_id,
            key,
            agent,
            action,
            payload,
            depends_on,
            on_failure,
            status,
            queued_at,
            dispatched_at,
            ended_at,
            output,
            error,
        } = self;
        Ok(Task {
            task_id: parse("tasks.task_id", &task_id)?,
            spec: TaskSpec {
                key,
                agent: parse("tasks.agent", &agent)?,
                action,
                payload: Object::parse_stored(&payload)
                    .map_err(|error| unreadable("tasks.payload", &error))?,
                depends_on: from_json("tasks.depends_on", &depends_on)?,
                on_failure: match on_failure.as_str() {
                    "fail" => OnFailure::Fail,
                    "continue" => OnFailure::Continue,
                    other => return Err(damaged("tasks.on_failure", other)),
                },
            },
            status: TaskStatus::from_name(&status).ok_or_else(|| damaged("tasks.status", &status))?,
            queued_at: time(queued_at)?,
            dispatched_at: dispatched_at.map(time).transpose()?,
            ended_at: ended_at.map(time).transpose()?,
            output: output
                .map(|text| record::read_output(&text))
                .transpose()
                .map_err(|problem| unreadable("tasks.output", &problem))?,
            error: stored_error(error.as_deref())?,
            attempts: Vec::new(),
        })
    }
}

/// An attempt, from its table or from a document.
#[derive(FromRow, Deserialize)]
pub(super) struct AttemptRow {
    #[serde(skip)]
    pub(super) plan_id: String,
    #[serde(skip)]
    ordinal: i64,
    number: u32,
    started_at: i64,
    ended_at: Option<i64>,
    outcome: Option<String>,
    error_class: Option<String>,
    message: Option<String>,
    stderr_tail: Option<String>,
    worker: String,
}

impl AttemptRow {
    fn read(self) -> Result<Attempt, JournalError> {
        let Self {
            plan_id: _,
            ordinal: _,
            number,
            started_at,
            ended_at,
            outcome,
            error_class,
            message,
            stderr_tail,
            worker,
        } = self;
        let outcome = match outcome.as_deref() {
            None => None,
            Some("succeeded") => Some(AttemptOutcome::Succeeded),
            Some("cancelled") => Some(AttemptOutcome::Cancelled),
            Some("failed") => {
                let class = error_class.unwrap_or_default();
                Some(AttemptOutcome::Failed {
                    class: FailureClass::from_name(&class)
                        .ok_or_else(|| damaged("attempts.error_class", &class))?,
                    message: message.unwrap_or_default(),
                    stderr_tail: stderr_tail.unwrap_or_default(),
                })
            }
            Some(other) => return Err(damaged("attempts.outcome", other)),
        };
        Ok(Attempt {
            number,
            started_at: time(started_at)?,
            ended_at: ended_at.map(time).transpose()?,
            outcome,
            worker,
        })
    }
}

/// The document of a compacted plan.
#[derive(Deserialize)]
pub(super) struct StoredDocument {
    pub(super) task: TaskRow,
    pub(super) attempts: Vec<AttemptRow>,
}

/// JSON inside a document, as text.
fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Box::<RawValue>::deserialize(from).map(|value| value.get().to_owned())
}

/// Optional JSON inside a document, as text.
fn optional_text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let value = Option::<Box<RawValue>>::deserialize(from)?;
    Ok(value.map(|value| value.get().to_owned()))
}

pub(super) fn damaged(column: &str, value: impl std::fmt::Display) -> JournalError {
    JournalError::Damaged(format!("{column} holds `{value}`"))
}

pub(super) fn parse<T: std::str::FromStr>(column: &str, text: &str) -> Result<T, JournalError> {
    text.parse().map_err(|_| damaged(column, text))
}

/// The message names the column and the problem, not the text: that belongs to a caller.
fn unreadable(column: &str, problem: &impl std::fmt::Display) -> JournalError {
    JournalError::Damaged(format!("{column} {problem}"))
}

/// The message names the column and the position, not the text: that belongs to a caller.
pub(super) fn from_json<T: DeserializeOwned>(column: &str, text: &str) -> Result<T, JournalError> {
    let wrong = |error: serde_json::Error| {
        JournalError::Damaged(format!(
            "{column} holds other JSON than is expected from character {} on",
            error.column()
        ))
    };
    serde_json::from_str(text).map_err(wrong)
}

pub(super) fn stored_error(text: Option<&str>) -> Result<Option<OrchestratorError>, JournalError> {
    text.map(record::read_error).transpose().map_err(|problem| unreadable("error", &problem))
}

pub(super) fn time(micros: i64) -> Result<Timestamp, JournalError> {
    Timestamp::from_microsecond(micros).map_err(|_| damaged("time", micros))
}
