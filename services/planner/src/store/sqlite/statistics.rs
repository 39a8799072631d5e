//! Statistics: one transaction for everything that a planner counted since the last one.

use sqlx::{Connection, SqliteConnection, SqlitePool};

use crate::store::{
    error::JournalError,
    statistics::{Counts, Period, StoredCounts},
    stored::value::{from_json, json},
};

/// Stores the counts of periods in place of earlier ones, and deletes what is older than the minute `before`.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    planner: &str,
    periods: &[(Period, Counts)],
    before: i64,
) -> Result<(), JournalError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let row = |(Period { length, number }, counts): &(Period, Counts)| (*length, *number, json(counts));
    let rows: Vec<(i64, i64, String)> = periods.iter().map(row).collect();
    let rows = json(&rows);
    for statement in [
        "INSERT INTO statistics (minute, planner, counts)
         SELECT value ->> 1, ?2, value ->> 2 FROM json_each(?1) WHERE value ->> 0 = 1
         ON CONFLICT (minute, planner) DO UPDATE SET counts = excluded.counts",
        "INSERT INTO statistics_rollups (length, period, planner, counts)
         SELECT value ->> 0, value ->> 1, ?2, value ->> 2 FROM json_each(?1) WHERE value ->> 0 > 1
         ON CONFLICT (length, period, planner) DO UPDATE SET counts = excluded.counts",
    ] {
        sqlx::query(statement).bind(&rows).bind(planner).execute(&mut *transaction).await?;
    }
    for statement in [
        "DELETE FROM statistics WHERE minute < ?",
        "DELETE FROM statistics_rollups WHERE length = 5 AND period < ? / 5",
        "DELETE FROM statistics_rollups WHERE length = 10 AND period < ? / 10",
    ] {
        sqlx::query(statement).bind(before).execute(&mut *transaction).await?;
    }
    Ok(transaction.commit().await?)
}

/// The counts of every planner in the period `since` and later ones of its length, oldest first.
pub(super) async fn read(pool: &SqlitePool, since: Period) -> Result<Vec<StoredCounts>, JournalError> {
    let Period { length, number } = since;
    let query = if length == 1 {
        "SELECT minute, planner, counts FROM statistics WHERE ?1 = 1 AND minute >= ?2 ORDER BY minute"
    } else {
        "SELECT period, planner, counts FROM statistics_rollups WHERE length = ?1 AND period >= ?2 ORDER BY period"
    };
    let rows: Vec<(i64, String, String)> =
        sqlx::query_as(query).bind(length).bind(number).fetch_all(pool).await?;
    let read = |(number, planner, counts): (i64, String, String)| {
        Ok(StoredCounts { number, planner, counts: from_json("statistics.counts", &counts)? })
    };
    rows.into_iter().map(read).collect()
}
