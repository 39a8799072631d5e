//! What a caller is told of a plan.

use jiff::Timestamp;
use phoenix_domain::{
    CorrelationId, OrchestratorError, PlanId, TaskId,
    plan::{PlanStatus, TaskStatus},
};
use phoenix_proto::{
    InvalidField, action::raw_json, common, id, optional, planner, required_timestamp, timestamp,
};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::{
    ToSchema,
    openapi::{ObjectBuilder, schema::Object, schema::Type},
};

use super::{request::OnFailureV1, timeline::TimelineV1};
use crate::problem::ErrorBody;

/// Where a plan stands, without its tasks.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PlanSummaryV1 {
    /// Its name.
    #[schema(value_type = String, format = Uuid)]
    pub(crate) plan_id: PlanId,
    /// The request that made it.
    #[schema(value_type = String, format = Uuid)]
    correlation_id: CorrelationId,
    /// Where it stands.
    #[schema(schema_with = plan_states)]
    #[serde(serialize_with = "as_text")]
    status: PlanStatus,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it fails with `timeout` if it has not ended.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    deadline_at: Option<Timestamp>,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    ended_at: Option<Timestamp>,
    /// The answer as a person reads it, once it has succeeded; null in listings. Its beginning when it is `truncated`.
    #[schema(required)]
    output: Option<String>,
    /// Whether `output` is cut.
    truncated: bool,
    /// Bytes of the whole output, when it is cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    size: Option<u64>,
    /// Path of the whole output, when it is cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    /// Why it did not succeed.
    #[schema(required)]
    error: Option<ErrorBody>,
    /// The plan that it takes up again: a task that had succeeded there is kept, and has no attempts here.
    #[schema(value_type = Option<String>, format = Uuid, required)]
    redrive_of: Option<PlanId>,
    /// The plan that has taken it up again.
    #[schema(value_type = Option<String>, format = Uuid, required)]
    redriven_as: Option<PlanId>,
}

/// Everything that is known of a plan.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PlanV1 {
    #[serde(flatten)]
    summary: PlanSummaryV1,
    /// Its tasks, in the order in which they were given.
    tasks: Vec<TaskV1>,
}

/// A task and what became of it.
#[derive(Debug, Serialize, ToSchema)]
struct TaskV1 {
    /// Its name.
    #[schema(value_type = String, format = Uuid)]
    task_id: TaskId,
    /// Its name inside the plan; a chat's only task is `chat`.
    #[schema(examples("status"))]
    key: String,
    /// Who does it.
    #[schema(examples("git_agent"))]
    agent: String,
    /// What to do.
    action: String,
    /// The input as it was given.
    #[schema(value_type = Object)]
    input: Box<RawValue>,
    /// Keys of the tasks it waits for.
    depends_on: Vec<String>,
    /// What its failure means for the plan.
    on_failure: OnFailureV1,
    /// Where it stands.
    #[schema(schema_with = task_states)]
    #[serde(serialize_with = "as_text")]
    status: TaskStatus,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    queued_at: Timestamp,
    /// When it was first handed to an executor.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    dispatched_at: Option<Timestamp>,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    ended_at: Option<Timestamp>,
    /// Where its time went.
    timeline: TimelineV1,
    /// The agent's answer.
    #[schema(required)]
    output: Option<TaskOutputV1>,
    /// Why there is none.
    #[schema(required)]
    error: Option<ErrorBody>,
    /// Every run of the agent, by number.
    attempts: Vec<AttemptV1>,
}

/// What an agent answered.
#[derive(Debug, Serialize, ToSchema)]
struct TaskOutputV1 {
    /// How to read `data`: `text`, `json`, `markdown`, or the agent's own word.
    #[schema(examples("text"))]
    output_type: String,
    /// The answer itself: any JSON. When it is `truncated`, a string with the beginning of it.
    #[schema(value_type = Value)]
    data: Box<RawValue>,
    /// Facts about the answer.
    #[schema(value_type = Object)]
    metadata: Box<RawValue>,
    /// Whether `data` is cut.
    truncated: bool,
    /// Bytes of the whole answer, when it is cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    size: Option<u64>,
    /// Path of the whole answer, when it is cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
}

