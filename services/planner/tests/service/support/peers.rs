//! Scripted peers: an executor and a health service.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::Timestamp;
use phoenix_domain::{
    AgentSpec, CorrelationId, OrchestratorError, OrchestratorErrorCode, action::ActionResult,
};
use phoenix_platform::{RequestContext, readiness::Readiness, server::GrpcServer};
use phoenix_proto::{
    common::{AgentHealth, HealthState, Isolation, ModelCall, Tokens},
    executor::{
        AgentList, AttemptFailed, AttemptStarted, CancelTaskRequest, CancelTaskResponse, Catalog,
        ExecuteTaskRequest, ExecuteTaskResponse, InspectAgentRequest, InspectAgentResponse, TaskFinished,
        TaskOutput, WatchCatalogRequest,
        execute_task_response::Event,
        executor_service_server::{ExecutorService, ExecutorServiceServer},
        task_finished,
    },
    health_v1::{
        AcquireProbeRequest, AcquireProbeResponse, GetAgentHealthRequest, GetAgentHealthResponse,
        IsolateAgentRequest, IsolateAgentResponse, ListAgentHealthRequest, ListAgentHealthResponse,
        ListAgentsRequest, ListAgentsResponse, ReportOutcomeRequest, ReportOutcomeResponse,
        RestoreAgentRequest, RestoreAgentResponse, WatchAgentHealthRequest, WatchAgentHealthResponse,
        agent_health_service_server::AgentHealthService,
    },
    to_timestamp,
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc, watch},
};
use tokio_stream::{
    Stream, StreamExt,
    wrappers::{ReceiverStream, WatchStream},
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

/// Behaviour of the executor for the tasks of an agent.
#[derive(Clone)]
pub enum Script {
    /// Sends these events.
    Says(Vec<ExecuteTaskResponse>),
    /// Sends the events for its next call, and nothing more when there are none left.
    Each(Arc<Mutex<VecDeque<Vec<ExecuteTaskResponse>>>>),
    /// Starts an attempt and never ends.
    Hangs,
    /// Sends these events when the token is cancelled, and keeps the stream open.
    SaysLater(CancellationToken, Vec<ExecuteTaskResponse>),
    /// Sends the first events, and the others when the token is cancelled.
    SaysMoreLater(Vec<ExecuteTaskResponse>, CancellationToken, Vec<ExecuteTaskResponse>),
    /// Starts an attempt and succeeds when it can acquire one of these permits.
    Waits(Arc<Semaphore>),
    /// Starts an attempt, which fails, and ends with this error.
    Fails(OrchestratorError),
    /// Starts an attempt and breaks the stream.
    Breaks,
    /// Rejects the call.
    Refuses(OrchestratorError),
}

/// Calls that the executor received.
#[derive(Default)]
pub struct ExecutorLog {
    pub calls: Vec<ExecuteTaskRequest>,
    pub correlation_ids: Vec<CorrelationId>,
    /// Tasks whose caller disconnected.
    pub abandoned: usize,
}

#[derive(Clone)]
pub struct FakeExecutor {
    pub scripts: Arc<Mutex<HashMap<String, Script>>>,
    pub log: Arc<Mutex<ExecutorLog>>,
    catalog: Arc<watch::Sender<Catalog>>,
    /// Ends the server and its catalog streams.
    gone: Arc<Mutex<CancellationToken>>,
}

impl Default for FakeExecutor {
    /// Offers [`super::catalog`].
    fn default() -> Self {
        Self::offering(super::catalog().iter().cloned())
    }
}

fn catalog(agents: impl IntoIterator<Item = AgentSpec>) -> Catalog {
    let agents = agents.into_iter().map(|spec| (&spec).into()).collect();
    Catalog { instance_id: "fake".into(), agents: Some(AgentList { agents }), ..Catalog::default() }
}

impl FakeExecutor {
    pub fn offering(agents: impl IntoIterator<Item = AgentSpec>) -> Self {
        Self {
            scripts: Arc::default(),
            log: Arc::default(),
            catalog: Arc::new(watch::Sender::new(catalog(agents))),
            gone: Arc::default(),
        }
    }

    /// Offers other agents from now on.
    pub fn offer(&self, agents: impl IntoIterator<Item = AgentSpec>) {
        self.catalog.send_replace(catalog(agents));
    }

    fn offers(&self, agent: &str) -> bool {
        let catalog = self.catalog.borrow();
        catalog.agents.iter().flat_map(|list| &list.agents).any(|offered| offered.name == agent)
    }

    /// Serves at `addr`, or at a free port.
    pub async fn serve(&self, addr: Option<&str>) -> String {
        let gone = CancellationToken::new();
        *self.gone.lock().unwrap() = gone.clone();
        let addr = addr.unwrap_or("http://127.0.0.1:0");
        let listener = TcpListener::bind(addr.trim_start_matches("http://")).await.unwrap();
        serve_on(listener, ExecutorServiceServer::new(self.clone()), gone)
    }

    /// Stops serving, in order: running tasks keep their streams.
    pub fn leave(&self) {
        self.gone.lock().unwrap().cancel();
    }

    /// A stream without events that records the disconnect of its reader.
    fn nothing_more(&self) -> impl Stream<Item = Result<ExecuteTaskResponse, Status>> + Send + use<> {
        let log = Abandoned(Arc::clone(&self.log));
        let (keep, never) = mpsc::channel(1);
        ReceiverStream::new(never).map(move |item| {
            let _ = (&log, &keep);
            item
        })
    }
}

struct Abandoned(Arc<Mutex<ExecutorLog>>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.0.lock().unwrap().abandoned += 1;
    }
}

