//! Queries of a journal and their results.

use std::time::Duration;

use jiff::Timestamp;
use phoenix_domain::{
    AgentName, CorrelationId, PlanId,
    plan::{Plan, PlanStatus},
};

/// Kind of the events with journaled output.
pub(crate) const TASK_OUTPUT: &str = "task_output";

/// Filter of a listing of plans; every given condition must hold.
#[derive(Debug, Clone, Default)]
pub struct PlanFilter {
    /// Plans of this request.
    pub correlation_id: Option<CorrelationId>,
    /// Plans with this status.
    pub status: Option<PlanStatus>,
    /// Plans with a task for this agent.
    pub agent: Option<AgentName>,
    /// Plans accepted at this time or later.
    pub since: Option<Timestamp>,
    /// Plans that have not ended; not with [`Self::status`].
    pub is_unfinished: bool,
    /// Text that the plan's error contains, in lower case.
    pub error_text: Option<String>,
    /// Whether older plans come first.
    pub is_oldest_first: bool,
    /// Plans behind this one in the order of the listing: the cursor of the next page.
    pub before: Option<PlanId>,
    /// Maximum number of plans.
    pub limit: u32,
}

/// Plans that a page examines at most when it looks for a text.
pub(super) const MAX_EXAMINED: u32 = 10_000;

impl PlanFilter {
    /// States of the listed plans; empty for any.
    pub(super) fn statuses(&self) -> Vec<PlanStatus> {
        match self.status {
            Some(status) => vec![status],
            None if self.is_unfinished => vec![PlanStatus::Pending, PlanStatus::Running],
            // No other plan has an error.
            None if self.error_text.is_some() => vec![PlanStatus::Failed, PlanStatus::Cancelled],
            None => Vec::new(),
        }
    }

    /// Rows that the database returns at most: one more than a page has, or examines.
    pub(super) fn rows(&self) -> i64 {
        i64::from(if self.error_text.is_some() { MAX_EXAMINED } else { self.limit }) + 1
    }

    /// Whether the error of a plan has the text.
    pub(super) fn has_text(&self, plan: &Plan) -> bool {
        let Some(text) = &self.error_text else { return true };
        let error = plan.error.as_ref();
        error.is_some_and(|error| {
            error.code.as_str().contains(text) || error.message.to_lowercase().contains(text)
        })
    }
}

/// A page of a listing.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T, C> {
    /// Readable items.
    pub items: Vec<T>,
    /// Items of the page that cannot be read.
    pub unreadable: Vec<Unreadable>,
    /// Cursor of the last item, if more follow.
    pub last: Option<C>,
}

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Identifier of its plan or bulk operation, as stored.
    pub id: String,
    /// Problem, for the operator.
    pub what: String,
}

/// An event of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Position in the journal, from 1; 0 for output, which is not journaled.
    pub position: u64,
    /// Kind of the event.
    pub kind: String,
    /// Time of the event.
    pub at: Timestamp,
    /// Key of the task; empty for events of the plan itself.
    pub task_key: String,
    /// Facts, as a JSON object.
    pub data: String,
}

impl Event {
    /// Whether the event is output of a running task, which is not journaled.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.position == 0
    }
}

/// Plans that have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The changed plans; one may be named although it has not changed.
    pub plans: Vec<PlanId>,
    /// Where the next search starts.
    pub position: u64,
}

/// Selection of plans to delete.
#[derive(Debug, Clone)]
pub struct OldPlans {
    /// Plans that ended before this time.
    pub ended_before: Timestamp,
    /// Plans younger than this one: the cursor of the next batch.
    pub after: Option<PlanId>,
    /// Maximum number of plans that are examined, oldest first.
    pub limit: u32,
}

/// Result of a deletion of old plans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purged {
    /// Number of deleted plans.
    pub plans: u64,
    /// Youngest plan that was examined; none when no older one is left to examine.
    pub last: Option<PlanId>,
    /// Time during which other writes had to wait.
    pub held: Duration,
}

/// Numbers of plans that have not ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenPlans {
    /// Plans that are pending.
    pub pending: u64,
    /// Plans that are running.
    pub running: u64,
}

impl OpenPlans {
    /// Counts of rows, which are not negative.
    pub(super) fn of_rows(pending: i64, running: i64) -> Self {
        let [pending, running] = [pending, running].map(|count| u64::try_from(count).unwrap_or_default());
        Self { pending, running }
    }
}

/// Size and age of a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreStats {
    /// Size on disk in bytes.
    pub bytes: u64,
    /// Acceptance time of the oldest terminal plan, if there is one.
    pub oldest_plan: Option<Timestamp>,
}
