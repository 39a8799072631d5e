//! Actions of agents as tools of the Model Context Protocol.
//!
//! The list is read from the health service, and kept for a few seconds: a call needs it to find the action behind a name.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use phoenix_domain::{agent::ANY_ACTION, pattern::matches_pattern};
use phoenix_proto::health_v1::GetAgentHealthResponse;

use crate::wire::mcp::{tool::Tool, tool_name};

/// How long a list is used without being read again.
const FRESH: Duration = Duration::from_secs(5);

/// The actions that are offered, and the newest list of them.
#[derive(Debug)]
pub(crate) struct ActionTools {
    /// Patterns of `agent.action`.
    patterns: Vec<String>,
    newest: Mutex<Option<(Instant, Arc<ActionList>)>>,
}

/// Tools for actions, at one moment.
#[derive(Debug, Default)]
pub(crate) struct ActionList {
    tools: Vec<Tool>,
    actions: HashMap<String, Action>,
}

/// An action of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Action {
    /// Name of the agent.
    pub(crate) agent: String,
    /// Name of the action.
    pub(crate) action: String,
}

impl ActionTools {
    /// The tools for actions that match one of `patterns`.
    pub(crate) fn new(patterns: Vec<String>) -> Self {
        Self { patterns, newest: Mutex::default() }
    }

    /// Whether no action is offered.
    pub(crate) fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// The newest list, unless it is old.
    pub(crate) fn fresh(&self) -> Option<Arc<ActionList>> {
        let newest = self.newest.lock();
        let (_, list) = newest.as_ref().filter(|(read_at, _)| read_at.elapsed() < FRESH)?;
        Some(Arc::clone(list))
    }

    /// The newest list, however old it is.
    pub(crate) fn newest(&self) -> Option<Arc<ActionList>> {
        self.newest.lock().as_ref().map(|(_, list)| Arc::clone(list))
    }

    /// Makes the list for `agents` the newest one.
    pub(crate) fn update(&self, agents: &[GetAgentHealthResponse]) -> Arc<ActionList> {
        let list = Arc::new(ActionList::of(&self.patterns, agents));
        *self.newest.lock() = Some((Instant::now(), Arc::clone(&list)));
        list
    }
}

impl ActionList {
    fn of(patterns: &[String], agents: &[GetAgentHealthResponse]) -> Self {
        let mut list = Self::default();
        for GetAgentHealthResponse { health, actions, .. } in agents {
            let agent = health.as_ref().map(|health| health.agent_id.as_str()).unwrap_or_default();
            for described in actions.iter().filter(|described| described.name != ANY_ACTION) {
                let action = described.name.as_str();
                let full = format!("{agent}.{action}");
                if !patterns.iter().any(|pattern| matches_pattern(pattern, &full)) {
                    continue;
                }
                let plain = tool_name::plain(agent, action);
                // `a.b` of `c` and `b.c` of `a` have the same plain name.
                let plain = plain.filter(|name| !list.actions.contains_key(name));
                let name = plain.unwrap_or_else(|| tool_name::hashed(agent, action));
                let action = Action { agent: agent.to_owned(), action: action.to_owned() };
                if list.actions.insert(name.clone(), action).is_none() {
                    list.tools.push(Tool::of_action(name, agent, described));
                }
            }
        }
        list
    }

    /// The tools, by agent and action.
    pub(crate) fn tools(&self) -> &[Tool] {
        &self.tools
    }

    /// The action behind the tool `name`.
    pub(crate) fn action(&self, name: &str) -> Option<&Action> {
        self.actions.get(name)
    }
}

#[cfg(test)]
mod tests {
    use phoenix_proto::{common::AgentHealth, health_v1::AgentAction};

    use super::*;

    fn agent(name: &str, actions: &[&str]) -> GetAgentHealthResponse {
        let action = |name: &&str| AgentAction { name: (*name).into(), ..Default::default() };
        GetAgentHealthResponse {
            health: Some(AgentHealth { agent_id: name.into(), ..Default::default() }),
            actions: actions.iter().map(action).collect(),
            ..GetAgentHealthResponse::default()
        }
    }

    fn names(patterns: &[&str], agents: &[GetAgentHealthResponse]) -> Vec<String> {
        let patterns: Vec<_> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        ActionList::of(&patterns, agents).tools.into_iter().map(|tool| tool.name).collect()
    }

    #[test]
    fn actions_that_match_a_pattern_are_tools() {
        let agents = [agent("clock", &["get_time", "set_time", "*"]), agent("git_agent", &["git_log"])];
        assert_eq!(names(&["*"], &agents), ["clock.get_time", "clock.set_time", "git_agent.git_log"]);
        assert_eq!(names(&["clock.get_*", "git_agent.*"], &agents), ["clock.get_time", "git_agent.git_log"]);
        assert!(names(&[], &agents).is_empty());
    }

    #[test]
    fn actions_with_the_same_plain_name_are_told_apart() {
        let agents = [agent("a", &["b.c"]), agent("a.b", &["c"])];
        let patterns = ["*".to_owned()];
        let list = ActionList::of(&patterns, &agents);
        let actions: Vec<_> =
            list.tools().iter().map(|tool| list.action(&tool.name).unwrap().clone()).collect();
        assert_eq!((list.tools()[0].name.as_str(), actions[0].agent.as_str()), ("a.b.c", "a"));
        assert!(list.tools()[1].name.starts_with("a.b.c_"), "{list:?}");
        assert_eq!(actions[1].agent, "a.b");
    }
}
