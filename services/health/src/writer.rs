//! The only task that writes. It commits the changes that arrived during its last commit (group commit), publishes the new
//! states, and then answers: a caller that has its answer finds the change in the table and in every later read.
//!
//! While the table cannot be written, the service is not ready, each change is rejected, and the table is tried again every
//! [`RECHECK_INTERVAL`], so that the service becomes ready again although a service that is not ready gets no changes.
//!
//! Deadlines are wall-clock times, because they must survive a restart. The wall clock may be set back: every
//! [`CLOCK_CHECK_INTERVAL`], circuits that would stay open for longer than their cooldown are brought back to the clock.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use phoenix_domain::{AgentCatalog, AgentName, OrchestratorError, health::AgentHealth};
use phoenix_platform::{catalogs::CatalogView, readiness::Readiness};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;
use tracing::{Span, field};

use crate::{
    change::{Change, Verdict, verdict},
    metrics::{AgentMetrics, HealthMetrics},
    store::{States, Store, StoreError},
};

/// Readiness condition: changes can be recorded.
pub(crate) const STORE_CONDITION: &str = "store";

/// Most changes in one transaction. It bounds how long the first of them waits for the last.
const MAX_BATCH: usize = 1024;

/// Interval at which a table that could not be written is tried again.
const RECHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Interval at which open circuits are compared with the clock.
const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A queued change and the channel for its answer.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) agent: AgentName,
    pub(crate) change: Change,
    /// Span of the request, in which the change is logged.
    pub(crate) span: Span,
    pub(crate) reply: oneshot::Sender<Result<Applied, OrchestratorError>>,
}

/// The result of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Applied {
    /// The health after it.
    pub(crate) health: AgentHealth,
    /// When it was applied, by the clock of the table.
    pub(crate) at: Timestamp,
}

impl Command {
    /// Whether it asks for a probe and its caller has left: the lease would block the agent for an attempt that never runs.
    /// A report is a fact, whether or not its caller waits.
    fn is_abandoned_probe(&self) -> bool {
        matches!(self.change, Change::Probe { .. }) && self.reply.is_closed()
    }
}

/// What the writer publishes.
#[derive(Debug)]
pub(crate) struct Published {
    /// Health of every agent that was known so far.
    pub(crate) states: watch::Sender<States>,
    /// Whether the stored health of the first agents was read.
    pub(crate) loaded: watch::Sender<bool>,
}

/// Applies changes to the table.
pub(crate) struct Writer {
    agents: CatalogView,
    store: Store,
    queue: mpsc::Receiver<Command>,
    published: Published,
    readiness: Readiness,
    metrics: HealthMetrics,
    writable: bool,
}

/// The effect of one change.
#[derive(Debug, Clone)]
struct Transition {
    before: AgentHealth,
    after: AgentHealth,
    at: Timestamp,
}

impl Writer {
    pub(crate) fn new(
        agents: CatalogView,
        store: Store,
        queue: mpsc::Receiver<Command>,
        published: Published,
        readiness: Readiness,
    ) -> Self {
        readiness.set(STORE_CONDITION, true);
        let metrics = HealthMetrics::new();
        Self { agents, store, queue, published, readiness, metrics, writable: true }
    }

