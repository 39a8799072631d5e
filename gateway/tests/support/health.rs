//! A scripted health service.

use jiff::Timestamp;
use phoenix_domain::{
    AgentName,
    health::{AgentHealth, Cause, HealthState},
    rejections::no_such_agent,
};
use phoenix_platform::{readiness::Readiness, server::GrpcServer};
use phoenix_proto::{
    HealthSnapshot, common,
    health_v1::{
        AcquireProbeRequest, AcquireProbeResponse, AgentAction, CircuitDetails, CircuitTransition,
        GetAgentHealthRequest, GetAgentHealthResponse, IsolateAgentRequest, IsolateAgentResponse,
        ListAgentHealthRequest, ListAgentHealthResponse, ListAgentsRequest, ListAgentsResponse,
        ReportOutcomeRequest, ReportOutcomeResponse, RestoreAgentRequest, RestoreAgentResponse,
        WatchAgentHealthRequest, WatchAgentHealthResponse,
        agent_health_service_server::{AgentHealthService, AgentHealthServiceServer},
    },
    status_from_error,
};
use tonic::{Request, Response, Status};

use super::Shared;

#[derive(Debug, Clone, Default)]
pub struct FakeHealth {
    agents: Shared<Vec<common::AgentHealth>>,
    transitions: Shared<Vec<CircuitTransition>>,
    hangs: Shared<bool>,
}

/// An agent in the given state.
pub fn agent(name: &str, state: HealthState, failures: u32, open_until: Option<Timestamp>) -> HealthSnapshot {
    HealthSnapshot {
        agent: name.parse().unwrap(),
        state,
        consecutive_failures: failures,
        last_failure_at: (failures > 0).then(|| "2026-01-31T12:00:00Z".parse().unwrap()),
        last_success_at: None,
        circuit_open_until: open_until,
        probe_until: None,
        standing: None,
        isolation: None,
        revision: 1,
    }
}

impl FakeHealth {
    pub fn server(&self, readiness: Readiness) -> GrpcServer {
        GrpcServer::new(readiness, super::token()).add_service(AgentHealthServiceServer::new(self.clone()))
    }

    pub fn set(&self, agents: impl IntoIterator<Item = HealthSnapshot>) {
        *self.agents.lock().unwrap() = agents.into_iter().map(Into::into).collect();
    }

    /// Applies a decision of an operator, as the health service does.
    fn decide(
        &self,
        name: &str,
        cause: Cause,
        actor: &str,
        reason: &str,
    ) -> Result<common::AgentHealth, Status> {
        let mut agents = self.agents.lock().unwrap();
        let known: Vec<AgentName> = agents.iter().map(|agent| agent.agent_id.parse().unwrap()).collect();
        let found = agents.iter_mut().find(|agent| agent.agent_id == name);
        let agent = found.ok_or_else(|| status_from_error(&no_such_agent(&name.parse().unwrap(), &known)))?;
        let mut health = AgentHealth::default();
        let at = "2026-01-31T12:00:00Z".parse().unwrap();
        let isolated = health.isolate(actor, reason, at).unwrap();
        let transition = match cause {
            Cause::Restored => health.restore(actor, reason, at).unwrap(),
            _ => isolated,
        };
        *agent = HealthSnapshot::of(name.parse().unwrap(), &health).into();
        self.transitions.lock().unwrap().insert(0, transition.into());
        Ok(agent.clone())
    }

    pub fn hang(&self) {
        *self.hangs.lock().unwrap() = true;
    }
}

