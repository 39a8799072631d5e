//! Plans, tasks and attempts, and their states.
//!
//! ```text
//! plan   draft → pending → running → succeeded | failed | cancelled
//! task   queued → dispatched → in_progress → succeeded
//!        queued → awaiting_approval | awaiting_time | awaiting_budget → queued
//!                               in_progress → retried → in_progress …
//!        any of these → dead_lettered | cancelled
//! ```
//!
//! A terminal state never changes. A chat is a plan with one task, or one whose tasks a language model plans.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    action::{ActionResult, FailureClass},
    agent_name::AgentName,
    approval::{Approval, ApprovalTerms},
    budget::{Limits, OnBudget},
    error::OrchestratorError,
    ids::{CorrelationId, PlanId, TaskId},
    json::Object,
    planning::final_answer,
    states::states,
    usage::{ModelCall, Usage},
};

/// First characters of the keys of tasks that ask a language model for tasks.
pub const PLANNING_KEY: &str = "planning-";

/// Limit of the time until a plan's deadline in milliseconds: 365 days.
pub const MAX_DEADLINE_MS: u64 = 31_536_000_000;

states! {
    /// State of a plan.
    PlanStatus {
        /// Not accepted yet.
        Draft = "draft",
        /// Accepted and journalled; no task has started.
        Pending = "pending",
        /// At least one task has started.
        Running = "running",
        /// Every task succeeded.
        Succeeded = "succeeded",
        /// A task failed.
        Failed = "failed",
        /// Cancelled by the caller, its disconnect, or an operator.
        Cancelled = "cancelled",
    }
}

states! {
    /// State of a task.
    TaskStatus {
        /// Waits for dispatch.
        Queued = "queued",
        /// Waits for a decision about its approval.
        AwaitingApproval = "awaiting_approval",
        /// Waits for the time before which it must not start.
        AwaitingTime = "awaiting_time",
        /// Waits for a budget that is used up.
        AwaitingBudget = "awaiting_budget",
        /// Sent to an executor.
        Dispatched = "dispatched",
        /// An attempt is running.
        InProgress = "in_progress",
        /// An attempt failed; the next one follows after its backoff.
        Retried = "retried",
        /// The agent succeeded.
        Succeeded = "succeeded",
        /// Failed permanently; kept for inspection and redrive.
        DeadLettered = "dead_lettered",
        /// Cancelled before it ended.
        Cancelled = "cancelled",
    }
}

states! {
    /// Kind of the request that created a plan.
    PlanKind {
        /// A message: one task, whose input is not a template.
        Chat = "chat",
        /// Tasks, whose inputs may refer to outputs of other tasks.
        Graph = "graph",
        /// A chat whose output is journaled while it runs, so that a reader can continue where another one ended.
        RecordedChat = "recorded_chat",
        /// A message for which a language model plans the tasks: tasks of the planner that ask it, and the tasks of its answer.
        Planned = "planned",
        /// A message for which a language model proposes tasks, of which none runs.
        Proposal = "proposal",
    }
}

impl PlanKind {
    /// Whether the plan is a chat: one task, whose input is not a template.
    #[must_use]
    pub const fn is_chat(self) -> bool {
        matches!(self, Self::Chat | Self::RecordedChat)
    }

    /// Whether a language model plans the tasks.
    #[must_use]
    pub const fn is_planned(self) -> bool {
        matches!(self, Self::Planned | Self::Proposal)
    }

    /// Whether the output of running tasks is journaled.
    #[must_use]
    pub const fn records_output(self) -> bool {
        matches!(self, Self::RecordedChat)
    }
}

impl PlanStatus {
    /// Whether the state is final.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

impl TaskStatus {
    /// Whether the state is final.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::DeadLettered | Self::Cancelled)
    }
}

/// Specification of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskSpec {
    /// Key of the task in its plan.
    pub key: String,
    /// Agent.
    pub agent: AgentName,
    /// Action.
    pub action: String,
    /// Input; may have references to outputs of other tasks ([`crate::template`]).
    pub payload: Object,
    /// Keys of the tasks that must end first.
    pub depends_on: Vec<String>,
    /// Effect of a failure on the plan.
    pub on_failure: OnFailure,
    /// Conditions on which it starts, beside its dependencies.
    pub start: StartConditions,
}

/// Conditions on which a task starts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StartConditions {
    /// Terms on which the caller wants it to be approved.
    pub approval: Option<ApprovalTerms>,
    /// Time before which it must not start.
    pub not_before: Option<Timestamp>,
    /// What happens when a budget of it is used up.
    pub on_budget: OnBudget,
}

impl StartConditions {
    /// Whether there is any condition.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.approval.is_none() && self.not_before.is_none() && matches!(self.on_budget, OnBudget::Fail)
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.approval.as_ref().map_or(0, ApprovalTerms::size)
    }
}

/// Effect of a failed task on its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// The plan fails, and no further task starts.
    #[default]
    Fail,
    /// The plan continues; references to the task's output are null.
    Continue,
}

impl OnFailure {
    /// Name in the journal and in responses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Continue => "continue",
        }
    }

    /// The value with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Fail, Self::Continue].into_iter().find(|value| value.as_str() == name)
    }
}

