//! Changes to the health of one agent, as plain data. The time comes from the table's transaction, so that processes whose clocks
//! differ agree.

use std::time::Duration;

use jiff::Timestamp;
use phoenix_domain::{
    TaskId,
    health::{Admission, AgentHealth, BreakerPolicy, Outcome},
};
use uuid::Uuid;

use crate::store::stored_precision;

/// A change to one agent's health.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Change {
    /// An attempt ended.
    Report { outcome: Outcome, task: Option<TaskId>, ended: Ended, lease: Option<Uuid> },
    /// A caller asks for the lease of the one probe.
    Probe { lease: Uuid, lease_time: Duration },
}

/// When an attempt ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ended {
    /// This long before its report arrived.
    Before(Duration),
    /// At this time of its reporter's clock, which may differ from the table's.
    At(Timestamp),
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
            Self::Report { outcome, task, ended, lease } => {
                health.record(outcome, task, lease, ended.by(now), policy);
            }
            Self::Probe { lease, lease_time } => {
                health.acquire_probe(lease, now, lease_time);
            }
        }
    }
}

impl Ended {
    /// The time of the end, when the table's clock shows `now`.
    pub(crate) fn by(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Before(age) => stored_precision(now.checked_sub(age).unwrap_or(Timestamp::MIN)),
            // A reporter whose clock is ahead must not keep a circuit open for longer than its cooldown.
            Self::At(time) => time.min(now),
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
