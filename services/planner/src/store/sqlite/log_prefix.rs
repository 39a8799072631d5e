//! The oldest part of the log, and the rows that it becomes.

use std::{collections::HashSet, sync::Arc};

use phoenix_domain::PlanId;
use sqlx::SqliteConnection;

use crate::store::{
    entry::Entry,
    error::JournalError,
    projection::{Commit, Projection},
    sqlite::{
        projected_rows::rows_of,
        quarantine::{self, Blocked, Quarantined},
        rows::{Rows, Script},
    },
    stored::value::json,
};

/// Approximate size of a part that is applied at once, in bytes of the log: commits wait meanwhile, a millisecond or two.
pub(super) const PREFIX_BYTES: i64 = 256 * 1024;

/// The oldest commits, up to a number of bytes.
const OLDEST: &str = "
    SELECT seq, planner, CAST(entries AS BLOB)
    FROM (SELECT *, sum(octet_length(entries)) OVER (ORDER BY seq) - octet_length(entries) AS before FROM log ORDER BY seq LIMIT 1024)
    WHERE before < ? ORDER BY seq";

/// A row of the log.
#[derive(Debug, Clone)]
pub(super) struct LogRow {
    seq: i64,
    planner: String,
    text: Vec<u8>,
}

/// The oldest part of the log.
pub(super) struct LogPrefix {
    pub(super) last: i64,
    pub(super) commits: Vec<Arc<Commit>>,
    /// Commits that follow, as far as this process remembers them.
    pub(super) later: Vec<Arc<Commit>>,
    /// Plans whose entries were applied earlier, ahead of these commits.
    pub(super) applied_early: HashSet<PlanId>,
    /// Position of the last event before this part.
    pub(super) position: i64,
    /// Records that the tables reject.
    pub(super) quarantined: Vec<Quarantined>,
}

/// The rows of a part of the log.
pub(super) struct PrefixRows {
    pub(super) last: i64,
    position: i64,
    /// Plans that later commits complete; their entries are applied with this part.
    pub(super) applied_early: HashSet<PlanId>,
    rows: Rows,
    pub(super) quarantined: Vec<Quarantined>,
}

impl LogRow {
    /// The oldest rows of the log, up to `bytes`, and the position of the journal before they are applied.
    async fn read(
        connection: &mut SqliteConnection,
        bytes: i64,
    ) -> Result<Option<(Vec<Self>, i64)>, JournalError> {
        // First, so that a concurrent application by another process is detected.
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

impl LogPrefix {
    /// Reads the oldest part of the log.
    pub(super) async fn read(connection: &mut SqliteConnection) -> Result<Option<Self>, JournalError> {
        let Some((rows, position)) = LogRow::read(connection, PREFIX_BYTES).await? else {
            return Ok(None);
        };
        let mut blocked = quarantine::blocked(connection).await?;
        Self::of(connection, rows, position, &mut blocked).await.map(Some)
    }

    /// The part that consists of these rows. Records of plans that are `blocked`, or that turn out to be unusable, go into
    /// quarantine.
    pub(super) async fn of(
        connection: &mut SqliteConnection,
        rows: Vec<LogRow>,
        position: i64,
        blocked: &mut Blocked,
    ) -> Result<Self, JournalError> {
        let last = rows.last().map_or(i64::MIN, |row| row.seq);
        let (mut commits, mut quarantined) = (Vec::with_capacity(rows.len()), Vec::new());
        for LogRow { seq: _, planner, text } in rows {
            let (entries, unusable) = quarantine::sift(&planner, &text, blocked);
            quarantined.extend(unusable);
            commits.push(Commit { planner, groups: vec![entries.into()] });
        }
        let plans: HashSet<_> = commits.iter().flat_map(Commit::entries).filter_map(Entry::plan_id).collect();
        let early: Vec<String> = sqlx::query_scalar(
            "SELECT plan_id FROM plans WHERE plan_id IN (SELECT value FROM json_each(?)) AND applied_early",
        )
        .bind(json(&plans))
        .fetch_all(connection)
        .await?;
        let applied_early = early.iter().filter_map(|id| id.parse().ok()).collect();
        let commits = commits.into_iter().map(Arc::new).collect();
        Ok(Self { last, commits, later: Vec::new(), applied_early, position, quarantined })
    }

    /// The plans of these commits.
    pub(super) fn plans(&self) -> HashSet<PlanId> {
        self.commits.iter().flat_map(|commit| commit.entries()).filter_map(Entry::plan_id).collect()
    }

    pub(super) fn into_rows(self) -> PrefixRows {
        let Self { last, commits, later, applied_early, position, quarantined } = self;
        let mut projection = Projection::of(&commits, &applied_early);
        let applied_early = projection.apply_early(&later);
        let mut rows = rows_of(projection, position);
        // The position changes with every application, also without events.
        rows.event_count += i64::try_from(quarantined.len()).unwrap_or(i64::MAX);
        rows.quarantined = quarantined.iter().cloned().map(Quarantined::into_row).collect();
        PrefixRows { last, position, applied_early, rows, quarantined }
    }
}

impl PrefixRows {
    /// Position of the journal afterwards.
    pub(super) const fn new_position(&self) -> i64 {
        self.position + self.rows.event_count
    }

    /// Adds the statements that apply this part to `script`. They fail when another process has applied something since.
    pub(super) async fn write(self, script: &mut Script<'_>) -> Result<(), sqlx::Error> {
        let Self { last, position, applied_early: _, rows, quarantined: _ } = self;
        let apply = sqlx::query("INSERT INTO log_move (position, events, last_seq) VALUES (?, ?, ?)");
        script.run(apply.bind(position).bind(rows.event_count).bind(last)).await?;
        rows.write(script).await
    }

    /// Adds the rows to `script`, and leaves the log as it is.
    pub(super) async fn write_rows(self, script: &mut Script<'_>) -> Result<(), sqlx::Error> {
        self.rows.write(script).await
    }
}

/// Applies the whole log, in a transaction that holds the write lock.
pub(super) async fn apply_all(connection: &mut SqliteConnection) -> Result<(), JournalError> {
    while let Some(prefix) = LogPrefix::read(&mut *connection).await? {
        let mut script = Script::new(&mut *connection, "");
        prefix.into_rows().write(&mut script).await?;
        script.end("").await?;
    }
    Ok(())
}
