//! The journal in a PostgreSQL database.
//!
//! ```text
//! append ──▶ append.rs: one call of `append_batch` per batch, several batches at a time ──▶ the tables
//! read   ──▶ read.rs ─────────────────────────────────────────────────────────────────────▶ the tables
//! ```
//!
//! Batches are written into the tables directly, so everything durable is applied. Each writer has a connection, and a row that
//! fences it and that holds the number of its last batch: a batch that was not answered is sent again, and is written once.
//!
//! The server's clock is never read, and times of two planners are never compared.

mod append;
mod approvals;
mod budgets;
mod bulk;
mod cancels;
mod columns;
mod dead_letters;
mod ownership;
mod read;
mod retention;
mod statistics;
mod tables;
mod takeover;
mod writers;

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use phoenix_domain::{
    BulkRedriveId, PlanId,
    approval::WaitingApproval,
    budget::Account,
    dead_letter::DeadLetter,
    plan::{Plan, PlanStatus},
};
use phoenix_platform::postgres::{self, Hints, OpenError, OpenOptions, PATIENCE, Pooler};
use sqlx::migrate::Migrator;
use tokio::sync::{Mutex, Notify};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use self::{tables::Tables, takeover::Takeovers, writers::Writers};
use crate::store::{
    approval::{ApprovalCursor, ApprovalQuery, NewDecision, WaitingApprovals},
    backend::Store,
    budget::{Balance, Call, Charge, Use, Verdict},
    dead_letter::{BulkOperation, DeadLetterCursor, DeadLetterQuery, OpenDeadLetters},
    entry::{BatchId, Entries, UsedKey},
    error::JournalError,
    query::{Changes, Event, OldPlans, OpenPlans, Page, PlanFilter, Purged, StoreStats},
    statistics::{Counts, Period, StoredCounts},
    takeover::{Heartbeat, OpenTask, PlanOwner, TakeoverScope, Unfinished},
    task_ref::TaskRef,
};

static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| sqlx::migrate!("migrations/postgres"));

/// Schema of the tables in a PostgreSQL database.
pub const SCHEMA: &str = "phoenix_planner";

/// Number of writers. While one waits for the server, the others go on; more of them would make the batches smaller.
const WRITERS: u32 = 4;

/// Connections for reads and rare writes.
const READERS: u32 = 8;

/// Most connections of a planner to a PostgreSQL database: of writers, of readers, and one for hints.
pub const CONNECTIONS: u32 = WRITERS + READERS + 1;

/// Channel of the hints that something was written.
const CHANNEL: &str = "phoenix_planner";

/// Shortest interval of hints: the server notifies of one commit at a time.
const HINT_INTERVAL: Duration = Duration::from_millis(50);

/// A journal in a database that several planners may share.
#[derive(Debug)]
pub struct PostgresStore {
    tables: Tables,
    writers: Writers,
    takeovers: Takeovers,
    hints: Mutex<Hints>,
    peers: Arc<Peers>,
    _notifier: AbortOnDropHandle<()>,
}

/// The other planners, as far as they need hints.
#[derive(Debug, Default)]
struct Peers {
    exist: AtomicBool,
    written: Notify,
}

impl PostgresStore {
    /// Opens the database at `url`, such as `postgres://user:password@host/database`, and creates the tables that it lacks.
    ///
    /// # Errors
    /// When it cannot be opened or was written by a newer version.
    pub async fn open(url: &str, pooler: Pooler) -> Result<Self, OpenError> {
        let options =
            OpenOptions { role: "planner", schema: SCHEMA, pooler, connections: READERS, patience: PATIENCE };
        let database = postgres::open(url, options, &MIGRATIONS).await?;
        // The hints of this process name it, so that it ignores them.
        let own = Uuid::new_v4().to_string();
        let hints = Mutex::new(database.hints(CHANNEL, own.clone()));
        let (tables, peers) = (Tables { database: database.clone() }, Arc::<Peers>::default());
        let notifier = AbortOnDropHandle::new(tokio::spawn(notify(tables.clone(), Arc::clone(&peers), own)));
        // Readers that queue for a connection do not delay writers and heartbeats.
        let writers = Writers::new(database.for_writers(WRITERS), WRITERS);
        let takeovers = Takeovers::default();
        Ok(Self { tables, writers, takeovers, hints, peers, _notifier: notifier })
    }
}

