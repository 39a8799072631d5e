//! Tells the health service how attempts end.
//!
//! The work does not depend on it: when the service is down, reports are lost, counted, and the outage is logged once.
//!
//! A success of an agent that is known to be healthy changes nothing but the time of its last success. Such successes are
//! gathered: the first is reported at once, what follows within [`GATHER`] as one. Everything else is reported and waited
//! for, so that the next decision knows of it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use phoenix_domain::{
    AgentName, TaskId,
    health::{HealthState, Outcome},
};
use phoenix_platform::{
    RequestContext,
    client::{self, InvalidUrl, PeerChannel},
    record_counter,
    service_token::ServiceToken,
};
use phoenix_proto::{
    HealthSnapshot,
    health_v1::{self, ReportOutcomeRequest, agent_health_service_client::AgentHealthServiceClient},
    to_timestamp,
};

use crate::metrics::HEALTH_REPORTS_LOST;

/// How long a report may take.
const LIMIT: Duration = Duration::from_millis(500);

/// After a report that took too long, how long no other is tried: a service that is frozen must not slow every task.
const PAUSE: Duration = Duration::from_secs(1);

/// How long successes of a healthy agent are gathered.
const GATHER: Duration = Duration::from_millis(100);

/// A client of the health service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct HealthReports {
    client: AgentHealthServiceClient<PeerChannel>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    outage: Mutex<Option<Outage>>,
    recent: Mutex<HashMap<AgentName, Recent>>,
}

/// What was last heard of an agent.
struct Recent {
    health: HealthSnapshot,
    /// When it was heard, or later: when it was last asked for.
    asked_at: Instant,
    /// Whether a success waits to be reported with others.
    gathering: bool,
}

#[derive(Clone, Copy)]
struct Outage {
    /// Before this time no report is tried.
    paused_until: Instant,
}

/// One outcome.
pub(crate) struct Report<'a> {
    /// The request that the attempt was made for.
    pub(crate) caller: &'a RequestContext,
    pub(crate) agent: &'a AgentName,
    pub(crate) task: TaskId,
    pub(crate) outcome: Outcome,
    /// Empty when the attempt was no probe.
    pub(crate) probe_lease: String,
}

impl HealthReports {
    /// Reports to the service at `url`.
    pub(crate) fn new(url: &str, token: &ServiceToken) -> Result<Self, InvalidUrl> {
        let client = AgentHealthServiceClient::new(client::channel(url, token)?);
        Ok(Self { client, shared: Arc::default() })
    }

    /// Takes one report. Answers the agent's health after it, or nothing when the report was lost.
    pub(crate) async fn send(&self, report: Report<'_>) -> Option<HealthSnapshot> {
        if report.outcome == Outcome::Success && report.probe_lease.is_empty() {
            if let Some(health) = self.gather(&report) {
                return Some(health);
            }
        } else if let Some(recent) = lock(&self.shared.recent).get_mut(report.agent) {
            // Must not be overtaken by a success that came before it.
            recent.gathering = false;
        }
        self.send_now(report).await
    }

    /// Leaves a success to be reported with others, if there is nothing else to tell of the agent.
    fn gather(&self, report: &Report<'_>) -> Option<HealthSnapshot> {
        let mut recent = lock(&self.shared.recent);
        let recent = recent.get_mut(report.agent)?;
        if recent.health.state != HealthState::Healthy {
            return None;
        }
        if recent.asked_at.elapsed() >= GATHER {
            // This one asks: what ends until it is answered is gathered, and does not ask as well.
            recent.asked_at = Instant::now();
            return None;
        }
        if !std::mem::replace(&mut recent.gathering, true) {
            let (reports, agent, task, caller) =
                (self.clone(), report.agent.clone(), report.task, report.caller.clone());
            // Ends by itself after one report; what it would tell is not worth holding a shutdown for.
            tokio::spawn(async move { reports.report_gathered(agent, task, caller).await });
        }
        Some(recent.health.clone())
    }

