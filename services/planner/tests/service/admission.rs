//! Admission control through the server: which plans start, queue or are rejected.

use std::sync::Arc;

use crate::{
    execute::execute,
    graphs::submit,
    support::{
        ALL_PEERS, FakeExecutor, FakeHealth, GRACE, KEY_LIFE, MAX_PLANS, PATIENCE, Script, TestPlanner,
        answers, catalog, error_of, eventually, graph, status_of, task, token,
    },
};
use futures_util::FutureExt;
use phoenix_domain::{
    CorrelationId, OrchestratorError, OrchestratorErrorCode as Code, budget::BudgetSettings,
    plan::PlanStatus as Status, planning::PlanningSettings,
};
use phoenix_planner::{
    agent_health::HealthView,
    deps::Limits,
    journal::Journal,
    planning::request::{PlanRequest, WaitMode, Work},
    service::Planner,
    store::PlanFilter,
};
use phoenix_platform::{RequestContext, catalogs::CatalogView, client, readiness::Readiness};
use phoenix_proto::planner::{
    CancelPlanRequest, ListPlansRequest, PlanAndExecuteRequest, PlanStatus, TaskStatus, WatchPlanRequest,
};
use sqlx::{Connection, SqliteConnection};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

fn chat(agent: &str) -> PlanAndExecuteRequest {
    PlanAndExecuteRequest { message: "hello".into(), agent: Some(agent.into()), ..Default::default() }
}

/// Plans small enough to stay loaded while they queue, and larger ones, alternately.
fn either(n: usize, agent: &str) -> PlanAndExecuteRequest {
    PlanAndExecuteRequest { context: "x".repeat(20_000 * (n % 2)), ..chat(agent) }
}

async fn cancel(planner: &TestPlanner, plan_id: &str) -> Result<(), OrchestratorError> {
    let request =
        CancelPlanRequest { plan_id: plan_id.into(), reason: "enough".into(), ..Default::default() };
    let answer = planner.client.clone().cancel_plan(request).await;
    answer.map(|_| ()).map_err(|status| phoenix_proto::error_from_status(&status))
}

/// Number of dispatched tasks so far.
fn dispatched(planner: &TestPlanner) -> usize {
    planner.executor.log.lock().unwrap().calls.len()
}

async fn plans(planner: &TestPlanner) -> usize {
    let request = ListPlansRequest { page_size: 500, ..Default::default() };
    planner.client.clone().list_plans(request).await.unwrap().into_inner().plans.len()
}

/// Plans whose tasks for `agent` were dispatched, in order.
fn order(planner: &TestPlanner, agent: &str) -> Vec<String> {
    let log = planner.executor.log.lock().unwrap();
    log.calls.iter().filter(|call| call.agent == agent).map(|call| call.plan_id.clone()).collect()
}

async fn ask(planner: &TestPlanner, request: PlanAndExecuteRequest) -> Result<String, OrchestratorError> {
    let answer = planner.client.clone().plan_and_execute(request).await;
    answer
        .map(|response| response.into_inner().plan_id)
        .map_err(|status| phoenix_proto::error_from_status(&status))
}

#[tokio::test]
async fn sync_plan_at_capacity_is_rejected_before_the_journal() {
    let planner = TestPlanner::new().await;
    planner.script("narrow", Script::Hangs);
    let first = submit(&planner, chat("narrow")).await.unwrap();
    submit(&planner, chat("narrow")).await.unwrap();
    eventually(async || dispatched(&planner) == 2).await;

    let two = graph(vec![task("a", "model", "{}", &[]), task("b", "narrow", "{}", &[])]);
    for refused in [
        ask(&planner, chat("narrow")).await,
        ask(&planner, two).await,
        execute(&planner, chat("narrow")).await.map(|_| String::new()),
        ask(&planner, PlanAndExecuteRequest { idempotency_key: "k".into(), ..chat("narrow") }).await,
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.code, Code::Overloaded, "{error}");
        let details = ["agent", "running", "waiting"].map(|key| error.details[key].as_str());
        assert_eq!(details, ["narrow", "1", "1"]);
        assert!(error.retry_after.is_some() && !error.details.contains_key("plan_id"), "{error:?}");
    }
    assert_eq!((plans(&planner).await, dispatched(&planner)), (2, 2));
    assert!(ask(&planner, chat("model")).await.is_ok(), "another agent is not affected");

    cancel(&planner, &first).await.unwrap();
    planner.script("narrow", Script::Says(answers("ok")));
    let again = PlanAndExecuteRequest { idempotency_key: "k".into(), ..chat("narrow") };
    ask(&planner, again).await.expect("there is capacity again, and the key is unused");
}

