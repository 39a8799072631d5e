//! The catalog that this executor publishes: its agents, their load, and its labels.

use std::collections::BTreeMap;

use futures_util::{Stream, stream};
use phoenix_domain::{AgentCatalog, limits::MAX_CATALOG_BYTES};
use phoenix_platform::readiness::Readiness;
use phoenix_proto::executor::{AgentList, AgentLoad, Catalog};
use prost::Message;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Source of catalog streams. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct CatalogFeed {
    catalog: Catalog,
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
        agents: &AgentCatalog,
        labels: &BTreeMap<String, String>,
        loads: watch::Receiver<Vec<AgentLoad>>,
    ) -> Result<Self, CatalogTooLarge> {
        let catalog = Catalog {
            instance_id: Uuid::new_v4().to_string(),
            labels: labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            agents: Some(AgentList { agents: agents.iter().map(Into::into).collect() }),
            loads: Vec::new(),
        };
        match catalog.encoded_len() {
            bytes if bytes > MAX_CATALOG_BYTES => Err(CatalogTooLarge { bytes }),
            _ => Ok(Self { catalog, loads }),
        }
    }

    /// The catalog once the executor is ready, then each change of the load if `with_load`, until `shutdown`.
    pub(crate) fn watch(
        &self,
        with_load: bool,
        readiness: Readiness,
        shutdown: CancellationToken,
    ) -> impl Stream<Item = Catalog> + Send + use<> {
        let Self { catalog, loads } = self.clone();
        let first = Some(catalog.clone());
        stream::unfold((first, loads, shutdown), move |(first, mut loads, shutdown)| {
            let (readiness, catalog) = (readiness.clone(), Catalog { agents: None, ..catalog.clone() });
            async move {
                let next = async {
                    match first {
                        Some(first) => {
                            readiness.ready().await;
                            Some(first)
                        }
                        None if with_load => loads.changed().await.ok().map(|()| catalog),
                        None => std::future::pending().await,
                    }
                };
                let mut catalog = shutdown.run_until_cancelled(next).await??;
                if with_load {
                    catalog.loads.clone_from(&loads.borrow_and_update());
                }
                Some((catalog, (None, loads, shutdown)))
            }
        })
    }
}
