//! Version 1 of the records.

use jiff::Timestamp;
use phoenix_domain::{
    BulkRedriveId, CorrelationId, FailureClass, OrchestratorError, OrchestratorErrorCode, PlanId, TaskId,
    action::ActionResult,
    json::{Json, Object},
    plan::{AttemptOutcome, OnFailure, Plan, PlanKind, PlanStatus, Task, TaskSpec, TaskStatus},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use uuid::Uuid;

use super::{
    super::{DeadLetterFilter, Entry, IdempotencyKey, Sweep, SweepAction, TaskRef},
    Unusable,
};

/// The kinds of version 1, as they are written.
pub(super) const KINDS: [&str; 10] = [
    "plan_accepted",
    "key_used",
    "task_dispatched",
    "attempt_started",
    "attempt_ended",
    "task_ended",
    "plan_ended",
    "plan_redriven",
    "sweep_begun",
    "sweep_ended",
];

/// An entry as it is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RecordV1 {
    PlanAccepted {
        plan: PlanV1,
    },
    KeyUsed {
        key: KeyV1,
        subject: Uuid,
        at: Timestamp,
        not_before: Timestamp,
    },
    TaskDispatched {
        task: TaskRefV1,
        at: Timestamp,
    },
    AttemptStarted {
        task: TaskRefV1,
        number: u32,
        at: Timestamp,
        worker: String,
    },
    AttemptEnded {
        task: TaskRefV1,
        number: u32,
        at: Timestamp,
        outcome: OutcomeV1,
        retried: bool,
    },
    TaskEnded {
        task: TaskRefV1,
        status: String,
        at: Timestamp,
        result: Result<AnswerV1, ErrorV1>,
    },
    PlanEnded {
        plan_id: PlanId,
        status: String,
        at: Timestamp,
        result: Result<PlanResultV1, ErrorV1>,
    },
    PlanRedriven {
        plan_id: PlanId,
        redriven_as: PlanId,
        at: Timestamp,
        by: CorrelationId,
        reason: String,
        sweep: Option<BulkRedriveId>,
    },
    SweepBegun {
        sweep: SweepV1,
        filter: FilterV1,
        limit: u32,
    },
    SweepEnded {
        sweep_id: BulkRedriveId,
        at: Timestamp,
    },
}

/// Version 0.1.0 wrote the plan's answer here; it is the last task's, and is read from there.
#[derive(Debug, Serialize, Deserialize)]
#[serde(from = "serde::de::IgnoredAny", into = "()")]
pub(super) struct PlanResultV1;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PlanV1 {
    plan_id: PlanId,
    correlation_id: CorrelationId,
    kind: String,
    status: String,
    created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline_at: Option<Timestamp>,
    context: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    redrive_of: Option<PlanId>,
    tasks: Vec<TaskV1>,
}

#[derive(Debug, Serialize, Deserialize)]
struct TaskV1 {
    task_id: TaskId,
    spec: SpecV1,
    status: String,
    queued_at: Timestamp,
}

