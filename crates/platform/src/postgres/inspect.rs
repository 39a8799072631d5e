//! A look at a server, without a change.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Decode, Postgres, Row, Type,
    postgres::{PgConnectOptions, PgRow},
};

use super::{
    database::Pooler,
    open::{CONNECT_TIMEOUT, OLDEST, OpenError, advice, no_answer},
    url::{connect_options, exposure, shown},
};

/// Settings that are not to be off, because a crash may lose acknowledged work then.
const DURABLE: [&str; 3] = ["fsync", "synchronous_commit", "full_page_writes"];

/// What a look at a server found.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The database, without a password.
    pub database: String,
    /// Version of the server.
    pub version: String,
    /// Time for one query.
    pub round_trip: Duration,
    /// Time by which the clock of this machine is ahead of the server's.
    pub clock_ahead: SignedDuration,
    /// Settings of the server that may lose acknowledged work.
    pub lossy_settings: Vec<&'static str>,
    /// Why others may read the connection; absent when they may not.
    pub exposure: Option<&'static str>,
    /// Version of TLS; absent when the connection is not encrypted.
    pub tls: Option<String>,
    /// Why nothing can be written; absent when it can.
    pub read_only: Option<ReadOnly>,
    /// Whether standbys follow the server and none of them is synchronous.
    pub has_asynchronous_standbys_only: bool,
    /// Whether the connection is one to a pooler that gives its connections to the server to any client.
    pub is_pooled: bool,
    /// Connections that this user may have to this database, with those of others.
    pub connections: u32,
    /// Connections that the server has now.
    pub connections_in_use: u32,
    /// What the user may do with the schema.
    pub right: SchemaRight,
}

/// Why a server accepts no writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOnly {
    /// It follows another server.
    Standby,
    /// `default_transaction_read_only` is on, as after a demotion.
    Setting,
}

/// What a user may do with a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaRight {
    /// Create it, or change its tables.
    Migrate,
    /// Use it, and not change its tables.
    Use,
    /// Nothing: it does not exist and cannot be created, or belongs to another user.
    None,
}

/// Connects to the database at `url`, and asks for its state and for the user's rights on `schema`.
///
/// # Errors
/// When the URL is not valid, the server cannot be reached or is too old.
pub async fn inspect(url: &str, pooler: Pooler, schema: &str) -> Result<Inspection, OpenError> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut connect = connect_options(url)?.application_name("phoenix-doctor");
    if pooler == Pooler::Transaction {
        connect = connect.statement_cache_capacity(0).extra_float_digits(None);
    }
    let database = shown(&connect);
    let open =
        |cause: sqlx::Error| OpenError::Open { database: database.clone(), advice: advice(&cause), cause };
    let asked = tokio::time::timeout(CONNECT_TIMEOUT, ask(&connect, schema)).await;
    let Asked { row, round_trip, is_pooled } = asked.unwrap_or_else(|_| Err(no_answer())).map_err(&open)?;
    let version: String = get(&row, "version").map_err(&open)?;
    if get::<i32>(&row, "number").map_err(&open)?.unsigned_abs() < OLDEST {
        return Err(OpenError::TooOld { database, version });
    }
    let found = Found::new(&row).map_err(&open)?;
    Ok(Inspection {
        version,
        round_trip,
        clock_ahead: Timestamp::now().duration_since(found.clock),
        lossy_settings: found.lossy_settings,
        exposure: exposure(&connect),
        tls: found.tls,
        read_only: found.read_only,
        has_asynchronous_standbys_only: found.has_asynchronous_standbys_only,
        is_pooled,
        connections: found.connections,
        connections_in_use: found.connections_in_use,
        right: found.right,
        database,
    })
}

/// Answers of a server.
struct Asked {
    row: PgRow,
    round_trip: Duration,
    is_pooled: bool,
}

