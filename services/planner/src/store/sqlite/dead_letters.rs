//! Dead letters, as they are read. `rows.rs` writes their rows with the tasks that failed, and resolves them with the plans
//! that redrive them.

use phoenix_domain::{
    CorrelationId,
    dead_letter::{DeadLetter, DeadLetterState, Resolution},
};
use sqlx::{FromRow, QueryBuilder, Row, Sqlite, SqlitePool, sqlite::SqliteRow};

use crate::store::{
    dead_letter::{DeadLetterCursor, DeadLetterFilter, DeadLetterQuery, OpenDeadLetters},
    error::JournalError,
    query::Page,
    sqlite::{
        read::page,
        rows::micros,
        stored::{damaged, parse, stored_error, time},
    },
    task_ref::TaskRef,
};

pub(super) async fn open(pool: &SqlitePool) -> Result<OpenDeadLetters, JournalError> {
    let (count, oldest): (i64, Option<i64>) = sqlx::query_as(
        "SELECT open_dead_letters, (SELECT min(at) FROM dead_letters WHERE state = 'open') FROM journal",
    )
    .fetch_one(pool)
    .await?;
    let count = u64::try_from(count).map_err(|_| damaged("journal.open_dead_letters", count))?;
    Ok(OpenDeadLetters { count, oldest: oldest.map(time).transpose()? })
}

pub(super) async fn list(
    pool: &SqlitePool,
    query: &DeadLetterQuery,
) -> Result<Page<DeadLetter, DeadLetterCursor>, JournalError> {
    let DeadLetterQuery { filter, state, before, limit } = query;
    // The page first, by the index alone; then the details of its few items.
    let mut query = QueryBuilder::new(
        "SELECT page.plan_id, page.ordinal, plans.correlation_id, tasks.task_id, tasks.key, tasks.agent, tasks.action,
                tasks.error, page.at, page.state, page.settled_at, page.settled_by, page.reason,
                (SELECT count(*) FROM attempts
                 WHERE attempts.plan_id = page.plan_id AND attempts.ordinal = page.ordinal) AS attempts,
                (SELECT later.plan_id FROM plans AS later WHERE later.redrive_of = page.plan_id) AS redriven_as
         FROM (SELECT * FROM dead_letters WHERE ",
    );
    push_conditions(&mut query, *state, filter);
    if let Some(DeadLetterCursor { at, task }) = before {
        query.push(" AND (at, plan_id, ordinal) < (").push_bind(micros(*at));
        query.push(", ").push_bind(task.plan_id.to_string());
        query.push(", ").push_bind(i64::try_from(task.ordinal).unwrap_or(i64::MAX)).push(")");
    }
    query.push(" ORDER BY at DESC, plan_id DESC, ordinal DESC LIMIT ").push_bind(i64::from(*limit) + 1);
    query.push(
        ") AS page
         JOIN plans ON plans.plan_id = page.plan_id
         JOIN tasks ON tasks.plan_id = page.plan_id AND tasks.ordinal = page.ordinal
         ORDER BY page.at DESC, page.plan_id DESC, page.ordinal DESC",
    );
    let cursor = |row: &SqliteRow| {
        let plan_id = row.try_get::<String, _>("plan_id").ok()?.parse().ok()?;
        let ordinal = usize::try_from(row.try_get::<i64, _>("ordinal").ok()?).ok()?;
        Some(DeadLetterCursor { at: time(row.try_get("at").ok()?).ok()?, task: TaskRef { plan_id, ordinal } })
    };
    page(query.build().fetch(pool), *limit, cursor, |row| DeadLetterRow::from_row(row)?.read()).await
}

/// Adds the given conditions, so that each shape finds its index: the primary key where the plans are known (the plus keeps
/// the state from using an index), else an index in the order of listings.
pub(super) fn push_conditions(
    query: &mut QueryBuilder<Sqlite>,
    state: DeadLetterState,
    filter: &DeadLetterFilter,
) {
    let DeadLetterFilter { agent, code, error_class, plan_id, correlation_id, since } = filter;
    let by_plan = plan_id.is_some() || correlation_id.is_some();
    query.push(if by_plan { "+state = " } else { "state = " }).push_bind(state.as_str());
    if let Some(agent) = agent {
        query.push(" AND agent = ").push_bind(agent.as_str().to_owned());
    }
    if let Some(code) = code {
        query.push(" AND code = ").push_bind(code.as_str());
    }
    if let Some(class) = error_class {
        query.push(" AND error_class = ").push_bind(class.as_str());
    }
    if let Some(plan_id) = plan_id {
        query.push(" AND plan_id = ").push_bind(plan_id.to_string());
    }
    if let Some(id) = correlation_id {
        query.push(" AND plan_id IN (SELECT plan_id FROM plans WHERE correlation_id = ");
        query.push_bind(id.to_string()).push(")");
    }
    if let Some(since) = since {
        query.push(" AND at >= ").push_bind(micros(*since));
    }
}

#[derive(FromRow)]
struct DeadLetterRow {
    plan_id: String,
    ordinal: i64,
    correlation_id: String,
    task_id: String,
    key: String,
    agent: String,
    action: String,
    error: Option<String>,
    at: i64,
    state: String,
    settled_at: Option<i64>,
    settled_by: Option<String>,
    reason: Option<String>,
    attempts: u32,
    redriven_as: Option<String>,
}

impl DeadLetterRow {
    fn read(self) -> Result<DeadLetter, JournalError> {
        let Self {
            plan_id,
            ordinal,
            correlation_id,
            task_id,
            key,
            agent,
            action,
            error,
            at,
            state,
            settled_at,
            settled_by,
            reason,
            attempts,
            redriven_as,
        } = self;
        let state =
            DeadLetterState::from_name(&state).ok_or_else(|| damaged("dead_letters.state", &state))?;
        let resolution = settled_at.map(|at| -> Result<_, JournalError> {
            let by: CorrelationId = parse("dead_letters.settled_by", &settled_by.unwrap_or_default())?;
            let redriven_as = redriven_as.filter(|_| state == DeadLetterState::Redriven);
            Ok(Resolution {
                at: time(at)?,
                by,
                reason: reason.unwrap_or_default(),
                redriven_as: redriven_as.map(|id| parse("plans.plan_id", &id)).transpose()?,
            })
        });
        Ok(DeadLetter {
            plan_id: parse("dead_letters.plan_id", &plan_id)?,
            ordinal: usize::try_from(ordinal).map_err(|_| damaged("dead_letters.ordinal", ordinal))?,
            correlation_id: parse("plans.correlation_id", &correlation_id)?,
            task_id: parse("tasks.task_id", &task_id)?,
            key,
            agent: parse("tasks.agent", &agent)?,
            action,
            error: stored_error(error.as_deref())?.ok_or_else(|| damaged("tasks.error", "nothing"))?,
            attempts,
            at: time(at)?,
            state,
            resolution: resolution.transpose()?,
        })
    }
}