    /// Writes until `stop`; changes that are queued by then are still written.
    ///
    /// # Errors
    /// When the stored health of an agent can never be read.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        let mut batch = Vec::new();
        let mut clock = tokio::time::interval(CLOCK_CHECK_INTERVAL);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changes = self.store.changes();
        let mut catalogs = self.agents.subscribe();
        self.read_new_agents().await?;
        loop {
            tokio::select! {
                () = stop.cancelled(), if !self.queue.is_closed() => self.queue.close(),
                received = self.queue.recv_many(&mut batch, MAX_BATCH) => match received {
                    0 => break,
                    _ => self.commit(&mut batch).await,
                },
                // The sender lives as long as the view of this writer.
                _ = catalogs.changed() => self.read_new_agents().await?,
                _ = clock.tick() => self.adjust_to_clock().await,
                () = changes.next() => self.refresh().await,
                () = tokio::time::sleep(RECHECK_INTERVAL), if !self.writable => {
                    self.recheck().await;
                    self.read_new_agents().await?;
                }
            }
        }
        self.store.close().await;
        Ok(())
    }

    /// Reads the stored health of agents that have become known, and publishes it.
    async fn read_new_agents(&mut self) -> Result<(), StoreError> {
        let Ok(agents) = self.agents.catalog() else { return Ok(()) };
        let new: BTreeSet<_> = {
            let published = self.published.states.borrow();
            let new = agents.iter().filter(|spec| !published.contains_key(&spec.name));
            new.map(|spec| spec.name.clone()).collect()
        };
        if !new.is_empty() {
            match self.store.read(&new).await {
                Ok(states) => self.publish(states),
                Err(error) if error.is_transient() => {
                    self.record_failure(&error);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.published.loaded.send_replace(true);
        Ok(())
    }

    /// The known agents.
    fn catalog(&self) -> AgentCatalog {
        self.agents.catalog().unwrap_or_else(|_| AgentCatalog::with_default([], None))
    }

    async fn commit(&mut self, batch: &mut Vec<Command>) {
        let agents: BTreeSet<_> = batch.iter().map(|command| command.agent.clone()).collect();
        let mut transitions = Vec::new();
        let (catalog, started_at) = (self.catalog(), Instant::now());
        let change = |states: &mut States, now| transitions = apply(&catalog, batch, states, now);
        let stored = self.store.update(&agents, change).await;
        match stored {
            Ok(states) => {
                self.metrics.commit_seconds.record(started_at.elapsed());
                // A transaction without a change does not prove that the disk works.
                if transitions.iter().any(|transition| transition.before != transition.after) {
                    self.record_success();
                }
                self.publish(states);
                for (command, transition) in batch.drain(..).zip(transitions) {
                    self.observe(&command, &transition);
                    // The caller may have left; the change is applied in any case.
                    let _ = command.reply.send(Ok(Applied { health: transition.after, at: transition.at }));
                }
            }
            Err(error) => {
                self.record_failure(&error);
                for command in batch.drain(..) {
                    let _ = command.reply.send(Err(OrchestratorError::from(&error)));
                }
            }
        }
    }

    /// Brings circuits back to a wall clock that was set back.
    async fn adjust_to_clock(&mut self) {
        let now = self.store.now();
        let catalog = self.catalog();
        let policy = |agent: &AgentName| catalog.get(agent).map(|spec| spec.breaker).unwrap_or_default();
        let ahead: BTreeSet<_> = {
            let published = self.published.states.borrow();
            let ahead =
                published.iter().filter(|(agent, health)| health.exceeds_cooldown(now, &policy(agent)));
            ahead.map(|(agent, _)| agent.clone()).collect()
        };
        if ahead.is_empty() {
            return;
        }
        let moved = |states: &mut States, now| {
            states.iter_mut().for_each(|(agent, health)| health.adjust_to_clock(now, &policy(agent)));
        };
        match self.store.update(&ahead, moved).await {
            Ok(states) => {
                for (agent, health) in &states {
                    tracing::warn!(
                        %agent,
                        circuit_open_until = health.circuit_open_until.map(field::display),
                        "the clock was set back; the circuit stays open for its cooldown from now"
                    );
                }
                self.record_success();
                self.publish(states);
            }
            Err(error) => self.record_failure(&error),
        }
    }

    /// Publishes what other processes have changed.
    async fn refresh(&mut self) {
        let names = self.published.states.borrow().keys().cloned().collect();
        match self.store.read(&names).await {
            Ok(states) => self.publish(states),
            Err(error) => self.record_failure(&error),
        }
    }

    async fn recheck(&mut self) {
        match self.store.check_writable().await {
            Ok(()) => self.record_success(),
            Err(error) => self.record_failure(&error),
        }
    }

    fn record_success(&mut self) {
        self.writable = true;
        self.readiness.set(STORE_CONDITION, true);
    }

    /// Logs the first of consecutive failures; the metric counts all.
    fn record_failure(&mut self, error: &StoreError) {
        self.metrics.commit_failures.increment(1);
        if std::mem::replace(&mut self.writable, false) {
            tracing::error!(%error, "agents' health cannot be recorded");
        }
        self.readiness.set(STORE_CONDITION, false);
    }

    fn publish(&mut self, states: States) {
        self.published.states.send_if_modified(|published| {
            let mut changed = false;
            for (agent, health) in states {
                if published.get(&agent) != Some(&health) {
                    changed = true;
                    self.metrics.agent(&agent).set_state(&health);
                    published.insert(agent, health);
                }
            }
            changed
        });
    }

    /// Counts a committed change, and logs it if it changed the agent's state.
    fn observe(&mut self, Command { agent, change, span, .. }: &Command, transition: &Transition) {
        let metrics = self.metrics.agent(agent);
        match *change {
            Change::Report { outcome, ended, .. } => {
                let ended_at = ended.by(transition.at);
                metrics.reports(outcome).increment(1);
                let reopened = transition.opens_circuit(ended_at);
                if reopened {
                    metrics.opened.increment(1);
                }
                if reopened || transition.before.state() != transition.after.state() {
                    log_change(span, agent, transition);
                }
            }
            Change::Probe { lease, .. } => {
                count_probe(metrics, verdict(&transition.after, lease, transition.at));
            }
        }
    }
}

impl Transition {
    /// Whether the circuit admitted attempts at `at` and no longer does. A late failure of an attempt from before the
    /// opening moves the deadline, but is no opening.
    fn opens_circuit(&self, at: Timestamp) -> bool {
        let (before, after) = (self.before.circuit_open_until, self.after.circuit_open_until);
        after > before && before.is_none_or(|until| until <= at)
    }
}

/// Applies the changes of `batch` in order at `now`. Returns the effect of each.
fn apply(catalog: &AgentCatalog, batch: &[Command], states: &mut States, now: Timestamp) -> Vec<Transition> {
    let apply = |command: &Command| {
        let policy = catalog.get(&command.agent).map(|spec| spec.breaker).unwrap_or_default();
        let health = states.entry(command.agent.clone()).or_default();
        let before = health.clone();
        if !command.is_abandoned_probe() {
            command.change.apply(health, &policy, now);
        }
        Transition { before, after: health.clone(), at: now }
    };
    batch.iter().map(apply).collect()
}

fn count_probe(metrics: &AgentMetrics, verdict: Verdict) {
    match verdict {
        Verdict::Granted(_) => metrics.probe_granted.increment(1),
        Verdict::Refused(_) => metrics.probe_refused.increment(1),
        Verdict::NotNeeded => {}
    }
}

fn log_change(span: &Span, agent: &AgentName, Transition { before, after, .. }: &Transition) {
    tracing::info!(
        parent: span,
        %agent,
        from = before.state().as_str(),
        to = after.state().as_str(),
        consecutive_failures = after.consecutive_failures,
        circuit_open_until = after.circuit_open_until.map(field::display),
        "agent's health changed"
    );
}

#[cfg(test)]
mod tests;
