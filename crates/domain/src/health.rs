//! Health of an agent and its circuit breaker, as a pure state machine.
//!
//! ```text
//!            failure        failure number `failure_threshold` or later, by a second task
//!  healthy ───────────▶ degraded ───────────────────────────────────────▶ unhealthy, circuit open until `now + cooldown`
//!     ▲                    │                                                  │
//!     └────── success ─────┴──────────────────── success ────────────────────┤
//!                                                                            │ deadline passes: one probe at a time
//!                                          failure: open again ◀─────────────┘
//! ```
//!
//! Outcomes are counted per attempt, but the attempts of a single task never open a circuit: a request that crashes its agent
//! says little about the next request. A circuit opens after consecutive failures of at least two tasks. An outcome without
//! information about the agent ([`Outcome::Neutral`]: a cancelled attempt, an invalid request) only releases the probe.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::TaskId;

/// Policy of a circuit breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerPolicy {
    /// Consecutive failures, of at least two tasks, that open the circuit; at least 1.
    pub failure_threshold: u32,
    /// Time for which the circuit stays open before a probe is allowed.
    pub cooldown: Duration,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self { failure_threshold: 3, cooldown: Duration::from_secs(60) }
    }
}

/// Health of an agent as callers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// The last outcome was a success, or there is none.
    Healthy,
    /// Consecutive failures, fewer than the threshold or all of one task.
    Degraded,
    /// The circuit is open, and no success has closed it.
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
    /// Failures since the last success.
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
    /// Revision, which grows with every change and orders snapshots.
    pub revision: u64,
}

/// Admission of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The attempt may run.
    Allowed,
    /// The cooldown has passed: the attempt may run if it acquires the probe.
    NeedsProbe,
    /// The attempt must not run before this time.
    Refused {
        /// End of the cooldown, or of the current probe.
        until: Timestamp,
    },
}

impl AgentHealth {
    /// Health as callers see it.
    #[must_use]
    pub fn state(&self) -> HealthState {
        match (self.circuit_open_until, self.consecutive_failures) {
            (Some(_), _) => HealthState::Unhealthy,
            (None, 0) => HealthState::Healthy,
            (None, _) => HealthState::Degraded,
        }
    }

    /// Admission of an attempt at `now`.
    #[must_use]
    pub fn admission(&self, now: Timestamp) -> Admission {
        match (self.circuit_open_until, self.probe) {
            (None, _) => Admission::Allowed,
            (Some(until), _) if until > now => Admission::Refused { until },
            (Some(_), Some(probe)) if probe.expires_at > now => {
                Admission::Refused { until: probe.expires_at }
            }
            (Some(_), _) => Admission::NeedsProbe,
        }
    }

    /// Acquires the probe for `lease`, if the cooldown has passed and no probe is active. With a closed circuit the attempt is
    /// [`Admission::Allowed`] without a probe.
    pub fn acquire_probe(&mut self, lease: Uuid, now: Timestamp, lease_time: Duration) -> Admission {
        let admission = self.admission(now);
        if admission == Admission::NeedsProbe {
            self.probe = Some(Probe { lease, expires_at: later(now, lease_time) });
            self.revision += 1;
            return Admission::Allowed;
        }
        admission
    }

    /// Records the outcome of an attempt of `task` that ended at `at`. `lease` is that of the probe, if the attempt ran as one. An
    /// attempt without a task counts as one of a different task.
    pub fn record(
        &mut self,
        outcome: Outcome,
        task: Option<TaskId>,
        lease: Option<Uuid>,
        at: Timestamp,
        policy: &BreakerPolicy,
    ) {
        let ends_probe = lease.is_some() && self.probe.map(|probe| probe.lease) == lease;
        if ends_probe {
            self.probe = None;
        }
        match outcome {
            Outcome::Neutral if !ends_probe => return,
            Outcome::Neutral => {}
            Outcome::Success => {
                self.consecutive_failures = 0;
                self.failing_task = None;
                self.circuit_open_until = None;
                self.probe = None;
                self.last_success_at = self.last_success_at.max(Some(at));
            }
            Outcome::Failure => {
                let is_first = self.consecutive_failures == 0;
                self.failing_task = task.filter(|_| is_first || self.failing_task == task);
                self.consecutive_failures = self.consecutive_failures.saturating_add(1);
                self.last_failure_at = self.last_failure_at.max(Some(at));
                let is_due =
                    self.consecutive_failures >= policy.failure_threshold && self.failing_task.is_none();
                if is_due || self.circuit_open_until.is_some() {
                    self.circuit_open_until = self.circuit_open_until.max(Some(later(at, policy.cooldown)));
                }
            }
        }
        self.revision += 1;
    }

