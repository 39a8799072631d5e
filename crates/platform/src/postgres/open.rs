//! Opening of a database: the first connection, the version of the server, migrations.

use std::{
    io,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use sqlx::{
    ConnectOptions, PgConnection, Row,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgDatabaseError},
};

use super::{
    database::{Database, Pooler},
    failure::{Transient, transient},
    migrate::{MigrateError, migrate},
    url::{InvalidUrl, connect_options, exposure, shown},
};

/// Oldest supported version of the server, as `server_version_num`.
pub(super) const OLDEST: u32 = 130_000;

/// Usual time for which a start waits for a server that is down or starts: services may be started before it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Pause before the next attempt.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Difference between the clocks of this process and the server from which on a start warns: more than the answer takes.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);

/// Longest wait for one connection.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Options of a database.
#[derive(Debug, Clone, Copy)]
pub struct OpenOptions {
    /// Role of the process; the server lists its connections as `phoenix-ROLE`.
    pub role: &'static str,
    /// Schema of its tables.
    pub schema: &'static str,
    /// The pooler between this process and the server.
    pub pooler: Pooler,
    /// Most connections at a time.
    pub connections: u32,
    /// Time for which the start waits for a server that is down or starts, usually [`PATIENCE`].
    pub patience: Duration,
}

/// Error of opening a database.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is not valid.
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    /// The server cannot be reached or rejects the connection.
    #[error("the database {database} cannot be opened: {cause}{advice}")]
    Open {
        /// The database, without a password.
        database: String,
        /// Error of the server or the system.
        cause: sqlx::Error,
        /// What to do, after a semicolon; empty when the cause says it.
        advice: &'static str,
    },
    /// The server is too old.
    #[error("the database {database} is served by PostgreSQL {version}; version 13 or a newer one is needed")]
    TooOld {
        /// The database, without a password.
        database: String,
        /// Version of the server.
        version: String,
    },
    /// A newer version of this program has written the database.
    #[error(
        "the database {database} was written by a newer version (its schema is {schema}); start that version or a newer one"
    )]
    Newer {
        /// The database, without a password.
        database: String,
        /// Number of its last migration.
        schema: i64,
    },
    /// A migration failed.
    #[error("the database {database} cannot be migrated: {problem}")]
    Migrate {
        /// The database, without a password.
        database: String,
        /// What failed.
        problem: String,
    },
}