#[tonic::async_trait]
impl ExecutorService for FakeExecutor {
    type ExecuteTaskStream = Pin<Box<dyn Stream<Item = Result<ExecuteTaskResponse, Status>> + Send>>;
    type WatchCatalogStream = Pin<Box<dyn Stream<Item = Result<Catalog, Status>> + Send>>;

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
        let gone = self.gone.lock().unwrap().clone();
        let catalogs = WatchStream::new(self.catalog.subscribe()).map(Ok);
        Ok(Response::new(Box::pin(futures_util::StreamExt::take_until(catalogs, gone.cancelled_owned()))))
    }

    async fn execute_task(
        &self,
        request: Request<ExecuteTaskRequest>,
    ) -> Result<Response<Self::ExecuteTaskStream>, Status> {
        let context = RequestContext::of(&request);
        let task = request.into_inner();
        let first_attempt = task.first_attempt;
        if !self.offers(&task.agent) {
            let unknown = OrchestratorError::new(OrchestratorErrorCode::PlanningFailed, "unknown agent");
            return Err(phoenix_proto::status_from_error(&unknown));
        }
        let script =
            self.scripts.lock().unwrap().get(&task.agent).cloned().unwrap_or(Script::Says(answers("ok")));
        {
            let mut log = self.log.lock().unwrap();
            log.calls.push(task);
            log.correlation_ids.push(context.correlation_id);
        }
        let stream: Self::ExecuteTaskStream = match script {
            Script::Says(events) => Box::pin(tokio_stream::iter(events.into_iter().map(Ok))),
            Script::Each(calls) => {
                let next = calls.lock().unwrap().pop_front();
                match next {
                    Some(events) => Box::pin(tokio_stream::iter(events.into_iter().map(Ok))),
                    None => Box::pin(tokio_stream::iter([Ok(started(1))]).chain(self.nothing_more())),
                }
            }
            Script::Hangs => Box::pin(tokio_stream::iter([Ok(started(1))]).chain(self.nothing_more())),
            Script::SaysLater(when, events) => {
                when.cancelled().await;
                Box::pin(tokio_stream::iter(events.into_iter().map(Ok)).chain(self.nothing_more()))
            }
            Script::SaysMoreLater(first, when, later) => {
                let rest = futures_util::stream::once(async move {
                    when.cancelled().await;
                    tokio_stream::iter(later)
                });
                let rest = futures_util::StreamExt::flatten(rest);
                Box::pin(tokio_stream::iter(first).chain(rest).map(Ok))
            }
            Script::Waits(leave) => {
                let answer = async move {
                    leave.acquire().await.unwrap().forget();
                    Ok(finished(1, Ok("ok")))
                };
                Box::pin(tokio_stream::iter([Ok(started(1))]).chain(futures_util::stream::once(answer)))
            }
            Script::Fails(error) => {
                let events = [started(first_attempt), failed(first_attempt, None), finished(1, Err(error))];
                Box::pin(tokio_stream::iter(events.map(Ok)))
            }
            Script::Breaks => Box::pin(tokio_stream::iter([Ok(started(first_attempt))])),
            Script::Refuses(error) => return Err(phoenix_proto::status_from_error(&error)),
        };
        Ok(Response::new(stream))
    }

    async fn cancel_task(
        &self,
        _: Request<CancelTaskRequest>,
    ) -> Result<Response<CancelTaskResponse>, Status> {
        Err(Status::not_found("no such task"))
    }
}

