//! Metrics of one plan: guards that keep counters and gauges consistent however the plan ends.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::{
    agent_time::{AgentTime, RunningAttempt},
    metrics::{PLAN_FAILED, PLAN_STARTED, PLAN_SUCCEEDED, PLANS, PLANS_IN_FLIGHT, TASK_QUEUE_SECONDS},
};

/// Handles of the metrics of plans and tasks, registered once. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PlanMetrics(Arc<Handles>);

#[derive(Debug)]
struct Handles {
    started: Counter,
    succeeded: Counter,
    failed: Counter,
    in_flight: Gauge,
    pending: Gauge,
    waiting: Gauge,
    running: Gauge,
    task_queue: Histogram,
}

impl PlanMetrics {
    /// Registers the metrics.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a default must not register metrics")]
    pub fn new() -> Self {
        let plans = |state: &'static str| gauge!(PLANS.name, "state" => state);
        Self(Arc::new(Handles {
            started: counter!(PLAN_STARTED.name),
            succeeded: counter!(PLAN_SUCCEEDED.name),
            failed: counter!(PLAN_FAILED.name),
            in_flight: gauge!(PLANS_IN_FLIGHT.name),
            pending: plans("pending"),
            waiting: plans("waiting"),
            running: plans("running"),
            task_queue: histogram!(TASK_QUEUE_SECONDS.name),
        }))
    }
}

/// Metrics of one plan. Counts it as started, and as failed when it is dropped without [`PlanMetricsGuard::succeeded`], so
/// that started = succeeded + failed + in flight holds on every path.
#[derive(Debug)]
pub struct PlanMetricsGuard {
    metrics: PlanMetrics,
    started: Instant,
    accepted: OnceLock<Timestamp>,
    /// 0 requested, 1 accepted, 2 dispatched.
    step: AtomicU8,
    /// Number of running attempts.
    attempts: AtomicU32,
    succeeded: AtomicBool,
    agents: AgentTime,
}

impl PlanMetricsGuard {
    /// Counts a requested plan.
    #[must_use]
    pub fn start(metrics: &PlanMetrics) -> Self {
        metrics.0.started.increment(1);
        metrics.0.in_flight.increment(1);
        Self {
            metrics: metrics.clone(),
            started: Instant::now(),
            accepted: OnceLock::new(),
            step: AtomicU8::new(0),
            attempts: AtomicU32::new(0),
            succeeded: AtomicBool::new(false),
            agents: AgentTime::default(),
        }
    }

    /// Records that the plan is accepted, by this planner or an earlier one.
    pub fn accepted(&self) {
        if self.accepted.set(Timestamp::now()).is_ok() {
            self.step.store(1, Relaxed);
            self.metrics.0.pending.increment(1);
        }
    }

    /// Records that a task was dispatched.
    pub fn dispatched(&self) {
        if self.step.compare_exchange(1, 2, Relaxed, Relaxed).is_ok() {
            self.metrics.0.pending.decrement(1);
            self.metrics.0.waiting.increment(1);
        }
    }

    /// Records the queue time of a task that was ready at `ready` and whose first attempt started at `started`.
    pub fn task_started(&self, ready: Timestamp, started: Timestamp) {
        // The times are of two clocks, the planner's and the executor's, which may differ and jump.
        let waited = Duration::try_from(started.duration_since(ready)).unwrap_or_default();
        self.metrics.0.task_queue.record(waited.min(self.started.elapsed()));
    }

    /// Records that the plan succeeded.
    pub fn succeeded(&self) {
        self.succeeded.store(true, Relaxed);
    }

    /// Records that an attempt started.
    pub fn attempt_started(&self, at: Timestamp) -> AttemptMetricsGuard<'_> {
        if self.attempts.fetch_add(1, Relaxed) == 0 {
            self.metrics.0.waiting.decrement(1);
            self.metrics.0.running.increment(1);
        }
        AttemptMetricsGuard { plan: self, time: Some(self.agents.started(at)) }
    }

    fn attempt_ended(&self) {
        if self.attempts.fetch_sub(1, Relaxed) == 1 {
            self.metrics.0.running.decrement(1);
            self.metrics.0.waiting.increment(1);
        }
    }

    /// Time during which at least one attempt ran.
    #[must_use]
    pub fn agent_time(&self) -> Duration {
        // The executor's clock may have jumped.
        self.agents.total().min(self.started.elapsed())
    }

    /// When this planner accepted the plan.
    #[must_use]
    pub fn accepted_at(&self) -> Timestamp {
        self.accepted.get().copied().unwrap_or_else(Timestamp::now)
    }

    /// Milliseconds since the request.
    #[must_use]
    pub fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Drop for PlanMetricsGuard {
    fn drop(&mut self) {
        let Handles { succeeded, failed, in_flight, pending, waiting, .. } = &*self.metrics.0;
        let outcome = if self.succeeded.load(Relaxed) { succeeded } else { failed };
        outcome.increment(1);
        in_flight.decrement(1);
        match self.step.load(Relaxed) {
            0 => {}
            1 => pending.decrement(1),
            // The guards of its attempts are dropped before.
            _ => waiting.decrement(1),
        }
    }
}

/// Metrics of a running attempt. If it is dropped without [`AttemptMetricsGuard::ended`], it ends now.
#[derive(Debug)]
pub struct AttemptMetricsGuard<'a> {
    plan: &'a PlanMetricsGuard,
    time: Option<RunningAttempt<'a>>,
}

impl AttemptMetricsGuard<'_> {
    /// Ends the attempt.
    pub fn ended(mut self, at: Timestamp) {
        if let Some(time) = self.time.take() {
            time.ended(at);
        }
    }
}

impl Drop for AttemptMetricsGuard<'_> {
    fn drop(&mut self) {
        self.plan.attempt_ended();
    }
}