#[tokio::test]
async fn later_task_needs_no_permit_at_the_start() {
    let planner = TestPlanner::new().await;
    planner.script("single", Script::Hangs);
    let holder = submit(&planner, chat("single")).await.unwrap();
    eventually(async || dispatched(&planner) == 1).await;
    let both = graph(vec![task("a", "model", "{}", &[]), task("b", "single", "{}", &["a"])]);
    let mut client = planner.client.clone();
    let call = tokio::spawn(async move { client.plan_and_execute(both).await });
    eventually(async || dispatched(&planner) == 2).await;
    planner.script("single", Script::Says(answers("at last")));
    cancel(&planner, &holder).await.unwrap();
    assert_eq!(call.await.unwrap().unwrap().into_inner().output, "at last");
}

#[tokio::test]
async fn async_plans_start_in_order_of_acceptance() {
    let planner = TestPlanner::new().await;
    let leave = Arc::new(Semaphore::new(0));
    planner.script("narrow", Script::Waits(leave.clone()));
    let mut accepted = Vec::new();
    for n in 0..12 {
        accepted.push(submit(&planner, either(n, "narrow")).await.unwrap());
    }
    for ended in 0..accepted.len() {
        let started = (ended + 2).min(accepted.len());
        eventually(async || dispatched(&planner) == started).await;
        let waiting = planner.plan(accepted.last().unwrap()).await;
        if started < accepted.len() {
            assert_eq!((status_of(&waiting), dispatched(&planner)), (PlanStatus::Pending, started));
        }
        leave.add_permits(1);
    }
    for plan_id in &accepted {
        assert_eq!(status_of(&planner.ended(plan_id).await), PlanStatus::Succeeded);
    }
    // Plans with a permit of their own start together.
    let mut order = order(&planner, "narrow");
    order[..2].sort();
    assert_eq!(order, accepted);
}

#[tokio::test]
async fn started_plan_precedes_a_later_one() {
    let planner = TestPlanner::new().await;
    let leave = Arc::new(Semaphore::new(0));
    planner.script("single", Script::Waits(leave.clone()));
    let chain = || {
        graph(vec![
            task("a", "single", "{}", &[]),
            task("b", "model", "{}", &["a"]),
            task("c", "single", "{}", &["a"]),
            task("d", "single", "{}", &["c"]),
        ])
    };
    let first = submit(&planner, chain()).await.unwrap();
    let second = submit(&planner, chain()).await.unwrap();
    leave.add_permits(6);
    for plan_id in [&first, &second] {
        assert_eq!(status_of(&planner.ended(plan_id).await), PlanStatus::Succeeded);
    }
    let (first, second) = (first.as_str(), second.as_str());
    assert_eq!(order(&planner, "single"), [first, first, first, second, second, second]);
}

#[tokio::test]
async fn queued_plan_is_cancelled_at_once_undispatched() {
    let planner = TestPlanner::new().await;
    planner.script("single", Script::Hangs);
    submit(&planner, chat("single")).await.unwrap();
    eventually(async || dispatched(&planner) == 1).await;
    let cancelled = submit(&planner, chat("single")).await.unwrap();
    let large = submit(&planner, either(1, "single")).await.unwrap();
    let late = submit(&planner, PlanAndExecuteRequest { deadline_ms: 200, ..chat("single") }).await.unwrap();
    // A plan whose second task queues.
    let chain = graph(vec![task("a", "model", "{}", &[]), task("b", "single", "{}", &["a"])]);
    let halfway = submit(&planner, chain).await.unwrap();
    eventually(async || planner.plan(&halfway).await.tasks[0].status() == TaskStatus::Succeeded).await;

    for plan_id in [&cancelled, &large, &halfway] {
        cancel(&planner, plan_id).await.unwrap();
        let plan = planner.plan(plan_id).await;
        assert_eq!((status_of(&plan), &*error_of(&plan).message), (PlanStatus::Cancelled, "enough"));
        let last = plan.tasks.last().unwrap();
        assert_eq!((last.status(), last.attempts.len()), (TaskStatus::Cancelled, 0));
    }
    let plan = planner.ended(&late).await;
    assert_eq!((status_of(&plan), &*error_of(&plan).code), (PlanStatus::Failed, "timeout"));
    assert!(error_of(&plan).message.contains("was at capacity"), "{:?}", plan.error);
    assert_eq!(dispatched(&planner), 2);
    let again = cancel(&planner, &late).await.unwrap_err();
    assert_eq!(again.code, Code::Conflict, "{again}");
}

