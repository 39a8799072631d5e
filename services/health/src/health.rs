//! The operations of the health service, in domain types.
//!
//! Reads are answered from memory. A change is plain data that the [`Writer`] applies to the table in the order of arrival.
//!
//! The agents, their policies and their limits are those of the executors' catalogs.

use std::time::Duration;

use jiff::Timestamp;
use phoenix_domain::{
    AgentName, AgentSpec, OrchestratorError, OrchestratorErrorCode,
    health::{CircuitState, Transition, check_decision},
    rejections,
    retry::RetryPolicy,
};
use phoenix_platform::{catalogs::CatalogView, readiness::Readiness};
use phoenix_proto::{HealthSnapshot, health_v1::AgentProcesses};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Span;
use uuid::Uuid;

use crate::{
    change::{AttemptEnd, Change, Decision, Verdict, verdict},
    processes::processes_of,
    store::{States, Store, stored_precision},
    writer::{Applied, Command, HistoryRequest, Published, Received, Writer},
};

/// Capacity of the queue of changes; one more is `overloaded`.
const QUEUE_CAPACITY: usize = 4096;

/// Capacity of the queue of requests for the changes of a circuit; one more is answered without them.
const HISTORY_CAPACITY: usize = 16;

/// Longest wait for the changes of a circuit. Less than the time limits of the callers.
const HISTORY_WAIT: Duration = Duration::from_millis(500);

/// Changes of a circuit in an answer.
const SHOWN_TRANSITIONS: u32 = 20;

/// Time for the calls around a task, added to the agent's own limit when the caller names no lease time.
const LEASE_MARGIN: Duration = Duration::from_secs(5);

/// Longest wait of a call for the agents and their stored health: after a start, or after an executor has offered a new agent.
/// Less than the time limits of the callers.
const AGENTS_WAIT: Duration = Duration::from_millis(300);

/// The health of every agent that an executor offers.
#[derive(Debug)]
pub(crate) struct Health {
    agents: CatalogView,
    states: watch::Receiver<States>,
    /// Whether the stored health of the first agents was read.
    is_loaded: watch::Receiver<bool>,
    commands: mpsc::Sender<Command>,
    history: mpsc::Sender<HistoryRequest>,
}

/// One agent: what it is, its health, and the state of its circuit.
#[derive(Debug)]
pub(crate) struct AgentDetails {
    pub(crate) spec: AgentSpec,
    pub(crate) snapshot: HealthSnapshot,
    pub(crate) circuit: CircuitState,
    pub(crate) next_probe_at: Option<Timestamp>,
    /// The newest changes of the circuit, the newest first; absent while they cannot be read.
    pub(crate) transitions: Option<Vec<Transition>>,
    pub(crate) processes: Vec<AgentProcesses>,
}

/// Answer to a request for a probe.
#[derive(Debug)]
pub(crate) struct ProbeAnswer {
    pub(crate) verdict: Verdict,
    /// When the verdict was given.
    pub(crate) at: Timestamp,
    pub(crate) snapshot: HealthSnapshot,
}

impl Health {
    /// The health of `agents`, and the writer that reads and changes it. The writer has to be run.
    pub(crate) fn start(agents: CatalogView, store: Store, readiness: Readiness) -> (Self, Writer) {
        let (published, states) = watch::channel(States::new());
        let (loaded, is_loaded) = watch::channel(false);
        let (commands, queue) = mpsc::channel(QUEUE_CAPACITY);
        let (history, requests) = mpsc::channel(HISTORY_CAPACITY);
        let published = Published { states: published, loaded };
        let received = Received { commands: queue, history: requests };
        let writer = Writer::new(agents.clone(), store, received, published, readiness);
        (Self { agents, states, is_loaded, commands, history }, writer)
    }

    /// Waits until the stored health of the first agents was read, at most for `limit`.
    pub(crate) async fn loaded(&self, limit: Duration) {
        let mut is_loaded = self.is_loaded.clone();
        // After the limit, the caller gets what is known.
        let _ = tokio::time::timeout(limit, is_loaded.wait_for(|is_loaded| *is_loaded)).await;
    }

