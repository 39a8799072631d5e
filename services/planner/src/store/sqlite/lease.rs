//! Which planner owns which plan and which sweep. A planner's row is its fence: whoever takes it for dead deletes the row,
//! and a commit that comes later finds it missing and fails as a whole.

use std::collections::HashMap;

use phoenix_domain::PlanId;
use sqlx::{Connection, SqliteConnection, SqlitePool};

use super::{
    super::{Heartbeat, LeftPlan, TakeoverScope, Unfinished, UnfinishedPlan, Unreadable},
    JournalError, dead_letters,
    rows::json,
    stored::parse,
};

/// Unfinished plans whose owner is gone.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    /// Plans to take over, as the table names them.
    pub(super) to_take: Vec<String>,
    pub(super) left: Vec<LeftPlan>,
    sweeps: bool,
}

impl Orphans {
    /// Whether there is anything to take over.
    pub(super) const fn is_of_use(&self) -> bool {
        self.sweeps || !self.to_take.is_empty()
    }
}

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

/// Takes the ownership away from those that have not been heard of since, and remembers that they died.
pub(super) async fn depose(
    connection: &mut SqliteConnection,
    dead: &[Heartbeat],
) -> Result<(), JournalError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    for Heartbeat { planner, beat } in dead {
        let deposed = sqlx::query("DELETE FROM planners WHERE instance = ? AND beat = ?");
        let deposed = deposed.bind(planner).bind(beat).execute(&mut *transaction).await?;
        if deposed.rows_affected() > 0 {
            let died = sqlx::query("INSERT OR IGNORE INTO dead_planners (instance) VALUES (?)");
            died.bind(planner).execute(&mut *transaction).await?;
        }
    }
    transaction.commit().await?;
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

/// Plans and sweeps without an owner, as far as `scope` covers them. The tables hold everything that is durable by now.
pub(super) async fn orphans(pool: &SqlitePool, scope: &TakeoverScope) -> Result<Orphans, JournalError> {
    let mut snapshot = pool.begin().await?;
    let rows: Vec<(String, Option<String>)> = sqlx::query_as(
        "SELECT DISTINCT plans.plan_id, tasks.agent FROM plans
         LEFT JOIN tasks ON tasks.plan_id = plans.plan_id
            AND tasks.status NOT IN ('succeeded', 'dead_lettered', 'cancelled')
         WHERE plans.status IN ('pending', 'running') AND owner NOT IN (SELECT instance FROM planners)",
    )
    .fetch_all(&mut *snapshot)
    .await?;
    let sweeps = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM sweeps WHERE ended_at IS NULL AND owner NOT IN (SELECT instance FROM planners))",
    );
    let sweeps = sweeps.fetch_one(&mut *snapshot).await?;
    let mut plans: HashMap<String, Option<String>> = HashMap::new();
    for (plan_id, agent) in rows {
        let unknown = plans.entry(plan_id).or_default();
        *unknown = unknown.take().or_else(|| agent.filter(|agent| !scope.knows(agent)));
    }
    let mut orphans = Orphans { sweeps, ..Orphans::default() };
    for (id, unknown) in plans {
        // What can't even be named is taken, and told of.
        match (id.parse::<PlanId>(), unknown) {
            (Ok(plan_id), Some(agent)) if !scope.anyway.contains(&plan_id) => {
                orphans.left.push(LeftPlan { plan_id, agent });
            }
            _ => orphans.to_take.push(id),
        }
    }
    Ok(orphans)
}

/// Gives `plans`, and sweeps without an owner, to `planner`, unless that was itself taken for dead meanwhile.
pub(super) async fn claim(
    connection: &mut SqliteConnection,
    planner: &str,
    plans: &[String],
) -> Result<Unfinished, JournalError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let plans: Vec<(String, u32, u32)> = sqlx::query_as(
        "UPDATE plans SET owner = ?1, takeovers = takeovers + 1,
             crashes = crashes + (status = 'running' AND owner IN (SELECT instance FROM dead_planners))
         WHERE plan_id IN (SELECT value FROM json_each(?2)) AND status IN ('pending', 'running')
         AND owner NOT IN (SELECT instance FROM planners)
         AND EXISTS (SELECT 1 FROM planners WHERE instance = ?1) RETURNING plan_id, takeovers, crashes",
    )
    .bind(planner)
    .bind(json(&plans))
    .fetch_all(&mut *transaction)
    .await?;
    let (sweeps, unreadable) = dead_letters::claim_sweeps(&mut transaction, planner).await?;
    sqlx::query(
        "DELETE FROM dead_planners
         WHERE instance NOT IN (SELECT owner FROM plans WHERE status IN ('pending', 'running'))",
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    let plans_claimed = Vec::with_capacity(plans.len());
    let mut claimed = Unfinished { plans: plans_claimed, left: Vec::new(), sweeps, unreadable };
    for (id, takeovers, crashes) in plans {
        match parse("plans.plan_id", &id) {
            Ok(plan_id) => claimed.plans.push(UnfinishedPlan { plan_id, takeovers, crashes }),
            // Theirs all the same: nobody can do more about it.
            Err(error) => claimed.unreadable.push(Unreadable { id, what: error.to_string() }),
        }
    }
    Ok(claimed)
}
