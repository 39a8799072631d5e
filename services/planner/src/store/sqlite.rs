//! The journal in a SQLite file: WAL, one fsync per batch, one statement per batch.

mod lease;
mod read;
mod rows;

use jiff::Timestamp;
use phoenix_domain::{PlanId, plan::Plan};
use phoenix_platform::sqlite::{self, Durability, OpenError};
use sqlx::{SqlitePool, migrate::Migrator};

use super::{Entry, Event, Heartbeat, JournalError, PlanFilter, Store};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// Connections that read beside the writer's one.
const READERS: u32 = 2;

/// A journal in a file.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    pool: SqlitePool,
}

impl SqliteStore {
    /// Opens, or makes, the file at `url`, such as `sqlite://data/planner.db`.
    ///
    /// # Errors
    /// When it can't be opened or was written by a newer version.
    pub async fn open(url: &str) -> Result<Self, OpenError> {
        Ok(Self { pool: sqlite::open(url, Durability::Full, READERS + 1, &MIGRATIONS).await? })
    }
}

#[tonic::async_trait]
impl Store for SqliteStore {
    async fn register(&self, planner: &str) -> Result<(), JournalError> {
        lease::register(&self.pool, planner).await
    }

    async fn release(&self, planner: &str) -> Result<(), JournalError> {
        lease::release(&self.pool, planner).await
    }

    async fn planners(&self) -> Result<Vec<Heartbeat>, JournalError> {
        lease::planners(&self.pool).await
    }

    async fn write(&self, planner: &str, entries: &[&Entry]) -> Result<(), JournalError> {
        rows::write(&self.pool, planner, entries).await
    }

    async fn claim(&self, planner: &str, dead: &[Heartbeat]) -> Result<Vec<PlanId>, JournalError> {
        lease::claim(&self.pool, planner, dead).await
    }

    async fn plan(&self, plan_id: PlanId) -> Result<Option<Plan>, JournalError> {
        read::plan(&self.pool, plan_id).await
    }

    async fn plans(&self, filter: &PlanFilter) -> Result<Vec<Plan>, JournalError> {
        read::plans(&self.pool, filter).await
    }

    async fn plan_of_key(
        &self,
        key: &str,
        not_before: Timestamp,
    ) -> Result<Option<(PlanId, String)>, JournalError> {
        read::plan_of_key(&self.pool, key, not_before).await
    }

    async fn events(&self, plan_id: PlanId, position: u64, limit: u32) -> Result<Vec<Event>, JournalError> {
        read::events(&self.pool, plan_id, position, limit).await
    }
}
