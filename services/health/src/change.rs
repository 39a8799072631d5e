//! Changes to the health of one agent, as plain data with every time they depend on.

use std::time::Duration;

use jiff::Timestamp;
use phoenix_domain::{
    TaskId,
    health::{Admission, AgentHealth, BreakerPolicy, Outcome},
};
use uuid::Uuid;

/// A change to one agent's health.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Change {
    /// An attempt ended.
    Report { outcome: Outcome, task: Option<TaskId>, ended_at: Timestamp, lease: Option<Uuid> },
    /// A caller asks for the lease of the one probe.
    Probe { lease: Uuid, asked_at: Timestamp, lease_time: Duration },
}

/// Whether the attempt may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As the one probe, under this lease.
    Granted(Uuid),
    /// As any attempt: the circuit is closed.
    NotNeeded,
    /// Not before this time.
    Refused(Timestamp),
}

impl Change {
    /// Applies the change to `health`.
    pub(crate) fn apply(self, health: &mut AgentHealth, policy: &BreakerPolicy) {
        match self {
            Self::Report { outcome, task, ended_at, lease } => {
                health.record(outcome, task, lease, ended_at, policy);
            }
            Self::Probe { lease, asked_at, lease_time } => {
                health.acquire_probe(lease, asked_at, lease_time);
            }
        }
    }
}

/// The verdict of `health` for the caller that asked for `lease` at `asked_at`.
pub(crate) fn verdict(health: &AgentHealth, lease: Uuid, asked_at: Timestamp) -> Verdict {
    if health.probe.is_some_and(|probe| probe.lease == lease) {
        return Verdict::Granted(lease);
    }
    match health.admission(asked_at) {
        Admission::Allowed => Verdict::NotNeeded,
        Admission::Refused { until } => Verdict::Refused(until),
        // The lease was available and not granted: the writer saw that the caller had left. Nothing reads this verdict.
        Admission::NeedsProbe => Verdict::Refused(asked_at),
    }
}

/// `time` in the precision of the table, so that memory and file always agree.
pub(crate) fn stored_precision(time: Timestamp) -> Timestamp {
    // In range, because it only loses digits.
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}
