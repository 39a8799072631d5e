//! A running service and helpers for calling it.

use std::{path::Path, time::Duration};

use jiff::Timestamp;
use phoenix_domain::{
    AgentSpec, OrchestratorError,
    health::{BreakerPolicy, Outcome},
};
use phoenix_health::{HealthConfig, ServeError, serve};
use phoenix_platform::{
    client::{self, PeerChannel},
    database_url::DatabaseUrl,
    postgres::Pooler,
    readiness::Readiness,
    service_token::ServiceToken,
};
use phoenix_proto::{
    HealthSnapshot, common, error_from_status,
    health_v1::{
        self, AcquireProbeRequest, AcquireProbeResponse, GetAgentHealthRequest, ListAgentHealthRequest,
        ReportOutcomeRequest, agent_health_service_client::AgentHealthServiceClient,
    },
    to_timestamp,
};
use phoenix_testkit_postgres::Server;
use sqlx::{Connection, PgConnection, SqliteConnection};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::executor::FakeExecutor;

/// Timeout of every wait, never reached on a slow machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A cooldown that does not end during a test.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// The database of one test.
#[derive(Debug)]
pub(crate) enum Place {
    /// A file of SQLite in this folder.
    Folder(TempDir),
    /// A database of PostgreSQL with this URL.
    Server(String),
}

pub(crate) struct Service {
    pub(crate) client: AgentHealthServiceClient<PeerChannel>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), ServeError>>,
}

/// An agent whose circuit opens after three failures, for `cooldown`.
pub(crate) fn agent(name: &str, cooldown: Duration) -> AgentSpec {
    let breaker = BreakerPolicy { failure_threshold: 3, cooldown, ..BreakerPolicy::default() };
    AgentSpec { breaker, ..AgentSpec::new(name.parse().unwrap(), vec!["true".into()]) }
}

/// Service token of the service and its callers.
pub(crate) fn token() -> ServiceToken {
    ServiceToken::new("of-the-test").unwrap()
}

/// URL of the database in `folder`.
pub(crate) fn file_url(folder: &Path) -> String {
    format!("sqlite://{}", folder.join("health.db").display())
}

impl Place {
    /// A new file.
    pub(crate) fn file() -> Self {
        Self::Folder(tempfile::tempdir().unwrap())
    }

    /// A new database of each kind that this machine has.
    pub(crate) async fn each() -> Vec<Self> {
        let mut places = vec![Self::file()];
        if let Some(server) = Server::shared().await {
            places.push(Self::Server(server.database().await));
        }
        places
    }

    /// Number of rows of `agent` in `table`.
    pub(crate) async fn count(&self, table: &str, agent: &str) -> i64 {
        let sql = |schema| {
            sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {schema}{table} WHERE agent_id = '{agent}'"))
        };
        match self {
            Self::Folder(_) => {
                let mut connection = SqliteConnection::connect(&self.url()).await.unwrap();
                sqlx::query_scalar(sql("")).fetch_one(&mut connection).await.unwrap()
            }
            Self::Server(url) => {
                let mut connection = PgConnection::connect(url).await.unwrap();
                sqlx::query_scalar(sql("phoenix_health.")).fetch_one(&mut connection).await.unwrap()
            }
        }
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Folder(folder) => file_url(folder.path()),
            Self::Server(url) => url.clone(),
        }
    }
}

/// Settings for a new executor that offers `agents`.
pub(crate) fn config(agents: impl IntoIterator<Item = AgentSpec>, url: String) -> HealthConfig {
    HealthConfig {
        executor_url: FakeExecutor::start(agents).url,
        database_url: DatabaseUrl::from(url),
        database_pooler: Pooler::default(),
        identity: token().into(),
        readiness: Readiness::starting(),
    }
}

/// The current time, in the precision of the service.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_microsecond(Timestamp::now().as_microsecond()).unwrap()
}

