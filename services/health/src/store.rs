//! The `agent_health` table in SQLite, which only this module reads and writes.
//!
//! The interface is two calls: [`Store::read`], and [`Store::update`], which passes the current rows to a closure and
//! writes the changed ones back, in one transaction that holds the write lock from its first read.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use phoenix_domain::{
    AgentName, OrchestratorError, OrchestratorErrorCode,
    health::{AgentHealth, Probe},
};
use phoenix_platform::sqlite::{self, Durability, OpenError};
use sqlx::{Row, SqliteConnection, SqlitePool, migrate::Migrator, sqlite::SqliteRow};

/// Migrations of the table.
pub(crate) static MIGRATOR: Migrator = sqlx::migrate!();

/// Wait that callers are asked for when the disk is full or another process holds the file.
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_secs(1);

/// Health by agent.
pub(crate) type States = BTreeMap<AgentName, AgentHealth>;

/// The table.
#[derive(Debug)]
pub(crate) struct Store {
    pool: SqlitePool,
}

/// Reason why the table cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A row holds a value that this service never writes.
    #[error("the row of agent `{agent}` is corrupt: {column} is out of range")]
    CorruptRow {
        /// Agent of the row.
        agent: AgentName,
        /// Column with the value.
        column: &'static str,
    },
    /// SQLite failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl Store {
    /// Opens or creates the database at `url` and migrates its table.
    pub(crate) async fn open(url: &str) -> Result<Self, OpenError> {
        // One connection: there is one writer, and reads are answered from memory.
        let pool = sqlite::open(url, Durability::Process, 1, &MIGRATOR).await?;
        Ok(Self::new(pool))
    }

    /// The table in a database that is open and migrated.
    pub(crate) const fn new(pool: SqlitePool) -> Self {
        Self { pool }
    }

    /// The health of each agent in `names`. An agent without a row is healthy.
    pub(crate) async fn read(&self, names: BTreeSet<AgentName>) -> Result<States, StoreError> {
        let mut connection = self.pool.acquire().await?;
        select_all(&mut connection, names).await
    }

    /// Lets `change` alter the health of `names` atomically, and returns the result. A failed update changes nothing.
    pub(crate) async fn update(
        &self,
        names: BTreeSet<AgentName>,
        change: impl FnOnce(&mut States),
    ) -> Result<States, StoreError> {
        // A deferred transaction could read, lose the race for the write lock, and fail. This one waits for the lock.
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let before = select_all(&mut transaction, names).await?;
        let mut after = before.clone();
        change(&mut after);
        for (agent, health) in after.iter().filter(|(agent, health)| before.get(*agent) != Some(health)) {
            upsert(&mut transaction, agent, health).await?;
        }
        transaction.commit().await?;
        Ok(after)
    }

    /// Checks that the file can be written, by writing to it.
    pub(crate) async fn check_writable(&self) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        // An unused field of the file's header; setting it writes a page even when the value is unchanged.
        sqlx::query("PRAGMA user_version = 0").execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Checkpoints the write-ahead log into the file and closes it.
    pub(crate) async fn close(self) {
        self.pool.close().await;
    }
}

impl StoreError {
    /// Whether the failure may pass without repair of the file: it is locked, full, or the disk is unavailable.
    fn is_transient(&self) -> bool {
        const BUSY: u32 = 5;
        const LOCKED: u32 = 6;
        const READ_ONLY: u32 = 8;
        const IO: u32 = 10;
        const FULL: u32 = 13;
        const CANT_OPEN: u32 = 14;
        match self {
            Self::CorruptRow { .. } => false,
            Self::Database(sqlx::Error::Database(error)) => {
                // The low byte of an extended result code is the primary one (https://sqlite.org/rescode.html).
                let code = error.code().and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xff);
                matches!(code, Some(BUSY | LOCKED | READ_ONLY | IO | FULL | CANT_OPEN))
            }
            Self::Database(error) => matches!(error, sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut),
        }
    }
}

