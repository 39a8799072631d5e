//! Property tests and examples of the state machine.

use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::*;
use crate::ids::TaskId;

/// The policy by default, without rates.
fn policy() -> BreakerPolicy {
    BreakerPolicy { failure_percent: 0, ..BreakerPolicy::default() }
}
const LEASE: Duration = Duration::from_secs(30);

fn record(
    health: &mut AgentHealth,
    outcome: Outcome,
    task: Option<TaskId>,
    lease: Option<Uuid>,
    at: Timestamp,
) -> Option<Transition> {
    health.record(&Report { task, lease, ..Report::new(outcome, at) }, &policy())
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

#[test]
fn circuit_opens_at_the_threshold_and_allows_one_probe() {
    let mut health = AgentHealth::default();
    for n in 0..3 {
        assert_eq!(health.admission(at(n)), Admission::Allowed);
        record(&mut health, Outcome::Failure, None, None, at(n));
    }
    assert_eq!(health.state(), HealthState::Unhealthy);
    assert_eq!(health.admission(at(61)), Admission::Refused { until: at(62) });
    let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
    assert_eq!(health.acquire_probe(first, at(62), LEASE).0, Admission::Allowed);
    assert_eq!(health.acquire_probe(second, at(63), LEASE).0, Admission::Refused { until: at(92) });
    record(&mut health, Outcome::Success, None, Some(first), at(64));
    assert_eq!((health.state(), health.consecutive_failures), (HealthState::Healthy, 0));
}

#[test]
fn attempts_of_one_task_never_open_the_circuit() {
    let (first, second) = (Some(TaskId::generate()), Some(TaskId::generate()));
    let mut health = AgentHealth::default();
    for n in 0..10 {
        record(&mut health, Outcome::Failure, first, None, at(n));
    }
    assert_eq!((health.state(), health.consecutive_failures), (HealthState::Degraded, 10));
    record(&mut health, Outcome::Neutral, second, None, at(10));
    assert_eq!(health.admission(at(10)), Admission::Allowed);
    record(&mut health, Outcome::Failure, second, None, at(11));
    assert_eq!((health.state(), health.consecutive_failures), (HealthState::Unhealthy, 11));
    // As the probe, a task that cannot open the circuit alone keeps it open.
    let lease = Uuid::new_v4();
    health.acquire_probe(lease, at(71), LEASE);
    record(&mut health, Outcome::Failure, first, Some(lease), at(72));
    assert_eq!(health.admission(at(73)), Admission::Refused { until: at(192) });
    record(&mut health, Outcome::Success, first, None, at(133));
    for n in 0..5 {
        record(&mut health, Outcome::Failure, second, None, at(134 + n));
    }
    assert_eq!(health.state(), HealthState::Degraded, "a success resets the count");
}

#[test]
fn failures_of_alternating_tasks_open_the_circuit() {
    let tasks = [TaskId::generate(), TaskId::generate()];
    let mut health = AgentHealth::default();
    for (n, task) in (0..).zip([tasks[0], tasks[1], tasks[0]]) {
        assert_eq!(health.admission(at(n)), Admission::Allowed);
        record(&mut health, Outcome::Failure, Some(task), None, at(n));
    }
    assert_eq!(health.state(), HealthState::Unhealthy);
}

#[test]
fn abandoned_probe_expires_with_its_lease() {
    let mut health = AgentHealth { circuit_open_until: Some(at(0)), ..AgentHealth::default() };
    assert_eq!(health.acquire_probe(Uuid::new_v4(), at(1), LEASE).0, Admission::Allowed);
    assert_eq!(health.acquire_probe(Uuid::new_v4(), at(31), LEASE).0, Admission::Allowed);
}

#[test]
fn neutral_outcome_only_releases_the_probe() {
    let mut health =
        AgentHealth { circuit_open_until: Some(at(0)), consecutive_failures: 3, ..AgentHealth::default() };
    let lease = Uuid::new_v4();
    health.acquire_probe(lease, at(1), LEASE);
    record(&mut health, Outcome::Neutral, None, Some(lease), at(2));
    assert_eq!(health.state(), HealthState::Unhealthy);
    assert_eq!(health.admission(at(2)), Admission::NeedsProbe);
}

#[test]
fn circuit_deadline_is_bounded_by_cooldown_under_clock_skew() {
    let hour = 3600;
    let mut health = AgentHealth::default();
    for n in 0..3 {
        record(&mut health, Outcome::Failure, None, None, at(hour + n));
    }
    let honest = health.clone();
    health.adjust_to_clock(at(hour + 3), &policy());
    assert_eq!(health, honest, "the clock was not set back");
    health.adjust_to_clock(at(0), &policy());
    assert_eq!(health.admission(at(59)), Admission::Refused { until: at(60) });
    assert_eq!(health.admission(at(60)), Admission::NeedsProbe);
    assert_eq!((health.last_failure_at, health.revision), (Some(at(0)), honest.revision + 1));

    // A current probe keeps its remaining time, and an abandoned one expires within it.
    let mut health = honest;
    let lease = Uuid::new_v4();
    assert_eq!(health.acquire_probe(lease, at(hour + 100), LEASE).0, Admission::Allowed);
    health.adjust_to_clock(at(101), &policy());
    let probe = health.probe.unwrap();
    assert_eq!((probe.lease, probe.expires_at), (lease, at(161 + 100 - 62 + 30)));
}

/// A call that took `took` seconds, of a task of its own.
fn call(outcome: Outcome, took: u64, at: Timestamp) -> Report {
    let task = Some(TaskId::generate());
    Report { task, took: Duration::from_secs(took), ..Report::new(outcome, at) }
}

#[test]
fn failure_rate_opens_the_circuit_after_calls_of_two_tasks() {
    let policy = BreakerPolicy {
        min_calls: 10,
        failure_percent: 50,
        failure_threshold: 5,
        ..BreakerPolicy::default()
    };
    let (mut health, task) = (AgentHealth::default(), Some(TaskId::generate()));
    let mut changes = Vec::new();
    for n in 0..12 {
        let outcome = if n % 2 == 0 { Outcome::Failure } else { Outcome::Success };
        changes.extend(health.record(&Report { task, ..call(outcome, 0, at(n)) }, &policy));
    }
    assert_eq!(changes, [], "one task");
    changes.extend(health.record(&call(Outcome::Failure, 0, at(12)), &policy));
    let [opened] = changes.try_into().unwrap();
    assert_eq!((opened.from, opened.to), (CircuitState::Closed, CircuitState::Open));
    assert_eq!((opened.cause, opened.reason.as_str()), (Cause::FailureRate, "7 of 13 calls failed (53 %)"));
    let Evidence { consecutive_failures, calls, failed, tasks, open_until, .. } = opened.evidence;
    assert_eq!((consecutive_failures, calls, failed, tasks, open_until), (1, 13, 7, 2, Some(at(72))));
    assert_eq!((health.state(), health.consecutive_failures), (HealthState::Unhealthy, 1));

    // A high threshold is a floor for the rate, too.
    let patient = BreakerPolicy { failure_threshold: 1000, ..policy };
    let mut health = AgentHealth::default();
    for n in 0..500 {
        assert_eq!(health.record(&call(Outcome::Failure, 0, at(n / 10)), &patient), None);
    }
}

#[test]
fn slow_calls_open_the_circuit_and_only_a_fast_one_closes_it() {
    let policy = BreakerPolicy {
        min_calls: 10,
        slow_call: Duration::from_secs(5),
        slow_percent: 80,
        ..BreakerPolicy::default()
    };
    let mut health = AgentHealth::default();
    let earlier = Report { earlier_successes: 1, ..call(Outcome::Success, 1, at(0)) };
    assert_eq!(health.record(&earlier, &policy), None);
    for n in 0..7 {
        assert_eq!(health.record(&call(Outcome::Success, 5, at(10 + n)), &policy), None);
    }
    let opened = health.record(&call(Outcome::Success, 9, at(20)), &policy).unwrap();
    assert_eq!(opened.cause, Cause::SlowCalls);
    assert_eq!(opened.reason, "8 of 10 calls took 5 s or longer (80 %)");
    assert_eq!((health.state(), health.consecutive_failures), (HealthState::Unhealthy, 0));
    // Calls from before the opening end: a fast one that started earlier proves nothing.
    assert_eq!(health.record(&call(Outcome::Success, 4, at(23)), &policy), None);
    assert_eq!(health.record(&call(Outcome::Success, 30, at(24)), &policy), None);
    assert_eq!(health.admission(at(24)), Admission::Refused { until: at(80) });

    let lease = Uuid::new_v4();
    let (_, started) = health.acquire_probe(lease, at(80), LEASE);
    assert_eq!(started.unwrap().to, CircuitState::HalfOpen);
    let probe = Report { lease: Some(lease), ..call(Outcome::Success, 6, at(86)) };
    let reopened = health.record(&probe, &policy).unwrap();
    assert_eq!((reopened.from, reopened.to), (CircuitState::HalfOpen, CircuitState::Open));
    let reason = "the probe took 6 s; at first, 8 of 10 calls took 5 s or longer (80 %)";
    assert_eq!((reopened.cause, reopened.reason.as_str()), (Cause::SlowProbe, reason));
    assert_eq!(health.circuit_open_until, Some(at(86 + 120)));

    health.acquire_probe(lease, at(206), LEASE);
    let probe = Report { lease: Some(lease), ..call(Outcome::Success, 1, at(207)) };
    let closed = health.record(&probe, &policy).unwrap();
    assert_eq!((closed.to, closed.cause), (CircuitState::Closed, Cause::Recovered));
    assert_eq!(health.circuit.openings, 0, "the open time starts afresh");
}

#[test]
fn circuit_closes_after_enough_successes() {
    let policy = BreakerPolicy { success_threshold: 2, ..policy() };
    let mut health = AgentHealth::default();
    for n in 0..3 {
        health.record(&call(Outcome::Failure, 0, at(n)), &policy);
    }
    for (n, expected) in [(100, CircuitState::HalfOpen), (101, CircuitState::Closed)] {
        let lease = Uuid::new_v4();
        assert_eq!(health.acquire_probe(lease, at(n), LEASE).0, Admission::Allowed);
        assert_eq!(
            health.acquire_probe(Uuid::new_v4(), at(n), LEASE).0,
            Admission::Refused { until: at(n + 30) }
        );
        health.record(&Report { lease: Some(lease), ..call(Outcome::Success, 0, at(n)) }, &policy);
        assert_eq!(health.circuit_state(at(n)), expected);
    }
}

#[test]
fn isolated_agent_stays_isolated_until_it_is_restored() {
    let mut health = AgentHealth::default();
    for n in 0..3 {
        record(&mut health, Outcome::Failure, None, None, at(n));
    }
    let isolated = health.isolate("alice", "it deletes files", at(5)).unwrap();
    assert_eq!((isolated.from, isolated.to), (CircuitState::Open, CircuitState::Isolated));
    assert_eq!((isolated.reason.as_str(), isolated.actor.as_deref()), ("it deletes files", Some("alice")));
    assert_eq!(health.isolate("alice", "it deletes files", at(6)), None, "nothing changes");
    for n in 0..9 {
        let outcome = if n < 5 { Outcome::Failure } else { Outcome::Success };
        assert_eq!(record(&mut health, outcome, None, None, at(200 + n)), None);
    }
    assert_eq!(health.acquire_probe(Uuid::new_v4(), at(300), LEASE).0, Admission::Isolated);
    assert_eq!((health.state(), health.circuit_open_until), (HealthState::Unhealthy, None));
    assert_eq!(health.circuit_state(at(300)), CircuitState::Isolated);

    let restored = health.restore("bob", "repaired", at(400)).unwrap();
    assert_eq!((restored.from, restored.to), (CircuitState::Isolated, CircuitState::Closed));
    assert_eq!((health.state(), health.admission(at(400))), (HealthState::Healthy, Admission::Allowed));
    assert_eq!(health.restore("bob", "repaired", at(401)), None);

    for n in 0..3 {
        record(&mut health, Outcome::Failure, None, None, at(500 + n));
    }
    assert_eq!(health.restore("bob", "it was the network", at(510)).unwrap().from, CircuitState::Open);
    assert_eq!((health.state(), health.consecutive_failures), (HealthState::Healthy, 0));
}

mod model;
