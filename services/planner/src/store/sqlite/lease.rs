//! Which planner owns which plan and which sweep. A planner's row is its fence: whoever takes it for dead deletes the row,
//! and a commit that comes later finds it missing and fails as a whole.

use sqlx::{Connection, SqliteConnection, SqlitePool};

use super::{
    super::{Heartbeat, Unfinished, Unreadable},
    JournalError, dead_letters,
    stored::parse,
};

pub(super) async fn register(connection: &mut SqliteConnection, planner: &str) -> Result<(), JournalError> {
    sqlx::query("INSERT INTO planners (instance, beat) VALUES (?, 0)")
        .bind(planner)
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn release(connection: &mut SqliteConnection, planner: &str) -> Result<(), JournalError> {
    sqlx::query("DELETE FROM planners WHERE instance = ?").bind(planner).execute(connection).await?;
    Ok(())
}

pub(super) async fn beat(connection: &mut SqliteConnection, planner: &str) -> Result<(), JournalError> {
    let beat = sqlx::query("UPDATE planners SET beat = beat + 1 WHERE instance = ?");
    match beat.bind(planner).execute(connection).await?.rows_affected() {
        0 => Err(JournalError::Fenced),
        _ => Ok(()),
    }
}

/// Whether `planner` may write.
pub(super) async fn is_owner(connection: &mut SqliteConnection, planner: &str) -> Result<bool, JournalError> {
    let owner = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM planners WHERE instance = ?)");
    Ok(owner.bind(planner).fetch_one(connection).await?)
}

pub(super) async fn planners(pool: &SqlitePool) -> Result<Vec<Heartbeat>, JournalError> {
    let rows: Vec<(String, i64)> =
        sqlx::query_as("SELECT instance, beat FROM planners").fetch_all(pool).await?;
    Ok(rows.into_iter().map(|(planner, beat)| Heartbeat { planner, beat }).collect())
}

/// Takes the ownership away from those that have not been heard of since.
pub(super) async fn depose(
    connection: &mut SqliteConnection,
    dead: &[Heartbeat],
) -> Result<(), JournalError> {
    for Heartbeat { planner, beat } in dead {
        sqlx::query("DELETE FROM planners WHERE instance = ? AND beat = ?")
            .bind(planner)
            .bind(beat)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Whether there may be something unfinished that nobody owns: in the tables, or in what is to be moved into them.
pub(super) async fn has_orphans(pool: &SqlitePool) -> Result<bool, JournalError> {
    let orphaned = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM log WHERE planner NOT IN (SELECT instance FROM planners))
         OR EXISTS (SELECT 1 FROM plans WHERE status IN ('pending', 'running')
         AND owner NOT IN (SELECT instance FROM planners))
         OR EXISTS (SELECT 1 FROM sweeps WHERE ended_at IS NULL AND owner NOT IN (SELECT instance FROM planners))",
    );
    Ok(orphaned.fetch_one(pool).await?)
}

/// Gives it to `planner`, unless that was itself taken for dead meanwhile.
pub(super) async fn claim(
    connection: &mut SqliteConnection,
    planner: &str,
) -> Result<Unfinished, JournalError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let plans: Vec<String> = sqlx::query_scalar(
        "UPDATE plans SET owner = ? WHERE status IN ('pending', 'running')
         AND owner NOT IN (SELECT instance FROM planners)
         AND EXISTS (SELECT 1 FROM planners WHERE instance = ?) RETURNING plan_id",
    )
    .bind(planner)
    .bind(planner)
    .fetch_all(&mut *transaction)
    .await?;
    let (sweeps, unreadable) = dead_letters::claim_sweeps(&mut transaction, planner).await?;
    transaction.commit().await?;
    let mut claimed = Unfinished { plans: Vec::with_capacity(plans.len()), sweeps, unreadable };
    for id in plans {
        match parse("plans.plan_id", &id) {
            Ok(plan_id) => claimed.plans.push(plan_id),
            // Theirs all the same: nobody can do more about it.
            Err(error) => claimed.unreadable.push(Unreadable { id, what: error.to_string() }),
        }
    }
    Ok(claimed)
}
