//! Reads of the journal.

use futures_util::TryStreamExt;
use jiff::Timestamp;
use phoenix_domain::{
    PlanId,
    plan::{Plan, PlanStatus},
};
use sqlx::{FromRow, Sqlite, SqlitePool};

use crate::store::{
    entry::UsedKey,
    error::JournalError,
    listing::page_of,
    query::{Changes, Event, MAX_EXAMINED, OpenPlans, Page, PlanFilter},
    sqlite::quarantine,
    stored::{
        approval::ApprovalRow,
        event::{EventRow, read_events},
        plan::{AttemptRow, PlanRow, RowsByPlan, TaskRow, listed},
        value::{damaged, json, micros, parse},
    },
    takeover::OpenTask,
};

const PLAN_COLUMNS: &str =
    "plan_id, correlation_id, kind, status, created_at, deadline_at, ended_at, context, budget, output, error, redrive_of,
     (SELECT later.plan_id FROM plans AS later WHERE later.redrive_of = plans.plan_id) AS redriven_as";

const IS_BLOCKED: &str =
    "EXISTS (SELECT 1 FROM quarantined_records AS q WHERE q.plan_id = plans.plan_id) AS is_blocked";

/// Columns of a listing, which shows no output and no context.
const SUMMARY_COLUMNS: &str =
    "plan_id, correlation_id, kind, status, created_at, deadline_at, ended_at, '' AS context, NULL AS budget,
     NULL AS output, error, redrive_of, (SELECT later.plan_id FROM plans AS later WHERE later.redrive_of = plans.plan_id) AS redriven_as";

/// Plans with their tasks and attempts, in the order of their ids, from one snapshot.
pub(super) async fn plans_by_id(
    pool: &SqlitePool,
    plan_ids: &[PlanId],
) -> Result<Vec<(PlanId, Result<Plan, JournalError>)>, JournalError> {
    let plan_ids = json(&plan_ids);
    let those = "WHERE plan_id IN (SELECT value FROM json_each(?)) ORDER BY plan_id";
    // One snapshot: a plan never appears with tasks of another state.
    let mut snapshot = pool.begin().await?;
    let select = |what: &str, then: &str| sql(format!("SELECT {what} {those}{then}"));
    let plans: Vec<FullPlanRow> =
        sqlx::query_as(select(&format!("{PLAN_COLUMNS}, {IS_BLOCKED} FROM plans"), ""))
            .bind(&plan_ids)
            .fetch_all(&mut *snapshot)
            .await?;
    let tasks: Vec<TaskRow> =
        sqlx::query_as(select("* FROM tasks", ", ordinal")).bind(&plan_ids).fetch_all(&mut *snapshot).await?;
    let attempts: Vec<AttemptRow> = sqlx::query_as(select("* FROM attempts", ", ordinal, number"))
        .bind(&plan_ids)
        .fetch_all(&mut *snapshot)
        .await?;
    let approvals: Vec<ApprovalRow> = sqlx::query_as(select("* FROM decisions", ", ordinal"))
        .bind(&plan_ids)
        .fetch_all(&mut *snapshot)
        .await?;
    let lost: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT plan_id FROM quarantined_records
         WHERE plan_id IN (SELECT value FROM json_each(?)) AND plan_id NOT IN (SELECT plan_id FROM plans)",
    )
    .bind(&plan_ids)
    .fetch_all(&mut *snapshot)
    .await?;
    drop(snapshot);
    let mut rows = RowsByPlan::new(tasks, attempts, approvals);
    let mut found = Vec::with_capacity(plans.len());
    for FullPlanRow { plan, is_blocked } in plans {
        let plan_id = parse("plans.plan_id", &plan.plan_id)?;
        let read = if is_blocked {
            Err(quarantine::unreadable(plan_id))
        } else {
            let rows = rows.of(&plan.plan_id);
            plan.with(rows)
        };
        found.push((plan_id, read));
    }
    for plan_id in lost {
        let plan_id = parse("quarantined_records.plan_id", &plan_id)?;
        found.push((plan_id, Err(quarantine::unreadable(plan_id))));
    }
    Ok(found)
}