/// An agent with two actions.
fn described(health: common::AgentHealth, transitions: Vec<CircuitTransition>) -> GetAgentHealthResponse {
    let state = match (&health.isolation, health.circuit_open_until) {
        (Some(_), _) => "isolated",
        (None, Some(_)) => "open",
        (None, None) => "closed",
    };
    let circuit = CircuitDetails {
        state: state.into(),
        next_probe_at: health.circuit_open_until,
        transitions,
        has_transitions: true,
    };
    let action = |name: &str, schema: &str| AgentAction {
        name: name.into(),
        description: format!("Does {name}"),
        input_schema_json: schema.into(),
        ..AgentAction::default()
    };
    GetAgentHealthResponse {
        circuit: Some(circuit),
        processes: Vec::new(),
        listing: Some(listing()),
        health: Some(health),
        description: "An agent of the test".into(),
        actions: vec![
            action("any", ""),
            AgentAction {
                timeout_ms: Some(1500),
                max_attempts: Some(2),
                ..action("strict", r#"{"required":["path"]}"#)
            },
        ],
    }
}

/// What an MCP server offers beside its tools.
fn listing() -> common::McpListing {
    let resource = |uri: &str, mime_type: &str, is_template| common::McpResource {
        uri: uri.into(),
        name: "notes".into(),
        description: "Notes".into(),
        mime_type: mime_type.into(),
        is_template,
    };
    let argument =
        common::McpPromptArgument { name: "who".into(), description: "Whom".into(), is_required: true };
    let prompt =
        common::McpPrompt { name: "greet".into(), description: "Greets".into(), arguments: vec![argument] };
    common::McpListing {
        resources: vec![resource("note:///1", "text/plain", false), resource("note:///{id}", "", true)],
        prompts: vec![prompt],
        is_truncated: true,
    }
}

#[tonic::async_trait]
impl AgentHealthService for FakeHealth {
    async fn list_agent_health(
        &self,
        _: Request<ListAgentHealthRequest>,
    ) -> Result<Response<ListAgentHealthResponse>, Status> {
        let hangs = *self.hangs.lock().unwrap();
        if hangs {
            std::future::pending::<()>().await;
        }
        let agents = self.agents.lock().unwrap().clone();
        Ok(Response::new(ListAgentHealthResponse { agents }))
    }

    async fn get_agent_health(
        &self,
        request: Request<GetAgentHealthRequest>,
    ) -> Result<Response<GetAgentHealthResponse>, Status> {
        if *self.hangs.lock().unwrap() {
            std::future::pending::<()>().await;
        }
        let name = request.into_inner().agent_id;
        let agents = self.agents.lock().unwrap().clone();
        let Some(health) = agents.iter().find(|agent| agent.agent_id == name).cloned() else {
            let known: Vec<AgentName> = agents.iter().map(|agent| agent.agent_id.parse().unwrap()).collect();
            return Err(status_from_error(&no_such_agent(&name.parse().unwrap(), &known)));
        };
        let transitions = self.transitions.lock().unwrap().clone();
        Ok(Response::new(described(health, transitions)))
    }

    async fn list_agents(
        &self,
        _: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        if *self.hangs.lock().unwrap() {
            std::future::pending::<()>().await;
        }
        let agents = self.agents.lock().unwrap().clone();
        let agents = agents.into_iter().map(|agent| described(agent, Vec::new())).collect();
        Ok(Response::new(ListAgentsResponse { agents }))
    }

    async fn isolate_agent(
        &self,
        request: Request<IsolateAgentRequest>,
    ) -> Result<Response<IsolateAgentResponse>, Status> {
        let IsolateAgentRequest { agent_id, actor, reason } = request.into_inner();
        let health = self.decide(&agent_id, Cause::Isolated, &actor, &reason)?;
        Ok(Response::new(IsolateAgentResponse { health: Some(health) }))
    }

    async fn restore_agent(
        &self,
        request: Request<RestoreAgentRequest>,
    ) -> Result<Response<RestoreAgentResponse>, Status> {
        let RestoreAgentRequest { agent_id, actor, reason } = request.into_inner();
        let health = self.decide(&agent_id, Cause::Restored, &actor, &reason)?;
        Ok(Response::new(RestoreAgentResponse { health: Some(health) }))
    }

    type WatchAgentHealthStream = tokio_stream::Empty<Result<WatchAgentHealthResponse, Status>>;

    async fn watch_agent_health(
        &self,
        _: Request<WatchAgentHealthRequest>,
    ) -> Result<Response<Self::WatchAgentHealthStream>, Status> {
        Err(Status::unimplemented("the gateway does not ask"))
    }

    async fn report_outcome(
        &self,
        _: Request<ReportOutcomeRequest>,
    ) -> Result<Response<ReportOutcomeResponse>, Status> {
        Err(Status::unimplemented("the gateway does not ask"))
    }

    async fn acquire_probe(
        &self,
        _: Request<AcquireProbeRequest>,
    ) -> Result<Response<AcquireProbeResponse>, Status> {
        Err(Status::unimplemented("the gateway does not ask"))
    }
}
