//! The change of a file of an older version into one of this version.
//!
//! A migration may remove what planners of the older version use, so none of them may work with the file then. One that sends
//! heartbeats makes the upgrade fail, before anything is changed. One that sends none is dead or frozen, and is fenced in the
//! transaction of the migrations: what it has acknowledged is in the log, and it can add nothing when it wakes up.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use phoenix_platform::sqlite::{self, Durability, OpenError};
use sqlx::{ConnectOptions, Connection, SqliteConnection, migrate::Migrator};

/// Time without a heartbeat after which a planner is silent: more than three intervals of heartbeats.
const SILENCE: Duration = Duration::from_secs(3);

/// Interval at which heartbeats are looked for.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// First version of the schema with heartbeats.
const HEARTBEATS: i64 = 2;

/// First version of the schema with the table `dead_planners` as [`FENCE`] writes it.
const DEAD_PLANNERS: i64 = 11;

/// The planners die, and their plans are taken over.
const FENCE: &str =
    "INSERT OR IGNORE INTO dead_planners (instance, seen_at) SELECT instance, seen_at FROM planners";

/// Heartbeats of planners, by their instance.
type Beats = BTreeMap<String, i64>;

/// Applies `migrations` to the file at `url`, if it is one of an older version.
///
/// # Errors
/// When a planner works with the file, or a migration fails. The file is as before then.
pub(super) async fn run(url: &str, migrations: &Migrator) -> Result<(), OpenError> {
    let options = sqlite::options(url, Durability::Full)?.create_if_missing(false);
    if !options.get_filename().exists() {
        return Ok(());
    }
    let path = options.get_filename().display().to_string();
    let open = |cause| OpenError::Open { path: path.clone(), cause };
    let mut connection = options.connect().await.map_err(open)?;
    if let Some(schema) = schema(&mut connection).await.map_err(open)?
        && schema >= HEARTBEATS
        && migrations.iter().any(|migration| migration.version > schema)
    {
        let silent = silent(&mut connection).await.map_err(open)?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(open)?;
        // A planner may have been started, or woken up, meanwhile.
        if silent.as_ref() != Some(&beats(&mut transaction).await.map_err(open)?) {
            return Err(OpenError::InUse { path });
        }
        if schema >= DEAD_PLANNERS {
            sqlx::raw_sql(FENCE).execute(&mut *transaction).await.map_err(open)?;
        }
        sqlx::raw_sql("DELETE FROM planners").execute(&mut *transaction).await.map_err(open)?;
        // `run` is not `Send` for every lifetime of a connection, as the compiler sees it.
        let migrated = migrations.run_direct(None, &mut *transaction, false).await;
        migrated.map_err(|cause| OpenError::Migrate { path: path.clone(), cause })?;
        transaction.commit().await.map_err(open)?;
        tracing::info!(database = path, from = schema, "journal of an older version migrated");
    }
    connection.close().await.map_err(open)
}

/// Number of the last migration; absent in a file without tables of this program.
async fn schema(connection: &mut SqliteConnection) -> Result<Option<i64>, sqlx::Error> {
    let tables = "SELECT count(*) = 2 FROM sqlite_schema WHERE name IN ('_sqlx_migrations', 'planners')";
    if !sqlx::query_scalar(tables).fetch_one(&mut *connection).await? {
        return Ok(None);
    }
    sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(connection).await
}

/// The last heartbeats, if none is sent for [`SILENCE`].
async fn silent(connection: &mut SqliteConnection) -> Result<Option<Beats>, sqlx::Error> {
    let (started_at, first) = (Instant::now(), beats(connection).await?);
    while !first.is_empty() && started_at.elapsed() < SILENCE {
        tokio::time::sleep(POLL_INTERVAL).await;
        if beats(connection).await? != first {
            return Ok(None);
        }
    }
    Ok(Some(first))
}

async fn beats(connection: &mut SqliteConnection) -> Result<Beats, sqlx::Error> {
    let rows: Vec<(String, i64)> =
        sqlx::query_as("SELECT instance, beat FROM planners").fetch_all(connection).await?;
    Ok(rows.into_iter().collect())
}
