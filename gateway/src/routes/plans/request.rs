//! What a caller says a plan is.

use phoenix_domain::{
    AgentName, CorrelationId, OrchestratorError,
    action::CHAT_ACTION,
    agent::InvalidAgentName,
    ids::InvalidId,
    json::Object,
    limits::{MAX_CONTEXT_BYTES, check_text},
    plan::MAX_DEADLINE_MS,
};
use phoenix_proto::planner::{PlanAndExecuteRequest, TaskSpec};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    correlation::Scope,
    members::{Members, Whole, is_default, or_absent},
    routes::openapi::schemas,
};

/// A graph of tasks. Unknown fields are refused.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlanRequestV1 {
    /// 1 to 256 tasks. Those that wait for nothing run at once, and at the same time.
    #[schema(value_type = Vec<TaskRequestV1>, min_items = 1, max_items = 256)]
    tasks: Vec<Members<TaskRequestV1>>,
    /// What the agents should know beside their input: at most 262 144 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 262_144)]
    context: Option<String>,
    /// The plan's name in answers, logs and traces; a new one when absent. Wins over the header `X-Correlation-Id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = Uuid)]
    correlation_id: Option<String>,
    /// The plan fails with `timeout` when it has not ended this many milliseconds after it was accepted: at most a year.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 31_536_000_000_u64)]
    deadline_ms: Option<Whole<1, MAX_DEADLINE_MS>>,
}

/// A task. Unknown fields are refused.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TaskRequestV1 {
    /// Its name inside the plan: 1 to 64 letters, digits, `_` or `-`.
    #[schema(schema_with = schemas::task_key)]
    key: String,
    /// Who does it.
    #[schema(schema_with = schemas::agent_name)]
    agent: String,
    /// What to do; `chat` when absent.
    #[serde(skip_serializing_if = "is_chat")]
    #[schema(schema_with = schemas::action)]
    action: Option<String>,
    /// The input. `{{tasks.KEY.output}}` stands for another task's answer, `{{tasks.KEY.output.path}}` for a part of it.
    #[serde(default, deserialize_with = "or_absent", skip_serializing_if = "no_members")]
    #[schema(value_type = Option<Object>)]
    input: Object,
    /// Keys of the tasks it waits for, beside those that its input refers to.
    #[serde(default, deserialize_with = "or_absent", skip_serializing_if = "Vec::is_empty")]
    #[schema(schema_with = schemas::task_keys)]
    depends_on: Vec<String>,
    /// What its failure means for the plan.
    #[serde(default, deserialize_with = "or_absent", skip_serializing_if = "is_default")]
    #[schema(value_type = Option<OnFailureV1>)]
    on_failure: OnFailureV1,
}

/// Whether an input is the one that a task has when none is given.
fn no_members(input: &Object) -> bool {
    input.is_empty()
}

/// Whether a task's action is the one that it has when none is named.
#[expect(clippy::ref_option, reason = "serde hands fields over by reference")]
fn is_chat(action: &Option<String>) -> bool {
    action.as_deref().is_none_or(|action| action == CHAT_ACTION)
}

/// What a task's failure means for its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub(crate) enum OnFailureV1 {
    /// The plan fails; nothing more is started.
    #[default]
    Fail,
    /// The plan goes on; references to the task's output are null.
    Continue,
}

impl TryFrom<String> for OnFailureV1 {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, &'static str> {
        match name.as_str() {
            "fail" => Ok(Self::Fail),
            "continue" => Ok(Self::Continue),
            _ => Err("must be `fail` or `continue`"),
        }
    }
}

impl PlanRequestV1 {
    /// The id first: whatever else is wrong, the answer carries it. What only the planner knows (which agents there are,
    /// whether keys and references fit together) is left to it.
    pub(crate) fn adopt_id(&self, scope: &Scope) -> Result<(), OrchestratorError> {
        adopt(scope, self.correlation_id.as_deref())
    }

    /// The plan as the planner is asked for it.
    ///
    /// # Errors
    /// `validation_failed` that names the field.
    pub(crate) fn into_wish(self) -> Result<PlanAndExecuteRequest, OrchestratorError> {
        let Self { tasks, context, correlation_id: _, deadline_ms } = self;
        let context = context.unwrap_or_default();
        check_text("context", &context, MAX_CONTEXT_BYTES)?;
        if tasks.is_empty() {
            return Err(OrchestratorError::invalid("tasks", "must hold at least one task"));
        }
        let tasks = tasks.into_iter().enumerate().map(|(place, Members(task))| task.into_spec(place));
        Ok(PlanAndExecuteRequest {
            context,
            tasks: tasks.collect::<Result<_, _>>()?,
            deadline_ms: deadline_ms.map_or(0, Whole::get),
            ..Default::default()
        })
    }
}

impl TaskRequestV1 {
    fn into_spec(self, place: usize) -> Result<TaskSpec, OrchestratorError> {
        let Self { key, agent, action, input, depends_on, on_failure } = self;
        let named: Result<AgentName, InvalidAgentName> = agent.parse();
        let agent = named.map_err(|problem| {
            OrchestratorError::invalid(&format!("tasks[{place}].agent"), problem).with_detail("key", &key)
        })?;
        Ok(TaskSpec {
            key,
            agent: agent.into(),
            action: action.unwrap_or_else(|| CHAT_ACTION.to_owned()),
            input_json: input.to_string(),
            depends_on,
            continue_on_failure: on_failure == OnFailureV1::Continue,
        })
    }
}

/// Takes the id that a body names.
pub(crate) fn adopt(scope: &Scope, named: Option<&str>) -> Result<(), OrchestratorError> {
    if let Some(text) = named {
        let id: Result<CorrelationId, InvalidId> = text.parse();
        scope.adopt(id.map_err(|problem| OrchestratorError::invalid("correlation_id", problem))?);
    }
    Ok(())
}
