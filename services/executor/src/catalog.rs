//! The catalog that this executor publishes: its agents, their load, and its labels.

use std::collections::BTreeMap;

use futures_util::{Stream, stream};
use phoenix_domain::limits::MAX_CATALOG_BYTES;
use phoenix_platform::readiness::Readiness;
use phoenix_proto::executor::{AgentList, AgentLoad, Catalog};
use prost::Message;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::published::PublishedAgents;

/// Source of catalog streams. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct CatalogFeed {
    /// The catalog without its agents.
    catalog: Catalog,
    agents: PublishedAgents,
    loads: watch::Receiver<Vec<AgentLoad>>,
}

/// A catalog beyond [`MAX_CATALOG_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the catalog of this executor's agents is {bytes} bytes long; at most {MAX_CATALOG_BYTES} are allowed: \
     configure fewer agents, or smaller input schemas"
)]
pub struct CatalogTooLarge {
    bytes: usize,
}

impl CatalogFeed {
    /// The catalog of `agents`, whose load `loads` reports.
    ///
    /// # Errors
    /// When it is too large to be sent.
    pub(crate) fn new(
        agents: PublishedAgents,
        labels: &BTreeMap<String, String>,
        loads: watch::Receiver<Vec<AgentLoad>>,
    ) -> Result<Self, CatalogTooLarge> {
        let catalog = Catalog {
            instance_id: Uuid::new_v4().to_string(),
            labels: labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            agents: Some(agents.subscribe().borrow().clone()),
            loads: Vec::new(),
        };
        match catalog.encoded_len() {
            bytes if bytes > MAX_CATALOG_BYTES => Err(CatalogTooLarge { bytes }),
            _ => Ok(Self { catalog: Catalog { agents: None, ..catalog }, agents, loads }),
        }
    }

    /// Identifier of this executor process.
    pub(crate) fn instance_id(&self) -> &str {
        &self.catalog.instance_id
    }

    /// The catalog once the executor is ready, then each change of the agents, and of the load if `with_load`, until
    /// `shutdown`.
    pub(crate) fn watch(
        &self,
        with_load: bool,
        readiness: Readiness,
        shutdown: CancellationToken,
    ) -> impl Stream<Item = Catalog> + Send + use<> {
        let Self { catalog, agents, loads } = self.clone();
        let state = Watch { is_first: true, agents: agents.subscribe(), loads, _source: agents };
        stream::unfold((state, shutdown), move |(mut state, shutdown)| {
            let (readiness, mut catalog) = (readiness.clone(), catalog.clone());
            async move {
                let with_agents = shutdown.run_until_cancelled(state.next(with_load, &readiness)).await??;
                catalog.agents = with_agents.then(|| state.agents.borrow_and_update().clone());
                if with_load {
                    catalog.loads.clone_from(&state.loads.borrow_and_update());
                }
                Some((catalog, (state, shutdown)))
            }
        })
    }
}

/// State of one stream.
struct Watch {
    is_first: bool,
    agents: watch::Receiver<AgentList>,
    loads: watch::Receiver<Vec<AgentLoad>>,
    /// Keeps `agents` open.
    _source: PublishedAgents,
}

impl Watch {
    /// Waits for a change. Returns whether it is one of the agents; `None` when the executor is gone.
    async fn next(&mut self, with_load: bool, readiness: &Readiness) -> Option<bool> {
        if std::mem::take(&mut self.is_first) {
            readiness.ready().await;
            return Some(true);
        }
        tokio::select! {
            biased;
            changed = self.agents.changed() => changed.ok().map(|()| true),
            changed = self.loads.changed(), if with_load => changed.ok().map(|()| false),
        }
    }
}
