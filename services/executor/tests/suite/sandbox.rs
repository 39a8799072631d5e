//! One executor, its agents, and the health service it reports to.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use phoenix_domain::{
    AgentCatalog, AgentMode, AgentSpec, CorrelationId, OrchestratorError, PlanId, TaskId, llm::LlmSettings,
    retry::RetryPolicy,
};
use phoenix_executor::{ExecutorConfig, ServeError, serve};
use phoenix_platform::{
    RequestContext, client, client::PeerChannel, readiness::Readiness, service_token::ServiceToken,
};
use phoenix_proto::{
    common,
    executor::{
        AttemptFailed, AttemptStarted, CancelTaskRequest, ExecuteTaskRequest, ExecuteTaskResponse,
        TaskFinished, TaskOutput, TaskProgress, execute_task_response::Event,
        executor_service_client::ExecutorServiceClient, task_finished,
    },
    health_v1::{
        self, AcquireProbeRequest, AcquireProbeResponse, GetAgentHealthRequest, GetAgentHealthResponse,
        IsolateAgentRequest, IsolateAgentResponse, ListAgentHealthRequest, ListAgentHealthResponse,
        ListAgentsRequest, ListAgentsResponse, ReportOutcomeRequest, ReportOutcomeResponse,
        RestoreAgentRequest, RestoreAgentResponse, WatchAgentHealthRequest, WatchAgentHealthResponse,
        agent_health_service_server::{AgentHealthService, AgentHealthServiceServer},
    },
};
use serde_json::Value;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_phoenix-executor-test-program");

/// Timeout of every wait, never reached on a slow machine.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// An agent with this behaviour and one attempt.
pub fn agent(behaviour: &[&str]) -> AgentSpec {
    let command = [PROGRAM, "agent"].iter().chain(behaviour).map(|part| (*part).to_owned()).collect();
    let mut spec = AgentSpec::new("test_agent".parse().unwrap(), command);
    spec.env = vec!["PATH".into(), "TEST_TAG".into()];
    spec.retry = RetryPolicy { max_attempts: 1, ..quick_retries() };
    spec.mode = AgentMode::Oneshot;
    spec
}

pub fn quick_retries() -> RetryPolicy {
    RetryPolicy {
        max_attempts: 3,
        initial_backoff: Duration::from_millis(5),
        max_backoff: Duration::from_millis(20),
    }
}

pub struct Sandbox {
    pub client: ExecutorServiceClient<PeerChannel>,
    pub health: FakeHealth,
    pub shutdown: CancellationToken,
    pub served: JoinHandle<Result<(), ServeError>>,
    pub tag: String,
    agent: String,
}

impl Sandbox {
    pub async fn start(spec: AgentSpec) -> Self {
        Self::start_with(spec, |_| ()).await
    }

