//! Specification of an agent: a named executable with limits.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

pub use crate::agent_name::{AgentName, InvalidAgentName};
use crate::{
    action::CHAT_ACTION, action_limits::ActionLimits, approval::ApprovalPolicy, health::BreakerPolicy,
    mcp::McpSettings, mcp_listing::McpListing, retry::RetryPolicy, schema::InputSchema,
};

/// Process model of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentMode {
    /// One process per attempt: one line in, end of input, one line out, exit 0.
    #[default]
    Oneshot,
    /// Long-running processes, one line per request, many requests per process.
    Workers,
    /// One MCP server, which serves many requests at the same time. Follows from [`AgentSpec::mcp`].
    #[serde(skip)]
    Mcp,
}

/// Length limit, in characters, of an unknown action in an error message.
const MAX_QUOTE_CHARS: usize = 64;

/// Action name that declares every action without a declaration of its own.
pub const ANY_ACTION: &str = "*";

/// One action that an agent declares.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ActionSpec {
    /// Purpose in one line, for people and for models that plan.
    pub description: String,
    /// Schema of the input; any input when absent.
    pub input_schema: Option<InputSchema>,
    /// Limits that differ from those of the agent.
    pub limits: ActionLimits,
}

/// Error of an action that an agent does not declare.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("has no action `{action}`; there are {}", known.join(", "))]
pub struct UnknownAction {
    /// The requested action.
    pub action: String,
    /// The declared actions, and `chat`.
    pub known: Vec<String>,
}

/// Specification of one agent. Its executor builds it from the configuration, and publishes it without program and
/// environment.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentSpec {
    /// Name: `tool` in requests, `agent` in logs.
    pub name: AgentName,
    /// Purpose in one line, for people and for models that plan.
    pub description: String,
    /// Program and arguments. A program without a slash is looked up in `PATH`. Empty outside of the executor.
    pub command: Vec<String>,
    /// Variables of the executor's environment that the process gets; it gets no others. Empty outside of the executor.
    pub env: Vec<String>,
    /// Provider of models that it asks first, if it is an agent for language models.
    pub provider: Option<String>,
    /// Whether that provider is configured; `false` for one that is asked only if it is found, such as a local Ollama.
    pub provider_is_configured: bool,
    /// Words or phrases that route a message to the agent.
    pub route: Vec<String>,
    /// Declared actions by name. An agent without declarations accepts any action.
    pub actions: BTreeMap<String, ActionSpec>,
    /// Settings of an agent that is an MCP server. Absent outside of the executor.
    pub mcp: Option<McpSettings>,
    /// What an MCP server offers beside its tools. Absent until it is known.
    pub listing: Option<Arc<McpListing>>,
    /// Process model.
    pub mode: AgentMode,
    /// Number of processes in mode `workers`.
    pub workers: u32,
    /// Time limit of an attempt.
    pub timeout: Duration,
    /// Time limit for a worker to start, that is to begin to read its input.
    pub start_timeout: Duration,
    /// Retries of failed attempts.
    pub retry: RetryPolicy,
    /// Circuit breaker.
    pub breaker: BreakerPolicy,
    /// Limit of concurrent attempts in the modes `oneshot` and `mcp`.
    pub max_concurrency: u32,
    /// Limit of queued tasks; a task beyond it is rejected with `overloaded`.
    pub max_queue: u32,
    /// Actions that need an approval.
    pub approval: ApprovalPolicy,
}

impl AgentSpec {
    /// An agent with the default limits.
    #[must_use]
    pub fn new(name: AgentName, command: Vec<String>) -> Self {
        Self {
            name,
            description: String::new(),
            command,
            env: Vec::new(),
            provider: None,
            provider_is_configured: false,
            route: Vec::new(),
            actions: BTreeMap::new(),
            mcp: None,
            listing: None,
            mode: AgentMode::default(),
            workers: 4,
            timeout: Duration::from_secs(30),
            start_timeout: Duration::from_secs(30),
            retry: RetryPolicy::default(),
            breaker: BreakerPolicy::default(),
            max_concurrency: 16,
            max_queue: 256,
            approval: ApprovalPolicy::default(),
        }
    }

