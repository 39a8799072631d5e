//! The rules of a circuit breaker: how outcomes, probes and operators change the health of an agent.

use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::{
    circuit::{Cause, Circuit, CircuitState, Evidence, Isolation, Standing, Transition},
    policy::BreakerPolicy,
    record::{Admission, AgentHealth, Outcome, Probe, Report},
    window::{CallKind, Tally},
};

impl AgentHealth {
    /// Acquires the probe for `lease`, if the open time has passed and no probe is active. With a closed circuit the attempt is
    /// [`Admission::Allowed`] without a probe. Returns the change of the circuit with the first probe after an opening.
    pub fn acquire_probe(
        &mut self,
        lease: Uuid,
        now: Timestamp,
        lease_time: Duration,
    ) -> (Admission, Option<Transition>) {
        let admission = self.admission(now);
        if admission != Admission::NeedsProbe {
            return (admission, None);
        }
        self.probe = Some(Probe { lease, expires_at: later(now, lease_time) });
        self.revision += 1;
        let is_first = !std::mem::replace(&mut self.circuit.was_probed, true);
        let started = is_first.then(|| Transition {
            at: now,
            from: CircuitState::Open,
            to: CircuitState::HalfOpen,
            cause: Cause::ProbeStarted,
            reason: "the open time has passed".into(),
            actor: None,
            evidence: self.evidence(),
            revision: self.revision,
        });
        (Admission::Allowed, started)
    }

    /// Records the end of an attempt. Returns the change of the circuit, if there is one.
    pub fn record(&mut self, report: &Report, policy: &BreakerPolicy) -> Option<Transition> {
        let ends_probe = report.lease.is_some() && self.probe.map(|probe| probe.lease) == report.lease;
        if ends_probe {
            self.probe = None;
        }
        if report.outcome == Outcome::Neutral && report.earlier_successes == 0 && !ends_probe {
            return None;
        }
        self.revision += 1;
        // They ended before the attempt, which is why they close no circuit.
        if report.earlier_successes > 0 {
            self.count_success(report.at);
            self.count_call(CallKind::default(), report.earlier_successes, report, policy);
        }
        let kind = CallKind {
            is_failed: report.outcome == Outcome::Failure,
            is_slow: policy.is_slow(report.took) && report.outcome != Outcome::Neutral,
        };
        match report.outcome {
            Outcome::Neutral => None,
            Outcome::Success => {
                self.count_success(report.at);
                self.count_call(kind, 1, report, policy);
                self.after_success(report, kind, ends_probe, policy)
            }
            Outcome::Failure => {
                self.count_failure(report);
                self.count_call(kind, 1, report, policy);
                self.after_failure(report, kind, ends_probe, policy)
            }
        }
    }

    fn count_success(&mut self, at: Timestamp) {
        self.consecutive_failures = 0;
        self.failing_task = None;
        self.last_success_at = self.last_success_at.max(Some(at));
    }

    fn count_failure(&mut self, report: &Report) {
        let is_first = self.consecutive_failures == 0;
        self.failing_task = report.task.filter(|_| is_first || self.failing_task == report.task);
        self.consecutive_failures = self.consecutive_failures.saturating_add(1);
        self.last_failure_at = self.last_failure_at.max(Some(report.at));
    }

    /// Adds calls to the window of a closed circuit.
    fn count_call(&mut self, kind: CallKind, count: u32, report: &Report, policy: &BreakerPolicy) {
        if self.circuit_open_until.is_none() && self.circuit.isolation.is_none() {
            self.circuit.window.add(kind, report.task, count, report.at, policy);
        }
    }

    fn after_success(
        &mut self,
        report: &Report,
        kind: CallKind,
        ends_probe: bool,
        policy: &BreakerPolicy,
    ) -> Option<Transition> {
        if self.circuit.isolation.is_some() {
            return None;
        }
        let Some(until) = self.circuit_open_until else {
            return self.rate_verdict(kind, policy).map(|cause| self.open(cause, report, policy));
        };
        if kind.is_slow {
            return ends_probe.then(|| self.reopen(Cause::SlowProbe, until, report, policy));
        }
        let opened_at = self.circuit.standing.as_ref().map(|standing| standing.since);
        let has_started_since = opened_at.is_none_or(|opened_at| later(opened_at, report.took) <= report.at);
        if !ends_probe && !has_started_since {
            return None;
        }
        self.circuit.successes = self.circuit.successes.saturating_add(1);
        if self.circuit.successes < policy.success_threshold {
            return None;
        }
        let from = self.circuit_state(report.at);
        let reason = match self.circuit.successes {
            1 => "an attempt has succeeded".to_owned(),
            successes => format!("{successes} attempts have succeeded"),
        };
        let evidence = self.evidence_of(report);
        Some(self.close(Cause::Recovered, from, reason, None, evidence, report.at))
    }

