//! Which planner owns which plan. A planner's row is its fence: whoever takes it for dead deletes the row, and a commit
//! that comes later finds it missing and fails as a whole.

use phoenix_domain::PlanId;
use sqlx::SqlitePool;

use super::{super::Heartbeat, JournalError};

pub(super) async fn register(pool: &SqlitePool, planner: &str) -> Result<(), JournalError> {
    sqlx::query("INSERT INTO planners (instance, beat) VALUES (?, 0)").bind(planner).execute(pool).await?;
    Ok(())
}

pub(super) async fn release(pool: &SqlitePool, planner: &str) -> Result<(), JournalError> {
    sqlx::query("DELETE FROM planners WHERE instance = ?").bind(planner).execute(pool).await?;
    Ok(())
}

pub(super) async fn planners(pool: &SqlitePool) -> Result<Vec<Heartbeat>, JournalError> {
    let rows: Vec<(String, i64)> =
        sqlx::query_as("SELECT instance, beat FROM planners").fetch_all(pool).await?;
    Ok(rows.into_iter().map(|(planner, beat)| Heartbeat { planner, beat }).collect())
}

pub(super) async fn claim(
    pool: &SqlitePool,
    planner: &str,
    dead: &[Heartbeat],
) -> Result<Vec<PlanId>, JournalError> {
    // Looked at without the lock first: nearly always there is nothing to take.
    let orphaned: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM plans WHERE status IN ('pending', 'running')
         AND owner NOT IN (SELECT instance FROM planners))",
    )
    .fetch_one(pool)
    .await?;
    if dead.is_empty() && !orphaned {
        return Ok(Vec::new());
    }
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    for Heartbeat { planner, beat } in dead {
        sqlx::query("DELETE FROM planners WHERE instance = ? AND beat = ?")
            .bind(planner)
            .bind(beat)
            .execute(&mut *transaction)
            .await?;
    }
    // Nor by one that was itself taken for dead meanwhile.
    let claimed: Vec<String> = sqlx::query_scalar(
        "UPDATE plans SET owner = ? WHERE status IN ('pending', 'running')
         AND owner NOT IN (SELECT instance FROM planners)
         AND EXISTS (SELECT 1 FROM planners WHERE instance = ?) RETURNING plan_id",
    )
    .bind(planner)
    .bind(planner)
    .fetch_all(&mut *transaction)
    .await?;
    transaction.commit().await?;
    claimed
        .iter()
        .map(|id| id.parse().map_err(|_| JournalError::Damaged(format!("plans.plan_id holds `{id}`"))))
        .collect()
}
