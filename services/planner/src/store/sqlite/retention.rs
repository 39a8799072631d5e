//! Deletion of old data. SQLite reuses the free pages, so the file stops growing when as much is deleted as is written.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use phoenix_domain::PlanId;
use sqlx::{SqliteConnection, SqlitePool};

use crate::store::{
    error::JournalError,
    query::{OldPlans, Purged, StoreStats},
    sqlite::{connection::WriterConnection, ownership},
    stored::value::{json, micros},
};

/// One script, because commits wait for each round trip to SQLite's thread. Without an fsync: a deletion that is lost with the
/// power is repeated. Tasks, attempts and dead letters are deleted with their plan. A fenced planner deletes nothing.
const PURGE: &str = "
    PRAGMA synchronous = NORMAL;
    BEGIN IMMEDIATE;
    DELETE FROM events WHERE plan_id IN (SELECT value FROM json_each(?1))
        AND EXISTS (SELECT 1 FROM planners WHERE instance = ?2);
    DELETE FROM plans WHERE plan_id IN (SELECT value FROM json_each(?1))
        AND EXISTS (SELECT 1 FROM planners WHERE instance = ?2) RETURNING plan_id;
    COMMIT;
    PRAGMA synchronous = FULL";

pub(super) async fn purge_plans(
    tables: &SqlitePool,
    writer: &WriterConnection,
    planner: &str,
    old: &OldPlans,
) -> Result<Purged, JournalError> {
    let OldPlans { ended_before, after, limit } = old;
    // Searched before writes are blocked. A plan that ended before that time was accepted before it, and the order of keys is
    // that of acceptance: no younger plan is read.
    let examined: Vec<(String, bool)> = sqlx::query_as(
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
        purge_bulk_operations(tables, writer, planner, *ended_before).await?;
    }
    let is_full = u32::try_from(examined.len()) == Ok(*limit);
    let last = examined.iter().rev().find_map(|(id, _)| id.parse().ok()).filter(|_| is_full);
    let old: Vec<String> = examined.into_iter().filter(|(_, old)| *old).map(|(id, _)| id).collect();
    if old.is_empty() {
        return Ok(Purged { plans: 0, last, held: Duration::ZERO });
    }
    let delete = async |connection: &mut SqliteConnection| {
        let started = Instant::now();
        // A terminal state never changes, so what was old during the search still is.
        let deleted = sqlx::query(PURGE).bind(json(&old)).bind(planner).persistent(false);
        let deleted = deleted.fetch_all(&mut *connection).await?;
        if deleted.is_empty() && !ownership::is_owner(connection, planner).await? {
            return Err(JournalError::Fenced);
        }
        Ok(Purged { plans: deleted.len() as u64, last, held: started.elapsed() })
    };
    writer.exclusively(delete).await
}

/// Deletes old bulk operations, all at once: there are few, since each was a request of a person.
async fn purge_bulk_operations(
    tables: &SqlitePool,
    writer: &WriterConnection,
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
    writer.exclusively(delete).await
}

pub(super) async fn purge_keys(
    tables: &SqlitePool,
    writer: &WriterConnection,
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
            0 if !ownership::is_owner(connection, planner).await? => Err(JournalError::Fenced),
            deleted => Ok(deleted),
        }
    };
    writer.exclusively(delete).await
}

pub(super) async fn stats(pool: &SqlitePool) -> Result<StoreStats, JournalError> {
    let file = pool.connect_options().get_filename().to_owned();
    let mut bytes = 0;
    for suffix in ["", "-wal"] {
        let mut path = file.clone().into_os_string();
        path.push(suffix);
        // A missing write-ahead log has no size.
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
    Ok(StoreStats { bytes, oldest_plan })
}
