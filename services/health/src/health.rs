//! What callers can ask of the health service, in domain types.
//!
//! Reading is answered from memory. A change is given its times here, at the edge, and is then plain data that the
//! [`Writer`] folds into the table in the order of arrival.

use std::time::Duration;

use jiff::Timestamp;
use phoenix_domain::{
    AgentCatalog, AgentName, AgentSpec, OrchestratorError, OrchestratorErrorCode, TaskId,
    health::{Admission, AgentHealth, BreakerPolicy, Outcome},
};
use phoenix_platform::readiness::Readiness;
use phoenix_proto::HealthSnapshot;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Span;
use uuid::Uuid;

use crate::{
    store::{States, Store, StoreError},
    writer::{Command, Writer},
};

/// Changes that wait for the writer; one more is `overloaded`.
const QUEUE: usize = 4096;

/// What is added to an agent's own limit when a probe's holder does not say how long it needs: time for the calls
/// around the task.
const LEASE_MARGIN: Duration = Duration::from_secs(5);

/// The health of every configured agent.
#[derive(Debug)]
pub(crate) struct Health {
    catalog: AgentCatalog,
    states: watch::Receiver<States>,
    commands: mpsc::Sender<Command>,
}

/// A change to one agent's health, with every time it depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Change {
    /// An attempt ended.
    Report { outcome: Outcome, task: Option<TaskId>, ended_at: Timestamp, lease: Option<Uuid> },
    /// Somebody wants to be the one who tries the agent.
    Probe { lease: Uuid, asked_at: Timestamp, lease_time: Duration },
}

/// The answer to a request for a probe.
#[derive(Debug)]
pub(crate) struct ProbeAnswer {
    pub(crate) verdict: Verdict,
    pub(crate) snapshot: HealthSnapshot,
}

/// Whether the attempt may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As the one probe, under this lease.
    Granted(Uuid),
    /// As any attempt: the circuit is closed.
    NotNeeded,
    /// Not before this time.
    Refused(Timestamp),
}

impl Health {
    /// Reads what is remembered, and makes the writer that changes it; the writer has to be run.
    pub(crate) async fn start(
        catalog: AgentCatalog,
        store: Store,
        readiness: Readiness,
    ) -> Result<(Self, Writer), StoreError> {
        let states = store.read(catalog.iter().map(|spec| spec.name.clone()).collect()).await?;
        let (publish, states) = watch::channel(states);
        let (commands, queue) = mpsc::channel(QUEUE);
        let writer = Writer::new(catalog.clone(), store, queue, publish, readiness);
        Ok((Self { catalog, states, commands }, writer))
    }

    /// Every agent, by name.
    pub(crate) fn list(&self) -> Vec<HealthSnapshot> {
        let states = self.states.borrow();
        states.iter().map(|(agent, health)| HealthSnapshot::of(agent.clone(), health)).collect()
    }

    /// One agent.
    pub(crate) fn get(&self, agent: &AgentName) -> Result<HealthSnapshot, OrchestratorError> {
        let states = self.states.borrow();
        let health = states.get(agent).ok_or_else(|| unknown(agent))?;
        Ok(HealthSnapshot::of(agent.clone(), health))
    }

    /// The states as they change.
    pub(crate) fn states(&self) -> watch::Receiver<States> {
        self.states.clone()
    }

    /// Takes in the outcome of an attempt of `task` that ended at `ended_at` by its reporter's clock. Answers after the commit.
    pub(crate) async fn report(
        &self,
        agent: AgentName,
        outcome: Outcome,
        task: Option<TaskId>,
        ended_at: Timestamp,
        lease: Option<Uuid>,
    ) -> Result<HealthSnapshot, OrchestratorError> {
        self.spec(&agent)?;
        // A reporter whose clock runs ahead must not keep a circuit open for longer than its cooldown.
        let ended_at = stored_precision(ended_at.min(Timestamp::now()));
        let health = self.submit(&agent, Change::Report { outcome, task, ended_at, lease }).await?;
        Ok(HealthSnapshot::of(agent, &health))
    }

