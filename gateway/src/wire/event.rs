//! Events of a plan.

use jiff::Timestamp;
use phoenix_proto::{
    InvalidField, action::raw_json, live_output::LiveOutput, planner::WatchPlanResponse, required_timestamp,
};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// Kinds of events. A planner of a later version may send others.
pub(crate) const KINDS: [&str; 9] = [
    "plan_accepted",
    "tasks_added",
    "task_dispatched",
    "attempt_started",
    "attempt_ended",
    "task_ended",
    "plan_ended",
    "plan_redriven",
    "dead_letter_discarded",
];

/// Names of events that are not journaled: what running tasks say before they end.
pub(crate) const LIVE_KINDS: [&str; 3] = ["output", "output_reset", "progress"];

/// What a running task says before it ends: the `data` of the server-sent events `output`, `output_reset` and `progress`. They
/// have no `id`, are not stored, and may be lost; the result of the task has everything.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LiveEventV1 {
    /// Kind of the event, as in `event`. `output`: a part of the result. `output_reset`: a new attempt has begun, and what the
    /// task has said before is void. `progress`: the newest progress report.
    #[schema(examples("output"))]
    pub(crate) kind: &'static str,
    /// Key of the task.
    task_key: String,
    /// `attempt` in any case. `output`: `offset` (bytes of texts and deltas of the attempt before), `text`, and optionally `delta`,
    /// in the shape of OpenAI's `choices[].delta`. `progress`: optionally `message`, `progress`, `total`.
    #[schema(value_type = Object, examples(json!({"attempt": 1, "offset": 0, "text": "The answer"})))]
    data: Box<RawValue>,
}

impl From<LiveOutput> for LiveEventV1 {
    fn from(output: LiveOutput) -> Self {
        let (kind, task_key, data) = output.into_parts();
        Self { kind, task_key, data }
    }
}

/// An event of a plan: the `data` of a server-sent event.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PlanEventV1 {
    /// Journal position, as in `id`.
    pub(crate) position: u64,
    /// Kind of the event, as in `event`: `plan_accepted`, `tasks_added`, `task_dispatched`, `attempt_started`, `attempt_ended`,
    /// `task_ended`, `plan_ended`; after the end of the plan `plan_redriven`, `dead_letter_discarded`. More kinds may follow.
    #[schema(examples("attempt_started"))]
    pub(crate) kind: String,
    /// When the event happened.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Key of the task; null for events of the plan itself.
    #[schema(required)]
    task_key: Option<String>,
    /// Facts of the event.
    #[schema(value_type = Object)]
    data: Box<RawValue>,
}

impl TryFrom<WatchPlanResponse> for PlanEventV1 {
    type Error = InvalidField;

    fn try_from(wire: WatchPlanResponse) -> Result<Self, InvalidField> {
        let WatchPlanResponse { position, kind, at, task_key, data_json } = wire;
        // White space would break the line of the stream that names the kind.
        if kind.is_empty() || !kind.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidField::new("kind", "must be a word"));
        }
        Ok(Self {
            position,
            kind,
            at: required_timestamp("at", at)?,
            task_key: Some(task_key).filter(|key| !key.is_empty()),
            data: raw_json("data_json", data_json)?,
        })
    }
}
