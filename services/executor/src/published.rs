//! The agents as this executor publishes them. The actions of an MCP server become known, and change, while it runs.

use std::{collections::BTreeMap, sync::Arc};

use phoenix_domain::{ActionSpec, AgentCatalog, AgentName, limits::MAX_CATALOG_BYTES};
use phoenix_proto::executor::{Agent, AgentList};
use prost::Message;
use tokio::sync::watch;

/// Bytes of a catalog that are left for everything but its agents.
const RESERVED_BYTES: usize = 64 * 1024;

/// The published agents. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct PublishedAgents(Arc<watch::Sender<AgentList>>);

impl PublishedAgents {
    /// The agents as they are configured.
    pub(crate) fn new(agents: &AgentCatalog) -> Self {
        let agents = agents.iter().map(Agent::from).collect();
        Self(Arc::new(watch::Sender::new(AgentList { agents })))
    }

    /// The agents now, and each change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<AgentList> {
        self.0.subscribe()
    }

    /// Replaces the actions of `agent`. Actions for which the catalog has no capacity are logged, and not published: the agent
    /// then keeps those that it had.
    pub(crate) fn replace_actions(&self, agent: &AgentName, actions: BTreeMap<String, ActionSpec>) {
        let actions: BTreeMap<_, _> =
            actions.iter().map(|(name, action)| (name.clone(), action.into())).collect();
        self.0.send_if_modified(|list| {
            let Some(index) = list.agents.iter().position(|known| known.name == agent.as_str()) else {
                return false;
            };
            let before = std::mem::replace(&mut list.agents[index].actions, actions.into_iter().collect());
            if list.encoded_len() > MAX_CATALOG_BYTES - RESERVED_BYTES {
                tracing::error!(
                    %agent, limit = MAX_CATALOG_BYTES,
                    "catalog has no capacity for the tools of an MCP server; select some with the setting `tools`"
                );
                list.agents[index].actions = before;
                return false;
            }
            list.agents[index].actions != before
        });
    }
}

#[cfg(test)]
mod tests {
    use phoenix_domain::AgentSpec;

    use super::*;

    fn actions(description: &str) -> BTreeMap<String, ActionSpec> {
        [("act".to_owned(), ActionSpec { description: description.into(), ..ActionSpec::default() })].into()
    }

    #[test]
    fn changed_actions_are_published_once_and_within_the_limit() {
        let name: AgentName = "server".parse().unwrap();
        let agents = AgentCatalog::new([AgentSpec::new(name.clone(), Vec::new())], name.clone());
        let published = PublishedAgents::new(&agents);
        let mut reader = published.subscribe();
        published.replace_actions(&name, actions("acts"));
        assert!(reader.has_changed().unwrap());
        assert_eq!(reader.borrow_and_update().agents[0].actions["act"].description, "acts");
        published.replace_actions(&name, actions("acts"));
        published.replace_actions(&name, actions(&"x".repeat(MAX_CATALOG_BYTES)));
        published.replace_actions(&"other".parse().unwrap(), actions("acts"));
        assert!(!reader.has_changed().unwrap());
        assert_eq!(reader.borrow().agents[0].actions["act"].description, "acts");
    }
}
