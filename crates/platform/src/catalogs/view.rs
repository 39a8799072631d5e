//! The agents of all executors.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use phoenix_domain::{
    AgentCatalog, AgentName, OrchestratorError, OrchestratorErrorCode, builtin::llm_router,
};
use tokio::sync::watch;

use super::offers::{Offer, Offers};
use crate::client::UNREACHABLE_RETRY_AFTER;

/// The agents of all executors, kept up to date by [`follow`](super::follow). Cheap to clone.
#[derive(Debug, Clone)]
pub struct CatalogView(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    default_agent: Option<AgentName>,
    grace: Duration,
    offers: Mutex<Offers>,
    published: watch::Sender<KnownAgents>,
}

/// The agents at one moment. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct KnownAgents {
    catalog: Option<AgentCatalog>,
    absent: Arc<BTreeMap<AgentName, Instant>>,
    executors: usize,
}

impl CatalogView {
    /// A view that knows no agent yet. Messages without a route go to `default_agent`; if it is none, to the language-model
    /// agent, or to the first agent by name. `grace` is the time for which an agent stays known that no executor offers any
    /// more.
    #[must_use]
    pub fn new(default_agent: Option<AgentName>, grace: Duration) -> Self {
        let (offers, published) = (Mutex::default(), watch::Sender::default());
        Self(Arc::new(Shared { default_agent, grace, offers, published }))
    }

    /// A view that knows these agents and follows no executor.
    #[must_use]
    pub fn fixed(agents: AgentCatalog) -> Self {
        let view = Self::new(None, Duration::ZERO);
        view.0.published.send_modify(|known| known.catalog = Some(agents));
        view
    }

    /// The agents as they are now.
    #[must_use]
    pub fn known(&self) -> KnownAgents {
        self.0.published.borrow().clone()
    }

    /// The agents as they are now.
    ///
    /// # Errors
    /// `unavailable` before the first executor was reached.
    pub fn catalog(&self) -> Result<AgentCatalog, OrchestratorError> {
        self.0.published.borrow().catalog().cloned()
    }

    /// The agent for messages without a matching route.
    #[must_use]
    pub fn default_agent(&self) -> AgentName {
        let published = self.0.published.borrow();
        let known = published.catalog.as_ref().map(|catalog| catalog.default_agent().clone());
        known.or_else(|| self.0.default_agent.clone()).unwrap_or_else(llm_router)
    }

    /// A receiver of the agents after each change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<KnownAgents> {
        self.0.published.subscribe()
    }

    /// Waits until the first executor was reached.
    pub async fn reached(&self) {
        // The sender lives as long as this view.
        let _ = self.subscribe().wait_for(|known| known.catalog.is_some()).await;
    }

    /// Replaces what the executor at `address` offers; `None` when it is gone.
    pub(super) fn set(&self, address: &str, offer: Option<Offer>) {
        let mut offers = self.0.offers.lock();
        offers.set(address, offer, Instant::now());
        self.publish(&offers);
    }

    /// Forgets agents when their grace period ends.
    pub(super) async fn expire<T>(&self) -> T {
        let mut changes = self.subscribe();
        loop {
            let next = self.0.offers.lock().next_expiry(self.0.grace, Instant::now());
            let expired = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = expired => self.publish(&self.0.offers.lock()),
                // The sender lives as long as this view.
                _ = changes.changed() => {}
            }
        }
    }

    fn publish(&self, offers: &Offers) {
        let agents = offers.agents(self.0.grace, Instant::now()).into_values();
        let catalog = AgentCatalog::with_default(agents, self.0.default_agent.clone());
        self.0.published.send_replace(KnownAgents {
            catalog: Some(catalog),
            absent: Arc::new(offers.absent()),
            executors: offers.executors(),
        });
    }
}

impl KnownAgents {
    /// The agents, each with the capacity of all its executors.
    ///
    /// # Errors
    /// `unavailable` before the first executor was reached.
    pub fn catalog(&self) -> Result<&AgentCatalog, OrchestratorError> {
        self.catalog.as_ref().ok_or_else(|| {
            OrchestratorError::new(
                OrchestratorErrorCode::Unavailable,
                "no executor has been reached yet, so no agent is known; try again shortly",
            )
            .with_retry_after(UNREACHABLE_RETRY_AFTER)
        })
    }

    /// Number of executors whose catalog is being followed.
    #[must_use]
    pub const fn executors(&self) -> usize {
        self.executors
    }

    /// Whether `agent` is in the catalog.
    #[must_use]
    pub fn contains(&self, agent: &AgentName) -> bool {
        self.catalog.as_ref().is_some_and(|catalog| catalog.get(agent).is_ok())
    }

    /// Since when no executor offers `agent`, which one offered before.
    #[must_use]
    pub fn absent_since(&self, agent: &AgentName) -> Option<Instant> {
        self.absent.get(agent).copied()
    }
}
