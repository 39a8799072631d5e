//! The health record of an agent, and what it means for callers.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    circuit::{Circuit, CircuitState},
    window::Window,
};
use crate::ids::TaskId;

/// Health of an agent as callers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// The last outcome was a success, or there is none.
    Healthy,
    /// Consecutive failures that have not opened the circuit.
    Degraded,
    /// The circuit is open and no success has closed it, or the agent is isolated.
    Unhealthy,
}

impl HealthState {
    /// Every state.
    pub const ALL: &'static [Self] = &[Self::Healthy, Self::Degraded, Self::Unhealthy];

    /// Name in responses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// Outcome of one attempt, as evidence about its agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The agent succeeded.
    Success,
    /// The agent failed.
    Failure,
    /// No evidence: the attempt was cancelled, or its request was invalid.
    Neutral,
}

/// The end of an attempt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Report {
    /// Outcome.
    pub outcome: Outcome,
    /// Task of the attempt. An attempt without one counts as one of a different task.
    pub task: Option<TaskId>,
    /// Lease of the probe, if the attempt ran as one.
    pub lease: Option<Uuid>,
    /// When it ended.
    pub at: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// Successes before it that were not slow, and are reported with it.
    pub earlier_successes: u32,
    /// A random number from 0 to 1, by which the open time of a circuit varies.
    pub jitter: f64,
}

impl Report {
    /// The end of an attempt that took no time.
    #[must_use]
    pub const fn new(outcome: Outcome, at: Timestamp) -> Self {
        let took = Duration::ZERO;
        Self { outcome, task: None, lease: None, at, took, earlier_successes: 0, jitter: 0.0 }
    }
}

/// Lease of the single attempt that may try an unhealthy agent after the cooldown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Identifier of the lease, which ends with the outcome reported for it.
    pub lease: Uuid,
    /// Expiry, after which another probe is allowed if no outcome was reported.
    pub expires_at: Timestamp,
}

/// Health record of one agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgentHealth {
    /// Failures since the last success, or since an operator restored the agent.
    pub consecutive_failures: u32,
    /// Task of all these failures; `None` when they belong to several tasks, or there are none.
    pub failing_task: Option<TaskId>,
    /// Time of the last failure.
    pub last_failure_at: Option<Timestamp>,
    /// Time of the last success.
    pub last_success_at: Option<Timestamp>,
    /// Time until which no attempt is allowed. When it has passed, a probe is allowed.
    pub circuit_open_until: Option<Timestamp>,
    /// Current probe.
    pub probe: Option<Probe>,
    /// Further state of the circuit.
    pub circuit: Circuit,
    /// Revision, which grows with every change and orders snapshots.
    pub revision: u64,
}

/// Admission of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The attempt may run.
    Allowed,
    /// The open time has passed: the attempt may run if it acquires the probe.
    NeedsProbe,
    /// The attempt must not run before this time.
    Refused {
        /// End of the open time, or of the current probe.
        until: Timestamp,
    },
    /// The attempt must not run before an operator restores the agent.
    Isolated,
}

impl AgentHealth {
    /// Health as callers see it.
    #[must_use]
    pub fn state(&self) -> HealthState {
        match (self.circuit_open_until, self.consecutive_failures) {
            _ if self.circuit.isolation.is_some() => HealthState::Unhealthy,
            (Some(_), _) => HealthState::Unhealthy,
            (None, 0) => HealthState::Healthy,
            (None, _) => HealthState::Degraded,
        }
    }

    /// A copy without the calls of the window.
    #[must_use]
    pub fn without_calls(&self) -> Self {
        let Circuit { openings, successes, was_probed, standing, opened_for, isolation, window: _ } =
            &self.circuit;
        let circuit = Circuit {
            openings: *openings,
            successes: *successes,
            was_probed: *was_probed,
            standing: standing.clone(),
            opened_for: opened_for.clone(),
            isolation: isolation.clone(),
            window: Window::default(),
        };
        Self { circuit, ..*self }
    }

    /// State of the circuit at `now`.
    #[must_use]
    pub fn circuit_state(&self, now: Timestamp) -> CircuitState {
        match self.circuit_open_until {
            _ if self.circuit.isolation.is_some() => CircuitState::Isolated,
            None => CircuitState::Closed,
            Some(until) if until > now => CircuitState::Open,
            Some(_) => CircuitState::HalfOpen,
        }
    }

    /// Admission of an attempt at `now`.
    #[must_use]
    pub fn admission(&self, now: Timestamp) -> Admission {
        match (self.circuit_open_until, self.probe) {
            _ if self.circuit.isolation.is_some() => Admission::Isolated,
            (None, _) => Admission::Allowed,
            (Some(until), _) if until > now => Admission::Refused { until },
            (Some(_), Some(probe)) if probe.expires_at > now => {
                Admission::Refused { until: probe.expires_at }
            }
            (Some(_), _) => Admission::NeedsProbe,
        }
    }

    /// Time of the next probe: the end of the open time, or of the lease of the current probe. `None` for a circuit that is closed
    /// or isolated.
    #[must_use]
    pub fn next_probe_at(&self, now: Timestamp) -> Option<Timestamp> {
        match self.admission(now) {
            Admission::Refused { until } => Some(until),
            Admission::NeedsProbe => self.circuit_open_until,
            Admission::Allowed | Admission::Isolated => None,
        }
    }
}