/// A plan, and whether records of it are in quarantine.
#[derive(FromRow)]
struct FullPlanRow {
    #[sqlx(flatten)]
    plan: PlanRow,
    is_blocked: bool,
}

pub(super) async fn plans(
    pool: &SqlitePool,
    filter: &PlanFilter,
) -> Result<Page<Plan, PlanId>, JournalError> {
    let mut query = sqlx::QueryBuilder::new("");
    let statuses = filter.statuses().into_iter().map(Some).collect::<Vec<_>>();
    let statuses = if statuses.is_empty() { vec![None] } else { statuses };
    for (index, status) in statuses.into_iter().enumerate() {
        // Each part is read in the order of its index; the database merges them.
        query.push(if index == 0 { "" } else { " UNION ALL " });
        push_select(&mut query, filter, status);
    }
    let order = if filter.is_oldest_first { "ASC" } else { "DESC" };
    query.push(" ORDER BY plan_id ").push(order).push(" LIMIT ").push_bind(filter.rows());
    let rows = query.build().fetch(pool).map_ok(|row| listed(&row));
    page_of(rows, filter.limit, MAX_EXAMINED, |plan| filter.has_text(plan)).await
}

/// Only given conditions are part of the query, so that each shape finds its index.
fn push_select(query: &mut sqlx::QueryBuilder<Sqlite>, filter: &PlanFilter, status: Option<PlanStatus>) {
    let PlanFilter { correlation_id, agent, since, before, is_oldest_first, .. } = filter;
    query.push("SELECT ");
    let id = if let Some(agent) = agent {
        // In the order of the index of tasks, each plan at the first of its tasks for the agent.
        query
            .push("found AS ")
            .push(SUMMARY_COLUMNS)
            .push(" FROM (SELECT plan_id AS found FROM tasks WHERE agent = ")
            .push_bind(agent.as_str().to_owned())
            .push(
                " AND NOT EXISTS (SELECT 1 FROM tasks AS earlier WHERE earlier.plan_id = tasks.plan_id
                                  AND earlier.ordinal < tasks.ordinal AND earlier.agent = tasks.agent))
                 CROSS JOIN plans ON plan_id = found WHERE TRUE",
            );
        "found"
    } else {
        query.push(SUMMARY_COLUMNS).push(" FROM plans WHERE TRUE");
        "plan_id"
    };
    if let Some(id) = correlation_id {
        query.push(" AND correlation_id = ").push_bind(id.to_string());
    }
    if let Some(status) = status {
        query.push(" AND status = ").push_bind(status.as_str());
    }
    if let Some(since) = since {
        query.push(" AND created_at >= ").push_bind(micros(*since));
    }
    if let Some(before) = before {
        let behind = if *is_oldest_first { " > " } else { " < " };
        query.push(" AND ").push(id).push(behind).push_bind(before.to_string());
    }
}

/// Numbers of plans that are pending and running, as far as they are in the tables.
pub(super) async fn open_plans(pool: &SqlitePool) -> Result<OpenPlans, JournalError> {
    let (pending, running): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM plans WHERE status = 'pending'), (SELECT count(*) FROM plans WHERE status = 'running')",
    )
    .fetch_one(pool)
    .await?;
    Ok(OpenPlans::of_rows(pending, running))
}

/// The first use of `key`, unless it was before `not_before`.
pub(super) async fn used_key(
    pool: &SqlitePool,
    key: &str,
    not_before: Timestamp,
) -> Result<Option<UsedKey>, JournalError> {
    let row: Option<(String, String, Option<String>)> = sqlx::query_as(
        "SELECT subject, digest, correlation_id FROM idempotency_keys WHERE key = ? AND created_at >= ?",
    )
    .bind(key)
    .bind(micros(not_before))
    .fetch_optional(pool)
    .await?;
    let Some((subject, digest, by)) = row else { return Ok(None) };
    let by = by.map(|by| parse("idempotency_keys.correlation_id", &by)).transpose()?;
    Ok(Some(UsedKey { subject: parse("idempotency_keys.subject", &subject)?, digest, by }))
}

