//! Reservations that earlier batches have made.
//!
//! A batch with reservations is written in a transaction that holds the write lock from its start, so that the planner that
//! finds one free is the planner that makes it.

use std::collections::HashSet;

use phoenix_domain::PlanId;
use sqlx::SqliteConnection;

use crate::store::{
    entry::{Entries, Entry},
    error::JournalError,
    reservation::{self, Reservation},
    stored::value::{json, micros, parse},
};

/// Indices of those of `groups` that reserve what an earlier batch or an earlier group has reserved. Deletes expired uses of
/// their keys.
pub(super) async fn rejected(
    connection: &mut SqliteConnection,
    groups: &[Entries],
) -> Result<Vec<usize>, JournalError> {
    let (keys, plans) = (reserved_keys(connection, groups).await?, reserved_plans(connection, groups).await?);
    let mut reserved: HashSet<_> = keys.iter().map(|key| Reservation::Key(key)).collect();
    reserved.extend(plans.into_iter().map(Reservation::Plan));
    Ok(reservation::rejected(groups, reserved))
}

async fn reserved_keys(
    connection: &mut SqliteConnection,
    groups: &[Entries],
) -> Result<Vec<String>, JournalError> {
    let used = groups.iter().flat_map(|group| group.iter()).filter_map(|entry| match entry {
        Entry::KeyUsed { key, not_before, .. } => Some((&key.key, micros(*not_before))),
        _ => None,
    });
    let known: Vec<(String, bool)> = sqlx::query_as(
        "SELECT key, created_at >= used.not_before
         FROM (SELECT value ->> 0 AS name, value ->> 1 AS not_before FROM json_each(?)) AS used
         CROSS JOIN idempotency_keys ON key = used.name",
    )
    .bind(json(&used.collect::<Vec<_>>()))
    .fetch_all(&mut *connection)
    .await?;
    let (reserved, expired): (Vec<_>, Vec<_>) = known.into_iter().partition(|(_, is_valid)| *is_valid);
    for (key, _) in expired {
        sqlx::query("DELETE FROM idempotency_keys WHERE key = ?").bind(key).execute(&mut *connection).await?;
    }
    Ok(reserved.into_iter().map(|(key, _)| key).collect())
}

async fn reserved_plans(
    connection: &mut SqliteConnection,
    groups: &[Entries],
) -> Result<Vec<PlanId>, JournalError> {
    let redriven = groups.iter().flat_map(|group| group.iter()).filter_map(|entry| match entry {
        Entry::PlanRedriven { plan_id, bulk, .. } => Some((plan_id, bulk.is_some())),
        _ => None,
    });
    let redriven: Vec<_> = redriven.collect();
    if redriven.is_empty() {
        return Ok(Vec::new());
    }
    let reserved: Vec<String> = sqlx::query_scalar(
        "SELECT plan_id FROM (SELECT value ->> 0 AS plan_id, value ->> 1 AS is_bulk FROM json_each(?)) AS wanted
         WHERE EXISTS (SELECT 1 FROM plans WHERE redrive_of = wanted.plan_id)
            -- The plan may have been deleted by now.
            OR NOT EXISTS (SELECT 1 FROM plans WHERE plans.plan_id = wanted.plan_id)
            OR (is_bulk AND NOT EXISTS
                (SELECT 1 FROM dead_letters WHERE dead_letters.plan_id = wanted.plan_id AND +state = 'open'))",
    )
    .bind(json(&redriven))
    .fetch_all(connection)
    .await?;
    reserved.iter().map(|id| parse("plans.redrive_of", id)).collect()
}
