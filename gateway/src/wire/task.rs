//! Bodies of tasks: their outputs and attempts.

use jiff::Timestamp;
use phoenix_domain::{TaskId, plan::TaskStatus, wait::WaitKind};
use phoenix_proto::{InvalidField, action::raw_json, common, id, planner, required_timestamp, timestamp};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::{ToSchema, openapi::schema::Object};

use super::{
    approval::ApprovalV1,
    error::ErrorBody,
    plan_request::OnFailureV1,
    schemas::{as_text, states},
    timeline::TimelineV1,
    truncation::{Truncation, output_path, stderr_path},
    usage::UsageV1,
};

/// A task with its output and attempts.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TaskV1 {
    /// Identifier of the task.
    #[schema(value_type = String, format = Uuid)]
    task_id: TaskId,
    /// Key of the task, unique within its plan; the only task of a chat has the key `chat`.
    #[schema(examples("status"))]
    key: String,
    /// Agent that runs the task.
    #[schema(examples("git_agent"))]
    agent: String,
    /// Action of the agent.
    action: String,
    /// Input as it was given.
    #[schema(value_type = Object)]
    input: Box<RawValue>,
    /// Keys of the tasks that this task depends on.
    depends_on: Vec<String>,
    /// Effect of the task's failure on its plan.
    on_failure: OnFailureV1,
    /// State of the task.
    #[schema(schema_with = task_states)]
    #[serde(serialize_with = "as_text")]
    status: TaskStatus,
    /// What the task waits for; null while it runs, has ended, or waits for other tasks.
    #[schema(required)]
    waits_for: Option<WaitV1>,
    /// Time before which the task does not start; null when there is none.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    not_before: Option<Timestamp>,
    /// When the task was accepted.
    #[schema(value_type = String, format = DateTime)]
    queued_at: Timestamp,
    /// When the task was first dispatched to an executor.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    dispatched_at: Option<Timestamp>,
    /// When the task ended.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    ended_at: Option<Timestamp>,
    /// Time of the task by phase.
    timeline: TimelineV1,
    /// Output of the agent; null unless the task has succeeded.
    #[schema(required)]
    output: Option<TaskOutputV1>,
    /// Error of a task that did not succeed.
    #[schema(required)]
    error: Option<ErrorBody>,
    /// The approval that it waits or waited for; null without one.
    #[schema(required)]
    approval: Option<ApprovalV1>,
    /// The last decision about a budget that it waits or waited for: `input` says which limit is reached, and `input` of the decision
    /// has new limits of the plan. Null without one.
    #[schema(required)]
    pause: Option<ApprovalV1>,
    /// Attempts, by number.
    attempts: Vec<AttemptV1>,
}

/// What a task waits for.
#[derive(Debug, Serialize, ToSchema)]
struct WaitV1 {
    /// `capacity` of its agent, a decision about its `approval`, a `timer`, or a `budget` that is used up.
    #[schema(schema_with = wait_kinds)]
    kind: String,
    /// When the wait ends at the latest; null when that is not known.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    until: Option<Timestamp>,
}

/// The output of a task.
#[derive(Debug, Serialize, ToSchema)]
struct TaskOutputV1 {
    /// Format of `data`: `text`, `json`, `markdown`, or a name that the agent chose.
    #[schema(examples("text"))]
    output_type: String,
    /// The output: any JSON value. When it is `truncated`, a string with the beginning of it.
    #[schema(value_type = Value)]
    data: Box<RawValue>,
    /// Metadata of the output.
    #[schema(value_type = Object)]
    metadata: Box<RawValue>,
    #[serde(flatten)]
    truncation: Truncation,
}

