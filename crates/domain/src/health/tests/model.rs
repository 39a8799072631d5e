//! The state machine against a model that remembers everything.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Slice, failed, slow, task.
type Call = (i64, bool, bool, Option<TaskId>);

/// Everything that happened to an agent, and the state that follows from it.
struct Model {
    policy: BreakerPolicy,
    state: State,
    /// Calls while the circuit was closed.
    calls: Vec<Call>,
    /// Tasks of the failures since the last success.
    failures: Vec<Option<TaskId>>,
    leased: Option<(Uuid, i64)>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Closed,
    Open { since: i64, until: i64, openings: u32, successes: u32 },
    Isolated,
}

/// Number of different tasks; unknown ones are all different.
fn distinct(tasks: impl Iterator<Item = Option<TaskId>>) -> usize {
    let (mut known, mut unknown) = (BTreeSet::new(), 0);
    for task in tasks {
        match task {
            Some(task) => drop(known.insert(task)),
            None => unknown += 1,
        }
    }
    known.len() + unknown
}

impl Model {
    fn report(&mut self, outcome: Outcome, task: Option<TaskId>, lease: Option<Uuid>, took: i64, now: i64) {
        let ends_probe = lease.is_some() && self.leased.map(|(lease, _)| lease) == lease;
        if ends_probe {
            self.leased = None;
        }
        if outcome == Outcome::Neutral {
            return;
        }
        let is_failed = outcome == Outcome::Failure;
        let is_slow = took >= i64::try_from(self.policy.slow_call.as_secs()).unwrap();
        match is_failed {
            true => self.failures.push(task),
            false => self.failures.clear(),
        }
        match self.state {
            State::Isolated => {}
            State::Closed => {
                // Slices are counted from 1970.
                let present = at(now).as_second().div_euclid(3);
                self.calls.push((present, is_failed, is_slow, task));
                self.calls.retain(|(slice, ..)| present - slice < 20);
                let excess = self.calls.len().saturating_sub(self.policy.window_calls as usize);
                self.calls.drain(..excess);
                if self.opens(is_failed, is_slow) {
                    self.calls.clear();
                    self.state = State::Open { since: now, until: now + 60, openings: 1, successes: 0 };
                }
            }
            State::Open { since, until, openings, successes } => {
                let open_time = |openings: u32| (60 << (openings - 1)).min(300);
                let is_probing = self.leased.is_some_and(|(_, expires)| expires > now);
                self.state = match (is_failed, is_slow) {
                    (true, _) | (_, true) if ends_probe => {
                        let openings = openings + 1;
                        let until = until.max(now + open_time(openings));
                        State::Open { since: now, until, openings, successes: 0 }
                    }
                    (true, _) if is_probing => self.state,
                    (true, _) => {
                        let (since, successes) = if until <= now { (now, 0) } else { (since, successes) };
                        State::Open {
                            since,
                            until: until.max(now + open_time(openings)),
                            openings,
                            successes,
                        }
                    }
                    (false, true) => self.state,
                    (false, false) if !ends_probe && now - took < since => self.state,
                    (false, false) if successes + 1 >= self.policy.success_threshold => State::Closed,
                    (false, false) => State::Open { since, until, openings, successes: successes + 1 },
                };
                if self.state == State::Closed {
                    self.leased = None;
                }
            }
        }
    }

    /// Whether a closed circuit opens after a call.
    fn opens(&self, is_failed: bool, is_slow: bool) -> bool {
        let calls = self.calls.len();
        let (count, tasks) = (
            |of: fn(&Call) -> bool| self.calls.iter().filter(|call| of(call)).count(),
            |of: fn(&Call) -> bool| {
                distinct(self.calls.iter().filter(|call| of(call)).map(|(.., task)| *task))
            },
        );
        let (failed, slow) = (count(|call| call.1), count(|call| call.2));
        let (failed_tasks, slow_tasks) = (tasks(|call| call.1), tasks(|call| call.2));
        let threshold = self.policy.failure_threshold as usize;
        let in_a_row =
            is_failed && self.failures.len() >= threshold && distinct(self.failures.iter().copied()) >= 2;
        let has_enough = calls >= self.policy.min_calls as usize;
        let fails = is_failed && failed * 100 >= calls * 60 && failed >= threshold && failed_tasks >= 2;
        let is_too_slow = is_slow && slow * 100 >= calls * 70 && slow_tasks >= 2;
        in_a_row || has_enough && (fails || is_too_slow)
    }

