//! Metrics of the planner: names, kinds and help texts.

use jiff::Timestamp;
use metrics::{Counter, Gauge, counter, gauge};
use phoenix_domain::AgentName;
use phoenix_platform::{metrics::Metric, rpc_metrics::RPC_SECONDS};

/// Requested plans, including rejected ones.
pub const PLAN_STARTED: Metric =
    Metric::counter("orchestrator_plan_started_total", "Requested plans, including rejected ones.");
/// Plans that succeeded.
pub const PLAN_SUCCEEDED: Metric =
    Metric::counter("orchestrator_plan_succeeded_total", "Plans that succeeded.");
/// Plans that were rejected, failed, timed out or were cancelled.
pub const PLAN_FAILED: Metric = Metric::counter(
    "orchestrator_plan_failed_total",
    "Plans that were rejected, failed, timed out or were cancelled.",
);
/// started − succeeded − failed.
pub const PLANS_IN_FLIGHT: Metric =
    Metric::gauge("phoenix_plans_in_flight", "Plans that have started and not ended.");
/// Accepted plans by state.
pub const PLANS: Metric = Metric::gauge(
    "phoenix_plans",
    "Unfinished plans of this planner by state: pending until the first task is dispatched to the executor, waiting while no attempt runs, running while one does.",
)
.labelled();
/// Age of the oldest unfinished plan.
pub const PLANS_OLDEST: Metric = Metric::gauge(
    "phoenix_plans_oldest_seconds",
    "Age of the oldest unfinished plan of all planners that does not wait for an approval, in seconds; 0 without one.",
);
/// Queue time of tasks.
pub const TASK_QUEUE_SECONDS: Metric = Metric::histogram(
    "phoenix_task_queue_wait_seconds",
    "Time in seconds between the moment a task is ready (its plan accepted, its dependencies ended) and the start of its first attempt.",
);
/// Duration of a commit to the journal.
pub const JOURNAL_COMMIT_SECONDS: Metric = Metric::histogram(
    "phoenix_journal_commit_seconds",
    "Duration of a commit of journal entries in seconds, including the fsync.",
);
/// Durable entries; divided by the number of commits, the batch size.
pub const JOURNAL_ENTRIES: Metric =
    Metric::counter("phoenix_journal_entries_total", "Journal entries made durable.");
/// Failed commits, which were retried or rejected.
pub const JOURNAL_FAILURES: Metric =
    Metric::counter("phoenix_journal_commit_failures_total", "Failed commits to the journal.");
/// Plans with a damaged record.
pub const UNREADABLE: Metric = Metric::gauge(
    "phoenix_plans_unreadable",
    "Plans with a damaged record in the journal that were found since the start.",
);
/// Records in quarantine.
pub const RECORDS_QUARANTINED: Metric = Metric::counter(
    "phoenix_journal_commits_set_aside_total",
    "Journal records that cannot be used: in quarantine, or rejected by the database.",
);
/// Plans deleted by retention.
pub const PLANS_DELETED: Metric =
    Metric::counter("phoenix_plans_deleted_total", "Finished plans deleted by retention.");
/// Size of the journal on disk.
pub const JOURNAL_BYTES: Metric =
    Metric::gauge("phoenix_journal_bytes", "Journal size on disk in bytes, sampled every minute.");
/// Age of the oldest terminal plan.
pub const OLDEST_PLAN_SECONDS: Metric = Metric::gauge(
    "phoenix_journal_oldest_plan_seconds",
    "Time since the acceptance of the oldest finished plan in seconds, sampled every minute; 0 without one.",
);
/// Tasks that ran while the health of their agent was unknown.
pub const HEALTH_UNKNOWN: Metric = Metric::counter(
    "phoenix_health_unknown_total",
    "Tasks that ran unchecked because the health service was unreachable.",
);
/// Tasks rejected because their agent's circuit was open.
pub const FAILED_FAST: Metric = Metric::counter(
    "phoenix_tasks_failed_fast_total",
    "Tasks rejected without starting a process because their agent's circuit was open.",
);

/// Plans taken over from a planner that stopped.
pub const RECOVERED: Metric =
    Metric::counter("phoenix_plans_recovered_total", "Plans taken over from a planner that stopped.");
/// Time of the last takeover: it changes with every takeover, also across processes.
pub const LAST_RECOVERY: Metric = Metric::gauge(
    "phoenix_last_recovery_timestamp_seconds",
    "Time of the last takeover of plans from a planner that stopped, in seconds since 1970; 0 for never.",
);
/// Tasks dispatched again.
pub const REDISPATCHED: Metric = Metric::counter(
    "phoenix_tasks_redispatched_total",
    "Tasks dispatched again because the executor disconnected or was at capacity.",
);
/// Executors by state.
pub const EXECUTORS: Metric = Metric::gauge(
    "phoenix_executors",
    "Executors of this planner by state: reached while their catalog is followed, unreachable otherwise.",
)
.labelled();
/// Redriven dead letters.
pub const DEAD_LETTERS_REDRIVEN: Metric =
    Metric::counter("phoenix_dead_letters_redriven_total", "Dead letters given to a new plan by a redrive.");
