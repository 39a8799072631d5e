//! Where the feed of a plan comes from.

use std::sync::Arc;

use phoenix_domain::PlanId;
use tokio_util::sync::CancellationToken;

use crate::{deps::Deps, events, live::LocalFeed, peers::PeerPlanners};

/// Part of a plan's feed that is read.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    /// The plan.
    pub(crate) plan_id: PlanId,
    /// Journal position after which events are read.
    pub(crate) after: u64,
    /// Whether output is read, too.
    pub(crate) with_output: bool,
    /// Ends the feed.
    pub(crate) end: CancellationToken,
}

/// This planner and the others. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Sources {
    pub(super) deps: Arc<Deps>,
    pub(super) peers: PeerPlanners,
}

impl Sources {
    /// The events in the journal and the output in this process.
    pub(super) fn local(&self, selection: Selection) -> LocalFeed {
        let Selection { plan_id, after, with_output, end } = selection;
        let output = with_output.then(|| self.deps.live.reader(plan_id));
        LocalFeed::new(events::stream(self.deps.journal.clone(), plan_id, after, end), output)
    }
}