    fn admission(&self, now: i64) -> Admission {
        match (self.state, self.leased) {
            (State::Isolated, _) => Admission::Isolated,
            (State::Closed, _) => Admission::Allowed,
            (State::Open { until, .. }, _) if until > now => Admission::Refused { until: at(until) },
            (_, Some((_, expires))) if expires > now => Admission::Refused { until: at(expires) },
            _ => Admission::NeedsProbe,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Report { outcome: Outcome, task: usize, took: i64, as_probe: bool },
    Acquire,
    Isolate,
    Restore,
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop::sample::select(&[
        Outcome::Success,
        Outcome::Success,
        Outcome::Failure,
        Outcome::Failure,
        Outcome::Neutral,
    ]);
    let took = prop::sample::select(&[0i64, 1, 4, 5, 40]);
    let report = (outcome, 0usize..5, took, any::<bool>())
        .prop_map(|(outcome, task, took, as_probe)| Step::Report { outcome, task, took, as_probe });
    prop_oneof![30 => report, 8 => Just(Step::Acquire), 1 => Just(Step::Isolate), 2 => Just(Step::Restore)]
}

proptest! {
    /// Any sequence of reports, probes and decisions of operators, over any time.
    #[test]
    fn state_machine_equals_a_model_that_remembers_everything(
        steps in prop::collection::vec((step(), prop::sample::select(&[0i64, 0, 0, 1, 2, 7, 70])), 1..200),
        failure_threshold in 2u32..12, success_threshold in 1u32..4, min_calls in 1u32..12, window_calls in 12u32..40,
    ) {
        let tasks = [None, Some(TaskId::generate()), Some(TaskId::generate()), Some(TaskId::generate()), Some(TaskId::generate())];
        let policy = BreakerPolicy {
            failure_threshold, success_threshold, min_calls, window_calls,
            failure_percent: 60, slow_percent: 70, slow_call: Duration::from_secs(5),
            ..BreakerPolicy::default()
        };
        let mut model =
            Model { policy, state: State::Closed, calls: Vec::new(), failures: Vec::new(), leased: None };
        let (mut health, mut now, mut held) = (AgentHealth::default(), 1i64, None::<Uuid>);
        for (step, wait) in steps {
            now += wait;
            let before = health.clone();
            let transition = match step {
                Step::Report { outcome, task, took, as_probe } => {
                    let (task, lease) = (tasks[task], if as_probe { held.take() } else { None });
                    model.report(outcome, task, lease, took, now);
                    let took = Duration::from_secs(took.unsigned_abs());
                    health.record(&Report { task, lease, took, ..Report::new(outcome, at(now)) }, &policy)
                }
                Step::Acquire => {
                    let lease = Uuid::new_v4();
                    let needs_probe = model.admission(now) == Admission::NeedsProbe;
                    let (admission, started) = health.acquire_probe(lease, at(now), LEASE);
                    prop_assert_eq!(needs_probe, health.probe.is_some_and(|probe| probe.lease == lease));
                    if needs_probe {
                        prop_assert_eq!(admission, Admission::Allowed);
                        model.leased = Some((lease, now + 30));
                        held = Some(lease);
                    }
                    started
                }
                Step::Isolate => {
                    (model.state, model.leased) = (State::Isolated, None);
                    model.calls.clear();
                    health.isolate("operator", "of the test", at(now))
                }
                Step::Restore => {
                    if model.state != State::Closed {
                        (model.state, model.leased) = (State::Closed, None);
                        model.calls.clear();
                        model.failures.clear();
                    }
                    health.restore("operator", "of the test", at(now))
                }
            };
            prop_assert_eq!(health.admission(at(now)), model.admission(now), "{:?}", step);
            prop_assert_eq!(health.consecutive_failures as usize, model.failures.len());
            if let State::Open { openings, until, .. } = model.state {
                prop_assert_eq!((health.circuit.openings, health.circuit_open_until), (openings, Some(at(until))));
                prop_assert!(before.circuit_open_until <= health.circuit_open_until, "never shortened");
            }
            prop_assert_eq!(health == before, health.revision == before.revision);
            match transition {
                // A change of the state that readers see has its row, and the row says what they see.
                Some(transition) => {
                    prop_assert_eq!(transition.revision, health.revision);
                    prop_assert!(!transition.reason.is_empty());
                    prop_assert_eq!(transition.to, health.circuit_state(at(now)));
                    if transition.cause == Cause::ProbeStarted {
                        prop_assert_eq!(before.circuit_state(at(now)), CircuitState::HalfOpen);
                    } else {
                        prop_assert_eq!(transition.from, before.circuit_state(at(now)));
                    }
                }
                None => prop_assert_eq!(before.circuit_state(at(now)), health.circuit_state(at(now))),
            }
        }
    }
}
