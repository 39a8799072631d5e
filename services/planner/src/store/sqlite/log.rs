//! The log: where entries become durable, and from where they are moved into the tables.
//!
//! Whoever deletes a row of the log applies it, in one transaction. So it does not matter who moves what when: this
//! process in the background, a reader that wants to see everything, or the planner that takes over from one that died.
//! What this process moves in the background may leave the few plans that are still under way in the log, for the next time.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use sqlx::{
    ConnectOptions, Connection, SqliteConnection, SqliteExecutor, SqlitePool, sqlite::SqliteConnectOptions,
};
use tokio::sync::{Mutex, Notify};

use super::{
    Entries, Entry, JournalError, claims, dead_letters,
    merge::Batch,
    recent::{Commit, Recent, RecentCommits},
    rows::{self, Rows, Script},
    set_aside,
};

/// How long entries gather before they are moved. What follows each other within this time is merged.
const GATHER: Duration = Duration::from_millis(200);

/// How much is moved at once, more or less, in bytes of the log. Commits wait meanwhile, some milliseconds; but the more is
/// moved at once, the more plans have ended by then, and are written once.
const MOVE_BYTES: i64 = 512 * 1024;

/// Refused, by doing nothing, for a planner that was taken for dead.
const APPEND: &str = "
    INSERT INTO log (planner, entries) SELECT ?1, ?2 WHERE EXISTS (SELECT 1 FROM planners WHERE instance = ?1)";

/// The oldest commits, in one row: every row that a statement answers is a message from SQLite's thread.
const OLDEST: &str = r#"
    SELECT max(seq), group_concat('{"planner":"' || planner || '","entries":' || entries || '}', ',' ORDER BY seq),
           (SELECT position FROM journal)
    FROM (SELECT *, sum(length(entries)) OVER (ORDER BY seq) - length(entries) AS before FROM log ORDER BY seq LIMIT 1024)
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

    /// Makes `groups` durable, but those that claim what is taken: the places of those.
    pub(super) async fn append(&self, planner: &str, groups: &[Entries]) -> Result<Vec<usize>, JournalError> {
        let decides = |entry: &Entry| claims::is_claim(entry) || dead_letters::is_sweep(entry);
        let lost = if groups.iter().flat_map(|group| group.iter()).any(decides) {
            self.exclusively(async |connection| append_and_decide(connection, planner, groups).await).await?
        } else {
            self.append_plainly(planner, groups).await?;
            Vec::new()
        };
        self.appended.notify_one();
        Ok(lost)
    }

    /// Moves everything that is in the log by now, whoever wrote it.
    pub(super) async fn settle(&self, readers: &SqlitePool) -> Result<(), JournalError> {
        let last: Option<i64> = sqlx::query_scalar("SELECT max(seq) FROM log").fetch_one(readers).await?;
        let Some(last) = last else { return Ok(()) };
        while self.move_some(readers, Unfinished::Moved).await?.is_some_and(|moved| moved < last) {}
        Ok(())
    }

    /// Moves the oldest commits into the tables: the number of the last one. Commits wait only while the rows are written.
    async fn move_some(
        &self,
        readers: &SqlitePool,
        unfinished: Unfinished,
    ) -> Result<Option<i64>, JournalError> {
        let _one_at_a_time = self.moving.lock().await;
        let moved = match self.oldest(readers).await {
            Ok(Some(oldest)) => self.apply(oldest.into_move(unfinished)).await,
            Ok(None) => return Ok(None),
            Err(error) => Err(error),
        };
        match moved {
            Err(error) if set_aside::may_be_one_commit(&error) => self.move_one(readers).await,
            moved => moved,
        }
    }

    /// Moves a part of the log into the tables: the number of its last commit.
    pub(super) async fn apply(&self, moves: Move) -> Result<Option<i64>, JournalError> {
        let (last, moved_to) = (moves.last, moves.moved_to());
        let left = moves.left.as_ref().map(|(recent, _)| recent.clone());
        let moved = self.exclusively(async |connection| {
            // Without an fsync: a move that is lost with the power leaves the log as it was, and the next commit of the log
            // syncs what came before it.
            let mut script = Script::new(connection, "PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE; ");
            moves.write(&mut script).await?;
            script.end("COMMIT; PRAGMA synchronous = FULL").await?;
            self.recent.moved(last, moved_to, left);
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
    /// Reads the log from now on, whatever this process remembers of it.
    pub(super) fn forget_recent(&self) {
        self.recent.forget();
    }

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
                return Ok(Some(Oldest { last, commits, position, remembered: true }));
            }
            self.recent.forget();
        }
        Oldest::read(readers).await
    }

    /// Makes entries durable that nothing has to be decided for.
    async fn append_plainly(&self, planner: &str, groups: &[Entries]) -> Result<(), JournalError> {
        let commit =
            Arc::new(Commit { planner: planner.to_owned(), groups: groups.to_vec(), carried: false });
        let text = rows::json(&commit.entries().collect::<Vec<_>>());
        let bytes = text.len();
        self.exclusively(async |connection| {
            let done = sqlx::query(APPEND).bind(planner.to_owned()).bind(text).execute(connection).await?;
            if done.rows_affected() == 0 {
                return Err(JournalError::Fenced);
            }
            // Before anybody can move it.
            self.recent.push(Recent { seq: done.last_insert_rowid(), bytes, commit });
            Ok(())
        })
        .await
    }
}

