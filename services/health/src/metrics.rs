//! Metrics of the health service.
//!
//! Labels come from closed sets: the agents that executors offer, the outcomes of an attempt, the verdicts on a probe.

use std::collections::BTreeMap;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use phoenix_domain::{
    AgentName,
    health::{AgentHealth, HealthState, Outcome},
};
use phoenix_platform::metrics::Metric;

/// Recorded outcomes, after their commit.
pub const REPORTS: Metric = Metric::counter(
    "phoenix_agent_health_reports_total",
    "Recorded outcomes of attempts, by agent and outcome (success, failure, neutral).",
)
.labelled();

/// Open circuits.
pub const CIRCUIT_OPEN: Metric = Metric::gauge(
    "phoenix_agent_circuit_open",
    "1 while an agent is unhealthy: its circuit has opened and no success has closed it since, by agent.",
)
.labelled();

/// Openings of circuits.
pub const CIRCUIT_OPENED: Metric = Metric::counter(
    "phoenix_agent_circuit_opened_total",
    "Openings of an agent's circuit, those by a failed probe included, by agent.",
)
.labelled();

/// Verdicts on probes.
pub const PROBES: Metric = Metric::counter(
    "phoenix_agent_probes_total",
    "Requests to probe an unhealthy agent, by agent and answer (granted, refused).",
)
.labelled();

/// Duration of commits.
pub const COMMIT_SECONDS: Metric = Metric::histogram(
    "phoenix_health_commit_seconds",
    "Time of one transaction in seconds; a transaction records every report that waited for it.",
);

/// Failed transactions.
pub const COMMIT_FAILURES: Metric = Metric::counter(
    "phoenix_health_commit_failures_total",
    "Failed transactions. Each of their callers got an error, and none of their changes was kept.",
);

/// All metrics of this service.
pub const METRICS: &[Metric] = &[
    REPORTS,
    CIRCUIT_OPEN,
    CIRCUIT_OPENED,
    PROBES,
    COMMIT_SECONDS,
    COMMIT_FAILURES,
    phoenix_platform::rpc_metrics::RPC_SECONDS,
];

/// Handles of all metrics, looked up once; an agent's series exist from the moment when it is known.
pub(crate) struct HealthMetrics {
    pub(crate) commit_seconds: Histogram,
    pub(crate) commit_failures: Counter,
    agents: BTreeMap<AgentName, AgentMetrics>,
}

/// Handles of one agent's metrics.
pub(crate) struct AgentMetrics {
    success: Counter,
    failure: Counter,
    neutral: Counter,
    open: Gauge,
    pub(crate) opened: Counter,
    pub(crate) probe_granted: Counter,
    pub(crate) probe_refused: Counter,
}

impl HealthMetrics {
    pub(crate) fn new() -> Self {
        Self {
            commit_seconds: histogram!(COMMIT_SECONDS.name),
            commit_failures: counter!(COMMIT_FAILURES.name),
            agents: BTreeMap::new(),
        }
    }

    /// Handles of an agent that an executor offers.
    pub(crate) fn agent(&mut self, name: &AgentName) -> &AgentMetrics {
        self.agents.entry(name.clone()).or_insert_with(|| AgentMetrics::new(name))
    }
}

impl AgentMetrics {
    fn new(name: &AgentName) -> Self {
        let reports =
            |outcome: &'static str| counter!(REPORTS.name, "agent" => name.to_string(), "outcome" => outcome);
        let probes =
            |answer: &'static str| counter!(PROBES.name, "agent" => name.to_string(), "answer" => answer);
        Self {
            success: reports("success"),
            failure: reports("failure"),
            neutral: reports("neutral"),
            open: gauge!(CIRCUIT_OPEN.name, "agent" => name.to_string()),
            opened: counter!(CIRCUIT_OPENED.name, "agent" => name.to_string()),
            probe_granted: probes("granted"),
            probe_refused: probes("refused"),
        }
    }

    pub(crate) fn reports(&self, outcome: Outcome) -> &Counter {
        match outcome {
            Outcome::Success => &self.success,
            Outcome::Failure => &self.failure,
            Outcome::Neutral => &self.neutral,
        }
    }

    /// Sets the gauge to the state of `health`.
    pub(crate) fn set_state(&self, health: &AgentHealth) {
        self.open.set(if health.state() == HealthState::Unhealthy { 1.0 } else { 0.0 });
    }
}
