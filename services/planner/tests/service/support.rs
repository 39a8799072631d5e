//! A planner between scripted peers: an executor and a health service.

mod peers;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use phoenix_domain::{
    ActionSpec, AgentCatalog, AgentSpec, CorrelationId, OrchestratorError, TaskId, budget::BudgetSettings,
    plan as domain, planning::PlanningSettings, schema::InputSchema,
};
use phoenix_planner::{PlannerConfig, config::Retention, store::BatchId};
use phoenix_platform::{
    RequestContext, client, postgres::Pooler, readiness::Readiness, service_token::ServiceToken,
};
use phoenix_proto::{
    common,
    health_v1::agent_health_service_server::AgentHealthServiceServer,
    planner::{
        GetPlanRequest, ListPlansRequest, Plan, PlanAndExecuteRequest, PlanAndExecuteResponse, PlanStatus,
        TaskSpec, planner_service_client::PlannerServiceClient,
    },
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::Response;

pub use self::peers::{
    FakeExecutor, FakeHealth, Script, answers, failed, finished, isolated, says, serve_peer, started,
    succeeded, unhealthy,
};

/// Maximum number of plans in flight.
pub const MAX_PLANS: u32 = 64;

/// Upper bound of every wait in a test.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// `takeover_grace` and `agent_grace` in tests.
pub const GRACE: Duration = Duration::from_secs(600);

pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Identity of a batch that `planner` appends directly.
pub fn batch(planner: &str) -> BatchId {
    static SEQUENCE: AtomicU64 = AtomicU64::new(1);
    let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
    BatchId { planner: planner.into(), writer: 0, sequence }
}

/// Lifetime of a key in tests.
pub const KEY_LIFE: Duration = Duration::from_secs(60);

/// A planner between fakes. Everything ends when it is dropped.
pub struct TestPlanner {
    pub executor: FakeExecutor,
    pub client: PlannerServiceClient<client::PeerChannel>,
    channel: client::PeerChannel,
    pub shutdown: CancellationToken,
    /// Error with which the server ended, if it did.
    pub server: Option<JoinHandle<Result<(), String>>>,
    pub database_url: String,
    pub executor_url: String,
    /// Deleted after the planner has ended.
    _dir: Arc<tempfile::TempDir>,
    peers: CancellationToken,
}

impl Drop for TestPlanner {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.peers.cancel();
        self.executor.leave();
    }
}

/// Peers that serve. An executor that does not has served, so that its agents are known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Peers {
    pub executor: bool,
    pub health: bool,
}

pub const ALL_PEERS: Peers = Peers { executor: true, health: true };

/// Token of the planner and its peers.
pub fn token() -> ServiceToken {
    ServiceToken::new("of-the-test").unwrap()
}

impl TestPlanner {
    pub async fn new() -> Self {
        Self::with(FakeExecutor::default(), FakeHealth::default(), ALL_PEERS).await
    }

    pub async fn with(executor: FakeExecutor, health: FakeHealth, peers: Peers) -> Self {
        Self::on(Arc::new(tempfile::tempdir().unwrap()), executor, health, peers).await
    }

    pub async fn on(
        dir: Arc<tempfile::TempDir>,
        executor: FakeExecutor,
        health: FakeHealth,
        peers: Peers,
    ) -> Self {
        Self::configured(dir, executor, health, peers, |_| {}).await
    }

