//! Statistics: one transaction for everything that a planner counted since the last one.

use sqlx::{Connection, SqliteConnection, SqlitePool};

use crate::store::{
    error::JournalError,
    statistics::{Counts, StoredCounts},
    stored::value::{from_json, json},
};

/// Stores the counts of minutes in place of earlier ones, and deletes what is older than the minute `before`.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    planner: &str,
    minutes: &[(i64, Counts)],
    before: i64,
) -> Result<(), JournalError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let rows: Vec<(i64, String)> = minutes.iter().map(|(minute, counts)| (*minute, json(counts))).collect();
    sqlx::query(
        "INSERT INTO statistics (minute, planner, counts) SELECT value ->> 0, ?2, value ->> 1 FROM json_each(?1) WHERE TRUE
         ON CONFLICT (minute, planner) DO UPDATE SET counts = excluded.counts",
    )
    .bind(json(&rows))
    .bind(planner.to_owned())
    .execute(&mut *transaction)
    .await?;
    sqlx::query("DELETE FROM statistics WHERE minute < ?").bind(before).execute(&mut *transaction).await?;
    Ok(transaction.commit().await?)
}

/// The counts of every planner in the minute `since` and later, oldest first.
pub(super) async fn read(pool: &SqlitePool, since: i64) -> Result<Vec<StoredCounts>, JournalError> {
    let rows: Vec<(i64, String, String)> =
        sqlx::query_as("SELECT minute, planner, counts FROM statistics WHERE minute >= ? ORDER BY minute")
            .bind(since)
            .fetch_all(pool)
            .await?;
    let read = |(minute, planner, counts): (i64, String, String)| {
        Ok(StoredCounts { minute, planner, counts: from_json("statistics.counts", &counts)? })
    };
    rows.into_iter().map(read).collect()
}
