//! Statistics: one statement for everything that a planner counted since the last one.

use crate::store::{
    error::JournalError,
    postgres::tables::Tables,
    statistics::{Counts, StoredCounts},
    stored::value::{from_json, json},
};

/// Stores the counts of minutes in place of earlier ones, and deletes what is older than the minute `before`.
pub(super) async fn write(
    tables: &Tables,
    planner: &str,
    counted: &[(i64, Counts)],
    before: i64,
) -> Result<(), JournalError> {
    let statements = tables.statements();
    let minutes: Vec<i64> = counted.iter().map(|(minute, _)| *minute).collect();
    let counts: Vec<String> = counted.iter().map(|(_, counts)| json(counts)).collect();
    let write = async |connection: &mut _| {
        // No row that is deleted is written: those are newer.
        let write = statements.query(
            "WITH old AS (DELETE FROM phoenix_planner.statistics WHERE minute < $4)
             INSERT INTO phoenix_planner.statistics (minute, planner, counts)
             SELECT minute, $3, counts FROM UNNEST($1, $2) AS new (minute, counts)
             ON CONFLICT (minute, planner) DO UPDATE SET counts = excluded.counts",
        );
        let write = write.bind(&minutes[..]).bind(&counts[..]).bind(planner).bind(before);
        write.execute(connection).await?;
        Ok(())
    };
    tables.write(write).await
}

/// The counts of every planner in the minute `since` and later, oldest first.
pub(super) async fn read(tables: &Tables, since: i64) -> Result<Vec<StoredCounts>, JournalError> {
    let statements = tables.statements();
    let read = async |connection: &mut _| {
        let rows = statements.rows(
            "SELECT minute, planner, counts FROM phoenix_planner.statistics WHERE minute >= $1 ORDER BY minute",
        );
        Ok(rows.bind(since).fetch_all(connection).await?)
    };
    let rows: Vec<(i64, String, String)> = tables.read(read).await?;
    let read = |(minute, planner, counts): (i64, String, String)| {
        Ok(StoredCounts { minute, planner, counts: from_json("statistics.counts", &counts)? })
    };
    rows.into_iter().map(read).collect()
}
