//! What a database provides for the journal.

use std::fmt;

use jiff::Timestamp;
use phoenix_domain::{
    BulkRedriveId, PlanId,
    approval::WaitingApproval,
    budget::Account,
    dead_letter::DeadLetter,
    plan::{Plan, PlanStatus},
};

use crate::store::{
    approval::{ApprovalCursor, ApprovalQuery, NewDecision, WaitingApprovals},
    budget::{Balance, Call, Charge, Use, Verdict},
    dead_letter::{BulkOperation, DeadLetterCursor, DeadLetterQuery, OpenDeadLetters},
    entry::{BatchId, Entries, UsedKey},
    error::JournalError,
    query::{Changes, Event, OldPlans, OpenPlans, Page, PlanFilter, Purged, StoreStats},
    statistics::{Counts, Period, StoredCounts},
    takeover::{Heartbeat, OpenTask, PlanOwner, TakeoverScope, Unfinished},
    task_ref::TaskRef,
};

/// A database that holds a journal.
///
/// Writes are atomic and durable: after `Ok` they survive the loss of power, after an error other than
/// [`JournalError::InDoubt`] nothing was written. Readers see whole batches. A store may keep durable entries in a log and apply them to its tables a moment later; methods that say
/// "applied" read the tables only and write nothing.
#[tonic::async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Registers `planner`, which is unknown so far, as an owner of plans.
    ///
    /// # Errors
    /// When the database cannot be used.
    async fn register(&self, planner: &str) -> Result<(), JournalError>;

    /// Records the URL at which other planners reach `planner`.
    ///
    /// # Errors
    /// [`JournalError::Fenced`] when `planner` is not an owner.
    async fn advertise(&self, planner: &str, url: &str) -> Result<(), JournalError>;

    /// The planner that runs a plan, if the plan is unfinished and its planner is an owner that advertises a URL.
    ///
    /// # Errors
    /// When the database cannot be used.
    async fn owner(&self, plan_id: PlanId) -> Result<Option<PlanOwner>, JournalError>;

    /// Ends the ownership of `planner`: its plans can be taken over at once, and it can write no more.
    ///
    /// # Errors
    /// When the database cannot be used.
    async fn release(&self, planner: &str) -> Result<(), JournalError>;

    /// Checks that the open database is still the one at its path, so that writes can be found again.
    ///
    /// # Errors
    /// [`JournalError::FileGone`] when it is not.
    async fn check_presence(&self) -> Result<(), JournalError>;

    /// Acceptance time of the oldest unfinished plan of which no task waits for an approval, a time or a budget, if there is one. Reads applied entries.
    ///
    /// # Errors
    /// When the database cannot be used.
    async fn oldest_unfinished(&self) -> Result<Option<Timestamp>, JournalError>;

    /// Closes the database in order. Called after the last read and write.
    async fn close(&self);

    /// Every planner that is an owner, with its last heartbeat.
    ///
    /// # Errors
    /// When the database cannot be used.
    async fn planners(&self) -> Result<Vec<Heartbeat>, JournalError>;

    /// Records a heartbeat of `planner`, sent at `at` by its own clock.
    ///
    /// # Errors
    /// [`JournalError::Fenced`] when `planner` is not an owner.
    async fn heartbeat(&self, planner: &str, at: Timestamp) -> Result<(), JournalError>;

    /// The database, without a password, for messages.
    fn location(&self) -> String;

    /// Number of writers that append concurrently, each with entries of other plans.
    fn writers(&self) -> u32 {
        1
    }

    /// Makes `groups` durable, in order. A terminal state never changes, whatever later entries say. A task that becomes
    /// `dead_lettered` is a dead letter from then on.
    ///
    /// A group that reserves what an earlier group has reserved, in this batch or any other of any planner, is rejected as a
    /// whole. Returns the indices of those. All other groups become durable, or none.
    ///
    /// # Errors
    /// [`JournalError::Fenced`] when the planner is not an owner. [`JournalError::InDoubt`] when the groups may have become
    /// durable; the same call, with the same `batch` and the same `groups`, finds out whether they have, and appends them if
    /// they have not.
    async fn append(&self, batch: &BatchId, groups: &[Entries]) -> Result<Vec<usize>, JournalError>;

    /// Fences those of `dead` that have sent no heartbeat since, and makes `planner` the owner of everything unfinished whose
    /// owner is gone, as far as `scope` covers it. `at` is the current time of `planner`'s clock.
    ///
    /// # Errors
    /// When the database cannot be used.
    async fn take_over(
        &self,
        planner: &str,
        dead: &[Heartbeat],
        scope: &TakeoverScope,
        at: Timestamp,
    ) -> Result<Unfinished, JournalError>;

    /// Reserves what a call needs in the accounts of `charges`: in all, or in none. A call that has reservations already gets
    /// the same verdicts. `at` is the current time of `planner`'s clock.
    ///
    /// # Errors
    /// [`JournalError::Fenced`] when `planner` is not an owner. After another error the call may have reservations.
    async fn reserve(
        &self,
        planner: &str,
        call: Call,
        charges: &[Charge],
        at: Timestamp,
    ) -> Result<Vec<Verdict>, JournalError>;

    /// Ends the reservations of a call, and counts what it used. A call without reservations was settled before: nothing
    /// changes. Reservations of planners that are gone are settled as they are by [`Self::take_over`].
    ///
    /// # Errors
    /// [`JournalError::Fenced`] when `planner` is not an owner. After another error the call may be settled.
    async fn settle(
        &self,
        planner: &str,
        call: Call,
        used: &[Use],
        at: Timestamp,
    ) -> Result<(), JournalError>;

    /// The state of accounts, in their order; zero for those that do not exist yet.
    ///
    /// # Errors
    /// When the database cannot be used.
    async fn balances(&self, accounts: &[Account]) -> Result<Vec<Balance>, JournalError>;

    /// Requests the cancel of a plan from the planner that owns it, on behalf of `planner`. The first reason counts.
    ///
    /// # Errors
    /// [`JournalError::Fenced`] when `planner` is not an owner.
    async fn request_cancel(
        &self,
        planner: &str,
        plan_id: PlanId,
        reason: &str,
        at: Timestamp,
    ) -> Result<(), JournalError>;

    /// Pending cancel requests, with their reasons. Writes nothing.
    ///
    /// # Errors
    /// When the database cannot be used.
    async fn cancel_requests(&self) -> Result<Vec<(PlanId, String)>, JournalError>;

    /// Deletes the cancel requests for plans that have ended.
    ///
    /// # Errors
    /// When the database cannot be used.
    async fn delete_finished_cancel_requests(&self) -> Result<(), JournalError>;

    /// Writes a decision about the approval of a task, unless there is one, the task does not wait, or its approval has expired
    /// by the time of the decision. Returns whether it was written.
    ///
    /// # Errors
    /// [`JournalError::Fenced`] when `planner` is not an owner. After another error the decision may have been written.
    async fn decide(
        &self,
        planner: &str,
        task: TaskRef,
        decision: &NewDecision,
    ) -> Result<bool, JournalError>;

    /// Plans with tasks that wait although the decision about their approval is written. Reads applied entries.
    ///
    /// # Errors
    /// When the database cannot be used.
    async fn decided_approvals(&self) -> Result<Vec<PlanId>, JournalError>;

    /// Number and age of the approvals that wait. Reads applied entries.
    ///
    /// # Errors
    /// When the database cannot be used.
    async fn waiting_approvals(&self) -> Result<WaitingApprovals, JournalError>;

    /// Approvals that wait, the longest wait first.
    ///
    /// # Errors
    /// When the database cannot be used.
    async fn approvals(
        &self,
        query: &ApprovalQuery,
    ) -> Result<Page<WaitingApproval, ApprovalCursor>, JournalError>;

    /// Applied status of a plan, if the plan exists.
    ///
    /// # Errors
    /// As [`Self::plan`].
    async fn applied_status(&self, plan_id: PlanId) -> Result<Option<PlanStatus>, JournalError>;

    /// Plans with their tasks and attempts, from one snapshot. Missing plans are left out; an unreadable plan does not affect
    /// the others.
    ///
    /// # Errors
    /// When the database cannot be used.
    async fn plans_by_id(
        &self,
        plan_ids: &[PlanId],
    ) -> Result<Vec<(PlanId, Result<Plan, JournalError>)>, JournalError>;

    /// The tasks of a plan that have not ended. Reads neither inputs nor outputs nor messages, so it works for a plan whose
    /// content cannot be read.
    ///
    /// # Errors
    /// When the database cannot be used.
    async fn open_tasks(&self, plan_id: PlanId) -> Result<Vec<OpenTask>, JournalError>;

    /// A plan with its tasks and attempts.
    ///
    /// # Errors
    /// When the database cannot be used, or holds something that cannot be read.
    async fn plan(&self, plan_id: PlanId) -> Result<Option<Plan>, JournalError> {
        self.plans_by_id(&[plan_id]).await?.pop().map(|(_, plan)| plan).transpose()
    }

    /// A plan that has just ended, as [`Self::plan`] would read it, if it is known without a read.
    fn just_ended(&self, plan_id: PlanId) -> Option<Plan> {
        let _ = plan_id;
        None
    }

    /// Plans, newest first, without their tasks.
    ///
    /// # Errors
    /// When the database cannot be used.
    async fn plans(&self, filter: &PlanFilter) -> Result<Page<Plan, PlanId>, JournalError>;

    /// The first use of `key`, if it was not before `not_before`.
    ///
    /// # Errors
    /// As [`Self::plan`].
    async fn used_key(&self, key: &str, not_before: Timestamp) -> Result<Option<UsedKey>, JournalError>;

    /// Events of a plan after `position`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// As [`Self::plan`].
    async fn events(&self, plan_id: PlanId, position: u64, limit: u32) -> Result<Vec<Event>, JournalError>;

    /// As [`Self::events`], but only applied ones.
    ///
    /// # Errors
    /// As [`Self::plan`].
    async fn applied_events(
        &self,
        plan_id: PlanId,
        position: u64,
        limit: u32,
    ) -> Result<Vec<Event>, JournalError>;

    /// Applies every entry that is durable by now; each event has a position then.
    ///
    /// # Errors
    /// When the database cannot be used.
    async fn flush(&self) -> Result<(), JournalError>;

    /// A position such that [`Self::changes`] since then finds everything that is applied from now on.
    ///
    /// # Errors
    /// When the database cannot be used.
    async fn position(&self) -> Result<u64, JournalError>;

    /// Those of `plan_ids` with events that were applied since `since`, an earlier position; and the current position.
    ///
    /// # Errors
    /// When the database cannot be used.
    async fn changes(&self, plan_ids: &[PlanId], since: u64) -> Result<Changes, JournalError>;

    /// Returns when another process may have applied something. Only a hint that saves waiting for the next poll: it may
    /// never return, and it may miss changes.
    async fn hint(&self) {
        std::future::pending::<()>().await;
    }

    /// Deletes old plans, with their tasks, attempts, events and dead letters, open or not; and bulk operations that ended as
    /// long ago. Concurrent deletions by several planners delete each plan once.
    ///
    /// # Errors
    /// [`JournalError::Fenced`] when `planner` is not an owner.
    async fn purge_plans(&self, planner: &str, old: &OldPlans) -> Result<Purged, JournalError>;

    /// Deletes at most `limit` keys whose first use was before `before`. Returns their number.
    ///
    /// # Errors
    /// As [`Self::purge_plans`].
    async fn purge_keys(&self, planner: &str, before: Timestamp, limit: u32) -> Result<u64, JournalError>;

    /// Stores what `planner` counted in each of `periods`, in place of what it stored for the same periods before, and deletes
    /// what planners counted before the minute `before`, numbered since 1970. Done twice, it changes nothing.
    ///
    /// # Errors
    /// When the database cannot be used.
    async fn write_statistics(
        &self,
        planner: &str,
        periods: &[(Period, Counts)],
        before: i64,
    ) -> Result<(), JournalError>;

    /// What planners counted in the period `since` and later ones of its length, oldest first.
    ///
    /// # Errors
    /// As [`Self::plan`].
    async fn statistics(&self, since: Period) -> Result<Vec<StoredCounts>, JournalError>;

    /// Numbers of plans that have not ended; commits of the last moment may be missing.
    ///
    /// # Errors
    /// As [`Self::plan`].
    async fn open_plans(&self) -> Result<OpenPlans, JournalError>;

    /// Size and age of the journal.
    ///
    /// # Errors
    /// When the database cannot be used.
    async fn stats(&self) -> Result<StoreStats, JournalError>;

    /// Dead letters, newest first.
    ///
    /// # Errors
    /// When the database cannot be used.
    async fn dead_letters(
        &self,
        query: &DeadLetterQuery,
    ) -> Result<Page<DeadLetter, DeadLetterCursor>, JournalError>;

    /// Applied number and age of the open dead letters, in constant time.
    ///
    /// # Errors
    /// As [`Self::plan`].
    async fn open_dead_letters(&self) -> Result<OpenDeadLetters, JournalError>;

    /// A bulk operation, and the number of dead letters that it selected.
    ///
    /// # Errors
    /// As [`Self::plan`].
    async fn bulk_operation(
        &self,
        sweep_id: BulkRedriveId,
    ) -> Result<Option<(BulkOperation, u64)>, JournalError>;

    /// Plans with open dead letters that a bulk operation selected, oldest first.
    ///
    /// # Errors
    /// As [`Self::plan`].
    async fn bulk_plans(&self, sweep_id: BulkRedriveId) -> Result<Vec<PlanId>, JournalError>;
}
