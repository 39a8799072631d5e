//! Body of a request for a plan.

use jiff::Timestamp;
use phoenix_domain::{
    AgentName, OrchestratorError,
    action::CHAT_ACTION,
    agent::InvalidAgentName,
    budget::OnBudget,
    json::Object,
    limits::{MAX_CONTEXT_BYTES, MAX_DELAY_SECS, check_text},
    plan::MAX_DEADLINE_MS,
};
use phoenix_proto::{
    InvalidField,
    planner::{PlanAndExecuteRequest, TaskSpec},
    to_timestamp,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    approval_request::{ApprovalRequestV1, approval_request},
    budget::BudgetV1,
    schemas,
};
use crate::members::{Members, Whole, is_default, or_absent};

/// A graph of tasks. Unknown fields are rejected.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlanRequestV1 {
    /// 1 to 256 tasks. Tasks without dependencies start at once, concurrently.
    #[schema(value_type = Vec<TaskRequestV1>, min_items = 1, max_items = 256)]
    tasks: Vec<Members<TaskRequestV1>>,
    /// Context for the agents, beside their inputs: at most 262 144 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 262_144)]
    context: Option<String>,
    /// Correlation id in responses, logs and traces; generated when absent. Overrides the header `X-Correlation-Id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = Uuid)]
    correlation_id: Option<String>,
    /// Time before which no task starts: at most 365 days ahead. A time in the past has no effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    not_before: Option<String>,
    /// The same as milliseconds after acceptance. Excludes `not_before`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 31_536_000_000_u64)]
    delay_ms: Option<Whole<1, MAX_DELAY_MS>>,
    /// Milliseconds after which a plan that has not ended fails with `timeout`: at most a year. They count from acceptance, or from
    /// the time at which the first task may start.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 31_536_000_000_u64)]
    deadline_ms: Option<Whole<1, MAX_DEADLINE_MS>>,
    /// What happens to a task when a budget of it is used up; the planner's setting when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    on_budget: Option<OnBudgetV1>,
    /// Limits on what the tasks may use together.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BudgetV1>)]
    budget: Option<Members<BudgetV1>>,
}

/// A task. Unknown fields are rejected.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TaskRequestV1 {
    /// Key of the task, unique within its plan: 1 to 64 letters, digits, `_` or `-`.
    #[schema(schema_with = schemas::task_key)]
    key: String,
    /// Agent that runs the task.
    #[schema(schema_with = schemas::agent_name)]
    agent: String,
    /// Action of the agent; `chat` when absent.
    #[serde(skip_serializing_if = "is_chat")]
    #[schema(schema_with = schemas::action)]
    action: Option<String>,
    /// Input. `{{tasks.KEY.output}}` stands for the output of another task, `{{tasks.KEY.output.path}}` for a part of it.
    #[serde(default, deserialize_with = "or_absent", skip_serializing_if = "no_members")]
    #[schema(value_type = Option<Object>)]
    input: Object,
    /// Keys of the tasks that this task depends on, beside those that its input refers to.
    #[serde(default, deserialize_with = "or_absent", skip_serializing_if = "Vec::is_empty")]
    #[schema(schema_with = schemas::task_keys)]
    depends_on: Vec<String>,
    /// Effect of the task's failure on the plan.
    #[serde(default, deserialize_with = "or_absent", skip_serializing_if = "is_default")]
    #[schema(value_type = Option<OnFailureV1>)]
    on_failure: OnFailureV1,
    /// Wait for an approval before the task runs: `required`, or the terms on which it waits. A task also waits when its agent
    /// requires it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = approval_request)]
    approval: Option<ApprovalRequestV1>,
    /// Time before which the task does not start: at most 365 days ahead, and before the deadline of the plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    not_before: Option<String>,
    /// The same as milliseconds after the acceptance of the plan. Excludes `not_before`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 31_536_000_000_u64)]
    delay_ms: Option<Whole<1, MAX_DELAY_MS>>,
}

/// Longest delay in milliseconds.
const MAX_DELAY_MS: u64 = MAX_DELAY_SECS as u64 * 1000;

/// The time in a member `not_before`, whose path is `field`.
fn time_in(field: &str, text: Option<String>) -> Result<Option<Timestamp>, OrchestratorError> {
    let parse = |text: String| {
        text.parse::<Timestamp>().map_err(|_| {
            let shown: String = text.chars().take(64).collect();
            let problem = format!("must be a time such as 2026-11-27T22:00:00Z, not `{shown}`");
            OrchestratorError::invalid(field, problem)
        })
    };
    text.map(parse).transpose()
}

/// Whether an input is the default.
fn no_members(input: &Object) -> bool {
    input.is_empty()
}

/// Whether an action is the default.
#[expect(clippy::ref_option, reason = "serde hands fields over by reference")]
fn is_chat(action: &Option<String>) -> bool {
    action.as_deref().is_none_or(|action| action == CHAT_ACTION)
}

