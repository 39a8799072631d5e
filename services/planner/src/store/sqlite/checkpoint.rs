//! Checkpoints: the write-ahead log (WAL) is copied into the database file by a connection of its own, so that no commit waits
//! for the copy and its fsync.
//!
//! SQLite starts a WAL from its beginning again when a commit finds all of it copied
//! (<https://sqlite.org/wal.html#avoiding_excessively_large_wal_files>). Under load no commit ever does: the next one is
//! written before the copy ends. When the WAL is long, its last pages are therefore copied while commits wait.

use std::{sync::Arc, time::Duration};

use sqlx::SqliteConnection;
use tokio_util::sync::CancellationToken;

use crate::store::{error::JournalError, sqlite::log::Log};

/// Interval of the checkpoints while the journal is written. A page that several commits write is copied once.
const INTERVAL: Duration = Duration::from_millis(500);

/// Length of the WAL, in pages of 4 KiB, from which its end is copied while commits wait.
const LONG: i64 = 4096;

/// Opens the connection: now, because one that is opened after the write-ahead log was removed creates another one, and hides
/// that this planner's commits are lost.
///
/// # Errors
/// When the file cannot be opened.
pub(super) async fn open(log: &Log) -> Result<(), JournalError> {
    log.checkpoints.exclusively(copy).await?;
    Ok(())
}

/// Checkpoints the journal while it is written, until `stop` is cancelled.
pub(super) async fn run(log: Arc<Log>, stop: CancellationToken) {
    let mut is_failing = false;
    let due = async || {
        log.applied.notified().await;
        tokio::time::sleep(INTERVAL).await;
    };
    while stop.run_until_cancelled(due()).await.is_some() {
        match checkpoint(&log).await {
            Ok(()) => is_failing = false,
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!(%error, "the journal's write-ahead log cannot be checkpointed; retrying");
                }
            }
        }
    }
}

/// Copies the WAL into the database file, as far as readers allow. Commits wait only at the end of a long one.
///
/// # Errors
/// When the file cannot be written; the next checkpoint tries again.
async fn checkpoint(log: &Log) -> Result<(), JournalError> {
    let pages = log.checkpoints.exclusively(copy).await?;
    if pages > LONG {
        log.connection.exclusively(async |_| log.checkpoints.exclusively(copy).await).await?;
    }
    Ok(())
}

/// Copies what no reader needs in the WAL, without waiting for a lock. Returns the number of pages in the WAL.
async fn copy(connection: &mut SqliteConnection) -> Result<i64, JournalError> {
    let (_busy, pages, _copied): (i64, i64, i64) =
        sqlx::query_as("PRAGMA wal_checkpoint(PASSIVE)").fetch_one(connection).await?;
    Ok(pages)
}