    /// Whether the circuit stays open for longer than the cooldown, because the clock was set back.
    #[must_use]
    pub fn exceeds_cooldown(&self, now: Timestamp, policy: &BreakerPolicy) -> bool {
        self.circuit_open_until > Some(later(now, policy.cooldown))
    }

    /// Adjusts every time to a clock that was set back to `now` by an unknown amount. Afterwards the circuit is open for the whole
    /// cooldown from `now`, and the probe has at least its remaining time.
    pub fn adjust_to_clock(&mut self, now: Timestamp, policy: &BreakerPolicy) {
        let Some(until) = self.circuit_open_until.filter(|_| self.exceeds_cooldown(now, policy)) else {
            return;
        };
        let deadline = later(now, policy.cooldown);
        if let Some(probe) = &mut self.probe {
            // A probe starts after the cooldown, and keeps its distance from it.
            let behind = Duration::try_from(probe.expires_at.duration_since(until)).unwrap_or_default();
            probe.expires_at = later(deadline, behind);
        }
        self.circuit_open_until = Some(deadline);
        self.last_failure_at = self.last_failure_at.map(|at| at.min(now));
        self.last_success_at = self.last_success_at.map(|at| at.min(now));
        self.revision += 1;
    }
}

fn later(now: Timestamp, by: Duration) -> Timestamp {
    now.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: BreakerPolicy = BreakerPolicy { failure_threshold: 3, cooldown: Duration::from_secs(60) };
    const LEASE: Duration = Duration::from_secs(30);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    #[test]
    fn circuit_opens_at_the_threshold_and_allows_one_probe() {
        let mut health = AgentHealth::default();
        for n in 0..3 {
            assert_eq!(health.admission(at(n)), Admission::Allowed);
            health.record(Outcome::Failure, None, None, at(n), &POLICY);
        }
        assert_eq!(health.state(), HealthState::Unhealthy);
        assert_eq!(health.admission(at(61)), Admission::Refused { until: at(62) });
        let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
        assert_eq!(health.acquire_probe(first, at(62), LEASE), Admission::Allowed);
        assert_eq!(health.acquire_probe(second, at(63), LEASE), Admission::Refused { until: at(92) });
        health.record(Outcome::Success, None, Some(first), at(64), &POLICY);
        assert_eq!((health.state(), health.consecutive_failures), (HealthState::Healthy, 0));
    }

    #[test]
    fn attempts_of_one_task_never_open_the_circuit() {
        let (first, second) = (Some(TaskId::generate()), Some(TaskId::generate()));
        let mut health = AgentHealth::default();
        for n in 0..10 {
            health.record(Outcome::Failure, first, None, at(n), &POLICY);
        }
        assert_eq!((health.state(), health.consecutive_failures), (HealthState::Degraded, 10));
        health.record(Outcome::Neutral, second, None, at(10), &POLICY);
        assert_eq!(health.admission(at(10)), Admission::Allowed);
        health.record(Outcome::Failure, second, None, at(11), &POLICY);
        assert_eq!((health.state(), health.consecutive_failures), (HealthState::Unhealthy, 11));
        // As the probe, a task that cannot open the circuit alone keeps it open.
        let lease = Uuid::new_v4();
        health.acquire_probe(lease, at(71), LEASE);
        health.record(Outcome::Failure, first, Some(lease), at(72), &POLICY);
        assert_eq!(health.admission(at(73)), Admission::Refused { until: at(132) });
        health.record(Outcome::Success, first, None, at(133), &POLICY);
        for n in 0..5 {
            health.record(Outcome::Failure, second, None, at(134 + n), &POLICY);
        }
        assert_eq!(health.state(), HealthState::Degraded, "a success resets the count");
    }

    #[test]
    fn failures_of_alternating_tasks_open_the_circuit() {
        let tasks = [TaskId::generate(), TaskId::generate()];
        let mut health = AgentHealth::default();
        for (n, task) in (0..).zip([tasks[0], tasks[1], tasks[0]]) {
            assert_eq!(health.admission(at(n)), Admission::Allowed);
            health.record(Outcome::Failure, Some(task), None, at(n), &POLICY);
        }
        assert_eq!(health.state(), HealthState::Unhealthy);
    }

    #[test]
    fn abandoned_probe_expires_with_its_lease() {
        let mut health = AgentHealth { circuit_open_until: Some(at(0)), ..AgentHealth::default() };
        assert_eq!(health.acquire_probe(Uuid::new_v4(), at(1), LEASE), Admission::Allowed);
        assert_eq!(health.acquire_probe(Uuid::new_v4(), at(31), LEASE), Admission::Allowed);
    }

    #[test]
    fn neutral_outcome_only_releases_the_probe() {
        let mut health = AgentHealth {
            circuit_open_until: Some(at(0)),
            consecutive_failures: 3,
            ..AgentHealth::default()
        };
        let lease = Uuid::new_v4();
        health.acquire_probe(lease, at(1), LEASE);
        health.record(Outcome::Neutral, None, Some(lease), at(2), &POLICY);
        assert_eq!(health.state(), HealthState::Unhealthy);
        assert_eq!(health.admission(at(2)), Admission::NeedsProbe);
    }

    #[test]
    fn circuit_deadline_is_bounded_by_cooldown_under_clock_skew() {
        let hour = 3600;
        let mut health = AgentHealth::default();
        for n in 0..3 {
            health.record(Outcome::Failure, None, None, at(hour + n), &POLICY);
        }
        let honest = health.clone();
        health.adjust_to_clock(at(hour + 3), &POLICY);
        assert_eq!(health, honest, "the clock was not set back");
        health.adjust_to_clock(at(0), &POLICY);
        assert_eq!(health.admission(at(59)), Admission::Refused { until: at(60) });
        assert_eq!(health.admission(at(60)), Admission::NeedsProbe);
        assert_eq!((health.last_failure_at, health.revision), (Some(at(0)), honest.revision + 1));

        // A current probe keeps its remaining time, and an abandoned one expires within it.
        let mut health = honest;
        let lease = Uuid::new_v4();
        assert_eq!(health.acquire_probe(lease, at(hour + 100), LEASE), Admission::Allowed);
        health.adjust_to_clock(at(101), &POLICY);
        let probe = health.probe.unwrap();
        assert_eq!((probe.lease, probe.expires_at), (lease, at(161 + 100 - 62 + 30)));
    }

    proptest! {
        /// For any history: the state follows from the counters, a success always closes the circuit, an open circuit always
        /// has a deadline, and at most one probe is active.
        #[test]
        fn invariants_hold_for_any_history(
            steps in prop::collection::vec((0u8..5, 0i64..100, 0usize..4), 1..200), threshold in 1u32..6,
        ) {
            let tasks = [None, Some(TaskId::generate()), Some(TaskId::generate()), Some(TaskId::generate())];
            let mut failing = std::collections::BTreeSet::new();
            let policy = BreakerPolicy { failure_threshold: threshold, ..POLICY };
            let mut health = AgentHealth::default();
            let mut now = 0;
            let mut held: Option<Uuid> = None;
            for (step, wait, task) in steps {
                let task = tasks[task];
                now += wait;
                let before = health.clone();
                match step {
                    0 => health.record(Outcome::Success, task, held.take(), at(now), &policy),
                    1 => health.record(Outcome::Failure, task, held.take(), at(now), &policy),
                    2 => health.record(Outcome::Neutral, task, held.take(), at(now), &policy),
                    3 => health.record(Outcome::Failure, task, None, at(now), &policy),
                    _ => {
                        let lease = Uuid::new_v4();
                        let was_free = before.probe.is_none_or(|probe| probe.expires_at <= at(now));
                        if health.acquire_probe(lease, at(now), LEASE) == Admission::Allowed
                            && health.probe.map(|probe| probe.lease) == Some(lease)
                        {
                            prop_assert!(was_free);
                            held = Some(lease);
                        }
                    }
                }
                prop_assert!(health.revision >= before.revision);
                prop_assert!(health == before || health.revision > before.revision);
                match health.state() {
                    HealthState::Healthy => prop_assert_eq!(health.consecutive_failures, 0),
                    HealthState::Degraded => prop_assert!(health.consecutive_failures > 0),
                    HealthState::Unhealthy => prop_assert!(health.consecutive_failures >= threshold),
                }
                match step {
                    0 => failing.clear(),
                    1 | 3 => drop(failing.insert(task)),
                    _ => {}
                }
                // One known task alone never opens the circuit; two do at the threshold.
                let several = failing.len() > 1 || failing.contains(&None);
                let is_open = health.state() == HealthState::Unhealthy;
                prop_assert!(!is_open || several);
                prop_assert!(is_open || !several || health.consecutive_failures < threshold);
                if step == 0 {
                    prop_assert_eq!(health.state(), HealthState::Healthy);
                }
            }
        }
    }
}
