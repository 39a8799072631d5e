//! Tells the health service how attempts end.
//!
//! The work does not depend on it: when the service is down, reports are lost, counted, and the outage is logged once.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use phoenix_domain::{AgentName, CorrelationId, FailureClass, health::Outcome};
use phoenix_platform::{
    RequestContext,
    client::{self, InvalidUrl, PeerChannel},
    record_counter,
};
use phoenix_proto::{
    HealthSnapshot,
    health_v1::{self, ReportOutcomeRequest, agent_health_service_client::AgentHealthServiceClient},
    to_timestamp,
};

use crate::{failure::AttemptFailure, metrics::HEALTH_REPORTS_LOST};

/// How long a report may take.
const LIMIT: Duration = Duration::from_millis(500);

/// After a report that took too long, how long no other is tried: a service that is frozen must not slow every task.
const PAUSE: Duration = Duration::from_secs(1);

/// A client of the health service.
pub(crate) struct HealthReports {
    client: AgentHealthServiceClient<PeerChannel>,
    outage: Mutex<Option<Outage>>,
}

#[derive(Clone, Copy)]
struct Outage {
    /// Before this time no report is tried.
    paused_until: Instant,
}

/// One outcome.
pub(crate) struct Report<'a> {
    pub(crate) correlation_id: CorrelationId,
    pub(crate) agent: &'a AgentName,
    pub(crate) outcome: Outcome,
    /// Empty when the attempt was no probe.
    pub(crate) probe_lease: String,
}

/// What the end of an attempt says about its agent.
pub(crate) fn outcome_of<T>(attempt: &Result<T, AttemptFailure>) -> Outcome {
    match attempt {
        Ok(_) => Outcome::Success,
        Err(AttemptFailure { class, .. }) => of_class(*class),
    }
}

const fn of_class(class: FailureClass) -> Outcome {
    if class.counts_against_agent() { Outcome::Failure } else { Outcome::Neutral }
}

impl HealthReports {
    /// Reports to the service at `url`.
    pub(crate) fn new(url: &str) -> Result<Self, InvalidUrl> {
        Ok(Self { client: AgentHealthServiceClient::new(client::channel(url)?), outage: Mutex::new(None) })
    }

    /// Sends one report. Answers the agent's health after it, or nothing when the report was lost.
    pub(crate) async fn send(&self, report: Report<'_>) -> Option<HealthSnapshot> {
        let Report { correlation_id, agent, outcome, probe_lease } = report;
        if self.is_paused() {
            record_counter(&HEALTH_REPORTS_LOST, 1);
            return None;
        }
        // With a deadline of its own: the report of an attempt that ran until its caller's deadline is worth most.
        let context = RequestContext::new(correlation_id).with_deadline(Instant::now() + LIMIT);
        let request = context.request(ReportOutcomeRequest {
            agent_id: agent.to_string(),
            outcome: health_v1::Outcome::from(outcome).into(),
            ended_at: Some(to_timestamp(Timestamp::now())),
            probe_lease,
        });
        let mut client = self.client.clone();
        match tokio::time::timeout(LIMIT, client.report_outcome(request)).await {
            Ok(Ok(response)) => {
                self.arrived();
                HealthSnapshot::try_from(response.into_inner().health?).ok()
            }
            Ok(Err(status)) => self.lost(status.code().description(), Duration::ZERO),
            Err(_) => self.lost("it did not answer in time", PAUSE),
        }
    }

    fn is_paused(&self) -> bool {
        self.lock().is_some_and(|outage| Instant::now() < outage.paused_until)
    }

    fn arrived(&self) {
        if self.lock().take().is_some() {
            tracing::info!("the health service takes reports again");
        }
    }

    fn lost(&self, reason: &str, pause: Duration) -> Option<HealthSnapshot> {
        record_counter(&HEALTH_REPORTS_LOST, 1);
        let outage = Outage { paused_until: Instant::now() + pause };
        if self.lock().replace(outage).is_none() {
            tracing::warn!(reason, "the health service does not take reports; agents run on without it");
        }
        None
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Outage>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
