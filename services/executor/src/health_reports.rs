//! Reports the outcomes of attempts to the health service.
//!
//! Tasks do not depend on it: when the service is down, reports are lost and counted, and the outage is logged once.
//!
//! A success of an agent that is known to be healthy changes only the time of its last success and the number of its calls. Such
//! successes are batched, unless they were slow: the first is reported at once, those that follow within [`BATCH_WINDOW`] as one.
//! Every other outcome is reported and awaited, so that it counts in the next decision. It takes the batched successes along.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use phoenix_domain::{
    AgentName, TaskId,
    health::{HealthState, Outcome},
};
use phoenix_platform::{
    RequestContext,
    client::{self, InvalidUrl, PeerChannel},
    identity::ServiceIdentity,
    record_counter,
};
use phoenix_proto::{
    HealthSnapshot,
    health_v1::{self, ReportOutcomeRequest, agent_health_service_client::AgentHealthServiceClient},
    to_timestamp,
};

use crate::metrics::HEALTH_REPORTS_LOST;

/// Timeout of a report.
const REPORT_TIMEOUT: Duration = Duration::from_millis(500);

/// Time after a report that timed out in which no other is sent: a service that hangs must not delay every task.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);

/// Time over which successes of a healthy agent are batched.
const BATCH_WINDOW: Duration = Duration::from_millis(100);

/// A client of the health service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct HealthReports {
    client: AgentHealthServiceClient<PeerChannel>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    outage: Mutex<Option<Outage>>,
    last_reports: Mutex<HashMap<AgentName, LastReport>>,
}

/// The last report of an agent.
struct LastReport {
    health: HealthSnapshot,
    /// When the health was received, or when a later report was sent.
    sent_at: Instant,
    /// Successes of a batch that is scheduled.
    batched: u32,
}

#[derive(Clone, Copy)]
struct Outage {
    /// Moment before which no report is sent.
    paused_until: Instant,
}

/// The outcome of one attempt.
pub(crate) struct Report<'a> {
    /// Context of the request that the attempt was made for.
    pub(crate) caller: &'a RequestContext,
    pub(crate) agent: &'a AgentName,
    pub(crate) task: TaskId,
    pub(crate) outcome: Outcome,
    /// Lease of the probe; empty when the attempt was none.
    pub(crate) probe_lease: String,
    /// Time of the attempt.
    pub(crate) took: Duration,
    /// Whether the attempt was slow, by the agent's circuit breaker.
    pub(crate) is_slow: bool,
}

impl HealthReports {
    /// Reports to the service at `url`.
    pub(crate) fn new(url: &str, identity: &ServiceIdentity) -> Result<Self, InvalidUrl> {
        let client = AgentHealthServiceClient::new(client::channel(url, identity)?);
        Ok(Self { client, shared: Arc::default() })
    }

    /// Sends one report. Returns the agent's health after it, or `None` when the report was lost.
    pub(crate) async fn send(&self, report: Report<'_>) -> Option<HealthSnapshot> {
        let may_wait = report.outcome == Outcome::Success && report.probe_lease.is_empty() && !report.is_slow;
        if may_wait && let Some(health) = self.try_batch(&report) {
            return Some(health);
        }
        // Successes that came before this outcome must not be reported after it.
        let earlier = self.take_batch(report.agent);
        self.send_now(report, earlier).await
    }

    /// Takes the successes of the batch that is scheduled.
    fn take_batch(&self, agent: &AgentName) -> u32 {
        let mut last_reports = lock(&self.shared.last_reports);
        last_reports.get_mut(agent).map_or(0, |last| std::mem::take(&mut last.batched))
    }

    /// Adds a success to a batch, if the agent is known to be healthy.
    fn try_batch(&self, report: &Report<'_>) -> Option<HealthSnapshot> {
        let mut last_reports = lock(&self.shared.last_reports);
        let last = last_reports.get_mut(report.agent)?;
        if last.health.state != HealthState::Healthy {
            return None;
        }
        if last.sent_at.elapsed() >= BATCH_WINDOW {
            // This success is reported; those that follow until the response are batched.
            last.sent_at = Instant::now();
            return None;
        }
        last.batched = last.batched.saturating_add(1);
        if last.batched == 1 {
            let (reports, agent, task, caller) =
                (self.clone(), report.agent.clone(), report.task, report.caller.clone());
            // Ends after one report, for which a shutdown need not wait.
            tokio::spawn(async move { reports.send_batch(agent, task, caller).await });
        }
        Some(last.health.clone())
    }

