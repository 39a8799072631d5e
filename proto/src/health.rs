//! Health of agents on the wire.

use jiff::Timestamp;
use phoenix_domain::{
    AgentName,
    health::{
        AgentHealth, Cause, Circuit, CircuitState, Evidence, HealthState, Isolation, Outcome, Probe,
        Standing, Transition,
    },
};

use crate::{InvalidField, common, health_v1, id, optional, required_timestamp, timestamp, to_timestamp};

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
    /// Why and since when the circuit is closed, open or isolated; absent when it has never changed.
    pub standing: Option<Standing>,
    /// The operator's decision, while the agent is isolated.
    pub isolation: Option<Isolation>,
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
            circuit: Circuit { ref standing, ref isolation, .. },
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
            standing: standing.clone(),
            isolation: isolation.clone(),
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
            standing,
            isolation,
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
            standing: standing.map(Into::into),
            isolation: isolation.map(Into::into),
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
            standing,
            isolation,
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
            // A cause of a newer service is not worth the whole snapshot.
            standing: standing.and_then(|standing| standing.try_into().ok()),
            isolation: isolation.map(TryInto::try_into).transpose()?,
            revision,
        })
    }
}

impl From<Standing> for common::CircuitStanding {
    fn from(Standing { since, cause, reason }: Standing) -> Self {
        Self { since: Some(to_timestamp(since)), cause: cause.as_str().into(), reason }
    }
}

impl TryFrom<common::CircuitStanding> for Standing {
    type Error = InvalidField;

    fn try_from(wire: common::CircuitStanding) -> Result<Self, InvalidField> {
        let common::CircuitStanding { since, cause, reason } = wire;
        Ok(Self { since: required_timestamp("since", since)?, cause: decode_cause(&cause)?, reason })
    }
}

impl From<Isolation> for common::Isolation {
    fn from(Isolation { actor, reason, at }: Isolation) -> Self {
        Self { actor, reason, at: Some(to_timestamp(at)) }
    }
}

impl TryFrom<common::Isolation> for Isolation {
    type Error = InvalidField;

    fn try_from(common::Isolation { actor, reason, at }: common::Isolation) -> Result<Self, InvalidField> {
        Ok(Self { actor, reason, at: required_timestamp("at", at)? })
    }
}

impl From<Transition> for health_v1::CircuitTransition {
    fn from(transition: Transition) -> Self {
        let Transition { at, from, to, cause, reason, actor, evidence, revision: _ } = transition;
        let Evidence { consecutive_failures, calls, failed, slow, tasks, took_ms, task, open_until } =
            evidence;
        let evidence = health_v1::CircuitEvidence {
            consecutive_failures,
            calls,
            failed,
            slow,
            tasks,
            took_ms,
            task_id: task.map(|task| task.to_string()).unwrap_or_default(),
            open_until: open_until.map(to_timestamp),
        };
        Self {
            at: Some(to_timestamp(at)),
            from: from.as_str().into(),
            to: to.as_str().into(),
            cause: cause.as_str().into(),
            reason,
            actor: actor.unwrap_or_default(),
            evidence: Some(evidence),
        }
    }
}

impl TryFrom<health_v1::CircuitTransition> for Transition {
    type Error = InvalidField;

    /// The change without its revision, which stays in the table.
    fn try_from(wire: health_v1::CircuitTransition) -> Result<Self, InvalidField> {
        let health_v1::CircuitTransition { at, from, to, cause, reason, actor, evidence } = wire;
        let health_v1::CircuitEvidence {
            consecutive_failures,
            calls,
            failed,
            slow,
            tasks,
            took_ms,
            task_id,
            open_until,
        } = evidence.unwrap_or_default();
        Ok(Self {
            at: required_timestamp("at", at)?,
            from: decode_state("from", &from)?,
            to: decode_state("to", &to)?,
            cause: decode_cause(&cause)?,
            reason,
            actor: Some(actor).filter(|actor| !actor.is_empty()),
            evidence: Evidence {
                consecutive_failures,
                calls,
                failed,
                slow,
                tasks,
                took_ms,
                task: optional("task_id", &task_id)?,
                open_until: timestamp("open_until", open_until)?,
            },
            revision: 0,
        })
    }
}

/// The state of a circuit with this name.
///
/// # Errors
/// For a name that this version does not know.
pub fn decode_state(field: &'static str, name: &str) -> Result<CircuitState, InvalidField> {
    CircuitState::from_name(name)
        .ok_or_else(|| InvalidField::new(field, "is not a state that this version knows"))
}

fn decode_cause(name: &str) -> Result<Cause, InvalidField> {
    Cause::from_name(name).ok_or_else(|| InvalidField::new("cause", "is not a cause that this version knows"))
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
                standing: times.0.map(|since| Standing { since, cause: Cause::SlowCalls, reason: "slow".into() }),
                isolation: times.1.map(|at| Isolation { actor: "a".into(), reason: "b".into(), at }),
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