#[derive(Debug, Serialize, Deserialize)]
struct SpecV1 {
    key: String,
    agent: String,
    action: String,
    payload: Box<RawValue>,
    depends_on: Vec<String>,
    on_failure: String,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct TaskRefV1 {
    plan_id: PlanId,
    ordinal: usize,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeyV1 {
    key: String,
    digest: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<CorrelationId>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OutcomeV1 {
    Succeeded,
    Cancelled,
    Failed { class: String, message: String, stderr_tail: String },
}

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::store) struct AnswerV1 {
    output_type: String,
    data: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metadata: Option<Box<RawValue>>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::store) struct ErrorV1 {
    code: String,
    message: String,
    #[serde(default)]
    details: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SweepV1 {
    sweep_id: BulkRedriveId,
    action: SweepActionV1,
    at: Timestamp,
    by: CorrelationId,
    reason: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SweepActionV1 {
    Redrive { rate: f64 },
    Discard,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FilterV1 {
    agent: Option<String>,
    code: Option<String>,
    error_class: Option<String>,
    plan_id: Option<PlanId>,
    correlation_id: Option<CorrelationId>,
    since: Option<Timestamp>,
}

impl From<&Entry> for RecordV1 {
    fn from(entry: &Entry) -> Self {
        match entry {
            Entry::PlanAccepted { plan } => Self::PlanAccepted { plan: (&**plan).into() },
            Entry::KeyUsed { key: IdempotencyKey { key, digest, by }, subject, at, not_before } => {
                Self::KeyUsed {
                    key: KeyV1 { key: key.clone(), digest: digest.clone(), by: *by },
                    subject: *subject,
                    at: *at,
                    not_before: *not_before,
                }
            }
            Entry::TaskDispatched { task, at } => Self::TaskDispatched { task: (*task).into(), at: *at },
            Entry::AttemptStarted { task, number, at, worker } => Self::AttemptStarted {
                task: (*task).into(),
                number: *number,
                at: *at,
                worker: worker.clone(),
            },
            Entry::AttemptEnded { task, number, at, outcome, retried } => Self::AttemptEnded {
                task: (*task).into(),
                number: *number,
                at: *at,
                outcome: outcome.into(),
                retried: *retried,
            },
            Entry::TaskEnded { task, status, at, result } => Self::TaskEnded {
                task: (*task).into(),
                status: status.as_str().into(),
                at: *at,
                result: result.as_ref().map(Into::into).map_err(Into::into),
            },
            Entry::PlanEnded { plan_id, status, at, result } => Self::PlanEnded {
                plan_id: *plan_id,
                status: status.as_str().into(),
                at: *at,
                result: result.as_ref().map(|()| PlanResultV1).map_err(Into::into),
            },
            Entry::PlanRedriven { plan_id, redriven_as, at, by, reason, sweep } => Self::PlanRedriven {
                plan_id: *plan_id,
                redriven_as: *redriven_as,
                at: *at,
                by: *by,
                reason: reason.clone(),
                sweep: *sweep,
            },
            Entry::SweepBegun { sweep, filter, limit } => {
                Self::SweepBegun { sweep: (&**sweep).into(), filter: (&**filter).into(), limit: *limit }
            }
            Entry::SweepEnded { sweep_id, at } => Self::SweepEnded { sweep_id: *sweep_id, at: *at },
        }
    }
}

impl TryFrom<RecordV1> for Entry {
    type Error = Unusable;

    fn try_from(record: RecordV1) -> Result<Self, Unusable> {
        Ok(match record {
            RecordV1::PlanAccepted { plan } => Self::PlanAccepted { plan: Arc::new(plan.try_into()?) },
            RecordV1::KeyUsed { key: KeyV1 { key, digest, by }, subject, at, not_before } => {
                Self::KeyUsed { key: IdempotencyKey { key, digest, by }, subject, at, not_before }
            }
            RecordV1::TaskDispatched { task, at } => Self::TaskDispatched { task: task.into(), at },
            RecordV1::AttemptStarted { task, number, at, worker } => {
                Self::AttemptStarted { task: task.into(), number, at, worker }
            }
            RecordV1::AttemptEnded { task, number, at, outcome, retried } => {
                Self::AttemptEnded { task: task.into(), number, at, outcome: outcome.try_into()?, retried }
            }
            RecordV1::TaskEnded { task, status, at, result } => Self::TaskEnded {
                task: task.into(),
                status: named("status", &status, TaskStatus::from_name)?,
                at,
                result: match result {
                    Ok(answer) => Ok(answer.try_into()?),
                    Err(error) => Err(error.try_into()?),
                },
            },
            RecordV1::PlanEnded { plan_id, status, at, result } => Self::PlanEnded {
                plan_id,
                status: named("status", &status, PlanStatus::from_name)?,
                at,
                result: match result {
                    Ok(PlanResultV1) => Ok(()),
                    Err(error) => Err(error.try_into()?),
                },
            },
            RecordV1::PlanRedriven { plan_id, redriven_as, at, by, reason, sweep } => {
                Self::PlanRedriven { plan_id, redriven_as, at, by, reason, sweep }
            }
            RecordV1::SweepBegun { sweep, filter, limit } => Self::SweepBegun {
                sweep: Box::new(sweep.into()),
                filter: Box::new(filter.try_into()?),
                limit,
            },
            RecordV1::SweepEnded { sweep_id, at } => Self::SweepEnded { sweep_id, at },
        })
    }
}

impl From<&Plan> for PlanV1 {
    fn from(plan: &Plan) -> Self {
        // A plan is accepted before it has a result, and what follows has records of its own.
        let Plan {
            plan_id,
            correlation_id,
            kind,
            status,
            created_at,
            deadline_at,
            ended_at: _,
            context,
            output: _,
            error: _,
            redrive_of,
            redriven_as: _,
            tasks,
        } = plan;
        Self {
            plan_id: *plan_id,
            correlation_id: *correlation_id,
            kind: kind.as_str().into(),
            status: status.as_str().into(),
            created_at: *created_at,
            deadline_at: *deadline_at,
            context: context.clone(),
            redrive_of: *redrive_of,
            tasks: tasks.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<PlanV1> for Plan {
    type Error = Unusable;

    fn try_from(stored: PlanV1) -> Result<Self, Unusable> {
        let PlanV1 {
            plan_id,
            correlation_id,
            kind,
            status,
            created_at,
            deadline_at,
            context,
            redrive_of,
            tasks,
        } = stored;
        Ok(Self {
            plan_id,
            correlation_id,
            kind: named("kind", &kind, PlanKind::from_name)?,
            status: named("status", &status, PlanStatus::from_name)?,
            created_at,
            deadline_at,
            ended_at: None,
            context,
            output: None,
            error: None,
            redrive_of,
            redriven_as: None,
            tasks: tasks.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&Task> for TaskV1 {
    fn from(task: &Task) -> Self {
        let Task {
            task_id,
            spec: TaskSpec { key, agent, action, payload, depends_on, on_failure },
            status,
            queued_at,
            dispatched_at: _,
            ended_at: _,
            output: _,
            error: _,
            attempts: _,
        } = task;
        let spec = SpecV1 {
            key: key.clone(),
            agent: agent.to_string(),
            action: action.clone(),
            payload: raw(payload),
            depends_on: depends_on.clone(),
            on_failure: on_failure.as_str().into(),
        };
        Self { task_id: *task_id, spec, status: status.as_str().into(), queued_at: *queued_at }
    }
}

impl TryFrom<TaskV1> for Task {
    type Error = Unusable;

    fn try_from(TaskV1 { task_id, spec, status, queued_at }: TaskV1) -> Result<Self, Unusable> {
        let SpecV1 { key, agent, action, payload, depends_on, on_failure } = spec;
        Ok(Self {
            task_id,
            spec: TaskSpec {
                key,
                agent: named("agent", &agent, |name| name.parse().ok())?,
                action,
                payload: Object::parse_stored(payload.get())?,
                depends_on,
                on_failure: named("on_failure", &on_failure, OnFailure::from_name)?,
            },
            status: named("status", &status, TaskStatus::from_name)?,
            queued_at,
            dispatched_at: None,
            ended_at: None,
            output: None,
            error: None,
            attempts: Vec::new(),
        })
    }
}

impl From<TaskRef> for TaskRefV1 {
    fn from(TaskRef { plan_id, ordinal }: TaskRef) -> Self {
        Self { plan_id, ordinal }
    }
}

impl From<TaskRefV1> for TaskRef {
    fn from(TaskRefV1 { plan_id, ordinal }: TaskRefV1) -> Self {
        Self { plan_id, ordinal }
    }
}

impl From<&AttemptOutcome> for OutcomeV1 {
    fn from(outcome: &AttemptOutcome) -> Self {
        match outcome {
            AttemptOutcome::Succeeded => Self::Succeeded,
            AttemptOutcome::Cancelled => Self::Cancelled,
            AttemptOutcome::Failed { class, message, stderr_tail } => Self::Failed {
                class: class.as_str().into(),
                message: message.clone(),
                stderr_tail: stderr_tail.clone(),
            },
        }
    }
}

impl TryFrom<OutcomeV1> for AttemptOutcome {
    type Error = Unusable;

    fn try_from(outcome: OutcomeV1) -> Result<Self, Unusable> {
        Ok(match outcome {
            OutcomeV1::Succeeded => Self::Succeeded,
            OutcomeV1::Cancelled => Self::Cancelled,
            OutcomeV1::Failed { class, message, stderr_tail } => {
                Self::Failed { class: named("class", &class, FailureClass::from_name)?, message, stderr_tail }
            }
        })
    }
}

impl From<&ActionResult> for AnswerV1 {
    fn from(ActionResult { output_type, data, metadata }: &ActionResult) -> Self {
        let metadata = (!metadata.is_empty()).then(|| raw(metadata));
        Self { output_type: output_type.clone(), data: raw(data), metadata }
    }
}

impl TryFrom<AnswerV1> for ActionResult {
    type Error = Unusable;

    fn try_from(AnswerV1 { output_type, data, metadata }: AnswerV1) -> Result<Self, Unusable> {
        let metadata = metadata.map(|metadata| Object::parse_stored(metadata.get())).transpose()?;
        Ok(Self {
            output_type,
            data: Json::parse_stored(data.get())?,
            metadata: metadata.unwrap_or_default(),
        })
    }
}

impl From<&OrchestratorError> for ErrorV1 {
    fn from(OrchestratorError { code, message, details, retry_after }: &OrchestratorError) -> Self {
        Self {
            code: code.as_str().into(),
            message: message.clone(),
            details: details.clone(),
            retry_after_ms: retry_after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

impl TryFrom<ErrorV1> for OrchestratorError {
    type Error = Unusable;

    fn try_from(ErrorV1 { code, message, details, retry_after_ms }: ErrorV1) -> Result<Self, Unusable> {
        Ok(Self {
            code: named("code", &code, OrchestratorErrorCode::from_name)?,
            message,
            details,
            retry_after: retry_after_ms.map(Duration::from_millis),
        })
    }
}

impl From<&Sweep> for SweepV1 {
    fn from(Sweep { sweep_id, action, at, by, reason }: &Sweep) -> Self {
        let action = match action {
            SweepAction::Redrive { rate } => SweepActionV1::Redrive { rate: *rate },
            SweepAction::Discard => SweepActionV1::Discard,
        };
        Self { sweep_id: *sweep_id, action, at: *at, by: *by, reason: reason.clone() }
    }
}

impl From<SweepV1> for Sweep {
    fn from(SweepV1 { sweep_id, action, at, by, reason }: SweepV1) -> Self {
        let action = match action {
            SweepActionV1::Redrive { rate } => SweepAction::Redrive { rate },
            SweepActionV1::Discard => SweepAction::Discard,
        };
        Self { sweep_id, action, at, by, reason }
    }
}

impl From<&DeadLetterFilter> for FilterV1 {
    fn from(filter: &DeadLetterFilter) -> Self {
        let DeadLetterFilter { agent, code, error_class, plan_id, correlation_id, since } = filter;
        Self {
            agent: agent.as_ref().map(ToString::to_string),
            code: code.map(|code| code.as_str().into()),
            error_class: error_class.map(|class| class.as_str().into()),
            plan_id: *plan_id,
            correlation_id: *correlation_id,
            since: *since,
        }
    }
}

impl TryFrom<FilterV1> for DeadLetterFilter {
    type Error = Unusable;

    fn try_from(stored: FilterV1) -> Result<Self, Unusable> {
        let FilterV1 { agent, code, error_class, plan_id, correlation_id, since } = stored;
        Ok(Self {
            agent: agent.map(|agent| named("agent", &agent, |name| name.parse().ok())).transpose()?,
            code: code.map(|code| named("code", &code, OrchestratorErrorCode::from_name)).transpose()?,
            error_class: error_class
                .map(|class| named("error_class", &class, FailureClass::from_name))
                .transpose()?,
            plan_id,
            correlation_id,
            since,
        })
    }
}

impl From<serde::de::IgnoredAny> for PlanResultV1 {
    fn from(_: serde::de::IgnoredAny) -> Self {
        Self
    }
}

impl From<PlanResultV1> for () {
    fn from(_: PlanResultV1) -> Self {}
}

impl Clone for PlanResultV1 {
    fn clone(&self) -> Self {
        Self
    }
}

/// A value of a closed set, by its name. A newer version may know more of them.
fn named<T>(field: &str, name: &str, find: impl Fn(&str) -> Option<T>) -> Result<T, Unusable> {
    find(name).ok_or_else(|| Unusable::Unknown(format!("`{field}` is `{}`", name.escape_debug())))
}

fn raw(value: &impl Serialize) -> Box<RawValue> {
    // Names are text and numbers are JSON's: this does not fail.
    serde_json::value::to_raw_value(value).unwrap_or_default()
}