    /// Asks for the place of the one probe, for `lease_time` or the agent's own limit.
    pub(crate) async fn acquire_probe(
        &self,
        agent: AgentName,
        lease_time: Option<Duration>,
    ) -> Result<ProbeAnswer, OrchestratorError> {
        let lease_time = lease_time.unwrap_or(worst_case(self.spec(&agent)?));
        let (lease, asked_at) = (Uuid::new_v4(), stored_precision(Timestamp::now()));
        let health = self.submit(&agent, Change::Probe { lease, asked_at, lease_time }).await?;
        let verdict = verdict(&health, lease, asked_at);
        Ok(ProbeAnswer { verdict, snapshot: HealthSnapshot::of(agent, &health) })
    }

    fn spec(&self, agent: &AgentName) -> Result<&AgentSpec, OrchestratorError> {
        self.catalog.get(agent).map_err(|_| unknown(agent))
    }

    async fn submit(&self, agent: &AgentName, change: Change) -> Result<AgentHealth, OrchestratorError> {
        let (reply, answer) = oneshot::channel();
        let command = Command { agent: agent.clone(), change, span: Span::current(), reply };
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => overloaded(),
            mpsc::error::TrySendError::Closed(_) => shutting_down(),
        })?;
        answer.await.unwrap_or_else(|_| Err(shutting_down()))
    }
}

impl Change {
    /// Makes the change.
    pub(crate) fn apply(self, health: &mut AgentHealth, policy: &BreakerPolicy) {
        match self {
            Self::Report { outcome, task, ended_at, lease } => {
                health.record(outcome, task, lease, ended_at, policy);
            }
            Self::Probe { lease, asked_at, lease_time } => {
                health.acquire_probe(lease, asked_at, lease_time);
            }
        }
    }
}

/// What `health` says to the one who asked for `lease` at `asked_at`.
pub(crate) fn verdict(health: &AgentHealth, lease: Uuid, asked_at: Timestamp) -> Verdict {
    if health.probe.is_some_and(|probe| probe.lease == lease) {
        return Verdict::Granted(lease);
    }
    match health.admission(asked_at) {
        Admission::Allowed => Verdict::NotNeeded,
        Admission::Refused { until } => Verdict::Refused(until),
        // The place was free and not given: the writer saw that the caller had gone. Nobody reads this.
        Admission::NeedsProbe => Verdict::Refused(asked_at),
    }
}

/// The longest that a task of `agent` takes: every attempt to its limit, and every wait between them.
fn worst_case(agent: &AgentSpec) -> Duration {
    /// From here on every wait is equally long, so that a policy of a billion attempts is not counted one by one.
    const SETTLED: u32 = 32;
    let retry = &agent.retry;
    let attempts = retry.max_attempts;
    let growing = (1..attempts.min(SETTLED))
        .fold(Duration::ZERO, |sum, attempt| sum.saturating_add(retry.backoff_ceiling(attempt)));
    let settled = retry.backoff_ceiling(SETTLED).saturating_mul(attempts.saturating_sub(SETTLED));
    agent
        .timeout
        .saturating_mul(attempts)
        .saturating_add(growing)
        .saturating_add(settled)
        .saturating_add(LEASE_MARGIN)
}

/// `time` as the table keeps it, so that memory and file always say the same.
pub(crate) fn stored_precision(time: Timestamp) -> Timestamp {
    // In range, because it only loses digits.
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

fn unknown(agent: &AgentName) -> OrchestratorError {
    OrchestratorError::new(OrchestratorErrorCode::NotFound, format!("no agent is called `{agent}`"))
        .with_detail("field", "agent_id")
        .with_detail("agent", agent)
}

fn overloaded() -> OrchestratorError {
    let message = "too many reports wait to be recorded; try again shortly";
    OrchestratorError::new(OrchestratorErrorCode::Overloaded, message)
        .with_retry_after(Duration::from_millis(100))
}

fn shutting_down() -> OrchestratorError {
    let message = "the health service is shutting down; try again shortly";
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
    fn a_lease_covers_every_attempt_and_every_wait_between_them() {
        let seconds = |attempts| worst_case(&agent(attempts)).as_secs();
        assert_eq!(seconds(1), 10 + 5);
        assert_eq!(seconds(5), 50 + (1 + 2 + 4 + 4) + 5);
        assert_eq!(seconds(33), 330 + (1 + 2 + 4 * 30) + 5);
        assert_eq!(
            seconds(u32::MAX),
            u64::from(u32::MAX) * 14 - 4 - 5 + 5,
            "and it is not counted one by one"
        );
    }
}
