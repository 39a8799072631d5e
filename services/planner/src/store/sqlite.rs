//! The journal in a SQLite file.
//!
//! ```text
//! append ──▶ log.rs: one row per commit, one fsync ──▶ apply.rs, a moment later, many at once ──▶ rows.rs: the tables
//! read   ──▶ apply.rs: applies what is still in the log ────────────────────────────────────────▶ read.rs
//! ```
//!
//! A commit of the log writes one page; one of the tables would write a page of every table and index. Callers therefore wait
//! for the log, and the tables are written once for many commits. Readers see everything durable.
//!
//! A commit that requires a decision (which reservation is the first, which dead letters a bulk operation selects) makes it in
//! its own transaction, after everything durable is applied: reservations.rs, bulk.rs.

mod apply;
mod approvals;
mod budgets;
mod bulk;
mod cancels;
mod checkpoint;
mod connection;
mod dead_letters;
mod log;
mod log_prefix;
mod ownership;
mod presence;
mod projected_rows;
mod quarantine;
mod read;
mod recent;
mod reservations;
mod retention;
mod rows;
mod statistics;
mod upgrade;

use std::sync::Arc;

use jiff::Timestamp;
use phoenix_domain::{
    BulkRedriveId, PlanId,
    approval::WaitingApproval,
    budget::Account,
    dead_letter::DeadLetter,
    plan::{Plan, PlanStatus},
};
use phoenix_platform::sqlite::{self, Durability, OpenError};
use sqlx::{SqlitePool, migrate::Migrator};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use self::{log::Log, presence::Presence};
use crate::store::{
    approval::{ApprovalCursor, ApprovalQuery, NewDecision, WaitingApprovals},
    backend::Store,
    budget::{Balance, Call, Charge, Use, Verdict},
    dead_letter::{BulkOperation, DeadLetterCursor, DeadLetterQuery, OpenDeadLetters},
    ended_plan::ended_plan,
    entry::{BatchId, Entries, UsedKey},
    error::JournalError,
    query::{Changes, Event, OldPlans, OpenPlans, Page, PlanFilter, Purged, StoreStats},
    statistics::{Counts, Period, StoredCounts},
    takeover::{Heartbeat, OpenTask, PlanOwner, TakeoverScope, Unfinished},
    task_ref::TaskRef,
};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// Number of connections that read.
const READERS: u32 = 2;

/// A journal in a file.
#[derive(Debug)]
pub struct SqliteStore {
    readers: SqlitePool,
    log: Arc<Log>,
    presence: Presence,
    applier: TaskTracker,
    stop_applier: DropGuard,
}

impl SqliteStore {
    /// Opens the file at `url`, such as `sqlite://data/planner.db`, or creates it.
    ///
    /// # Errors
    /// When it cannot be opened, was written by a newer version, or belongs to an older one that works with it.
    pub async fn open(url: &str) -> Result<Self, OpenError> {
        upgrade::run(url, &MIGRATIONS).await?;
        let readers = sqlite::open(url, Durability::Full, READERS, &MIGRATIONS).await?;
        // A file that is removed from now on is not created again, empty.
        let options = sqlite::options(url, Durability::Full)?.create_if_missing(false);
        let presence = Presence::of(options.get_filename()).await;
        let log = Arc::new(Log::new(options));
        let readmit = async |connection: &mut _| quarantine::readmit(connection).await;
        match log.connection.exclusively(readmit).await {
            Ok(0) => {}
            Ok(plans) => tracing::info!(plans, "records taken out of quarantine"),
            // The journal works without.
            Err(error) => tracing::warn!(%error, "records in quarantine cannot be read"),
        }
        if let Err(error) = checkpoint::open(&log).await {
            tracing::warn!(%error, "the journal's write-ahead log cannot be checkpointed; retrying");
        }
        let (applier, stop) = (TaskTracker::new(), CancellationToken::new());
        let applying = apply::run(Arc::clone(&log), readers.clone());
        applier.spawn(stop.clone().run_until_cancelled_owned(applying));
        applier.spawn(checkpoint::run(Arc::clone(&log), stop.clone()));
        applier.close();
        Ok(Self { readers, log, presence, applier, stop_applier: stop.drop_guard() })
    }

    /// The tables, with everything applied that was durable before the call.
    async fn tables(&self) -> Result<&SqlitePool, JournalError> {
        self.log.flush(&self.readers).await?;
        Ok(&self.readers)
    }
}

#[tonic::async_trait]
impl Store for SqliteStore {
    fn location(&self) -> String {
        self.readers.connect_options().get_filename().display().to_string()
    }

    async fn register(&self, planner: &str) -> Result<(), JournalError> {
        let register = async |connection: &mut _| ownership::register(connection, planner).await;
        self.log.connection.exclusively(register).await
    }