/// Hints the other planners that this one has written something.
async fn notify(tables: Tables, peers: Arc<Peers>, own: String) {
    let statements = tables.statements();
    loop {
        peers.written.notified().await;
        if peers.exist.load(Ordering::Relaxed) && tables.database.persistent() {
            let hint = async |connection: &mut _| {
                let hint = statements.query("SELECT pg_notify($1, $2)");
                hint.bind(CHANNEL).bind(&own).execute(connection).await?;
                Ok(())
            };
            if let Err(error) = tables.write(hint).await {
                tracing::debug!(%error, "other planners find changes by their next poll");
            }
        }
        tokio::time::sleep(HINT_INTERVAL).await;
    }
}

#[tonic::async_trait]
impl Store for PostgresStore {
    fn location(&self) -> String {
        self.tables.database.to_string()
    }

    fn writers(&self) -> u32 {
        WRITERS
    }

    async fn register(&self, planner: &str) -> Result<(), JournalError> {
        ownership::register(&self.tables, planner, WRITERS).await
    }

    async fn advertise(&self, planner: &str, url: &str) -> Result<(), JournalError> {
        ownership::advertise(&self.tables, planner, url).await
    }

    async fn owner(&self, plan_id: PlanId) -> Result<Option<PlanOwner>, JournalError> {
        ownership::owner(&self.tables, plan_id).await
    }

    async fn release(&self, planner: &str) -> Result<(), JournalError> {
        ownership::release(&self.tables, planner).await
    }

    async fn check_presence(&self) -> Result<(), JournalError> {
        // A write fails when its table is gone.
        Ok(())
    }

    async fn oldest_unfinished(&self) -> Result<Option<Timestamp>, JournalError> {
        read::oldest_unfinished(&self.tables).await
    }

    async fn close(&self) {
        self.writers.close().await;
        self.tables.database.close().await;
    }

    async fn planners(&self) -> Result<Vec<Heartbeat>, JournalError> {
        let planners = ownership::planners(&self.tables).await?;
        self.peers.exist.store(planners.len() > 1, Ordering::Relaxed);
        Ok(planners)
    }

    async fn heartbeat(&self, planner: &str, at: Timestamp) -> Result<(), JournalError> {
        ownership::heartbeat(self.tables.statements(), &self.writers, planner, at).await
    }

    async fn append(&self, batch: &BatchId, groups: &[Entries]) -> Result<Vec<usize>, JournalError> {
        let rejected = append::append(&self.tables, &self.writers, batch, groups).await?;
        self.peers.written.notify_one();
        Ok(rejected)
    }

    async fn take_over(
        &self,
        planner: &str,
        dead: &[Heartbeat],
        scope: &TakeoverScope,
        at: Timestamp,
    ) -> Result<Unfinished, JournalError> {
        self.takeovers.take_over(&self.tables, planner, dead, scope, at).await
    }

    async fn reserve(
        &self,
        planner: &str,
        call: Call,
        charges: &[Charge],
        at: Timestamp,
    ) -> Result<Vec<Verdict>, JournalError> {
        budgets::reserve(&self.tables, planner, call, charges, at).await
    }

    async fn settle(
        &self,
        planner: &str,
        call: Call,
        used: &[Use],
        at: Timestamp,
    ) -> Result<(), JournalError> {
        budgets::settle(&self.tables, planner, call, used, at).await
    }

    async fn balances(&self, accounts: &[Account]) -> Result<Vec<Balance>, JournalError> {
        budgets::balances(&self.tables, accounts).await
    }

    async fn request_cancel(
        &self,
        planner: &str,
        plan_id: PlanId,
        reason: &str,
        at: Timestamp,
    ) -> Result<(), JournalError> {
        cancels::request(&self.tables, planner, plan_id, reason, at).await
    }

    async fn cancel_requests(&self) -> Result<Vec<(PlanId, String)>, JournalError> {
        cancels::requests(&self.tables).await
    }

    async fn delete_finished_cancel_requests(&self) -> Result<(), JournalError> {
        cancels::delete_finished(&self.tables).await
    }

