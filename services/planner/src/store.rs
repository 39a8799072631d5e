//! Where the journal is kept: what a database must be able to do for it, and what is written to it.
//!
//! A [`Store`] makes batches of [`Entry`]s durable, on behalf of a planner that still owns what it writes, and reads them
//! back. When to write, what to do when it fails, and who is told is the [`crate::journal`]'s. Every store passes the suite
//! in `tests/store`.

mod dead_letter;
mod entry;
mod error;
mod record;
mod sqlite;
mod takeover;

use std::{fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use phoenix_domain::{
    AgentName, BulkRedriveId, CorrelationId, PlanId,
    dead_letter::DeadLetter,
    plan::{Plan, PlanStatus},
};
use phoenix_platform::sqlite::OpenError;

pub use dead_letter::{
    DeadLetterFilter, DeadLetterPlace, DeadLetterQuery, InvalidPlace, OpenDeadLetters, Sweep, SweepAction,
};
pub use entry::{Entries, Entry, IdempotencyKey, TaskRef, UsedKey};
pub use error::JournalError;
pub use sqlite::SqliteStore;
pub use takeover::{LeftPlan, TakeoverScope, Unfinished, UnfinishedPlan};

/// A database that holds a journal.
///
/// Writes are atomic and durable: what was answered with `Ok` survives the loss of power, what was answered with an error
/// was not written at all. Readers see whole batches.
#[tonic::async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Makes `planner`, which has never been heard of, an owner of plans.
    ///
    /// # Errors
    /// When the database can't be used.
    async fn register(&self, planner: &str) -> Result<(), JournalError>;

    /// Makes `planner` nobody again: its plans can be claimed at once, and it can write no more.
    ///
    /// # Errors
    /// When the database can't be used.
    async fn release(&self, planner: &str) -> Result<(), JournalError>;

    /// Whether what is written can be found again: the database that is open is still the one at its address.
    ///
    /// # Errors
    /// [`JournalError::FileGone`] when it is not.
    async fn check_presence(&self) -> Result<(), JournalError>;

    /// When the oldest plan was accepted that has not ended, if there is one. Writes nothing.
    ///
    /// # Errors
    /// When the database can't be used.
    async fn oldest_unfinished(&self) -> Result<Option<Timestamp>, JournalError>;

    /// Lets go of the database, in order, when nobody reads or writes any more.
    async fn close(&self);

    /// Every planner that is an owner, with its last heartbeat.
    ///
    /// # Errors
    /// When the database can't be used.
    async fn planners(&self) -> Result<Vec<Heartbeat>, JournalError>;

    /// Counts one more heartbeat of `planner`.
    ///
    /// # Errors
    /// [`JournalError::Fenced`] when `planner` is no owner (any more).
    async fn beat(&self, planner: &str) -> Result<(), JournalError>;

    /// Makes `groups` durable, in order. A state that is terminal stays what it is, whatever the entries say. A task that
    /// becomes `dead_lettered` is a dead letter from then on.
    ///
    /// A group that claims what an earlier one has claimed, here or in any batch of any planner, is left out as a whole:
    /// the places of those. All the others become durable, or none.
    ///
    /// # Errors
    /// [`JournalError::Fenced`] when `planner` is no owner (any more).
    async fn write(&self, planner: &str, groups: &[Entries]) -> Result<Vec<usize>, JournalError>;

    /// Takes the ownership away from those of `dead` that have not been heard of since, and gives everything unfinished
    /// whose owner is gone to `planner`, as far as it is in `scope`.
    ///
    /// # Errors
    /// When the database can't be used.
    async fn claim(
        &self,
        planner: &str,
        dead: &[Heartbeat],
        scope: &TakeoverScope,
    ) -> Result<Unfinished, JournalError>;

    /// Asks whichever planner owns a plan to cancel it, on behalf of `planner`. The first reason counts.
    ///
    /// # Errors
    /// [`JournalError::Fenced`] when `planner` is no owner (any more).
    async fn request_cancel(
        &self,
        planner: &str,
        plan_id: PlanId,
        reason: &str,
        at: Timestamp,
    ) -> Result<(), JournalError>;

    /// Plans that are to be cancelled, with the reasons. Writes nothing.
    ///
    /// # Errors
    /// When the database can't be used.
    async fn cancel_requests(&self) -> Result<Vec<(PlanId, String)>, JournalError>;

    /// Deletes the requests to cancel plans that have ended.
    ///
    /// # Errors
    /// When the database can't be used.
    async fn forget_cancel_requests(&self) -> Result<(), JournalError>;

    /// The state of a plan, if there is one. Writes nothing: what was committed a moment ago may be missing.
    ///
    /// # Errors
    /// As [`Self::plan`].
    async fn moved_status(&self, plan_id: PlanId) -> Result<Option<PlanStatus>, JournalError>;

    /// Plans with their tasks and attempts, all of the same moment, those that are there. One that can't be read does not spoil
    /// the others.
    ///
    /// # Errors
    /// When the database can't be used.
    async fn whole_plans(
        &self,
        plan_ids: &[PlanId],
    ) -> Result<Vec<(PlanId, Result<Plan, JournalError>)>, JournalError>;

    /// One plan with its tasks and attempts.
    ///
    /// # Errors
    /// When the database can't be used, or holds something that can't be read.
    async fn plan(&self, plan_id: PlanId) -> Result<Option<Plan>, JournalError> {
        self.whole_plans(&[plan_id]).await?.pop().map(|(_, plan)| plan).transpose()
    }

    /// Plans, newest first, without their tasks.
    ///
    /// # Errors
    /// When the database can't be used.
    async fn plans(&self, filter: &PlanFilter) -> Result<Page<Plan, PlanId>, JournalError>;

    /// What `key` stands for and how it was first used, if that was not before `not_before`.
    ///
    /// # Errors
    /// As [`Self::plan`].
    async fn subject_of_key(&self, key: &str, not_before: Timestamp)
    -> Result<Option<UsedKey>, JournalError>;

    /// Events of one plan after `position`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// As [`Self::plan`].
    async fn events(&self, plan_id: PlanId, position: u64, limit: u32) -> Result<Vec<Event>, JournalError>;

    /// As [`Self::events`], but only those that have a position by now: it writes nothing.
    ///
    /// # Errors
    /// As [`Self::plan`].
    async fn moved_events(
        &self,
        plan_id: PlanId,
        position: u64,
        limit: u32,
    ) -> Result<Vec<Event>, JournalError>;

    /// Gives every event that is durable by now its position.
    ///
    /// # Errors
    /// When the database can't be used.
    async fn settle(&self) -> Result<(), JournalError>;

    /// The position of the last event that has one. Writes nothing.
    ///
    /// # Errors
    /// When the database can't be used.
    async fn position(&self) -> Result<u64, JournalError>;

    /// Those of `plan_ids` with events after `position`. Writes nothing.
    ///
    /// # Errors
    /// When the database can't be used.
    async fn changed_since(&self, plan_ids: &[PlanId], position: u64) -> Result<Vec<PlanId>, JournalError>;

    /// Deletes plans that ended long ago, with their tasks, attempts, events and dead letters, open or not; and such sweeps
    /// as ended as long ago. Whoever else does the same at the same
    /// time is in nobody's way: what is gone is gone.
    ///
    /// # Errors
    /// [`JournalError::Fenced`] when `planner` is no owner (any more).
    async fn forget_plans(&self, planner: &str, old: &OldPlans) -> Result<Forgotten, JournalError>;

    /// Deletes keys that were first used before `before`, at most `limit`: how many.
    ///
    /// # Errors
    /// As [`Self::forget_plans`].
    async fn forget_keys(&self, planner: &str, before: Timestamp, limit: u32) -> Result<u64, JournalError>;

    /// How much there is.
    ///
    /// # Errors
    /// When the database can't be used.
    async fn extent(&self) -> Result<Extent, JournalError>;

    /// Dead letters, newest first.
    ///
    /// # Errors
    /// When the database can't be used.
    async fn dead_letters(
        &self,
        query: &DeadLetterQuery,
    ) -> Result<Page<DeadLetter, DeadLetterPlace>, JournalError>;

    /// How many dead letters are open, or were a moment ago. Takes no longer the more there are.
    ///
    /// # Errors
    /// As [`Self::plan`].
    async fn open_dead_letters(&self) -> Result<OpenDeadLetters, JournalError>;

    /// A sweep, and how many dead letters it has selected.
    ///
    /// # Errors
    /// As [`Self::plan`].
    async fn sweep(&self, sweep_id: BulkRedriveId) -> Result<Option<(Sweep, u64)>, JournalError>;

    /// Plans with dead letters that a sweep has selected and that are still open, oldest first.
    ///
    /// # Errors
    /// As [`Self::plan`].
    async fn swept_plans(&self, sweep_id: BulkRedriveId) -> Result<Vec<PlanId>, JournalError>;
}