/// The oldest part of the log.
pub(super) struct Oldest {
    pub(super) last: i64,
    pub(super) commits: Vec<Arc<Commit>>,
    /// Of the last event, before this is moved.
    pub(super) position: i64,
    /// All of it is what this process wrote a moment ago.
    pub(super) remembered: bool,
}

/// What becomes of plans that have not ended when the rest is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfinished {
    /// They are moved as well: somebody wants to see everything.
    Moved,
    /// They may stay for the next time.
    MayStay,
}

impl Oldest {
    async fn read(database: impl SqliteExecutor<'_>) -> Result<Option<Self>, JournalError> {
        let (last, commits, position): (Option<i64>, Option<String>, i64) =
            sqlx::query_as(OLDEST).bind(MOVE_BYTES).fetch_one(database).await?;
        let Some(last) = last else { return Ok(None) };
        let commits = format!("[{}]", commits.unwrap_or_default());
        let unreadable = |_| JournalError::Damaged("log.entries holds other JSON than is expected".into());
        let commits: Vec<Commit> = serde_json::from_str(&commits).map_err(unreadable)?;
        let commits = commits.into_iter().map(Arc::new).collect();
        Ok(Some(Self { last, commits, position, remembered: false }))
    }

    pub(super) fn into_move(self, unfinished: Unfinished) -> Move {
        let Self { last, commits, position, remembered } = self;
        let mut batch = Batch::default();
        commits.iter().for_each(|commit| batch.add(commit));
        let left = match (unfinished, commits.first()) {
            (Unfinished::MayStay, Some(first)) if remembered => {
                let plans = batch.take_unfinished();
                let is_left = |entry: &&Entry| entry.plan_id().is_some_and(|plan| plans.contains(&plan));
                let entries = commits.iter().flat_map(|commit| commit.entries().filter(is_left));
                let groups = vec![entries.cloned().collect()];
                let commit = Arc::new(Commit { planner: first.planner.clone(), groups, carried: true });
                let text = rows::json(&commit.groups[0]);
                (!plans.is_empty()).then_some((Recent { seq: last, bytes: text.len(), commit }, text))
            }
            _ => None,
        };
        Move { last, position, rows: batch.into_rows(position), left }
    }
}

/// A part of the log as the rows that it becomes.
pub(super) struct Move {
    last: i64,
    position: i64,
    rows: Rows,
    /// What stays in the log, in the place of the last commit, so that it comes before whatever was written since.
    left: Option<(Recent, String)>,
}

impl Move {
    /// The position of the journal afterwards.
    const fn moved_to(&self) -> i64 {
        self.position + self.rows.event_count
    }

