//! Statements of the table in PostgreSQL. Those with parameters run in a transaction, which a pooler may require.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use phoenix_domain::{AgentName, health::AgentHealth};
use phoenix_platform::postgres::Session;
use sqlx::{AssertSqlSafe, FromRow, PgConnection, Row as _, postgres::PgRow};

use super::super::{
    error::StoreError,
    row::{Row, States},
    transition::{KEPT, TransitionRow, Transitions},
};

/// Schema of the table.
pub const SCHEMA: &str = "phoenix_health";

/// Channel of the notifications of changes; the payload names the process that made them.
pub(super) const CHANNEL: &str = "phoenix_health";

/// Rows of a query, with the time of the server.
pub(super) struct Rows {
    pub(super) now: Timestamp,
    found: BTreeMap<String, Row>,
}

/// Rows that the transaction `xid` holds.
pub(super) struct Locked {
    pub(super) rows: Rows,
    pub(super) xid: String,
}

/// Fate of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum XactStatus {
    Committed,
    Aborted,
    InProgress,
}

impl Rows {
    fn of(rows: &[PgRow]) -> Result<Self, sqlx::Error> {
        let mut found = BTreeMap::new();
        let mut now = 0;
        for row in rows {
            now = row.try_get("now")?;
            if let Some(agent) = row.try_get("agent_id")? {
                found.insert(agent, Row::from_row(row)?);
            }
        }
        let now = Timestamp::from_microsecond(now).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok(Self { now, found })
    }

    /// The health of each agent in `names`.
    pub(super) fn decode(mut self, names: &BTreeSet<AgentName>) -> Result<States, StoreError> {
        let states = names.iter().map(|agent| {
            let row = self.found.remove(agent.as_str());
            let health = row.map(|row| row.decode(agent)).transpose()?.unwrap_or_default();
            Ok((agent.clone(), health))
        });
        states.collect()
    }
}

/// Reads the rows of `names`.
pub(super) async fn read(
    session: &mut Session,
    names: &BTreeSet<AgentName>,
    persistent: bool,
) -> Result<Rows, sqlx::Error> {
    let mut transaction = session.begin().await?;
    // One row without an agent, for the time, if there are no others.
    let rows = sqlx::query(
        "SELECT agent_id, coalesce(consecutive_failures, 0) AS consecutive_failures, failing_task::text, last_failure_at,
                last_success_at, circuit_open_until, probe_lease::text, probe_expires_at, coalesce(circuit, '{}') AS circuit,
                coalesce(revision, 0) AS revision,
                (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now
         FROM (SELECT 1) AS one LEFT JOIN phoenix_health.agent_health ON agent_id = ANY($1)",
    )
    .bind(texts(names))
    .persistent(persistent)
    .fetch_all(&mut *transaction)
    .await?;
    transaction.rollback().await?;
    Rows::of(&rows)
}

/// Creates the rows of `names` that do not exist. Their order is the same in every process, so that none waits for another in
/// a circle.
pub(super) async fn create(
    session: &mut Session,
    names: &[AgentName],
    persistent: bool,
) -> Result<(), sqlx::Error> {
    let mut transaction = session.begin().await?;
    sqlx::query(
        "INSERT INTO phoenix_health.agent_health (agent_id, consecutive_failures, revision)
         SELECT agent_id, 0, 0 FROM unnest($1::text[]) AS agent_id ORDER BY agent_id COLLATE \"C\"
         ON CONFLICT (agent_id) DO NOTHING",
    )
    .bind(texts(names))
    .persistent(persistent)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

/// Locks the rows of `names` in their order, and reads them. `None` when one does not exist.
pub(super) async fn lock(
    connection: &mut PgConnection,
    names: &BTreeSet<AgentName>,
    persistent: bool,
) -> Result<Option<Locked>, sqlx::Error> {
    // The time is that after the wait for the locks.
    let rows = sqlx::query(
        "WITH locked AS MATERIALIZED (
             SELECT * FROM phoenix_health.agent_health WHERE agent_id = ANY($1) ORDER BY agent_id FOR UPDATE
         )
         SELECT agent_id, consecutive_failures, failing_task::text, last_failure_at, last_success_at, circuit_open_until,
                probe_lease::text, probe_expires_at, circuit, revision,
                (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now, pg_current_xact_id()::text AS xid
         FROM locked",
    )
    .bind(texts(names))
    .persistent(persistent)
    .fetch_all(connection)
    .await?;
    match rows.first() {
        Some(first) if rows.len() == names.len() => {
            Ok(Some(Locked { xid: first.try_get("xid")?, rows: Rows::of(&rows)? }))
        }
        _ => Ok(None),
    }
}

/// Writes rows, and notifies the other processes that the process `id` did so.
pub(super) async fn write(
    connection: &mut PgConnection,
    changed: &[(&AgentName, &AgentHealth)],
    id: &str,
    persistent: bool,
) -> Result<(), sqlx::Error> {
    let agents = changed.iter().map(|(agent, _)| agent.as_str()).collect::<Vec<_>>();
    let rows: Vec<Row> = changed.iter().map(|(_, health)| Row::from(*health)).collect();
    sqlx::query(
        "WITH written AS (
             UPDATE phoenix_health.agent_health AS stored SET
                 consecutive_failures = new.consecutive_failures,
                 failing_task = new.failing_task::uuid,
                 last_failure_at = new.last_failure_at,
                 last_success_at = new.last_success_at,
                 circuit_open_until = new.circuit_open_until,
                 probe_lease = new.probe_lease::uuid,
                 probe_expires_at = new.probe_expires_at,
                 circuit = new.circuit,
                 revision = new.revision
             FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[],
                         $8::bigint[], $9::text[], $10::bigint[])
                 AS new(agent_id, consecutive_failures, failing_task, last_failure_at, last_success_at,
                        circuit_open_until, probe_lease, probe_expires_at, circuit, revision)
             WHERE stored.agent_id = new.agent_id
         )
         SELECT pg_notify($11, $12)",
    )
    .bind(agents)
    .bind(column(&rows, |row| row.consecutive_failures))
    .bind(column(&rows, |row| row.failing_task.clone()))
    .bind(column(&rows, |row| row.last_failure_at))
    .bind(column(&rows, |row| row.last_success_at))
    .bind(column(&rows, |row| row.circuit_open_until))
    .bind(column(&rows, |row| row.probe_lease.clone()))
    .bind(column(&rows, |row| row.probe_expires_at))
    .bind(column(&rows, |row| row.circuit.clone()))
    .bind(column(&rows, |row| row.revision))
    .bind(CHANNEL)
    .bind(id)
    .persistent(persistent)
    .execute(connection)
    .await?;
    Ok(())
}

