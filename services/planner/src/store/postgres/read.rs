//! Reads of the journal.

use futures_util::TryStreamExt;
use jiff::Timestamp;
use phoenix_domain::{
    PlanId,
    plan::{Plan, PlanStatus},
};
use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use crate::store::{
    entry::UsedKey,
    error::JournalError,
    listing::page_of,
    postgres::tables::Tables,
    query::{Changes, Event, MAX_EXAMINED, OpenPlans, Page, PlanFilter},
    stored::{
        approval::ApprovalRow,
        event::{EventRow, read_events},
        plan::{AttemptRow, PlanRow, RowsByPlan, TaskRow, listed},
        text::{Text, escape},
        value::{damaged, micros, parse},
    },
    takeover::OpenTask,
};

const PLANS: &str = "
    SELECT plan_id::text, correlation_id::text, kind, status, created_at, deadline_at, ended_at, context, budget, NULL AS output,
        error, redrive_of::text,
        (SELECT later.plan_id FROM phoenix_planner.plans AS later WHERE later.redrive_of = plans.plan_id)::text AS redriven_as
    FROM phoenix_planner.plans WHERE plans.plan_id = ANY ($1) ORDER BY plans.plan_id";

/// A listing shows no output and no context.
const SUMMARIES: &str = "
    SELECT plan_id::text, correlation_id::text, kind, status, created_at, deadline_at, ended_at, '' AS context,
        NULL AS budget, NULL AS output, error, redrive_of::text,
        (SELECT later.plan_id FROM phoenix_planner.plans AS later WHERE later.redrive_of = plans.plan_id)::text AS redriven_as
    FROM phoenix_planner.plans WHERE TRUE";

const TASKS: &str = "
    SELECT plan_id::text, task_id::text, key, agent, action, payload, depends_on, on_failure, status, queued_at, dispatched_at,
        ended_at, output, error, conditions
    FROM phoenix_planner.tasks WHERE tasks.plan_id = ANY ($1) ORDER BY tasks.plan_id, ordinal";

const ATTEMPTS: &str = "
    SELECT plan_id::text, ordinal::bigint, number, started_at, ended_at, outcome, error_class, message, stderr_tail,
        model_calls, worker
    FROM phoenix_planner.attempts WHERE attempts.plan_id = ANY ($1) ORDER BY attempts.plan_id, attempts.ordinal, number";

const APPROVALS: &str = "
    SELECT plan_id::text, ordinal::bigint, kind, requested_at, expires_at, reason, approver, on_expiry, input, input_hash, state,
        decided_at, actor, decision_reason, decided_by::text, new_input
    FROM phoenix_planner.decisions WHERE decisions.plan_id = ANY ($1) ORDER BY decisions.plan_id, decisions.ordinal";

/// Plans with their tasks and attempts, in the order of their ids, from one snapshot.
pub(super) async fn plans_by_id(
    tables: &Tables,
    plan_ids: &[PlanId],
) -> Result<Vec<(PlanId, Result<Plan, JournalError>)>, JournalError> {
    let statements = tables.statements();
    let ids: Vec<Uuid> = plan_ids.iter().map(|plan_id| *plan_id.as_uuid()).collect();
    let rows = async |connection: &mut PgConnection| {
        let plans: Vec<PlanRow> = statements.rows(PLANS).bind(&ids[..]).fetch_all(&mut *connection).await?;
        let tasks: Vec<TaskRow> = statements.rows(TASKS).bind(&ids[..]).fetch_all(&mut *connection).await?;
        let attempts: Vec<AttemptRow> =
            statements.rows(ATTEMPTS).bind(&ids[..]).fetch_all(&mut *connection).await?;
        let approvals: Vec<ApprovalRow> =
            statements.rows(APPROVALS).bind(&ids[..]).fetch_all(connection).await?;
        Ok((plans, tasks, attempts, approvals))
    };
    let (plans, tasks, attempts, approvals) = tables.read(rows).await?;
    let mut rows = RowsByPlan::new(tasks, attempts, approvals);
    let read = |plan: PlanRow| {
        let rows = rows.of(&plan.plan_id);
        Ok((parse("plans.plan_id", &plan.plan_id)?, plan.with(rows)))
    };
    plans.into_iter().map(read).collect()
}

pub(super) async fn plans(tables: &Tables, filter: &PlanFilter) -> Result<Page<Plan, PlanId>, JournalError> {
    let persistent = tables.database.persistent();
    let plans = async |connection: &mut PgConnection| {
        let mut query = listing(filter);
        let rows = query.build().persistent(persistent).fetch(connection);
        page_of(rows.map_ok(|row| listed(&row)), filter.limit, MAX_EXAMINED, |plan| filter.has_text(plan))
            .await
    };
    tables.read(plans).await
}

