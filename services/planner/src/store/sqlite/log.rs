//! The log: where entries become durable, and from where they are moved into the tables.
//!
//! Whoever deletes a row of the log applies it, in one transaction. So it does not matter who moves what when: this
//! process in the background, a reader that wants to see everything, or the planner that takes over from one that died.
//!
//! A plan that ends a moment after the part that is moved is moved as a whole, ahead of the rest of its entries. Those are
//! passed over when it is their turn: by memory, or because the plan is kept whole by then.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use phoenix_domain::PlanId;
use serde::Serialize;
use sqlx::{ConnectOptions, Connection, SqliteConnection, SqlitePool, sqlite::SqliteConnectOptions};
use tokio::sync::{Mutex, Notify};

use super::{
    super::record,
    Entries, Entry, JournalError, claims, dead_letters,
    merge::Batch,
    quarantine::{self, Blocked, Quarantined},
    recent::{Commit, Recent, RecentCommits, Remembered},
    rows::{self, Rows, Script},
};

/// How old entries get before they are moved. What follows each other within this time is merged.
const GATHER: Duration = Duration::from_millis(150);

/// For so long, entries that are old enough wait for others, to be moved together.
const EVERY: Duration = Duration::from_millis(150);

/// How much is moved at once, more or less, in bytes of the log: commits wait meanwhile, a millisecond or two.
const MOVE_BYTES: i64 = 256 * 1024;

/// Refused, by doing nothing, for a planner that was taken for dead.
const APPEND: &str = "
    INSERT INTO log (planner, entries) SELECT ?1, ?2 WHERE EXISTS (SELECT 1 FROM planners WHERE instance = ?1)";