/// Discarded dead letters.
pub const DEAD_LETTERS_DISCARDED: Metric =
    Metric::counter("phoenix_dead_letters_discarded_total", "Dead letters that were discarded.");
/// Open dead letters.
pub const DEAD_LETTERS_OPEN: Metric = Metric::gauge(
    "phoenix_dead_letters_open",
    "Open dead letters of all planners: neither redriven nor discarded.",
);
/// Age of the oldest open dead letter.
pub const DEAD_LETTERS_OLDEST: Metric = Metric::gauge(
    "phoenix_dead_letters_oldest_seconds",
    "Age of the oldest open dead letter in seconds; 0 without one.",
);

/// Tasks that wait for an approval.
pub const APPROVALS_WAITING: Metric = Metric::gauge(
    "phoenix_approvals_waiting",
    "Tasks of all planners that wait for a decision: about an approval or a budget.",
);
/// Age of the oldest approval that waits.
pub const APPROVALS_OLDEST: Metric = Metric::gauge(
    "phoenix_approvals_oldest_seconds",
    "Time since the oldest decision that a task waits for was requested, in seconds; 0 without one.",
);

/// Tasks that queue for a permit.
pub const ADMISSION_WAITING: Metric = Metric::gauge(
    "phoenix_admission_waiting_tasks",
    "Ready tasks that queue in the planner for capacity of their agent, by agent. A plan that has not started, or of which no other task runs, counts once for each agent.",
)
.labelled();
/// Requests rejected because an agent was at capacity.
pub const ADMISSION_REFUSED: Metric = Metric::counter(
    "phoenix_admission_refused_total",
    "Synchronous plans rejected before they were journaled because an agent was at capacity, by agent.",
)
.labelled();
/// Requests rejected because of the limit on plans in flight.
pub const PLANS_REFUSED: Metric = Metric::counter(
    "phoenix_plans_refused_total",
    "Plans rejected before they were journaled because the maximum number of plans was in flight.",
);

/// Calls of language models.
pub const MODEL_CALLS: Metric = Metric::counter(
    "phoenix_model_calls_total",
    "Calls of language models that reported what they used, by provider and by whether their cost is known.",
)
.labelled();
/// Tokens of calls of language models.
pub const MODEL_TOKENS: Metric = Metric::counter(
    "phoenix_model_tokens_total",
    "Tokens of calls of language models by provider and kind; cached_input is a part of input, reasoning of output.",
)
.labelled();
/// Cost of calls of language models.
pub const MODEL_COST: Metric = Metric::counter(
    "phoenix_model_cost_nanodollars_total",
    "Known cost of calls of language models in billionths of a US dollar, by provider.",
)
.labelled();

/// Calls that a budget refused.
pub const BUDGET_REFUSALS: Metric = Metric::counter(
    "phoenix_budget_refusals_total",
    "Calls that were refused because a budget was used up, by scope: plan, agent or provider.",
)
.labelled();

/// Used share of budgets.
pub const BUDGET_USED: Metric = Metric::gauge(
    "phoenix_budget_used_ratio",
    "Used and reserved share of the budget of an agent or a provider for this day, from 0, by scope, budget and resource.",
)
.labelled();

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
    RECORDS_QUARANTINED,
    PLANS_DELETED,
    JOURNAL_BYTES,
    OLDEST_PLAN_SECONDS,
    HEALTH_UNKNOWN,
    FAILED_FAST,
    RECOVERED,
    LAST_RECOVERY,
    REDISPATCHED,
    EXECUTORS,
    DEAD_LETTERS_REDRIVEN,
    DEAD_LETTERS_DISCARDED,
    DEAD_LETTERS_OPEN,
    DEAD_LETTERS_OLDEST,
    APPROVALS_WAITING,
    APPROVALS_OLDEST,
    ADMISSION_WAITING,
    ADMISSION_REFUSED,
    PLANS_REFUSED,
    MODEL_CALLS,
    MODEL_TOKENS,
    MODEL_COST,
    BUDGET_REFUSALS,
    BUDGET_USED,
    RPC_SECONDS,
];

/// Records a takeover of plans.
pub(crate) fn recovered_now() {
    gauge!(LAST_RECOVERY.name).set(Timestamp::now().as_second() as f64);
}

/// Sets the number of executors by state.
pub(crate) fn set_executors(reached: usize, unreachable: usize) {
    for (state, count) in [("reached", reached), ("unreachable", unreachable)] {
        #[expect(clippy::cast_precision_loss, reason = "there are never 2^52 executors")]
        gauge!(EXECUTORS.name, "state" => state).set(count as f64);
    }
}

/// Gauge of the tasks that queue for `agent`.
pub(crate) fn waiting_gauge(agent: &AgentName) -> Gauge {
    gauge!(ADMISSION_WAITING.name, "agent" => agent.to_string())
}

/// Counter of the requests rejected because of `agent`.
pub(crate) fn refused_counter(agent: &AgentName) -> Counter {
    counter!(ADMISSION_REFUSED.name, "agent" => agent.to_string())
}
