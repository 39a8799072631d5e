//! Ownership of plans and bulk operations. A planner's row in `planners` is its fence: a planner that takes over deletes the
//! row of the dead one, whose later commits then fail as a whole.

use std::collections::HashMap;

use jiff::Timestamp;
use phoenix_domain::PlanId;
use sqlx::{Connection, SqliteConnection, SqlitePool};

use crate::store::{
    error::JournalError,
    query::Unreadable,
    sqlite::bulk,
    stored::value::{json, micros, parse},
    takeover::{
        Heartbeat, PlanOwner, SUSPECT_WINDOW, SkippedPlan, TakeoverScope, Unfinished, UnfinishedPlan,
    },
};

/// Makes a planner the owner of orphaned plans. A running plan whose owner died is suspected of the crash when it had started
/// or been taken over within the last stretch of that planner's life and, since a takeover, no task of it had ended. The count
/// of a plan that is not suspected restarts. A plan that only waited keeps its count. All of these times are of the dead planner's clock.
const TAKE_OVER: &str = "
    UPDATE plans SET owner = ?1, takeovers = takeovers + 1, taken_over_at = ?3,
        crashes = CASE
            WHEN status <> 'running' OR owner NOT IN (SELECT instance FROM dead_planners) THEN crashes
            WHEN EXISTS (SELECT 1 FROM tasks WHERE tasks.plan_id = plans.plan_id AND status IN ('awaiting_approval', 'awaiting_time', 'awaiting_budget'))
                AND NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.plan_id = plans.plan_id
                                AND status IN ('dispatched', 'in_progress', 'retried'))
                THEN crashes
            WHEN (SELECT seen_at FROM dead_planners WHERE instance = owner) - coalesce(
                     taken_over_at,
                     (SELECT min(dispatched_at) FROM tasks WHERE tasks.plan_id = plans.plan_id),
                     created_at) > ?4
                THEN 0
            WHEN EXISTS (SELECT 1 FROM tasks WHERE tasks.plan_id = plans.plan_id AND ended_at > taken_over_at)
                THEN 0
            ELSE crashes + 1
        END
    WHERE plan_id IN (SELECT value FROM json_each(?2)) AND status IN ('pending', 'running')
    AND owner NOT IN (SELECT instance FROM planners)
    AND EXISTS (SELECT 1 FROM planners WHERE instance = ?1) RETURNING plan_id, takeovers, crashes";

/// Unfinished plans and bulk operations whose owner is gone.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    /// Ids of the plans to take over, as stored.
    pub(super) plans: Vec<String>,
    pub(super) skipped: Vec<SkippedPlan>,
    has_bulk: bool,
}

impl Orphans {
    /// Whether there is anything to take over.
    pub(super) const fn is_empty(&self) -> bool {
        !self.has_bulk && self.plans.is_empty()
    }
}

