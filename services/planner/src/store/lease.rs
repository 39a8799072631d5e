//! Which planner owns which plan.
//!
//! A planner is one process under a name of its own. It holds a lease that each of its commits renews. When the lease has
//! run out, another planner, or the same one started again, takes its unfinished plans over and deletes its row, in one
//! transaction; the row is the fence: a commit of the old owner that comes later finds it missing and fails as a whole.

use std::time::Duration;

use jiff::Timestamp;
use phoenix_domain::PlanId;
use sqlx::SqlitePool;

use super::{JournalError, rows::micros};

/// How long a planner that is not heard of still owns its plans.
pub(super) const LEASE: Duration = Duration::from_secs(4);

/// How often a planner that has nothing to write renews its lease.
pub(super) const RENEW_EVERY: Duration = Duration::from_millis(1500);

/// The end of a lease that is renewed now.
pub(super) fn lease_until() -> i64 {
    micros(Timestamp::now()).saturating_add(i64::try_from(LEASE.as_micros()).unwrap_or(i64::MAX))
}

/// Registers a planner.
pub(super) async fn register(pool: &SqlitePool, instance: &str) -> Result<(), JournalError> {
    sqlx::query("INSERT INTO planners (instance, lease_until) VALUES (?, ?)")
        .bind(instance)
        .bind(lease_until())
        .execute(pool)
        .await?;
    Ok(())
}

/// Gives everything up at once, instead of when the lease runs out.
pub(super) async fn release(pool: &SqlitePool, instance: &str) -> Result<(), JournalError> {
    sqlx::query("DELETE FROM planners WHERE instance = ?").bind(instance).execute(pool).await?;
    Ok(())
}

/// Takes over the unfinished plans of planners whose lease has run out.
pub(super) async fn claim(pool: &SqlitePool, instance: &str) -> Result<Vec<PlanId>, JournalError> {
    let now = micros(Timestamp::now());
    let orphaned: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT 1 FROM plans WHERE status IN ('pending', 'running')
         AND owner NOT IN (SELECT instance FROM planners WHERE lease_until >= ? OR instance = ?) LIMIT 1)",
    )
    .bind(now)
    .bind(instance)
    .fetch_one(pool)
    .await?;
    if orphaned == 0 {
        return Ok(Vec::new());
    }
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query("DELETE FROM planners WHERE lease_until < ? AND instance <> ?")
        .bind(now)
        .bind(instance)
        .execute(&mut *transaction)
        .await?;
    let claimed: Vec<String> = sqlx::query_scalar(
        "UPDATE plans SET owner = ? WHERE status IN ('pending', 'running')
         AND owner NOT IN (SELECT instance FROM planners) RETURNING plan_id",
    )
    .bind(instance)
    .fetch_all(&mut *transaction)
    .await?;
    transaction.commit().await?;
    claimed
        .iter()
        .map(|id| id.parse().map_err(|_| JournalError::Damaged(format!("plans.plan_id holds `{id}`"))))
        .collect()
}
