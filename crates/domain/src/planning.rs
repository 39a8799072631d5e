//! Planning: how the tasks of a message are found, and the limits on what a language model may propose.

use serde::{Deserialize, Serialize};

use crate::{agent_name::AgentName, budget::Limits, builtin::llm_router, states::states};

/// Largest number of times that a language model may be asked for the tasks of one message.
pub const MAX_ROUNDS: u32 = 5;

states! {
    /// How the tasks of a message are found.
    #[derive(Default)]
    Strategy {
        /// The words of the message choose one agent.
        #[default]
        Rules = "rules",
        /// A language model proposes tasks.
        Model = "model",
        /// The words of the message choose an agent; where no words match, a language model proposes tasks if one is configured.
        Auto = "auto",
    }
}

/// Settings of planning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanningSettings {
    /// Strategy of requests that leave the choice to the settings.
    pub strategy: Strategy,
    /// Agent that is asked for tasks. It answers chats with `messages` and the option `response_format`.
    pub agent: AgentName,
    /// Model that the agent is asked to use; its own choice when absent.
    pub model: Option<String>,
    /// Largest number of tasks in a proposal.
    pub max_tasks: usize,
    /// Largest number of tasks that depend on each other in a row.
    pub max_depth: usize,
    /// Largest number of times that the model is asked: once, and again with the problems of its answer.
    pub max_rounds: u32,
    /// Largest number of tokens of an answer.
    pub max_tokens: u32,
    /// Limits of a plan whose tasks a model proposes, beside those of its request: the smaller one counts.
    pub budget: Limits,
    /// Whether writing actions of built-in agents need an approval when a model proposes them.
    pub approve_writes: bool,
}

impl Default for PlanningSettings {
    fn default() -> Self {
        Self {
            strategy: Strategy::Rules,
            agent: llm_router(),
            model: None,
            max_tasks: 16,
            max_depth: 8,
            max_rounds: 2,
            max_tokens: 4096,
            budget: Limits::NONE,
            approve_writes: true,
        }
    }
}
