//! What the planner measures.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use phoenix_domain::AgentName;
use phoenix_platform::{metrics::Metric, rpc_metrics::RPC_SECONDS};
use tokio_util::sync::CancellationToken;

use crate::{
    agent_time::{AgentTime, RunningAttempt},
    journal::Journal,
};

/// How often the oldest plan is looked for.
const OLDEST_EVERY: Duration = Duration::from_secs(1);

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
/// Of those that were accepted, how many have begun.
pub const PLANS: Metric = Metric::gauge(
    "phoenix_plans",
    "Plans of this planner that are accepted and have not ended, by state: pending until the first task is handed over to the executor, waiting while no attempt runs, running while one does.",
)
.labelled();
/// How long the oldest plan has been under way.
pub const PLANS_OLDEST: Metric = Metric::gauge(
    "phoenix_plans_oldest_seconds",
    "Age of the oldest plan that has not ended, in the whole journal; 0 without one.",
);
/// How long tasks wait in the planner.
pub const TASK_QUEUE_SECONDS: Metric = Metric::histogram(
    "phoenix_task_queue_wait_seconds",
    "Time from when a task could run, its plan accepted and all it waits for ended, until its first attempt began.",
);
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
/// Plans whose record was found to be damaged.
pub const UNREADABLE: Metric = Metric::gauge(
    "phoenix_plans_unreadable",
    "Plans whose record in the journal was found to be damaged since the start.",
);
/// Records that the tables did not take.
pub const COMMITS_SET_ASIDE: Metric = Metric::counter(
    "phoenix_journal_commits_set_aside_total",
    "Journal records that cannot be used and are kept in quarantine.",
);
/// Plans that went because they were old.
pub const PLANS_DELETED: Metric =
    Metric::counter("phoenix_plans_deleted_total", "Finished plans deleted because of their age.");
/// The journal on the disk.
pub const JOURNAL_BYTES: Metric =
    Metric::gauge("phoenix_journal_bytes", "Size of the journal's files, looked at once a minute.");
/// How far back the journal goes.
pub const OLDEST_PLAN_SECONDS: Metric = Metric::gauge(
    "phoenix_journal_oldest_plan_seconds",
    "Time since the oldest finished plan was accepted, looked at once a minute; 0 without one.",
);
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
/// When that last happened: a number that changes, also from one process to the next.
pub const LAST_RECOVERY: Metric = Metric::gauge(
    "phoenix_last_recovery_timestamp_seconds",
    "When plans of a planner that stopped were last taken over, in seconds since 1970; 0 for never.",
);
/// Tasks handed over again because the executor went away or had no place.
pub const REDISPATCHED: Metric = Metric::counter(
    "phoenix_tasks_redispatched_total",
    "Tasks handed over again because the executor went away or had no place.",
);
/// Tasks that had failed for good and were given to a new plan.
pub const DEAD_LETTERS_REDRIVEN: Metric =
    Metric::counter("phoenix_dead_letters_redriven_total", "Dead letters given to a new plan by a redrive.");
/// Dead letters that somebody decided to do without.
pub const DEAD_LETTERS_DISCARDED: Metric =
    Metric::counter("phoenix_dead_letters_discarded_total", "Dead letters that were discarded.");
/// Dead letters that wait for a decision.
pub const DEAD_LETTERS_OPEN: Metric = Metric::gauge(
    "phoenix_dead_letters_open",
    "Dead letters that are neither redriven nor discarded, in the whole journal.",
);
/// How long the oldest of them has waited.
pub const DEAD_LETTERS_OLDEST: Metric = Metric::gauge(
    "phoenix_dead_letters_oldest_seconds",
    "Age of the oldest dead letter that is neither redriven nor discarded; 0 without one.",
);

/// Tasks that wait here.
pub const ADMISSION_WAITING: Metric = Metric::gauge(
    "phoenix_admission_waiting_tasks",
    "Tasks that are ready and wait in the planner for a place at their agent, by agent. A plan that has not begun, or of which nothing else runs, counts once for each agent.",
)
.labelled();
/// Callers turned away because an agent had no place.
pub const ADMISSION_REFUSED: Metric = Metric::counter(
    "phoenix_admission_refused_total",
    "Plans refused before they were journalled, because an agent had no place and their caller waited, by agent.",
)
.labelled();
/// Callers turned away because there are too many plans.
pub const PLANS_REFUSED: Metric = Metric::counter(
    "phoenix_plans_refused_total",
    "Plans refused before they were journalled, because as many were in flight as may be.",
);

/// Every metric of the planner.
pub const METRICS: &[Metric] = &[
    PLAN_STARTED,
    PLAN_SUCCEEDED,
    PLAN_FAILED,
    PLANS_IN_FLIGHT,
    PLANS,
    PLANS_OLDEST,
    TASK_QUEUE_SECONDS,
    JOURNAL_COMMIT_SECONDS,
    JOURNAL_ENTRIES,
    JOURNAL_FAILURES,
    UNREADABLE,
    COMMITS_SET_ASIDE,
    PLANS_DELETED,
    JOURNAL_BYTES,
    OLDEST_PLAN_SECONDS,
    HEALTH_UNKNOWN,
    FAILED_FAST,
    RECOVERED,
    LAST_RECOVERY,
    REDISPATCHED,
    DEAD_LETTERS_REDRIVEN,
    DEAD_LETTERS_DISCARDED,
    DEAD_LETTERS_OPEN,
    DEAD_LETTERS_OLDEST,
    ADMISSION_WAITING,
    ADMISSION_REFUSED,
    PLANS_REFUSED,
    RPC_SECONDS,
];