    /// The health of every agent, by name.
    ///
    /// # Errors
    /// `unavailable` before an executor was reached, or while the table cannot be read.
    pub(crate) async fn list(&self) -> Result<Vec<HealthSnapshot>, OrchestratorError> {
        self.loaded(AGENTS_WAIT).await;
        let agents = self.agents.catalog()?;
        agents.iter().map(|spec| self.snapshot(&spec.name)).collect()
    }

    /// Every agent, and its health, by name.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub(crate) async fn agents(&self) -> Result<Vec<AgentDetails>, OrchestratorError> {
        self.loaded(AGENTS_WAIT).await;
        let agents = self.agents.catalog()?;
        agents.iter().map(|spec| self.details(spec.clone(), None)).collect()
    }

    /// One agent, and its health.
    ///
    /// # Errors
    /// `not_found` for an unknown agent; as [`Self::list`].
    pub(crate) async fn get(&self, agent: &AgentName) -> Result<AgentDetails, OrchestratorError> {
        let spec = self.spec(agent).await?;
        let (transitions, processes) =
            tokio::join!(self.transitions(agent), processes_of(&self.agents, agent));
        Ok(AgentDetails { processes, ..self.details(spec, transitions)? })
    }

    /// A known agent. Its stored health may not be read yet.
    fn details(
        &self,
        spec: AgentSpec,
        transitions: Option<Vec<Transition>>,
    ) -> Result<AgentDetails, OrchestratorError> {
        let states = self.states.borrow();
        let health = states.get(&spec.name).ok_or_else(not_read_yet)?;
        let now = stored_precision(Timestamp::now());
        Ok(AgentDetails {
            circuit: health.circuit_state(now),
            next_probe_at: health.next_probe_at(now),
            snapshot: HealthSnapshot::of(spec.name.clone(), health),
            spec,
            transitions,
            processes: Vec::new(),
        })
    }

    /// The newest changes of an agent's circuit. `None` while they cannot be read.
    async fn transitions(&self, agent: &AgentName) -> Option<Vec<Transition>> {
        let (reply, answer) = oneshot::channel();
        let request = HistoryRequest { agent: agent.clone(), limit: SHOWN_TRANSITIONS, reply };
        self.history.try_send(request).ok()?;
        tokio::time::timeout(HISTORY_WAIT, answer).await.ok()?.ok()
    }

    /// The health of a known agent. Its stored health may not be read yet.
    fn snapshot(&self, agent: &AgentName) -> Result<HealthSnapshot, OrchestratorError> {
        let states = self.states.borrow();
        states.get(agent).map(|health| HealthSnapshot::of(agent.clone(), health)).ok_or_else(not_read_yet)
    }

    /// A receiver of the states after each change.
    pub(crate) fn states(&self) -> watch::Receiver<States> {
        self.states.clone()
    }

    /// Records the end of an attempt. Returns after the commit.
    pub(crate) async fn report(
        &self,
        agent: AgentName,
        end: AttemptEnd,
    ) -> Result<HealthSnapshot, OrchestratorError> {
        self.change(agent, Change::Report(end)).await
    }

    /// Applies a decision of an operator. Returns after the commit.
    ///
    /// # Errors
    /// `validation_failed` for a missing or too long actor or reason; as [`Self::get`].
    pub(crate) async fn decide(
        &self,
        agent: AgentName,
        decision: Decision,
        change: impl FnOnce(Decision) -> Change,
    ) -> Result<HealthSnapshot, OrchestratorError> {
        check_decision(&decision.actor, &decision.reason)?;
        self.change(agent, change(decision)).await
    }

    async fn change(&self, agent: AgentName, change: Change) -> Result<HealthSnapshot, OrchestratorError> {
        self.spec(&agent).await?;
        let applied = self.submit(&agent, change).await?;
        Ok(HealthSnapshot::of(agent, &applied.health))
    }

    /// Asks for the lease of the one probe, for `lease_time` or the agent's own limit.
    pub(crate) async fn acquire_probe(
        &self,
        agent: AgentName,
        lease_time: Option<Duration>,
    ) -> Result<ProbeAnswer, OrchestratorError> {
        let lease_time = lease_time.unwrap_or(longest_task(&self.spec(&agent).await?));
        let lease = Uuid::new_v4();
        let Applied { health, at } = self.submit(&agent, Change::Probe { lease, lease_time }).await?;
        let verdict = verdict(&health, lease, at);
        Ok(ProbeAnswer { verdict, at, snapshot: HealthSnapshot::of(agent, &health) })
    }

    /// The specification of an agent. One that is unknown may be new: its executor is given time to be followed.
    async fn spec(&self, agent: &AgentName) -> Result<AgentSpec, OrchestratorError> {
        let mut states = self.states.clone();
        let known = states.wait_for(|states| states.contains_key(agent));
        // After the limit, the catalog decides.
        let _ = tokio::time::timeout(AGENTS_WAIT, known).await;
        let agents = self.agents.catalog()?;
        agents
            .get(agent)
            .cloned()
            .map_err(|_| rejections::no_such_agent(agent, agents.iter().map(|spec| &spec.name)))
    }

    async fn submit(&self, agent: &AgentName, change: Change) -> Result<Applied, OrchestratorError> {
        let (reply, answer) = oneshot::channel();
        let command = Command { agent: agent.clone(), change, span: Span::current(), reply };
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => overloaded(),
            mpsc::error::TrySendError::Closed(_) => shutting_down(),
        })?;
        answer.await.unwrap_or_else(|_| Err(shutting_down()))
    }
}