/// Events of a task that succeeds at once.
pub fn answers(text: &str) -> Vec<ExecuteTaskResponse> {
    vec![started(1), finished(1, Ok(text))]
}

pub fn started(attempt: u32) -> ExecuteTaskResponse {
    let started_at = Some(to_timestamp(Timestamp::now()));
    event(Event::AttemptStarted(AttemptStarted { attempt, started_at, worker: format!("pid {attempt}") }))
}

/// A chunk of the result.
pub fn says(attempt: u32, data: &str) -> ExecuteTaskResponse {
    event(Event::Output(TaskOutput { attempt, data: data.into(), delta_json: String::new() }))
}

/// A call of a model for 12 tokens and 5 billionths of a dollar.
fn a_call() -> ModelCall {
    let tokens = Some(Tokens { input: 7, output: 5, cached_input: 0, reasoning: 0 });
    ModelCall { provider: "openai".into(), model: "m".into(), tokens, cost_nanos: Some(5) }
}

pub fn failed(attempt: u32, retry_in_ms: Option<u64>) -> ExecuteTaskResponse {
    event(Event::AttemptFailed(AttemptFailed {
        model_calls: vec![a_call()],
        is_final: false,
        attempt,
        ended_at: Some(to_timestamp(Timestamp::now())),
        error_class: "backend_failure".into(),
        message: "exited with code 3".into(),
        stderr_tail: "boom".into(),
        retry_in_ms,
    }))
}

pub fn finished(attempts: u32, result: Result<&str, OrchestratorError>) -> ExecuteTaskResponse {
    match result {
        Ok(text) => succeeded(attempts, &ActionResult::text(text)),
        Err(error) => ended(attempts, task_finished::Result::Error(error.into())),
    }
}

/// The end of a task that succeeds with this result.
pub fn succeeded(attempts: u32, result: &ActionResult) -> ExecuteTaskResponse {
    ended(attempts, task_finished::Result::Output(result.into()))
}

fn ended(attempts: u32, result: task_finished::Result) -> ExecuteTaskResponse {
    event(Event::Finished(TaskFinished {
        attempts,
        ended_at: Some(to_timestamp(Timestamp::now())),
        result: Some(result),
        health: None,
    }))
}

fn event(event: Event) -> ExecuteTaskResponse {
    ExecuteTaskResponse { event: Some(event) }
}

/// A health service with fixed answers.
#[derive(Clone, Default)]
pub struct FakeHealth {
    pub agents: Arc<Mutex<Vec<AgentHealth>>>,
    pub probes_granted: Arc<Mutex<u32>>,
    /// Ends the stream, and refuses others.
    pub gone: CancellationToken,
}

pub fn unhealthy(agent: &str, circuit_open_until: Timestamp) -> AgentHealth {
    AgentHealth {
        agent_id: agent.into(),
        health: HealthState::Unhealthy.into(),
        consecutive_failures: 3,
        circuit_open_until: Some(to_timestamp(circuit_open_until)),
        revision: 3,
        ..AgentHealth::default()
    }
}

pub fn isolated(agent: &str) -> AgentHealth {
    let isolation = Isolation {
        actor: "alice".into(),
        reason: "it deletes files".into(),
        at: Some(to_timestamp(Timestamp::now())),
    };
    AgentHealth {
        agent_id: agent.into(),
        health: HealthState::Unhealthy.into(),
        isolation: Some(isolation),
        revision: 3,
        ..AgentHealth::default()
    }
}