    pub async fn start_with(spec: AgentSpec, change: impl FnOnce(&mut ExecutorConfig)) -> Self {
        let health = FakeHealth::start().await;
        let tag = Uuid::new_v4().to_string();
        let environment = [
            ("PATH".to_owned(), std::env::var("PATH").unwrap()),
            ("TEST_TAG".to_owned(), tag.clone()),
            ("SECRET_OF_THE_EXECUTOR".to_owned(), "not for agents".to_owned()),
        ];
        let agent = spec.name.to_string();
        let mut config = ExecutorConfig {
            agents: AgentCatalog::new([spec.clone()], spec.name),
            labels: BTreeMap::new(),
            agent_nice: 10,
            llm: LlmSettings::default(),
            health_url: health.url.clone(),
            identity: token().into(),
            environment: BTreeMap::from(environment),
            executable: None,
            guard: None,
            adopts_orphans: false,
            readiness: Readiness::starting(),
        };
        change(&mut config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = client_of(&format!("http://{}", listener.local_addr().unwrap()));
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(serve(config, listener, shutdown.clone()));
        Self { client, health, shutdown, served, tag, agent }
    }

    pub fn request(&self) -> ExecuteTaskRequest {
        ExecuteTaskRequest {
            plan_id: PlanId::generate().to_string(),
            task_id: TaskId::generate().to_string(),
            agent: self.agent.clone(),
            action: "chat".into(),
            context: "a test".into(),
            payload_json: r#"{"message":"hello"}"#.into(),
            idempotency_key: "the key".into(),
            first_attempt: 0,
            probe_lease: String::new(),
            earlier_attempts: None,
            with_output: true,
            reserved_attempts: 0,
        }
    }

    /// Runs a task to its end.
    pub async fn run(&self) -> TaskOutcome {
        self.run_request(self.request()).await.unwrap()
    }

    pub async fn run_request(&self, request: ExecuteTaskRequest) -> Result<TaskOutcome, Status> {
        let context = RequestContext::new(CorrelationId::generate());
        self.run_in(&context, request).await
    }

    pub async fn run_in(
        &self,
        context: &RequestContext,
        request: ExecuteTaskRequest,
    ) -> Result<TaskOutcome, Status> {
        TaskOutcome::collect(self.start_task(context, request).await?).await
    }

    pub async fn start_task(
        &self,
        context: &RequestContext,
        request: ExecuteTaskRequest,
    ) -> Result<Streaming<ExecuteTaskResponse>, Status> {
        let call = async { self.client.clone().execute_task(context.request(request)).await };
        timeout(TIMEOUT, call).await.expect("an answer").map(Response::into_inner)
    }

    /// Starts a task and waits until its agent runs.
    pub async fn start_running(&self, request: ExecuteTaskRequest) -> Streaming<ExecuteTaskResponse> {
        let context = RequestContext::new(CorrelationId::generate());
        let mut events = self.start_task(&context, request).await.unwrap();
        let first = timeout(TIMEOUT, events.message()).await.unwrap().unwrap().unwrap();
        assert!(matches!(first.event, Some(Event::AttemptStarted(_))), "{first:?}");
        events
    }

    pub async fn cancel(&self, task_id: &str) -> Result<(), Status> {
        let request = CancelTaskRequest { task_id: task_id.into(), reason: "a test".into() };
        self.client.clone().cancel_task(request).await.map(drop)
    }

    /// Stops the executor and checks that no process is left.
    pub async fn stop(self) {
        self.shutdown.cancel();
        timeout(TIMEOUT, self.served).await.expect("the executor stops").unwrap().unwrap();
        assert_eq!(processes(&self.tag), Vec::<i32>::new(), "processes are left");
    }

    /// Waits until no process of any agent is left.
    pub async fn no_process_left(&self) {
        until("no process is left", || processes(&self.tag).is_empty()).await;
    }
}

/// Service token of the executor and its callers; `program.rs` uses the same.
pub fn token() -> ServiceToken {
    ServiceToken::new("of-the-test").unwrap()
}

pub fn client_of(url: &str) -> ExecutorServiceClient<PeerChannel> {
    ExecutorServiceClient::new(client::channel(url, token()).unwrap()).max_decoding_message_size(64 << 20)
}

/// Waits for `condition`.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < TIMEOUT, "timed out: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The running processes that carry the tag.
pub fn processes(tag: &str) -> Vec<i32> {
    let marked = |pid: &i32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| variable == format!("TEST_TAG={tag}").as_bytes())
    };
    all_processes().filter(marked).collect()
}

pub fn all_processes() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Every event of one task.
#[derive(Debug)]
pub struct TaskOutcome {
    pub started: Vec<AttemptStarted>,
    pub failed: Vec<AttemptFailed>,
    pub output: Vec<TaskOutput>,
    pub progress: Vec<TaskProgress>,
    pub finished: TaskFinished,
}

impl TaskOutcome {
    pub async fn collect(mut events: Streaming<ExecuteTaskResponse>) -> Result<Self, Status> {
        let (mut started, mut failed) = (Vec::new(), Vec::new());
        let (mut output, mut progress) = (Vec::new(), Vec::new());
        loop {
            let event = timeout(TIMEOUT, events.message()).await.expect("an event")?;
            match event.expect("the task finishes").event.unwrap() {
                Event::AttemptStarted(event) => started.push(event),
                Event::AttemptFailed(event) => failed.push(event),
                Event::Output(event) => output.push(event),
                Event::Progress(event) => progress.push(event),
                Event::Finished(finished) => {
                    assert_eq!(events.message().await.unwrap(), None, "no event follows the end");
                    return Ok(Self { started, failed, output, progress, finished });
                }
            }
        }
    }