    async fn decide(
        &self,
        planner: &str,
        task: TaskRef,
        decision: &NewDecision,
    ) -> Result<bool, JournalError> {
        approvals::decide(&self.tables, planner, task, decision).await
    }

    async fn decided_approvals(&self) -> Result<Vec<PlanId>, JournalError> {
        approvals::decided(&self.tables).await
    }

    async fn waiting_approvals(&self) -> Result<WaitingApprovals, JournalError> {
        approvals::waiting(&self.tables).await
    }

    async fn approvals(
        &self,
        query: &ApprovalQuery,
    ) -> Result<Page<WaitingApproval, ApprovalCursor>, JournalError> {
        approvals::list(&self.tables, query).await
    }

    async fn applied_status(&self, plan_id: PlanId) -> Result<Option<PlanStatus>, JournalError> {
        cancels::status(&self.tables, plan_id).await
    }

    async fn plans_by_id(
        &self,
        plan_ids: &[PlanId],
    ) -> Result<Vec<(PlanId, Result<Plan, JournalError>)>, JournalError> {
        read::plans_by_id(&self.tables, plan_ids).await
    }

    async fn open_tasks(&self, plan_id: PlanId) -> Result<Vec<OpenTask>, JournalError> {
        read::open_tasks(&self.tables, plan_id).await
    }

    async fn plans(&self, filter: &PlanFilter) -> Result<Page<Plan, PlanId>, JournalError> {
        read::plans(&self.tables, filter).await
    }

    async fn used_key(&self, key: &str, not_before: Timestamp) -> Result<Option<UsedKey>, JournalError> {
        read::used_key(&self.tables, key, not_before).await
    }

    async fn events(&self, plan_id: PlanId, position: u64, limit: u32) -> Result<Vec<Event>, JournalError> {
        read::events(&self.tables, plan_id, position, limit).await
    }

    async fn applied_events(
        &self,
        plan_id: PlanId,
        position: u64,
        limit: u32,
    ) -> Result<Vec<Event>, JournalError> {
        read::events(&self.tables, plan_id, position, limit).await
    }

    async fn flush(&self) -> Result<(), JournalError> {
        Ok(())
    }

    async fn position(&self) -> Result<u64, JournalError> {
        read::position(&self.tables).await
    }

    async fn changes(&self, plan_ids: &[PlanId], since: u64) -> Result<Changes, JournalError> {
        read::changes(&self.tables, plan_ids, since).await
    }

    async fn hint(&self) {
        self.hints.lock().await.next().await;
    }

    async fn purge_plans(&self, planner: &str, old: &OldPlans) -> Result<Purged, JournalError> {
        retention::purge_plans(&self.tables, planner, old).await
    }

    async fn write_statistics(
        &self,
        planner: &str,
        periods: &[(Period, Counts)],
        before: i64,
    ) -> Result<(), JournalError> {
        statistics::write(&self.tables, planner, periods, before).await
    }

    async fn statistics(&self, since: Period) -> Result<Vec<StoredCounts>, JournalError> {
        statistics::read(&self.tables, since).await
    }

    async fn open_plans(&self) -> Result<OpenPlans, JournalError> {
        read::open_plans(&self.tables).await
    }

    async fn purge_keys(&self, planner: &str, before: Timestamp, limit: u32) -> Result<u64, JournalError> {
        retention::purge_keys(&self.tables, planner, before, limit).await
    }

    async fn stats(&self) -> Result<StoreStats, JournalError> {
        retention::stats(&self.tables).await
    }

    async fn dead_letters(
        &self,
        query: &DeadLetterQuery,
    ) -> Result<Page<DeadLetter, DeadLetterCursor>, JournalError> {
        dead_letters::list(&self.tables, query).await
    }

    async fn open_dead_letters(&self) -> Result<OpenDeadLetters, JournalError> {
        dead_letters::open(&self.tables).await
    }

    async fn bulk_operation(
        &self,
        sweep_id: BulkRedriveId,
    ) -> Result<Option<(BulkOperation, u64)>, JournalError> {
        bulk::operation(&self.tables, sweep_id).await
    }

    async fn bulk_plans(&self, sweep_id: BulkRedriveId) -> Result<Vec<PlanId>, JournalError> {
        bulk::plans(&self.tables, sweep_id).await
    }
}