    fn after_failure(
        &mut self,
        report: &Report,
        kind: CallKind,
        ends_probe: bool,
        policy: &BreakerPolicy,
    ) -> Option<Transition> {
        if self.circuit.isolation.is_some() {
            return None;
        }
        let Some(until) = self.circuit_open_until else {
            let is_due = self.consecutive_failures >= policy.failure_threshold && self.failing_task.is_none();
            let cause = match is_due {
                true => Some(Cause::ConsecutiveFailures),
                false => self.rate_verdict(kind, policy),
            };
            return cause.map(|cause| self.open(cause, report, policy));
        };
        if ends_probe {
            return Some(self.reopen(Cause::FailedProbe, until, report, policy));
        }
        // The probe decides while it runs.
        if self.probe.is_some_and(|probe| probe.expires_at > report.at) {
            return None;
        }
        let extended = later(report.at, policy.open_time(self.circuit.openings, 0.0)).max(until);
        self.circuit_open_until = Some(extended);
        // An attempt that ran without a probe, because its planner did not reach the health service.
        (until <= report.at).then(|| {
            self.circuit.was_probed = false;
            self.circuit.successes = 0;
            let reason = format!("an attempt failed again; at first, {}", self.first_reason());
            let evidence = self.evidence_of(report);
            self.stand(CircuitState::HalfOpen, Cause::ConsecutiveFailures, reason, None, evidence, report.at)
        })
    }

    /// Whether the rates in the window open the circuit after a call of this kind.
    fn rate_verdict(&self, kind: CallKind, policy: &BreakerPolicy) -> Option<Cause> {
        if kind == CallKind::default() {
            return None;
        }
        let tally = self.circuit.window.tally();
        if tally.calls < policy.min_calls {
            return None;
        }
        let reaches = |count: u32, percent: u32| {
            percent > 0 && u64::from(count) * 100 >= u64::from(percent) * u64::from(tally.calls)
        };
        let fails = kind.is_failed
            && reaches(tally.failed, policy.failure_percent)
            && tally.failed >= policy.failure_threshold
            && tally.failed_tasks >= policy.min_tasks;
        let is_slow =
            kind.is_slow && reaches(tally.slow, policy.slow_percent) && tally.slow_tasks >= policy.min_tasks;
        match (fails, is_slow) {
            (true, _) => Some(Cause::FailureRate),
            (false, true) => Some(Cause::SlowCalls),
            (false, false) => None,
        }
    }

    /// Opens a closed circuit.
    fn open(&mut self, cause: Cause, report: &Report, policy: &BreakerPolicy) -> Transition {
        let tally = self.circuit.window.tally();
        let mut evidence = self.evidence_of(report);
        evidence.tasks = if cause == Cause::SlowCalls { tally.slow_tasks } else { tally.failed_tasks };
        let reason = opening_reason(cause, self.consecutive_failures, tally, policy);
        let until = later(report.at, policy.open_time(1, report.jitter));
        self.circuit = Circuit { openings: 1, opened_for: reason.clone(), ..Circuit::default() };
        self.circuit_open_until = Some(until);
        self.probe = None;
        evidence.open_until = Some(until);
        self.stand(CircuitState::Closed, cause, reason, None, evidence, report.at)
    }

    /// Opens the circuit again after its probe, for twice as long as before.
    fn reopen(
        &mut self,
        cause: Cause,
        until: Timestamp,
        report: &Report,
        policy: &BreakerPolicy,
    ) -> Transition {
        let from = self.circuit_state(report.at);
        let openings = self.circuit.openings.max(1).saturating_add(1);
        let reason = match cause {
            Cause::SlowProbe => format!("the probe took {}", seconds(report.took)),
            _ => "the probe failed".to_owned(),
        };
        let reason = format!("{reason}; at first, {}", self.first_reason());
        self.circuit.openings = openings;
        self.circuit.successes = 0;
        self.circuit.was_probed = false;
        let extended = later(report.at, policy.open_time(openings, report.jitter)).max(until);
        self.circuit_open_until = Some(extended);
        let evidence = self.evidence_of(report);
        self.stand(from, cause, reason, None, evidence, report.at)
    }

    /// Isolates the agent. `None` when it is isolated already, by the same actor and for the same reason.
    pub fn isolate(&mut self, actor: &str, reason: &str, now: Timestamp) -> Option<Transition> {
        let earlier = self.circuit.isolation.as_ref();
        if earlier.is_some_and(|earlier| earlier.actor == actor && earlier.reason == reason) {
            return None;
        }
        let (from, evidence) = (self.circuit_state(now), self.evidence());
        let isolation = Isolation { actor: actor.into(), reason: reason.into(), at: now };
        self.circuit = Circuit { isolation: Some(isolation), ..Circuit::default() };
        self.circuit_open_until = None;
        self.probe = None;
        self.revision += 1;
        Some(self.stand(from, Cause::Isolated, reason.into(), Some(actor.into()), evidence, now))
    }

