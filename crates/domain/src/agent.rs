//! What an agent is: a named executable with limits.

use std::{borrow::Borrow, collections::BTreeMap, fmt, str::FromStr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{action::CHAT_ACTION, health::BreakerPolicy, retry::RetryPolicy, schema::InputSchema};

/// The configured name of an agent: 1 to 64 characters of `a-z`, `A-Z`, `0-9`, `_`, `-`, `.`, starting with a letter
/// or digit. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AgentName(Arc<str>);

/// A string that can't name an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 64 letters, digits, `_`, `-` or `.`, starting with a letter or digit")]
pub struct InvalidAgentName;

impl AgentName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AgentName {
    type Err = InvalidAgentName;

    fn from_str(name: &str) -> Result<Self, InvalidAgentName> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if starts_well && name.len() <= 64 && name.chars().all(allowed) {
            Ok(Self(name.into()))
        } else {
            Err(InvalidAgentName)
        }
    }
}

impl TryFrom<String> for AgentName {
    type Error = InvalidAgentName;

    fn try_from(name: String) -> Result<Self, InvalidAgentName> {
        name.parse()
    }
}

impl From<AgentName> for String {
    fn from(name: AgentName) -> Self {
        name.0.as_ref().into()
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for AgentName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// How the executor runs an agent's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentMode {
    /// One process per attempt: one line in, end of input, one line out, exit 0.
    #[default]
    Oneshot,
    /// Processes kept alive, one line per request, many requests per process.
    Workers,
}

/// Characters of an unknown action that are repeated to its caller.
const LONGEST_QUOTE: usize = 64;

/// Declared as an action's name, it stands for every action that is not declared by its own.
pub const ANY_ACTION: &str = "*";

/// One thing that an agent says it can do.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ActionSpec {
    /// What it is for, in one line, for people and for models that plan.
    pub description: String,
    /// What it takes as its input; anything when absent.
    pub input_schema: Option<InputSchema>,
}

/// An action that an agent does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("has no action `{action}`; there are {}", known.join(", "))]
pub struct UnknownAction {
    /// What was asked for.
    pub action: String,
    /// What the agent declares, and `chat`.
    pub known: Vec<String>,
}

/// Everything the services know of one agent. Built from the configuration; the same in every service.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentSpec {
    /// Its name: `tool` in requests, `agent` in logs.
    pub name: AgentName,
    /// What it is for, in one line, for people and for models that plan.
    pub description: String,
    /// Program and arguments. A program without a slash is looked up in `PATH`.
    pub command: Vec<String>,
    /// Variables of the executor's environment that are passed on; nothing else is.
    pub env: Vec<String>,
    /// Words or phrases in a message that route it here.
    pub route: Vec<String>,
    /// What it can do, by name. An agent that declares nothing can be asked for anything.
    pub actions: BTreeMap<String, ActionSpec>,
    /// How its process is run.
    pub mode: AgentMode,
    /// Processes kept alive in mode `workers`.
    pub workers: u32,
    /// Time for one attempt.
    pub timeout: Duration,
    /// Time for a worker to start: until it begins to read its input.
    pub start_timeout: Duration,
    /// When a failed attempt is tried again.
    pub retry: RetryPolicy,
    /// When its circuit opens.
    pub breaker: BreakerPolicy,
    /// Attempts that run at once in mode `oneshot`.
    pub max_concurrency: u32,
    /// Tasks that wait for a free place; one more is `overloaded`.
    pub max_queue: u32,
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
            route: Vec::new(),
            actions: BTreeMap::new(),
            mode: AgentMode::default(),
            workers: 4,
            timeout: Duration::from_secs(30),
            start_timeout: Duration::from_secs(30),
            retry: RetryPolicy::default(),
            breaker: BreakerPolicy::default(),
            max_concurrency: 16,
            max_queue: 256,
        }
    }

    /// What is declared of `action`: nothing for an agent that declares no actions, nor for a chat, which every agent can
    /// be asked for.
    ///
    /// # Errors
    /// The agent declares actions, and this is none of them.
    pub fn action(&self, action: &str) -> Result<Option<&ActionSpec>, UnknownAction> {
        match self.actions.get(action).or_else(|| self.actions.get(ANY_ACTION)) {
            None if !self.actions.is_empty() && action != CHAT_ACTION => {
                let mut known: Vec<_> = self.actions.keys().cloned().collect();
                if !self.actions.contains_key(CHAT_ACTION) {
                    known.insert(0, CHAT_ACTION.into());
                }
                Err(UnknownAction { action: action.chars().take(LONGEST_QUOTE).collect(), known })
            }
            declared => Ok(declared),
        }
    }

    /// Tasks of it that run at once.
    #[must_use]
    pub const fn concurrency(&self) -> u32 {
        match self.mode {
            AgentMode::Oneshot => self.max_concurrency,
            AgentMode::Workers => self.workers,
        }
    }

    /// Tasks of it that an executor takes at once: those that run and those that wait. One more is `overloaded`.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.concurrency().saturating_add(self.max_queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_plain_words() {
        for good in ["git_agent", "a", "reviewer-2", "x.y", "9lives"] {
            assert!(good.parse::<AgentName>().is_ok(), "{good}");
        }
        for bad in ["", "-rf", ".hidden", "a b", "ä", "a/b", &"x".repeat(65)] {
            assert!(bad.parse::<AgentName>().is_err(), "{bad}");
        }
    }
}
