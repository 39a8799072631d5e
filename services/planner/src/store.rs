//! The store: the database of the journal.
//!
//! A [`Store`] makes batches of [`Entry`]s durable, on behalf of a planner that still owns what it writes, and reads them
//! back. The journal (`journal.rs`) decides when to write, what to do after a failure, and which callers are notified. Every store
//! passes the conformance suite in `tests/store`.
//!
//! | module | responsibility |
//! |---|---|
//! | `sqlite` | the journal in a SQLite file |
//! | `postgres` | the journal in a PostgreSQL database |
//! | `projection`, `plan_events`, `changes` | entries become states, events and row changes, for any database |
//! | `ended_plan` | entries become a plan that has just ended |
//! | `reservation` | which groups of a batch come too late, for any database |
//! | `stored`, `listing` | rows become plans, events, dead letters and pages, for any database |
//! | `record` | the stored format of entries |
//! | `backend` | what a database provides |
//! | `budget` | reservations of budgets, for any database |
//! | `statistics` | counts and durations of a minute, for any database |
//! | `approval` | decisions about approvals, for any database |
//! | `entry`, `query`, `takeover`, `dead_letter`, `error` | values that are written and read |

pub(crate) mod approval;
pub(crate) mod backend;
pub(crate) mod budget;
mod changes;
pub(crate) mod dead_letter;
mod ended_plan;
pub(crate) mod entry;
pub(crate) mod error;
mod listing;
mod plan_events;
mod postgres;
mod projection;
pub(crate) mod query;
mod record;
mod reservation;
mod sqlite;
pub(crate) mod statistics;
mod stored;
pub(crate) mod takeover;
pub(crate) mod task_ref;

use std::sync::Arc;

use phoenix_platform::{
    postgres::{self as postgres_database, Pooler, is_postgres_url},
    sqlite as sqlite_file,
};

pub use approval::{ApprovalCursor, ApprovalQuery, NewDecision, WaitingApprovals};
pub use backend::Store;
pub use budget::{Balance, Call, Charge, Use, Verdict, is_granted};
pub use dead_letter::{
    BulkAction, BulkOperation, DeadLetterCursor, DeadLetterFilter, DeadLetterQuery, InvalidCursor,
    OpenDeadLetters,
};
pub use entry::{ApprovalOutcome, BatchId, Entries, Entry, IdempotencyKey, OutputPart, UsedKey};
pub use error::JournalError;
pub use postgres::{CONNECTIONS as POSTGRES_CONNECTIONS, PostgresStore, SCHEMA as POSTGRES_SCHEMA};
pub use query::{Changes, Event, OldPlans, OpenPlans, Page, PlanFilter, Purged, StoreStats, Unreadable};
#[doc(hidden)]
pub use record::rewrite_records;
pub use sqlite::SqliteStore;
pub use statistics::{Counts, Histogram, LENGTHS, Period, StoredCounts};
pub use takeover::{
    Heartbeat, OpenTask, PlanOwner, SUSPECT_WINDOW, SkippedPlan, TakeoverScope, Unfinished, UnfinishedPlan,
};
pub use task_ref::TaskRef;

/// Reason why a database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A SQLite file cannot be opened.
    #[error(transparent)]
    Sqlite(#[from] sqlite_file::OpenError),
    /// A PostgreSQL database cannot be opened.
    #[error(transparent)]
    Postgres(#[from] postgres_database::OpenError),
}

/// Opens the database at `url`, or creates it, and migrates its tables: `postgres://…` is a PostgreSQL database, anything else a
/// SQLite file. No pooler is in front of the database, or one that gives each client a session.
///
/// # Errors
/// When it cannot be opened or was written by a newer version.
pub async fn open(url: &str) -> Result<Arc<dyn Store>, OpenError> {
    open_behind(url, Pooler::default()).await
}

/// As [`open`], with a PostgreSQL database behind `pooler`.
///
/// # Errors
/// As [`open`].
pub async fn open_behind(url: &str, pooler: Pooler) -> Result<Arc<dyn Store>, OpenError> {
    if is_postgres_url(url) {
        return Ok(Arc::new(PostgresStore::open(url, pooler).await?));
    }
    Ok(Arc::new(SqliteStore::open(url).await?))
}