    /// Ends an isolation, or closes the circuit. The agent starts afresh: earlier failures no longer count. `None` when the circuit
    /// is closed.
    pub fn restore(&mut self, actor: &str, reason: &str, now: Timestamp) -> Option<Transition> {
        let from = self.circuit_state(now);
        if from == CircuitState::Closed {
            return None;
        }
        let evidence = self.evidence();
        self.consecutive_failures = 0;
        self.failing_task = None;
        self.revision += 1;
        Some(self.close(Cause::Restored, from, reason.into(), Some(actor.into()), evidence, now))
    }

    fn close(
        &mut self,
        cause: Cause,
        from: CircuitState,
        reason: String,
        actor: Option<String>,
        evidence: Evidence,
        at: Timestamp,
    ) -> Transition {
        self.circuit = Circuit::default();
        self.circuit_open_until = None;
        self.probe = None;
        self.stand(from, cause, reason, actor, Evidence { open_until: None, ..evidence }, at)
    }

    /// Notes why the circuit is in its new state.
    fn stand(
        &mut self,
        from: CircuitState,
        cause: Cause,
        reason: String,
        actor: Option<String>,
        evidence: Evidence,
        at: Timestamp,
    ) -> Transition {
        self.circuit.standing = Some(Standing { since: at, cause, reason: reason.clone() });
        let to = match () {
            () if self.circuit.isolation.is_some() => CircuitState::Isolated,
            () if self.circuit_open_until.is_some() => CircuitState::Open,
            () => CircuitState::Closed,
        };
        Transition { at, from, to, cause, reason, actor, evidence, revision: self.revision }
    }

    fn first_reason(&self) -> &str {
        match self.circuit.opened_for.as_str() {
            "" => "consecutive failures opened the circuit",
            reason => reason,
        }
    }

    fn evidence(&self) -> Evidence {
        let Tally { calls, failed, slow, .. } = self.circuit.window.tally();
        let (consecutive_failures, open_until) = (self.consecutive_failures, self.circuit_open_until);
        Evidence { consecutive_failures, calls, failed, slow, open_until, ..Evidence::default() }
    }

    fn evidence_of(&self, report: &Report) -> Evidence {
        let took_ms = u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX);
        Evidence { took_ms, task: report.task, ..self.evidence() }
    }

    /// Whether the circuit stays open for longer than its open time, because the clock was set back.
    #[must_use]
    pub fn exceeds_cooldown(&self, now: Timestamp, policy: &BreakerPolicy) -> bool {
        self.circuit_open_until > Some(later(now, policy.open_time(self.circuit.openings, 1.0)))
    }

    /// Adjusts every time to a clock that was set back to `now` by an unknown amount. Afterwards the circuit is open for the whole
    /// open time from `now`, and the probe has at least its remaining time.
    pub fn adjust_to_clock(&mut self, now: Timestamp, policy: &BreakerPolicy) {
        let Some(until) = self.circuit_open_until.filter(|_| self.exceeds_cooldown(now, policy)) else {
            return;
        };
        let deadline = later(now, policy.open_time(self.circuit.openings, 1.0));
        if let Some(probe) = &mut self.probe {
            // A probe starts after the open time, and keeps its distance from it.
            let behind = Duration::try_from(probe.expires_at.duration_since(until)).unwrap_or_default();
            probe.expires_at = later(deadline, behind);
        }
        self.circuit_open_until = Some(deadline);
        self.last_failure_at = self.last_failure_at.map(|at| at.min(now));
        self.last_success_at = self.last_success_at.map(|at| at.min(now));
        if let Some(standing) = &mut self.circuit.standing {
            standing.since = standing.since.min(now);
        }
        self.revision += 1;
    }
}

fn later(now: Timestamp, by: Duration) -> Timestamp {
    now.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// Why a closed circuit opens, as a clause.
fn opening_reason(cause: Cause, failures: u32, tally: Tally, policy: &BreakerPolicy) -> String {
    let Tally { calls, failed, slow, .. } = tally;
    let percent = |count: u32| u64::from(count) * 100 / u64::from(calls.max(1));
    match cause {
        Cause::FailureRate => format!("{failed} of {calls} calls failed ({} %)", percent(failed)),
        Cause::SlowCalls => {
            let limit = seconds(policy.slow_call);
            format!("{slow} of {calls} calls took {limit} or longer ({} %)", percent(slow))
        }
        _ => format!("{failures} attempts failed in a row"),
    }
}

fn seconds(time: Duration) -> String {
    format!("{} s", (time.as_secs_f64() * 1000.0).round() / 1000.0)
}
