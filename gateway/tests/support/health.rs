//! A scripted health service.

use jiff::Timestamp;
use phoenix_domain::{AgentName, health::HealthState, rejections::no_such_agent};
use phoenix_platform::{readiness::Readiness, server::GrpcServer};
use phoenix_proto::{
    HealthSnapshot, common,
    health_v1::{
        AcquireProbeRequest, AcquireProbeResponse, AgentAction, GetAgentHealthRequest,
        GetAgentHealthResponse, ListAgentHealthRequest, ListAgentHealthResponse, ListAgentsRequest,
        ListAgentsResponse, ReportOutcomeRequest, ReportOutcomeResponse, WatchAgentHealthRequest,
        WatchAgentHealthResponse,
        agent_health_service_server::{AgentHealthService, AgentHealthServiceServer},
    },
    status_from_error,
};
use tonic::{Request, Response, Status};

use super::Shared;

#[derive(Debug, Clone, Default)]
pub struct FakeHealth {
    agents: Shared<Vec<common::AgentHealth>>,
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

    pub fn hang(&self) {
        *self.hangs.lock().unwrap() = true;
    }
}

/// An agent with two actions.
fn described(health: common::AgentHealth) -> GetAgentHealthResponse {
    let action = |name: &str, schema: &str| AgentAction {
        name: name.into(),
        description: format!("Does {name}"),
        input_schema_json: schema.into(),
    };
    GetAgentHealthResponse {
        health: Some(health),
        description: "An agent of the test".into(),
        actions: vec![action("any", ""), action("strict", r#"{"required":["path"]}"#)],
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
        Ok(Response::new(described(health)))
    }

    async fn list_agents(
        &self,
        _: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        if *self.hangs.lock().unwrap() {
            std::future::pending::<()>().await;
        }
        let agents = self.agents.lock().unwrap().clone();
        Ok(Response::new(ListAgentsResponse { agents: agents.into_iter().map(described).collect() }))
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
