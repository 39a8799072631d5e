//! Disks that do not work: a file that another process holds, a file that can't grow.

use phoenix_domain::{AgentSpec, OrchestratorErrorCode, health::Outcome};
use phoenix_platform::sqlite::{self, Durability};
use sqlx::{Connection, SqliteConnection};

use super::*;
use crate::{health::Health, store::MIGRATOR};

/// A service without its gRPC server, on a file of its own.
struct Bench {
    health: Health,
    readiness: Readiness,
    url: String,
    stop: CancellationToken,
    writer: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Bench {
    /// `pragma` makes the disk a bad one.
    async fn start(agents: usize, pragma: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("health.db").display());
        let pool = sqlite::open(&url, Durability::Process, 1, &MIGRATOR).await.unwrap();
        sqlx::query(pragma).execute(&pool).await.unwrap();
        let agents = (0..agents).map(|n| AgentSpec::new(name(n), Vec::new()));
        let catalog = AgentCatalog::new(agents, name(0));
        let readiness = Readiness::needing(&[STORE_CONDITION]);
        let (health, writer) = Health::start(catalog, Store::new(pool), readiness.clone()).await.unwrap();
        let stop = CancellationToken::new();
        let writer = tokio::spawn(writer.run(stop.clone()));
        Self { health, readiness, url, stop, writer, _folder: folder }
    }

    async fn fail(&self, agent: usize) -> Result<u32, OrchestratorError> {
        let reported = self.health.report(name(agent), Outcome::Failure, None, Timestamp::now(), None).await;
        reported.map(|snapshot| snapshot.consecutive_failures)
    }

    async fn stop(self) {
        self.stop.cancel();
        self.writer.await.unwrap();
    }
}

/// Long names fill pages sooner.
fn name(n: usize) -> AgentName {
    format!("agent-{n:0>50}").parse().unwrap()
}

#[tokio::test]
async fn while_another_process_holds_the_file_changes_are_refused_and_reads_go_on() {
    let bench = Bench::start(1, "PRAGMA busy_timeout = 0").await;
    assert_eq!(bench.fail(0).await, Ok(1));

    let mut other = SqliteConnection::connect(&bench.url).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let refused = bench.fail(0).await.unwrap_err();
    assert_eq!(refused.code, OrchestratorErrorCode::Unavailable);
    assert!(refused.retry_after.is_some());
    assert_eq!(bench.readiness.unmet(), [STORE_CONDITION]);
    assert_eq!(bench.health.get(&name(0)).unwrap().consecutive_failures, 1);

    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    let ready = async {
        while !bench.readiness.is_ready() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ready).await.expect("it finds out by itself");
    assert_eq!(bench.fail(0).await, Ok(2), "the refused report left no trace");
    bench.stop().await;
}

#[tokio::test]
async fn a_full_disk_refuses_what_does_not_fit_and_keeps_what_does() {
    const AGENTS: usize = 1000;
    let bench = Bench::start(AGENTS, "PRAGMA max_page_count = 8").await;
    let mut stored = 0;
    let refused = loop {
        assert!(stored < AGENTS, "eight pages do not hold {AGENTS} agents");
        match bench.fail(stored).await {
            Ok(failures) => assert_eq!(failures, 1),
            Err(error) => break error,
        }
        stored += 1;
    };
    assert_eq!(refused.code, OrchestratorErrorCode::Unavailable);
    assert_eq!(bench.readiness.unmet(), [STORE_CONDITION]);
    assert_eq!(
        bench.health.get(&name(stored)).unwrap().revision,
        0,
        "nothing of the refused report is shown"
    );
    assert_eq!(bench.health.list().len(), AGENTS);
    // A row that is there already needs no more room, and the failed transaction left nothing behind.
    assert_eq!(bench.fail(0).await, Ok(2));
    assert!(bench.readiness.is_ready());
    bench.stop().await;
}

#[test]
fn a_probe_is_not_given_to_a_caller_who_has_gone() {
    let policy = phoenix_domain::health::BreakerPolicy { failure_threshold: 1, cooldown: Duration::ZERO };
    let spec = AgentSpec { breaker: policy, ..AgentSpec::new(name(0), Vec::new()) };
    let catalog = AgentCatalog::new([spec], name(0));
    let probe = || Change::Probe {
        lease: uuid::Uuid::new_v4(),
        asked_at: Timestamp::now(),
        lease_time: Duration::from_secs(60),
    };
    let failure = Change::Report {
        outcome: Outcome::Failure,
        task: None,
        ended_at: Timestamp::UNIX_EPOCH,
        lease: None,
    };
    let (failed, _failed) = command(failure);
    let (gone, receiver) = command(probe());
    drop(receiver);
    let (waiting, _waiting) = command(probe());
    let (mut states, mut steps) = (States::new(), Vec::new());
    fold(&catalog, &[failed, gone, waiting], &mut states, &mut steps);
    assert_eq!(steps[1].before, steps[1].after);
    assert!(steps[2].after.probe.is_some());
}

type Answer = oneshot::Receiver<Result<AgentHealth, OrchestratorError>>;

fn command(change: Change) -> (Command, Answer) {
    let (reply, answer) = oneshot::channel();
    (Command { agent: name(0), change, span: Span::none(), reply }, answer)
}
