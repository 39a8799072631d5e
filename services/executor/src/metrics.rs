//! Metrics of the executor.
//!
//! Labels come from closed sets: the agents of the catalog, and the outcomes of an attempt.

use std::sync::Arc;

use metrics::{Counter, Gauge, counter, gauge};
use phoenix_domain::{AgentName, FailureClass};
use phoenix_platform::metrics::Metric;

use crate::observed::{LastStderr, ReadableCounter, ReadableGauge};

/// Tasks that were accepted.
pub const TASKS_STARTED: Metric = Metric::counter(
    "orchestrator_task_started_total",
    "Tasks accepted, each counted once, regardless of retries and resumptions.",
);

/// Attempts that failed.
pub const CALL_FAILURES: Metric =
    Metric::counter("agent_call_failures_total", "Attempts that failed, retried ones included.");

/// Duration of tasks.
pub const TASK_SECONDS: Metric = Metric::histogram(
    "orchestrator_task_duration_seconds",
    "Time of a task in seconds, from its dispatch to its end: queueing, attempts and the pauses between them.",
);

/// Duration of attempts.
pub const CALL_SECONDS: Metric = Metric::histogram(
    "agent_call_duration_seconds",
    "Time of one attempt in seconds, regardless of its outcome.",
);

/// Attempts by outcome.
pub const ATTEMPTS: Metric = Metric::counter(
    "phoenix_agent_attempts_total",
    "Attempts that ended, by agent and outcome (succeeded, cancelled, or a failure class).",
)
.labelled();

/// Failed attempts that were followed by another.
pub const RETRIES: Metric = Metric::counter(
    "phoenix_agent_retries_total",
    "Failed attempts that were followed by another, by agent and failure class.",
)
.labelled();

/// Time in the queue.
pub const QUEUE_SECONDS: Metric = Metric::histogram(
    "phoenix_agent_queue_wait_seconds",
    "Time between the arrival of a task and its permit to run, in seconds.",
);

/// Tasks in the queue.
pub const QUEUED: Metric =
    Metric::gauge("phoenix_agent_queued_tasks", "Tasks that wait for a permit to run, by agent.").labelled();

/// Tasks that hold a permit.
pub const RUNNING: Metric = Metric::gauge(
    "phoenix_agent_running_tasks",
    "Tasks that hold a permit to run, by agent, including those between two attempts.",
)
.labelled();

/// Capacity of an agent.
pub const CAPACITY: Metric = Metric::gauge(
    "phoenix_agent_places",
    "Tasks that may run at the same time, by agent: its workers, or in mode oneshot its max_concurrency.",
)
.labelled();

/// Tasks rejected because of a full queue.
pub const OVERLOADED: Metric = Metric::counter(
    "phoenix_agent_overloaded_total",
    "Tasks rejected because the queue of the agent was full, by agent.",
)
.labelled();

/// Running agent processes.
pub const PROCESSES: Metric =
    Metric::gauge("phoenix_agent_processes", "Running agent processes, by agent.").labelled();

/// Workers that serve a request.
pub const WORKERS_BUSY: Metric = Metric::gauge(
    "phoenix_workers_busy",
    "Workers (long-lived processes) that serve a request, by agent; phoenix_agent_processes counts all that run.",
)
.labelled();

/// Workers started as replacements.
pub const WORKER_RESTARTS: Metric = Metric::counter(
    "phoenix_worker_restarts_total",
    "Workers started to replace one that crashed, exited, hung, broke the protocol or lost its caller, by agent.",
)
.labelled();

/// Workers that crashed.
pub const WORKER_CRASHES: Metric = Metric::counter(
    "phoenix_worker_crashes_total",
    "Crashes of workers (long-lived processes), by agent. A crashed worker is replaced when a request needs it.",
)
.labelled();

/// Crash loops.
pub const WORKER_CRASH_LOOP: Metric = Metric::gauge(
    "phoenix_worker_crash_loop",
    "1 while the workers of an agent crash again and again and are started with backoff, by agent.",
)
.labelled();

/// Health reports that were lost.
pub const HEALTH_REPORTS_LOST: Metric = Metric::counter(
    "phoenix_health_reports_lost_total",
    "Outcomes of attempts that the health service did not accept; the agents' health is then outdated.",
);

/// Restarts of the orphan guard.
pub const GUARD_RESTARTS: Metric =
    Metric::counter("phoenix_executor_guard_restarts_total", "Restarts of the orphan guard after it exited.");

/// Orphans killed at start.
pub const ORPHANS_KILLED: Metric = Metric::counter(
    "phoenix_executor_orphans_killed_total",
    "Agent processes left behind by an earlier executor and killed by this one.",
);

