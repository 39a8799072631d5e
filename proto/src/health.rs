//! Health of agents on the wire.

use jiff::Timestamp;
use phoenix_domain::{
    AgentName,
    health::{AgentHealth, HealthState, Outcome, Probe},
};

use crate::{InvalidField, common, health_v1, id, timestamp, to_timestamp};

/// Health of one agent as callers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthSnapshot {
    /// Name of the agent.
    pub agent: AgentName,
    /// Healthy, degraded or unhealthy.
    pub state: HealthState,
    /// Failures since the last success.
    pub consecutive_failures: u32,
    /// Time of the last failure.
    pub last_failure_at: Option<Timestamp>,
    /// Time of the last success.
    pub last_success_at: Option<Timestamp>,
    /// Time until which no attempt is allowed; when it has passed, a probe is allowed.
    pub circuit_open_until: Option<Timestamp>,
    /// Expiry of the current probe.
    pub probe_until: Option<Timestamp>,
    /// Revision. The snapshot with the higher revision is newer.
    pub revision: u64,
}

impl HealthSnapshot {
    /// The snapshot of `health`.
    #[must_use]
    pub fn of(agent: AgentName, health: &AgentHealth) -> Self {
        let AgentHealth {
            consecutive_failures,
            failing_task: _,
            last_failure_at,
            last_success_at,
            circuit_open_until,
            probe,
            revision,
        } = *health;
        Self {
            agent,
            state: health.state(),
            consecutive_failures,
            last_failure_at,
            last_success_at,
            circuit_open_until,
            probe_until: probe.map(|Probe { lease: _, expires_at }| expires_at),
            revision,
        }
    }
}

impl From<HealthSnapshot> for common::AgentHealth {
    fn from(snapshot: HealthSnapshot) -> Self {
        let HealthSnapshot {
            agent,
            state,
            consecutive_failures,
            last_failure_at,
            last_success_at,
            circuit_open_until,
            probe_until,
            revision,
        } = snapshot;
        let health = match state {
            HealthState::Healthy => common::HealthState::Healthy,
            HealthState::Degraded => common::HealthState::Degraded,
            HealthState::Unhealthy => common::HealthState::Unhealthy,
        };
        Self {
            agent_id: agent.into(),
            health: health.into(),
            consecutive_failures,
            last_failure_at: last_failure_at.map(to_timestamp),
            last_success_at: last_success_at.map(to_timestamp),
            circuit_open_until: circuit_open_until.map(to_timestamp),
            probe_until: probe_until.map(to_timestamp),
            revision,
        }
    }
}

impl TryFrom<common::AgentHealth> for HealthSnapshot {
    type Error = InvalidField;

    fn try_from(wire: common::AgentHealth) -> Result<Self, InvalidField> {
        let state = match wire.health() {
            common::HealthState::Healthy => HealthState::Healthy,
            common::HealthState::Degraded => HealthState::Degraded,
            common::HealthState::Unhealthy => HealthState::Unhealthy,
            common::HealthState::Unspecified => return Err(InvalidField::new("health", "is missing")),
        };
        let common::AgentHealth {
            agent_id,
            health: _,
            consecutive_failures,
            last_failure_at,
            last_success_at,
            circuit_open_until,
            probe_until,
            revision,
        } = wire;
        Ok(Self {
            agent: id("agent_id", &agent_id)?,
            state,
            consecutive_failures,
            last_failure_at: timestamp("last_failure_at", last_failure_at)?,
            last_success_at: timestamp("last_success_at", last_success_at)?,
            circuit_open_until: timestamp("circuit_open_until", circuit_open_until)?,
            probe_until: timestamp("probe_until", probe_until)?,
            revision,
        })
    }
}

impl From<Outcome> for health_v1::Outcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Success => Self::Success,
            Outcome::Failure => Self::Failure,
            Outcome::Neutral => Self::Neutral,
        }
    }
}

impl TryFrom<health_v1::Outcome> for Outcome {
    type Error = InvalidField;

    fn try_from(outcome: health_v1::Outcome) -> Result<Self, InvalidField> {
        match outcome {
            health_v1::Outcome::Success => Ok(Self::Success),
            health_v1::Outcome::Failure => Ok(Self::Failure),
            health_v1::Outcome::Neutral => Ok(Self::Neutral),
            health_v1::Outcome::Unspecified => Err(InvalidField::new("outcome", "is missing")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time() -> impl Strategy<Value = Option<Timestamp>> {
        prop::option::of(
            (0i64..4_000_000_000, 0i32..1_000_000_000).prop_map(|(s, n)| Timestamp::new(s, n).unwrap()),
        )
    }

    proptest! {
        #[test]
        fn snapshot_round_trips_through_the_wire(
            state in prop::sample::select(HealthState::ALL), failures in any::<u32>(), revision in any::<u64>(),
            times in (time(), time(), time(), time()),
        ) {
            let snapshot = HealthSnapshot {
                agent: "git_agent".parse().unwrap(),
                state,
                consecutive_failures: failures,
                last_failure_at: times.0,
                last_success_at: times.1,
                circuit_open_until: times.2,
                probe_until: times.3,
                revision,
            };
            let wire = common::AgentHealth::from(snapshot.clone());
            prop_assert_eq!(HealthSnapshot::try_from(wire), Ok(snapshot));
        }
    }

    #[test]
    fn missing_state_names_its_field() {
        let wire = common::AgentHealth { agent_id: "a".into(), ..Default::default() };
        assert_eq!(HealthSnapshot::try_from(wire).unwrap_err().field, "health");
    }
}