    async fn send_batch(&self, agent: AgentName, task: TaskId, caller: RequestContext) {
        tokio::time::sleep(BATCH_WINDOW).await;
        let Some(earlier) = self.take_batch(&agent).checked_sub(1) else { return };
        let report = Report {
            caller: &caller,
            agent: &agent,
            task,
            outcome: Outcome::Success,
            probe_lease: String::new(),
            took: Duration::ZERO,
            is_slow: false,
        };
        self.send_now(report, earlier).await;
    }

    async fn send_now(&self, report: Report<'_>, earlier_successes: u32) -> Option<HealthSnapshot> {
        let Report { caller, agent, task, outcome, probe_lease, took, is_slow: _ } = report;
        if self.is_paused() {
            record_counter(&HEALTH_REPORTS_LOST, 1);
            return None;
        }
        // With its own deadline: an attempt that ran until its caller's deadline must be reported too.
        let context = caller.clone().with_deadline(Instant::now() + REPORT_TIMEOUT);
        let now = to_timestamp(Timestamp::now());
        let request = context.request(ReportOutcomeRequest {
            agent_id: agent.to_string(),
            outcome: health_v1::Outcome::from(outcome).into(),
            ended_at: Some(now),
            sent_at: Some(now),
            probe_lease,
            task_id: task.to_string(),
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            earlier_successes,
        });
        let mut client = self.client.clone();
        match tokio::time::timeout(REPORT_TIMEOUT, client.report_outcome(request)).await {
            Ok(Ok(response)) => {
                self.end_outage();
                let health = HealthSnapshot::try_from(response.into_inner().health?).ok()?;
                self.record_health(agent, &health);
                Some(health)
            }
            Ok(Err(status)) => self.record_loss(status.code().description(), Duration::ZERO),
            Err(_) => self.record_loss("it did not answer in time", OUTAGE_PAUSE),
        }
    }

    fn record_health(&self, agent: &AgentName, health: &HealthSnapshot) {
        let mut last_reports = lock(&self.shared.last_reports);
        let last = last_reports.get(agent);
        let batched = last.map_or(0, |last| last.batched);
        if last.is_none_or(|last| last.health.revision <= health.revision) {
            let last = LastReport { health: health.clone(), sent_at: Instant::now(), batched };
            last_reports.insert(agent.clone(), last);
        }
    }

    fn is_paused(&self) -> bool {
        lock(&self.shared.outage).is_some_and(|outage| Instant::now() < outage.paused_until)
    }

    fn end_outage(&self) {
        if lock(&self.shared.outage).take().is_some() {
            tracing::info!("the health service accepts reports again");
        }
    }

    fn record_loss(&self, reason: &str, pause: Duration) -> Option<HealthSnapshot> {
        record_counter(&HEALTH_REPORTS_LOST, 1);
        let outage = Outage { paused_until: Instant::now() + pause };
        lock(&self.shared.last_reports).clear();
        if lock(&self.shared.outage).replace(outage).is_none() {
            tracing::warn!(reason, "the health service does not accept reports; agents keep running");
        }
        None
    }
}

// Values are replaced as a whole, so a thread that panicked left none half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

#[cfg(test)]
mod tests {
    use phoenix_domain::CorrelationId;
    use phoenix_platform::service_token::ServiceToken;

    use super::*;

    #[tokio::test]
    async fn concurrent_successes_send_one_report_and_one_batch() {
        let reports =
            HealthReports::new("http://127.0.0.1:9", &ServiceToken::new("of-the-test").unwrap().into())
                .unwrap();
        let agent: AgentName = "busy".parse().unwrap();
        let caller = RequestContext::new(CorrelationId::generate());
        let success = || Report {
            caller: &caller,
            agent: &agent,
            task: TaskId::generate(),
            outcome: Outcome::Success,
            probe_lease: String::new(),
            took: Duration::ZERO,
            is_slow: false,
        };
        assert!(reports.try_batch(&success()).is_none(), "the agent's health is unknown");
        let health = HealthSnapshot {
            agent: agent.clone(),
            state: HealthState::Healthy,
            consecutive_failures: 0,
            last_failure_at: None,
            last_success_at: None,
            circuit_open_until: None,
            probe_until: None,
            standing: None,
            isolation: None,
            revision: 1,
        };
        reports.record_health(&agent, &health);
        assert!(reports.try_batch(&success()).is_some(), "the health was received just now");
        lock(&reports.shared.last_reports).get_mut(&agent).unwrap().sent_at -= BATCH_WINDOW;
        assert!(reports.try_batch(&success()).is_none(), "one is reported");
        assert!(reports.try_batch(&success()).is_some(), "the next is batched before the response");
        assert!(reports.try_batch(&success()).is_some());
        assert_eq!(
            (reports.take_batch(&agent), reports.take_batch(&agent)),
            (3, 0),
            "none is lost or sent twice"
        );
    }
}