/// The error that callers get. The cause is for the operator's log.
impl From<&StoreError> for OrchestratorError {
    fn from(error: &StoreError) -> Self {
        if error.is_transient() {
            let message = "agents' health cannot be recorded at the moment; retry after 1 s";
            Self::new(OrchestratorErrorCode::Unavailable, message).with_retry_after(RETRY_AFTER)
        } else {
            Self::internal("agents' health cannot be recorded")
        }
    }
}

async fn select_all(
    connection: &mut SqliteConnection,
    names: BTreeSet<AgentName>,
) -> Result<States, StoreError> {
    let mut states = States::new();
    for agent in names {
        let row = sqlx::query(
            "SELECT consecutive_failures, failing_task, last_failure_at, last_success_at, circuit_open_until,
                    probe_lease, probe_expires_at, revision
             FROM agent_health WHERE agent_id = ?",
        )
        .bind(agent.as_str())
        .fetch_optional(&mut *connection)
        .await?;
        let health = row.map(|row| decode(&agent, &row)).transpose()?.unwrap_or_default();
        states.insert(agent, health);
    }
    Ok(states)
}

async fn upsert(
    connection: &mut SqliteConnection,
    agent: &AgentName,
    health: &AgentHealth,
) -> Result<(), StoreError> {
    let AgentHealth {
        consecutive_failures,
        failing_task,
        last_failure_at,
        last_success_at,
        circuit_open_until,
        probe,
        revision,
    } = *health;
    let micros = |time: Option<Timestamp>| time.map(Timestamp::as_microsecond);
    sqlx::query(
        "INSERT INTO agent_health (agent_id, consecutive_failures, failing_task, last_failure_at, last_success_at,
                                   circuit_open_until, probe_lease, probe_expires_at, revision)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (agent_id) DO UPDATE SET
             consecutive_failures = excluded.consecutive_failures,
             failing_task = excluded.failing_task,
             last_failure_at = excluded.last_failure_at,
             last_success_at = excluded.last_success_at,
             circuit_open_until = excluded.circuit_open_until,
             probe_lease = excluded.probe_lease,
             probe_expires_at = excluded.probe_expires_at,
             revision = excluded.revision",
    )
    .bind(agent.as_str())
    .bind(i64::from(consecutive_failures))
    .bind(failing_task.map(|task| task.to_string()))
    .bind(micros(last_failure_at))
    .bind(micros(last_success_at))
    .bind(micros(circuit_open_until))
    .bind(probe.map(|probe| probe.lease.to_string()))
    .bind(micros(probe.map(|probe| probe.expires_at)))
    .bind(i64::try_from(revision).unwrap_or(i64::MAX))
    .execute(connection)
    .await?;
    Ok(())
}

fn decode(agent: &AgentName, row: &SqliteRow) -> Result<AgentHealth, StoreError> {
    let corrupt = |column| StoreError::CorruptRow { agent: agent.clone(), column };
    let time = |column| -> Result<Option<Timestamp>, StoreError> {
        let micros: Option<i64> = row.try_get(column)?;
        micros.map(Timestamp::from_microsecond).transpose().map_err(|_| corrupt(column))
    };
    let failing_task: Option<&str> = row.try_get("failing_task")?;
    let lease: Option<&str> = row.try_get("probe_lease")?;
    let lease = lease.map(str::parse).transpose().map_err(|_| corrupt("probe_lease"))?;
    let probe = lease.zip(time("probe_expires_at")?);
    Ok(AgentHealth {
        consecutive_failures: u32::try_from(row.try_get::<i64, _>("consecutive_failures")?)
            .map_err(|_| corrupt("consecutive_failures"))?,
        failing_task: failing_task.map(str::parse).transpose().map_err(|_| corrupt("failing_task"))?,
        last_failure_at: time("last_failure_at")?,
        last_success_at: time("last_success_at")?,
        circuit_open_until: time("circuit_open_until")?,
        probe: probe.map(|(lease, expires_at)| Probe { lease, expires_at }),
        revision: u64::try_from(row.try_get::<i64, _>("revision")?).map_err(|_| corrupt("revision"))?,
    })
}
