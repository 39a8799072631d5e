//! Bulk operations on dead letters. The tables call them sweeps.

use phoenix_domain::{BulkRedriveId, PlanId, dead_letter::DeadLetterState};
use sqlx::{PgConnection, QueryBuilder};
use uuid::Uuid;

use crate::store::{
    dead_letter::{BulkAction, BulkOperation, DeadLetterFilter},
    entry::Entry,
    error::JournalError,
    plan_events::BLOCK,
    postgres::{
        dead_letters::push_conditions,
        tables::{Statements, Tables},
    },
    stored::{
        bulk::{BulkRow, Discarded},
        text::escape,
        value::{json, micros},
    },
};

/// Key of the lock that orders the starts of bulk operations: each one sees what earlier ones have selected.
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('phoenix_planner.sweeps', 0))";

/// Starts or ends a bulk operation of `planner`, in a transaction.
pub(super) async fn apply(
    statements: Statements,
    connection: &mut PgConnection,
    planner: &str,
    entry: &Entry,
) -> Result<(), sqlx::Error> {
    match entry {
        Entry::BulkStarted { operation, filter, limit } => {
            start(statements, connection, planner, operation, filter, *limit).await
        }
        Entry::BulkEnded { sweep_id, at } => {
            let end = statements.query(
                "UPDATE phoenix_planner.sweeps SET ended_at = $2 WHERE sweep_id = $1 AND ended_at IS NULL",
            );
            end.bind(sweep_id.as_uuid()).bind(micros(*at)).execute(connection).await?;
            Ok(())
        }
        _ => Ok(()),
    }
}

async fn start(
    statements: Statements,
    connection: &mut PgConnection,
    planner: &str,
    operation: &BulkOperation,
    filter: &DeadLetterFilter,
    limit: u32,
) -> Result<(), sqlx::Error> {
    let BulkOperation { sweep_id, action, at, by, reason } = operation;
    let (rate, ended_at) = match action {
        BulkAction::Redrive { rate } => (Some(*rate), None),
        BulkAction::Discard => (None, Some(micros(*at))),
    };
    statements.query(LOCK).execute(&mut *connection).await?;
    let selected = select(connection, operation, filter, limit).await?;
    let insert = statements.query(
        "INSERT INTO phoenix_planner.sweeps (sweep_id, action, rate, reason, by, at, owner, selected, ended_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    );
    let insert = insert.bind(sweep_id.as_uuid()).bind(action.as_str()).bind(rate).bind(&*escape(reason));
    let insert = insert.bind(by.as_uuid()).bind(micros(*at)).bind(planner).bind(selected).bind(ended_at);
    insert.execute(&mut *connection).await?;
    if *action == BulkAction::Discard {
        add_discard_events(statements, connection, operation).await?;
    }
    Ok(())
}

/// Selects the dead letters of a bulk operation. Returns their number.
async fn select(
    connection: &mut PgConnection,
    operation: &BulkOperation,
    filter: &DeadLetterFilter,
    limit: u32,
) -> Result<i64, sqlx::Error> {
    let mut query = QueryBuilder::new(
        "WITH selected AS (SELECT plan_id, ordinal FROM phoenix_planner.dead_letters WHERE ",
    );
    push_conditions(&mut query, DeadLetterState::Open, filter);
    if let BulkAction::Redrive { .. } = operation.action {
        // Plans in flight and bulk operations are few, compared with dead letters.
        query.push(
            " AND NOT EXISTS (SELECT FROM phoenix_planner.sweeps
                              WHERE sweeps.sweep_id = dead_letters.sweep_id AND sweeps.ended_at IS NULL)
              AND NOT EXISTS (SELECT FROM phoenix_planner.plans
                              WHERE plans.plan_id = dead_letters.plan_id AND plans.status IN ('pending', 'running'))",
        );
    }
    query.push(" ORDER BY at, plan_id, ordinal LIMIT ").push_bind(i64::from(limit));
    query.push(" FOR UPDATE OF dead_letters) UPDATE phoenix_planner.dead_letters SET sweep_id = ");
    query.push_bind(*operation.sweep_id.as_uuid());
    if operation.action == BulkAction::Discard {
        query.push(", state = 'discarded', settled_at = ").push_bind(micros(operation.at));
        query.push(", settled_by = ").push_bind(*operation.by.as_uuid());
        query.push(", reason = ").push_bind(escape(&operation.reason).into_owned());
    }
    query.push(
        " FROM selected WHERE dead_letters.plan_id = selected.plan_id AND dead_letters.ordinal = selected.ordinal",
    );
    let selected = query.build().persistent(false).execute(connection).await?.rows_affected();
    Ok(i64::try_from(selected).unwrap_or(i64::MAX))
}

/// Adds an event for each dead letter that `operation` has discarded.
async fn add_discard_events(
    statements: Statements,
    connection: &mut PgConnection,
    operation: &BulkOperation,
) -> Result<(), sqlx::Error> {
    let BulkOperation { sweep_id, action: _, at, by, reason } = operation;
    let facts = json(&Discarded { correlation_id: *by, reason, sweep_id: *sweep_id });
    // As in `plan_events.rs`: the events of one plan are rows of up to so many.
    let insert = statements.query(
        "INSERT INTO phoenix_planner.events (plan_id, position, events)
         SELECT plan_id, nextval('phoenix_planner.event_positions'), events FROM (
             SELECT plan_id, '[' || string_agg(format('[%s,\"dead_letter_discarded\",%s,%s]', ordinal, $2::bigint, $3::text),
                                               ',' ORDER BY ordinal) || ']' AS events
             FROM (SELECT plan_id, ordinal, (row_number() OVER (PARTITION BY plan_id ORDER BY ordinal) - 1) / $4 AS block
                   FROM phoenix_planner.dead_letters WHERE sweep_id = $1) AS discarded
             GROUP BY plan_id, block ORDER BY plan_id, block
         ) AS blocks",
    );
    let insert = insert.bind(sweep_id.as_uuid()).bind(micros(*at)).bind(&*escape(&facts)).bind(BLOCK);
    insert.execute(connection).await?;
    Ok(())
}

pub(super) async fn operation(
    tables: &Tables,
    sweep_id: BulkRedriveId,
) -> Result<Option<(BulkOperation, u64)>, JournalError> {
    let statements = tables.statements();
    let operation = async |connection: &mut _| {
        let operation = statements.rows(
            "SELECT sweep_id::text, action, rate, reason, by::text, at, selected FROM phoenix_planner.sweeps
             WHERE sweep_id = $1",
        );
        Ok(operation.bind(sweep_id.as_uuid()).fetch_optional(connection).await?)
    };
    tables.read(operation).await?.map(BulkRow::read).transpose()
}

pub(super) async fn plans(tables: &Tables, sweep_id: BulkRedriveId) -> Result<Vec<PlanId>, JournalError> {
    let statements = tables.statements();
    let plans = async |connection: &mut _| {
        let plans = statements.values(
            "SELECT plan_id FROM phoenix_planner.dead_letters WHERE sweep_id = $1 AND state = 'open'
             GROUP BY plan_id ORDER BY min(at), plan_id",
        );
        Ok(plans.bind(sweep_id.as_uuid()).fetch_all(connection).await?)
    };
    let plans: Vec<Uuid> = tables.read(plans).await?;
    Ok(plans.into_iter().map(Into::into).collect())
}