#[tonic::async_trait]
impl AgentHealthService for FakeHealth {
    type WatchAgentHealthStream =
        Pin<Box<dyn Stream<Item = Result<WatchAgentHealthResponse, Status>> + Send>>;

    async fn watch_agent_health(
        &self,
        _: Request<WatchAgentHealthRequest>,
    ) -> Result<Response<Self::WatchAgentHealthStream>, Status> {
        if self.gone.is_cancelled() {
            return Err(Status::unavailable("gone"));
        }
        let snapshot = WatchAgentHealthResponse { agents: self.agents.lock().unwrap().clone() };
        let messages = tokio_stream::iter([Ok(snapshot)]).chain(tokio_stream::pending());
        let messages = futures_util::StreamExt::take_until(messages, self.gone.clone().cancelled_owned());
        Ok(Response::new(Box::pin(messages)))
    }

    async fn acquire_probe(
        &self,
        request: Request<AcquireProbeRequest>,
    ) -> Result<Response<AcquireProbeResponse>, Status> {
        let mut granted = self.probes_granted.lock().unwrap();
        *granted += 1;
        let _ = request;
        Ok(Response::new(AcquireProbeResponse {
            granted: *granted == 1,
            lease: if *granted == 1 { "lease-1".into() } else { String::new() },
            refused_until: Some(to_timestamp(Timestamp::now() + Duration::from_secs(30))),
            refused_for_ms: 30_000,
            health: None,
        }))
    }

    async fn list_agent_health(
        &self,
        _: Request<ListAgentHealthRequest>,
    ) -> Result<Response<ListAgentHealthResponse>, Status> {
        Err(Status::unimplemented("not asked by the planner"))
    }

    async fn list_agents(
        &self,
        _: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        Err(Status::unimplemented("not asked by the planner"))
    }

    async fn get_agent_health(
        &self,
        _: Request<GetAgentHealthRequest>,
    ) -> Result<Response<GetAgentHealthResponse>, Status> {
        Err(Status::unimplemented("not asked by the planner"))
    }

    async fn report_outcome(
        &self,
        _: Request<ReportOutcomeRequest>,
    ) -> Result<Response<ReportOutcomeResponse>, Status> {
        Err(Status::unimplemented("not asked by the planner"))
    }

    async fn isolate_agent(
        &self,
        _: Request<IsolateAgentRequest>,
    ) -> Result<Response<IsolateAgentResponse>, Status> {
        Err(Status::unimplemented("not asked by the planner"))
    }

    async fn restore_agent(
        &self,
        _: Request<RestoreAgentRequest>,
    ) -> Result<Response<RestoreAgentResponse>, Status> {
        Err(Status::unimplemented("not asked by the planner"))
    }
}

/// Serves a peer, or only its address.
pub async fn serve_peer<S>(service: S, up: bool, stop: &CancellationToken) -> String
where
    S: Peer,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    if up { serve_on(listener, service, stop.clone()) } else { url_of(&listener) }
}

fn url_of(listener: &TcpListener) -> String {
    format!("http://{}", listener.local_addr().unwrap())
}

/// A service that a server can add.
pub trait Peer:
    tower_service::Service<
        http::Request<tonic::body::Body>,
        Response = http::Response<tonic::body::Body>,
        Error = std::convert::Infallible,
        Future: Send + 'static,
    > + tonic::server::NamedService
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Peer for S where
    S: tower_service::Service<
            http::Request<tonic::body::Body>,
            Response = http::Response<tonic::body::Body>,
            Error = std::convert::Infallible,
            Future: Send + 'static,
        > + tonic::server::NamedService
        + Clone
        + Send
        + Sync
        + 'static
{
}

fn serve_on(listener: TcpListener, service: impl Peer, stop: CancellationToken) -> String {
    let url = url_of(&listener);
    let server = GrpcServer::new(Readiness::needing(&[]), super::token()).add_service(service);
    tokio::spawn(server.serve(listener, stop));
    url
}