    /// As [`Self::on`], with a changed configuration.
    pub async fn configured(
        dir: Arc<tempfile::TempDir>,
        executor: FakeExecutor,
        health: FakeHealth,
        peers: Peers,
        change: impl FnOnce(&mut PlannerConfig),
    ) -> Self {
        let stop_peers = CancellationToken::new();
        let executor_url = executor.serve(None).await;
        let health_url =
            serve_peer(AgentHealthServiceServer::new(health.clone()), peers.health, &stop_peers).await;
        let database_url = format!("sqlite://{}", dir.path().join("planner.db").display());
        let mut config = PlannerConfig {
            default_agent: Some("model".parse().unwrap()),
            agent_grace: GRACE,
            max_plans_in_flight: MAX_PLANS,
            takeover_grace: GRACE,
            database_url: database_url.clone().into(),
            database_pooler: Pooler::default(),
            executor_url: executor_url.clone(),
            health_url,
            advertise_url: None,
            identity: token().into(),
            budgets: BudgetSettings::default(),
            planning: PlanningSettings::default(),
            retention: Retention { plans: Some(30 * DAY), keys: KEY_LIFE },
            readiness: Readiness::starting(),
        };
        change(&mut config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let server = tokio::spawn(async move {
            phoenix_planner::serve(config, listener, stop).await.map_err(|error| error.to_string())
        });
        let channel = client::channel(&url, token()).unwrap();
        if peers.health {
            eventually(async || client::is_serving(channel.clone(), PATIENCE).await).await;
        }
        if !peers.executor {
            executor.leave();
            eventually(async || !client::is_serving(channel.clone(), PATIENCE).await).await;
        }
        let client = PlannerServiceClient::new(channel.clone());
        Self {
            executor,
            client,
            channel,
            shutdown,
            server: Some(server),
            database_url,
            executor_url,
            _dir: dir,
            peers: stop_peers,
        }
    }

    /// A planner that never reaches its executor.
    pub async fn unreached(dir: Arc<tempfile::TempDir>) -> Self {
        let (executor, health) = (FakeExecutor::default(), FakeHealth::default());
        let peers = Peers { executor: true, health: false };
        Self::configured(dir, executor, health, peers, |config| {
            config.executor_url = config.health_url.clone();
        })
        .await
    }

    /// Whether the planner reports that it is serving.
    pub async fn is_serving(&self) -> bool {
        client::is_serving(self.channel.clone(), PATIENCE).await
    }

    pub fn script(&self, agent: &str, script: Script) {
        self.executor.scripts.lock().unwrap().insert(agent.into(), script);
    }

    pub async fn chat(&self, message: &str) -> Result<PlanAndExecuteResponse, OrchestratorError> {
        self.send(RequestContext::new(CorrelationId::generate()), message, None).await
    }

    pub async fn send(
        &self,
        context: RequestContext,
        message: &str,
        agent: Option<&str>,
    ) -> Result<PlanAndExecuteResponse, OrchestratorError> {
        let request = PlanAndExecuteRequest {
            message: message.into(),
            context: "the context".into(),
            agent: agent.map(str::to_owned),
            ..PlanAndExecuteRequest::default()
        };
        let answer = self.client.clone().plan_and_execute(context.request(request)).await;
        answer.map(Response::into_inner).map_err(|status| phoenix_proto::error_from_status(&status))
    }

    pub async fn plan(&self, plan_id: &str) -> Plan {
        self.find_plan(plan_id).await.unwrap()
    }

    /// As [`Self::plan`], for a plan that may not exist.
    pub async fn find_plan(&self, plan_id: &str) -> Result<Plan, OrchestratorError> {
        let request = GetPlanRequest { plan_id: plan_id.into() };
        let answer = self.client.clone().get_plan(request).await;
        answer
            .map(|answer| answer.into_inner().plan.unwrap())
            .map_err(|status| phoenix_proto::error_from_status(&status))
    }

    /// Waits for the end of a plan.
    pub async fn ended(&self, plan_id: &str) -> Plan {
        eventually(async || self.plan(plan_id).await.ended_at.is_some()).await;
        self.plan(plan_id).await
    }

    pub async fn plans_of(&self, correlation_id: CorrelationId) -> Vec<Plan> {
        let request = ListPlansRequest {
            correlation_id: Some(correlation_id.to_string()),
            ..ListPlansRequest::default()
        };
        self.client.clone().list_plans(request).await.unwrap().into_inner().plans
    }

    pub async fn stop(&mut self) {
        self.shutdown.cancel();
        if let Some(server) = self.server.take() {
            tokio::time::timeout(PATIENCE, server).await.unwrap().unwrap().unwrap();
        }
    }
}

/// `single` has a capacity of one, `narrow` of one running and one queued, `wide` of thousands, the others of hundreds.
pub fn catalog() -> AgentCatalog {
    let agent = |name: &str, route: &[&str]| {
        let mut spec = AgentSpec::new(name.parse().unwrap(), vec!["unused".into()]);
        spec.route = route.iter().map(|phrase| (*phrase).to_owned()).collect();
        spec
    };
    let schema = serde_json::json!({
        "properties": {"title": {"type": "string", "maxLength": 10}}, "required": ["title"], "additionalProperties": false
    });
    let write = ActionSpec { input_schema: Some(InputSchema::new(schema).unwrap()), ..ActionSpec::default() };
    let terse = serde_json::json!({"properties": {"message": {"maxLength": 10}}});
    let chat = ActionSpec { input_schema: Some(InputSchema::new(terse).unwrap()), ..ActionSpec::default() };
    let mut strict = agent("strict", &[]);
    strict.actions = [("write".to_owned(), write), ("chat".to_owned(), chat)].into();
    let limited = |name: &str, max_queue| AgentSpec { max_concurrency: 1, max_queue, ..agent(name, &[]) };
    AgentCatalog::new(
        [
            agent("model", &[]),
            agent("git_agent", &["git status"]),
            agent("notes", &["notes"]),
            limited("single", 0),
            limited("narrow", 1),
            limited("wide", 5000),
            strict,
        ],
        "model".parse().unwrap(),
    )
}

/// A plan that an earlier planner accepted at `at`.
pub fn new_plan(at: Timestamp, agents: &[&str]) -> domain::Plan {
    let tasks = agents.iter().enumerate().map(|(ordinal, agent)| domain::Task {
        task_id: TaskId::generate(),
        spec: domain::TaskSpec {
            key: format!("t{ordinal}"),
            agent: agent.parse().unwrap(),
            action: "do".into(),
            payload: phoenix_domain::json::Object::new(),
            depends_on: Vec::new(),
            on_failure: domain::OnFailure::Fail,
            start: domain::StartConditions::default(),
        },
        status: domain::TaskStatus::Queued,
        queued_at: at,
        dispatched_at: None,
        ended_at: None,
        output: None,
        error: None,
        approval: None,
        pause: None,
        attempts: Vec::new(),
    });
    let millis = u64::try_from(at.as_millisecond()).unwrap();
    let random = uuid::Uuid::new_v4().into_bytes();
    let plan_id = uuid::Builder::from_unix_timestamp_millis(millis, random[..10].try_into().unwrap());
    domain::Plan {
        plan_id: plan_id.into_uuid().into(),
        correlation_id: CorrelationId::generate(),
        kind: domain::PlanKind::Graph,
        status: domain::PlanStatus::Pending,
        created_at: at,
        deadline_at: None,
        ended_at: None,
        context: String::new(),
        output: None,
        error: None,
        redrive_of: None,
        redriven_as: None,
        budget: phoenix_domain::budget::Limits::NONE,
        tasks: tasks.collect(),
    }
}

/// A task of a graph.
pub fn task(key: &str, agent: &str, input: &str, depends_on: &[&str]) -> TaskSpec {
    TaskSpec {
        key: key.into(),
        agent: agent.into(),
        action: "do".into(),
        input_json: input.into(),
        depends_on: depends_on.iter().map(|key| (*key).to_owned()).collect(),
        continue_on_failure: false,
        approval: None,
        not_before: None,
        delay_ms: 0,
    }
}

pub fn graph(tasks: Vec<TaskSpec>) -> PlanAndExecuteRequest {
    PlanAndExecuteRequest { tasks, ..Default::default() }
}

/// Waits until `condition` holds.
pub async fn eventually(condition: impl AsyncFn() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the condition holds in time");
}

pub fn status_of(plan: &Plan) -> PlanStatus {
    plan.status()
}

pub fn error_of(plan: &Plan) -> &common::Error {
    plan.error.as_ref().expect("the plan has an error")
}