    /// The text of all chunks.
    pub fn said(&self) -> String {
        self.output.iter().map(|output| output.data.as_str()).collect()
    }

    pub fn error(&self) -> OrchestratorError {
        match self.finished.result.clone().unwrap() {
            task_finished::Result::Error(error) => error.into(),
            task_finished::Result::Output(output) => panic!("it succeeded: {output:?}"),
        }
    }

    /// Data of the result.
    pub fn data(&self) -> Value {
        match self.finished.result.clone().unwrap() {
            task_finished::Result::Output(output) => serde_json::from_str(&output.data_json).unwrap(),
            task_finished::Result::Error(error) => panic!("it failed: {error:?}"),
        }
    }
}

/// A health service that records its reports.
#[derive(Clone)]
pub struct FakeHealth {
    pub url: String,
    reports: Arc<Mutex<Vec<ReportOutcomeRequest>>>,
    frozen: Arc<watch::Sender<bool>>,
}

impl FakeHealth {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let health = Self { url, reports: Arc::default(), frozen: Arc::new(watch::Sender::new(false)) };
        let server = tonic::transport::Server::builder()
            .add_service(AgentHealthServiceServer::new(health.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        health
    }

    /// Outcomes and leases, in order.
    pub fn reports(&self) -> Vec<(health_v1::Outcome, String)> {
        let reports = self.reports.lock().unwrap();
        reports.iter().map(|report| (report.outcome(), report.probe_lease.clone())).collect()
    }

    /// The tasks of the reports, in order.
    pub fn tasks(&self) -> Vec<String> {
        self.reports.lock().unwrap().iter().map(|report| report.task_id.clone()).collect()
    }

    /// Makes calls hang, or answers them again.
    pub fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }
}

#[tonic::async_trait]
impl AgentHealthService for FakeHealth {
    type WatchAgentHealthStream = tokio_stream::Empty<Result<WatchAgentHealthResponse, Status>>;

    async fn report_outcome(
        &self,
        request: Request<ReportOutcomeRequest>,
    ) -> Result<Response<ReportOutcomeResponse>, Status> {
        self.frozen.subscribe().wait_for(|frozen| !frozen).await.unwrap();
        let report = request.into_inner();
        let mut reports = self.reports.lock().unwrap();
        let health = common::AgentHealth {
            agent_id: report.agent_id.clone(),
            health: common::HealthState::Degraded.into(),
            revision: reports.len() as u64 + 1,
            ..Default::default()
        };
        reports.push(report);
        Ok(Response::new(ReportOutcomeResponse { health: Some(health) }))
    }

    async fn list_agent_health(
        &self,
        _: Request<ListAgentHealthRequest>,
    ) -> Result<Response<ListAgentHealthResponse>, Status> {
        Err(Status::unimplemented("not called by the executor"))
    }

    async fn list_agents(
        &self,
        _: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        Err(Status::unimplemented("not called by the executor"))
    }

    async fn get_agent_health(
        &self,
        _: Request<GetAgentHealthRequest>,
    ) -> Result<Response<GetAgentHealthResponse>, Status> {
        Err(Status::unimplemented("not called by the executor"))
    }

    async fn watch_agent_health(
        &self,
        _: Request<WatchAgentHealthRequest>,
    ) -> Result<Response<Self::WatchAgentHealthStream>, Status> {
        Err(Status::unimplemented("not called by the executor"))
    }

    async fn acquire_probe(
        &self,
        _: Request<AcquireProbeRequest>,
    ) -> Result<Response<AcquireProbeResponse>, Status> {
        Err(Status::unimplemented("not called by the executor"))
    }

    async fn isolate_agent(
        &self,
        _: Request<IsolateAgentRequest>,
    ) -> Result<Response<IsolateAgentResponse>, Status> {
        Err(Status::unimplemented("not called by the executor"))
    }

    async fn restore_agent(
        &self,
        _: Request<RestoreAgentRequest>,
    ) -> Result<Response<RestoreAgentResponse>, Status> {
        Err(Status::unimplemented("not called by the executor"))
    }
}
