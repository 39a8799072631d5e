//! Reads of the journal: they bypass the writers and see the committed state.

use std::collections::BTreeMap;

use jiff::Timestamp;
use phoenix_domain::{BulkRedriveId, PlanId, approval::WaitingApproval, dead_letter::DeadLetter, plan::Plan};

use super::Journal;
use crate::store::{
    approval::{ApprovalCursor, ApprovalQuery, WaitingApprovals},
    dead_letter::{BulkOperation, DeadLetterCursor, DeadLetterQuery, OpenDeadLetters},
    entry::UsedKey,
    error::JournalError,
    query::{Event, OpenPlans, Page, PlanFilter, StoreStats, Unreadable},
    statistics::{Counts, Period, StoredCounts},
    takeover::OpenTask,
};

impl Journal {
    /// Reads a plan with its tasks and attempts.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn plan(&self, plan_id: PlanId) -> Result<Option<Plan>, JournalError> {
        let plan = self.store.plan(plan_id).await;
        if let Err(JournalError::Damaged(what)) = &plan {
            self.damage.report(&Unreadable { id: plan_id.to_string(), what: what.clone() });
        }
        plan
    }

    /// A plan that has just ended, if it is known without a read.
    #[must_use]
    pub fn just_ended(&self, plan_id: PlanId) -> Option<Plan> {
        self.store.just_ended(plan_id)
    }

    /// Reads plans with their tasks and attempts. Missing plans are left out; an unreadable plan does not affect the others.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn plans_by_id(
        &self,
        plan_ids: &[PlanId],
    ) -> Result<Vec<(PlanId, Result<Plan, JournalError>)>, JournalError> {
        let plans = self.store.plans_by_id(plan_ids).await?;
        for (plan_id, plan) in &plans {
            if let Err(JournalError::Damaged(what)) = plan {
                self.damage.report(&Unreadable { id: plan_id.to_string(), what: what.clone() });
            }
        }
        Ok(plans)
    }

    /// The tasks of a plan that have not ended, also of a plan whose content cannot be read.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn open_tasks(&self, plan_id: PlanId) -> Result<Vec<OpenTask>, JournalError> {
        self.store.open_tasks(plan_id).await
    }

    /// Lists plans, newest first, without their tasks.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn plans(&self, filter: &PlanFilter) -> Result<Page<Plan, PlanId>, JournalError> {
        let page = self.store.plans(filter).await?;
        page.unreadable.iter().for_each(|record| self.damage.report(record));
        Ok(page)
    }

    /// What all planners counted in the period `since` and each later one of its length, by number; other planners store their
    /// counts every few seconds.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn statistics(&self, since: Period) -> Result<BTreeMap<i64, Counts>, JournalError> {
        // Read first: what is stored meanwhile is still in the rows or in memory, and counts once.
        let own = self.statistics.since(since);
        let stored = self.store.statistics(since).await?;
        let mut periods: BTreeMap<i64, Counts> = BTreeMap::new();
        let others = stored.iter().filter(|StoredCounts { number, planner, .. }| {
            *planner != *self.instance || !own.contains_key(number)
        });
        for StoredCounts { number, counts, .. } in others {
            *periods.entry(*number).or_default() += counts;
        }
        for (number, counts) in &own {
            *periods.entry(*number).or_default() += counts;
        }
        Ok(periods)
    }

    /// Numbers of plans that have not ended.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn open_plans(&self) -> Result<OpenPlans, JournalError> {
        self.store.open_plans().await
    }

    /// The first use of `key`, if it was not before `not_before`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn used_key(&self, key: &str, not_before: Timestamp) -> Result<Option<UsedKey>, JournalError> {
        self.store.used_key(key, not_before).await
    }

    /// Events of a plan after `position`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn events(
        &self,
        plan_id: PlanId,
        position: u64,
        limit: u32,
    ) -> Result<Vec<Event>, JournalError> {
        self.store.events(plan_id, position, limit).await
    }

    /// As [`Self::events`], but only from the tables: commits of the last moment may be missing. A watcher of the plan is
    /// notified when they are there.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn applied_events(
        &self,
        plan_id: PlanId,
        position: u64,
        limit: u32,
    ) -> Result<Vec<Event>, JournalError> {
        self.store.applied_events(plan_id, position, limit).await
    }

    /// Acceptance time of the oldest unfinished plan of all planners that does not wait for an approval.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn oldest_unfinished(&self) -> Result<Option<Timestamp>, JournalError> {
        self.store.oldest_unfinished().await
    }

    /// Size and age of the journal.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn stats(&self) -> Result<StoreStats, JournalError> {
        self.store.stats().await
    }

    /// Lists dead letters, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn dead_letters(
        &self,
        query: &DeadLetterQuery,
    ) -> Result<Page<DeadLetter, DeadLetterCursor>, JournalError> {
        let page = self.store.dead_letters(query).await?;
        page.unreadable.iter().for_each(|record| self.damage.report(record));
        Ok(page)
    }

    /// Number and age of the open dead letters; a change of the last moment may be missing.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn open_dead_letters(&self) -> Result<OpenDeadLetters, JournalError> {
        self.store.open_dead_letters().await
    }

    /// Plans with tasks that wait although the decision about their approval is written; one of the last moment may be missing.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn decided_approvals(&self) -> Result<Vec<PlanId>, JournalError> {
        self.store.decided_approvals().await
    }

    /// Number and age of the approvals that wait; a change of the last moment may be missing.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn waiting_approvals(&self) -> Result<WaitingApprovals, JournalError> {
        self.store.waiting_approvals().await
    }

    /// Lists approvals that wait, the longest wait first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn approvals(
        &self,
        query: &ApprovalQuery,
    ) -> Result<Page<WaitingApproval, ApprovalCursor>, JournalError> {
        let page = self.store.approvals(query).await?;
        page.unreadable.iter().for_each(|record| self.damage.report(record));
        Ok(page)
    }

    /// A bulk operation, and the number of dead letters that it selected.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn bulk_operation(
        &self,
        sweep_id: BulkRedriveId,
    ) -> Result<Option<(BulkOperation, u64)>, JournalError> {
        self.store.bulk_operation(sweep_id).await
    }

    /// Plans with open dead letters that a bulk operation selected, oldest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn bulk_plans(&self, sweep_id: BulkRedriveId) -> Result<Vec<PlanId>, JournalError> {
        self.store.bulk_plans(sweep_id).await
    }
}