    /// Adds what it takes to `script`. It is refused when another process has moved the same meanwhile: the position tells, for
    /// whenever something is left, something else is moved.
    async fn write(self, script: &mut Script<'_>) -> Result<(), sqlx::Error> {
        let Self { last, position, rows, left } = self;
        let text = script.text();
        text.push("INSERT INTO log_move (position, events, last_seq) VALUES (").push_bind(position);
        text.push(", ").push_bind(rows.event_count).push(", ").push_bind(last).push(");");
        if let Some((Recent { seq, commit, .. }, entries)) = left {
            text.push("INSERT INTO log (seq, planner, entries) VALUES (").push_bind(seq);
            text.push(", ").push_bind(commit.planner.clone());
            text.push(", ").push_bind(entries).push(");");
        }
        rows.write(script).await
    }
}

/// Moves everything; part of a transaction that holds the write lock.
async fn move_all(connection: &mut SqliteConnection) -> Result<(), JournalError> {
    while let Some(oldest) = Oldest::read(&mut *connection).await? {
        let mut script = Script::new(&mut *connection, "");
        oldest.into_move(Unfinished::Moved).write(&mut script).await?;
        script.end("").await?;
    }
    Ok(())
}

/// Appends the groups whose claims are free, and takes those. What is decided by what the tables hold (whether a plan was
/// taken up, which dead letters a sweep finds) is decided when they hold everything that is durable.
async fn append_and_decide(
    connection: &mut SqliteConnection,
    planner: &str,
    groups: &[Entries],
) -> Result<Vec<usize>, JournalError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    if groups.iter().flat_map(|group| group.iter()).any(claims::is_of_plan) {
        move_all(&mut transaction).await?;
    }
    let lost = claims::lost(&mut transaction, groups).await?;
    let won = groups.iter().enumerate().filter(|(place, _)| !lost.contains(place));
    let (sweeps, won): (Vec<&Entry>, Vec<&Entry>) =
        won.flat_map(|(_, group)| group.iter()).partition(|entry| dead_letters::is_sweep(entry));
    LogRow::of(planner, &won).append(&mut transaction).await?;
    if !sweeps.is_empty() {
        move_all(&mut transaction).await?;
    }
    for entry in sweeps {
        dead_letters::sweep_on(&mut transaction, planner, entry).await?;
    }
    transaction.commit().await?;
    Ok(lost)
}

/// One commit on its way into the log.
struct LogRow {
    planner: String,
    entries: String,
    keys: String,
}

impl LogRow {
    fn of(planner: &str, entries: &[&Entry]) -> Self {
        let keys: Vec<_> = entries.iter().filter_map(|entry| key_row(entry)).collect();
        Self { planner: planner.to_owned(), entries: rows::json(&entries), keys: rows::json(&keys) }
    }

    async fn append(self, connection: &mut SqliteConnection) -> Result<(), JournalError> {
        let Self { planner, entries, keys } = self;
        let append = sqlx::query("INSERT INTO log_append (planner, entries, keys) VALUES (?, ?, ?)");
        match append.bind(planner).bind(entries).bind(keys).execute(connection).await {
            Ok(_) => Ok(()),
            Err(sqlx::Error::Database(error)) if error.message() == "fenced" => Err(JournalError::Fenced),
            Err(error) => Err(error.into()),
        }
    }
}

/// Moves what is appended, again and again.
pub(super) async fn keep_moving(log: Arc<Log>, readers: SqlitePool) {
    let mut told = false;
    loop {
        log.appended.notified().await;
        tokio::time::sleep(GATHER).await;
        loop {
            match log.move_some(&readers, Unfinished::MayStay).await {
                Ok(Some(_)) => {
                    told = false;
                    if log.recent.is_left_over() {
                        log.appended.notify_one();
                        break;
                    }
                }
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

/// A key that is used: key, digest, what it stands for, time.
fn key_row(entry: &Entry) -> Option<impl Serialize> {
    match entry {
        Entry::KeyUsed { key, subject, at, not_before: _ } => {
            Some((&key.key, &key.digest, subject, rows::micros(*at)))
        }
        _ => None,
    }
}
