//! The agents as this executor publishes them. The actions of an MCP server become known, and change, while it runs.

use std::{collections::BTreeMap, sync::Arc};

use phoenix_domain::{
    ActionSpec, AgentCatalog, AgentName, limits::MAX_CATALOG_BYTES, mcp_listing::McpListing,
};
use phoenix_proto::{
    common,
    executor::{Agent, AgentList},
};
use prost::Message;
use tokio::sync::watch;

/// Bytes of a catalog that are left for everything but its agents.
const RESERVED_BYTES: usize = 64 * 1024;

/// What an MCP server offers, as it becomes known.
#[derive(Debug)]
pub(crate) enum News {
    /// Its tools, as actions.
    Actions(BTreeMap<String, ActionSpec>),
    /// Its resources and prompts.
    Listing(McpListing),
}

/// Publishes what an MCP server offers.
pub(crate) type Publish = Box<dyn Fn(News) + Send + Sync>;

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

    /// Publishes news of `agent`.
    pub(crate) fn take(&self, agent: &AgentName, news: News) {
        match news {
            News::Actions(actions) => self.replace_actions(agent, actions),
            News::Listing(listing) => self.replace_listing(agent, &listing),
        }
    }

    /// Replaces what `agent` offers beside its tools. Without capacity in the catalog, nothing of it is published.
    fn replace_listing(&self, agent: &AgentName, listing: &McpListing) {
        self.0.send_if_modified(|list| {
            let Some(index) = list.agents.iter().position(|known| known.name == agent.as_str()) else {
                return false;
            };
            let before = list.agents[index].listing.replace(listing.into());
            if is_full(list) {
                tracing::warn!(%agent, limit = MAX_CATALOG_BYTES, "catalog has no capacity for the resources and prompts of an MCP server");
                list.agents[index].listing =
                    Some(common::McpListing { is_truncated: true, ..Default::default() });
            }
            list.agents[index].listing != before
        });
    }

    /// Replaces the actions of `agent`, which come before resources and prompts. Actions for which the catalog has no capacity are logged, and not published: the agent
    /// then keeps those that it had.
    fn replace_actions(&self, agent: &AgentName, actions: BTreeMap<String, ActionSpec>) {
        let actions: BTreeMap<_, _> =
            actions.iter().map(|(name, action)| (name.clone(), action.into())).collect();
        self.0.send_if_modified(|list| {
            let Some(index) = list.agents.iter().position(|known| known.name == agent.as_str()) else {
                return false;
            };
            let before = std::mem::replace(&mut list.agents[index].actions, actions.into_iter().collect());
            if is_full(list) {
                list.agents.iter_mut().for_each(truncate_listing);
            }
            if is_full(list) {
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

fn is_full(list: &AgentList) -> bool {
    list.encoded_len() > MAX_CATALOG_BYTES - RESERVED_BYTES
}

/// Leaves out what `agent` offers beside its tools.
fn truncate_listing(agent: &mut Agent) {
    if let Some(listing) = &mut agent.listing {
        *listing = common::McpListing { is_truncated: true, ..Default::default() };
    }
}

#[cfg(test)]
mod tests {
    use phoenix_domain::{AgentSpec, mcp_listing::McpResource};

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

    #[test]
    fn actions_come_before_resources_and_prompts() {
        let name: AgentName = "server".parse().unwrap();
        let agents = AgentCatalog::new([AgentSpec::new(name.clone(), Vec::new())], name.clone());
        let published = PublishedAgents::new(&agents);
        let listing = |bytes| {
            let resource = McpResource { uri: "x".repeat(bytes), ..McpResource::default() };
            News::Listing(McpListing { resources: vec![resource], ..McpListing::default() })
        };
        let reader = published.subscribe();
        let shown = || {
            let agents = reader.borrow();
            let listing = agents.agents[0].listing.clone().unwrap_or_default();
            (listing.resources.len(), listing.is_truncated, agents.agents[0].actions.len())
        };
        published.take(&name, listing(MAX_CATALOG_BYTES));
        assert_eq!(shown(), (0, true, 0), "no capacity");
        published.take(&name, listing(MAX_CATALOG_BYTES / 2));
        assert_eq!(shown(), (1, false, 0));
        published.take(&name, News::Actions(actions(&"x".repeat(MAX_CATALOG_BYTES / 2))));
        assert_eq!(shown(), (0, true, 1));
    }
}
