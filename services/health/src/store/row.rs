//! Rows of the table, the same in every database.

use std::collections::BTreeMap;

use jiff::Timestamp;
use phoenix_domain::{
    AgentName,
    health::{AgentHealth, Probe},
};

use super::error::StoreError;

/// Health by agent.
pub(crate) type States = BTreeMap<AgentName, AgentHealth>;

/// `time` in the precision of the table, so that memory and table always agree.
pub(crate) fn stored_precision(time: Timestamp) -> Timestamp {
    // In range, because it only loses digits.
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

/// The values of a row, without its agent. Times are microseconds since the epoch, identifiers texts.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct Row {
    pub(super) consecutive_failures: i64,
    pub(super) failing_task: Option<String>,
    pub(super) last_failure_at: Option<i64>,
    pub(super) last_success_at: Option<i64>,
    pub(super) circuit_open_until: Option<i64>,
    pub(super) probe_lease: Option<String>,
    pub(super) probe_expires_at: Option<i64>,
    /// Further state of the circuit as JSON.
    pub(super) circuit: String,
    pub(super) revision: i64,
}

impl From<&AgentHealth> for Row {
    fn from(health: &AgentHealth) -> Self {
        let AgentHealth {
            consecutive_failures,
            failing_task,
            last_failure_at,
            last_success_at,
            circuit_open_until,
            probe,
            ref circuit,
            revision,
        } = *health;
        let micros = |time: Option<Timestamp>| time.map(Timestamp::as_microsecond);
        Self {
            consecutive_failures: i64::from(consecutive_failures),
            failing_task: failing_task.map(|task| task.to_string()),
            last_failure_at: micros(last_failure_at),
            last_success_at: micros(last_success_at),
            circuit_open_until: micros(circuit_open_until),
            probe_lease: probe.map(|probe| probe.lease.to_string()),
            probe_expires_at: micros(probe.map(|probe| probe.expires_at)),
            // Numbers, times and texts, which always have a JSON form.
            circuit: serde_json::to_string(circuit).unwrap_or_else(|_| "{}".into()),
            revision: i64::try_from(revision).unwrap_or(i64::MAX),
        }
    }
}

impl Row {
    /// The health of `agent`, whose row this is.
    pub(super) fn decode(self, agent: &AgentName) -> Result<AgentHealth, StoreError> {
        let Self {
            consecutive_failures,
            failing_task,
            last_failure_at,
            last_success_at,
            circuit_open_until,
            probe_lease,
            probe_expires_at,
            circuit,
            revision,
        } = self;
        let corrupt = |column| StoreError::CorruptRow { agent: agent.clone(), column };
        let time = |column, micros: Option<i64>| {
            micros.map(Timestamp::from_microsecond).transpose().map_err(|_| corrupt(column))
        };
        let failing_task = failing_task.map(|task| task.parse()).transpose();
        let lease = probe_lease.map(|lease| lease.parse()).transpose().map_err(|_| corrupt("probe_lease"))?;
        let probe = lease.zip(time("probe_expires_at", probe_expires_at)?);
        Ok(AgentHealth {
            consecutive_failures: u32::try_from(consecutive_failures)
                .map_err(|_| corrupt("consecutive_failures"))?,
            failing_task: failing_task.map_err(|_| corrupt("failing_task"))?,
            last_failure_at: time("last_failure_at", last_failure_at)?,
            last_success_at: time("last_success_at", last_success_at)?,
            circuit_open_until: time("circuit_open_until", circuit_open_until)?,
            probe: probe.map(|(lease, expires_at)| Probe { lease, expires_at }),
            circuit: serde_json::from_str(&circuit).map_err(|_| corrupt("circuit"))?,
            revision: u64::try_from(revision).map_err(|_| corrupt("revision"))?,
        })
    }
}