fn listing(filter: &PlanFilter) -> QueryBuilder<Postgres> {
    let statuses = filter.statuses();
    let mut query = QueryBuilder::new("");
    let (order, rows) = (if filter.is_oldest_first { "ASC" } else { "DESC" }, filter.rows());
    if let [] | [_] = statuses[..] {
        push_select(&mut query, filter, statuses.first().copied());
        return query;
    }
    // Each part is read in the order of its index. Identifiers are text here, and sorted as such.
    for (index, status) in statuses.into_iter().enumerate() {
        query.push(if index == 0 { "SELECT * FROM ((" } else { ") UNION ALL (" });
        push_select(&mut query, filter, Some(status));
    }
    query.push(")) AS merged ORDER BY plan_id COLLATE \"C\" ").push(order).push(" LIMIT ").push_bind(rows);
    query
}

/// Only given conditions are part of the query, so that each shape finds its index.
fn push_select(query: &mut QueryBuilder<Postgres>, filter: &PlanFilter, status: Option<PlanStatus>) {
    let PlanFilter { correlation_id, agent, since, before, is_oldest_first, .. } = filter;
    query.push(SUMMARIES);
    if let Some(agent) = agent {
        query.push(" AND plan_id IN (SELECT plan_id FROM phoenix_planner.tasks WHERE agent = ");
        query.push_bind(agent.as_str().to_owned()).push(")");
    }
    if let Some(id) = correlation_id {
        query.push(" AND correlation_id = ").push_bind(*id.as_uuid());
    }
    if let Some(status) = status {
        query.push(" AND status = ").push_bind(status.as_str());
    }
    if let Some(since) = since {
        query.push(" AND created_at >= ").push_bind(micros(*since));
    }
    let (behind, order) =
        if *is_oldest_first { (" AND plan_id > ", "ASC") } else { (" AND plan_id < ", "DESC") };
    if let Some(before) = before {
        query.push(behind).push_bind(*before.as_uuid());
    }
    query.push(" ORDER BY plans.plan_id ").push(order).push(" LIMIT ").push_bind(filter.rows());
}

/// Numbers of plans that are pending and running.
pub(super) async fn open_plans(tables: &Tables) -> Result<OpenPlans, JournalError> {
    let statements = tables.statements();
    let unfinished = async |connection: &mut _| {
        let counts = statements.rows(
            "SELECT (SELECT count(*) FROM phoenix_planner.plans WHERE status = $1),
                    (SELECT count(*) FROM phoenix_planner.plans WHERE status = $2)",
        );
        Ok(counts.bind("pending").bind("running").fetch_one(connection).await?)
    };
    let (pending, running): (i64, i64) = tables.read(unfinished).await?;
    Ok(OpenPlans::of_rows(pending, running))
}

/// The first use of `key`, unless it was before `not_before`.
pub(super) async fn used_key(
    tables: &Tables,
    key: &str,
    not_before: Timestamp,
) -> Result<Option<UsedKey>, JournalError> {
    let (statements, key) = (tables.statements(), escape(key));
    let used = async |connection: &mut _| {
        let used = statements.rows(
            "SELECT subject, digest, correlation_id FROM phoenix_planner.idempotency_keys
             WHERE key = $1 AND created_at >= $2",
        );
        Ok(used.bind(&*key).bind(micros(not_before)).fetch_optional(connection).await?)
    };
    let used: Option<(Uuid, Text, Option<Uuid>)> = tables.read(used).await?;
    Ok(used.map(|(subject, digest, by)| UsedKey { subject, digest: digest.0, by: by.map(Into::into) }))
}

/// Events of one plan after `position`, oldest first.
pub(super) async fn events(
    tables: &Tables,
    plan_id: PlanId,
    position: u64,
    limit: u32,
) -> Result<Vec<Event>, JournalError> {
    let statements = tables.statements();
    let after = i64::try_from(position).unwrap_or(i64::MAX);
    let rows = async |connection: &mut PgConnection| {
        // From the row that contains `after`.
        let rows = statements.rows(
            "SELECT position, events FROM phoenix_planner.events WHERE plan_id = $1 AND position >= coalesce(
                 (SELECT max(position) FROM phoenix_planner.events WHERE plan_id = $1 AND position <= $2), 0)
             ORDER BY position LIMIT $3",
        );
        let rows: Vec<(i64, Text)> = rows
            .bind(plan_id.as_uuid())
            .bind(after)
            .bind(i64::from(limit) + 1)
            .fetch_all(&mut *connection)
            .await?;
        if rows.is_empty() {
            return Ok((rows, Vec::new()));
        }
        let keys = statements
            .values("SELECT key FROM phoenix_planner.tasks WHERE plan_id = $1 ORDER BY ordinal")
            .bind(plan_id.as_uuid());
        let keys: Vec<Text> = keys.fetch_all(connection).await?;
        Ok((rows, keys))
    };
    let (rows, keys) = tables.read(rows).await?;
    let rows: Vec<EventRow> = rows.into_iter().map(|(position, events)| (position, events.0)).collect();
    let keys: Vec<String> = keys.into_iter().map(|key| key.0).collect();
    read_events(rows, &keys, after, limit)
}

