//! Approvals: their decisions and listings. `rows.rs` writes their rows with the tasks that wait, and a trigger closes them with
//! the task.

use futures_util::TryStreamExt;
use phoenix_domain::{
    PlanId,
    approval::{ApprovalState, WaitingApproval},
};
use sqlx::{Connection, QueryBuilder, Sqlite, SqliteConnection, SqlitePool};

use crate::store::{
    approval::{ApprovalCursor, ApprovalQuery, NewDecision, PREVIEW_CHARS, WaitingApprovals},
    error::JournalError,
    listing::page,
    query::Page,
    sqlite::ownership,
    stored::{
        approval::listed,
        value::{damaged, json, micros, parse, time},
    },
    task_ref::TaskRef,
};

/// Writes a decision, unless there is one. Returns whether it was written.
pub(super) async fn decide(
    connection: &mut SqliteConnection,
    planner: &str,
    task: TaskRef,
    decision: &NewDecision,
) -> Result<bool, JournalError> {
    let NewDecision { state, about, at, actor, reason, by, input } = decision;
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    if !ownership::is_owner(&mut transaction, planner).await? {
        return Err(JournalError::Fenced);
    }
    let mut written = 0;
    // A task waits for one of them.
    for statement in [
        "UPDATE approvals
         SET state = ?1, decided_at = ?2, actor = ?3, decision_reason = ?4, decided_by = ?5, new_input = ?6
         WHERE plan_id = ?7 AND ordinal = ?8 AND state = 'waiting' AND is_open AND (expires_at <= ?2) = ?9
             AND requested_at = coalesce(?10, requested_at)",
        "UPDATE pauses
         SET state = ?1, decided_at = ?2, actor = ?3, decision_reason = ?4, decided_by = ?5, new_input = ?6
         WHERE plan_id = ?7 AND ordinal = ?8 AND state = 'waiting' AND is_open AND (expires_at <= ?2) = ?9
             AND requested_at = coalesce(?10, requested_at)",
    ] {
        let update = sqlx::query(statement);
        let update = update.bind(state.as_str()).bind(micros(*at)).bind(actor.clone()).bind(reason.clone());
        let update = update.bind(by.map(|by| by.to_string())).bind(input.as_ref().map(json));
        let update =
            update.bind(task.plan_id.to_string()).bind(i64::try_from(task.ordinal).unwrap_or(i64::MAX));
        let update = update.bind(*state == ApprovalState::Expired).bind(about.map(micros));
        written += update.execute(&mut *transaction).await?.rows_affected();
    }
    transaction.commit().await?;
    Ok(written > 0)
}

/// Plans with a decision of which they have not taken notice.
pub(super) async fn decided(pool: &SqlitePool) -> Result<Vec<PlanId>, JournalError> {
    let plans: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT plan_id FROM decisions WHERE is_open AND state IN ('approved', 'rejected', 'expired')",
    )
    .fetch_all(pool)
    .await?;
    plans.iter().map(|id| parse("approvals.plan_id", id)).collect()
}

pub(super) async fn waiting(pool: &SqlitePool) -> Result<WaitingApprovals, JournalError> {
    let (count, oldest): (i64, Option<i64>) = sqlx::query_as(
        "SELECT count(*), min(requested_at) FROM decisions WHERE is_open AND state = 'waiting'",
    )
    .fetch_one(pool)
    .await?;
    let count = u64::try_from(count).map_err(|_| damaged("approvals", count))?;
    Ok(WaitingApprovals { count, oldest: oldest.map(time).transpose()? })
}

pub(super) async fn list(
    pool: &SqlitePool,
    query: &ApprovalQuery,
) -> Result<Page<WaitingApproval, ApprovalCursor>, JournalError> {
    let ApprovalQuery { after, limit } = query;
    // The page first, by the index alone; then the details of its few items.
    let mut query: QueryBuilder<Sqlite> = QueryBuilder::new(
        "SELECT page.plan_id, page.ordinal, plans.correlation_id, tasks.key, tasks.agent, tasks.action, page.requested_at,
                page.expires_at, page.on_expiry, page.reason, page.approver, page.input_hash, page.kind,
                substr(page.input, 1, ",
    );
    query.push_bind(PREVIEW_CHARS).push(
        ") AS input_preview
         FROM (SELECT * FROM decisions WHERE is_open AND state = 'waiting'",
    );
    if let Some(ApprovalCursor { at, task }) = after {
        query.push(" AND (requested_at, plan_id, ordinal) > (").push_bind(micros(*at));
        query.push(", ").push_bind(task.plan_id.to_string());
        query.push(", ").push_bind(i64::try_from(task.ordinal).unwrap_or(i64::MAX)).push(")");
    }
    query.push(" ORDER BY requested_at, plan_id, ordinal LIMIT ").push_bind(i64::from(*limit) + 1);
    query.push(
        ") AS page
         JOIN plans ON plans.plan_id = page.plan_id
         JOIN tasks ON tasks.plan_id = page.plan_id AND tasks.ordinal = page.ordinal
         ORDER BY page.requested_at, page.plan_id, page.ordinal",
    );
    let rows = query.build().fetch(pool).map_ok(|row| listed(&row));
    page(rows, *limit).await
}
