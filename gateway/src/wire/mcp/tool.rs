//! Tools, as `tools/list` describes them.

use phoenix_domain::json::Json;
use phoenix_proto::health_v1::AgentAction;
use serde::Serialize;

use super::schema;

/// A tool.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Tool {
    /// Unique name.
    pub(crate) name: String,
    description: String,
    input_schema: Json,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<Annotations>,
    #[serde(skip_serializing_if = "Option::is_none")]
    execution: Option<Execution>,
}

/// How calls of a tool run.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
struct Execution {
    task_support: &'static str,
}

/// Hints about a tool's effects.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
struct Annotations {
    read_only_hint: bool,
    destructive_hint: bool,
    idempotent_hint: bool,
    open_world_hint: bool,
}

/// A tool of Phoenix itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnTool {
    Chat,
    RunPlan,
    GetPlan,
    CancelPlan,
    ListAgents,
}

impl OwnTool {
    /// Every tool, in the order of the list.
    pub(crate) const ALL: [Self; 5] =
        [Self::Chat, Self::RunPlan, Self::GetPlan, Self::CancelPlan, Self::ListAgents];

    /// The one whose calls may be tasks: it runs plans, and its result is one.
    pub(crate) const TASK: Self = Self::RunPlan;

    /// The tool with this name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tool| tool.name() == name)
    }

    /// The name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::RunPlan => "run_plan",
            Self::GetPlan => "get_plan",
            Self::CancelPlan => "cancel_plan",
            Self::ListAgents => "list_agents",
        }
    }

    /// The description, for a client that can ask for tasks or not.
    pub(crate) fn describe(self, has_tasks: bool) -> Tool {
        let hints = |read_only_hint, destructive_hint, idempotent_hint, open_world_hint| Annotations {
            read_only_hint,
            destructive_hint,
            idempotent_hint,
            open_world_hint,
        };
        let (description, input_schema, annotations) = match self {
            Self::Chat => (
                "Send a message to an agent, and get its answer. Without `agent`, the words of the message choose one.",
                schema::chat().into(),
                hints(false, true, false, true),
            ),
            Self::RunPlan => (
                "Run a graph of tasks, each an action of an agent, and get the plan with every output. `list_agents` shows the \
                 agents with their actions. Tasks without dependencies run at the same time.",
                schema::run_plan().into(),
                hints(false, true, false, true),
            ),
            Self::GetPlan => (
                "Get a plan: its state, its output or error, and its tasks with their attempts.",
                schema::get_plan().into(),
                hints(true, false, true, false),
            ),
            Self::CancelPlan => (
                "Cancel a plan that runs: its waiting tasks never start, its running agents are killed.",
                schema::cancel_plan().into(),
                hints(false, true, true, false),
            ),
            Self::ListAgents => (
                "List the agents with their health and their actions. With `agent`, that agent with the input schemas of its \
                 actions.",
                schema::list_agents().into(),
                hints(true, false, true, false),
            ),
        };
        Tool {
            name: self.name().into(),
            description: description.into(),
            input_schema,
            annotations: Some(annotations),
            execution: (has_tasks && self == Self::TASK).then_some(Execution { task_support: "optional" }),
        }
    }
}

impl Tool {
    /// The tool `name` for an action of `agent`.
    pub(crate) fn of_action(name: String, agent: &str, action: &AgentAction) -> Self {
        let AgentAction { name: action, description, input_schema_json, .. } = action;
        let description = match description.trim() {
            "" => format!("Runs the action `{action}` of the agent `{agent}`."),
            described => described.to_owned(),
        };
        Self {
            name,
            description,
            input_schema: schema::of_action(input_schema_json),
            annotations: None,
            execution: None,
        }
    }
}