/// Acceptance time of the oldest unfinished plan that does not wait for an approval.
pub(super) async fn oldest_unfinished(tables: &Tables) -> Result<Option<Timestamp>, JournalError> {
    oldest(tables, "pending", "running", "running").await
}

/// Acceptance time of the oldest terminal plan.
pub(super) async fn oldest_terminal(tables: &Tables) -> Result<Option<Timestamp>, JournalError> {
    oldest(tables, "succeeded", "failed", "cancelled").await
}

/// Acceptance time of the oldest plan in one of three states, without those with a task that waits. Ids grow with time.
async fn oldest(
    tables: &Tables,
    first: &str,
    second: &str,
    third: &str,
) -> Result<Option<Timestamp>, JournalError> {
    let statements = tables.statements();
    let oldest = async |connection: &mut _| {
        let oldest = statements.values(
            "SELECT plan_id FROM (
                 (SELECT plan_id FROM phoenix_planner.plans WHERE status = $1 AND NOT EXISTS (
                     SELECT FROM phoenix_planner.tasks WHERE tasks.plan_id = plans.plan_id
                         AND tasks.status IN ('awaiting_approval', 'awaiting_time', 'awaiting_budget')) ORDER BY plan_id LIMIT 1)
                 UNION ALL (SELECT plan_id FROM phoenix_planner.plans WHERE status = $2 AND NOT EXISTS (
                     SELECT FROM phoenix_planner.tasks WHERE tasks.plan_id = plans.plan_id
                         AND tasks.status IN ('awaiting_approval', 'awaiting_time', 'awaiting_budget')) ORDER BY plan_id LIMIT 1)
                 UNION ALL (SELECT plan_id FROM phoenix_planner.plans WHERE status = $3 AND NOT EXISTS (
                     SELECT FROM phoenix_planner.tasks WHERE tasks.plan_id = plans.plan_id
                         AND tasks.status IN ('awaiting_approval', 'awaiting_time', 'awaiting_budget')) ORDER BY plan_id LIMIT 1)
             ) AS oldest ORDER BY plan_id LIMIT 1",
        );
        Ok(oldest.bind(first).bind(second).bind(third).fetch_optional(connection).await?)
    };
    let oldest: Option<Uuid> = tables.read(oldest).await?;
    Ok(oldest.and_then(|id| PlanId::from(id).created_at()))
}

/// The position is a transaction id: transactions before it have ended, and later ones may still become visible.
pub(super) async fn position(tables: &Tables) -> Result<u64, JournalError> {
    Ok(changes(tables, &[], 0).await?.position)
}

/// Those of `plan_ids` with events of transactions that are not older than `since`.
pub(super) async fn changes(
    tables: &Tables,
    plan_ids: &[PlanId],
    since: u64,
) -> Result<Changes, JournalError> {
    let statements = tables.statements();
    let ids: Vec<Uuid> = plan_ids.iter().map(|plan_id| *plan_id.as_uuid()).collect();
    let since = since.to_string();
    let changes = async |connection: &mut _| {
        let changes = statements.rows(
            "SELECT pg_snapshot_xmin(pg_current_snapshot())::text,
                 ARRAY(SELECT wanted.plan_id FROM UNNEST($1) AS wanted (plan_id) WHERE EXISTS (
                     SELECT FROM phoenix_planner.events WHERE events.plan_id = wanted.plan_id AND xid >= $2::text::xid8))",
        );
        Ok(changes.bind(&ids[..]).bind(&since).fetch_one(connection).await?)
    };
    let (position, plans): (String, Vec<Uuid>) = tables.read(changes).await?;
    let position = position.parse().map_err(|_| damaged("the snapshot", position))?;
    Ok(Changes { plans: plans.into_iter().map(Into::into).collect(), position })
}

/// The tasks of a plan that have not ended.
pub(super) async fn open_tasks(tables: &Tables, plan_id: PlanId) -> Result<Vec<OpenTask>, JournalError> {
    let statements = tables.statements();
    let open = async |connection: &mut _| {
        let open = statements.rows(
            "SELECT tasks.ordinal::bigint, dispatched_at IS NOT NULL, number::bigint
             FROM phoenix_planner.tasks LEFT JOIN phoenix_planner.attempts
                 ON attempts.plan_id = tasks.plan_id AND attempts.ordinal = tasks.ordinal AND attempts.outcome IS NULL
             WHERE tasks.plan_id = $1 AND tasks.status NOT IN ('succeeded', 'dead_lettered', 'cancelled')
             ORDER BY 1, 3",
        );
        Ok(open.bind(plan_id.as_uuid()).fetch_all(connection).await?)
    };
    Ok(OpenTask::of_rows(tables.read(open).await?))
}
