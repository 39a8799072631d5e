//! Statistics: one statement for everything that a planner counted since the last one.

use crate::store::{
    error::JournalError,
    postgres::tables::Tables,
    statistics::{Counts, Period, StoredCounts},
    stored::value::{from_json, json},
};

/// Stores the counts of periods in place of earlier ones, and deletes what is older than the minute `before`.
pub(super) async fn write(
    tables: &Tables,
    planner: &str,
    counted: &[(Period, Counts)],
    before: i64,
) -> Result<(), JournalError> {
    let statements = tables.statements();
    let lengths: Vec<i64> = counted.iter().map(|(period, _)| period.length).collect();
    let numbers: Vec<i64> = counted.iter().map(|(period, _)| period.number).collect();
    let counts: Vec<String> = counted.iter().map(|(_, counts)| json(counts)).collect();
    let write = async |connection: &mut _| {
        // No row that is deleted is written: those are newer.
        let write = statements.query(
            "WITH old AS (DELETE FROM phoenix_planner.statistics WHERE minute < $5),
                 old_fives AS (DELETE FROM phoenix_planner.statistics_rollups WHERE length = 5 AND period < $5 / 5),
                 old_tens AS (DELETE FROM phoenix_planner.statistics_rollups WHERE length = 10 AND period < $5 / 10),
                 new AS (SELECT length, period, counts FROM UNNEST($1, $2, $3) AS new (length, period, counts)),
                 rollups AS (
                     INSERT INTO phoenix_planner.statistics_rollups (length, period, planner, counts)
                     SELECT length, period, $4, counts FROM new WHERE length > 1
                     ON CONFLICT (length, period, planner) DO UPDATE SET counts = excluded.counts)
             INSERT INTO phoenix_planner.statistics (minute, planner, counts)
             SELECT period, $4, counts FROM new WHERE length = 1
             ON CONFLICT (minute, planner) DO UPDATE SET counts = excluded.counts",
        );
        let write = write.bind(&lengths[..]).bind(&numbers[..]).bind(&counts[..]);
        write.bind(planner).bind(before).execute(connection).await?;
        Ok(())
    };
    tables.write(write).await
}

/// The counts of every planner in the period `since` and later ones of its length, oldest first.
pub(super) async fn read(tables: &Tables, since: Period) -> Result<Vec<StoredCounts>, JournalError> {
    let statements = tables.statements();
    let Period { length, number } = since;
    let read = async |connection: &mut _| {
        let rows = statements.rows(if length == 1 {
            "SELECT minute, planner, counts FROM phoenix_planner.statistics
             WHERE $1::bigint = 1 AND minute >= $2 ORDER BY minute"
        } else {
            "SELECT period, planner, counts FROM phoenix_planner.statistics_rollups
             WHERE length = $1 AND period >= $2 ORDER BY period"
        });
        Ok(rows.bind(length).bind(number).fetch_all(connection).await?)
    };
    let rows: Vec<(i64, String, String)> = tables.read(read).await?;
    let read = |(number, planner, counts): (i64, String, String)| {
        Ok(StoredCounts { number, planner, counts: from_json("statistics.counts", &counts)? })
    };
    rows.into_iter().map(read).collect()
}