/// Opens, or makes, the database at `url`, and brings its tables up to date.
///
/// # Errors
/// When it can't be opened or was written by a newer version.
pub async fn open(url: &str) -> Result<Arc<dyn Store>, OpenError> {
    Ok(Arc::new(SqliteStore::open(url).await?))
}

/// A sign of life of a planner.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Heartbeat {
    /// Whose.
    pub planner: String,
    /// Grows. Compared with an earlier reading and the reader's own clock, never with anybody
    /// else's: clocks jump.
    pub beat: i64,
}

/// Which plans to list.
#[derive(Debug, Clone, Default)]
pub struct PlanFilter {
    /// Only those of this request.
    pub correlation_id: Option<CorrelationId>,
    /// Only those in this state.
    pub status: Option<PlanStatus>,
    /// Only those with a task for this agent.
    pub agent: Option<AgentName>,
    /// Only those accepted at this time or later.
    pub since: Option<Timestamp>,
    /// Only those older than this one: where the last page ended.
    pub before: Option<PlanId>,
    /// At most so many.
    pub limit: u32,
}

/// A part of a listing.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T, P> {
    /// What is on it.
    pub items: Vec<T>,
    /// What would be on it if it could be read.
    pub unreadable: Vec<Unreadable>,
    /// The place of its last row, if there are more behind it.
    pub last: Option<P>,
}

/// A record that can't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The plan or sweep that it is about, as the database names it.
    pub id: String,
    /// What is wrong with it, for the operator.
    pub what: String,
}

/// One event of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its place in the journal.
    pub position: u64,
    /// What happened.
    pub kind: String,
    /// When.
    pub at: Timestamp,
    /// The task's key; empty for events of the plan itself.
    pub task_key: String,
    /// Facts, as a JSON object.
    pub data: String,
}

/// Which plans to delete.
#[derive(Debug, Clone)]
pub struct OldPlans {
    /// Those that ended before this time.
    pub ended_before: Timestamp,
    /// Only those younger than this one: where the last batch ended.
    pub after: Option<PlanId>,
    /// Looks at so many, at most, the oldest first.
    pub limit: u32,
}

/// What became of a batch of old plans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forgotten {
    /// So many are gone.
    pub plans: u64,
    /// The youngest that was looked at; nothing when no older one is left to be looked at.
    pub last: Option<PlanId>,
    /// For so long nobody else could write.
    pub held: Duration,
}

/// How much a journal holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Bytes on the disk.
    pub bytes: u64,
    /// When the oldest plan that has ended was accepted, if there is one.
    pub oldest_plan: Option<Timestamp>,
}
