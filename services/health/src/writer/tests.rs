//! Storage failures: a file that another process locks, a file that cannot grow.

use jiff::Timestamp;
use phoenix_domain::{
    AgentSpec, OrchestratorErrorCode,
    health::{BreakerPolicy, Outcome},
};
use phoenix_platform::{client, postgres::Pooler, service_token::ServiceToken};
use sqlx::{Connection, SqliteConnection};
use tracing::Span;

use super::*;
use crate::{
    change::{AttemptEnd, Change, Ended},
    health::Health,
};

/// A service without its gRPC server, on its own file.
struct Fixture {
    health: Health,
    readiness: Readiness,
    url: String,
    stop: CancellationToken,
    writer: tokio::task::JoinHandle<Result<(), StoreError>>,
    _folder: tempfile::TempDir,
}

impl Fixture {
    /// Starts the service; `pragma` makes its storage fail.
    async fn start(agents: usize, pragma: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("health.db").display());
        let store = Store::open(&url.clone().into(), Pooler::default()).await.unwrap();
        let Store::Sqlite(file) = &store else { unreachable!("a file") };
        file.execute(pragma).await;
        // Failures of one agent are one run of its window, so that its row does not grow.
        let breaker =
            BreakerPolicy { window: Duration::from_secs(u32::MAX.into()), ..BreakerPolicy::default() };
        let agents = (0..agents).map(|n| AgentSpec { breaker, ..AgentSpec::new(name(n), Vec::new()) });
        let catalog = AgentCatalog::new(agents, name(0));
        let readiness = Readiness::needing(&[STORE_CONDITION]);
        let token = ServiceToken::new("of-the-test").unwrap();
        // No call is made.
        let executor = client::channel("http://127.0.0.1:1", token).unwrap();
        let agents = CatalogView::fixed(&catalog, executor);
        let (health, writer) = Health::start(agents, store, readiness.clone());
        let stop = CancellationToken::new();
        let writer = tokio::spawn(writer.run(stop.clone()));
        Self { health, readiness, url, stop, writer, _folder: folder }
    }

    async fn fail(&self, agent: usize) -> Result<u32, OrchestratorError> {
        let reported = self
            .health
            .report(name(agent), AttemptEnd::of(Outcome::Failure, Ended::Before(Duration::ZERO)))
            .await;
        reported.map(|snapshot| snapshot.consecutive_failures)
    }

    async fn stop(self) {
        self.stop.cancel();
        self.writer.await.unwrap().unwrap();
    }
}

/// Long names fill pages sooner.
fn name(n: usize) -> AgentName {
    format!("agent-{n:0>50}").parse().unwrap()
}

#[tokio::test]
async fn locked_file_rejects_changes_and_serves_reads() {
    let service = Fixture::start(1, "PRAGMA busy_timeout = 0").await;
    assert_eq!(service.fail(0).await, Ok(1));

    let mut other = SqliteConnection::connect(&service.url).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let refused = service.fail(0).await.unwrap_err();
    assert_eq!(refused.code, OrchestratorErrorCode::Unavailable);
    assert!(refused.retry_after.is_some());
    assert_eq!(service.readiness.unmet(), [STORE_CONDITION]);
    assert_eq!(service.health.get(&name(0)).await.unwrap().snapshot.consecutive_failures, 1);

    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    let ready = async {
        while !service.readiness.is_ready() {
            // Other work of the writer delays its next attempt by no more than it takes.
            service.health.get(&name(0)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ready).await.expect("the service becomes ready again");
    assert_eq!(service.fail(0).await, Ok(2), "the rejected report left no trace");
    service.stop().await;
}

#[tokio::test]
async fn full_disk_rejects_what_does_not_fit_and_keeps_the_rest() {
    const AGENTS: usize = 1000;
    let service = Fixture::start(AGENTS, "PRAGMA max_page_count = 8").await;
    let mut stored = 0;
    let refused = loop {
        assert!(stored < AGENTS, "eight pages do not hold {AGENTS} agents");
        match service.fail(stored).await {
            Ok(failures) => assert_eq!(failures, 1),
            Err(error) => break error,
        }
        stored += 1;
    };
    assert_eq!(refused.code, OrchestratorErrorCode::Unavailable);
    assert_eq!(service.readiness.unmet(), [STORE_CONDITION]);
    assert_eq!(
        service.health.get(&name(stored)).await.unwrap().snapshot.revision,
        0,
        "the rejected report is not visible"
    );
    assert_eq!(service.health.list().await.unwrap().len(), AGENTS);
    // An existing row needs no more space, and the failed transaction left nothing behind.
    assert_eq!(service.fail(0).await, Ok(2));
    assert!(service.readiness.is_ready());
    service.stop().await;
}

#[test]
fn probe_is_not_granted_to_a_caller_that_has_left() {
    let policy = BreakerPolicy { failure_threshold: 1, cooldown: Duration::ZERO, ..Default::default() };
    let spec = AgentSpec { breaker: policy, ..AgentSpec::new(name(0), Vec::new()) };
    let catalog = AgentCatalog::new([spec], name(0));
    let probe = || Change::Probe { lease: uuid::Uuid::new_v4(), lease_time: Duration::from_secs(60) };
    let failure = Change::Report(AttemptEnd::of(Outcome::Failure, Ended::At(Timestamp::UNIX_EPOCH)));
    let (failed, _failed) = command(failure);
    let (gone, receiver) = command(probe());
    drop(receiver);
    let (waiting, _waiting) = command(probe());
    let effects = apply(&catalog, &[failed, gone, waiting], &mut States::new(), Timestamp::now());
    assert!(!effects[1].is_change && effects[1].after.probe.is_none());
    assert!(effects[2].after.probe.is_some());
}

type Answer = oneshot::Receiver<Result<Applied, OrchestratorError>>;

fn command(change: Change) -> (Command, Answer) {
    let (reply, answer) = oneshot::channel();
    (Command { agent: name(0), change, span: Span::none(), reply }, answer)
}
