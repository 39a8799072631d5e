//! Dead letters, as they are read. `rows.rs` writes their rows with the tasks that failed, and resolves them with the plans
//! that redrive them.

use futures_util::TryStreamExt;
use phoenix_domain::dead_letter::{DeadLetter, DeadLetterState};
use sqlx::{QueryBuilder, Sqlite, SqlitePool};

use crate::store::{
    dead_letter::{DeadLetterCursor, DeadLetterFilter, DeadLetterQuery, OpenDeadLetters},
    error::JournalError,
    listing::page,
    query::Page,
    stored::{
        dead_letter::listed,
        value::{damaged, micros, time},
    },
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
    let rows = query.build().fetch(pool).map_ok(|row| listed(&row));
    page(rows, *limit).await
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