pub(super) async fn register(connection: &mut SqliteConnection, planner: &str) -> Result<(), JournalError> {
    sqlx::query("INSERT INTO planners (instance, beat) VALUES (?, 0)")
        .bind(planner)
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn advertise(
    connection: &mut SqliteConnection,
    planner: &str,
    url: &str,
) -> Result<(), JournalError> {
    let advertise = sqlx::query("UPDATE planners SET url = ? WHERE instance = ?");
    match advertise.bind(url.to_owned()).bind(planner).execute(connection).await?.rows_affected() {
        0 => Err(JournalError::Fenced),
        _ => Ok(()),
    }
}

/// The planner of an unfinished plan, if it is an owner that advertises a URL.
pub(super) async fn owner(pool: &SqlitePool, plan_id: PlanId) -> Result<Option<PlanOwner>, JournalError> {
    let owner: Option<(String, String)> = sqlx::query_as(
        "SELECT instance, url FROM plans JOIN planners ON instance = owner
         WHERE plan_id = ? AND status IN ('pending', 'running') AND url IS NOT NULL",
    )
    .bind(plan_id.to_string())
    .fetch_optional(pool)
    .await?;
    Ok(owner.map(|(planner, url)| PlanOwner { planner, url }))
}

pub(super) async fn release(connection: &mut SqliteConnection, planner: &str) -> Result<(), JournalError> {
    sqlx::query("DELETE FROM planners WHERE instance = ?").bind(planner).execute(connection).await?;
    Ok(())
}

pub(super) async fn heartbeat(
    connection: &mut SqliteConnection,
    planner: &str,
    at: Timestamp,
) -> Result<(), JournalError> {
    let heartbeat = sqlx::query("UPDATE planners SET beat = beat + 1, seen_at = ? WHERE instance = ?");
    match heartbeat.bind(micros(at)).bind(planner).execute(connection).await?.rows_affected() {
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
    Ok(rows.into_iter().map(|(planner, sequence)| Heartbeat { planner, sequence }).collect())
}

/// Fences planners that have sent no heartbeat since, and records that they died, with the time of their last heartbeat. A
/// planner that was fenced itself fences none.
pub(super) async fn fence(
    connection: &mut SqliteConnection,
    own: &str,
    dead: &[Heartbeat],
) -> Result<(), JournalError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    if !is_owner(&mut transaction, own).await? {
        return Ok(());
    }
    for Heartbeat { planner, sequence } in dead {
        let fenced: Option<i64> =
            sqlx::query_scalar("DELETE FROM planners WHERE instance = ? AND beat = ? RETURNING seen_at")
                .bind(planner)
                .bind(sequence)
                .fetch_optional(&mut *transaction)
                .await?;
        if let Some(seen_at) = fenced {
            let died = sqlx::query("INSERT OR IGNORE INTO dead_planners (instance, seen_at) VALUES (?, ?)");
            died.bind(planner).bind(seen_at).execute(&mut *transaction).await?;
        }
    }
    transaction.commit().await?;
    Ok(())
}

/// Whether there may be unfinished work without an owner, in the tables or in the log.
pub(super) async fn has_orphans(pool: &SqlitePool) -> Result<bool, JournalError> {
    let orphaned = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM log WHERE planner NOT IN (SELECT instance FROM planners))
         OR EXISTS (SELECT 1 FROM budget_reservations WHERE planner NOT IN (SELECT instance FROM planners))
         OR EXISTS (SELECT 1 FROM plans WHERE status IN ('pending', 'running')
         AND owner NOT IN (SELECT instance FROM planners))
         OR EXISTS (SELECT 1 FROM sweeps WHERE ended_at IS NULL AND owner NOT IN (SELECT instance FROM planners))",
    );
    Ok(orphaned.fetch_one(pool).await?)
}

/// Plans and bulk operations without an owner, as far as `scope` covers them. Everything durable is applied by now.
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
    let has_bulk = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM sweeps WHERE ended_at IS NULL AND owner NOT IN (SELECT instance FROM planners))",
    );
    let has_bulk = has_bulk.fetch_one(&mut *snapshot).await?;
    let mut plans: HashMap<String, Option<String>> = HashMap::new();
    for (plan_id, agent) in rows {
        let unknown = plans.entry(plan_id).or_default();
        *unknown = unknown.take().or_else(|| agent.filter(|agent| !scope.knows(agent)));
    }
    let mut orphans = Orphans { has_bulk, ..Orphans::default() };
    for (id, unknown) in plans {
        // A plan with an unreadable id is taken over and reported.
        match (id.parse::<PlanId>(), unknown) {
            (Ok(plan_id), Some(agent)) if !scope.regardless.contains(&plan_id) => {
                orphans.skipped.push(SkippedPlan { plan_id, agent });
            }
            _ => orphans.plans.push(id),
        }
    }
    Ok(orphans)
}

/// Makes `planner` the owner of `plans`, and of bulk operations without an owner, unless it was fenced itself.
pub(super) async fn take_over(
    connection: &mut SqliteConnection,
    planner: &str,
    plans: &[String],
    at: Timestamp,
) -> Result<Unfinished, JournalError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let taken: Vec<(String, u32, u32)> = sqlx::query_as(TAKE_OVER)
        .bind(planner)
        .bind(json(&plans))
        .bind(micros(at))
        .bind(i64::try_from(SUSPECT_WINDOW.as_micros()).unwrap_or(i64::MAX))
        .fetch_all(&mut *transaction)
        .await?;
    let (operations, unreadable) = bulk::take_over(&mut transaction, planner).await?;
    sqlx::query(
        "DELETE FROM dead_planners
         WHERE instance NOT IN (SELECT owner FROM plans WHERE status IN ('pending', 'running'))",
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    let plans = Vec::with_capacity(taken.len());
    let mut unfinished = Unfinished { plans, skipped: Vec::new(), bulk: operations, unreadable };
    for (id, takeovers, crashes) in taken {
        match parse("plans.plan_id", &id) {
            Ok(plan_id) => unfinished.plans.push(UnfinishedPlan { plan_id, takeovers, crashes }),
            // Owned all the same, so that it is not searched again.
            Err(error) => unfinished.unreadable.push(Unreadable { id, what: error.to_string() }),
        }
    }
    Ok(unfinished)
}
