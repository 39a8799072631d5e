//! An executor that publishes a catalog and runs nothing.

use std::pin::Pin;

use futures_util::{Stream, StreamExt};
use phoenix_domain::AgentSpec;
use phoenix_platform::{readiness::Readiness, server::GrpcServer};
use phoenix_proto::executor::{
    AgentList, CancelTaskRequest, CancelTaskResponse, Catalog, ExecuteTaskRequest, ExecuteTaskResponse,
    InspectAgentRequest, InspectAgentResponse, WatchCatalogRequest,
    executor_service_server::{ExecutorService, ExecutorServiceServer},
};
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::harness::token;

/// Ends with the runtime of its test.
pub(crate) struct FakeExecutor {
    pub(crate) url: String,
    agents: watch::Sender<Catalog>,
}

fn listener() -> (std::net::TcpListener, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

#[derive(Clone)]
struct Peer(watch::Receiver<Catalog>);

fn catalog(agents: impl IntoIterator<Item = AgentSpec>) -> Catalog {
    let agents = agents.into_iter().map(|spec| (&spec).into()).collect();
    Catalog { instance_id: "fake".into(), agents: Some(AgentList { agents }), ..Catalog::default() }
}

impl FakeExecutor {
    pub(crate) fn start(agents: impl IntoIterator<Item = AgentSpec>) -> Self {
        let (agents, reader) = watch::channel(catalog(agents));
        let (listener, url) = listener();
        let server = GrpcServer::new(Readiness::needing(&[]), token())
            .add_service(ExecutorServiceServer::new(Peer(reader)));
        tokio::spawn(server.serve(TcpListener::from_std(listener).unwrap(), CancellationToken::new()));
        Self { url, agents }
    }

    /// The address of an executor that does not run.
    pub(crate) fn absent() -> String {
        listener().1
    }

    /// Offers other agents from now on.
    pub(crate) fn offer(&self, agents: impl IntoIterator<Item = AgentSpec>) {
        self.agents.send_replace(catalog(agents));
    }
}

#[tonic::async_trait]
impl ExecutorService for Peer {
    type ExecuteTaskStream = Pin<Box<dyn Stream<Item = Result<ExecuteTaskResponse, Status>> + Send>>;
    type WatchCatalogStream = Pin<Box<dyn Stream<Item = Result<Catalog, Status>> + Send>>;

    async fn execute_task(
        &self,
        _: Request<ExecuteTaskRequest>,
    ) -> Result<Response<Self::ExecuteTaskStream>, Status> {
        Err(Status::unimplemented("not called by the health service"))
    }

    async fn cancel_task(
        &self,
        _: Request<CancelTaskRequest>,
    ) -> Result<Response<CancelTaskResponse>, Status> {
        Err(Status::unimplemented("not called by the health service"))
    }

    async fn inspect_agent(
        &self,
        _: Request<InspectAgentRequest>,
    ) -> Result<Response<InspectAgentResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn watch_catalog(
        &self,
        _: Request<WatchCatalogRequest>,
    ) -> Result<Response<Self::WatchCatalogStream>, Status> {
        Ok(Response::new(Box::pin(WatchStream::new(self.0.clone()).map(Ok))))
    }
}
