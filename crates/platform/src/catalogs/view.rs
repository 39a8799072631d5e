//! The agents of all executors.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use phoenix_domain::{
    AgentCatalog, AgentName, OrchestratorError, OrchestratorErrorCode, builtin::llm_router,
};
use tokio::sync::watch;

use super::{
    choice::{Candidate, Choice, choose},
    executor::ExecutorPeer,
    offers::{Offer, Offers},
};
use crate::client::{PeerChannel, UNREACHABLE_RETRY_AFTER};

/// The agents of all executors, kept up to date by [`follow`](super::follow()). Cheap to clone.
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
    candidates: Arc<HashMap<AgentName, Vec<Candidate>>>,
    executors: usize,
    unreachable: usize,
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

    /// A view that knows these agents, at the executor behind `channel`, and does not follow it.
    #[must_use]
    pub fn fixed(agents: &AgentCatalog, channel: PeerChannel) -> Self {
        let view = Self::new(Some(agents.default_agent().clone()), Duration::ZERO);
        let agents = agents.iter().map(|spec| (spec.name.clone(), spec.clone())).collect();
        let executor = ExecutorPeer::new("fixed".into(), channel);
        view.set(&executor, Some(Offer { agents, ..Offer::default() }));
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

    /// An executor that offers `agent`, chosen by its load. `avoid` is chosen only when there is no other. An executor that is
    /// gone is chosen when it was the last to offer the agent: it may be back.
    #[must_use]
    pub fn choose(&self, agent: &AgentName, avoid: Option<&Arc<ExecutorPeer>>) -> Option<Choice> {
        let candidates = Arc::clone(&self.0.published.borrow().candidates);
        choose(candidates.get(agent)?, agent, avoid)
    }

    /// The executors that offer `agent`.
    #[must_use]
    pub fn executors_of(&self, agent: &AgentName) -> Vec<Arc<ExecutorPeer>> {
        let candidates = Arc::clone(&self.0.published.borrow().candidates);
        let offering = candidates.get(agent).into_iter().flatten();
        offering.map(|candidate| Arc::clone(&candidate.executor)).collect()
    }

    /// Whether another executor than `executor` offers `agent` now.
    #[must_use]
    pub fn is_offered_elsewhere(&self, agent: &AgentName, executor: &Arc<ExecutorPeer>) -> bool {
        let known = self.0.published.borrow();
        let is_other = |candidate: &Candidate| !Arc::ptr_eq(&candidate.executor, executor);
        !known.absent.contains_key(agent)
            && known.candidates.get(agent).is_some_and(|candidates| candidates.iter().any(is_other))
    }

    /// Replaces what `executor` offers; `None` when it is gone.
    pub(super) fn set(&self, executor: &Arc<ExecutorPeer>, offer: Option<Offer>) {
        let mut offers = self.0.offers.lock();
        offers.set(executor, offer, Instant::now());
        self.publish(&offers);
    }

    /// Sets how many executors are being followed, reached or not.
    pub(super) fn set_followed(&self, count: usize) {
        let mut offers = self.0.offers.lock();
        offers.set_followed(count);
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
        let catalog = || {
            let agents = offers.agents(self.0.grace, Instant::now()).into_values();
            AgentCatalog::with_default(agents, self.0.default_agent.clone())
        };
        self.0.published.send_replace(KnownAgents {
            catalog: offers.was_reached().then(catalog),
            absent: Arc::new(offers.absent()),
            candidates: Arc::new(offers.candidates()),
            executors: offers.executors(),
            unreachable: offers.unreachable(),
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
                "no executor has been reached since this process started, so no agent is known; try again shortly, and check \
                 that an executor runs at EXECUTOR_URL",
            )
            .with_retry_after(UNREACHABLE_RETRY_AFTER)
        })
    }

    /// Number of executors whose catalog is being followed.
    #[must_use]
    pub const fn executors(&self) -> usize {
        self.executors
    }

    /// Number of executors that are configured or resolved, but cannot be reached.
    #[must_use]
    pub const fn unreachable(&self) -> usize {
        self.unreachable
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
