//! What the planner measures.

use std::time::Instant;

use phoenix_platform::{
    calls::RPC_SECONDS,
    metrics::{Metric, record_counter},
};

/// Every plan that was asked for, those refused by validation too.
pub const PLAN_STARTED: Metric =
    Metric::counter("orchestrator_plan_started_total", "Plans asked for, refused ones included.");
/// Plans whose every task ended well.
pub const PLAN_SUCCEEDED: Metric =
    Metric::counter("orchestrator_plan_succeeded_total", "Plans whose every task ended well.");
/// Plans that were refused, failed, timed out or were cancelled.
pub const PLAN_FAILED: Metric = Metric::counter(
    "orchestrator_plan_failed_total",
    "Plans that were refused, failed, timed out or were cancelled.",
);
/// started − succeeded − failed.
pub const PLANS_IN_FLIGHT: Metric =
    Metric::gauge("phoenix_plans_in_flight", "Plans that have started and not ended.");
/// How long a commit to the journal takes.
pub const JOURNAL_COMMIT_SECONDS: Metric = Metric::histogram(
    "phoenix_journal_commit_seconds",
    "Time to make one batch of journal entries durable, fsync included.",
);
/// Entries made durable; divided by the commits, the batch size.
pub const JOURNAL_ENTRIES: Metric =
    Metric::counter("phoenix_journal_entries_total", "Journal entries made durable.");
/// Commits that failed and were tried again or refused.
pub const JOURNAL_FAILURES: Metric =
    Metric::counter("phoenix_journal_commit_failures_total", "Commits to the journal that failed.");
/// Chats that ran although nobody could say whether their agent was healthy.
pub const HEALTH_UNKNOWN: Metric = Metric::counter(
    "phoenix_health_unknown_total",
    "Tasks that ran unchecked because the health service did not answer.",
);
/// Tasks refused because their agent's circuit was open.
pub const FAILED_FAST: Metric = Metric::counter(
    "phoenix_tasks_failed_fast_total",
    "Tasks refused without starting a process because their agent's circuit was open.",
);

/// Plans taken over from a planner that stopped.
pub const RECOVERED: Metric =
    Metric::counter("phoenix_plans_recovered_total", "Plans taken over from a planner that stopped.");
/// Tasks handed over again because the executor went away or had no place.
pub const REDISPATCHED: Metric = Metric::counter(
    "phoenix_tasks_redispatched_total",
    "Tasks handed over again because the executor went away or had no place.",
);

/// Every metric of the planner.
pub const METRICS: &[Metric] = &[
    PLAN_STARTED,
    PLAN_SUCCEEDED,
    PLAN_FAILED,
    PLANS_IN_FLIGHT,
    JOURNAL_COMMIT_SECONDS,
    JOURNAL_ENTRIES,
    JOURNAL_FAILURES,
    HEALTH_UNKNOWN,
    FAILED_FAST,
    RECOVERED,
    REDISPATCHED,
    RPC_SECONDS,
];

/// One plan that was asked for. Counts it as started now, and as failed when it is dropped without
/// [`CountedPlan::succeeded`]: whatever happens, started = succeeded + failed + in flight.
#[derive(Debug)]
pub struct CountedPlan {
    outcome: &'static Metric,
    started: Instant,
}

impl CountedPlan {
    /// Counts one more.
    #[must_use]
    pub fn start() -> Self {
        record_counter(&PLAN_STARTED, 1);
        metrics::gauge!(PLANS_IN_FLIGHT.name).increment(1);
        Self { outcome: &PLAN_FAILED, started: Instant::now() }
    }

    /// It ended well.
    pub fn succeeded(mut self) {
        self.outcome = &PLAN_SUCCEEDED;
    }

    /// Milliseconds since it was asked for.
    #[must_use]
    pub fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Drop for CountedPlan {
    fn drop(&mut self) {
        record_counter(self.outcome, 1);
        metrics::gauge!(PLANS_IN_FLIGHT.name).decrement(1);
    }
}