    /// The declaration of `action`. Absent for an agent without declarations, and for a chat, which every agent accepts.
    ///
    /// # Errors
    /// When the agent declares actions, but not this one.
    pub fn action(&self, action: &str) -> Result<Option<&ActionSpec>, UnknownAction> {
        match self.actions.get(action).or_else(|| self.actions.get(ANY_ACTION)) {
            None if !self.actions.is_empty() && action != CHAT_ACTION => {
                let mut known: Vec<_> = self.actions.keys().cloned().collect();
                if !self.actions.contains_key(CHAT_ACTION) {
                    known.insert(0, CHAT_ACTION.into());
                }
                Err(UnknownAction { action: action.chars().take(MAX_QUOTE_CHARS).collect(), known })
            }
            declared => Ok(declared),
        }
    }

    /// Limit of tasks that run at the same time.
    #[must_use]
    pub const fn concurrency(&self) -> u32 {
        match self.mode {
            AgentMode::Oneshot | AgentMode::Mcp => self.max_concurrency,
            AgentMode::Workers => self.workers,
        }
    }

    /// Limit of running and queued tasks together. A task beyond it is rejected with `overloaded`.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.concurrency().saturating_add(self.max_queue)
    }
}

impl AgentSpec {
    /// Time limit of an attempt of `action`.
    #[must_use]
    pub fn timeout_of(&self, action: &str) -> Duration {
        self.limits_of(action).timeout.unwrap_or(self.timeout)
    }

    /// Retries of failed attempts of `action`.
    #[must_use]
    pub fn retry_of(&self, action: &str) -> RetryPolicy {
        self.limits_of(action).retry.unwrap_or(self.retry)
    }

    /// Limit of the attempts of a task, whatever its action is.
    #[must_use]
    pub fn most_attempts(&self) -> u32 {
        let of_actions = self.actions.values().filter_map(|action| action.limits.retry);
        of_actions.fold(self.retry.max_attempts, |most, retry| most.max(retry.max_attempts))
    }

    fn limits_of(&self, action: &str) -> ActionLimits {
        let declared = self.actions.get(action).or_else(|| self.actions.get(ANY_ACTION));
        let declared = declared.or_else(|| self.only_tool().filter(|_| action == CHAT_ACTION));
        declared.map(|action| action.limits).unwrap_or_default()
    }

    /// The only tool of an MCP server, which gets its chats.
    fn only_tool(&self) -> Option<&ActionSpec> {
        let mut tools = self.actions.values();
        let only = tools.next().filter(|_| self.mode == AgentMode::Mcp)?;
        tools.next().is_none().then_some(only)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_an_action_replace_those_of_its_agent() {
        let second = Duration::from_secs(1);
        let retry = RetryPolicy { max_attempts: 7, ..RetryPolicy::default() };
        let limits = ActionLimits { timeout: Some(second), retry: Some(retry) };
        let quick = ActionSpec { limits, ..ActionSpec::default() };
        let mut agent = AgentSpec::new("a".parse().unwrap(), Vec::new());
        agent.actions = [("quick".to_owned(), quick), ("slow".to_owned(), ActionSpec::default())].into();
        assert_eq!((agent.timeout_of("quick"), agent.retry_of("quick")), (second, retry));
        assert_eq!((agent.timeout_of("slow"), agent.retry_of("slow")), (agent.timeout, agent.retry));
        assert_eq!(agent.timeout_of(CHAT_ACTION), agent.timeout);
        assert_eq!(agent.most_attempts(), 7);
        agent.actions.remove("slow");
        assert_eq!(agent.timeout_of(CHAT_ACTION), agent.timeout, "it may be an action of its own");
        agent.mode = AgentMode::Mcp;
        assert_eq!(agent.timeout_of(CHAT_ACTION), second);
    }
}