    async fn advertise(&self, planner: &str, url: &str) -> Result<(), JournalError> {
        let advertise = async |connection: &mut _| ownership::advertise(connection, planner, url).await;
        self.log.connection.exclusively(advertise).await
    }

    async fn owner(&self, plan_id: PlanId) -> Result<Option<PlanOwner>, JournalError> {
        ownership::owner(self.tables().await?, plan_id).await
    }

    async fn release(&self, planner: &str) -> Result<(), JournalError> {
        self.log.flush(&self.readers).await?;
        let release = async |connection: &mut _| ownership::release(connection, planner).await;
        self.log.connection.exclusively(release).await
    }

    async fn check_presence(&self) -> Result<(), JournalError> {
        self.presence.check().await?;
        let present = self.log.connection.exclusively(async |connection| {
            // A connection that has read something has the write-ahead log open.
            sqlx::query("SELECT 1 FROM journal").execute(connection).await?;
            // A missing log must not close the connection: the next one would create files of its own.
            Ok(self.presence.check_log().await)
        });
        present.await?
    }

    async fn oldest_unfinished(&self) -> Result<Option<Timestamp>, JournalError> {
        read::oldest_unfinished(&self.readers).await
    }

    /// Closes one connection after the other: only the last one can fold the write-ahead log into the file, and of several
    /// that close concurrently each takes another for the last.
    async fn close(&self) {
        self.stop_applier.token().cancel();
        self.applier.wait().await;
        self.readers.close().await;
        self.log.checkpoints.close().await;
        self.log.connection.close().await;
    }

    async fn planners(&self) -> Result<Vec<Heartbeat>, JournalError> {
        ownership::planners(&self.readers).await
    }

    async fn heartbeat(&self, planner: &str, at: Timestamp) -> Result<(), JournalError> {
        let heartbeat = async |connection: &mut _| ownership::heartbeat(connection, planner, at).await;
        self.log.connection.exclusively(heartbeat).await
    }

    async fn append(&self, batch: &BatchId, groups: &[Entries]) -> Result<Vec<usize>, JournalError> {
        // The outcome of a commit is always known.
        self.log.append(&batch.planner, groups).await
    }

    async fn take_over(
        &self,
        planner: &str,
        dead: &[Heartbeat],
        scope: &TakeoverScope,
        at: Timestamp,
    ) -> Result<Unfinished, JournalError> {
        if !dead.is_empty() {
            // First: everything they wrote is applied below, and nothing follows.
            let fence = async |connection: &mut _| ownership::fence(connection, planner, dead).await;
            self.log.connection.exclusively(fence).await?;
        }
        // Called several times per second, mostly without effect: the log is not flushed then.
        if !ownership::has_orphans(&self.readers).await? {
            return Ok(Unfinished::default());
        }
        self.log.connection.exclusively(budgets::settle_orphans).await?;
        self.log.flush(&self.readers).await?;
        let orphans = ownership::orphans(&self.readers, scope).await?;
        let unfinished = if orphans.is_empty() {
            Unfinished::default()
        } else {
            let plans = &orphans.plans;
            let take_over =
                async |connection: &mut _| ownership::take_over(connection, planner, plans, at).await;
            self.log.connection.exclusively(take_over).await?
        };
        Ok(Unfinished { skipped: orphans.skipped, ..unfinished })
    }

    async fn reserve(
        &self,
        planner: &str,
        call: Call,
        charges: &[Charge],
        at: Timestamp,
    ) -> Result<Vec<Verdict>, JournalError> {
        let reserve =
            async |connection: &mut _| budgets::reserve(connection, planner, call, charges, at).await;
        self.log.connection.exclusively(reserve).await
    }

    async fn settle(
        &self,
        planner: &str,
        call: Call,
        used: &[Use],
        at: Timestamp,
    ) -> Result<(), JournalError> {
        let settle = async |connection: &mut _| budgets::settle(connection, planner, call, used, at).await;
        self.log.connection.exclusively(settle).await
    }

    async fn balances(&self, accounts: &[Account]) -> Result<Vec<Balance>, JournalError> {
        budgets::balances(&self.readers, accounts).await
    }

    async fn request_cancel(
        &self,
        planner: &str,
        plan_id: PlanId,
        reason: &str,
        at: Timestamp,
    ) -> Result<(), JournalError> {
        // A request for a plan that is not applied yet would be deleted as one for a plan that has ended.
        self.log.flush(&self.readers).await?;
        let request = cancels::Request { planner, plan_id, reason, at };
        let request = async |connection: &mut _| cancels::request(connection, &request).await;
        self.log.connection.exclusively(request).await
    }

    async fn cancel_requests(&self) -> Result<Vec<(PlanId, String)>, JournalError> {
        cancels::requests(&self.readers).await
    }

    async fn delete_finished_cancel_requests(&self) -> Result<(), JournalError> {
        let delete = async |connection: &mut _| cancels::delete_finished(connection).await;
        self.log.connection.exclusively(delete).await
    }

