//! The log: where entries become durable, and from where they are moved into the tables.
//!
//! Whoever deletes a row of the log applies it, in one transaction. So it does not matter who moves what when: this
//! process in the background, a reader that wants to see everything, or the planner that takes over from one that died.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use sqlx::{
    ConnectOptions, QueryBuilder, Sqlite, SqliteConnection, SqlitePool, sqlite::SqliteConnectOptions,
};
use tokio::sync::{Mutex, Notify};

use super::{
    Entry, JournalError,
    merge::Batch,
    recent::{Commit, Recent, RecentCommits},
    rows,
};

/// How long entries gather before they are moved. What follows each other within this time is merged.
const GATHER: Duration = Duration::from_millis(200);

/// How much is moved at once, more or less, in bytes of the log: commits wait meanwhile.
const MOVE_BYTES: i64 = 32 * 1024;

/// Refused, by doing nothing, for a planner that was taken for dead.
const APPEND: &str = "
    INSERT INTO log (planner, entries) SELECT ?1, ?2 WHERE EXISTS (SELECT 1 FROM planners WHERE instance = ?1)";

const APPEND_WITH_KEYS: &str = "INSERT INTO log_append (planner, entries, keys) VALUES (?, ?, ?)";

/// The oldest commits, in one row: every row that a statement answers is a message from SQLite's thread.
const OLDEST: &str = r#"
    SELECT max(seq), group_concat('{"planner":"' || planner || '","entries":' || entries || '}', ',' ORDER BY seq),
           (SELECT position FROM journal)
    FROM (SELECT *, sum(length(entries)) OVER (ORDER BY seq) - length(entries) AS before FROM log ORDER BY seq LIMIT 256)
    WHERE before < ?"#;

/// The wait after a move that failed.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The log, and the one connection of this process that writes: SQLite has one writer at a time, and lets the others try
/// again and again where a queue would do.
#[derive(Debug)]
pub(super) struct Log {
    options: SqliteConnectOptions,
    connection: Mutex<Option<SqliteConnection>>,
    moving: Mutex<()>,
    recent: RecentCommits,
    appended: Notify,
}

impl Log {
    pub(super) fn new(options: SqliteConnectOptions) -> Self {
        Self {
            options,
            connection: Mutex::default(),
            moving: Mutex::default(),
            recent: RecentCommits::default(),
            appended: Notify::new(),
        }
    }

    /// Does `work` on the writing connection. A connection that failed is not used again: after a full disk SQLite has
    /// ended the transaction by itself (<https://sqlite.org/lang_transaction.html#response_to_errors_within_a_transaction>),
    /// which sqlx does not see.
    pub(super) async fn exclusively<T>(
        &self,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        let mut slot = self.connection.lock().await;
        // Taken out, so that it is gone as well when this future is dropped in the middle.
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => self.options.connect().await?,
        };
        let done = work(&mut connection).await;
        if matches!(done, Ok(_) | Err(JournalError::Fenced)) {
            *slot = Some(connection);
        }
        done
    }

    /// Makes `entries` durable.
    pub(super) async fn append(&self, planner: &str, entries: &[&Entry]) -> Result<(), JournalError> {
        let keys: Vec<_> = entries.iter().filter_map(|entry| key_row(entry)).collect();
        let text = rows::json(&entries);
        let bytes = text.len();
        let planner = planner.to_owned();
        self.exclusively(async |connection| {
            if !keys.is_empty() {
                return append_with_keys(connection, planner, text, rows::json(&keys)).await;
            }
            let done = sqlx::query(APPEND).bind(planner.clone()).bind(text).execute(connection).await?;
            if done.rows_affected() == 0 {
                return Err(JournalError::Fenced);
            }
            // Before anybody can move it.
            let entries = entries.iter().map(|entry| (*entry).clone()).collect();
            let commit = Commit { planner, entries };
            self.recent.push(Recent { seq: done.last_insert_rowid(), bytes, commit });
            Ok(())
        })
        .await?;
        self.appended.notify_one();
        Ok(())
    }

    /// Moves everything that is in the log by now, whoever wrote it.
    pub(super) async fn settle(&self, readers: &SqlitePool) -> Result<(), JournalError> {
        let last: Option<i64> = sqlx::query_scalar("SELECT max(seq) FROM log").fetch_one(readers).await?;
        let Some(last) = last else { return Ok(()) };
        while self.move_some(readers).await?.is_some_and(|moved| moved < last) {}
        Ok(())
    }

    /// Moves the oldest commits into the tables: the number of the last one. Commits wait only while the rows are written.
    async fn move_some(&self, readers: &SqlitePool) -> Result<Option<i64>, JournalError> {
        let _one_at_a_time = self.moving.lock().await;
        let Some(Oldest { last, commits, position }) = self.oldest(readers).await? else { return Ok(None) };
        let mut batch = Batch::default();
        for Commit { planner, entries } in &commits {
            entries.iter().for_each(|entry| batch.add(planner, entry));
        }
        let rows = batch.into_rows(position);
        let moved_to = position + rows.event_count;
        // Without an fsync: a move that is lost with the power leaves the log as it was, and the next commit of the log syncs
        // what came before it.
        let mut script = QueryBuilder::<Sqlite>::new("PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE; ");
        // Refused when another process has moved this part meanwhile.
        script.push("INSERT INTO log_move (position, events, last_seq) VALUES (").push_bind(position);
        script.push(", ").push_bind(rows.event_count).push(", ").push_bind(last).push(");");
        rows.write(&mut script);
        script.push("COMMIT; PRAGMA synchronous = FULL");
        let moved = self.exclusively(async |connection| {
            // Every script is another one.
            script.build().persistent(false).execute(connection).await?;
            self.recent.moved(last, moved_to);
            Ok(())
        });
        match moved.await {
            Ok(()) => Ok(Some(last)),
            Err(JournalError::Database(sqlx::Error::Database(error))) if error.message() == "moved" => {
                Ok(Some(i64::MIN))
            }
            Err(error) => Err(error),
        }
    }
}

