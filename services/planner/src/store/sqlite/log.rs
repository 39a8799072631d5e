//! The log: entries become durable here, and are applied to the tables a moment later.
//!
//! A transaction that deletes rows of the log applies them. Any process may therefore apply any part: this one in the
//! background (`apply.rs`), a reader that needs the latest state, or the planner that takes over.

use std::{sync::Arc, time::Instant};

use serde::Serialize;
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::sync::{Mutex, Notify};

use crate::store::{
    entry::{Entries, Entry},
    error::JournalError,
    projection::Commit,
    record, reservation,
    sqlite::{
        bulk,
        connection::WriterConnection,
        log_prefix::apply_all,
        recent::{Recent, RecentCommits},
        reservations,
    },
    stored::{
        bulk::is_bulk,
        value::{json, micros},
    },
};

/// Appends a commit. Does nothing for a fenced planner.
const APPEND: &str = "
    INSERT INTO log (planner, entries) SELECT ?1, ?2 WHERE EXISTS (SELECT 1 FROM planners WHERE instance = ?1)";

/// Length of the write-ahead log, in pages, at which commits checkpoint it themselves: the limit when `checkpoint.rs` fails to.
const COMMITS_CHECKPOINT_AT: &str = "16384";

/// The log of a journal.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) connection: WriterConnection,
    /// Copies the write-ahead log into the database file.
    pub(super) checkpoints: WriterConnection,
    /// Held while a part of the log is applied.
    pub(super) applying: Mutex<()>,
    pub(super) recent: RecentCommits,
    /// Notified of every append.
    pub(super) appended: Notify,
    /// Notified of every application.
    pub(super) applied: Notify,
}

impl Log {
    pub(super) fn new(options: SqliteConnectOptions) -> Self {
        Self {
            checkpoints: WriterConnection::new(options.clone()),
            connection: WriterConnection::new(options.pragma("wal_autocheckpoint", COMMITS_CHECKPOINT_AT)),
            applying: Mutex::default(),
            recent: RecentCommits::default(),
            appended: Notify::new(),
            applied: Notify::new(),
        }
    }

    /// Makes `groups` durable, without those that reserve what is reserved already. Returns the indices of those.
    pub(super) async fn append(&self, planner: &str, groups: &[Entries]) -> Result<Vec<usize>, JournalError> {
        let needs_decision = |entry: &Entry| reservation::is_reservation(entry) || is_bulk(entry);
        let rejected = if groups.iter().flat_map(|group| group.iter()).any(needs_decision) {
            let append = async |connection: &mut _| append_and_decide(connection, planner, groups).await;
            self.connection.exclusively(append).await?
        } else {
            self.append_unconditionally(planner, groups).await?;
            Vec::new()
        };
        self.appended.notify_one();
        Ok(rejected)
    }

    /// Makes entries durable that need no decision.
    async fn append_unconditionally(&self, planner: &str, groups: &[Entries]) -> Result<(), JournalError> {
        let commit = Arc::new(Commit { planner: planner.to_owned(), groups: groups.to_vec() });
        let text = record::lines(commit.entries());
        let bytes = text.len();
        let append = async |connection: &mut SqliteConnection| {
            let done = sqlx::query(APPEND).bind(planner.to_owned()).bind(text).execute(connection).await?;
            if done.rows_affected() == 0 {
                return Err(JournalError::Fenced);
            }
            // Remembered before another task can apply it.
            let (seq, written_at) = (done.last_insert_rowid(), Instant::now());
            self.recent.push(Recent { seq, bytes, written_at, commit });
            Ok(())
        };
        self.connection.exclusively(append).await
    }
}

/// Appends the groups whose reservations are free, and makes them. Decisions that depend on the tables (whether a plan was
/// redriven, which dead letters a bulk operation selects) are made after everything durable is applied.
async fn append_and_decide(
    connection: &mut SqliteConnection,
    planner: &str,
    groups: &[Entries],
) -> Result<Vec<usize>, JournalError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    if groups.iter().flat_map(|group| group.iter()).any(reservation::is_of_plan) {
        apply_all(&mut transaction).await?;
    }
    let rejected = reservations::rejected(&mut transaction, groups).await?;
    let accepted = groups.iter().enumerate().filter(|(index, _)| !rejected.contains(index));
    let (operations, accepted): (Vec<&Entry>, Vec<&Entry>) =
        accepted.flat_map(|(_, group)| group.iter()).partition(|entry| is_bulk(entry));
    append_row(&mut transaction, planner, &accepted).await?;
    if !operations.is_empty() {
        apply_all(&mut transaction).await?;
    }
    for entry in operations {
        bulk::apply(&mut transaction, planner, entry).await?;
    }
    transaction.commit().await?;
    Ok(rejected)
}

/// Appends one commit, with the keys that it uses.
async fn append_row(
    connection: &mut SqliteConnection,
    planner: &str,
    entries: &[&Entry],
) -> Result<(), JournalError> {
    let keys: Vec<_> = entries.iter().filter_map(|entry| key_row(entry)).collect();
    let append = sqlx::query("INSERT INTO log_append (planner, entries, keys) VALUES (?, ?, ?)")
        .bind(planner.to_owned())
        .bind(record::lines(entries.iter().copied()))
        .bind(json(&keys));
    match append.execute(connection).await {
        Ok(_) => Ok(()),
        Err(sqlx::Error::Database(error)) if error.message() == "fenced" => Err(JournalError::Fenced),
        Err(error) => Err(error.into()),
    }
}

/// A used key: key, digest, subject, time, correlation id.
fn key_row(entry: &Entry) -> Option<impl Serialize> {
    match entry {
        Entry::KeyUsed { key, subject, at, not_before: _ } => {
            Some((&key.key, &key.digest, subject, micros(*at), key.by))
        }
        _ => None,
    }
}