    async fn decide(
        &self,
        planner: &str,
        task: TaskRef,
        decision: &NewDecision,
    ) -> Result<bool, JournalError> {
        self.log.flush(&self.readers).await?;
        let decide = async |connection: &mut _| approvals::decide(connection, planner, task, decision).await;
        self.log.connection.exclusively(decide).await
    }

    async fn decided_approvals(&self) -> Result<Vec<PlanId>, JournalError> {
        approvals::decided(&self.readers).await
    }

    async fn waiting_approvals(&self) -> Result<WaitingApprovals, JournalError> {
        approvals::waiting(&self.readers).await
    }

    async fn approvals(
        &self,
        query: &ApprovalQuery,
    ) -> Result<Page<WaitingApproval, ApprovalCursor>, JournalError> {
        approvals::list(self.tables().await?, query).await
    }

    async fn applied_status(&self, plan_id: PlanId) -> Result<Option<PlanStatus>, JournalError> {
        cancels::status(&self.readers, plan_id).await
    }

    async fn plans_by_id(
        &self,
        plan_ids: &[PlanId],
    ) -> Result<Vec<(PlanId, Result<Plan, JournalError>)>, JournalError> {
        read::plans_by_id(self.tables().await?, plan_ids).await
    }

    fn just_ended(&self, plan_id: PlanId) -> Option<Plan> {
        ended_plan(&self.log.recent.newest(), plan_id)
    }

    async fn open_tasks(&self, plan_id: PlanId) -> Result<Vec<OpenTask>, JournalError> {
        read::open_tasks(self.tables().await?, plan_id).await
    }

    async fn plans(&self, filter: &PlanFilter) -> Result<Page<Plan, PlanId>, JournalError> {
        read::plans(self.tables().await?, filter).await
    }

    async fn used_key(&self, key: &str, not_before: Timestamp) -> Result<Option<UsedKey>, JournalError> {
        // Keys are written in the transaction of their commit.
        read::used_key(&self.readers, key, not_before).await
    }

    async fn events(&self, plan_id: PlanId, position: u64, limit: u32) -> Result<Vec<Event>, JournalError> {
        read::events(self.tables().await?, plan_id, position, limit).await
    }

    async fn applied_events(
        &self,
        plan_id: PlanId,
        position: u64,
        limit: u32,
    ) -> Result<Vec<Event>, JournalError> {
        read::events(&self.readers, plan_id, position, limit).await
    }

    async fn flush(&self) -> Result<(), JournalError> {
        self.log.flush(&self.readers).await
    }

    async fn position(&self) -> Result<u64, JournalError> {
        read::position(&self.readers).await
    }

    async fn changes(&self, plan_ids: &[PlanId], since: u64) -> Result<Changes, JournalError> {
        read::changes(&self.readers, plan_ids, since).await
    }

    async fn purge_plans(&self, planner: &str, old: &OldPlans) -> Result<Purged, JournalError> {
        // Old plans are applied; only the first batch of a search includes what was written just now.
        let tables = if old.after.is_none() { self.tables().await? } else { &self.readers };
        retention::purge_plans(tables, &self.log.connection, planner, old).await
    }

    async fn write_statistics(
        &self,
        planner: &str,
        periods: &[(Period, Counts)],
        before: i64,
    ) -> Result<(), JournalError> {
        let write = async |connection: &mut _| statistics::write(connection, planner, periods, before).await;
        self.log.connection.exclusively(write).await
    }

    async fn statistics(&self, since: Period) -> Result<Vec<StoredCounts>, JournalError> {
        statistics::read(&self.readers, since).await
    }

    async fn open_plans(&self) -> Result<OpenPlans, JournalError> {
        read::open_plans(&self.readers).await
    }

    async fn purge_keys(&self, planner: &str, before: Timestamp, limit: u32) -> Result<u64, JournalError> {
        retention::purge_keys(&self.readers, &self.log.connection, planner, before, limit).await
    }

    async fn stats(&self) -> Result<StoreStats, JournalError> {
        retention::stats(self.tables().await?).await
    }

    async fn dead_letters(
        &self,
        query: &DeadLetterQuery,
    ) -> Result<Page<DeadLetter, DeadLetterCursor>, JournalError> {
        dead_letters::list(self.tables().await?, query).await
    }

    async fn open_dead_letters(&self) -> Result<OpenDeadLetters, JournalError> {
        dead_letters::open(&self.readers).await
    }

    async fn bulk_operation(
        &self,
        sweep_id: BulkRedriveId,
    ) -> Result<Option<(BulkOperation, u64)>, JournalError> {
        bulk::operation(self.tables().await?, sweep_id).await
    }

    async fn bulk_plans(&self, sweep_id: BulkRedriveId) -> Result<Vec<PlanId>, JournalError> {
        bulk::plans(self.tables().await?, sweep_id).await
    }
}
