//! The operations of the health service, in domain types.
//!
//! Reads are answered from memory. A change is plain data that the [`Writer`] applies to the table in the order of arrival.

use std::time::Duration;

use jiff::Timestamp;
use phoenix_domain::{
    AgentCatalog, AgentName, AgentSpec, OrchestratorError, OrchestratorErrorCode, TaskId, health::Outcome,
};
use phoenix_platform::readiness::Readiness;
use phoenix_proto::HealthSnapshot;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Span;
use uuid::Uuid;

use crate::{
    change::{Change, Verdict, verdict},
    store::{States, Store, StoreError, stored_precision},
    writer::{Applied, Command, Writer},
};

/// Capacity of the queue of changes; one more is `overloaded`.
const QUEUE_CAPACITY: usize = 4096;

/// Time for the calls around a task, added to the agent's own limit when the caller names no lease time.
const LEASE_MARGIN: Duration = Duration::from_secs(5);

/// The health of every configured agent.
#[derive(Debug)]
pub(crate) struct Health {
    catalog: AgentCatalog,
    states: watch::Receiver<States>,
    commands: mpsc::Sender<Command>,
}

/// Answer to a request for a probe.
#[derive(Debug)]
pub(crate) struct ProbeAnswer {
    pub(crate) verdict: Verdict,
    pub(crate) snapshot: HealthSnapshot,
}

impl Health {
    /// Reads the stored health and creates the writer that changes it. The writer has to be run.
    pub(crate) async fn start(
        catalog: AgentCatalog,
        store: Store,
        readiness: Readiness,
    ) -> Result<(Self, Writer), StoreError> {
        let states = store.read(&catalog.iter().map(|spec| spec.name.clone()).collect()).await?;
        let (publish, states) = watch::channel(states);
        let (commands, queue) = mpsc::channel(QUEUE_CAPACITY);
        let writer = Writer::new(catalog.clone(), store, queue, publish, readiness);
        Ok((Self { catalog, states, commands }, writer))
    }

    /// The health of every agent, by name.
    pub(crate) fn list(&self) -> Vec<HealthSnapshot> {
        let states = self.states.borrow();
        states.iter().map(|(agent, health)| HealthSnapshot::of(agent.clone(), health)).collect()
    }

    /// The health of one agent.
    pub(crate) fn get(&self, agent: &AgentName) -> Result<HealthSnapshot, OrchestratorError> {
        let states = self.states.borrow();
        let health = states.get(agent).ok_or_else(|| self.unknown(agent))?;
        Ok(HealthSnapshot::of(agent.clone(), health))
    }

    /// A receiver of the states after each change.
    pub(crate) fn states(&self) -> watch::Receiver<States> {
        self.states.clone()
    }

    /// Records the outcome of an attempt of `task` that ended at `ended_at` by the clock of its reporter. Returns after the
    /// commit.
    pub(crate) async fn report(
        &self,
        agent: AgentName,
        outcome: Outcome,
        task: Option<TaskId>,
        ended_at: Timestamp,
        lease: Option<Uuid>,
    ) -> Result<HealthSnapshot, OrchestratorError> {
        self.spec(&agent)?;
        let ended_at = stored_precision(ended_at);
        let applied = self.submit(&agent, Change::Report { outcome, task, ended_at, lease }).await?;
        Ok(HealthSnapshot::of(agent, &applied.health))
    }

    /// Asks for the lease of the one probe, for `lease_time` or the agent's own limit.
    pub(crate) async fn acquire_probe(
        &self,
        agent: AgentName,
        lease_time: Option<Duration>,
    ) -> Result<ProbeAnswer, OrchestratorError> {
        let lease_time = lease_time.unwrap_or(longest_task(self.spec(&agent)?));
        let lease = Uuid::new_v4();
        let Applied { health, at } = self.submit(&agent, Change::Probe { lease, lease_time }).await?;
        let verdict = verdict(&health, lease, at);
        Ok(ProbeAnswer { verdict, snapshot: HealthSnapshot::of(agent, &health) })
    }

    fn spec(&self, agent: &AgentName) -> Result<&AgentSpec, OrchestratorError> {
        self.catalog.get(agent).map_err(|_| self.unknown(agent))
    }

    fn unknown(&self, agent: &AgentName) -> OrchestratorError {
        let configured: Vec<_> = self.catalog.iter().map(|spec| spec.name.as_str()).collect();
        let message = format!("unknown agent `{agent}`; configured agents: {}", configured.join(", "));
        OrchestratorError::new(OrchestratorErrorCode::NotFound, message)
            .with_detail("field", "agent_id")
            .with_detail("agent", agent)
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
    /// Attempt from which on all pauses are equal, so that a policy of a billion attempts is not summed one by one.
    const CONSTANT_FROM: u32 = 32;
    let retry = &agent.retry;
    let attempts = retry.max_attempts;
    let growing = (1..attempts.min(CONSTANT_FROM))
        .fold(Duration::ZERO, |sum, attempt| sum.saturating_add(retry.backoff_ceiling(attempt)));
    let constant =
        retry.backoff_ceiling(CONSTANT_FROM).saturating_mul(attempts.saturating_sub(CONSTANT_FROM));
    agent
        .timeout
        .saturating_mul(attempts)
        .saturating_add(growing)
        .saturating_add(constant)
        .saturating_add(LEASE_MARGIN)
}

fn overloaded() -> OrchestratorError {
    let message = "too many reports are queued; retry after 100 ms";
    OrchestratorError::new(OrchestratorErrorCode::Overloaded, message)
        .with_retry_after(Duration::from_millis(100))
}

fn shutting_down() -> OrchestratorError {
    let message = "the health service is shutting down; retry after 1 s";
    OrchestratorError::new(OrchestratorErrorCode::Unavailable, message)
        .with_retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use phoenix_domain::retry::RetryPolicy;

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