/// The oldest commits, up to a number of bytes.
const OLDEST: &str = "
    SELECT seq, planner, CAST(entries AS BLOB)
    FROM (SELECT *, sum(length(entries)) OVER (ORDER BY seq) - length(entries) AS before FROM log ORDER BY seq LIMIT 1024)
    WHERE before < ? ORDER BY seq";

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

    /// Closes the writing connection.
    pub(super) async fn close(&self) {
        if let Some(connection) = self.connection.lock().await.take()
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "the journal could not be closed; its next start tidies up");
        }
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
        while self.move_some(readers, None).await?.is_some_and(|moved| moved < last) {}
        Ok(())
    }

    /// Moves the oldest commits into the tables, those from before `until`: the number of the last one. Commits wait only
    /// while the rows are written.
    async fn move_some(
        &self,
        readers: &SqlitePool,
        until: Option<Instant>,
    ) -> Result<Option<i64>, JournalError> {
        let _one_at_a_time = self.moving.lock().await;
        let moved = match self.oldest(readers, until).await {
            Ok(Some(oldest)) => self.apply(oldest.into_move()).await,
            Ok(None) => return Ok(None),
            Err(error) => Err(error),
        };
        match moved {
            Err(error) if quarantine::is_constraint(&error) => self.move_one(readers).await,
            moved => moved,
        }
    }

    /// Moves a part of the log into the tables: the number of its last commit.
    pub(super) async fn apply(&self, moves: Move) -> Result<Option<i64>, JournalError> {
        let (last, ahead, moved_to) = (moves.last, moves.ahead.clone(), moves.moved_to());
        let quarantined = moves.quarantined.clone();
        let moved = self.exclusively(async |connection| {
            // Without an fsync: a move that is lost with the power leaves the log as it was, and the next commit of the log
            // syncs what came before it.
            let mut script = Script::new(connection, "PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE; ");
            moves.write(&mut script).await?;
            script.end("COMMIT; PRAGMA synchronous = FULL").await?;
            self.recent.moved(last, ahead, moved_to);
            Ok(())
        });
        match moved.await {
            Ok(()) => {
                quarantined.iter().for_each(Quarantined::log);
                Ok(Some(last))
            }
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
    async fn oldest(
        &self,
        readers: &SqlitePool,
        until: Option<Instant>,
    ) -> Result<Option<Oldest>, JournalError> {
        if let Some(Remembered { position: known_position, commits, later, ahead }) =
            self.recent.oldest(MOVE_BYTES, until)
            && (!commits.is_empty() || !later.is_empty())
        {
            let Some(last) = commits.last().map(|recent| recent.seq) else { return Ok(None) };
            let (position, quarantined, count): (i64, i64, i64) = sqlx::query_as(
                "SELECT position, quarantined, (SELECT count(*) FROM log WHERE seq <= ?) FROM journal",
            )
            .bind(last)
            .fetch_one(readers)
            .await?;
            // Records in quarantine concern those that follow: the log tells which.
            if position == known_position && quarantined == 0 && usize::try_from(count) == Ok(commits.len()) {
                let commits = commits.into_iter().map(|recent| recent.commit).collect();
                let quarantined = Vec::new();
                return Ok(Some(Oldest { last, commits, later, whole: ahead, position, quarantined }));
            }
            self.recent.forget();
        }
        Oldest::read(&mut *readers.acquire().await?).await
    }

    /// Makes entries durable that nothing has to be decided for.
    async fn append_plainly(&self, planner: &str, groups: &[Entries]) -> Result<(), JournalError> {
        let commit = Arc::new(Commit { planner: planner.to_owned(), groups: groups.to_vec() });
        let text = record::lines(commit.entries());
        let bytes = text.len();
        self.exclusively(async |connection| {
            let done = sqlx::query(APPEND).bind(planner.to_owned()).bind(text).execute(connection).await?;
            if done.rows_affected() == 0 {
                return Err(JournalError::Fenced);
            }
            // Before anybody can move it.
            let (seq, written_at) = (done.last_insert_rowid(), Instant::now());
            self.recent.push(Recent { seq, bytes, written_at, commit });
            Ok(())
        })
        .await
    }
}

/// The oldest part of the log.
pub(super) struct Oldest {
    last: i64,
    commits: Vec<Arc<Commit>>,
    /// What follows, as far as it is remembered.
    later: Vec<Arc<Commit>>,
    /// Plans that were moved ahead of what the commits hold of them.
    whole: HashSet<PlanId>,
    /// Of the last event, before this is moved.
    position: i64,
    /// Records that the tables do not take.
    quarantined: Vec<Quarantined>,
}

/// A row of the log.
#[derive(Debug, Clone)]
pub(super) struct StoredCommit {
    seq: i64,
    planner: String,
    text: Vec<u8>,
}

impl StoredCommit {
    /// The oldest rows of the log, up to `bytes`, with the journal's position before they are moved.
    async fn read(
        connection: &mut SqliteConnection,
        bytes: i64,
    ) -> Result<Option<(Vec<Self>, i64)>, JournalError> {
        // First, so that a move by another process in between is noticed.
        let position = sqlx::query_scalar("SELECT position FROM journal").fetch_one(&mut *connection).await?;
        let rows: Vec<(i64, String, Vec<u8>)> =
            sqlx::query_as(OLDEST).bind(bytes).fetch_all(&mut *connection).await?;
        let rows: Vec<_> = rows.into_iter().map(|(seq, planner, text)| Self { seq, planner, text }).collect();
        Ok((!rows.is_empty()).then_some((rows, position)))
    }

    /// The oldest row.
    pub(super) async fn oldest(
        connection: &mut SqliteConnection,
    ) -> Result<Option<(Self, i64)>, JournalError> {
        let oldest = Self::read(connection, 1).await?;
        Ok(oldest.and_then(|(rows, position)| Some((rows.into_iter().next()?, position))))
    }
}

impl Oldest {
    async fn read(connection: &mut SqliteConnection) -> Result<Option<Self>, JournalError> {
        let Some((rows, position)) = StoredCommit::read(connection, MOVE_BYTES).await? else {
            return Ok(None);
        };
        let mut blocked = quarantine::blocked(connection).await?;
        Self::of(connection, rows, position, &mut blocked).await.map(Some)
    }

    /// The plans that its commits are about.
    pub(super) fn plans(&self) -> HashSet<PlanId> {
        self.commits.iter().flat_map(|commit| commit.entries()).filter_map(Entry::plan_id).collect()
    }

    /// These rows of the log, of which nothing is remembered. Records of plans that are `blocked`, or that turn out to be
    /// unusable, go into quarantine.
    pub(super) async fn of(
        connection: &mut SqliteConnection,
        rows: Vec<StoredCommit>,
        position: i64,
        blocked: &mut Blocked,
    ) -> Result<Self, JournalError> {
        let last = rows.last().map_or(i64::MIN, |row| row.seq);
        let (mut commits, mut quarantined) = (Vec::with_capacity(rows.len()), Vec::new());
        for StoredCommit { seq: _, planner, text } in rows {
            let (entries, unusable) = quarantine::sift(&planner, &text, blocked);
            quarantined.extend(unusable);
            commits.push(Commit { planner, groups: vec![entries.into()] });
        }
        let plans: HashSet<_> = commits.iter().flat_map(Commit::entries).filter_map(Entry::plan_id).collect();
        let whole: Vec<String> = sqlx::query_scalar(
            "SELECT plan_id FROM plans WHERE plan_id IN (SELECT value FROM json_each(?)) AND document IS NOT NULL",
        )
        .bind(rows::json(&plans))
        .fetch_all(connection)
        .await?;
        let whole = whole.iter().filter_map(|id| id.parse().ok()).collect();
        let commits = commits.into_iter().map(Arc::new).collect();
        Ok(Self { last, commits, later: Vec::new(), whole, position, quarantined })
    }

    pub(super) fn into_move(self) -> Move {
        let Self { last, commits, later, whole, position, quarantined } = self;
        let mut batch = Batch::default();
        commits.iter().for_each(|commit| batch.add(commit, &whole));
        let ahead = batch.look_ahead(later.iter().map(|commit| &**commit));
        let mut rows = batch.into_rows(position);
        // The position tells of every move, also of one that holds no event.
        rows.event_count += i64::try_from(quarantined.len()).unwrap_or(i64::MAX);
        rows.quarantined = quarantined.iter().cloned().map(Quarantined::into_row).collect();
        Move { last, position, ahead, rows, quarantined }
    }
}

/// A part of the log as the rows that it becomes.
pub(super) struct Move {
    last: i64,
    position: i64,
    ahead: HashSet<PlanId>,
    rows: Rows,
    quarantined: Vec<Quarantined>,
}

impl Move {
    /// The position of the journal afterwards.
    const fn moved_to(&self) -> i64 {
        self.position + self.rows.event_count
    }

    /// Adds what it takes to `script`. It is refused when another process has moved something meanwhile.
    async fn write(self, script: &mut Script<'_>) -> Result<(), sqlx::Error> {
        let Self { last, position, ahead: _, rows, quarantined: _ } = self;
        let moved = sqlx::query("INSERT INTO log_move (position, events, last_seq) VALUES (?, ?, ?)");
        script.run(moved.bind(position).bind(rows.event_count).bind(last)).await?;
        rows.write(script).await
    }

    /// Adds only the rows.
    pub(super) async fn write_rows(self, script: &mut Script<'_>) -> Result<(), sqlx::Error> {
        self.rows.write(script).await
    }
}

/// Moves everything; part of a transaction that holds the write lock.
async fn move_all(connection: &mut SqliteConnection) -> Result<(), JournalError> {
    while let Some(oldest) = Oldest::read(&mut *connection).await? {
        let mut script = Script::new(&mut *connection, "");
        oldest.into_move().write(&mut script).await?;
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
        let entries = record::lines(entries.iter().copied());
        Self { planner: planner.to_owned(), entries, keys: rows::json(&keys) }
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
        tokio::time::sleep(GATHER + EVERY).await;
        loop {
            match log.move_some(&readers, Instant::now().checked_sub(GATHER)).await {
                Ok(Some(_)) => told = false,
                Ok(None) => {
                    // What is young yet.
                    let Some(written_at) = log.recent.oldest_since() else { break };
                    tokio::time::sleep_until((written_at + GATHER + EVERY).into()).await;
                }
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

/// A key that is used: key, digest, what it stands for, time, the request.
fn key_row(entry: &Entry) -> Option<impl Serialize> {
    match entry {
        Entry::KeyUsed { key, subject, at, not_before: _ } => {
            Some((&key.key, &key.digest, subject, rows::micros(*at), key.by))
        }
        _ => None,
    }
}
