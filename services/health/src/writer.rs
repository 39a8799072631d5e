//! The one task that writes. It commits what gathered while its last commit ran (group commit), publishes the new
//! states, and only then answers: who has an answer finds it in the table and in every later read.
//!
//! While the file can't be written, the service is not ready, each change is refused, and the file is tried again every
//! [`RECHECK`], so that readiness returns although nobody sends anything to a service that is not ready.
//!
//! Deadlines are times of the day, because they must survive a restart. The day may be set back: every [`LOOK_AT_CLOCK`]
//! circuits that would stay open for longer than they can are brought back to the clock.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use phoenix_domain::{AgentCatalog, AgentName, OrchestratorError, health::AgentHealth};
use phoenix_platform::readiness::Readiness;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;
use tracing::{Span, field};

use crate::{
    health::{Change, Verdict, stored_precision, verdict},
    metrics::{AgentMeters, Meters},
    store::{States, Store, StoreError},
};

/// The condition of [`Readiness`] that says whether changes can be recorded.
pub(crate) const STORE_CONDITION: &str = "store";

/// Changes in one transaction. A bound on how long the first of them waits for the last.
const MAX_BATCH: usize = 1024;

/// How often a file that could not be written is tried again.
const RECHECK: Duration = Duration::from_millis(500);

/// How often the clock is looked at.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(1);

/// A change that waits, and who waits for it.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) agent: AgentName,
    pub(crate) change: Change,
    /// The request's span: what the change leads to belongs to its story.
    pub(crate) span: Span,
    pub(crate) reply: oneshot::Sender<Result<AgentHealth, OrchestratorError>>,
}

impl Command {
    /// Whether it asks for a probe and nobody waits for the answer any more; the place would be taken for a whole lease
    /// by an attempt that never runs. A report is a fact, whoever waits.
    fn is_abandoned_probe(&self) -> bool {
        matches!(self.change, Change::Probe { .. }) && self.reply.is_closed()
    }
}

/// The only one who changes the table.
pub(crate) struct Writer {
    catalog: AgentCatalog,
    store: Store,
    queue: mpsc::Receiver<Command>,
    published: watch::Sender<States>,
    readiness: Readiness,
    meters: Meters,
    writable: bool,
}

/// What one change did.
#[derive(Debug, Clone)]
struct Step {
    before: AgentHealth,
    after: AgentHealth,
}

impl Writer {
    pub(crate) fn new(
        catalog: AgentCatalog,
        store: Store,
        queue: mpsc::Receiver<Command>,
        published: watch::Sender<States>,
        readiness: Readiness,
    ) -> Self {
        let meters = Meters::new(&catalog);
        for (agent, health) in published.borrow().iter() {
            if let Some(meters) = meters.agent(agent) {
                meters.show(health);
            }
        }
        readiness.set(STORE_CONDITION, true);
        Self { catalog, store, queue, published, readiness, meters, writable: true }
    }

