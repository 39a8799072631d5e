//! Circuits: their states, what changes them, and what is kept of a change.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::window::Window;
use crate::{
    actor::check_actor,
    error::OrchestratorError,
    ids::TaskId,
    limits::{MAX_REASON_BYTES, check_text},
};

/// State of a circuit at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CircuitState {
    /// Tasks run.
    Closed,
    /// Tasks are refused until the next probe.
    Open,
    /// One probe runs or may run; other tasks are refused.
    HalfOpen,
    /// Tasks are refused until an operator restores the agent.
    Isolated,
}

/// Cause of a change of a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Failures in a row opened the circuit, or kept it open.
    ConsecutiveFailures,
    /// The rate of failed calls opened it.
    FailureRate,
    /// The rate of slow calls opened it.
    SlowCalls,
    /// A probe failed.
    FailedProbe,
    /// A probe was slow.
    SlowProbe,
    /// The open time has passed, and a probe was started.
    ProbeStarted,
    /// Successes closed the circuit.
    Recovered,
    /// An operator isolated the agent.
    Isolated,
    /// An operator restored the agent.
    Restored,
}

/// An operator's decision that an agent gets no tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    /// Who decided it, as the request says.
    pub actor: String,
    /// Reason that the request gives.
    pub reason: String,
    /// Time of the decision.
    pub at: Timestamp,
}

/// What was known at a change of a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Evidence {
    /// Failures since the last success.
    pub consecutive_failures: u32,
    /// Calls in the window.
    pub calls: u32,
    /// Failed calls in the window.
    pub failed: u32,
    /// Slow calls in the window.
    pub slow: u32,
    /// Tasks of the calls that opened the circuit.
    pub tasks: u32,
    /// Time of the last call in milliseconds.
    pub took_ms: u64,
    /// Task whose outcome changed the circuit.
    pub task: Option<TaskId>,
    /// When the circuit admits the next probe, if it is open.
    pub open_until: Option<Timestamp>,
}

/// A change of a circuit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// Time of the change.
    pub at: Timestamp,
    /// State before it.
    pub from: CircuitState,
    /// State after it.
    pub to: CircuitState,
    /// Cause.
    pub cause: Cause,
    /// Cause as a sentence for readers; for an isolation, the operator's reason.
    pub reason: String,
    /// Who isolated or restored the agent.
    pub actor: Option<String>,
    /// What was known.
    pub evidence: Evidence,
    /// Revision of the agent's health after it.
    pub revision: u64,
}

/// Why and since when a circuit is as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Time of the last change between closed, open and isolated.
    pub since: Timestamp,
    /// Its cause.
    pub cause: Cause,
    /// Its reason.
    pub reason: String,
}

/// What an agent's health keeps for its circuit, apart from its deadline and its probe.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Circuit {
    /// Openings since the circuit was last closed.
    #[serde(skip_serializing_if = "is_zero")]
    pub openings: u32,
    /// Successes since the last opening.
    #[serde(skip_serializing_if = "is_zero")]
    pub successes: u32,
    /// Whether a probe was started since the last opening.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub was_probed: bool,
    /// The last change; absent when there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standing: Option<Standing>,
    /// Reason of the first opening since the circuit was last closed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub opened_for: String,
    /// The operator's decision, while the agent is isolated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// The newest calls, while the circuit is closed.
    #[serde(skip_serializing_if = "Window::is_empty")]
    pub window: Window,
}

/// Validates who isolates or restores an agent, and why.
///
/// # Errors
/// `validation_failed` that names `actor` or `reason`, when it is blank or too long.
pub fn check_decision(actor: &str, reason: &str) -> Result<(), OrchestratorError> {
    check_actor(actor)?;
    if reason.trim().is_empty() {
        return Err(OrchestratorError::invalid("reason", "must not be blank"));
    }
    check_text("reason", reason, MAX_REASON_BYTES)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands fields over by reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl CircuitState {
    /// Every state.
    pub const ALL: &'static [Self] = &[Self::Closed, Self::Open, Self::HalfOpen, Self::Isolated];

    /// Name in responses and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::Isolated => "isolated",
        }
    }

    /// The state of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|state| state.as_str() == name)
    }
}

impl Cause {
    /// Every cause.
    pub const ALL: &'static [Self] = &[
        Self::ConsecutiveFailures,
        Self::FailureRate,
        Self::SlowCalls,
        Self::FailedProbe,
        Self::SlowProbe,
        Self::ProbeStarted,
        Self::Recovered,
        Self::Isolated,
        Self::Restored,
    ];

    /// Name in responses and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::FailureRate => "failure_rate",
            Self::SlowCalls => "slow_calls",
            Self::FailedProbe => "failed_probe",
            Self::SlowProbe => "slow_probe",
            Self::ProbeStarted => "probe_started",
            Self::Recovered => "recovered",
            Self::Isolated => "isolated",
            Self::Restored => "restored",
        }
    }

    /// The cause of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|cause| cause.as_str() == name)
    }
}
