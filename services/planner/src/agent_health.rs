//! Health of the agents: a local copy of the health service's table, kept up to date by a stream, so that tasks need no call.
//! Only when a circuit's deadline has passed does the planner call the health service, for the lease of the single probe.
//!
//! The executor's message about a task's end updates the copy, too ([`HealthView::learn`]), so that the next chat sees a
//! failure at once.
//!
//! While the health service is unreachable the copy is unknown and every task may run: to stop plans because of a monitor
//! would be worse than a failing agent. Only agents that an operator has isolated stay refused.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use phoenix_domain::{
    AgentName, OrchestratorError, OrchestratorErrorCode,
    health::{Cause, HealthState, Isolation, Standing},
};
use phoenix_platform::{RequestContext, client::PeerChannel, metrics::record_counter, readiness::Readiness};
use phoenix_proto::{
    HealthSnapshot,
    common::AgentHealth,
    health_v1::{
        AcquireProbeRequest, AcquireProbeResponse, WatchAgentHealthRequest,
        agent_health_service_client::AgentHealthServiceClient,
    },
    timestamp,
};
use tokio_util::sync::CancellationToken;

use crate::metrics::{FAILED_FAST, HEALTH_UNKNOWN};

/// Timeout of a call for a probe.
const PROBE_LIMIT: Duration = Duration::from_millis(500);

/// Pause before another connection to the health service.
const RECONNECT_EVERY: Duration = Duration::from_millis(250);

/// Wait that callers of an isolated agent are asked for: no probe ends an isolation.
const ISOLATED_RETRY_AFTER: Duration = Duration::from_secs(60);

/// The copy.
#[derive(Debug, Default)]
struct Known {
    /// Whether the health service is connected.
    is_current: bool,
    /// Health by agent; of isolated agents only, while the service is not connected.
    agents: HashMap<AgentName, ReceivedHealth>,
}

/// Health of an agent, and when this planner received it.
#[derive(Debug, Clone)]
struct ReceivedHealth {
    health: HealthSnapshot,
    at: Instant,
}

/// Local copy of the agents' health. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HealthView {
    known: Arc<RwLock<Known>>,
    client: AgentHealthServiceClient<PeerChannel>,
}

/// Permission to run a task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthPermit {
    /// Lease of the probe, if the task is one; else empty.
    pub probe_lease: String,
}

impl HealthView {
    /// A view of the health service behind `channel`. The copy is unknown before [`Self::follow`] runs.
    #[must_use]
    pub fn new(channel: PeerChannel) -> Self {
        Self { known: Arc::default(), client: AgentHealthServiceClient::new(channel) }
    }