#[tokio::test]
async fn full_shared_executor_is_retried_invisibly() {
    let planner = TestPlanner::new().await;
    planner.script("model", Script::Refuses(OrchestratorError::new(Code::Overloaded, "full")));
    let mut client = planner.client.clone();
    let call = tokio::spawn(async move { client.plan_and_execute(chat("model")).await });
    eventually(async || dispatched(&planner) >= 3).await;
    planner.script("model", Script::Says(answers("at last")));
    let answer = call.await.unwrap().unwrap().into_inner();
    assert_eq!(answer.output, "at last");
    let request = WatchPlanRequest { plan_id: answer.plan_id, ..Default::default() };
    let mut events = planner.client.clone().watch_plan(request).await.unwrap().into_inner();
    let mut kinds = Vec::new();
    while let Some(event) = events.message().await.unwrap() {
        kinds.push(event.kind);
    }
    assert_eq!(kinds.iter().filter(|kind| *kind == "task_dispatched").count(), 1, "{kinds:?}");
}

#[tokio::test]
async fn plans_beyond_the_limit_in_flight_are_rejected() {
    let planner = TestPlanner::new().await;
    planner.script("single", Script::Hangs);
    let mut accepted = Vec::new();
    for _ in 0..MAX_PLANS {
        accepted.push(submit(&planner, chat("single")).await.unwrap());
    }
    for refused in [submit(&planner, chat("model")).await, ask(&planner, chat("model")).await] {
        let error = refused.unwrap_err();
        assert_eq!((error.code, &*error.details["in_flight"]), (Code::Overloaded, "64"), "{error}");
        assert!(error.retry_after.is_some());
    }
    assert_eq!(plans(&planner).await, accepted.len());
    cancel(&planner, &accepted[7]).await.unwrap();
    eventually(async || ask(&planner, chat("model")).await.is_ok()).await;
}

#[tokio::test]
async fn recovered_queued_plans_keep_their_order() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let later = Arc::new(tempfile::tempdir().unwrap());
    let mut accepted = Vec::new();
    {
        let planner =
            TestPlanner::on(dir.clone(), FakeExecutor::default(), FakeHealth::default(), ALL_PEERS).await;
        planner.script("single", Script::Hangs);
        for n in 0..20 {
            accepted.push(submit(&planner, either(n, "single")).await.unwrap());
        }
        // As after a SIGKILL: the file in its current state.
        for file in ["planner.db", "planner.db-wal"] {
            std::fs::copy(dir.path().join(file), later.path().join(file)).unwrap();
        }
    }
    let planner = TestPlanner::on(later, FakeExecutor::default(), FakeHealth::default(), ALL_PEERS).await;
    let leave = Arc::new(Semaphore::new(0));
    planner.script("single", Script::Waits(leave.clone()));
    eventually(async || dispatched(&planner) == 1).await;
    let last = submit(&planner, chat("single")).await.unwrap();
    // A queued plan can be cancelled as soon as it is taken over.
    let cancelled = accepted.remove(10);
    cancel(&planner, &cancelled).await.unwrap();
    leave.add_permits(20);
    accepted.push(last);
    for plan_id in &accepted {
        assert_eq!(status_of(&planner.ended(plan_id).await), PlanStatus::Succeeded);
    }
    assert_eq!(order(&planner, "single"), accepted);
}

/// A planner without a server, and its journal.
async fn serverless_planner(url: &str, executor_url: &str) -> (Planner, Journal) {
    let journal = Journal::open(url, Readiness::needing(&[])).await.unwrap();
    let health = HealthView::new(client::channel("http://127.0.0.1:1", token()).unwrap());
    let agents = CatalogView::fixed(&catalog(), client::channel(executor_url, token()).unwrap());
    let limits = Limits {
        plans: MAX_PLANS,
        key_ttl: KEY_LIFE,
        takeover_grace: GRACE,
        budgets: BudgetSettings::default(),
        planning: PlanningSettings::default(),
    };
    let stopping = CancellationToken::new();
    let planner = Planner::new(agents, limits, journal.clone(), health, token().into(), stopping);
    (planner, journal)
}

