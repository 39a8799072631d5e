//! What the health service measures.
//!
//! Labels come from closed sets: the agents of the catalog, the outcomes of an attempt, the answers to a probe.

use std::collections::BTreeMap;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use phoenix_domain::{
    AgentCatalog, AgentName,
    health::{AgentHealth, HealthState, Outcome},
};
use phoenix_platform::metrics::Metric;

/// Outcomes taken in, after their commit.
pub const REPORTS: Metric = Metric::counter(
    "phoenix_agent_health_reports_total",
    "Outcomes of attempts taken in, by agent and outcome (success, failure, neutral).",
)
.labelled();

/// Whether an agent's circuit is open.
pub const CIRCUIT_OPEN: Metric = Metric::gauge(
    "phoenix_agent_circuit_open",
    "1 while an agent is unhealthy: its circuit has opened and no success has closed it since.",
)
.labelled();

/// How often it has opened.
pub const CIRCUIT_OPENED: Metric = Metric::counter(
    "phoenix_agent_circuit_opened_total",
    "How often an agent's circuit has opened, a failed probe that opens it again included.",
)
.labelled();

/// Who was let through after the deadline.
pub const PROBES: Metric = Metric::counter(
    "phoenix_agent_probes_total",
    "Requests to try an unhealthy agent, by agent and answer (granted, refused).",
)
.labelled();

/// What a commit costs.
pub const COMMIT_SECONDS: Metric = Metric::histogram(
    "phoenix_health_commit_seconds",
    "Time of one transaction, which takes in every report that waited for it.",
);

/// Transactions that failed.
pub const COMMIT_FAILURES: Metric = Metric::counter(
    "phoenix_health_commit_failures_total",
    "Transactions that failed; their callers were told, and nothing of them was kept.",
);

/// Every metric of this service.
pub const METRICS: &[Metric] = &[
    REPORTS,
    CIRCUIT_OPEN,
    CIRCUIT_OPENED,
    PROBES,
    COMMIT_SECONDS,
    COMMIT_FAILURES,
    phoenix_platform::rpc_metrics::RPC_SECONDS,
];

/// The metrics' handles, looked up once; every agent's exist from the start.
pub(crate) struct Meters {
    pub(crate) commit_seconds: Histogram,
    pub(crate) commit_failures: Counter,
    agents: BTreeMap<AgentName, AgentMeters>,
}

/// The handles of one agent.
pub(crate) struct AgentMeters {
    success: Counter,
    failure: Counter,
    neutral: Counter,
    open: Gauge,
    pub(crate) opened: Counter,
    pub(crate) probe_granted: Counter,
    pub(crate) probe_refused: Counter,
}

impl Meters {
    pub(crate) fn new(catalog: &AgentCatalog) -> Self {
        let agents = catalog.iter().map(|spec| (spec.name.clone(), AgentMeters::new(&spec.name)));
        Self {
            commit_seconds: histogram!(COMMIT_SECONDS.name),
            commit_failures: counter!(COMMIT_FAILURES.name),
            agents: agents.collect(),
        }
    }

    /// The handles of an agent of the catalog.
    pub(crate) fn agent(&self, name: &AgentName) -> Option<&AgentMeters> {
        self.agents.get(name)
    }
}

impl AgentMeters {
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

    /// Shows `health` on the gauge.
    pub(crate) fn show(&self, health: &AgentHealth) {
        self.open.set(if health.state() == HealthState::Unhealthy { 1.0 } else { 0.0 });
    }
}
