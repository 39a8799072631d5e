//! Changes to the health of one agent, as plain data. The time comes from the table's transaction, so that processes whose clocks
//! differ agree.

use std::time::Duration;

use jiff::Timestamp;
use phoenix_domain::{
    TaskId,
    health::{Admission, AgentHealth, BreakerPolicy, Outcome, Report, Transition},
};
use uuid::Uuid;

use crate::store::stored_precision;

/// A change to one agent's health.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// An attempt ended.
    Report(AttemptEnd),
    /// A caller asks for the lease of the one probe.
    Probe { lease: Uuid, lease_time: Duration },
    /// An operator isolates the agent.
    Isolate(Decision),
    /// An operator restores the agent.
    Restore(Decision),
}

/// The end of an attempt, as its reporter saw it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttemptEnd {
    pub(crate) outcome: Outcome,
    pub(crate) task: Option<TaskId>,
    pub(crate) lease: Option<Uuid>,
    pub(crate) ended: Ended,
    pub(crate) took: Duration,
    /// Successes before it that were not slow, and are reported with it.
    pub(crate) earlier_successes: u32,
    /// A random number from 0 to 1. The same for each attempt to write the change.
    pub(crate) jitter: f64,
}

/// A decision of an operator.
#[derive(Debug, Clone)]
pub(crate) struct Decision {
    pub(crate) actor: String,
    pub(crate) reason: String,
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
    /// Not before an operator restores the agent.
    Isolated,
}

impl AttemptEnd {
    /// The end of an attempt of which only this is known.
    #[cfg(test)]
    pub(crate) fn of(outcome: Outcome, ended: Ended) -> Self {
        let took = Duration::ZERO;
        Self { outcome, task: None, lease: None, ended, took, earlier_successes: 0, jitter: 0.0 }
    }
}

impl Change {
    /// Applies the change to `health` at `now`. Returns the change of the circuit.
    pub(crate) fn apply(
        &self,
        health: &mut AgentHealth,
        policy: &BreakerPolicy,
        now: Timestamp,
    ) -> Option<Transition> {
        match self {
            Self::Report(end) => {
                let AttemptEnd { outcome, task, lease, ended, took, earlier_successes, jitter } = *end;
                let at = ended.by(now);
                health.record(&Report { outcome, task, lease, at, took, earlier_successes, jitter }, policy)
            }
            Self::Probe { lease, lease_time } => health.acquire_probe(*lease, now, *lease_time).1,
            Self::Isolate(Decision { actor, reason }) => health.isolate(actor, reason, now),
            Self::Restore(Decision { actor, reason }) => health.restore(actor, reason, now),
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
        Admission::Isolated => Verdict::Isolated,
        // The lease was available and not granted: the writer saw that the caller had left. Nothing reads this verdict.
        Admission::NeedsProbe => Verdict::Refused(now),
    }
}
