//! Deleting what is old. The pages that become free are used again by what is written next, so the file stops growing
//! when as much is deleted as comes in.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use phoenix_domain::PlanId;
use sqlx::{SqliteConnection, SqlitePool};

use super::{
    super::{Extent, Forgotten, OldPlans},
    JournalError, lease,
    log::Log,
    rows::{json, micros},
};

/// In one script, for commits wait for each trip to SQLite's thread. Without an fsync: a deletion that is lost with the
/// power is made again. Tasks, attempts and dead letters go with their plan. A planner that was taken for dead deletes nothing.
const FORGET: &str = "
    PRAGMA synchronous = NORMAL;
    BEGIN IMMEDIATE;
    DELETE FROM events WHERE plan_id IN (SELECT value FROM json_each(?1))
        AND EXISTS (SELECT 1 FROM planners WHERE instance = ?2);
    DELETE FROM plans WHERE plan_id IN (SELECT value FROM json_each(?1))
        AND EXISTS (SELECT 1 FROM planners WHERE instance = ?2) RETURNING plan_id;
    COMMIT;
    PRAGMA synchronous = FULL";

pub(super) async fn forget_plans(
    tables: &SqlitePool,
    log: &Log,
    planner: &str,
    old: &OldPlans,
) -> Result<Forgotten, JournalError> {
    let OldPlans { ended_before, after, limit } = old;
    // Looked for before anybody is kept from writing. Whoever ended before that time was accepted before it too, and
    // plans of one time lie together in the order of their keys: nothing younger is touched.
    let seen: Vec<(String, bool)> = sqlx::query_as(
        "SELECT plan_id, coalesce(status IN ('succeeded', 'failed', 'cancelled') AND ended_at < ?, FALSE)
         FROM plans WHERE plan_id > ? AND plan_id < ? ORDER BY plan_id LIMIT ?",
    )
    .bind(micros(*ended_before))
    .bind(after.map(|id| id.to_string()).unwrap_or_default())
    .bind(PlanId::first_at(*ended_before).to_string())
    .bind(limit)
    .fetch_all(tables)
    .await?;
    if after.is_none() {
        forget_sweeps(tables, log, planner, *ended_before).await?;
    }
    let full = u32::try_from(seen.len()) == Ok(*limit);
    let last = seen.iter().rev().find_map(|(id, _)| id.parse().ok()).filter(|_| full);
    let old: Vec<String> = seen.into_iter().filter(|(_, old)| *old).map(|(id, _)| id).collect();
    if old.is_empty() {
        return Ok(Forgotten { plans: 0, last, held: Duration::ZERO });
    }
    let delete = async |connection: &mut SqliteConnection| {
        let begun = Instant::now();
        // A terminal state never changes: what was old when it was looked for is old, if it is there.
        let gone = sqlx::query(FORGET).bind(json(&old)).bind(planner).persistent(false);
        let gone = gone.fetch_all(&mut *connection).await?;
        if gone.is_empty() && !lease::is_owner(connection, planner).await? {
            return Err(JournalError::Fenced);
        }
        Ok(Forgotten { plans: gone.len() as u64, last, held: begun.elapsed() })
    };
    log.exclusively(delete).await
}

/// Sweeps are few, for each was a person's request: those that ended long ago go all at once.
async fn forget_sweeps(
    tables: &SqlitePool,
    log: &Log,
    planner: &str,
    ended_before: Timestamp,
) -> Result<(), JournalError> {
    let old = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM sweeps WHERE ended_at < ?)");
    if !old.bind(micros(ended_before)).fetch_one(tables).await? {
        return Ok(());
    }
    let delete = async |connection: &mut SqliteConnection| {
        sqlx::query(
            "DELETE FROM sweeps WHERE ended_at < ? AND EXISTS (SELECT 1 FROM planners WHERE instance = ?)",
        )
        .bind(micros(ended_before))
        .bind(planner)
        .execute(connection)
        .await?;
        Ok(())
    };
    log.exclusively(delete).await
}

pub(super) async fn forget_keys(
    tables: &SqlitePool,
    log: &Log,
    planner: &str,
    before: Timestamp,
    limit: u32,
) -> Result<u64, JournalError> {
    let old: Vec<String> = sqlx::query_scalar(
        "SELECT key FROM idempotency_keys WHERE created_at < ? ORDER BY created_at LIMIT ?",
    )
    .bind(micros(before))
    .bind(limit)
    .fetch_all(tables)
    .await?;
    if old.is_empty() {
        return Ok(0);
    }
    let delete = async |connection: &mut SqliteConnection| {
        let deleted = sqlx::query(
            "DELETE FROM idempotency_keys WHERE key IN (SELECT value FROM json_each(?)) AND created_at < ?
             AND EXISTS (SELECT 1 FROM planners WHERE instance = ?)",
        );
        let deleted = deleted.bind(json(&old)).bind(micros(before)).bind(planner);
        match deleted.execute(&mut *connection).await?.rows_affected() {
            0 if !lease::is_owner(connection, planner).await? => Err(JournalError::Fenced),
            deleted => Ok(deleted),
        }
    };
    log.exclusively(delete).await
}

pub(super) async fn extent(pool: &SqlitePool) -> Result<Extent, JournalError> {
    let file = pool.connect_options().get_filename().to_owned();
    let mut bytes = 0;
    for suffix in ["", "-wal"] {
        let mut path = file.clone().into_os_string();
        path.push(suffix);
        // Without a write-ahead log there is none to count.
        bytes += tokio::fs::metadata(path).await.map_or(0, |file| file.len());
    }
    let oldest: Option<String> = sqlx::query_scalar(
        "SELECT min(first) FROM (
             SELECT min(plan_id) AS first FROM plans WHERE status = 'succeeded'
             UNION ALL SELECT min(plan_id) FROM plans WHERE status = 'failed'
             UNION ALL SELECT min(plan_id) FROM plans WHERE status = 'cancelled')",
    )
    .fetch_one(pool)
    .await?;
    let oldest_plan = oldest.and_then(|id| id.parse::<PlanId>().ok()?.created_at());
    Ok(Extent { bytes, oldest_plan })
}
