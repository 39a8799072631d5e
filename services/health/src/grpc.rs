//! `phoenix.health.v1.AgentHealthService`: decode, call, encode.

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt};
use jiff::Timestamp;
use phoenix_domain::{ActionLimits, ActionSpec, TaskId, health, ids::InvalidId};
use phoenix_proto::{
    HealthSnapshot, InvalidField, common,
    health_v1::{
        self, AcquireProbeRequest, AcquireProbeResponse, AgentAction, CircuitDetails, GetAgentHealthRequest,
        GetAgentHealthResponse, IsolateAgentRequest, IsolateAgentResponse, ListAgentHealthRequest,
        ListAgentHealthResponse, ListAgentsRequest, ListAgentsResponse, ReportOutcomeRequest,
        ReportOutcomeResponse, RestoreAgentRequest, RestoreAgentResponse, WatchAgentHealthRequest,
        WatchAgentHealthResponse, agent_health_service_server::AgentHealthService,
    },
    id, optional, required_timestamp, status_from_error, timestamp, to_timestamp,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};
use uuid::Uuid;

use crate::{
    change::{AttemptEnd, Change, Decision, Ended, Verdict},
    health::{AgentDetails, Health, ProbeAnswer},
    store::stored_precision,
    watch,
};

/// Longest lease. It bounds how long a faulty caller can block the probes of an agent.
const MAX_LEASE: Duration = Duration::from_secs(24 * 60 * 60);

/// Longest wait of a watch for the stored health. Its reader works without it meanwhile.
const FIRST_STATES_WAIT: Duration = Duration::from_secs(5);

/// The gRPC service.
#[derive(Debug)]
pub(crate) struct HealthGrpc {
    health: Health,
    /// Ends watches, which would otherwise keep the server running.
    shutdown: CancellationToken,
}

impl HealthGrpc {
    pub(crate) const fn new(health: Health, shutdown: CancellationToken) -> Self {
        Self { health, shutdown }
    }
}

#[async_trait]
impl AgentHealthService for HealthGrpc {
    type WatchAgentHealthStream =
        Pin<Box<dyn Stream<Item = Result<WatchAgentHealthResponse, Status>> + Send>>;

    async fn list_agent_health(
        &self,
        request: Request<ListAgentHealthRequest>,
    ) -> Result<Response<ListAgentHealthResponse>, Status> {
        let ListAgentHealthRequest {} = request.into_inner();
        Ok(Response::new(ListAgentHealthResponse {
            agents: encode(self.health.list().await.map_err(|e| status_from_error(&e))?),
        }))
    }

    async fn get_agent_health(
        &self,
        request: Request<GetAgentHealthRequest>,
    ) -> Result<Response<GetAgentHealthResponse>, Status> {
        let GetAgentHealthRequest { agent_id } = request.into_inner();
        let agent = id("agent_id", &agent_id)?;
        let agent = self.health.get(&agent).await.map_err(|e| status_from_error(&e))?;
        Ok(Response::new(encode_agent(agent)))
    }

    async fn list_agents(
        &self,
        request: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        let ListAgentsRequest {} = request.into_inner();
        let agents = self.health.agents().await.map_err(|e| status_from_error(&e))?;
        let agents = agents.into_iter().map(encode_agent);
        let agents = agents.map(|agent| GetAgentHealthResponse { listing: None, ..agent }).collect();
        Ok(Response::new(ListAgentsResponse { agents }))
    }

    async fn watch_agent_health(
        &self,
        request: Request<WatchAgentHealthRequest>,
    ) -> Result<Response<Self::WatchAgentHealthStream>, Status> {
        let WatchAgentHealthRequest {} = request.into_inner();
        // After a start, the first message holds the circuits that were open before.
        self.health.loaded(FIRST_STATES_WAIT).await;
        let changes = watch::changes(self.health.states(), self.shutdown.clone());
        let messages = changes.map(|agents| Ok(WatchAgentHealthResponse { agents: encode(agents) }));
        Ok(Response::new(Box::pin(messages)))
    }

    async fn report_outcome(
        &self,
        request: Request<ReportOutcomeRequest>,
    ) -> Result<Response<ReportOutcomeResponse>, Status> {
        let ReportOutcomeRequest {
            agent_id,
            outcome,
            ended_at,
            probe_lease,
            task_id,
            sent_at,
            took_ms,
            earlier_successes,
        } = request.into_inner();
        let agent = id("agent_id", &agent_id)?;
        let outcome = decode_outcome(outcome)?;
        let ended_at = required_timestamp("ended_at", ended_at)?;
        let ended = decode_end(ended_at, timestamp("sent_at", sent_at)?);
        let lease = optional::<Uuid>("probe_lease", &probe_lease)
            .map_err(|_| InvalidField::new("probe_lease", InvalidId))?;
        let task = optional::<TaskId>("task_id", &task_id)?;
        let (took, jitter) = (Duration::from_millis(took_ms), fastrand::f64());
        let end = AttemptEnd { outcome, task, lease, ended, took, earlier_successes, jitter };
        let reported = self.health.report(agent, end).await;
        let snapshot = reported.map_err(|e| status_from_error(&e))?;
        Ok(Response::new(ReportOutcomeResponse { health: Some(snapshot.into()) }))
    }