    /// Keeps the copy up to date until `stop`. Meets the condition `health` of `readiness` after the first try, also when it
    /// failed: a planner works without the health service.
    pub async fn follow(self, readiness: Readiness, stop: CancellationToken) {
        let mut outage_logged = false;
        loop {
            let lost = tokio::select! {
                lost = self.follow_once(&readiness, &mut outage_logged) => lost,
                () = stop.cancelled() => return,
            };
            self.lose();
            readiness.set("health", true);
            if !outage_logged {
                outage_logged = true;
                tracing::warn!(
                    reason = lost.message(),
                    "the health service cannot be reached; tasks run without asking for their agents' health"
                );
            }
            tokio::select! {
                () = tokio::time::sleep(RECONNECT_EVERY) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn follow_once(&self, readiness: &Readiness, outage_logged: &mut bool) -> tonic::Status {
        let answer = self.client.clone().watch_agent_health(WatchAgentHealthRequest {}).await;
        let mut changes = match answer {
            Ok(response) => response.into_inner(),
            Err(status) => return status,
        };
        let mut first = true;
        loop {
            match changes.message().await {
                Ok(Some(update)) if first => {
                    first = false;
                    // Replaces the copy: the service may have restarted with another database.
                    *write(&self.known) = Known { is_current: true, agents: HashMap::new() };
                    self.learn_all(update.agents);
                    readiness.set("health", true);
                    if std::mem::take(outage_logged) {
                        tracing::info!("the health service is back");
                    }
                }
                Ok(Some(update)) => self.learn_all(update.agents),
                Ok(None) => return tonic::Status::unavailable("the health service ended the stream"),
                Err(status) => return status,
            }
        }
    }

    /// Updates the copy, unless it is newer.
    pub fn learn(&self, health: AgentHealth) {
        self.learn_all(vec![health]);
    }

    fn learn_all(&self, agents: Vec<AgentHealth>) {
        let mut known = write(&self.known);
        if !known.is_current {
            return;
        }
        let known = &mut known.agents;
        for snapshot in agents.into_iter().filter_map(|wire| HealthSnapshot::try_from(wire).ok()) {
            let newer = known.get(&snapshot.agent).is_none_or(|old| old.health.revision < snapshot.revision);
            if newer {
                known.insert(snapshot.agent.clone(), ReceivedHealth { health: snapshot, at: Instant::now() });
            }
        }
    }

    /// Forgets everything but the decisions of operators.
    fn lose(&self) {
        let mut known = write(&self.known);
        known.is_current = false;
        known.agents.retain(|_, received| received.health.isolation.is_some());
    }

    /// Permission for a task of `agent` to run now.
    ///
    /// # Errors
    /// `agent_unavailable`, with the time of the next probe, while its circuit is open; with the operator's reason, while it is
    /// isolated.
    pub async fn permit(
        &self,
        agent: &AgentName,
        context: &RequestContext,
    ) -> Result<HealthPermit, OrchestratorError> {
        let received = {
            let known = read(&self.known);
            if !known.is_current {
                record_counter(&HEALTH_UNKNOWN, 1);
            }
            let received = known.agents.get(agent);
            received.filter(|received| received.health.state == HealthState::Unhealthy).cloned()
        };
        let Some(received) = received else { return Ok(HealthPermit::default()) };
        if let Some(isolation) = &received.health.isolation {
            return Err(isolated(agent, isolation));
        }
        match received.rejected_for() {
            Some(wait) => {
                let until = received.health.circuit_open_until.unwrap_or(Timestamp::MIN);
                Err(unavailable(&received.health, until, wait))
            }
            None => self.acquire_probe(received.health, context).await,
        }
    }

    async fn acquire_probe(
        &self,
        snapshot: HealthSnapshot,
        context: &RequestContext,
    ) -> Result<HealthPermit, OrchestratorError> {
        let request = AcquireProbeRequest { agent_id: snapshot.agent.to_string(), lease_ms: 0 };
        let mut client = self.client.clone();
        let answer = tokio::time::timeout(PROBE_LIMIT, client.acquire_probe(context.request(request))).await;
        let Ok(Ok(response)) = answer else {
            record_counter(&HEALTH_UNKNOWN, 1);
            return Ok(HealthPermit::default());
        };
        let AcquireProbeResponse { granted, lease, refused_until, health, refused_for_ms } =
            response.into_inner();
        let newest = health.clone().and_then(|health| HealthSnapshot::try_from(health).ok());
        if let Some(health) = health {
            self.learn(health);
        }
        if granted {
            return Ok(HealthPermit { probe_lease: lease });
        }
        let snapshot = newest.unwrap_or(snapshot);
        if let Some(isolation) = &snapshot.isolation {
            return Err(isolated(&snapshot.agent, isolation));
        }
        let until = timestamp("refused_until", refused_until).ok().flatten().unwrap_or_else(Timestamp::now);
        // An older service names no duration.
        let wait =
            if refused_for_ms == 0 { time_until(until) } else { Duration::from_millis(refused_for_ms) };
        Err(unavailable(&snapshot, until, wait))
    }
}

impl ReceivedHealth {
    /// Time until the next probe; none when it is due. The deadline is a time of the health service's clock, and this
    /// planner's may differ or be set back: the wait is bounded by the time for which the circuit stays open after its opening, or
    /// after a later failure.
    fn rejected_for(&self) -> Option<Duration> {
        let until = self.health.circuit_open_until?;
        let wait = time_until(until);
        let opened_at = self.health.standing.as_ref().map(|standing| standing.since);
        let Some(since) = self.health.last_failure_at.max(opened_at) else { return positive(wait) };
        let cooldown = Duration::try_from(until.duration_since(since)).unwrap_or_default();
        positive(wait.min(cooldown.saturating_sub(self.at.elapsed())))
    }
}

/// Time until `time` on this planner's clock.
fn time_until(time: Timestamp) -> Duration {
    Duration::try_from(time.duration_since(Timestamp::now())).unwrap_or_default()
}

fn positive(wait: Duration) -> Option<Duration> {
    (!wait.is_zero()).then_some(wait)
}

fn unavailable(health: &HealthSnapshot, until: Timestamp, wait: Duration) -> OrchestratorError {
    record_counter(&FAILED_FAST, 1);
    let (agent, failures) = (&health.agent, health.consecutive_failures);
    let time = until.strftime("%Y-%m-%dT%H:%M:%SZ");
    let message = match &health.standing {
        Some(Standing { cause, reason, .. }) if *cause != Cause::ConsecutiveFailures => {
            format!("agent `{agent}` is not tried again before {time}, because its circuit is open: {reason}")
        }
        _ => format!("agent `{agent}` failed {failures} times in a row and is not tried again before {time}"),
    };
    let error = OrchestratorError::new(OrchestratorErrorCode::AgentUnavailable, message)
        .with_detail("agent", agent)
        .with_detail("consecutive_failures", failures)
        .with_detail("circuit_open_until", until)
        .with_retry_after(wait.max(Duration::from_millis(1)));
    match &health.standing {
        Some(Standing { reason, .. }) => error.with_detail("reason", reason),
        None => error,
    }
}

fn isolated(agent: &AgentName, isolation: &Isolation) -> OrchestratorError {
    record_counter(&FAILED_FAST, 1);
    let Isolation { actor, reason, at } = isolation;
    let message = format!(
        "agent `{agent}` was isolated by {actor} at {}: {reason}; it takes tasks again when it is restored \
         (`phoenix agents restore {agent}`)",
        at.strftime("%Y-%m-%dT%H:%M:%SZ")
    );
    OrchestratorError::new(OrchestratorErrorCode::AgentUnavailable, message)
        .with_detail("agent", agent)
        .with_detail("isolated_by", actor)
        .with_detail("isolated_at", at)
        .with_detail("reason", reason)
        .with_retry_after(ISOLATED_RETRY_AFTER)
}

// Writers replace or insert whole values, so the map is consistent even after a panic.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read()
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write()
}
