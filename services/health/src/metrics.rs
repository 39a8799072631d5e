//! Metrics of the health service.
//!
//! Labels come from closed sets: the agents that executors offer, the outcomes of an attempt, the verdicts on a probe.

use std::collections::BTreeMap;

use jiff::Timestamp;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use phoenix_domain::{
    AgentName,
    health::{AgentHealth, Cause, CircuitState, Outcome, Transition},
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
    "1 while the circuit of an agent is open or half open, by agent.",
)
.labelled();

/// Openings of circuits.
pub const CIRCUIT_OPENED: Metric = Metric::counter(
    "phoenix_agent_circuit_opened_total",
    "Openings of an agent's circuit, those by a failed probe included, by agent.",
)
.labelled();

/// State of circuits.
pub const CIRCUIT_STATE: Metric = Metric::gauge(
    "phoenix_agent_circuit_state",
    "1 for the state of an agent's circuit, 0 for the others, by agent and state (closed, open, half_open, isolated).",
)
.labelled();

/// Changes of circuits.
pub const CIRCUIT_TRANSITIONS: Metric = Metric::counter(
    "phoenix_agent_circuit_transitions_total",
    "Changes of an agent's circuit, by agent and cause (consecutive_failures, failure_rate, slow_calls, failed_probe, slow_probe, \
     probe_started, recovered, isolated, restored).",
)
.labelled();

/// Time until the next probe.
pub const PROBE_SECONDS: Metric = Metric::gauge(
    "phoenix_agent_next_probe_seconds",
    "Time in seconds until the open circuit of an agent admits the next probe, by agent; 0 when it is not open.",
)
.labelled();

/// Time since isolations.
pub const ISOLATED_SECONDS: Metric = Metric::gauge(
    "phoenix_agent_isolated_seconds",
    "Time in seconds since an operator isolated an agent, by agent; 0 when it is not isolated.",
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
    CIRCUIT_STATE,
    CIRCUIT_TRANSITIONS,
    PROBE_SECONDS,
    ISOLATED_SECONDS,
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
    opened: Counter,
    /// In the order of [`CircuitState::ALL`].
    states: Vec<Gauge>,
    /// In the order of [`Cause::ALL`].
    transitions: Vec<Counter>,
    next_probe: Gauge,
    isolated: Gauge,
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
        let state = |state: &CircuitState| gauge!(CIRCUIT_STATE.name, "agent" => name.to_string(), "state" => state.as_str());
        let transitions = |cause: &Cause| counter!(CIRCUIT_TRANSITIONS.name, "agent" => name.to_string(), "cause" => cause.as_str());
        Self {
            success: reports("success"),
            failure: reports("failure"),
            neutral: reports("neutral"),
            open: gauge!(CIRCUIT_OPEN.name, "agent" => name.to_string()),
            opened: counter!(CIRCUIT_OPENED.name, "agent" => name.to_string()),
            states: CircuitState::ALL.iter().map(state).collect(),
            transitions: Cause::ALL.iter().map(transitions).collect(),
            next_probe: gauge!(PROBE_SECONDS.name, "agent" => name.to_string()),
            isolated: gauge!(ISOLATED_SECONDS.name, "agent" => name.to_string()),
            probe_granted: probes("granted"),
            probe_refused: probes("refused"),
        }
    }

    /// Counts a report and the successes that it brings.
    pub(crate) fn count_reports(&self, outcome: Outcome, earlier_successes: u32) {
        self.success.increment(u64::from(earlier_successes));
        match outcome {
            Outcome::Success => &self.success,
            Outcome::Failure => &self.failure,
            Outcome::Neutral => &self.neutral,
        }
        .increment(1);
    }

    /// Counts a change of the circuit.
    pub(crate) fn count_transition(&self, transition: &Transition) {
        if transition.to == CircuitState::Open {
            self.opened.increment(1);
        }
        let counters = Cause::ALL.iter().zip(&self.transitions);
        counters
            .filter(|(cause, _)| **cause == transition.cause)
            .for_each(|(_, counter)| counter.increment(1));
    }

    /// Sets the gauges to the state of `health` at `now`.
    pub(crate) fn set_state(&self, health: &AgentHealth, now: Timestamp) {
        self.open.set(if health.circuit_open_until.is_some() { 1.0 } else { 0.0 });
        let current = health.circuit_state(now);
        for (state, gauge) in CircuitState::ALL.iter().zip(&self.states) {
            gauge.set(if *state == current { 1.0 } else { 0.0 });
        }
        let next_probe = health.next_probe_at(now).filter(|at| *at > now);
        self.next_probe.set(next_probe.map_or(0.0, |at| at.duration_since(now).as_secs_f64()));
        let isolation = health.circuit.isolation.as_ref();
        let isolated = isolation.map_or(0.0, |isolation| now.duration_since(isolation.at).as_secs_f64());
        self.isolated.set(isolated.max(0.0));
    }
}
