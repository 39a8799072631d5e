//! What the planner knows of agents' health: a copy that the health service keeps up to date, so that no task pays for a
//! question. Only when a circuit's deadline has passed is the health service asked, for the place of the one probe.
//!
//! The copy is told of each task's outcome by the executor's answer too ([`HealthView::learn`]), so that the next chat
//! knows of a failure the moment the last one was answered for.
//!
//! While the health service can't be reached nothing is known and every task may run: agents fail by themselves, and a
//! plan that is not run because of a monitor would be worse.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use phoenix_domain::{AgentName, OrchestratorError, OrchestratorErrorCode, health::HealthState};
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

/// How long a chat waits for an answer about a probe.
const PROBE_LIMIT: Duration = Duration::from_millis(500);

/// How long to wait before the health service is tried again.
const RECONNECT_EVERY: Duration = Duration::from_millis(250);

/// Absent while the health service is not connected.
type Known = Option<HashMap<AgentName, Heard>>;

/// What was heard of an agent, and when.
#[derive(Debug, Clone)]
struct Heard {
    health: HealthSnapshot,
    at: Instant,
}

/// The copy. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HealthView {
    known: Arc<RwLock<Known>>,
    client: AgentHealthServiceClient<PeerChannel>,
}

/// Leave to run a task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admitted {
    /// The lease of the probe that the task is, if it is one.
    pub probe_lease: String,
}

impl HealthView {
    /// A view of what the service behind `channel` knows. Nothing is known before [`Self::follow`] runs.
    #[must_use]
    pub fn new(channel: PeerChannel) -> Self {
        Self { known: Arc::default(), client: AgentHealthServiceClient::new(channel) }
    }

    /// Keeps the copy up to date until `stop`. Meets the condition `health` of `readiness` after the first try, however
    /// it ended: a planner works without the health service.
    pub async fn follow(self, readiness: Readiness, stop: CancellationToken) {
        let mut outage_told = false;
        loop {
            let lost = tokio::select! {
                lost = self.follow_once(&readiness, &mut outage_told) => lost,
                () = stop.cancelled() => return,
            };
            self.set(None);
            readiness.set("health", true);
            if !outage_told {
                outage_told = true;
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

    async fn follow_once(&self, readiness: &Readiness, outage_told: &mut bool) -> tonic::Status {
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
                    // Replaces whatever was known: the service may have come back with another database.
                    self.set(Some(HashMap::new()));
                    self.learn_all(update.agents);
                    readiness.set("health", true);
                    if std::mem::take(outage_told) {
                        tracing::info!("the health service is back");
                    }
                }
                Ok(Some(update)) => self.learn_all(update.agents),
                Ok(None) => return tonic::Status::unavailable("the health service ended the stream"),
                Err(status) => return status,
            }
        }
    }

    /// Takes in a snapshot, unless a newer one is known.
    pub fn learn(&self, health: AgentHealth) {
        self.learn_all(vec![health]);
    }

    fn learn_all(&self, agents: Vec<AgentHealth>) {
        let mut known = write(&self.known);
        let Some(known) = known.as_mut() else { return };
        for snapshot in agents.into_iter().filter_map(|wire| HealthSnapshot::try_from(wire).ok()) {
            let newer = known.get(&snapshot.agent).is_none_or(|old| old.health.revision < snapshot.revision);
            if newer {
                known.insert(snapshot.agent.clone(), Heard { health: snapshot, at: Instant::now() });
            }
        }
    }

    fn set(&self, value: Known) {
        *write(&self.known) = value;
    }

    /// Whether a task of `agent` may run now.
    ///
    /// # Errors
    /// `agent_unavailable`, with the time of the next try, while its circuit is open.
    pub async fn admit(
        &self,
        agent: &AgentName,
        context: &RequestContext,
    ) -> Result<Admitted, OrchestratorError> {
        let heard = match read(&self.known).as_ref() {
            None => {
                record_counter(&HEALTH_UNKNOWN, 1);
                return Ok(Admitted::default());
            }
            Some(known) => known.get(agent).cloned(),
        };
        let Some(heard) = heard.filter(|heard| heard.health.state == HealthState::Unhealthy) else {
            return Ok(Admitted::default());
        };
        match heard.refused_for() {
            Some(wait) => {
                let until = heard.health.circuit_open_until.unwrap_or(Timestamp::MIN);
                Err(unavailable(&heard.health, until, wait))
            }
            None => self.acquire_probe(heard.health, context).await,
        }
    }

    async fn acquire_probe(
        &self,
        snapshot: HealthSnapshot,
        context: &RequestContext,
    ) -> Result<Admitted, OrchestratorError> {
        let request = AcquireProbeRequest { agent_id: snapshot.agent.to_string(), lease_ms: 0 };
        let mut client = self.client.clone();
        let answer = tokio::time::timeout(PROBE_LIMIT, client.acquire_probe(context.request(request))).await;
        let Ok(Ok(response)) = answer else {
            record_counter(&HEALTH_UNKNOWN, 1);
            return Ok(Admitted::default());
        };
        let AcquireProbeResponse { granted, lease, refused_until, health } = response.into_inner();
        if let Some(health) = health {
            self.learn(health);
        }
        if granted {
            return Ok(Admitted { probe_lease: lease });
        }
        let until = timestamp("refused_until", refused_until).ok().flatten().unwrap_or_else(Timestamp::now);
        Err(unavailable(&snapshot, until, time_until(until)))
    }
}

impl Heard {
    /// How long the agent is not to be tried yet; nothing when it may be. The deadline is a time of the health service's
    /// clock, and ours may be another, or was set back: what counts then is how long the circuit stays open after a failure.
    fn refused_for(&self) -> Option<Duration> {
        let until = self.health.circuit_open_until?;
        let wait = time_until(until);
        let Some(failed_at) = self.health.last_failure_at else { return positive(wait) };
        let cooldown = Duration::try_from(until.duration_since(failed_at)).unwrap_or_default();
        positive(wait.min(cooldown.saturating_sub(self.at.elapsed())))
    }
}

/// By our own clock.
fn time_until(time: Timestamp) -> Duration {
    Duration::try_from(time.duration_since(Timestamp::now())).unwrap_or_default()
}

fn positive(wait: Duration) -> Option<Duration> {
    (!wait.is_zero()).then_some(wait)
}

fn unavailable(health: &HealthSnapshot, until: Timestamp, wait: Duration) -> OrchestratorError {
    record_counter(&FAILED_FAST, 1);
    OrchestratorError::new(
        OrchestratorErrorCode::AgentUnavailable,
        format!(
            "agent `{}` failed {} times in a row and is not tried again before {}",
            health.agent,
            health.consecutive_failures,
            until.strftime("%Y-%m-%dT%H:%M:%SZ")
        ),
    )
    .with_detail("agent", &health.agent)
    .with_detail("consecutive_failures", health.consecutive_failures)
    .with_detail("circuit_open_until", until)
    .with_retry_after(wait.max(Duration::from_millis(1)))
}

// A writer only ever replaces or inserts whole values, so what a panicking thread leaves behind is still consistent.
fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}
