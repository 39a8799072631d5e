//! Appends of batches.
//!
//! A batch is one call of the function `append_batch`, which fences, reserves and writes in one transaction. Reservations are
//! made without asking first: if one turns out to be made already, nothing is written, and the batch is sent again without the
//! groups that come too late. A batch with a bulk operation, with conditions of tasks or with approvals takes several statements in one
//! transaction.

use std::{
    collections::HashSet,
    sync::{Arc, LazyLock},
    time::Duration,
};

use phoenix_domain::PlanId;
use phoenix_platform::postgres::{Session, Transient, transient};
use sqlx::{PgConnection, postgres::PgDatabaseError};
use uuid::Uuid;

use crate::store::{
    changes::RowChanges,
    entry::{BatchId, Entries, Entry},
    error::{JournalError, postgres_code},
    postgres::{
        approvals::ConditionRows,
        bulk,
        columns::{Columns, append_statement},
        tables::Tables,
        writers::{WriteError, Writers},
    },
    projection::{Commit, Projection},
    reservation::{self, Reservation, reservation},
    stored::{
        bulk::is_bulk,
        text::{escape, unescape},
        value::micros,
    },
};

/// Code of a batch whose planner is fenced.
pub(super) const FENCED: &str = "PX001";

/// Code of a batch with a redrive that comes too late.
const NOT_REDRIVABLE: &str = "PX002";

/// Attempts to write a batch that lost against concurrent transactions.
const ATTEMPTS: u32 = 8;

static APPEND: LazyLock<String> = LazyLock::new(|| append_statement(false));

static APPEND_MORE: LazyLock<String> = LazyLock::new(|| append_statement(true));

/// Makes `groups` durable, without those that reserve what is reserved already. Returns the indices of those.
pub(super) async fn append(
    tables: &Tables,
    writers: &Writers,
    batch: &BatchId,
    groups: &[Entries],
) -> Result<Vec<usize>, JournalError> {
    let mut rejected = reservation::rejected(groups, HashSet::new());
    let (mut attempts, mut is_in_doubt) = (0, false);
    loop {
        attempts += 1;
        let accepted = groups.iter().enumerate().filter(|(index, _)| !rejected.contains(index));
        let accepted: Vec<Entries> = accepted.map(|(_, group)| Arc::clone(group)).collect();
        let mut error = match write(tables, writers, batch, accepted).await {
            Ok(true) => return Ok(rejected),
            // An earlier attempt was answered too late, or not at all.
            Ok(false) => return rejected_before(tables, groups).await,
            Err(error) => error,
        };
        if postgres_code(&error.error) == Some(FENCED) {
            return Err(JournalError::Fenced);
        }
        let is_broken = error.is_in_doubt && transient(&error.error) == Some(Transient::Unreachable);
        is_in_doubt |= error.is_in_doubt;
        error.is_in_doubt = is_in_doubt;
        let is_conflict = transient(&error.error) == Some(Transient::Conflict);
        if is_broken && attempts == 1 {
            // Most likely the connection broke while it was idle, and the server can be reached again.
        } else if attempts < ATTEMPTS && is_conflict {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..10) * u64::from(attempts))).await;
        } else if attempts < ATTEMPTS && is_reserved(&error.error) {
            rejected = reservation::rejected(
                groups,
                reserved(tables, groups).await.map_err(in_doubt_if(is_in_doubt))?,
            );
        } else {
            return Err(error.into());
        }
    }
}

/// Keeps a batch in doubt when a query about it fails.
fn in_doubt_if(is_in_doubt: bool) -> impl FnOnce(JournalError) -> JournalError {
    move |error| match error {
        JournalError::Database(error) if is_in_doubt => JournalError::InDoubt(error),
        other => other,
    }
}

/// Whether a batch was rolled back because something is reserved already.
fn is_reserved(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    let Some(error) = error.try_downcast_ref::<PgDatabaseError>() else { return false };
    match error.code() {
        NOT_REDRIVABLE => true,
        "23505" => matches!(error.constraint(), Some("idempotency_keys_pkey" | "plans_by_redrive")),
        _ => false,
    }
}

/// Writes a batch. Returns whether it was not there already.
async fn write(
    tables: &Tables,
    writers: &Writers,
    batch: &BatchId,
    groups: Vec<Entries>,
) -> Result<bool, WriteError> {
    let commit = [Arc::new(Commit { planner: batch.planner.clone(), groups })];
    let changes = RowChanges::of(Projection::of(&commit, &HashSet::new()));
    let conditions = ConditionRows::of(&changes);
    let mut columns = Columns::of(changes);
    commit[0].entries().for_each(|entry| columns.add_key(entry));
    let operations: Vec<&Entry> = commit[0].entries().filter(|entry| is_bulk(entry)).collect();
    let persistent = tables.database.persistent();
    let statement = if columns.has_more() { &APPEND_MORE } else { &APPEND };
    let append = async |connection: &mut PgConnection| {
        let query = sqlx::query_scalar(statement.as_str()).persistent(persistent);
        columns.bind(batch, query).fetch_one(connection).await
    };
    let work = async |session: &mut Session| {
        if persistent && operations.is_empty() && conditions.is_empty() {
            return append(session).await.map_err(WriteError::of_commit);
        }
        let mut transaction = session.begin().await.map_err(WriteError::certain)?;
        if !append(&mut transaction).await.map_err(WriteError::certain)? {
            return Ok(false);
        }
        conditions.write(tables.statements(), &mut transaction).await.map_err(WriteError::certain)?;
        for entry in operations {
            let applied = bulk::apply(tables.statements(), &mut transaction, &batch.planner, entry).await;
            applied.map_err(WriteError::certain)?;
        }
        transaction.commit().await.map_err(WriteError::of_commit)?;
        Ok(true)
    };
    writers.run(batch.writer, work).await
}

