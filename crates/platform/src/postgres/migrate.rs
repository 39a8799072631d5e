//! Migrations of one schema, in one transaction: a failed migration changes nothing.
//!
//! The migrator of sqlx takes a lock of its session and prepares named statements, which a pooler in transaction mode loses.
//! This one sends plain text in one transaction. Its table has the form of sqlx's.

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, migrate::Migration, migrate::Migrator};

/// Key of the lock that migrations hold, in any schema of the database: the letters `phoenix` and a number.
const LOCK: i64 = 0x70_68_6f_65_6e_69_78_01;

/// Reason why a schema cannot be migrated.
#[derive(Debug, thiserror::Error)]
pub(super) enum MigrateError {
    /// A newer version of this program has migrated it; the number of its last migration.
    #[error("its schema is {0}")]
    Newer(i64),
    /// An applied migration is not the one of this program.
    #[error("migration {0} was applied in another form")]
    Changed(i64),
    /// A migration failed.
    #[error("migration {version} failed: {cause}")]
    Failed {
        /// Number of the migration.
        version: i64,
        /// Error of the server.
        cause: sqlx::Error,
    },
    /// The server failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Applies the migrations that `schema` lacks. Writes nothing when it lacks none.
pub(super) async fn migrate(
    connection: &mut PgConnection,
    schema: &str,
    migrator: &Migrator,
) -> Result<(), MigrateError> {
    let mut transaction = connection.begin().await?;
    let connection = &mut *transaction;
    // Another process may be migrating, which takes seconds at most.
    run(
        connection,
        format!(
            "SET LOCAL lock_timeout = '60s'; SET LOCAL idle_in_transaction_session_timeout = '60s';
             SELECT pg_advisory_xact_lock({LOCK})"
        ),
    )
    .await?;
    create_table(connection, schema).await?;
    let applied = applied(connection, schema).await?;
    let known = |version: i64| migrator.iter().find(|migration| migration.version == version);
    for (version, checksum) in &applied {
        match known(*version) {
            None => return Err(MigrateError::Newer(*version)),
            Some(migration) if hex(&migration.checksum) != *checksum => {
                return Err(MigrateError::Changed(*version));
            }
            Some(_) => {}
        }
    }
    let is_applied = |migration: &Migration| applied.iter().any(|(version, _)| *version == migration.version);
    for migration in migrator.iter().filter(|migration| !is_applied(migration)) {
        apply(connection, schema, migration)
            .await
            .map_err(|cause| MigrateError::Failed { version: migration.version, cause })?;
    }
    transaction.commit().await?;
    Ok(())
}

/// Creates the schema and the table of migrations, unless they exist: a user without the right to create them may use them.
async fn create_table(connection: &mut PgConnection, schema: &str) -> Result<(), sqlx::Error> {
    if !exists(connection, format!("SELECT to_regnamespace('{schema}') IS NOT NULL")).await? {
        run(connection, format!("CREATE SCHEMA {schema}")).await?;
    }
    if !exists(connection, format!("SELECT to_regclass('{schema}._sqlx_migrations') IS NOT NULL")).await? {
        run(
            connection,
            format!(
                "CREATE TABLE {schema}._sqlx_migrations (
                     version BIGINT PRIMARY KEY,
                     description TEXT NOT NULL,
                     installed_on TIMESTAMPTZ NOT NULL DEFAULT now(),
                     success BOOLEAN NOT NULL,
                     checksum BYTEA NOT NULL,
                     execution_time BIGINT NOT NULL
                 )"
            ),
        )
        .await?;
    }
    Ok(())
}

/// Version and checksum, in hexadecimal, of each applied migration.
async fn applied(connection: &mut PgConnection, schema: &str) -> Result<Vec<(i64, String)>, sqlx::Error> {
    let sql =
        format!("SELECT version, encode(checksum, 'hex') FROM {schema}._sqlx_migrations ORDER BY version");
    let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

async fn apply(
    connection: &mut PgConnection,
    schema: &str,
    migration: &Migration,
) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(migration.sql.clone()).execute(&mut *connection).await?;
    let (version, checksum) = (migration.version, hex(&migration.checksum));
    let description = migration.description.replace('\'', "''");
    run(
        connection,
        format!(
            "INSERT INTO {schema}._sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES ({version}, '{description}', TRUE, decode('{checksum}', 'hex'), -1)"
        ),
    )
    .await
}

async fn exists(connection: &mut PgConnection, sql: String) -> Result<bool, sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(connection).await?.try_get(0)
}

async fn run(connection: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
