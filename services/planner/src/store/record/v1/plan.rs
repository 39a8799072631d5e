//! Stored plans and tasks.

use jiff::Timestamp;
use phoenix_domain::{
    CorrelationId, PlanId, TaskId,
    budget::Limits,
    json::Object,
    plan::{OnFailure, Plan, PlanKind, PlanStatus, Task, TaskSpec, TaskStatus},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::store::record::{
    unusable::Unusable,
    v1::{
        approval::ConditionsV1,
        value::{named, raw},
    },
};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PlanV1 {
    plan_id: PlanId,
    correlation_id: CorrelationId,
    kind: String,
    status: String,
    created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline_at: Option<Timestamp>,
    context: String,
    /// Limits in billionths of a dollar, tokens, calls and milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    budget: Option<[Option<u64>; 4]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    redrive_of: Option<PlanId>,
    tasks: Vec<TaskV1>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TaskV1 {
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    start: Option<ConditionsV1>,
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
            budget,
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
            budget: budget.is_limited().then(|| budget.values()),
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
            budget,
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
            budget: budget.map_or(Limits::NONE, Limits::new),
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
            spec: TaskSpec { key, agent, action, payload, depends_on, on_failure, start },
            status,
            queued_at,
            dispatched_at: _,
            ended_at: _,
            output: _,
            error: _,
            approval: _,
            pause: _,
            attempts: _,
        } = task;
        let spec = SpecV1 {
            key: key.clone(),
            agent: agent.to_string(),
            action: action.clone(),
            payload: raw(payload),
            depends_on: depends_on.clone(),
            on_failure: on_failure.as_str().into(),
            start: (!start.is_empty()).then(|| start.into()),
        };
        Self { task_id: *task_id, spec, status: status.as_str().into(), queued_at: *queued_at }
    }
}

impl TryFrom<TaskV1> for Task {
    type Error = Unusable;

    fn try_from(TaskV1 { task_id, spec, status, queued_at }: TaskV1) -> Result<Self, Unusable> {
        let SpecV1 { key, agent, action, payload, depends_on, on_failure, start } = spec;
        Ok(Self {
            task_id,
            spec: TaskSpec {
                key,
                agent: named("agent", &agent, |name| name.parse().ok())?,
                action,
                payload: Object::parse_stored(payload.get())?,
                depends_on,
                on_failure: named("on_failure", &on_failure, OnFailure::from_name)?,
                start: start.map(TryInto::try_into).transpose()?.unwrap_or_default(),
            },
            status: named("status", &status, TaskStatus::from_name)?,
            queued_at,
            dispatched_at: None,
            ended_at: None,
            output: None,
            error: None,
            approval: None,
            pause: None,
            attempts: Vec::new(),
        })
    }
}