/// Plans of a planner that stopped were taken over.
pub(crate) fn recovered_now() {
    gauge!(LAST_RECOVERY.name).set(Timestamp::now().as_second() as f64);
}

/// The handles of what every plan and task moves, looked up once. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PlanMeters(Arc<Handles>);

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

impl PlanMeters {
    /// The handles; all of their metrics exist from now on.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it registers metrics, which no default should do")]
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

/// How many tasks wait for `agent`.
pub(crate) fn waiting_gauge(agent: &AgentName) -> Gauge {
    gauge!(ADMISSION_WAITING.name, "agent" => agent.to_string())
}

/// How many callers were turned away because of `agent`.
pub(crate) fn refused_counter(agent: &AgentName) -> Counter {
    counter!(ADMISSION_REFUSED.name, "agent" => agent.to_string())
}

/// One plan that was asked for. Counts it as started now, and as failed when it is dropped without
/// [`CountedPlan::succeeded`]: whatever happens, started = succeeded + failed + in flight.
#[derive(Debug)]
pub struct CountedPlan {
    meters: PlanMeters,
    started: Instant,
    accepted: OnceLock<Timestamp>,
    /// How far it has come: 0 asked for, 1 accepted, 2 handed over.
    step: AtomicU8,
    /// Attempts that run now.
    attempts: AtomicU32,
    succeeded: AtomicBool,
    agents: AgentTime,
}

impl CountedPlan {
    /// Counts one more.
    #[must_use]
    pub fn start(meters: &PlanMeters) -> Self {
        meters.0.started.increment(1);
        meters.0.in_flight.increment(1);
        Self {
            meters: meters.clone(),
            started: Instant::now(),
            accepted: OnceLock::new(),
            step: AtomicU8::new(0),
            attempts: AtomicU32::new(0),
            succeeded: AtomicBool::new(false),
            agents: AgentTime::default(),
        }
    }

    /// It is accepted, by this planner or by an earlier one.
    pub fn accepted(&self) {
        if self.accepted.set(Timestamp::now()).is_ok() {
            self.step.store(1, Relaxed);
            self.meters.0.pending.increment(1);
        }
    }

    /// One of its tasks was handed to an executor.
    pub fn handed_over(&self) {
        if self.step.compare_exchange(1, 2, Relaxed, Relaxed).is_ok() {
            self.meters.0.pending.decrement(1);
            self.meters.0.waiting.increment(1);
        }
    }

    /// The first attempt of a task began that could have begun at `ready`.
    pub fn task_began(&self, ready: Timestamp, began: Timestamp) {
        // By two clocks, the planner's and the executor's, which need not agree, and may jump.
        let waited = Duration::try_from(began.duration_since(ready)).unwrap_or_default();
        self.meters.0.task_queue.record(waited.min(self.started.elapsed()));
    }

    /// It ended well.
    pub fn succeeded(&self) {
        self.succeeded.store(true, Relaxed);
    }

    /// An attempt of one of its tasks began.
    pub fn attempt_began(&self, at: Timestamp) -> CountedAttempt<'_> {
        if self.attempts.fetch_add(1, Relaxed) == 0 {
            self.meters.0.waiting.decrement(1);
            self.meters.0.running.increment(1);
        }
        CountedAttempt { plan: self, time: Some(self.agents.began(at)) }
    }

    fn attempt_ended(&self) {
        if self.attempts.fetch_sub(1, Relaxed) == 1 {
            self.meters.0.running.decrement(1);
            self.meters.0.waiting.increment(1);
        }
    }

    /// The time during which at least one of its attempts ran.
    #[must_use]
    pub fn agent_time(&self) -> Duration {
        // By the executor's clock, which may have jumped.
        self.agents.total().min(self.started.elapsed())
    }

    /// When this planner accepted it.
    #[must_use]
    pub fn accepted_at(&self) -> Timestamp {
        self.accepted.get().copied().unwrap_or_else(Timestamp::now)
    }

    /// Milliseconds since it was asked for.
    #[must_use]
    pub fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Drop for CountedPlan {
    fn drop(&mut self) {
        let Handles { succeeded, failed, in_flight, pending, waiting, .. } = &*self.meters.0;
        let outcome = if self.succeeded.load(Relaxed) { succeeded } else { failed };
        outcome.increment(1);
        in_flight.decrement(1);
        match self.step.load(Relaxed) {
            0 => {}
            1 => pending.decrement(1),
            // Its attempts have been counted out before it.
            _ => waiting.decrement(1),
        }
    }
}

/// An attempt of a plan that runs. Dropped without [`CountedAttempt::ended`] it ends now.
#[derive(Debug)]
pub struct CountedAttempt<'a> {
    plan: &'a CountedPlan,
    time: Option<RunningAttempt<'a>>,
}

impl CountedAttempt<'_> {
    /// It ended.
    pub fn ended(mut self, at: Timestamp) {
        if let Some(time) = self.time.take() {
            time.ended(at);
        }
    }
}

impl Drop for CountedAttempt<'_> {
    fn drop(&mut self) {
        self.plan.attempt_ended();
    }
}

/// Keeps the age of the oldest plan that has not ended true, until `stop`.
pub(crate) async fn measure_oldest(journal: Journal, stop: CancellationToken) {
    let mut every = tokio::time::interval(OLDEST_EVERY);
    while stop.run_until_cancelled(every.tick()).await.is_some() {
        // A journal that can't be read is reported elsewhere; what was last known stays.
        let Ok(oldest) = journal.oldest_unfinished().await else { continue };
        let age = oldest.map_or(0.0, |oldest| Timestamp::now().duration_since(oldest).as_secs_f64().max(0.0));
        gauge!(PLANS_OLDEST.name).set(age);
    }
}
