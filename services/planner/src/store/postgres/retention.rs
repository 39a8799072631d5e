//! Deletion of old data, in batches of one statement. The settings of the tables let autovacuum free the space early, so the
//! tables stop growing when as much is deleted as is written.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use phoenix_domain::PlanId;
use uuid::Uuid;

use crate::store::{
    error::JournalError,
    postgres::{read, tables::Tables},
    query::{OldPlans, Purged, StoreStats},
    stored::value::micros,
};

/// Plans that another planner is deleting are left to it. Without waiting for the disk: a deletion that is lost with the power
/// is repeated. The row of the planner is locked, so that it is fenced before or after.
const PURGE: &str = "
    WITH owner AS (
        SELECT set_config('synchronous_commit', 'off', TRUE) FROM phoenix_planner.planners WHERE instance = $2 FOR KEY SHARE
    ), old AS (
        SELECT plan_id FROM phoenix_planner.plans WHERE plan_id = ANY ($1) AND EXISTS (SELECT FROM owner)
        FOR UPDATE SKIP LOCKED
    ), plans AS (
        DELETE FROM phoenix_planner.plans USING old WHERE plans.plan_id = old.plan_id RETURNING plans.plan_id
    ), tasks AS (
        DELETE FROM phoenix_planner.tasks USING old WHERE tasks.plan_id = old.plan_id
    ), attempts AS (
        DELETE FROM phoenix_planner.attempts USING old WHERE attempts.plan_id = old.plan_id
    ), events AS (
        DELETE FROM phoenix_planner.events USING old WHERE events.plan_id = old.plan_id
    ), dead_letters AS (
        DELETE FROM phoenix_planner.dead_letters USING old WHERE dead_letters.plan_id = old.plan_id
    ), approvals AS (
        DELETE FROM phoenix_planner.approvals USING old WHERE approvals.plan_id = old.plan_id
    ), pauses AS (
        DELETE FROM phoenix_planner.pauses USING old WHERE pauses.plan_id = old.plan_id
    )
    SELECT (SELECT count(*) FROM plans), EXISTS (SELECT FROM owner)";

pub(super) async fn purge_plans(
    tables: &Tables,
    planner: &str,
    old: &OldPlans,
) -> Result<Purged, JournalError> {
    let OldPlans { ended_before, after, limit } = old;
    let statements = tables.statements();
    // A plan that ended before that time was accepted before it, and the order of keys is that of acceptance: no younger plan
    // is read.
    let first = *PlanId::first_at(*ended_before).as_uuid();
    let after_id = after.map_or(Uuid::nil(), |id| *id.as_uuid());
    let examined = async |connection: &mut _| {
        let examined = statements.rows(
            "SELECT plan_id, coalesce(status IN ('succeeded', 'failed', 'cancelled') AND ended_at < $1, FALSE)
             FROM phoenix_planner.plans WHERE plan_id > $2 AND plan_id < $3 ORDER BY plan_id LIMIT $4",
        );
        let examined =
            examined.bind(micros(*ended_before)).bind(after_id).bind(first).bind(i64::from(*limit));
        Ok(examined.fetch_all(connection).await?)
    };
    let examined: Vec<(Uuid, bool)> = tables.read(examined).await?;
    if after.is_none() {
        purge_bulk_operations(tables, planner, *ended_before).await?;
    }
    let is_full = u32::try_from(examined.len()) == Ok(*limit);
    let last = examined.last().map(|(id, _)| PlanId::from(*id)).filter(|_| is_full);
    let old: Vec<Uuid> = examined.into_iter().filter(|(_, old)| *old).map(|(id, _)| id).collect();
    if old.is_empty() {
        return Ok(Purged { plans: 0, last, held: Duration::ZERO });
    }
    let started = Instant::now();
    // A terminal state never changes, so what was old during the search still is.
    let delete = async |connection: &mut _| {
        Ok(statements.rows(PURGE).bind(&old[..]).bind(planner).fetch_one(connection).await?)
    };
    let (deleted, is_owner): (i64, bool) = tables.write(delete).await?;
    if !is_owner {
        return Err(JournalError::Fenced);
    }
    Ok(Purged { plans: u64::try_from(deleted).unwrap_or_default(), last, held: started.elapsed() })
}

/// Deletes old bulk operations, all at once: there are few, since each was a request of a person.
async fn purge_bulk_operations(
    tables: &Tables,
    planner: &str,
    ended_before: Timestamp,
) -> Result<(), JournalError> {
    let statements = tables.statements();
    let delete = async |connection: &mut _| {
        let delete = statements.query(
            "DELETE FROM phoenix_planner.sweeps
             WHERE ended_at < $1 AND EXISTS (SELECT FROM phoenix_planner.planners WHERE instance = $2)",
        );
        delete.bind(micros(ended_before)).bind(planner).execute(connection).await?;
        Ok(())
    };
    tables.write(delete).await
}

pub(super) async fn purge_keys(
    tables: &Tables,
    planner: &str,
    before: Timestamp,
    limit: u32,
) -> Result<u64, JournalError> {
    let statements = tables.statements();
    let delete = async |connection: &mut _| {
        let delete = statements.rows(
            "WITH owner AS (
                 SELECT set_config('synchronous_commit', 'off', TRUE) FROM phoenix_planner.planners
                 WHERE instance = $3 FOR KEY SHARE
             ), old AS (
                 SELECT key FROM phoenix_planner.idempotency_keys
                 WHERE created_at < $1 AND EXISTS (SELECT FROM owner)
                 ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED
             ), deleted AS (
                 DELETE FROM phoenix_planner.idempotency_keys AS keys USING old WHERE keys.key = old.key RETURNING 1
             )
             SELECT (SELECT count(*) FROM deleted), EXISTS (SELECT FROM owner)",
        );
        Ok(delete.bind(micros(before)).bind(i64::from(limit)).bind(planner).fetch_one(connection).await?)
    };
    let (deleted, is_owner): (i64, bool) = tables.write(delete).await?;
    if is_owner { Ok(u64::try_from(deleted).unwrap_or_default()) } else { Err(JournalError::Fenced) }
}

pub(super) async fn stats(tables: &Tables) -> Result<StoreStats, JournalError> {
    let statements = tables.statements();
    let bytes = async |connection: &mut _| {
        let bytes = statements.values(
            "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
             WHERE relnamespace = 'phoenix_planner'::regnamespace AND relkind = 'r'",
        );
        Ok(bytes.fetch_one(connection).await?)
    };
    let bytes: i64 = tables.read(bytes).await?;
    let oldest_plan = read::oldest_terminal(tables).await?;
    Ok(StoreStats { bytes: u64::try_from(bytes).unwrap_or_default(), oldest_plan })
}
