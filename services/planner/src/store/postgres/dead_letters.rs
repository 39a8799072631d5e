//! Dead letters, as they are read. `append_batch` writes their rows.

use futures_util::TryStreamExt;
use phoenix_domain::dead_letter::{DeadLetter, DeadLetterState};
use sqlx::{PgConnection, Postgres, QueryBuilder};

use crate::store::{
    dead_letter::{DeadLetterCursor, DeadLetterFilter, DeadLetterQuery, OpenDeadLetters},
    error::JournalError,
    listing::page,
    postgres::tables::Tables,
    query::Page,
    stored::{
        dead_letter::listed,
        value::{damaged, micros, time},
    },
};

pub(super) async fn open(tables: &Tables) -> Result<OpenDeadLetters, JournalError> {
    let statements = tables.statements();
    let open = async |connection: &mut _| {
        let open = statements.rows(
            "SELECT (SELECT sum(count) FROM phoenix_planner.open_dead_letters)::bigint,
                 (SELECT min(at) FROM phoenix_planner.dead_letters WHERE state = 'open')",
        );
        Ok(open.fetch_one(connection).await?)
    };
    let (count, oldest): (i64, Option<i64>) = tables.read(open).await?;
    let count = u64::try_from(count).map_err(|_| damaged("open_dead_letters.count", count))?;
    Ok(OpenDeadLetters { count, oldest: oldest.map(time).transpose()? })
}

pub(super) async fn list(
    tables: &Tables,
    query: &DeadLetterQuery,
) -> Result<Page<DeadLetter, DeadLetterCursor>, JournalError> {
    let persistent = tables.database.persistent();
    let letters = async |connection: &mut PgConnection| {
        let mut statement = listing(query);
        let rows = statement.build().persistent(persistent).fetch(connection);
        page(rows.map_ok(|row| listed(&row)), query.limit).await
    };
    tables.read(letters).await
}

fn listing(query: &DeadLetterQuery) -> QueryBuilder<Postgres> {
    let DeadLetterQuery { filter, state, before, limit } = query;
    // The page first, by the index alone; then the details of its few items.
    let mut query = QueryBuilder::new(
        "SELECT page.plan_id::text, page.ordinal::bigint, plans.correlation_id::text, tasks.task_id::text, tasks.key,
                tasks.agent, tasks.action, tasks.error, page.at, page.state, page.settled_at, page.settled_by::text,
                page.reason,
                (SELECT count(*) FROM phoenix_planner.attempts
                 WHERE attempts.plan_id = page.plan_id AND attempts.ordinal = page.ordinal) AS attempts,
                (SELECT later.plan_id FROM phoenix_planner.plans AS later
                 WHERE later.redrive_of = page.plan_id)::text AS redriven_as
         FROM (SELECT * FROM phoenix_planner.dead_letters WHERE ",
    );
    push_conditions(&mut query, *state, filter);
    if let Some(DeadLetterCursor { at, task }) = before {
        query.push(" AND (at, plan_id, ordinal) < (").push_bind(micros(*at));
        query.push(", ").push_bind(*task.plan_id.as_uuid());
        query.push(", ").push_bind(i64::try_from(task.ordinal).unwrap_or(i64::MAX)).push(")");
    }
    query.push(" ORDER BY at DESC, plan_id DESC, ordinal DESC LIMIT ").push_bind(i64::from(*limit) + 1);
    query.push(
        ") AS page
         JOIN phoenix_planner.plans ON plans.plan_id = page.plan_id
         JOIN phoenix_planner.tasks ON tasks.plan_id = page.plan_id AND tasks.ordinal = page.ordinal
         ORDER BY page.at DESC, page.plan_id DESC, page.ordinal DESC",
    );
    query
}

/// Adds the given conditions.
pub(super) fn push_conditions(
    query: &mut QueryBuilder<Postgres>,
    state: DeadLetterState,
    filter: &DeadLetterFilter,
) {
    let DeadLetterFilter { agent, code, error_class, plan_id, correlation_id, since } = filter;
    query.push("state = ").push_bind(state.as_str());
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
        query.push(" AND plan_id = ").push_bind(*plan_id.as_uuid());
    }
    if let Some(id) = correlation_id {
        query.push(" AND plan_id IN (SELECT plan_id FROM phoenix_planner.plans WHERE correlation_id = ");
        query.push_bind(*id.as_uuid()).push(")");
    }
    if let Some(since) = since {
        query.push(" AND at >= ").push_bind(micros(*since));
    }
}
