//! A view between scripted executors.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use phoenix_domain::{AgentSpec, OrchestratorErrorCode};
use phoenix_proto::executor::{
    Agent, AgentList, CancelTaskRequest, CancelTaskResponse, Catalog, ExecuteTaskRequest,
    ExecuteTaskResponse, InspectAgentRequest, InspectAgentResponse, WatchCatalogRequest,
    executor_service_server::{ExecutorService, ExecutorServiceServer},
};
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status};

use super::*;
use crate::{client::PeerAddresses, readiness::Readiness, server::GrpcServer, service_token::ServiceToken};

#[derive(Clone)]
struct FakeExecutor {
    catalog: Arc<watch::Sender<Catalog>>,
    gone: Arc<Mutex<CancellationToken>>,
}

fn token() -> ServiceToken {
    ServiceToken::new("of-the-test").unwrap()
}

fn agent(name: &str) -> Agent {
    (&AgentSpec::new(name.parse().unwrap(), Vec::new())).into()
}

fn catalog(agents: &[&str]) -> Catalog {
    let agents = agents.iter().map(|name| agent(name)).collect();
    Catalog { agents: Some(AgentList { agents }), ..Catalog::default() }
}

impl FakeExecutor {
    fn new(agents: &[&str]) -> Self {
        Self { catalog: Arc::new(watch::Sender::new(catalog(agents))), gone: Arc::default() }
    }

    async fn serve(&self, addr: &str) -> String {
        let gone = CancellationToken::new();
        *self.gone.lock() = gone.clone();
        let listener = TcpListener::bind(addr.trim_start_matches("http://")).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = GrpcServer::new(Readiness::needing(&[]), token())
            .add_service(ExecutorServiceServer::new(self.clone()));
        tokio::spawn(server.serve(listener, gone));
        url
    }

    fn leave(&self) {
        self.gone.lock().cancel();
    }
}

#[tonic::async_trait]
impl ExecutorService for FakeExecutor {
    type ExecuteTaskStream = Pin<Box<dyn Stream<Item = Result<ExecuteTaskResponse, Status>> + Send>>;
    type WatchCatalogStream = Pin<Box<dyn Stream<Item = Result<Catalog, Status>> + Send>>;

    async fn execute_task(
        &self,
        _: Request<ExecuteTaskRequest>,
    ) -> Result<Response<Self::ExecuteTaskStream>, Status> {
        Err(Status::unimplemented("not called by a view"))
    }

    async fn cancel_task(
        &self,
        _: Request<CancelTaskRequest>,
    ) -> Result<Response<CancelTaskResponse>, Status> {
        Err(Status::unimplemented("not called by a view"))
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
        let gone = self.gone.lock().clone();
        let catalogs = WatchStream::new(self.catalog.subscribe()).map(Ok);
        Ok(Response::new(Box::pin(catalogs.take_until(gone.cancelled_owned()))))
    }
}

/// Follows the executors at `urls` for as long as the guard lives.
fn follow_at(view: &CatalogView, urls: &[&str]) -> DropGuard {
    let stop = CancellationToken::new();
    let addresses = PeerAddresses::of(&urls.join(",")).unwrap();
    tokio::spawn(follow(view.clone(), Follow::AgentsAndLoad, addresses, token().into(), stop.clone()));
    stop.drop_guard()
}

/// Waits until the view knows exactly `names`.
async fn knows(view: &CatalogView, names: &[&str]) {
    let mut changes = view.subscribe();
    let known = changes.wait_for(|known| {
        known
            .catalog()
            .is_ok_and(|catalog| catalog.iter().map(|spec| spec.name.as_str()).eq(names.iter().copied()))
    });
    let known = tokio::time::timeout(Duration::from_secs(20), known).await;
    assert!(known.is_ok(), "{names:?}, not {:?}", view.catalog());
}

#[tokio::test]
async fn view_follows_executors_that_join_change_and_leave() {
    let (a, b) = (FakeExecutor::new(&["both", "only_a"]), FakeExecutor::new(&["both", "only_b"]));
    let view = CatalogView::new(Some("both".parse().unwrap()), Duration::ZERO);
    let error = view.catalog().unwrap_err();
    assert_eq!((error.code, error.retry_after.is_some()), (OrchestratorErrorCode::Unavailable, true));
    let (at_a, at_b) = (a.serve("127.0.0.1:0").await, b.serve("127.0.0.1:0").await);
    let _following = follow_at(&view, &[&at_a, &at_b]);
    tokio::time::timeout(Duration::from_secs(20), view.reached()).await.unwrap();
    knows(&view, &["both", "only_a", "only_b"]).await;
    a.catalog.send_replace(catalog(&["both", "new"]));
    knows(&view, &["both", "new", "only_b"]).await;
    a.leave();
    knows(&view, &["both", "only_b"]).await;
    let known = view.known();
    assert_eq!((known.executors(), known.unreachable()), (1, 1));
    assert!(known.absent_since(&"new".parse().unwrap()).is_some());
    a.serve(&at_a).await;
    knows(&view, &["both", "new", "only_b"]).await;
    assert_eq!((view.known().executors(), view.known().unreachable()), (2, 0));
    let chosen = |agent: &str| view.choose(&agent.parse().unwrap(), None).unwrap().executor;
    assert_eq!((chosen("only_b").address(), chosen("new").address()), (&*at_b, &*at_a));
    let both = "both".parse().unwrap();
    let other = view.choose(&both, Some(&chosen("only_b"))).unwrap().executor;
    assert_eq!(other.address(), at_a, "the other one was to be avoided");
    assert!(view.is_offered_elsewhere(&both, &other));
    assert!(!view.is_offered_elsewhere(&"new".parse().unwrap(), &other));
    assert_eq!(view.default_agent().as_str(), "both");
    a.leave();
    b.leave();
}

#[tokio::test]
async fn agent_of_a_lost_executor_is_forgotten_after_the_grace() {
    let executor = FakeExecutor::new(&["x"]);
    let view = CatalogView::new(None, Duration::from_millis(200));
    let _follow = follow_at(&view, &[&executor.serve("127.0.0.1:0").await]);
    knows(&view, &["x"]).await;
    executor.leave();
    let mut changes = view.subscribe();
    changes.wait_for(|known| known.executors() == 0).await.unwrap();
    assert!(view.known().contains(&"x".parse().unwrap()));
    assert!(view.choose(&"x".parse().unwrap(), None).is_some(), "it may be back");
    knows(&view, &[]).await;
    assert!(view.known().absent_since(&"x".parse().unwrap()).is_some());
}

#[tokio::test]
async fn agent_that_cannot_be_read_is_left_out_alone() {
    let executor = FakeExecutor::new(&[]);
    let unreadable = Agent { mode: 99, ..agent("from_the_future") };
    let agents = Some(AgentList { agents: vec![unreadable, agent("x")] });
    executor.catalog.send_replace(Catalog { agents, ..Catalog::default() });
    let view = CatalogView::new(None, Duration::ZERO);
    let _follow = follow_at(&view, &[&executor.serve("127.0.0.1:0").await]);
    knows(&view, &["x"]).await;
    executor.leave();
}