fn plan_request(agent: &str, wait_mode: WaitMode) -> PlanRequest {
    PlanRequest {
        budget: Default::default(),
        planning: Default::default(),
        work: Work::Chat {
            message: Some("hello".into()),
            agent: Some(agent.into()),
            conversation: Default::default(),
        },
        context: String::new(),
        not_before: None,
        on_budget: None,
        time_limit: None,
        wait_mode,
        with_output: false,
        record_output: false,
        continue_on_disconnect: false,
        key: None,
    }
}

fn url_in(dir: &tempfile::TempDir) -> String {
    format!("sqlite://{}", dir.path().join("planner.db").display())
}

async fn statuses(journal: &Journal) -> Vec<Status> {
    let filter = PlanFilter { limit: 10, ..PlanFilter::default() };
    journal.plans(&filter).await.unwrap().items.into_iter().rev().map(|plan| plan.status).collect()
}

#[tokio::test]
async fn planner_in_shutdown_starts_nothing() {
    let peers = TestPlanner::new().await;
    let leave = Arc::new(Semaphore::new(0));
    peers.script("single", Script::Waits(leave.clone()));
    let dir = tempfile::tempdir().unwrap();
    let (planner, journal) = serverless_planner(&url_in(&dir), &peers.executor_url).await;
    for _ in 0..3 {
        let context = RequestContext::new(CorrelationId::generate());
        planner.submit_plan(context, plan_request("single", WaitMode::Async)).await.unwrap();
    }
    eventually(async || dispatched(&peers) == 1).await;
    // Polled once, the shutdown has started: one plan runs, two queue.
    assert!(planner.drained(PATIENCE).now_or_never().is_none());
    leave.add_permits(3);
    planner.drained(PATIENCE).await;
    assert_eq!(statuses(&journal).await, [Status::Succeeded, Status::Pending, Status::Pending]);
    assert_eq!(dispatched(&peers), 1);
}

#[tokio::test]
async fn disconnect_during_commit_leaves_no_idle_plan() {
    let dir = tempfile::tempdir().unwrap();
    let (planner, journal) = serverless_planner(&url_in(&dir), "http://127.0.0.1:1").await;
    let mut other = SqliteConnection::connect(&url_in(&dir)).await.unwrap();
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let context = RequestContext::new(CorrelationId::generate());
    // Polled once: its plan is in the journal's queue, which cannot be committed yet. Then the caller disconnects.
    assert!(
        planner.plan_and_execute_v1(context, plan_request("model", WaitMode::Sync)).now_or_never().is_none()
    );
    lock.rollback().await.unwrap();
    eventually(async || statuses(&journal).await == [Status::Cancelled]).await;
}

#[tokio::test]
async fn mass_cancel_keeps_the_shared_connection_usable() {
    let planner = TestPlanner::new().await;
    for agent in ["wide", "model"] {
        planner.script(agent, Script::Hangs);
    }
    let undisturbed = submit(&planner, chat("model")).await.unwrap();
    let mut wide = Vec::new();
    for _ in 0..8 {
        let tasks = (0..256).map(|n| task(&format!("t{n}"), "wide", "{}", &[])).collect();
        wide.push(submit(&planner, graph(tasks)).await.unwrap());
    }
    eventually(async || dispatched(&planner) == 1 + 8 * 256).await;
    let ends = wide.iter().map(|plan_id| cancel(&planner, plan_id));
    for end in futures_util::future::join_all(ends).await {
        end.unwrap();
    }
    eventually(async || planner.executor.log.lock().unwrap().abandoned == 8 * 256).await;
    // Started and cancelled at once: the executor receives both together.
    for _ in 0..4 {
        let tasks = (0..256).map(|n| task(&format!("t{n}"), "wide", "{}", &[])).collect();
        let plan_id = submit(&planner, graph(tasks)).await.unwrap();
        cancel(&planner, &plan_id).await.unwrap();
    }
    planner.script("model", Script::Says(answers("ok")));
    ask(&planner, chat("model")).await.unwrap();
    assert_eq!(status_of(&planner.plan(&undisturbed).await), PlanStatus::Running);
    assert_eq!(
        order(&planner, "model").iter().filter(|plan| **plan == undisturbed).count(),
        1,
        "it was not dispatched again"
    );
}
