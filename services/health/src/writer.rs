//! The only task that writes. It commits the changes that arrived during its last commit (group commit), publishes the new
//! states, and then answers: a caller that has its answer finds the change in the table and in every later read.
//!
//! While the table cannot be written, the service is not ready, each change is rejected, and the table is tried again every
//! [`RECHECK_INTERVAL`], so that the service becomes ready again although a service that is not ready gets no changes.
//!
//! Deadlines are wall-clock times, because they must survive a restart. The wall clock may be set back: every
//! [`CLOCK_CHECK_INTERVAL`], circuits that would stay open for longer than their cooldown are brought back to the clock.

mod command;
mod effects;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use phoenix_domain::{
    AgentCatalog, AgentName, OrchestratorError,
    health::{CircuitState, Transition},
};
use phoenix_platform::{catalogs::CatalogView, readiness::Readiness};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;
use tracing::field;

pub(crate) use self::command::{Applied, Command};
use self::effects::{Effect, apply, observe};
use crate::{
    metrics::HealthMetrics,
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

/// A request for the newest changes of an agent's circuit.
#[derive(Debug)]
pub(crate) struct HistoryRequest {
    pub(crate) agent: AgentName,
    pub(crate) limit: u32,
    pub(crate) reply: oneshot::Sender<Vec<Transition>>,
}

/// What the writer receives.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) history: mpsc::Receiver<HistoryRequest>,
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
    history: mpsc::Receiver<HistoryRequest>,
    published: Published,
    readiness: Readiness,
    metrics: HealthMetrics,
    writable: bool,
}

impl Writer {
    pub(crate) fn new(
        agents: CatalogView,
        store: Store,
        received: Received,
        published: Published,
        readiness: Readiness,
    ) -> Self {
        readiness.set(STORE_CONDITION, true);
        let (metrics, Received { commands: queue, history }) = (HealthMetrics::new(), received);
        Self { agents, store, queue, history, published, readiness, metrics, writable: true }
    }

    /// Writes until `stop`; changes that are queued by then are still written.
    ///
    /// # Errors
    /// When the stored health of an agent can never be read.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        let mut batch = Vec::new();
        let mut clock = tokio::time::interval(CLOCK_CHECK_INTERVAL);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Not a pause of each turn, which changes by other processes would begin anew.
        let mut recheck = tokio::time::interval(RECHECK_INTERVAL);
        recheck.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
                Some(request) = self.history.recv() => self.read_history(request).await,
                _ = recheck.tick(), if !self.writable => {
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
        let mut effects = Vec::new();
        let (catalog, started_at) = (self.catalog(), Instant::now());
        let change = |states: &mut States, now| {
            effects = apply(&catalog, batch, states, now);
            let changed = batch
                .iter()
                .zip(&effects)
                .filter_map(|(command, effect)| Some((command.agent.clone(), effect.transition.clone()?)));
            changed.collect()
        };
        let stored = self.store.update(&agents, change).await;
        match stored {
            Ok(states) => {
                self.metrics.commit_seconds.record(started_at.elapsed());
                // A transaction without a change does not prove that the disk works.
                if effects.iter().any(|effect| effect.is_change) {
                    self.record_success();
                }
                self.publish(states);
                for (command, effect) in batch.drain(..).zip(effects) {
                    observe(self.metrics.agent(&command.agent), &command, &effect);
                    let Effect { after: health, at, .. } = effect;
                    // The caller may have left; the change is applied in any case.
                    let _ = command.reply.send(Ok(Applied { health, at }));
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

    /// Brings circuits back to a wall clock that was set back, and the gauges of open circuits forward.
    async fn adjust_to_clock(&mut self) {
        let now = self.store.now();
        for (agent, health) in self.published.states.borrow().iter() {
            if health.circuit_state(now) != CircuitState::Closed {
                self.metrics.agent(agent).set_state(health, now);
            }
        }
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
            Vec::new()
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

    async fn read_history(&self, HistoryRequest { agent, limit, reply }: HistoryRequest) {
        match self.store.transitions(&agent, limit).await {
            // The caller may have left.
            Ok(transitions) => drop(reply.send(transitions)),
            Err(error) => tracing::warn!(%agent, %error, "changes of the circuit cannot be read"),
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
        let now = self.store.now();
        self.published.states.send_if_modified(|published| {
            let mut changed = false;
            for (agent, health) in states {
                if published.get(&agent) != Some(&health) {
                    changed = true;
                    self.metrics.agent(&agent).set_state(&health, now);
                    published.insert(agent, health);
                }
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests;