/// Effect of a task's failure on its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub(crate) enum OnFailureV1 {
    /// The plan fails; no further task starts.
    #[default]
    Fail,
    /// The plan continues; references to the task's output are null.
    Continue,
}

/// What happens to a task when a budget of it is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub(crate) enum OnBudgetV1 {
    /// It fails with `budget_exhausted`.
    Fail,
    /// It waits for a decision, or until the budget begins anew.
    Pause,
}

impl TryFrom<String> for OnBudgetV1 {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, &'static str> {
        match name.as_str() {
            "fail" => Ok(Self::Fail),
            "pause" => Ok(Self::Pause),
            _ => Err("must be `fail` or `pause`"),
        }
    }
}

impl From<OnBudgetV1> for OnBudget {
    fn from(on_budget: OnBudgetV1) -> Self {
        match on_budget {
            OnBudgetV1::Fail => Self::Fail,
            OnBudgetV1::Pause => Self::Pause,
        }
    }
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
    /// The correlation id that the body names.
    pub(crate) fn correlation_id(&self) -> Option<&str> {
        self.correlation_id.as_deref()
    }

    /// A plan of proposed tasks.
    ///
    /// # Errors
    /// When the input of a task is not an object.
    pub(crate) fn proposed(tasks: Vec<TaskSpec>, context: String) -> Result<Self, InvalidField> {
        let tasks = tasks.into_iter().map(|task| TaskRequestV1::of(task).map(Members));
        Ok(Self {
            tasks: tasks.collect::<Result<_, _>>()?,
            context: Some(context).filter(|context| !context.is_empty()),
            correlation_id: None,
            not_before: None,
            delay_ms: None,
            deadline_ms: None,
            on_budget: None,
            budget: None,
        })
    }

    /// The plan as a request to the planner. What only the planner knows (which agents exist, whether keys and references fit
    /// together) is left to the planner.
    ///
    /// # Errors
    /// `validation_failed` that names the field.
    pub(crate) fn into_request(self) -> Result<PlanAndExecuteRequest, OrchestratorError> {
        let Self { tasks, context, correlation_id: _, not_before, delay_ms, deadline_ms, on_budget, budget } =
            self;
        let context = context.unwrap_or_default();
        check_text("context", &context, MAX_CONTEXT_BYTES)?;
        if tasks.is_empty() {
            return Err(OrchestratorError::invalid("tasks", "must hold at least one task"));
        }
        let tasks = tasks.into_iter().enumerate().map(|(index, Members(task))| task.into_spec(index));
        Ok(PlanAndExecuteRequest {
            context,
            tasks: tasks.collect::<Result<_, _>>()?,
            not_before: time_in("not_before", not_before)?.map(to_timestamp),
            delay_ms: delay_ms.map_or(0, Whole::get),
            deadline_ms: deadline_ms.map_or(0, Whole::get),
            budget: budget.map(|Members(budget)| budget.into()),
            on_budget: on_budget
                .map_or_else(String::new, |on_budget| OnBudget::from(on_budget).as_str().into()),
            ..Default::default()
        })
    }
}

impl TaskRequestV1 {
    /// A proposed task.
    fn of(task: TaskSpec) -> Result<Self, InvalidField> {
        let TaskSpec {
            key,
            agent,
            action,
            input_json,
            depends_on,
            continue_on_failure,
            approval,
            not_before: _,
            delay_ms: _,
        } = task;
        Ok(Self {
            key,
            agent,
            action: Some(action),
            input: Object::parse(&input_json).map_err(|problem| InvalidField::new("input_json", problem))?,
            depends_on,
            on_failure: if continue_on_failure { OnFailureV1::Continue } else { OnFailureV1::Fail },
            approval: approval.map(ApprovalRequestV1::of),
            not_before: None,
            delay_ms: None,
        })
    }

    fn into_spec(self, index: usize) -> Result<TaskSpec, OrchestratorError> {
        let Self { key, agent, action, input, depends_on, on_failure, approval, not_before, delay_ms } = self;
        let not_before = time_in(&format!("tasks[{index}].not_before"), not_before)
            .map_err(|error| error.with_detail("key", &key))?;
        let named: Result<AgentName, InvalidAgentName> = agent.parse();
        let agent = named.map_err(|problem| {
            OrchestratorError::invalid(&format!("tasks[{index}].agent"), problem).with_detail("key", &key)
        })?;
        Ok(TaskSpec {
            key,
            agent: agent.into(),
            action: action.unwrap_or_else(|| CHAT_ACTION.to_owned()),
            input_json: input.to_string(),
            depends_on,
            continue_on_failure: on_failure == OnFailureV1::Continue,
            approval: approval.map(ApprovalRequestV1::into_terms),
            not_before: not_before.map(to_timestamp),
            delay_ms: delay_ms.map_or(0, Whole::get),
        })
    }
}
