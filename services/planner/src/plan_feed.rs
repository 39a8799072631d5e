//! The feed of a plan, whichever planner runs it: its journaled events, and what its tasks say between them.
//!
//! ```text
//! the plan runs here ──────▶ LocalFeed: the journal, and the output in this process
//! the plan runs elsewhere ─▶ RemoteFeed: the WatchPlan of its planner, or the journal while that planner does not answer
//! ```
//!
//! Every planner can read the events; only the planner that runs a plan has the output.

mod remote;
mod sources;

use std::{pin::Pin, sync::Arc};

use phoenix_domain::{OrchestratorError, OrchestratorErrorCode};
use phoenix_platform::RequestContext;

pub(crate) use self::sources::Selection;
use self::{remote::RemoteFeed, sources::Sources};
use crate::{
    deps::Deps,
    live::LocalFeed,
    peers::PeerPlanners,
    plan_run::registry::PlanRegistry,
    store::{error::JournalError, query::Event},
};

/// Opens the feeds of plans. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct PlanFeeds {
    sources: Sources,
    registry: PlanRegistry,
}

/// The feed of one plan. Output has position 0.
pub(crate) enum PlanFeed {
    /// Of a plan that runs here, or of the journal alone.
    Local(LocalFeed),
    /// Of a plan that runs here, for another planner. Ends when the plan is left to a third one.
    Forwarded(LocalFeed, Pin<Box<dyn Future<Output = ()> + Send>>),
    /// Of a plan that another planner runs.
    Remote(Box<RemoteFeed>),
}

impl PlanFeeds {
    pub(crate) const fn new(deps: Arc<Deps>, registry: PlanRegistry, peers: PeerPlanners) -> Self {
        Self { sources: Sources { deps, peers }, registry }
    }

    /// Opens a feed. That of an unfinished plan of another planner is forwarded to it if output is read.
    pub(crate) async fn open(&self, context: &RequestContext, selection: Selection) -> PlanFeed {
        if !selection.with_output || self.registry.get(selection.plan_id).is_some() {
            return PlanFeed::Local(self.local(selection));
        }
        PlanFeed::Remote(Box::new(RemoteFeed::open(self.sources.clone(), context, selection).await))
    }

    /// Opens the feed of a plan that runs here, for the planner that forwarded the call to `instance`.
    ///
    /// # Errors
    /// `unavailable` when this planner is another instance, `not_found` when the plan does not run here.
    pub(crate) fn open_forwarded(
        &self,
        instance: &str,
        selection: Selection,
    ) -> Result<PlanFeed, OrchestratorError> {
        self.sources.peers.accept(instance)?;
        let Some(plan) = self.registry.get(selection.plan_id) else {
            let message = format!("plan {} does not run in this planner", selection.plan_id);
            return Err(OrchestratorError::new(OrchestratorErrorCode::NotFound, message));
        };
        let fenced = self.sources.deps.journal.fenced().clone();
        let is_left = Box::pin(async move {
            let ended = async {
                if plan.ended().await.is_some() {
                    // The feed ends with the plan's last event.
                    std::future::pending::<()>().await;
                }
            };
            fenced.run_until_cancelled(ended).await;
        });
        Ok(PlanFeed::Forwarded(self.local(selection), is_left))
    }

    /// The events in the journal and the output in this process.
    pub(crate) fn local(&self, selection: Selection) -> LocalFeed {
        self.sources.local(selection)
    }
}

impl PlanFeed {
    /// The next event; `None` at the end of the journaled ones. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Result<Event, JournalError>> {
        match self {
            Self::Local(feed) => feed.next().await,
            Self::Forwarded(feed, is_left) => tokio::select! {
                event = feed.next() => event,
                () = is_left => None,
            },
            Self::Remote(feed) => feed.next().await,
        }
    }
}