    /// Writes until `stop`; what waits then is still written.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::new();
        let mut clock = tokio::time::interval(LOOK_AT_CLOCK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled(), if !self.queue.is_closed() => self.queue.close(),
                gathered = self.queue.recv_many(&mut batch, MAX_BATCH) => match gathered {
                    0 => break,
                    _ => self.commit(&mut batch).await,
                },
                _ = clock.tick() => self.adjust_to_clock(stored_precision(Timestamp::now())).await,
                () = tokio::time::sleep(RECHECK), if !self.writable => self.recheck().await,
            }
        }
        self.store.close().await;
    }

    async fn commit(&mut self, batch: &mut Vec<Command>) {
        let agents: BTreeSet<_> = batch.iter().map(|command| command.agent.clone()).collect();
        let mut steps = Vec::with_capacity(batch.len());
        let started = Instant::now();
        let stored = self.store.update(agents, |states| fold(&self.catalog, batch, states, &mut steps)).await;
        match stored {
            Ok(states) => {
                self.meters.commit_seconds.record(started.elapsed());
                // A transaction without a change says nothing about the disk.
                if steps.iter().any(|step| step.before != step.after) {
                    self.wrote();
                }
                self.publish(states);
                for (command, step) in batch.drain(..).zip(steps) {
                    self.observe(&command, &step);
                    // The caller may have gone; the change is made all the same.
                    let _ = command.reply.send(Ok(step.after));
                }
            }
            Err(error) => {
                self.failed(&error);
                for command in batch.drain(..) {
                    let _ = command.reply.send(Err(OrchestratorError::from(&error)));
                }
            }
        }
    }

    /// Brings circuits back to a clock that was set back.
    async fn adjust_to_clock(&mut self, now: Timestamp) {
        let policy = |agent: &AgentName| self.catalog.get(agent).map(|spec| spec.breaker).unwrap_or_default();
        let ahead: BTreeSet<_> = {
            let published = self.published.borrow();
            let ahead =
                published.iter().filter(|(agent, health)| health.exceeds_cooldown(now, &policy(agent)));
            ahead.map(|(agent, _)| agent.clone()).collect()
        };
        if ahead.is_empty() {
            return;
        }
        let moved = |states: &mut States| {
            states.iter_mut().for_each(|(agent, health)| health.adjust_to_clock(now, &policy(agent)));
        };
        match self.store.update(ahead, moved).await {
            Ok(states) => {
                for (agent, health) in &states {
                    tracing::warn!(
                        %agent,
                        circuit_open_until = health.circuit_open_until.map(field::display),
                        "the clock was set back; the circuit stays open for its cooldown from now"
                    );
                }
                self.wrote();
                self.publish(states);
            }
            Err(error) => self.failed(&error),
        }
    }

    async fn recheck(&mut self) {
        match self.store.check_writable().await {
            Ok(()) => self.wrote(),
            Err(error) => self.failed(&error),
        }
    }

    fn wrote(&mut self) {
        self.writable = true;
        self.readiness.set(STORE_CONDITION, true);
    }

    /// Logs the first failure in a row; the metric counts them all.
    fn failed(&mut self, error: &StoreError) {
        self.meters.commit_failures.increment(1);
        if std::mem::replace(&mut self.writable, false) {
            tracing::error!(%error, "agents' health cannot be recorded");
        }
        self.readiness.set(STORE_CONDITION, false);
    }

    fn publish(&self, states: States) {
        self.published.send_if_modified(|published| {
            let mut changed = false;
            for (agent, health) in states {
                changed |= published.get(&agent) != Some(&health);
                published.insert(agent, health);
            }
            changed
        });
    }

    /// Counts what a committed change did, and logs it if the agent's state is another now.
    fn observe(&self, Command { agent, change, span, .. }: &Command, step: &Step) {
        let Some(meters) = self.meters.agent(agent) else { return };
        meters.show(&step.after);
        match *change {
            Change::Report { outcome, ended_at, .. } => {
                meters.reports(outcome).increment(1);
                let reopened = step.opens_circuit(ended_at);
                if reopened {
                    meters.opened.increment(1);
                }
                if reopened || step.before.state() != step.after.state() {
                    log_change(span, agent, step);
                }
            }
            Change::Probe { lease, asked_at, .. } => {
                count_probe(meters, verdict(&step.after, lease, asked_at));
            }
        }
    }
}

impl Step {
    /// Whether the circuit let attempts through at `at` and no longer does. A straggler that fails while the circuit is
    /// open moves its deadline, but opens nothing.
    fn opens_circuit(&self, at: Timestamp) -> bool {
        let (before, after) = (self.before.circuit_open_until, self.after.circuit_open_until);
        after > before && before.is_none_or(|until| until <= at)
    }
}

/// Makes the changes of `batch` in their order, and notes what each did.
fn fold(catalog: &AgentCatalog, batch: &[Command], states: &mut States, steps: &mut Vec<Step>) {
    for command in batch {
        let policy = catalog.get(&command.agent).map(|spec| spec.breaker).unwrap_or_default();
        let health = states.entry(command.agent.clone()).or_default();
        let before = health.clone();
        if !command.is_abandoned_probe() {
            command.change.apply(health, &policy);
        }
        steps.push(Step { before, after: health.clone() });
    }
}

fn count_probe(meters: &AgentMeters, verdict: Verdict) {
    match verdict {
        Verdict::Granted(_) => meters.probe_granted.increment(1),
        Verdict::Refused(_) => meters.probe_refused.increment(1),
        Verdict::NotNeeded => {}
    }
}

fn log_change(span: &Span, agent: &AgentName, Step { before, after }: &Step) {
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