/// One run of an agent for a task.
#[derive(Debug, Serialize, ToSchema)]
struct AttemptV1 {
    /// 1 for the first.
    #[schema(minimum = 1)]
    number: u32,
    /// When its process was asked.
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    ended_at: Option<Timestamp>,
    /// `succeeded`, `failed` or `cancelled`; null while it runs.
    #[schema(required)]
    outcome: Option<String>,
    /// The kind of failure, such as `timeout`.
    #[schema(required)]
    error_class: Option<String>,
    /// The failure in one sentence.
    #[schema(required)]
    message: Option<String>,
    /// The last of what its process wrote to stderr. The end of that when it is `truncated`.
    #[schema(required)]
    stderr_tail: Option<String>,
    /// Whether `stderr_tail` is cut.
    truncated: bool,
    /// Bytes of the whole tail, when it is cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    size: Option<u64>,
    /// Path of the whole tail, when it is cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    /// The process that ran it.
    #[schema(examples("pid 4711"))]
    worker: String,
}

impl TryFrom<planner::Plan> for PlanSummaryV1 {
    type Error = InvalidField;

    fn try_from(wire: planner::Plan) -> Result<Self, InvalidField> {
        let status: Option<PlanStatus> = wire.status().into();
        let planner::Plan {
            plan_id,
            correlation_id,
            status: _,
            created_at,
            ended_at,
            output,
            error,
            tasks,
            deadline_at,
            redrive_of,
            redriven_as,
            output_size,
        } = wire;
        let last_key = tasks.last().map(|task| task.key.as_str()).unwrap_or_default();
        let Cut { truncated, size, link } = Cut::of(output_size, || output_path(&plan_id, last_key));
        Ok(Self {
            truncated,
            size,
            link,
            plan_id: id("plan_id", &plan_id)?,
            correlation_id: id("correlation_id", &correlation_id)?,
            status: status.ok_or_else(|| InvalidField::new("status", "is missing"))?,
            created_at: required_timestamp("created_at", created_at)?,
            deadline_at: timestamp("deadline_at", deadline_at)?,
            ended_at: timestamp("ended_at", ended_at)?,
            output,
            error: error.map(error_body),
            redrive_of: optional("redrive_of", &redrive_of.unwrap_or_default())?,
            redriven_as: optional("redriven_as", &redriven_as.unwrap_or_default())?,
        })
    }
}

impl PlanV1 {
    /// A plan as it is at `now`: what has not ended is measured up to then.
    pub(crate) fn at(now: Timestamp, mut wire: planner::Plan) -> Result<Self, InvalidField> {
        let plan_id = wire.plan_id.clone();
        // The summary names the last task; it needs no more of it.
        let named =
            |task: &planner::Task| planner::Task { key: task.key.clone(), ..planner::Task::default() };
        let last = wire.tasks.last().map(named).into_iter().collect();
        let tasks = std::mem::replace(&mut wire.tasks, last);
        Ok(Self {
            summary: wire.try_into()?,
            tasks: tasks.into_iter().map(|task| TaskV1::at(now, &plan_id, task)).collect::<Result<_, _>>()?,
        })
    }
}