/// What the groups reserve and another request has reserved. Deletes expired uses of their keys.
async fn reserved<'a>(
    tables: &Tables,
    groups: &'a [Entries],
) -> Result<HashSet<Reservation<'a>>, JournalError> {
    let statements = tables.statements();
    let (names, not_before) = keys(groups);
    let used: Vec<String> = tables
        .write(async |connection| {
            let expired = statements.query(
                "DELETE FROM phoenix_planner.idempotency_keys
                 USING UNNEST($1, $2) AS wanted (name, not_before)
                 WHERE key = wanted.name AND created_at < wanted.not_before",
            );
            expired.bind(&names[..]).bind(&not_before[..]).execute(&mut *connection).await?;
            let used =
                statements.values("SELECT key FROM phoenix_planner.idempotency_keys WHERE key = ANY ($1)");
            Ok(used.bind(&names[..]).fetch_all(connection).await?)
        })
        .await?;
    let used: HashSet<String> = used.iter().map(|key| unescape(key)).collect();
    let (plans, are_bulk) = redriven(groups);
    let plans: Vec<Uuid> = tables
        .read(async |connection| {
            let reserved = statements.values(
                "SELECT wanted.plan_id FROM UNNEST($1, $2) AS wanted (plan_id, is_bulk)
                 WHERE EXISTS (SELECT FROM phoenix_planner.plans WHERE redrive_of = wanted.plan_id)
                    OR NOT EXISTS (SELECT FROM phoenix_planner.plans WHERE plans.plan_id = wanted.plan_id)
                    OR (is_bulk AND NOT EXISTS (SELECT FROM phoenix_planner.dead_letters
                        WHERE dead_letters.plan_id = wanted.plan_id AND dead_letters.state = 'open'))",
            );
            Ok(reserved.bind(&plans[..]).bind(&are_bulk[..]).fetch_all(connection).await?)
        })
        .await?;
    let reservations = groups.iter().flat_map(|group| group.iter()).filter_map(reservation);
    let is_made = |reservation: &Reservation<'_>| match reservation {
        Reservation::Key(key) => used.contains(*key),
        Reservation::Plan(plan_id) => plans.contains(plan_id.as_uuid()),
    };
    Ok(reservations.filter(is_made).collect())
}

/// Which of the groups of a batch that is there already were rejected: those whose reservations others hold.
async fn rejected_before(tables: &Tables, groups: &[Entries]) -> Result<Vec<usize>, JournalError> {
    if !groups.iter().flat_map(|group| group.iter()).any(reservation::is_reservation) {
        return Ok(Vec::new());
    }
    let statements = tables.statements();
    let (names, (plans, _)) = (keys(groups).0, redriven(groups));
    let (keys, redrives) = tables
        .read(async |connection| {
            let keys = statements
                .rows("SELECT key, subject FROM phoenix_planner.idempotency_keys WHERE key = ANY ($1)");
            let keys: Vec<(String, Uuid)> = keys.bind(&names[..]).fetch_all(&mut *connection).await?;
            let redrives = statements
                .rows("SELECT redrive_of, plan_id FROM phoenix_planner.plans WHERE redrive_of = ANY ($1)");
            let redrives: Vec<(Uuid, Uuid)> = redrives.bind(&plans[..]).fetch_all(connection).await?;
            Ok((keys, redrives))
        })
        .await
        // Still unknown to the caller.
        .map_err(in_doubt_if(true))?;
    let holds = |entry: &Entry| match entry {
        Entry::KeyUsed { key, subject, .. } => {
            let name = escape(&key.key);
            keys.iter().any(|(held, by)| *held == *name && by == subject)
        }
        Entry::PlanRedriven { plan_id, redriven_as, .. } => {
            redrives.contains(&(*plan_id.as_uuid(), *redriven_as.as_uuid()))
        }
        _ => true,
    };
    Ok(groups
        .iter()
        .enumerate()
        .filter(|(_, group)| !group.iter().all(holds))
        .map(|(index, _)| index)
        .collect())
}

/// The keys that groups use, as stored, and the times before which earlier uses have expired.
fn keys(groups: &[Entries]) -> (Vec<String>, Vec<i64>) {
    let used = groups.iter().flat_map(|group| group.iter()).filter_map(|entry| match entry {
        Entry::KeyUsed { key, not_before, .. } => Some((escape(&key.key).into_owned(), micros(*not_before))),
        _ => None,
    });
    used.unzip()
}

/// The plans that groups redrive, and whether a bulk operation does.
fn redriven(groups: &[Entries]) -> (Vec<Uuid>, Vec<bool>) {
    let redriven = groups.iter().flat_map(|group| group.iter()).filter_map(|entry| match entry {
        Entry::PlanRedriven { plan_id, bulk, .. } => Some((*PlanId::as_uuid(plan_id), bulk.is_some())),
        _ => None,
    });
    redriven.unzip()
}