/// A plan in the journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Identifier.
    pub plan_id: PlanId,
    /// Correlation id of the request that created the plan.
    pub correlation_id: CorrelationId,
    /// Kind.
    pub kind: PlanKind,
    /// State.
    pub status: PlanStatus,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it fails with `timeout` if it has not ended.
    pub deadline_at: Option<Timestamp>,
    /// When it reached a terminal state.
    pub ended_at: Option<Timestamp>,
    /// Context from the caller in addition to the inputs.
    pub context: String,
    /// Limits on what its tasks may use together.
    pub budget: Limits,
    /// Output for display, once it has succeeded.
    pub output: Option<String>,
    /// Error, if it failed or was cancelled.
    pub error: Option<OrchestratorError>,
    /// The plan that this plan redrives; its succeeded tasks are kept.
    pub redrive_of: Option<PlanId>,
    /// The plan that redrives this plan.
    pub redriven_as: Option<PlanId>,
    /// Tasks in the order of the request. Empty in listings.
    pub tasks: Vec<Task>,
}

impl TaskSpec {
    /// Size of the specification in bytes: key, agent, action, input and dependencies.
    #[must_use]
    pub fn size(&self) -> usize {
        let Self { key, agent, action, payload, depends_on, on_failure: _, start } = self;
        let before: usize = depends_on.iter().map(String::len).sum();
        key.len() + agent.as_str().len() + action.len() + payload.text_len() + before + start.size()
    }
}

impl Plan {
    /// Whether the task at `ordinal` asks a language model for tasks. Its input is not a template.
    #[must_use]
    pub fn is_planning(&self, ordinal: usize) -> bool {
        let task = self.tasks.get(ordinal);
        self.kind.is_planned() && task.is_some_and(|task| task.spec.key.starts_with(PLANNING_KEY))
    }

    /// Output of its last task as text, if it has one: of the last question to a language model, the answer in it.
    #[must_use]
    pub fn last_output(&self) -> Option<String> {
        let output = self.tasks.last()?.output.as_ref()?;
        let is_answer = self.kind == PlanKind::Planned && self.is_planning(self.tasks.len() - 1);
        let answer = if is_answer { final_answer(&output.data) } else { None };
        Some(answer.unwrap_or_else(|| output.to_text()))
    }

    /// Size of the accepted plan in bytes: its tasks and its context.
    #[must_use]
    pub fn size(&self) -> usize {
        self.context.len() + self.tasks.iter().map(|task| task.spec.size()).sum::<usize>()
    }
}

/// A task in the journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Identifier.
    pub task_id: TaskId,
    /// Specification.
    pub spec: TaskSpec,
    /// State.
    pub status: TaskStatus,
    /// When it was accepted.
    pub queued_at: Timestamp,
    /// When it was first sent to an executor.
    pub dispatched_at: Option<Timestamp>,
    /// When it reached a terminal state.
    pub ended_at: Option<Timestamp>,
    /// Result of the agent.
    pub output: Option<ActionResult>,
    /// Error, if it failed or was cancelled.
    pub error: Option<OrchestratorError>,
    /// The approval that it waits or waited for.
    pub approval: Option<Box<Approval>>,
    /// The decision about a budget that it waits or waited for, the last one.
    pub pause: Option<Box<Approval>>,
    /// Attempts in order of their numbers.
    pub attempts: Vec<Attempt>,
}

/// One execution of an agent for a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Number, from 1.
    pub number: u32,
    /// When the request was sent to the process.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Outcome; absent while it is running.
    pub outcome: Option<AttemptOutcome>,
    /// Process that ran it, such as `pid 4711`.
    pub worker: String,
}

/// Outcome of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The agent succeeded.
    Succeeded,
    /// The attempt was cancelled, or lost.
    Cancelled {
        /// Why, in one sentence. Empty when its task ended.
        reason: String,
    },
    /// The attempt failed.
    Failed {
        /// Class of the failure.
        class: FailureClass,
        /// Message, one sentence.
        message: String,
        /// Tail of the process's stderr.
        stderr_tail: String,
        /// Calls of models that used tokens all the same.
        model_calls: Vec<ModelCall>,
    },
}

impl Plan {
    /// What the attempts of its tasks used. A task that was kept from a redriven plan used nothing here.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let mut sum = Usage::default();
        for task in &self.tasks {
            task.attempts.iter().for_each(|attempt| sum += task.usage_of(attempt));
        }
        sum
    }
}

impl Task {
    /// The approval that it waits for, or waited for last.
    #[must_use]
    pub fn last_approval(&self) -> Option<&Approval> {
        match self.status {
            TaskStatus::AwaitingApproval => self.approval.as_deref(),
            _ => self.pause.as_deref().or(self.approval.as_deref()),
        }
    }

    /// What an attempt used: as the output says if it succeeded, else as it is recorded with the failure.
    #[must_use]
    pub fn usage_of(&self, attempt: &Attempt) -> Usage {
        match (&attempt.outcome, &self.output) {
            (Some(AttemptOutcome::Failed { model_calls, .. }), _) => Usage::of(model_calls),
            (Some(AttemptOutcome::Succeeded), Some(output)) => {
                Usage::of(&ModelCall::in_metadata(&output.metadata))
            }
            _ => Usage::default(),
        }
    }
}

impl AttemptOutcome {
    /// Why an attempt was cancelled or lost, where it is known.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Cancelled { reason } if !reason.is_empty() => Some(reason),
            Self::Cancelled { .. } | Self::Succeeded | Self::Failed { .. } => None,
        }
    }

    /// Name in the journal and in responses.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Cancelled { .. } => "cancelled",
            Self::Failed { .. } => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_found_by_their_names() {
        for &status in PlanStatus::ALL {
            assert_eq!(PlanStatus::from_name(status.as_str()), Some(status));
        }
        for &status in TaskStatus::ALL {
            assert_eq!(TaskStatus::from_name(status.as_str()), Some(status));
        }
        assert_eq!(TaskStatus::from_name("done"), None);
    }
}
