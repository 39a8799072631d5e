//! Bulk operations on dead letters. The tables call them sweeps.

use phoenix_domain::{BulkRedriveId, PlanId, dead_letter::DeadLetterState};
use sqlx::{QueryBuilder, SqliteConnection, SqlitePool};

use crate::store::{
    dead_letter::{BulkAction, BulkOperation, DeadLetterFilter},
    entry::Entry,
    error::JournalError,
    query::Unreadable,
    sqlite::dead_letters::push_conditions,
    stored::{
        bulk::{BulkRow, Discarded, read_all},
        value::{json, micros, parse},
    },
};

const COLUMNS: &str = "sweep_id, action, rate, reason, by, at, selected";

/// Starts or ends a bulk operation of `planner`, in a transaction in which everything durable is applied.
pub(super) async fn apply(
    connection: &mut SqliteConnection,
    planner: &str,
    entry: &Entry,
) -> Result<(), JournalError> {
    match entry {
        Entry::BulkStarted { operation, filter, limit } => {
            start(connection, planner, operation, filter, *limit).await
        }
        Entry::BulkEnded { sweep_id, at } => {
            sqlx::query("UPDATE sweeps SET ended_at = ? WHERE sweep_id = ? AND ended_at IS NULL")
                .bind(micros(*at))
                .bind(sweep_id.to_string())
                .execute(connection)
                .await?;
            Ok(())
        }
        _ => Ok(()),
    }
}

async fn start(
    connection: &mut SqliteConnection,
    planner: &str,
    operation: &BulkOperation,
    filter: &DeadLetterFilter,
    limit: u32,
) -> Result<(), JournalError> {
    let BulkOperation { sweep_id, action, at, by, reason } = operation;
    let (rate, ended_at) = match action {
        BulkAction::Redrive { rate } => (Some(*rate), None),
        BulkAction::Discard => (None, Some(micros(*at))),
    };
    let selected = select(connection, operation, filter, limit).await?;
    sqlx::query(
        "INSERT INTO sweeps (sweep_id, action, rate, reason, by, at, owner, selected, ended_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(sweep_id.to_string())
    .bind(action.as_str())
    .bind(rate)
    .bind(reason)
    .bind(by.to_string())
    .bind(micros(*at))
    .bind(planner.to_owned())
    .bind(selected)
    .bind(ended_at)
    .execute(&mut *connection)
    .await?;
    if *action == BulkAction::Discard {
        add_discard_events(connection, operation, selected).await?;
    }
    Ok(())
}

/// Selects the dead letters of a bulk operation. Returns their number.
async fn select(
    connection: &mut SqliteConnection,
    operation: &BulkOperation,
    filter: &DeadLetterFilter,
    limit: u32,
) -> Result<i64, JournalError> {
    let mut query = QueryBuilder::new("UPDATE dead_letters SET sweep_id = ");
    query.push_bind(operation.sweep_id.to_string());
    if operation.action == BulkAction::Discard {
        query.push(", state = 'discarded', settled_at = ").push_bind(micros(operation.at));
        query.push(", settled_by = ").push_bind(operation.by.to_string());
        query.push(", reason = ").push_bind(operation.reason.clone());
    }
    query.push(" WHERE (plan_id, ordinal) IN (SELECT plan_id, ordinal FROM dead_letters WHERE ");
    push_conditions(&mut query, DeadLetterState::Open, filter);
    if let BulkAction::Redrive { .. } = operation.action {
        // Plans in flight and bulk operations are few, compared with dead letters.
        query.push(
            " AND coalesce(sweep_id, '') NOT IN (SELECT sweep_id FROM sweeps WHERE ended_at IS NULL)
              AND plan_id NOT IN (SELECT plan_id FROM plans WHERE status IN ('pending', 'running'))",
        );
    }
    query.push(" ORDER BY at, plan_id, ordinal LIMIT ").push_bind(limit).push(")");
    let selected = query.build().execute(&mut *connection).await?.rows_affected();
    Ok(i64::try_from(selected).unwrap_or(i64::MAX))
}

/// Adds an event for each dead letter that `operation` has discarded.
async fn add_discard_events(
    connection: &mut SqliteConnection,
    operation: &BulkOperation,
    discarded: i64,
) -> Result<(), JournalError> {
    let BulkOperation { sweep_id, action: _, at, by, reason } = operation;
    let facts = Discarded { correlation_id: *by, reason, sweep_id: *sweep_id };
    // As in `projection.rs`: the events of one plan are one row.
    sqlx::query(
        "INSERT INTO events (plan_id, position, events)
         SELECT plan_id, 1 + sum(count(*)) OVER (ORDER BY plan_id) - count(*) + (SELECT position FROM journal),
                json_group_array(json_array(ordinal, 'dead_letter_discarded', ?, json(?)) ORDER BY ordinal)
         FROM dead_letters WHERE sweep_id = ? GROUP BY plan_id",
    )
    .bind(micros(*at))
    .bind(json(&facts))
    .bind(sweep_id.to_string())
    .execute(&mut *connection)
    .await?;
    sqlx::query("UPDATE journal SET position = position + ?")
        .bind(discarded)
        .execute(&mut *connection)
        .await?;
    Ok(())
}

/// Makes `planner` the owner of bulk operations whose owner is gone. Returns them, and those that cannot be read.
pub(super) async fn take_over(
    connection: &mut SqliteConnection,
    planner: &str,
) -> Result<(Vec<BulkOperation>, Vec<Unreadable>), JournalError> {
    let rows: Vec<BulkRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "UPDATE sweeps SET owner = ? WHERE ended_at IS NULL AND owner NOT IN (SELECT instance FROM planners)
         AND EXISTS (SELECT 1 FROM planners WHERE instance = ?) RETURNING {COLUMNS}"
    )))
    .bind(planner.to_owned())
    .bind(planner.to_owned())
    .fetch_all(connection)
    .await?;
    Ok(read_all(rows))
}

pub(super) async fn operation(
    pool: &SqlitePool,
    sweep_id: BulkRedriveId,
) -> Result<Option<(BulkOperation, u64)>, JournalError> {
    let row: Option<BulkRow> =
        sqlx::query_as(sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM sweeps WHERE sweep_id = ?")))
            .bind(sweep_id.to_string())
            .fetch_optional(pool)
            .await?;
    row.map(BulkRow::read).transpose()
}

pub(super) async fn plans(pool: &SqlitePool, sweep_id: BulkRedriveId) -> Result<Vec<PlanId>, JournalError> {
    let plans: Vec<String> = sqlx::query_scalar(
        "SELECT plan_id FROM dead_letters WHERE sweep_id = ? AND state = 'open'
         GROUP BY plan_id ORDER BY min(at), plan_id",
    )
    .bind(sweep_id.to_string())
    .fetch_all(pool)
    .await?;
    plans.iter().map(|id| parse("dead_letters.plan_id", id)).collect()
}
