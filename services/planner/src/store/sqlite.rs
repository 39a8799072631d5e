//! The journal in a SQLite file.
//!
//! ```text
//! write ──▶ log.rs: one row per commit, one fsync ──▶ a moment later, many at once ──▶ merge.rs, rows.rs: the tables
//! read  ──▶ log.rs: whatever is still in the log is moved first ──────────────────────▶ read.rs
//! ```
//!
//! A plan of one task that has ended when it is moved is kept whole, as a document; every other plan is rows: document.rs.
//!
//! A commit of the log touches one page, one of the tables a page of every table and every index: so the log is what
//! somebody waits for, and the tables are written once for many. Whoever reads finds everything that is durable.
//!
//! A commit that has to decide something (whose claim is the first, which dead letters a sweep is about) does so in its own
//! transaction, by tables that hold everything that is durable: claims.rs, dead_letters.rs.

mod cancels;
mod claims;
mod dead_letters;
mod document;
mod lease;
mod log;
mod merge;
mod presence;
mod quarantine;
mod read;
mod recent;
mod retention;
mod rows;
mod stored;

use std::sync::Arc;

use jiff::Timestamp;
use phoenix_domain::{
    BulkRedriveId, PlanId,
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
use super::{
    DeadLetterPlace, DeadLetterQuery, Entries, Entry, Event, Extent, Forgotten, Heartbeat, JournalError,
    OldPlans, OpenDeadLetters, Page, PlanFilter, Store, Sweep, TakeoverScope, Unfinished, UsedKey,
};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// Connections that read.
const READERS: u32 = 2;

/// A journal in a file.
#[derive(Debug)]
pub struct SqliteStore {
    readers: SqlitePool,
    log: Arc<Log>,
    presence: Presence,
    mover: TaskTracker,
    stop_moving: DropGuard,
}

impl SqliteStore {
    /// Opens, or makes, the file at `url`, such as `sqlite://data/planner.db`.
    ///
    /// # Errors
    /// When it can't be opened or was written by a newer version.
    pub async fn open(url: &str) -> Result<Self, OpenError> {
        let readers = sqlite::open(url, Durability::Full, READERS, &MIGRATIONS).await?;
        // A file that is gone by now is not made again, empty.
        let options = sqlite::options(url, Durability::Full)?.create_if_missing(false);
        let presence = Presence::of(options.get_filename()).await;
        let log = Arc::new(Log::new(options));
        let readmitted = log.exclusively(async |connection| quarantine::readmit(connection).await).await;
        match readmitted {
            Ok(0) => {}
            Ok(plans) => tracing::info!(plans, "records taken out of quarantine"),
            // The journal works without.
            Err(error) => tracing::warn!(%error, "records in quarantine cannot be looked at"),
        }
        let (mover, stop_moving) = (TaskTracker::new(), CancellationToken::new());
        let moving = log::keep_moving(Arc::clone(&log), readers.clone());
        mover.spawn(stop_moving.clone().run_until_cancelled_owned(moving));
        mover.close();
        Ok(Self { readers, log, presence, mover, stop_moving: stop_moving.drop_guard() })
    }

    /// The tables, with everything that was durable before the call.
    async fn tables(&self) -> Result<&SqlitePool, JournalError> {
        self.log.settle(&self.readers).await?;
        Ok(&self.readers)
    }
}

#[tonic::async_trait]
impl Store for SqliteStore {
    async fn register(&self, planner: &str) -> Result<(), JournalError> {
        self.log.exclusively(async |connection| lease::register(connection, planner).await).await
    }

    async fn release(&self, planner: &str) -> Result<(), JournalError> {
        self.log.settle(&self.readers).await?;
        self.log.exclusively(async |connection| lease::release(connection, planner).await).await
    }

    async fn check_presence(&self) -> Result<(), JournalError> {
        self.presence.check().await?;
        let present = self.log.exclusively(async |connection| {
            // A connection that has read something has the write-ahead log open.
            sqlx::query("SELECT 1 FROM journal").execute(connection).await?;
            // No reason to close the connection, whatever it is: the next one would make files of its own.
            Ok(self.presence.check_log().await)
        });
        present.await?
    }

    async fn oldest_unfinished(&self) -> Result<Option<Timestamp>, JournalError> {
        read::oldest_unfinished(&self.readers).await
    }

    /// One connection after the other: only the last one to go can fold the write-ahead log into the file, and of several that go
    /// at once each takes another for the last.
    async fn close(&self) {
        self.stop_moving.token().cancel();
        self.mover.wait().await;
        self.readers.close().await;
        self.log.close().await;
    }

    async fn planners(&self) -> Result<Vec<Heartbeat>, JournalError> {
        lease::planners(&self.readers).await
    }

    async fn beat(&self, planner: &str) -> Result<(), JournalError> {
        self.log.exclusively(async |connection| lease::beat(connection, planner).await).await
    }

    async fn write(&self, planner: &str, groups: &[Entries]) -> Result<Vec<usize>, JournalError> {
        self.log.append(planner, groups).await
    }

    async fn claim(
        &self,
        planner: &str,
        dead: &[Heartbeat],
        scope: &TakeoverScope,
    ) -> Result<Unfinished, JournalError> {
        if !dead.is_empty() {
            // First: what they wrote before is moved below, and nothing comes after.
            self.log.exclusively(async |connection| lease::depose(connection, dead).await).await?;
        }
        // It is asked several times a second, and mostly in vain: what is in the log stays there then, to be moved with more.
        if !lease::has_orphans(&self.readers).await? {
            return Ok(Unfinished::default());
        }
        self.log.settle(&self.readers).await?;
        let found = lease::orphans(&self.readers, scope).await?;
        let claim = async |connection: &mut _| lease::claim(connection, planner, &found.to_take).await;
        let claimed =
            if found.is_of_use() { self.log.exclusively(claim).await? } else { Unfinished::default() };
        Ok(Unfinished { left: found.left, ..claimed })
    }

    async fn request_cancel(
        &self,
        planner: &str,
        plan_id: PlanId,
        reason: &str,
        at: Timestamp,
    ) -> Result<(), JournalError> {
        // A request for a plan that is not in the tables yet would pass for one that has been dealt with.
        self.log.settle(&self.readers).await?;
        let request = cancels::Request { planner, plan_id, reason, at };
        self.log.exclusively(async |connection| cancels::request(connection, &request).await).await
    }

    async fn cancel_requests(&self) -> Result<Vec<(PlanId, String)>, JournalError> {
        cancels::requests(&self.readers).await
    }

    async fn forget_cancel_requests(&self) -> Result<(), JournalError> {
        self.log.exclusively(async |connection| cancels::forget(connection).await).await
    }

    async fn moved_status(&self, plan_id: PlanId) -> Result<Option<PlanStatus>, JournalError> {
        cancels::status(&self.readers, plan_id).await
    }

    async fn whole_plans(
        &self,
        plan_ids: &[PlanId],
    ) -> Result<Vec<(PlanId, Result<Plan, JournalError>)>, JournalError> {
        read::whole_plans(self.tables().await?, plan_ids).await
    }

    async fn plans(&self, filter: &PlanFilter) -> Result<Page<Plan, PlanId>, JournalError> {
        read::plans(self.tables().await?, filter).await
    }

    async fn subject_of_key(
        &self,
        key: &str,
        not_before: Timestamp,
    ) -> Result<Option<UsedKey>, JournalError> {
        // Keys are written together with the log.
        read::subject_of_key(&self.readers, key, not_before).await
    }

    async fn events(&self, plan_id: PlanId, position: u64, limit: u32) -> Result<Vec<Event>, JournalError> {
        read::events(self.tables().await?, plan_id, position, limit).await
    }

    async fn moved_events(
        &self,
        plan_id: PlanId,
        position: u64,
        limit: u32,
    ) -> Result<Vec<Event>, JournalError> {
        read::events(&self.readers, plan_id, position, limit).await
    }

    async fn settle(&self) -> Result<(), JournalError> {
        self.log.settle(&self.readers).await
    }

    async fn position(&self) -> Result<u64, JournalError> {
        read::position(&self.readers).await
    }

    async fn changed_since(&self, plan_ids: &[PlanId], position: u64) -> Result<Vec<PlanId>, JournalError> {
        read::changed_since(&self.readers, plan_ids, position).await
    }

    async fn forget_plans(&self, planner: &str, old: &OldPlans) -> Result<Forgotten, JournalError> {
        // What ended long ago is in the tables; only who asks for the first time may expect what was written just now.
        let tables = if old.after.is_none() { self.tables().await? } else { &self.readers };
        retention::forget_plans(tables, &self.log, planner, old).await
    }

    async fn forget_keys(&self, planner: &str, before: Timestamp, limit: u32) -> Result<u64, JournalError> {
        retention::forget_keys(&self.readers, &self.log, planner, before, limit).await
    }

    async fn extent(&self) -> Result<Extent, JournalError> {
        retention::extent(self.tables().await?).await
    }

    async fn dead_letters(
        &self,
        query: &DeadLetterQuery,
    ) -> Result<Page<DeadLetter, DeadLetterPlace>, JournalError> {
        dead_letters::list(self.tables().await?, query).await
    }

    async fn open_dead_letters(&self) -> Result<OpenDeadLetters, JournalError> {
        dead_letters::open(&self.readers).await
    }

    async fn sweep(&self, sweep_id: BulkRedriveId) -> Result<Option<(Sweep, u64)>, JournalError> {
        dead_letters::sweep(self.tables().await?, sweep_id).await
    }

    async fn swept_plans(&self, sweep_id: BulkRedriveId) -> Result<Vec<PlanId>, JournalError> {
        dead_letters::swept_plans(self.tables().await?, sweep_id).await
    }
}
