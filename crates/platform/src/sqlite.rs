//! Opening SQLite databases the one way they are opened here: WAL, a busy timeout, foreign keys, migrations on start.

pub mod backup;

use std::{str::FromStr, time::Duration};

use sqlx::{
    Connection, SqliteConnection, SqlitePool,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

/// Why a database can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is of another kind.
    #[error("DATABASE_URL must look like sqlite://path/to/file.db: {0}")]
    Url(sqlx::Error),
    /// The file can't be opened or created.
    #[error("the database {path} cannot be opened: {cause}")]
    Open {
        /// The file, for the operator.
        path: String,
        /// What SQLite or the system said.
        cause: sqlx::Error,
    },
    /// It belongs to a newer version of this program.
    #[error(
        "the database {path} was written by a newer version (its schema is {schema}); start that version or a newer one"
    )]
    Newer {
        /// The file, for the operator.
        path: String,
        /// The number of its last migration.
        schema: i64,
    },
    /// Its tables can't be brought up to date.
    #[error("the database {path} cannot be migrated: {cause}")]
    Migrate {
        /// The file, for the operator.
        path: String,
        /// What went wrong.
        cause: MigrateError,
    },
}

/// How much a commit costs and what it survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Every commit survives loss of power (`synchronous=FULL`).
    Full,
    /// Every commit survives the death of the process; the last ones may go with the power (`synchronous=NORMAL`).
    Process,
}

impl From<Durability> for SqliteSynchronous {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Full => Self::Full,
            Durability::Process => Self::Normal,
        }
    }
}

/// Opens, or makes, the database at `url`, its folder included, and brings its tables up to date.
///
/// # Errors
/// When the file can't be opened or made, or belongs to a newer version.
pub async fn open(
    url: &str,
    durability: Durability,
    connections: u32,
    migrator: &Migrator,
) -> Result<SqlitePool, OpenError> {
    let options = options(url, durability)?;
    let path = options.get_filename().display().to_string();
    if let Some(folder) = options.get_filename().parent() {
        let made = tokio::fs::create_dir_all(folder).await;
        made.map_err(|cause| OpenError::Open { path: path.clone(), cause: cause.into() })?;
    }
    let pool = SqlitePoolOptions::new()
        .max_connections(connections)
        // There is no network between us and the file that could have broken meanwhile.
        .test_before_acquire(false)
        .after_release(|connection, _| Box::pin(is_usable(connection)))
        .connect_with(options)
        .await
        .map_err(|cause| OpenError::Open { path: path.clone(), cause })?;
    match migrator.run(&pool).await {
        Ok(()) => Ok(pool),
        Err(MigrateError::VersionMissing(schema)) => Err(OpenError::Newer { path, schema }),
        Err(cause) => Err(OpenError::Migrate { path, cause }),
    }
}

/// How every connection to the database at `url` is made.
///
/// # Errors
/// When it is no URL of a SQLite file.
pub fn options(url: &str, durability: Durability) -> Result<SqliteConnectOptions, OpenError> {
    Ok(SqliteConnectOptions::from_str(url)
        .map_err(OpenError::Url)?
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(durability.into())
        .busy_timeout(Duration::from_secs(5))
        .foreign_keys(true)
        // Kibibytes. What is written is mostly what was written a moment ago; the default of 2 MB reads it back from the file.
        .pragma("cache_size", "-16384")
        // Bytes. Somebody who reads for long, as a backup does, makes the write-ahead log grow; this is what is left of it
        // once it has been folded into the file.
        .pragma("journal_size_limit", "33554432"))
}

/// Whether `error` says that what the file holds can't be read, which trying again does not change.
#[must_use]
pub fn is_damage(error: &sqlx::Error) -> bool {
    const CORRUPT: u32 = 11;
    const NOT_A_DATABASE: u32 = 26;
    match error {
        sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => true,
        sqlx::Error::Database(error) => {
            // The low byte of an extended result code is the primary one (https://sqlite.org/rescode.html).
            let code = error.code().and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xff);
            matches!(code, Some(CORRUPT | NOT_A_DATABASE))
        }
        _ => false,
    }
}

/// Whether a connection may be used again. SQLite ends a transaction by itself when the disk is full or fails
/// (<https://sqlite.org/lang_transaction.html#response_to_errors_within_a_transaction>); the rollback that follows then
/// fails, and sqlx counts a transaction that is not there and refuses every further one.
async fn is_usable(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    // Behind the rollback in the connection's queue.
    connection.ping().await?;
    Ok(!connection.is_in_transaction())
}