/// Opens the database at `url` and applies the migrations of its schema.
///
/// # Errors
/// When the URL is not valid, the server cannot be reached, is too old or rejects the connection, or the schema belongs to a
/// newer version.
pub async fn open(url: &str, options: OpenOptions, migrator: &Migrator) -> Result<Database, OpenError> {
    // sqlx looks the provider up for `sslmode=verify-ca`. A failure means that there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let OpenOptions { role, schema, pooler, connections, patience } = options;
    let mut connect = connect_options(url)?.application_name(&format!("phoenix-{role}"));
    if pooler == Pooler::Transaction {
        // PgBouncer rejects the parameter that sqlx would send.
        connect = connect.statement_cache_capacity(0).extra_float_digits(None);
    }
    let database = shown(&connect);
    if let Some(exposure) = exposure(&connect) {
        tracing::warn!(
            %database,
            "{exposure}; add sslmode=verify-full&sslrootcert=… to DATABASE_URL, unless the network is trusted"
        );
    }
    let started_at = Instant::now();
    let mut is_waiting = false;
    loop {
        let failed = match prepare(&connect, &database, schema, migrator).await {
            Ok(()) => return Ok(Database::new(connect, database, pooler, connections)),
            Err(failed) => failed,
        };
        if !failed.may_pass() || started_at.elapsed() >= patience {
            return Err(failed);
        }
        if !std::mem::replace(&mut is_waiting, true) {
            tracing::warn!(error = %failed, "waiting for the database");
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

/// Connects once, checks the server and migrates the schema.
async fn prepare(
    connect: &PgConnectOptions,
    database: &str,
    schema: &str,
    migrator: &Migrator,
) -> Result<(), OpenError> {
    let open =
        |cause: sqlx::Error| OpenError::Open { database: database.to_owned(), advice: advice(&cause), cause };
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, connect.connect()).await;
    let mut connection = connected.unwrap_or_else(|_| Err(no_answer())).map_err(open)?;
    check_server(&mut connection, database, open).await?;
    let migrated = migrate(&mut connection, schema, migrator).await;
    // The server notices a closed socket, too.
    drop(connection);
    migrated.map_err(|error| match error {
        MigrateError::Newer(schema) => OpenError::Newer { database: database.to_owned(), schema },
        MigrateError::Database(cause) => open(cause),
        MigrateError::Failed { cause, .. } if transient(&cause).is_some() => open(cause),
        other => OpenError::Migrate { database: database.to_owned(), problem: other.to_string() },
    })
}

/// Checks the version of the server, and warns about settings that lose commits.
async fn check_server(
    connection: &mut PgConnection,
    database: &str,
    open: impl Fn(sqlx::Error) -> OpenError,
) -> Result<(), OpenError> {
    const SETTINGS: &str = "SELECT current_setting('server_version_num'), current_setting('server_version'),
                                   current_setting('fsync'), current_setting('synchronous_commit'),
                                   (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let row = sqlx::raw_sql(SETTINGS).fetch_one(connection).await.map_err(&open)?;
    warn_of_clock(database, row.try_get(4).map_err(&open)?);
    let setting = |index: usize| row.try_get::<String, _>(index).map_err(&open);
    if setting(0)?.parse::<u32>().is_ok_and(|version| version < OLDEST) {
        return Err(OpenError::TooOld { database: database.to_owned(), version: setting(1)? });
    }
    for (name, value) in [("fsync", setting(2)?), ("synchronous_commit", setting(3)?)] {
        if value == "off" {
            tracing::warn!(%database, setting = name, "a crash of the database may lose acknowledged work");
        }
    }
    Ok(())
}

/// Warns when the clock of this process differs from that of the server, which shows `server_micros`.
fn warn_of_clock(database: &str, server_micros: i64) {
    let ahead = Timestamp::now().as_microsecond().saturating_sub(server_micros);
    if ahead.unsigned_abs() > CLOCK_TOLERANCE.as_micros().try_into().unwrap_or(u64::MAX) {
        tracing::warn!(
            database,
            clock_ahead_ms = ahead / 1000,
            "the clock of this machine differs from the database's; synchronize both, for instance with chrony"
        );
    }
}

impl OpenError {
    /// Whether the server may accept the same attempt later.
    fn may_pass(&self) -> bool {
        match self {
            // A certificate does not change.
            Self::Open { cause: sqlx::Error::Tls(_), .. } => false,
            Self::Open { cause, .. } => transient(cause).is_some(),
            _ => false,
        }
    }
}

pub(super) fn no_answer() -> sqlx::Error {
    let text = format!("no answer within {} s", CONNECT_TIMEOUT.as_secs());
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, text))
}

/// What to do about an error whose text does not say it.
pub(super) fn advice(error: &sqlx::Error) -> &'static str {
    let code = match error {
        sqlx::Error::Database(error) => {
            error.try_downcast_ref::<PgDatabaseError>().map(PgDatabaseError::code)
        }
        _ => None,
    };
    if is_untrusted(error) {
        return "; sslrootcert in DATABASE_URL names the file with the CA of its certificate, \
                and the host must be one that the certificate names";
    }
    match (transient(error), code) {
        (Some(Transient::ReadOnly), _) => {
            "; it is a standby or was demoted: name the primary in DATABASE_URL"
        }
        (_, Some("28P01" | "28000")) => {
            "; check the user and the password in DATABASE_URL, and the server's pg_hba.conf"
        }
        (_, Some("3D000")) => "; create the database first",
        (_, Some("42501")) => "; give the user the right CREATE on the database",
        (_, Some("08P01" | "26000" | "42P05")) => {
            "; behind a pooler in transaction mode, set DATABASE_POOLER=transaction"
        }
        _ => "",
    }
}

/// Whether the certificate of the server is not accepted.
fn is_untrusted(error: &sqlx::Error) -> bool {
    let text = match error {
        sqlx::Error::Io(error) => error.to_string(),
        sqlx::Error::Tls(error) => error.to_string(),
        _ => return false,
    };
    text.contains("invalid peer certificate")
}
