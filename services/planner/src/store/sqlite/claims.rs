//! What can be claimed once, whoever asks: an idempotency key.
//!
//! A batch with claims is written inside a transaction that holds the write lock from its beginning, so that whoever finds
//! a claim free is the one who takes it, whichever planner it is.

use std::collections::HashSet;

use sqlx::SqliteConnection;

use super::{Entry, JournalError, rows::micros};

/// Whether somebody else may have come first.
pub(super) const fn is_claim(entry: &Entry) -> bool {
    matches!(entry, Entry::KeyUsed { .. })
}

/// The places of those of `groups` that claim what is taken, by an earlier batch or by a group before them. Uses that are
/// so old that they do not count any more are forgotten.
pub(super) async fn lost(
    connection: &mut SqliteConnection,
    groups: &[&[Entry]],
) -> Result<Vec<usize>, JournalError> {
    let mut taken = taken_keys(connection, groups).await?;
    let mut lost = Vec::new();
    for (place, group) in groups.iter().enumerate() {
        let claims: Vec<_> = group.iter().filter_map(claim).collect();
        if claims.iter().any(|claim| taken.contains(*claim)) {
            lost.push(place);
        } else {
            taken.extend(claims.into_iter().map(str::to_owned));
        }
    }
    Ok(lost)
}

fn claim(entry: &Entry) -> Option<&str> {
    match entry {
        Entry::KeyUsed { key, .. } => Some(&key.key),
        _ => None,
    }
}

async fn taken_keys(
    connection: &mut SqliteConnection,
    groups: &[&[Entry]],
) -> Result<HashSet<String>, JournalError> {
    let used = groups.iter().copied().flatten().filter_map(|entry| match entry {
        Entry::KeyUsed { key, not_before, .. } => Some((&key.key, micros(*not_before))),
        _ => None,
    });
    let used = serde_json::to_string(&used.collect::<Vec<_>>()).unwrap_or_default();
    let known: Vec<(String, bool)> = sqlx::query_as(
        "SELECT key, created_at >= used.not_before
         FROM (SELECT value ->> 0 AS name, value ->> 1 AS not_before FROM json_each(?)) AS used
         CROSS JOIN idempotency_keys ON key = used.name",
    )
    .bind(used)
    .fetch_all(&mut *connection)
    .await?;
    let (taken, forgotten): (Vec<_>, Vec<_>) = known.into_iter().partition(|(_, counts)| *counts);
    for (key, _) in forgotten {
        sqlx::query("DELETE FROM idempotency_keys WHERE key = ?").bind(key).execute(&mut *connection).await?;
    }
    Ok(taken.into_iter().map(|(key, _)| key).collect())
}
