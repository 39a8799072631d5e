//! Requests for plans as callers send them, not validated yet.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use phoenix_domain::{
    PlanId,
    budget::{Limits, OnBudget},
    conversation::Conversation,
    json::Object,
    plan::TaskSpec,
    planning::Strategy,
};

use crate::store::entry::IdempotencyKey;

/// A request for a plan.
#[derive(Debug, Clone)]
pub struct PlanRequest {
    /// Chat message or tasks.
    pub work: Work,
    /// How the tasks of a message are found.
    pub planning: Planning,
    /// Context that agents receive beside their input.
    pub context: String,
    /// Time before which no task starts.
    pub not_before: Option<Timestamp>,
    /// Time that the plan may take, from when its first task may start.
    pub time_limit: Option<Duration>,
    /// Limits on what the plan may use.
    pub budget: Limits,
    /// What happens when a budget is used up; the setting for plans for which no caller waits when absent.
    pub on_budget: Option<OnBudget>,
    /// Whether the caller waits for the plan.
    pub wait_mode: WaitMode,
    /// Whether agents are asked for what they have to say before they answer.
    pub with_output: bool,
    /// Whether what the task of a chat says is journaled while it runs.
    pub record_output: bool,
    /// Whether the plan continues after its caller disconnects.
    pub continue_on_disconnect: bool,
    /// Idempotency key of the request.
    pub key: Option<IdempotencyKey>,
}

/// Whether a caller waits for the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitMode {
    /// The caller waits: a plan that cannot start now is rejected.
    Sync,
    /// No caller waits: the plan queues until it can start.
    Async,
}

/// How the tasks of a message are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Planning {
    /// The words of the message choose one agent, whatever the settings are.
    #[default]
    Routed,
    /// As the settings say.
    Configured {
        /// Whether the tasks are only proposed.
        is_proposal: bool,
    },
    /// By this strategy.
    Chosen {
        /// The strategy.
        strategy: Strategy,
        /// Whether the tasks are only proposed.
        is_proposal: bool,
    },
}

impl Planning {
    /// Whether the tasks are only proposed.
    #[must_use]
    pub const fn is_proposal(self) -> bool {
        match self {
            Self::Routed => false,
            Self::Configured { is_proposal } | Self::Chosen { is_proposal, .. } => is_proposal,
        }
    }
}

/// The work of a plan.
#[derive(Debug, Clone)]
pub enum Work {
    /// A chat message.
    Chat {
        /// Text of the message; absent when the conversation has messages.
        message: Option<String>,
        /// Agent to use instead of routing.
        agent: Option<String>,
        /// Messages, model and options; empty for a chat with nothing but its message.
        conversation: Conversation,
    },
    /// A graph of tasks.
    Tasks(Vec<TaskSpec>),
}

/// A request to redrive a plan.
#[derive(Debug, Clone)]
pub struct RedriveRequest {
    /// Terminal plan to redrive.
    pub plan_id: PlanId,
    /// New inputs by task key; other tasks keep theirs.
    pub inputs: BTreeMap<String, Object>,
    /// Reason; may be empty.
    pub reason: String,
    /// Whether the new plan continues after its caller disconnects.
    pub continue_on_disconnect: bool,
    /// Idempotency key of the request.
    pub key: Option<IdempotencyKey>,
}