/// One attempt of a task.
#[derive(Debug, Serialize, ToSchema)]
struct AttemptV1 {
    /// Number of the attempt; 1 for the first.
    #[schema(minimum = 1)]
    number: u32,
    /// When the agent received the request.
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    /// When the attempt ended.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    ended_at: Option<Timestamp>,
    /// `succeeded`, `failed` or `cancelled`; null while the attempt runs.
    #[schema(required)]
    outcome: Option<String>,
    /// Failure class, such as `timeout`.
    #[schema(required)]
    error_class: Option<String>,
    /// The failure in one sentence; of a cancelled attempt, why it was lost.
    #[schema(required)]
    message: Option<String>,
    /// The last part of what the agent's process wrote to stderr. The end of that part when it is `truncated`.
    #[schema(required)]
    stderr_tail: Option<String>,
    #[serde(flatten)]
    truncation: Truncation,
    /// Process that ran the attempt.
    #[schema(examples("pid 4711"))]
    worker: String,
    /// What its calls of language models used; null when it reported nothing.
    #[schema(required)]
    usage: Option<UsageV1>,
}

impl TaskV1 {
    /// A task as it is at `now`.
    pub(super) fn at(now: Timestamp, plan_id: &str, wire: planner::Task) -> Result<Self, InvalidField> {
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
            approval,
            waits_for,
            not_before,
            pause,
        } = wire;
        let queued_at = required_timestamp("queued_at", queued_at)?;
        let ended_at = timestamp("ended_at", ended_at)?;
        let attempts: Vec<AttemptV1> = attempts
            .into_iter()
            .map(|attempt| AttemptV1::of(plan_id, &key, attempt))
            .collect::<Result<_, _>>()?;
        let times = attempts.iter().map(|attempt| (attempt.started_at, attempt.ended_at));
        let status = status.ok_or_else(|| InvalidField::new("status", "is missing"))?;
        let truncation = Truncation::of(output_size, || output_path(plan_id, &key));
        Ok(Self {
            task_id: id("task_id", &task_id)?,
            key,
            agent,
            action,
            input: raw_json("input_json", input_json)?,
            depends_on,
            on_failure: if continue_on_failure { OnFailureV1::Continue } else { OnFailureV1::Fail },
            status,
            waits_for: waits_for.map(WaitV1::try_from).transpose()?,
            not_before: timestamp("not_before", not_before)?,
            queued_at,
            dispatched_at: timestamp("dispatched_at", dispatched_at)?,
            ended_at,
            timeline: TimelineV1::of(status, queued_at, ended_at.unwrap_or(now), times),
            output: output.map(|output| TaskOutputV1::of(output, truncation)).transpose()?,
            error: error.map(ErrorBody::from),
            approval: approval.map(ApprovalV1::try_from).transpose()?,
            pause: pause.map(ApprovalV1::try_from).transpose()?,
            attempts,
        })
    }
}

impl TaskOutputV1 {
    fn of(wire: common::ActionOutput, truncation: Truncation) -> Result<Self, InvalidField> {
        let common::ActionOutput { output_type, data_json, metadata_json } = wire;
        Ok(Self {
            output_type,
            data: raw_json("data_json", data_json)?,
            metadata: raw_json("metadata_json", metadata_json)?,
            truncation,
        })
    }
}

impl AttemptV1 {
    fn of(plan_id: &str, key: &str, wire: planner::Attempt) -> Result<Self, InvalidField> {
        let planner::Attempt {
            usage,
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
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        Ok(Self {
            number,
            started_at: required_timestamp("started_at", started_at)?,
            ended_at: timestamp("ended_at", ended_at)?,
            outcome: given(outcome),
            error_class: given(error_class),
            message: given(message),
            stderr_tail: given(stderr_tail),
            truncation: Truncation::of(stderr_size, || stderr_path(plan_id, key, number)),
            worker,
            usage: usage.map(UsageV1::from),
        })
    }
}

impl TryFrom<planner::Wait> for WaitV1 {
    type Error = InvalidField;

    fn try_from(planner::Wait { kind, until }: planner::Wait) -> Result<Self, InvalidField> {
        Ok(Self { kind, until: timestamp("until", until)? })
    }
}

fn wait_kinds() -> Object {
    states("Kind of a wait.", WaitKind::ALL.iter().map(|kind| kind.as_str()))
}

fn task_states() -> Object {
    states("State of the task.", TaskStatus::ALL.iter().map(|state| state.as_str()))
}