    async fn acquire_probe(
        &self,
        request: Request<AcquireProbeRequest>,
    ) -> Result<Response<AcquireProbeResponse>, Status> {
        let AcquireProbeRequest { agent_id, lease_ms } = request.into_inner();
        let (agent, lease_time) = (id("agent_id", &agent_id)?, decode_lease_time(lease_ms)?);
        let answer = self.health.acquire_probe(agent, lease_time).await.map_err(|e| status_from_error(&e))?;
        Ok(Response::new(answer.into()))
    }

    async fn isolate_agent(
        &self,
        request: Request<IsolateAgentRequest>,
    ) -> Result<Response<IsolateAgentResponse>, Status> {
        let IsolateAgentRequest { agent_id, actor, reason } = request.into_inner();
        let decided =
            self.health.decide(id("agent_id", &agent_id)?, Decision { actor, reason }, Change::Isolate).await;
        let snapshot = decided.map_err(|e| status_from_error(&e))?;
        Ok(Response::new(IsolateAgentResponse { health: Some(snapshot.into()) }))
    }

    async fn restore_agent(
        &self,
        request: Request<RestoreAgentRequest>,
    ) -> Result<Response<RestoreAgentResponse>, Status> {
        let RestoreAgentRequest { agent_id, actor, reason } = request.into_inner();
        let decided =
            self.health.decide(id("agent_id", &agent_id)?, Decision { actor, reason }, Change::Restore).await;
        let snapshot = decided.map_err(|e| status_from_error(&e))?;
        Ok(Response::new(RestoreAgentResponse { health: Some(snapshot.into()) }))
    }
}

impl From<ProbeAnswer> for AcquireProbeResponse {
    fn from(ProbeAnswer { verdict, at, snapshot }: ProbeAnswer) -> Self {
        let (granted, lease, refused_until) = match verdict {
            Verdict::Granted(lease) => (true, lease.to_string(), None),
            Verdict::NotNeeded => (true, String::new(), None),
            Verdict::Refused(until) => (false, String::new(), Some(until)),
            Verdict::Isolated => (false, String::new(), None),
        };
        let wait = refused_until.map_or(0, |until| until.duration_since(at).as_millis().max(1));
        let refused_for_ms = u64::try_from(wait).unwrap_or_default();
        let (refused_until, health) = (refused_until.map(to_timestamp), Some(snapshot.into()));
        Self { granted, lease, refused_until, health, refused_for_ms }
    }
}

/// The end of an attempt. Two times of the reporter's clock give its age.
fn decode_end(ended_at: Timestamp, sent_at: Option<Timestamp>) -> Ended {
    match sent_at {
        Some(sent_at) => Ended::Before(sent_at.duration_since(ended_at).try_into().unwrap_or_default()),
        None => Ended::At(stored_precision(ended_at)),
    }
}

fn decode_outcome(outcome: i32) -> Result<health::Outcome, InvalidField> {
    health_v1::Outcome::try_from(outcome)
        .map_err(|_| InvalidField::new("outcome", "is not an outcome that this version knows"))?
        .try_into()
}

fn decode_lease_time(lease_ms: u64) -> Result<Option<Duration>, InvalidField> {
    let lease_time = Duration::from_millis(lease_ms);
    if lease_time > MAX_LEASE {
        let problem = format!("must be at most {} (one day)", MAX_LEASE.as_millis());
        return Err(InvalidField::new("lease_ms", problem));
    }
    Ok((lease_ms > 0).then_some(lease_time))
}

fn encode_agent(details: AgentDetails) -> GetAgentHealthResponse {
    let AgentDetails { spec, snapshot, circuit, next_probe_at, transitions, processes } = details;
    let circuit = CircuitDetails {
        state: circuit.as_str().into(),
        next_probe_at: next_probe_at.map(to_timestamp),
        has_transitions: transitions.is_some(),
        transitions: transitions.into_iter().flatten().map(Into::into).collect(),
    };
    GetAgentHealthResponse {
        circuit: Some(circuit),
        processes,
        health: Some(snapshot.into()),
        description: spec.description,
        listing: spec.listing.as_deref().map(Into::into),
        actions: spec.actions.into_iter().map(encode_action).collect(),
    }
}

fn encode_action((name, action): (String, ActionSpec)) -> AgentAction {
    let ActionSpec { description, input_schema, limits: ActionLimits { timeout, retry } } = action;
    let input_schema_json = input_schema.map(|schema| schema.source().to_string()).unwrap_or_default();
    AgentAction {
        name,
        description,
        input_schema_json,
        timeout_ms: timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
        max_attempts: retry.map(|retry| retry.max_attempts),
    }
}

fn encode(snapshots: Vec<HealthSnapshot>) -> Vec<common::AgentHealth> {
    snapshots.into_iter().map(Into::into).collect()
}
