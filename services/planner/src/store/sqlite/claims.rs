//! What can be claimed once, whoever asks: an idempotency key, and a plan to take up again.
//!
//! A batch with claims is written inside a transaction that holds the write lock from its beginning, so that whoever finds
//! a claim free is the one who takes it, whichever planner it is.

use std::collections::HashSet;

use phoenix_domain::PlanId;
use sqlx::SqliteConnection;

use super::{
    Entries, Entry, JournalError,
    rows::{json, micros},
    stored::parse,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Claim<'a> {
    Key(&'a str),
    Plan(PlanId),
}

fn claim(entry: &Entry) -> Option<Claim<'_>> {
    match entry {
        Entry::KeyUsed { key, .. } => Some(Claim::Key(&key.key)),
        Entry::PlanRedriven { plan_id, .. } => Some(Claim::Plan(*plan_id)),
        _ => None,
    }
}

/// Whether somebody else may have come first.
pub(super) fn is_claim(entry: &Entry) -> bool {
    claim(entry).is_some()
}

/// Whether it is a plan that somebody else may have taken up first.
pub(super) fn is_of_plan(entry: &Entry) -> bool {
    matches!(claim(entry), Some(Claim::Plan(_)))
}

/// The places of those of `groups` that claim what is taken, by an earlier batch or by a group before them. Uses of keys
/// that are so old that they do not count any more are forgotten.
pub(super) async fn lost(
    connection: &mut SqliteConnection,
    groups: &[Entries],
) -> Result<Vec<usize>, JournalError> {
    let (keys, plans) = (taken_keys(connection, groups).await?, taken_plans(connection, groups).await?);
    let mut taken: HashSet<_> = keys.iter().map(|key| Claim::Key(key)).collect();
    taken.extend(plans.into_iter().map(Claim::Plan));
    let mut lost = Vec::new();
    for (place, group) in groups.iter().enumerate() {
        let claims: Vec<_> = group.iter().filter_map(claim).collect();
        if claims.iter().any(|claim| taken.contains(claim)) {
            lost.push(place);
        } else {
            taken.extend(claims);
        }
    }
    Ok(lost)
}

async fn taken_keys(
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
    let (taken, forgotten): (Vec<_>, Vec<_>) = known.into_iter().partition(|(_, counts)| *counts);
    for (key, _) in forgotten {
        sqlx::query("DELETE FROM idempotency_keys WHERE key = ?").bind(key).execute(&mut *connection).await?;
    }
    Ok(taken.into_iter().map(|(key, _)| key).collect())
}

async fn taken_plans(
    connection: &mut SqliteConnection,
    groups: &[Entries],
) -> Result<Vec<PlanId>, JournalError> {
    let redriven = groups.iter().flat_map(|group| group.iter()).filter_map(|entry| match entry {
        Entry::PlanRedriven { plan_id, sweep, .. } => Some((plan_id, sweep.is_some())),
        _ => None,
    });
    let redriven: Vec<_> = redriven.collect();
    if redriven.is_empty() {
        return Ok(Vec::new());
    }
    let taken: Vec<String> = sqlx::query_scalar(
        "SELECT plan_id FROM (SELECT value ->> 0 AS plan_id, value ->> 1 AS swept FROM json_each(?)) AS wanted
         WHERE EXISTS (SELECT 1 FROM plans WHERE redrive_of = wanted.plan_id)
            -- It may have been deleted by now.
            OR NOT EXISTS (SELECT 1 FROM plans WHERE plans.plan_id = wanted.plan_id)
            OR (swept AND NOT EXISTS
                (SELECT 1 FROM dead_letters WHERE dead_letters.plan_id = wanted.plan_id AND +state = 'open'))",
    )
    .bind(json(&redriven))
    .fetch_all(connection)
    .await?;
    taken.iter().map(|id| parse("plans.redrive_of", id)).collect()
}