/// The longest time that a task of `agent` can take: every attempt up to its limit, and every pause between them.
fn longest_task(agent: &AgentSpec) -> Duration {
    let actions =
        agent.actions.keys().map(|action| longest_of(agent.timeout_of(action), agent.retry_of(action)));
    actions.fold(longest_of(agent.timeout, agent.retry), Duration::max).saturating_add(LEASE_MARGIN)
}

/// The longest time that attempts with these limits can take.
fn longest_of(timeout: Duration, retry: RetryPolicy) -> Duration {
    /// Attempt from which on all pauses are equal, so that a policy of a billion attempts is not summed one by one.
    const CONSTANT_FROM: u32 = 32;
    let attempts = retry.max_attempts;
    let growing = (1..attempts.min(CONSTANT_FROM))
        .fold(Duration::ZERO, |sum, attempt| sum.saturating_add(retry.backoff_ceiling(attempt)));
    let constant =
        retry.backoff_ceiling(CONSTANT_FROM).saturating_mul(attempts.saturating_sub(CONSTANT_FROM));
    timeout.saturating_mul(attempts).saturating_add(growing).saturating_add(constant)
}

fn overloaded() -> OrchestratorError {
    let message = "too many reports are queued; retry after 100 ms";
    OrchestratorError::new(OrchestratorErrorCode::Overloaded, message)
        .with_retry_after(Duration::from_millis(100))
}

fn not_read_yet() -> OrchestratorError {
    let message = "the stored health of agents has not been read yet; retry after 1 s";
    OrchestratorError::new(OrchestratorErrorCode::Unavailable, message)
        .with_retry_after(Duration::from_secs(1))
}

fn shutting_down() -> OrchestratorError {
    let message = "the health service is shutting down; retry after 1 s";
    OrchestratorError::new(OrchestratorErrorCode::Unavailable, message)
        .with_retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(max_attempts: u32) -> AgentSpec {
        let second = Duration::from_secs(1);
        let retry = RetryPolicy { max_attempts, initial_backoff: second, max_backoff: 4 * second };
        AgentSpec { timeout: 10 * second, retry, ..AgentSpec::new("a".parse().unwrap(), Vec::new()) }
    }

    #[test]
    fn default_lease_covers_every_attempt_and_pause() {
        let seconds = |attempts| longest_task(&agent(attempts)).as_secs();
        assert_eq!(seconds(1), 10 + 5);
        assert_eq!(seconds(5), 50 + (1 + 2 + 4 + 4) + 5);
        assert_eq!(seconds(33), 330 + (1 + 2 + 4 * 30) + 5);
        assert_eq!(seconds(u32::MAX), u64::from(u32::MAX) * 14 - 4 - 5 + 5, "the sum does not overflow");
    }
}