    async fn report_gathered(&self, agent: AgentName, task: TaskId, caller: RequestContext) {
        tokio::time::sleep(GATHER).await;
        let still =
            lock(&self.shared.recent).get_mut(&agent).is_some_and(|r| std::mem::take(&mut r.gathering));
        if still {
            let (outcome, probe_lease) = (Outcome::Success, String::new());
            self.send_now(Report { caller: &caller, agent: &agent, task, outcome, probe_lease }).await;
        }
    }

    async fn send_now(&self, report: Report<'_>) -> Option<HealthSnapshot> {
        let Report { caller, agent, task, outcome, probe_lease } = report;
        if self.is_paused() {
            record_counter(&HEALTH_REPORTS_LOST, 1);
            return None;
        }
        // With a deadline of its own: the report of an attempt that ran until its caller's deadline is worth most.
        let context = caller.clone().with_deadline(Instant::now() + LIMIT);
        let request = context.request(ReportOutcomeRequest {
            agent_id: agent.to_string(),
            outcome: health_v1::Outcome::from(outcome).into(),
            ended_at: Some(to_timestamp(Timestamp::now())),
            probe_lease,
            task_id: task.to_string(),
        });
        let mut client = self.client.clone();
        match tokio::time::timeout(LIMIT, client.report_outcome(request)).await {
            Ok(Ok(response)) => {
                self.arrived();
                let health = HealthSnapshot::try_from(response.into_inner().health?).ok()?;
                self.heard(agent, &health);
                Some(health)
            }
            Ok(Err(status)) => self.lost(status.code().description(), Duration::ZERO),
            Err(_) => self.lost("it did not answer in time", PAUSE),
        }
    }

    fn heard(&self, agent: &AgentName, health: &HealthSnapshot) {
        let mut recent = lock(&self.shared.recent);
        let gathering = recent.get(agent).is_some_and(|known| known.gathering);
        if recent.get(agent).is_none_or(|known| known.health.revision <= health.revision) {
            let heard = Recent { health: health.clone(), asked_at: Instant::now(), gathering };
            recent.insert(agent.clone(), heard);
        }
    }

    fn is_paused(&self) -> bool {
        lock(&self.shared.outage).is_some_and(|outage| Instant::now() < outage.paused_until)
    }

    fn arrived(&self) {
        if lock(&self.shared.outage).take().is_some() {
            tracing::info!("the health service takes reports again");
        }
    }

    fn lost(&self, reason: &str, pause: Duration) -> Option<HealthSnapshot> {
        record_counter(&HEALTH_REPORTS_LOST, 1);
        let outage = Outage { paused_until: Instant::now() + pause };
        lock(&self.shared.recent).clear();
        if lock(&self.shared.outage).replace(outage).is_none() {
            tracing::warn!(reason, "the health service does not take reports; agents run on without it");
        }
        None
    }
}

// Whole values: what a panicking thread leaves behind is still consistent.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use phoenix_domain::CorrelationId;

    use super::*;

    #[tokio::test]
    async fn of_successes_that_end_together_one_asks_and_the_others_are_gathered() {
        let reports =
            HealthReports::new("http://127.0.0.1:9", &ServiceToken::new("of-the-test").unwrap()).unwrap();
        let agent: AgentName = "busy".parse().unwrap();
        let caller = RequestContext::new(CorrelationId::generate());
        let success = || Report {
            caller: &caller,
            agent: &agent,
            task: TaskId::generate(),
            outcome: Outcome::Success,
            probe_lease: String::new(),
        };
        assert!(reports.gather(&success()).is_none(), "nothing is known of it");
        let health = HealthSnapshot {
            agent: agent.clone(),
            state: HealthState::Healthy,
            consecutive_failures: 0,
            last_failure_at: None,
            last_success_at: None,
            circuit_open_until: None,
            probe_until: None,
            revision: 1,
        };
        reports.heard(&agent, &health);
        assert!(reports.gather(&success()).is_some(), "heard of just now");
        lock(&reports.shared.recent).get_mut(&agent).unwrap().asked_at -= GATHER;
        assert!(reports.gather(&success()).is_none(), "one asks");
        assert!(reports.gather(&success()).is_some(), "which need not be answered yet");
    }
}