async fn ask(connect: &PgConnectOptions, schema: &str) -> Result<Asked, sqlx::Error> {
    let mut connection = connect.connect().await?;
    let started_at = Instant::now();
    // A new server rejects nothing of this; one that is too old may. Its version is asked for alone, therefore.
    let number = "SELECT current_setting('server_version_num')::int AS number, current_setting('server_version') AS version";
    let version = sqlx::raw_sql(number).fetch_one(&mut connection).await?;
    let round_trip = started_at.elapsed();
    if get::<i32>(&version, "number")?.unsigned_abs() < OLDEST {
        return Ok(Asked { row: version, round_trip, is_pooled: false });
    }
    let row = sqlx::raw_sql(AssertSqlSafe(question(schema))).fetch_one(&mut connection).await?;
    // Two clients that are both connected have the same process of the server, in turn.
    let other = async {
        let mut other = connect.connect().await?;
        let process = sqlx::raw_sql("SELECT pg_backend_pid() AS process").fetch_one(&mut other).await?;
        let _ = other.close().await;
        get::<i32>(&process, "process")
    };
    let process: i32 = get(&row, "process")?;
    // A full server has no second connection.
    let is_pooled = other.await.is_ok_and(|other| other == process);
    let _ = connection.close().await;
    Ok(Asked { row, round_trip, is_pooled })
}

/// The query for everything.
fn question(schema: &str) -> String {
    let off = DURABLE.map(|name| format!("current_setting('{name}') = 'off' AS {name}")).join(", ");
    format!(
        "SELECT current_setting('server_version_num')::int AS number, current_setting('server_version') AS version,
                {off}, pg_backend_pid() AS process,
                (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS clock,
                (SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()) AS tls,
                pg_is_in_recovery() AS is_standby, current_setting('transaction_read_only') = 'on' AS is_read_only,
                EXISTS (SELECT FROM pg_stat_replication) AND current_setting('synchronous_standby_names') = ''
                    AS is_asynchronous,
                (SELECT min(value) FROM (VALUES
                    (current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int),
                    ((SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user)),
                    ((SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database()))
                 ) AS limits (value)) AS connections,
                (SELECT count(*)::int FROM pg_stat_activity WHERE backend_type = 'client backend') AS in_use,
                to_regnamespace('{schema}') IS NOT NULL AS exists,
                has_database_privilege(current_database(), 'CREATE') AS may_create,
                coalesce((SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = '{schema}'), FALSE)
                    AS may_migrate,
                coalesce((SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = '{schema}'), FALSE)
                    AS may_use"
    )
}

/// The row of [`question`].
struct Found {
    clock: Timestamp,
    lossy_settings: Vec<&'static str>,
    tls: Option<String>,
    read_only: Option<ReadOnly>,
    has_asynchronous_standbys_only: bool,
    connections: u32,
    connections_in_use: u32,
    right: SchemaRight,
}

impl Found {
    fn new(row: &PgRow) -> Result<Self, sqlx::Error> {
        let is = |name: &str| get::<bool>(row, name);
        let mut lossy_settings = Vec::new();
        for name in DURABLE {
            if is(name)? {
                lossy_settings.push(name);
            }
        }
        let read_only = match (is("is_standby")?, is("is_read_only")?) {
            (true, _) => Some(ReadOnly::Standby),
            (false, is_read_only) => is_read_only.then_some(ReadOnly::Setting),
        };
        let right = match (is("exists")?, is("may_create")?, is("may_migrate")?, is("may_use")?) {
            (true, _, true, _) | (false, true, ..) => SchemaRight::Migrate,
            (true, _, false, true) => SchemaRight::Use,
            _ => SchemaRight::None,
        };
        Ok(Self {
            clock: Timestamp::from_microsecond(get(row, "clock")?).unwrap_or_default(),
            lossy_settings,
            tls: get(row, "tls")?,
            read_only,
            has_asynchronous_standbys_only: is("is_asynchronous")?,
            connections: get::<i32>(row, "connections")?.unsigned_abs(),
            connections_in_use: get::<i32>(row, "in_use")?.unsigned_abs(),
            right,
        })
    }
}

fn get<T>(row: &PgRow, name: &str) -> Result<T, sqlx::Error>
where
    T: for<'a> Decode<'a, Postgres> + Type<Postgres>,
{
    row.try_get(name)
}