impl TaskV1 {
    fn at(now: Timestamp, plan_id: &str, wire: planner::Task) -> Result<Self, InvalidField> {
        let state = wire.status();
        let status = TaskStatus::ALL.iter().copied().find(|known| planner::TaskStatus::from(*known) == state);
        let planner::Task {
            task_id,
            key,
            agent,
            action,
            status: _,
            queued_at,
            dispatched_at,
            ended_at,
            output,
            error,
            attempts,
            depends_on,
            input_json,
            continue_on_failure,
            output_size,
        } = wire;
        let queued_at = required_timestamp("queued_at", queued_at)?;
        let ended_at = timestamp("ended_at", ended_at)?;
        let attempts: Vec<AttemptV1> = attempts
            .into_iter()
            .map(|attempt| AttemptV1::of(plan_id, &key, attempt))
            .collect::<Result<_, _>>()?;
        let times = attempts.iter().map(|attempt| (attempt.started_at, attempt.ended_at));
        let status = status.ok_or_else(|| InvalidField::new("status", "is missing"))?;
        let cut = Cut::of(output_size, || output_path(plan_id, &key));
        Ok(Self {
            task_id: id("task_id", &task_id)?,
            key,
            agent,
            action,
            input: raw_json("input_json", input_json)?,
            depends_on,
            on_failure: if continue_on_failure { OnFailureV1::Continue } else { OnFailureV1::Fail },
            status,
            queued_at,
            dispatched_at: timestamp("dispatched_at", dispatched_at)?,
            ended_at,
            timeline: TimelineV1::of(status, queued_at, ended_at.unwrap_or(now), times),
            output: output.map(|output| TaskOutputV1::of(output, cut)).transpose()?,
            error: error.map(error_body),
            attempts,
        })
    }
}

impl TaskOutputV1 {
    fn of(wire: common::ActionOutput, cut: Cut) -> Result<Self, InvalidField> {
        let Cut { truncated, size, link } = cut;
        let common::ActionOutput { output_type, data_json, metadata_json } = wire;
        Ok(Self {
            output_type,
            data: raw_json("data_json", data_json)?,
            metadata: raw_json("metadata_json", metadata_json)?,
            truncated,
            size,
            link,
        })
    }
}

/// A text that may be cut.
#[derive(Debug)]
struct Cut {
    truncated: bool,
    size: Option<u64>,
    link: Option<String>,
}

impl Cut {
    /// Of a text whose whole is `size` bytes large, if it is cut.
    fn of(size: u64, link: impl FnOnce() -> String) -> Self {
        let truncated = size > 0;
        Self { truncated, size: truncated.then_some(size), link: truncated.then(link) }
    }
}

fn output_path(plan_id: &str, key: &str) -> String {
    format!("/api/v1/plans/{plan_id}/tasks/{key}/output")
}

impl AttemptV1 {
    fn of(plan_id: &str, key: &str, wire: planner::Attempt) -> Result<Self, InvalidField> {
        let planner::Attempt {
            number,
            started_at,
            ended_at,
            outcome,
            error_class,
            message,
            stderr_tail,
            worker,
            stderr_size,
        } = wire;
        let Cut { truncated, size, link } =
            Cut::of(stderr_size, || format!("/api/v1/plans/{plan_id}/tasks/{key}/attempts/{number}/stderr"));
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        Ok(Self {
            number,
            started_at: required_timestamp("started_at", started_at)?,
            ended_at: timestamp("ended_at", ended_at)?,
            outcome: given(outcome),
            error_class: given(error_class),
            message: given(message),
            stderr_tail: given(stderr_tail),
            truncated,
            size,
            link,
            worker,
        })
    }
}

pub(crate) fn error_body(error: common::Error) -> ErrorBody {
    let OrchestratorError { code, message, details, retry_after: _ } = error.into();
    ErrorBody { code, message, details }
}

pub(crate) fn as_text<S: serde::Serializer>(
    state: &impl std::fmt::Display,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(state)
}

pub(super) fn plan_states() -> Object {
    states("Where it stands.", PlanStatus::ALL.iter().map(|state| state.as_str()))
}

fn task_states() -> Object {
    states("Where it stands.", TaskStatus::ALL.iter().map(|state| state.as_str()))
}

/// The names of a closed set of states.
pub(crate) fn states(description: &str, names: impl Iterator<Item = &'static str>) -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(names))
        .description(Some(description))
        .build()
}