impl Log {
    /// The oldest commits: from memory if this process wrote them and nobody has moved any since, else from the log.
    async fn oldest(&self, readers: &SqlitePool) -> Result<Option<Oldest>, JournalError> {
        if let Some((known_position, commits)) = self.recent.oldest(MOVE_BYTES)
            && !commits.is_empty()
        {
            let last = commits.last().map_or(0, |recent| recent.seq);
            let (position, count): (i64, i64) = sqlx::query_as(
                "SELECT (SELECT position FROM journal), (SELECT count(*) FROM log WHERE seq <= ?)",
            )
            .bind(last)
            .fetch_one(readers)
            .await?;
            if position == known_position && usize::try_from(count) == Ok(commits.len()) {
                let commits = commits.into_iter().map(|recent| recent.commit).collect();
                return Ok(Some(Oldest { last, commits, position }));
            }
            self.recent.forget();
        }
        let (last, commits, position): (Option<i64>, Option<String>, i64) =
            sqlx::query_as(OLDEST).bind(MOVE_BYTES).fetch_one(readers).await?;
        let Some(last) = last else { return Ok(None) };
        let commits = format!("[{}]", commits.unwrap_or_default());
        let commits = serde_json::from_str(&commits)
            .map_err(|error| JournalError::Damaged(format!("log.entries: {error}")))?;
        Ok(Some(Oldest { last, commits, position }))
    }
}

/// What is moved next.
struct Oldest {
    /// The number of the last commit.
    last: i64,
    commits: Vec<Commit>,
    /// That of the journal before the move.
    position: i64,
}

/// Moves what is appended, again and again.
pub(super) async fn keep_moving(log: Arc<Log>, readers: SqlitePool) {
    let mut told = false;
    loop {
        log.appended.notified().await;
        tokio::time::sleep(GATHER).await;
        loop {
            match log.move_some(&readers).await {
                Ok(Some(_)) => told = false,
                Ok(None) => break,
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::error!(%error, "the journal's log cannot be moved into its tables; it is tried again");
                    }
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }
}

async fn append_with_keys(
    connection: &mut SqliteConnection,
    planner: String,
    entries: String,
    keys: String,
) -> Result<(), JournalError> {
    let append = sqlx::query(APPEND_WITH_KEYS).bind(planner).bind(entries).bind(keys);
    match append.execute(connection).await {
        Ok(_) => Ok(()),
        Err(sqlx::Error::Database(error)) if error.message() == "fenced" => Err(JournalError::Fenced),
        Err(error) => Err(error.into()),
    }
}

/// The key that an accepted plan comes with: key, digest, plan, time.
fn key_row(entry: &Entry) -> Option<impl Serialize> {
    match entry {
        Entry::PlanAccepted { plan, key: Some(key) } => {
            Some((&key.key, &key.digest, plan.plan_id, rows::micros(plan.created_at)))
        }
        _ => None,
    }
}