/// A time after which every [`LONG`] cooldown is over.
pub(crate) fn long_ago() -> Timestamp {
    now() - 100 * LONG
}

impl Service {
    pub(crate) async fn start(agents: impl IntoIterator<Item = AgentSpec>, place: &Place) -> Self {
        Self::start_with(config(agents, place.url())).await
    }

    pub(crate) async fn start_with(config: HealthConfig) -> Self {
        let service = Self::spawn(config).await;
        // It answers when its database is open.
        let answers = async {
            while service.client.clone().list_agent_health(ListAgentHealthRequest {}).await.is_err() {
                assert!(!service.task.is_finished(), "the service stopped");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LIMIT, answers).await.expect("the service answers");
        service
    }

    /// A service that may not answer.
    pub(crate) async fn spawn(config: HealthConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve(config, listener, shutdown.clone()));
        let client = AgentHealthServiceClient::new(client::channel(&url, token()).unwrap());
        Self { client, shutdown, task }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(LIMIT, self.task).await.expect("the service stops").unwrap().unwrap();
    }

    pub(crate) async fn report(
        &self,
        agent: &str,
        outcome: Outcome,
        ended_at: Timestamp,
        probe_lease: &str,
    ) -> Result<HealthSnapshot, OrchestratorError> {
        self.report_of("", agent, outcome, ended_at, probe_lease).await
    }

    /// Reports an attempt of `task`.
    pub(crate) async fn report_of(
        &self,
        task: &str,
        agent: &str,
        outcome: Outcome,
        ended_at: Timestamp,
        probe_lease: &str,
    ) -> Result<HealthSnapshot, OrchestratorError> {
        self.send(ReportOutcomeRequest {
            agent_id: agent.into(),
            outcome: health_v1::Outcome::from(outcome).into(),
            ended_at: Some(to_timestamp(ended_at)),
            probe_lease: probe_lease.into(),
            task_id: task.into(),
            ..ReportOutcomeRequest::default()
        })
        .await
    }

    /// Sends a report.
    pub(crate) async fn send(
        &self,
        request: ReportOutcomeRequest,
    ) -> Result<HealthSnapshot, OrchestratorError> {
        let answer = self.client.clone().report_outcome(request).await;
        answer.map(|answer| decode(answer.into_inner().health)).map_err(|status| error_from_status(&status))
    }

    /// Reports that an attempt ended now.
    pub(crate) async fn ended(&self, agent: &str, outcome: Outcome) -> HealthSnapshot {
        self.report(agent, outcome, now(), "").await.unwrap()
    }

    /// Opens the circuit of `agent` with failures so old that a probe is due at once.
    pub(crate) async fn open_long_ago(&self, agent: &str) {
        for _ in 0..3 {
            self.report(agent, Outcome::Failure, long_ago(), "").await.unwrap();
        }
    }

    pub(crate) async fn probe(
        &self,
        agent: &str,
        lease_ms: u64,
    ) -> Result<AcquireProbeResponse, OrchestratorError> {
        let request = AcquireProbeRequest { agent_id: agent.into(), lease_ms };
        let answer = self.client.clone().acquire_probe(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| error_from_status(&status))
    }

    pub(crate) async fn get(&self, agent: &str) -> Result<HealthSnapshot, OrchestratorError> {
        let request = GetAgentHealthRequest { agent_id: agent.into() };
        let answer = self.client.clone().get_agent_health(request).await;
        answer.map(|answer| decode(answer.into_inner().health)).map_err(|status| error_from_status(&status))
    }

    pub(crate) async fn list(&self) -> Vec<HealthSnapshot> {
        let answer = self.client.clone().list_agent_health(ListAgentHealthRequest {}).await.unwrap();
        answer.into_inner().agents.into_iter().map(|health| decode(Some(health))).collect()
    }
}

pub(crate) fn decode(health: Option<common::AgentHealth>) -> HealthSnapshot {
    health.expect("every answer contains the agent's health").try_into().unwrap()
}
