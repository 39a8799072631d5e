//! What changes do: to the states of their agents, to metrics and to the log.

use jiff::Timestamp;
use phoenix_domain::{
    AgentCatalog, AgentName,
    health::{AgentHealth, CircuitState, HealthState, Transition},
};
use tracing::{Span, field};

use super::command::Command;
use crate::{
    change::{AttemptEnd, Change, Verdict, verdict},
    metrics::AgentMetrics,
    store::States,
};

/// The effect of one change.
#[derive(Debug, Clone)]
pub(super) struct Effect {
    /// State before it.
    pub(super) before: HealthState,
    /// The health after it, without the calls of the window: a batch may have many effects.
    pub(super) after: AgentHealth,
    /// Whether it changed the health.
    pub(super) is_change: bool,
    /// The change of the circuit.
    pub(super) transition: Option<Transition>,
    pub(super) at: Timestamp,
}

/// Applies the changes of `batch` in order at `now`. Returns the effect of each.
pub(super) fn apply(
    catalog: &AgentCatalog,
    batch: &[Command],
    states: &mut States,
    now: Timestamp,
) -> Vec<Effect> {
    let apply = |command: &Command| {
        let policy = catalog.get(&command.agent).map(|spec| spec.breaker).unwrap_or_default();
        let health = states.entry(command.agent.clone()).or_default();
        let (before, revision) = (health.state(), health.revision);
        let transition = match command.is_abandoned_probe() {
            true => None,
            false => command.change.apply(health, &policy, now),
        };
        let is_change = health.revision != revision;
        Effect { before, after: health.without_calls(), is_change, transition, at: now }
    };
    batch.iter().map(apply).collect()
}

/// Counts a committed change, and logs it if it changed the agent's state.
pub(super) fn observe(
    metrics: &AgentMetrics,
    Command { agent, change, span, .. }: &Command,
    effect: &Effect,
) {
    match change {
        Change::Report(AttemptEnd { outcome, earlier_successes, .. }) => {
            metrics.count_reports(*outcome, *earlier_successes);
        }
        Change::Probe { lease, .. } => count_probe(metrics, verdict(&effect.after, *lease, effect.at)),
        Change::Isolate(_) | Change::Restore(_) => {}
    }
    if let Some(transition) = &effect.transition {
        metrics.count_transition(transition);
        log_transition(span, agent, effect, transition);
    } else if effect.before != effect.after.state() {
        log_change(span, agent, effect);
    }
}

fn count_probe(metrics: &AgentMetrics, verdict: Verdict) {
    match verdict {
        Verdict::Granted(_) => metrics.probe_granted.increment(1),
        Verdict::Refused(_) | Verdict::Isolated => metrics.probe_refused.increment(1),
        Verdict::NotNeeded => {}
    }
}

fn log_change(span: &Span, agent: &AgentName, Effect { before, after, .. }: &Effect) {
    tracing::info!(
        parent: span,
        %agent,
        from = before.as_str(),
        to = after.state().as_str(),
        consecutive_failures = after.consecutive_failures,
        circuit_open_until = after.circuit_open_until.map(field::display),
        "agent's health changed"
    );
}

fn log_transition(
    span: &Span,
    agent: &AgentName,
    Effect { before, after, .. }: &Effect,
    Transition { from, to, cause, reason, actor, .. }: &Transition,
) {
    macro_rules! log {
        ($level:ident) => {
            tracing::$level!(
                parent: span,
                %agent,
                from = before.as_str(),
                to = after.state().as_str(),
                circuit_from = from.as_str(),
                circuit_to = to.as_str(),
                cause = cause.as_str(),
                reason,
                actor,
                consecutive_failures = after.consecutive_failures,
                circuit_open_until = after.circuit_open_until.map(field::display),
                "agent's circuit changed"
            )
        };
    }
    match to {
        CircuitState::Open | CircuitState::Isolated => log!(warn),
        CircuitState::HalfOpen | CircuitState::Closed => log!(info),
    }
}
