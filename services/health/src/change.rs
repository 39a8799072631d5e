//! Changes to the health of one agent, as plain data. The time comes from the table's transaction, so that processes whose clocks
//! differ agree.

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
    Probe { lease: Uuid, lease_time: Duration },
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
    /// Applies the change to `health` at `now`.
    pub(crate) fn apply(self, health: &mut AgentHealth, policy: &BreakerPolicy, now: Timestamp) {
        match self {
            Self::Report { outcome, task, ended_at, lease } => {
                // A reporter whose clock is ahead must not keep a circuit open for longer than its cooldown.
                health.record(outcome, task, lease, ended_at.min(now), policy);
            }
            Self::Probe { lease, lease_time } => {
                health.acquire_probe(lease, now, lease_time);
            }
        }
    }
}

/// The verdict of `health` for the caller whose request for `lease` was applied at `now`.
pub(crate) fn verdict(health: &AgentHealth, lease: Uuid, now: Timestamp) -> Verdict {
    if health.probe.is_some_and(|probe| probe.lease == lease) {
        return Verdict::Granted(lease);
    }
    match health.admission(now) {
        Admission::Allowed => Verdict::NotNeeded,
        Admission::Refused { until } => Verdict::Refused(until),
        // The lease was available and not granted: the writer saw that the caller had left. Nothing reads this verdict.
        Admission::NeedsProbe => Verdict::Refused(now),
    }
}
