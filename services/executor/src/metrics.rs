//! What the executor measures.
//!
//! Labels come from closed sets: the agents of the catalog, and the ways an attempt can end.

use metrics::{Counter, Gauge, counter, gauge};
use phoenix_domain::{AgentName, FailureClass};
use phoenix_platform::metrics::Metric;

/// Tasks taken in.
pub const TASKS_STARTED: Metric = Metric::counter(
    "orchestrator_task_started_total",
    "Tasks taken in, each once, however often it is retried or resumed.",
);

/// Attempts that failed.
pub const CALL_FAILURES: Metric =
    Metric::counter("agent_call_failures_total", "Attempts that failed, retried ones included.");

/// How long tasks take.
pub const TASK_SECONDS: Metric = Metric::histogram(
    "orchestrator_task_duration_seconds",
    "Time of a task from its dispatch to its end: waiting, attempts and the pauses between them.",
);

/// How long attempts take.
pub const CALL_SECONDS: Metric =
    Metric::histogram("agent_call_duration_seconds", "Time of one attempt, however it ended.");

/// How attempts end.
pub const ATTEMPTS: Metric = Metric::counter(
    "phoenix_agent_attempts_total",
    "Attempts that ended, by agent and outcome (succeeded, cancelled, or a failure class).",
)
.labelled();

/// Attempts after which another was made.
pub const RETRIES: Metric = Metric::counter(
    "phoenix_agent_retries_total",
    "Failed attempts that are followed by another, by agent and failure class.",
)
.labelled();

/// How long tasks wait for a place.
pub const QUEUE_SECONDS: Metric = Metric::histogram(
    "phoenix_agent_queue_wait_seconds",
    "Time between a task's arrival and its place among the running ones of its agent.",
);

/// Tasks that wait.
pub const QUEUED: Metric =
    Metric::gauge("phoenix_agent_queued_tasks", "Tasks that wait for a place, by agent.").labelled();

/// Tasks that run.
pub const RUNNING: Metric = Metric::gauge(
    "phoenix_agent_running_tasks",
    "Tasks that have a place, by agent, those between two attempts included.",
)
.labelled();

/// How many can run.
pub const PLACES: Metric = Metric::gauge(
    "phoenix_agent_places",
    "Tasks that may run at once, by agent: its workers, or in mode oneshot its max_concurrency.",
)
.labelled();

/// Tasks turned away.
pub const OVERLOADED: Metric = Metric::counter(
    "phoenix_agent_overloaded_total",
    "Tasks turned away because the agent's queue was full, by agent.",
)
.labelled();

/// Processes that live.
pub const PROCESSES: Metric =
    Metric::gauge("phoenix_agent_processes", "Agent processes that live, by agent.").labelled();

/// Workers that are asked something.
pub const WORKERS_BUSY: Metric = Metric::gauge(
    "phoenix_workers_busy",
    "Workers (processes kept alive) that work on a request, by agent; phoenix_agent_processes are those that live.",
)
.labelled();

/// Workers started in the place of others.
pub const WORKER_RESTARTS: Metric = Metric::counter(
    "phoenix_worker_restarts_total",
    "Workers started in the place of one that ended, by agent: it died, left, hung, made no sense, or its caller left.",
)
.labelled();

/// Workers that died.
pub const WORKER_CRASHES: Metric = Metric::counter(
    "phoenix_worker_crashes_total",
    "Workers (processes kept alive) that died of themselves, by agent. Each is started again when it is needed.",
)
.labelled();

/// Whether they die again and again.
pub const WORKER_CRASH_LOOP: Metric = Metric::gauge(
    "phoenix_worker_crash_loop",
    "1 while an agent's workers die again and again, and are started slowly, by agent.",
)
.labelled();

/// Reports that did not arrive.
pub const HEALTH_REPORTS_LOST: Metric = Metric::counter(
    "phoenix_health_reports_lost_total",
    "Outcomes that the health service did not take; agents' health is then older than the facts.",
);

/// Guards that died.
pub const GUARD_RESTARTS: Metric = Metric::counter(
    "phoenix_executor_guard_restarts_total",
    "How often the orphan guard died and was started again.",
);

/// Orphans found at start.
pub const ORPHANS_KILLED: Metric = Metric::counter(
    "phoenix_executor_orphans_killed_total",
    "Processes of agents that an earlier executor left behind and this one ended.",
);

/// Every metric of this service.
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
    PLACES,
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

/// The handles of one agent's metrics, looked up once; all of them exist from the start.
pub(crate) struct AgentMeters {
    pub(crate) queued: Gauge,
    pub(crate) running: Gauge,
    pub(crate) overloaded: Counter,
    pub(crate) processes: Gauge,
    pub(crate) busy: Gauge,
    pub(crate) restarts: Counter,
    pub(crate) crashes: Counter,
    pub(crate) crash_loop: Gauge,
    succeeded: Counter,
    cancelled: Counter,
    failed: Vec<(FailureClass, Counter)>,
    retried: Vec<(FailureClass, Counter)>,
}

impl AgentMeters {
    /// The handles of an agent that runs at most `places` tasks at once.
    pub(crate) fn new(agent: &AgentName, places: u32) -> Self {
        let attempts = |outcome: &'static str| counter!(ATTEMPTS.name, "agent" => agent.to_string(), "outcome" => outcome);
        let retries = |class: FailureClass| counter!(RETRIES.name, "agent" => agent.to_string(), "class" => class.as_str());
        let classes = || FailureClass::ALL.iter().copied();
        gauge!(PLACES.name, "agent" => agent.to_string()).set(places);
        Self {
            queued: gauge!(QUEUED.name, "agent" => agent.to_string()),
            running: gauge!(RUNNING.name, "agent" => agent.to_string()),
            overloaded: counter!(OVERLOADED.name, "agent" => agent.to_string()),
            processes: gauge!(PROCESSES.name, "agent" => agent.to_string()),
            busy: gauge!(WORKERS_BUSY.name, "agent" => agent.to_string()),
            restarts: counter!(WORKER_RESTARTS.name, "agent" => agent.to_string()),
            crashes: counter!(WORKER_CRASHES.name, "agent" => agent.to_string()),
            crash_loop: gauge!(WORKER_CRASH_LOOP.name, "agent" => agent.to_string()),
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
    pub(crate) fn attempt_ended(&self, outcome: Option<Result<(), FailureClass>>) {
        match outcome {
            None => self.cancelled.increment(1),
            Some(Ok(())) => self.succeeded.increment(1),
            Some(Err(class)) => count(&self.failed, class),
        }
    }

    /// Counts one attempt that failed and is followed by another.
    pub(crate) fn attempt_retried(&self, class: FailureClass) {
        count(&self.retried, class);
    }
}

fn count(counters: &[(FailureClass, Counter)], class: FailureClass) {
    if let Some((_, counter)) = counters.iter().find(|(known, _)| *known == class) {
        counter.increment(1);
    }
}

/// One unit of a gauge, given back on drop.
pub(crate) struct Held(Gauge);

impl Held {
    pub(crate) fn of(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
