//! Where the feed of a plan comes from.

use std::{future::ready, sync::Arc};

use futures_util::StreamExt;
use phoenix_domain::PlanId;
use tokio_util::sync::CancellationToken;

use crate::{
    deps::Deps,
    events,
    live::LocalFeed,
    peers::PeerPlanners,
    store::{
        error::JournalError,
        query::{Event, TASK_OUTPUT},
    },
};

/// Part of a plan's feed that is read.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    /// The plan.
    pub(crate) plan_id: PlanId,
    /// Journal position after which events are read.
    pub(crate) after: u64,
    /// Whether output is read, too.
    pub(crate) with_output: bool,
    /// Whether journaled output is read, too.
    pub(crate) with_recorded_output: bool,
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
        let Selection { plan_id, after, with_output, with_recorded_output, end } = selection;
        let output = with_output.then(|| self.deps.live.reader(plan_id));
        let events = events::stream(self.deps.journal.clone(), plan_id, after, end);
        let is_selected = move |event: &Result<Event, JournalError>| {
            with_recorded_output || !matches!(event, Ok(event) if event.kind == TASK_OUTPUT)
        };
        LocalFeed::new(events.filter(move |event| ready(is_selected(event))), output)
    }
}