/// Events of one plan after `position`, oldest first.
pub(super) async fn events(
    pool: &SqlitePool,
    plan_id: PlanId,
    position: u64,
    limit: u32,
) -> Result<Vec<Event>, JournalError> {
    let after = i64::try_from(position).unwrap_or(i64::MAX);
    let mut snapshot = pool.begin().await?;
    if quarantine::is_blocked(&mut snapshot, plan_id).await? {
        return Err(quarantine::unreadable(plan_id));
    }
    // From the row that contains `after`.
    let rows: Vec<EventRow> = sqlx::query_as(
        "SELECT position, events FROM events WHERE plan_id = ?1 AND position >= coalesce(
             (SELECT max(position) FROM events WHERE plan_id = ?1 AND position <= ?2), 0)
         ORDER BY position LIMIT ?3 + 1",
    )
    .bind(plan_id.to_string())
    .bind(after)
    .bind(limit)
    .fetch_all(&mut *snapshot)
    .await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<String> = sqlx::query_scalar("SELECT key FROM tasks WHERE plan_id = ? ORDER BY ordinal")
        .bind(plan_id.to_string())
        .fetch_all(&mut *snapshot)
        .await?;
    read_events(rows, &keys, after, limit)
}

/// Acceptance time of the oldest unfinished plan of which no task waits.
pub(super) async fn oldest_unfinished(pool: &SqlitePool) -> Result<Option<Timestamp>, JournalError> {
    // Ids grow with time.
    let oldest: Option<String> = sqlx::query_scalar(
        "SELECT min(first) FROM (
             SELECT min(plan_id) AS first FROM plans WHERE status = 'pending'
                 AND NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.plan_id = plans.plan_id
                                 AND tasks.status IN ('awaiting_approval', 'awaiting_time', 'awaiting_budget'))
             UNION ALL SELECT min(plan_id) FROM plans WHERE status = 'running'
                 AND NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.plan_id = plans.plan_id
                                 AND tasks.status IN ('awaiting_approval', 'awaiting_time', 'awaiting_budget')))",
    )
    .fetch_one(pool)
    .await?;
    Ok(oldest.and_then(|id| id.parse::<PlanId>().ok()?.created_at()))
}

/// Position of the last event.
pub(super) async fn position(pool: &SqlitePool) -> Result<u64, JournalError> {
    let position: i64 = sqlx::query_scalar("SELECT position FROM journal").fetch_one(pool).await?;
    u64::try_from(position).map_err(|_| damaged("journal.position", position))
}

/// Those of `plan_ids` with events after `position`, and the position of the last event.
pub(super) async fn changes(
    pool: &SqlitePool,
    plan_ids: &[PlanId],
    since: u64,
) -> Result<Changes, JournalError> {
    // First, so that what is applied meanwhile is found by the next call.
    let position = position(pool).await?;
    if position == since || plan_ids.is_empty() {
        return Ok(Changes { plans: Vec::new(), position });
    }
    // A row holds consecutive events: it is after `since` when its first event is.
    let changed: Vec<String> = sqlx::query_scalar(
        "SELECT value FROM json_each(?1)
         WHERE EXISTS (SELECT 1 FROM events WHERE plan_id = value AND position > ?2)",
    )
    .bind(json(&plan_ids))
    .bind(i64::try_from(since).unwrap_or(i64::MAX))
    .fetch_all(pool)
    .await?;
    let plans = changed.iter().map(|id| parse("plans.plan_id", id)).collect::<Result<_, _>>()?;
    Ok(Changes { plans, position })
}

/// A statement that is composed of constants.
fn sql(text: String) -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe(text)
}

/// The tasks of a plan that have not ended.
pub(super) async fn open_tasks(pool: &SqlitePool, plan_id: PlanId) -> Result<Vec<OpenTask>, JournalError> {
    let rows = sqlx::query_as(
        "SELECT ordinal, dispatched_at IS NOT NULL, number
         FROM tasks LEFT JOIN (SELECT plan_id, ordinal, number FROM attempts WHERE outcome IS NULL) USING (plan_id, ordinal)
         WHERE plan_id = ? AND status NOT IN ('succeeded', 'dead_lettered', 'cancelled') ORDER BY ordinal, number",
    );
    Ok(OpenTask::of_rows(rows.bind(plan_id.to_string()).fetch_all(pool).await?))
}
