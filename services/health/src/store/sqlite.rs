//! The table in a file of SQLite.

use std::collections::BTreeSet;

use jiff::Timestamp;
use phoenix_domain::{
    AgentName,
    health::{AgentHealth, Transition},
};
use phoenix_platform::sqlite::{self, Durability, OpenError};
use sqlx::{SqliteConnection, SqlitePool, migrate::Migrator};

use super::{
    error::StoreError,
    row::{Row, States, stored_precision},
    transition::{KEPT, TransitionRow, Transitions},
};

/// Migrations of the table.
static MIGRATOR: Migrator = sqlx::migrate!();

/// The table in a file.
#[derive(Debug)]
pub(crate) struct SqliteStore {
    pool: SqlitePool,
}

impl SqliteStore {
    pub(super) async fn open(url: &str) -> Result<Self, OpenError> {
        // One connection: there is one writer, and reads are answered from memory.
        let pool = sqlite::open(url, Durability::Process, 1, &MIGRATOR).await?;
        Ok(Self { pool })
    }

    pub(super) async fn read(&self, names: &BTreeSet<AgentName>) -> Result<States, StoreError> {
        let mut connection = self.pool.acquire().await?;
        select_all(&mut connection, names).await
    }

    pub(super) async fn update(
        &self,
        names: &BTreeSet<AgentName>,
        mut change: impl FnMut(&mut States, Timestamp) -> Transitions,
    ) -> Result<States, StoreError> {
        // A deferred transaction could read, lose the race for the write lock, and fail. This one waits for the lock.
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let before = select_all(&mut transaction, names).await?;
        let mut after = before.clone();
        let transitions = change(&mut after, stored_precision(Timestamp::now()));
        for (agent, health) in after.iter().filter(|(agent, health)| before.get(*agent) != Some(health)) {
            upsert(&mut transaction, agent, health).await?;
        }
        for (agent, transition) in &transitions {
            append(&mut transaction, agent, transition).await?;
        }
        transaction.commit().await?;
        Ok(after)
    }

    pub(super) async fn transitions(
        &self,
        agent: &AgentName,
        limit: u32,
    ) -> Result<Vec<Transition>, StoreError> {
        let rows: Vec<TransitionRow> = sqlx::query_as(
            "SELECT revision, changed_at, from_state, to_state, cause, reason, actor, evidence
             FROM circuit_transitions WHERE agent_id = ? ORDER BY revision DESC LIMIT ?",
        )
        .bind(agent.as_str())
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(|row| row.decode(agent)).collect()
    }

    pub(super) async fn check_writable(&self) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        // An unused field of the file's header; setting it writes a page even when the value is unchanged.
        sqlx::query("PRAGMA user_version = 0").execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Checkpoints the write-ahead log into the file and closes it.
    pub(super) async fn close(self) {
        self.pool.close().await;
    }

    /// Makes the storage of a test fail.
    #[cfg(test)]
    pub(crate) async fn execute(&self, sql: &'static str) {
        sqlx::query(sql).execute(&self.pool).await.unwrap();
    }
}

async fn select_all(
    connection: &mut SqliteConnection,
    names: &BTreeSet<AgentName>,
) -> Result<States, StoreError> {
    let mut states = States::new();
    for agent in names {
        let row: Option<Row> = sqlx::query_as(
            "SELECT consecutive_failures, failing_task, last_failure_at, last_success_at, circuit_open_until,
                    probe_lease, probe_expires_at, circuit, revision
             FROM agent_health WHERE agent_id = ?",
        )
        .bind(agent.as_str())
        .fetch_optional(&mut *connection)
        .await?;
        let health = row.map(|row| row.decode(agent)).transpose()?.unwrap_or_default();
        states.insert(agent.clone(), health);
    }
    Ok(states)
}

async fn upsert(
    connection: &mut SqliteConnection,
    agent: &AgentName,
    health: &AgentHealth,
) -> Result<(), StoreError> {
    let row = Row::from(health);
    sqlx::query(
        "INSERT INTO agent_health (agent_id, consecutive_failures, failing_task, last_failure_at, last_success_at,
                                   circuit_open_until, probe_lease, probe_expires_at, circuit, revision)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (agent_id) DO UPDATE SET
             consecutive_failures = excluded.consecutive_failures,
             failing_task = excluded.failing_task,
             last_failure_at = excluded.last_failure_at,
             last_success_at = excluded.last_success_at,
             circuit_open_until = excluded.circuit_open_until,
             probe_lease = excluded.probe_lease,
             probe_expires_at = excluded.probe_expires_at,
             circuit = excluded.circuit,
             revision = excluded.revision",
    )
    .bind(agent.as_str())
    .bind(row.consecutive_failures)
    .bind(row.failing_task)
    .bind(row.last_failure_at)
    .bind(row.last_success_at)
    .bind(row.circuit_open_until)
    .bind(row.probe_lease)
    .bind(row.probe_expires_at)
    .bind(row.circuit)
    .bind(row.revision)
    .execute(connection)
    .await?;
    Ok(())
}

/// Appends a change of a circuit, and deletes the oldest ones.
async fn append(
    connection: &mut SqliteConnection,
    agent: &AgentName,
    transition: &Transition,
) -> Result<(), StoreError> {
    let row = TransitionRow::from(transition);
    sqlx::query(
        "INSERT INTO circuit_transitions (agent_id, revision, changed_at, from_state, to_state, cause, reason, actor, evidence)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(agent.as_str())
    .bind(row.revision)
    .bind(row.changed_at)
    .bind(row.from_state)
    .bind(row.to_state)
    .bind(row.cause)
    .bind(row.reason)
    .bind(row.actor)
    .bind(row.evidence)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "DELETE FROM circuit_transitions WHERE agent_id = ?1 AND revision <= (
             SELECT revision FROM circuit_transitions WHERE agent_id = ?1 ORDER BY revision DESC LIMIT 1 OFFSET ?2
         )",
    )
    .bind(agent.as_str())
    .bind(KEPT)
    .execute(connection)
    .await?;
    Ok(())
}