/// All metrics of this service.
pub const METRICS: &[Metric] = &[
    TASKS_STARTED,
    CALL_FAILURES,
    TASK_SECONDS,
    CALL_SECONDS,
    ATTEMPTS,
    RETRIES,
    QUEUE_SECONDS,
    QUEUED,
    RUNNING,
    CAPACITY,
    OVERLOADED,
    PROCESSES,
    WORKERS_BUSY,
    WORKER_RESTARTS,
    WORKER_CRASHES,
    WORKER_CRASH_LOOP,
    HEALTH_REPORTS_LOST,
    GUARD_RESTARTS,
    ORPHANS_KILLED,
    phoenix_platform::rpc_metrics::RPC_SECONDS,
];

/// What can be read about an agent's processes.
pub(crate) struct Observed {
    pub(crate) processes: Arc<ReadableGauge>,
    pub(crate) restarts: Arc<ReadableCounter>,
    pub(crate) crash_loop: Arc<ReadableGauge>,
    pub(crate) last_stderr: LastStderr,
}

/// Handles of one agent's metrics, looked up once; every series exists from the start.
pub(crate) struct AgentMetrics {
    pub(crate) queued: Gauge,
    pub(crate) running: Gauge,
    pub(crate) overloaded: Counter,
    pub(crate) processes: Gauge,
    pub(crate) busy: Gauge,
    pub(crate) restarts: Counter,
    pub(crate) crashes: Counter,
    pub(crate) crash_loop: Gauge,
    pub(crate) observed: Observed,
    succeeded: Counter,
    cancelled: Counter,
    failed: Vec<(FailureClass, Counter)>,
    retried: Vec<(FailureClass, Counter)>,
}

impl AgentMetrics {
    /// Handles of an agent that runs at most `capacity` tasks at the same time.
    pub(crate) fn new(agent: &AgentName, capacity: u32) -> Self {
        let attempts = |outcome: &'static str| counter!(ATTEMPTS.name, "agent" => agent.to_string(), "outcome" => outcome);
        let retries = |class: FailureClass| counter!(RETRIES.name, "agent" => agent.to_string(), "class" => class.as_str());
        let classes = || FailureClass::ALL.iter().copied();
        gauge!(CAPACITY.name, "agent" => agent.to_string()).set(capacity);
        let observed = Observed {
            processes: ReadableGauge::new(gauge!(PROCESSES.name, "agent" => agent.to_string())),
            restarts: ReadableCounter::new(counter!(WORKER_RESTARTS.name, "agent" => agent.to_string())),
            crash_loop: ReadableGauge::new(gauge!(WORKER_CRASH_LOOP.name, "agent" => agent.to_string())),
            last_stderr: LastStderr::default(),
        };
        Self {
            queued: gauge!(QUEUED.name, "agent" => agent.to_string()),
            running: gauge!(RUNNING.name, "agent" => agent.to_string()),
            overloaded: counter!(OVERLOADED.name, "agent" => agent.to_string()),
            processes: Gauge::from_arc(Arc::clone(&observed.processes)),
            busy: gauge!(WORKERS_BUSY.name, "agent" => agent.to_string()),
            restarts: Counter::from_arc(Arc::clone(&observed.restarts)),
            crashes: counter!(WORKER_CRASHES.name, "agent" => agent.to_string()),
            crash_loop: Gauge::from_arc(Arc::clone(&observed.crash_loop)),
            observed,
            succeeded: attempts("succeeded"),
            cancelled: attempts("cancelled"),
            failed: classes().map(|class| (class, attempts(class.as_str()))).collect(),
            retried: classes()
                .filter(|class| class.is_retried())
                .map(|class| (class, retries(class)))
                .collect(),
        }
    }

    /// Counts one attempt; `None` stands for a cancelled one.
    pub(crate) fn record_attempt(&self, outcome: Option<Result<(), FailureClass>>) {
        match outcome {
            None => self.cancelled.increment(1),
            Some(Ok(())) => self.succeeded.increment(1),
            Some(Err(class)) => count(&self.failed, class),
        }
    }

    /// Counts one failed attempt that is followed by another.
    pub(crate) fn record_retry(&self, class: FailureClass) {
        count(&self.retried, class);
    }
}

fn count(counters: &[(FailureClass, Counter)], class: FailureClass) {
    if let Some((_, counter)) = counters.iter().find(|(known, _)| *known == class) {
        counter.increment(1);
    }
}

/// One unit of a gauge, subtracted on drop.
pub(crate) struct GaugeGuard(Gauge);

impl GaugeGuard {
    pub(crate) fn increment(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
