//! The store: the database of the journal.
//!
//! A [`Store`] makes batches of [`Entry`]s durable, on behalf of a planner that still owns what it writes, and reads them
//! back. The journal (`journal.rs`) decides when to write, what to do after a failure, and which callers are notified. Every store
//! passes the conformance suite in `tests/store`.
//!
//! | module | responsibility |
//! |---|---|
//! | `sqlite` | the journal in a SQLite file |
//! | `projection` | entries become states of plans, tasks and attempts, for any database |
//! | `record` | the stored format of entries |
//! | `backend` | what a database provides |
//! | `entry`, `query`, `takeover`, `dead_letter`, `error` | values that are written and read |

pub(crate) mod backend;
pub(crate) mod dead_letter;
pub(crate) mod entry;
pub(crate) mod error;
mod projection;
pub(crate) mod query;
mod record;
mod sqlite;
pub(crate) mod takeover;
pub(crate) mod task_ref;

use std::sync::Arc;

use phoenix_platform::sqlite::OpenError;

pub use backend::Store;
pub use dead_letter::{
    BulkAction, BulkOperation, DeadLetterCursor, DeadLetterFilter, DeadLetterQuery, InvalidCursor,
    OpenDeadLetters,
};
pub use entry::{Entries, Entry, IdempotencyKey, UsedKey};
pub use error::JournalError;
pub use query::{Event, OldPlans, Page, PlanFilter, Purged, StoreStats, Unreadable};
#[doc(hidden)]
pub use record::rewrite_records;
pub use sqlite::SqliteStore;
pub use takeover::{Heartbeat, SUSPECT_WINDOW, SkippedPlan, TakeoverScope, Unfinished, UnfinishedPlan};
pub use task_ref::TaskRef;

/// Opens the database at `url`, or creates it, and migrates its tables.
///
/// # Errors
/// When it cannot be opened or was written by a newer version.
pub async fn open(url: &str) -> Result<Arc<dyn Store>, OpenError> {
    Ok(Arc::new(SqliteStore::open(url).await?))
}