/// Appends changes of circuits, and deletes the oldest ones of their agents.
pub(super) async fn append(
    connection: &mut PgConnection,
    transitions: &Transitions,
    persistent: bool,
) -> Result<(), sqlx::Error> {
    for (agent, transition) in transitions {
        let row = TransitionRow::from(transition);
        sqlx::query(
            "WITH kept AS (
                 SELECT revision FROM phoenix_health.circuit_transitions
                 WHERE agent_id = $1 ORDER BY revision DESC LIMIT 1 OFFSET $10::bigint - 1
             ), deleted AS (
                 DELETE FROM phoenix_health.circuit_transitions
                 WHERE agent_id = $1 AND revision <= (SELECT revision FROM kept)
             )
             INSERT INTO phoenix_health.circuit_transitions
                 (agent_id, revision, changed_at, from_state, to_state, cause, reason, actor, evidence)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
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
        .bind(KEPT)
        .persistent(persistent)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Reads the newest changes of an agent's circuit, the newest first.
pub(super) async fn transitions(
    session: &mut Session,
    agent: &AgentName,
    limit: u32,
    persistent: bool,
) -> Result<Vec<TransitionRow>, sqlx::Error> {
    let mut transaction = session.begin().await?;
    let rows = sqlx::query_as(
        "SELECT revision, changed_at, from_state, to_state, cause, reason, actor, evidence
         FROM phoenix_health.circuit_transitions WHERE agent_id = $1 ORDER BY revision DESC LIMIT $2",
    )
    .bind(agent.as_str())
    .bind(i64::from(limit))
    .persistent(persistent)
    .fetch_all(&mut *transaction)
    .await?;
    transaction.rollback().await?;
    Ok(rows)
}

/// The fate of the transaction `xid`.
pub(super) async fn status(connection: &mut PgConnection, xid: &str) -> Result<XactStatus, sqlx::Error> {
    let sql = format!("SELECT pg_xact_status('{xid}'::xid8)");
    let row = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(connection).await?;
    Ok(match row.try_get::<Option<String>, _>(0)?.as_deref() {
        Some("committed") => XactStatus::Committed,
        Some("in progress") => XactStatus::InProgress,
        _ => XactStatus::Aborted,
    })
}

/// Writes a row as it is.
pub(super) async fn touch(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    const TOUCH: &str = "UPDATE phoenix_health.agent_health SET revision = revision
                         WHERE agent_id = (SELECT min(agent_id) FROM phoenix_health.agent_health)";
    sqlx::raw_sql(TOUCH).execute(connection).await.map(drop)
}

fn column<T>(rows: &[Row], value: impl Fn(&Row) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

fn texts<'a>(names: impl IntoIterator<Item = &'a AgentName>) -> Vec<String> {
    names.into_iter().map(|name| name.as_str().to_owned()).collect()
}
