//! Application of the log to the tables, many commits at once.
//!
//! A plan that ends shortly after the part that is applied is applied as a whole, ahead of its later entries. Those are
//! skipped when their part is applied: from memory, or because the row of the plan says so.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use phoenix_domain::PlanId;
use sqlx::{SqliteConnection, SqlitePool};

use crate::store::{
    error::JournalError,
    sqlite::{
        log::Log,
        log_prefix::{LogPrefix, LogRow, PREFIX_BYTES, PrefixRows},
        quarantine::{Blocked, Quarantined, blocked, is_constraint},
        recent::Remembered,
        rows::Script,
    },
};

/// Age at which entries are applied. Changes of one row within this time are merged.
const MIN_AGE: Duration = Duration::from_millis(150);

/// How long entries of that age wait for others, to be applied together.
const INTERVAL: Duration = Duration::from_millis(150);

/// Pause after a failed application.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Log {
    /// Applies everything that is in the log by now, whichever planner wrote it.
    pub(super) async fn flush(&self, readers: &SqlitePool) -> Result<(), JournalError> {
        let last: Option<i64> = sqlx::query_scalar("SELECT max(seq) FROM log").fetch_one(readers).await?;
        let Some(last) = last else { return Ok(()) };
        while self.apply_oldest(readers, None).await?.is_some_and(|applied| applied < last) {}
        Ok(())
    }

    /// Applies the oldest commits, up to those written at `until`. Returns the number of the last one. Commits wait only
    /// while the rows are written.
    async fn apply_oldest(
        &self,
        readers: &SqlitePool,
        until: Option<Instant>,
    ) -> Result<Option<i64>, JournalError> {
        let _guard = self.applying.lock().await;
        let applied = match self.oldest(readers, until).await {
            Ok(Some(oldest)) => self.apply(oldest.into_rows()).await,
            Ok(None) => return Ok(None),
            Err(error) => Err(error),
        };
        match applied {
            Err(error) if is_constraint(&error) => self.apply_oldest_commit(readers).await,
            applied => applied,
        }
    }

    /// Applies a part of the log. Returns the number of its last commit.
    async fn apply(&self, prefix: PrefixRows) -> Result<Option<i64>, JournalError> {
        let (last, early, position) = (prefix.last, prefix.applied_early.clone(), prefix.new_position());
        let quarantined = prefix.quarantined.clone();
        let applied = self.connection.exclusively(async |connection| {
            // Without an fsync: an application that is lost with the power leaves the log as it was, and the next commit
            // of the log syncs everything before it.
            let mut script = Script::new(connection, "PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE; ");
            prefix.write(&mut script).await?;
            script.end("COMMIT; PRAGMA synchronous = FULL").await?;
            self.recent.applied(last, early, position);
            Ok(())
        });
        match applied.await {
            Ok(()) => {
                quarantined.iter().for_each(Quarantined::log);
                self.applied.notify_one();
                Ok(Some(last))
            }
            Err(JournalError::Database(sqlx::Error::Database(error))) if error.message() == "moved" => {
                Ok(Some(i64::MIN))
            }
            Err(error) => Err(error),
        }
    }

    /// The oldest commits: from memory if this process wrote them and no other process has applied any since, else from the
    /// log.
    async fn oldest(
        &self,
        readers: &SqlitePool,
        until: Option<Instant>,
    ) -> Result<Option<LogPrefix>, JournalError> {
        if let Some(Remembered { position: known_position, commits, later, applied_early }) =
            self.recent.oldest(PREFIX_BYTES, until)
            && (!commits.is_empty() || !later.is_empty())
        {
            let Some(last) = commits.last().map(|recent| recent.seq) else { return Ok(None) };
            let (position, quarantined, count): (i64, i64, i64) = sqlx::query_as(
                "SELECT position, quarantined, (SELECT count(*) FROM log WHERE seq <= ?) FROM journal",
            )
            .bind(last)
            .fetch_one(readers)
            .await?;
            // Records in quarantine affect later ones: only a read of the log finds out which.
            if position == known_position && quarantined == 0 && usize::try_from(count) == Ok(commits.len()) {
                let commits = commits.into_iter().map(|recent| recent.commit).collect();
                let quarantined = Vec::new();
                return Ok(Some(LogPrefix { last, commits, later, applied_early, position, quarantined }));
            }
            self.recent.clear();
        }
        LogPrefix::read(&mut *readers.acquire().await?).await
    }

    /// Applies the oldest commit alone, without the plans whose records the tables reject. Returns its number.
    async fn apply_oldest_commit(&self, readers: &SqlitePool) -> Result<Option<i64>, JournalError> {
        self.recent.clear();
        let mut connection = readers.acquire().await?;
        let Some((row, position)) = LogRow::oldest(&mut connection).await? else { return Ok(None) };
        let mut blocked = blocked(&mut connection).await?;
        loop {
            let oldest =
                LogPrefix::of(&mut connection, vec![row.clone()], position, &mut blocked.clone()).await?;
            let plans = oldest.plans();
            match self.apply(oldest.into_rows()).await {
                Err(error) if is_constraint(&error) => {
                    let reason = error.to_string();
                    let mut rejected = HashSet::new();
                    for plan_id in &plans {
                        if !self.fits(&mut connection, &row, position, *plan_id, &plans, &blocked).await? {
                            rejected.insert(*plan_id);
                        }
                    }
                    // Plans that fit only alone are all rejected.
                    let rejected = if rejected.is_empty() { plans } else { rejected };
                    if rejected.is_empty() {
                        return Err(error);
                    }
                    blocked.extend(rejected.into_iter().map(|plan_id| (plan_id, reason.clone())));
                }
                applied => return applied,
            }
        }
    }

    /// Whether the tables accept the records of one plan of a commit, without those of the others.
    async fn fits(
        &self,
        connection: &mut SqliteConnection,
        row: &LogRow,
        position: i64,
        plan_id: PlanId,
        plans: &HashSet<PlanId>,
        blocked: &Blocked,
    ) -> Result<bool, JournalError> {
        let mut others = blocked.clone();
        others.extend(plans.iter().filter(|other| **other != plan_id).map(|other| (*other, String::new())));
        let alone = LogPrefix::of(connection, vec![row.clone()], position, &mut others).await?.into_rows();
        // The connection of a failed script is closed, which rolls it back.
        let tried = self.connection.exclusively(async |connection| {
            let mut script = Script::new(connection, "BEGIN IMMEDIATE; ");
            alone.write_rows(&mut script).await?;
            script.end("ROLLBACK").await?;
            Ok(())
        });
        match tried.await {
            Ok(()) => Ok(true),
            Err(error) if is_constraint(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Applies what is appended, until it is dropped.
pub(super) async fn run(log: Arc<Log>, readers: SqlitePool) {
    let mut is_failing = false;
    loop {
        log.appended.notified().await;
        tokio::time::sleep(MIN_AGE + INTERVAL).await;
        loop {
            match log.apply_oldest(&readers, Instant::now().checked_sub(MIN_AGE)).await {
                Ok(Some(_)) => is_failing = false,
                Ok(None) => {
                    // The rest is too young.
                    let Some(written_at) = log.recent.oldest_since() else { break };
                    tokio::time::sleep_until((written_at + MIN_AGE + INTERVAL).into()).await;
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::error!(%error, "the journal's log cannot be applied to its tables; retrying");
                    }
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }
}
