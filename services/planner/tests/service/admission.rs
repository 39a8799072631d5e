//! Who may begin, who waits, who is turned away.

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
    CorrelationId, OrchestratorError, OrchestratorErrorCode as Code, plan::PlanStatus as Status,
};
use phoenix_planner::{
    agent_health::HealthView,
    deps::Limits,
    journal::Journal,
    planning::request::{PlanRequest, WaitMode, Work},
    service::Planner,
    store::PlanFilter,
};
use phoenix_platform::{RequestContext, client, readiness::Readiness};
use phoenix_proto::planner::{
    CancelPlanRequest, ListPlansRequest, PlanAndExecuteRequest, PlanStatus, TaskStatus, WatchPlanRequest,
};
use sqlx::{Connection, SqliteConnection};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

fn chat(agent: &str) -> PlanAndExecuteRequest {
    PlanAndExecuteRequest { message: "hello".into(), agent: Some(agent.into()), ..Default::default() }
}

/// One of every second kind: small enough to be kept in memory while it waits, or not.
fn either(n: usize, agent: &str) -> PlanAndExecuteRequest {
    PlanAndExecuteRequest { context: "x".repeat(20_000 * (n % 2)), ..chat(agent) }
}

async fn cancel(stage: &TestPlanner, plan_id: &str) -> Result<(), OrchestratorError> {
    let request =
        CancelPlanRequest { plan_id: plan_id.into(), reason: "enough".into(), ..Default::default() };
    let answer = stage.client.clone().cancel_plan(request).await;
    answer.map(|_| ()).map_err(|status| phoenix_proto::error_from_status(&status))
}

/// Tasks that the executor was asked to run so far.
fn handed_over(stage: &TestPlanner) -> usize {
    stage.executor.log.lock().unwrap().calls.len()
}

async fn plans(stage: &TestPlanner) -> usize {
    let request = ListPlansRequest { page_size: 500, ..Default::default() };
    stage.client.clone().list_plans(request).await.unwrap().into_inner().plans.len()
}

/// The plans whose tasks for `agent` the executor was asked to run, in this order.
fn order(stage: &TestPlanner, agent: &str) -> Vec<String> {
    let log = stage.executor.log.lock().unwrap();
    log.calls.iter().filter(|call| call.agent == agent).map(|call| call.plan_id.clone()).collect()
}

async fn ask(stage: &TestPlanner, request: PlanAndExecuteRequest) -> Result<String, OrchestratorError> {
    let answer = stage.client.clone().plan_and_execute(request).await;
    answer
        .map(|response| response.into_inner().plan_id)
        .map_err(|status| phoenix_proto::error_from_status(&status))
}

#[tokio::test]
async fn who_waits_for_an_agent_without_a_place_is_turned_away_before_anything_is_journalled() {
    let stage = TestPlanner::new().await;
    stage.script("narrow", Script::Hangs);
    let first = submit(&stage, chat("narrow")).await.unwrap();
    submit(&stage, chat("narrow")).await.unwrap();
    eventually(async || handed_over(&stage) == 2).await;

    let two = graph(vec![task("a", "model", "{}", &[]), task("b", "narrow", "{}", &[])]);
    for refused in [
        ask(&stage, chat("narrow")).await,
        ask(&stage, two).await,
        execute(&stage, chat("narrow")).await.map(|_| String::new()),
        ask(&stage, PlanAndExecuteRequest { idempotency_key: "k".into(), ..chat("narrow") }).await,
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.code, Code::Overloaded, "{error}");
        let details = ["agent", "running", "waiting"].map(|key| error.details[key].as_str());
        assert_eq!(details, ["narrow", "1", "1"]);
        assert!(error.retry_after.is_some() && !error.details.contains_key("plan_id"), "{error:?}");
    }
    assert_eq!((plans(&stage).await, handed_over(&stage)), (2, 2));
    assert!(ask(&stage, chat("model")).await.is_ok(), "another agent is not concerned");

    cancel(&stage, &first).await.unwrap();
    stage.script("narrow", Script::Says(answers("ok")));
    let again = PlanAndExecuteRequest { idempotency_key: "k".into(), ..chat("narrow") };
    ask(&stage, again).await.expect("there is a place again, and the key stands for nothing yet");
}

#[tokio::test]
async fn a_task_that_comes_later_does_not_need_a_place_at_the_beginning() {
    let stage = TestPlanner::new().await;
    stage.script("single", Script::Hangs);
    let holder = submit(&stage, chat("single")).await.unwrap();
    eventually(async || handed_over(&stage) == 1).await;
    let both = graph(vec![task("a", "model", "{}", &[]), task("b", "single", "{}", &["a"])]);
    let mut client = stage.client.clone();
    let call = tokio::spawn(async move { client.plan_and_execute(both).await });
    eventually(async || handed_over(&stage) == 2).await;
    stage.script("single", Script::Says(answers("at last")));
    cancel(&stage, &holder).await.unwrap();
    assert_eq!(call.await.unwrap().unwrap().into_inner().output, "at last");
}

#[tokio::test]
async fn plans_that_nobody_waits_for_take_turns_in_the_order_of_their_acceptance() {
    let stage = TestPlanner::new().await;
    let leave = Arc::new(Semaphore::new(0));
    stage.script("narrow", Script::Waits(leave.clone()));
    let mut accepted = Vec::new();
    for n in 0..12 {
        accepted.push(submit(&stage, either(n, "narrow")).await.unwrap());
    }
    for ended in 0..accepted.len() {
        let begun = (ended + 2).min(accepted.len());
        eventually(async || handed_over(&stage) == begun).await;
        let waiting = stage.plan(accepted.last().unwrap()).await;
        if begun < accepted.len() {
            assert_eq!((status_of(&waiting), handed_over(&stage)), (PlanStatus::Pending, begun));
        }
        leave.add_permits(1);
    }
    for plan_id in &accepted {
        assert_eq!(status_of(&stage.ended(plan_id).await), PlanStatus::Succeeded);
    }
    // Those with a place of their own at once go together.
    let mut order = order(&stage, "narrow");
    order[..2].sort();
    assert_eq!(order, accepted);
}

#[tokio::test]
async fn a_plan_that_has_begun_is_finished_before_a_later_one_begins() {
    let stage = TestPlanner::new().await;
    let leave = Arc::new(Semaphore::new(0));
    stage.script("single", Script::Waits(leave.clone()));
    let chain = || {
        graph(vec![
            task("a", "single", "{}", &[]),
            task("b", "model", "{}", &["a"]),
            task("c", "single", "{}", &["a"]),
            task("d", "single", "{}", &["c"]),
        ])
    };
    let first = submit(&stage, chain()).await.unwrap();
    let second = submit(&stage, chain()).await.unwrap();
    leave.add_permits(6);
    for plan_id in [&first, &second] {
        assert_eq!(status_of(&stage.ended(plan_id).await), PlanStatus::Succeeded);
    }
    let (first, second) = (first.as_str(), second.as_str());
    assert_eq!(order(&stage, "single"), [first, first, first, second, second, second]);
}

#[tokio::test]
async fn what_waits_is_ended_at_once_and_never_handed_over() {
    let stage = TestPlanner::new().await;
    stage.script("single", Script::Hangs);
    submit(&stage, chat("single")).await.unwrap();
    eventually(async || handed_over(&stage) == 1).await;
    let cancelled = submit(&stage, chat("single")).await.unwrap();
    let large = submit(&stage, either(1, "single")).await.unwrap();
    let late = submit(&stage, PlanAndExecuteRequest { deadline_ms: 200, ..chat("single") }).await.unwrap();
    // One whose second task waits.
    let chain = graph(vec![task("a", "model", "{}", &[]), task("b", "single", "{}", &["a"])]);
    let halfway = submit(&stage, chain).await.unwrap();
    eventually(async || stage.plan(&halfway).await.tasks[0].status() == TaskStatus::Succeeded).await;

    for plan_id in [&cancelled, &large, &halfway] {
        cancel(&stage, plan_id).await.unwrap();
        let plan = stage.plan(plan_id).await;
        assert_eq!((status_of(&plan), &*error_of(&plan).message), (PlanStatus::Cancelled, "enough"));
        let last = plan.tasks.last().unwrap();
        assert_eq!((last.status(), last.attempts.len()), (TaskStatus::Cancelled, 0));
    }
    let plan = stage.ended(&late).await;
    assert_eq!((status_of(&plan), &*error_of(&plan).code), (PlanStatus::Failed, "timeout"));
    assert!(error_of(&plan).message.contains("had no place"), "{:?}", plan.error);
    assert_eq!(handed_over(&stage), 2);
    let again = cancel(&stage, &late).await.unwrap_err();
    assert_eq!(again.code, Code::Conflict, "{again}");
}

#[tokio::test]
async fn an_executor_that_others_have_filled_is_asked_again_and_nobody_is_told() {
    let stage = TestPlanner::new().await;
    stage.script("model", Script::Refuses(OrchestratorError::new(Code::Overloaded, "full")));
    let mut client = stage.client.clone();
    let call = tokio::spawn(async move { client.plan_and_execute(chat("model")).await });
    eventually(async || handed_over(&stage) >= 3).await;
    stage.script("model", Script::Says(answers("at last")));
    let answer = call.await.unwrap().unwrap().into_inner();
    assert_eq!(answer.output, "at last");
    let request = WatchPlanRequest { plan_id: answer.plan_id, after_position: 0 };
    let mut events = stage.client.clone().watch_plan(request).await.unwrap().into_inner();
    let mut kinds = Vec::new();
    while let Some(event) = events.message().await.unwrap() {
        kinds.push(event.kind);
    }
    assert_eq!(kinds.iter().filter(|kind| *kind == "task_dispatched").count(), 1, "{kinds:?}");
}

#[tokio::test]
async fn so_many_plans_may_be_in_flight_and_no_more() {
    let stage = TestPlanner::new().await;
    stage.script("single", Script::Hangs);
    let mut accepted = Vec::new();
    for _ in 0..MAX_PLANS {
        accepted.push(submit(&stage, chat("single")).await.unwrap());
    }
    for refused in [submit(&stage, chat("model")).await, ask(&stage, chat("model")).await] {
        let error = refused.unwrap_err();
        assert_eq!((error.code, &*error.details["in_flight"]), (Code::Overloaded, "64"), "{error}");
        assert!(error.retry_after.is_some());
    }
    assert_eq!(plans(&stage).await, accepted.len());
    cancel(&stage, &accepted[7]).await.unwrap();
    eventually(async || ask(&stage, chat("model")).await.is_ok()).await;
}

#[tokio::test]
async fn plans_that_waited_when_their_planner_was_killed_keep_their_order() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let later = Arc::new(tempfile::tempdir().unwrap());
    let mut accepted = Vec::new();
    {
        let stage =
            TestPlanner::on(dir.clone(), FakeExecutor::default(), FakeHealth::default(), ALL_PEERS).await;
        stage.script("single", Script::Hangs);
        for n in 0..20 {
            accepted.push(submit(&stage, either(n, "single")).await.unwrap());
        }
        // What a SIGKILL leaves: the file as it is in this moment.
        for file in ["planner.db", "planner.db-wal"] {
            std::fs::copy(dir.path().join(file), later.path().join(file)).unwrap();
        }
    }
    let stage = TestPlanner::on(later, FakeExecutor::default(), FakeHealth::default(), ALL_PEERS).await;
    let leave = Arc::new(Semaphore::new(0));
    stage.script("single", Script::Waits(leave.clone()));
    eventually(async || handed_over(&stage) == 1).await;
    let last = submit(&stage, chat("single")).await.unwrap();
    // One that has not begun can be ended as soon as it is taken over.
    let cancelled = accepted.remove(10);
    cancel(&stage, &cancelled).await.unwrap();
    leave.add_permits(20);
    accepted.push(last);
    for plan_id in &accepted {
        assert_eq!(status_of(&stage.ended(plan_id).await), PlanStatus::Succeeded);
    }
    assert_eq!(order(&stage, "single"), accepted);
}

/// A planner without a server, and its journal.
async fn planner(url: &str, executor_url: &str) -> (Planner, Journal) {
    let journal = Journal::open(url, Readiness::needing(&[])).await.unwrap();
    let health = HealthView::new(client::channel("http://127.0.0.1:1", &token()).unwrap());
    let executor = client::channel(executor_url, &token()).unwrap();
    let limits = Limits { plans: MAX_PLANS, key_ttl: KEY_LIFE, takeover_grace: GRACE };
    let stopping = CancellationToken::new();
    let planner = Planner::new(catalog(), limits, journal.clone(), health, executor, stopping);
    (planner, journal)
}

fn plan_request(agent: &str, wait_mode: WaitMode) -> PlanRequest {
    PlanRequest {
        work: Work::Chat { message: "hello".into(), agent: Some(agent.into()) },
        context: String::new(),
        time_limit: None,
        wait_mode,
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
async fn a_planner_that_ends_begins_nothing_more() {
    let stage = TestPlanner::new().await;
    let leave = Arc::new(Semaphore::new(0));
    stage.script("single", Script::Waits(leave.clone()));
    let dir = tempfile::tempdir().unwrap();
    let (planner, journal) = planner(&url_in(&dir), &stage.executor_url).await;
    for _ in 0..3 {
        let context = RequestContext::new(CorrelationId::generate());
        planner.submit_plan(context, plan_request("single", WaitMode::Async)).await.unwrap();
    }
    eventually(async || handed_over(&stage) == 1).await;
    // Polled once, it has begun to end: one plan runs, two wait.
    assert!(planner.drained(PATIENCE).now_or_never().is_none());
    leave.add_permits(3);
    planner.drained(PATIENCE).await;
    assert_eq!(statuses(&journal).await, [Status::Succeeded, Status::Pending, Status::Pending]);
    assert_eq!(handed_over(&stage), 1);
}

#[tokio::test]
async fn a_caller_that_goes_away_while_its_plan_is_accepted_leaves_no_plan_that_nobody_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (planner, journal) = planner(&url_in(&dir), "http://127.0.0.1:1").await;
    let mut other = SqliteConnection::connect(&url_in(&dir)).await.unwrap();
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let context = RequestContext::new(CorrelationId::generate());
    // Polled once: its plan is with the journal, which can't write it yet. Then the caller leaves.
    assert!(
        planner.plan_and_execute_v1(context, plan_request("model", WaitMode::Sync)).now_or_never().is_none()
    );
    lock.rollback().await.unwrap();
    eventually(async || statuses(&journal).await == [Status::Cancelled]).await;
}

#[tokio::test]
async fn thousands_of_tasks_share_a_connection_and_their_cancel_leaves_it_whole() {
    let stage = TestPlanner::new().await;
    for agent in ["wide", "model"] {
        stage.script(agent, Script::Hangs);
    }
    let undisturbed = submit(&stage, chat("model")).await.unwrap();
    let mut wide = Vec::new();
    for _ in 0..8 {
        let tasks = (0..256).map(|n| task(&format!("t{n}"), "wide", "{}", &[])).collect();
        wide.push(submit(&stage, graph(tasks)).await.unwrap());
    }
    eventually(async || handed_over(&stage) == 1 + 8 * 256).await;
    let ends = wide.iter().map(|plan_id| cancel(&stage, plan_id));
    for end in futures_util::future::join_all(ends).await {
        end.unwrap();
    }
    eventually(async || stage.executor.log.lock().unwrap().abandoned == 8 * 256).await;
    // Begun and ended in one breath: the executor hears of both at once.
    for _ in 0..4 {
        let tasks = (0..256).map(|n| task(&format!("t{n}"), "wide", "{}", &[])).collect();
        let plan_id = submit(&stage, graph(tasks)).await.unwrap();
        cancel(&stage, &plan_id).await.unwrap();
    }
    stage.script("model", Script::Says(answers("ok")));
    ask(&stage, chat("model")).await.unwrap();
    assert_eq!(status_of(&stage.plan(&undisturbed).await), PlanStatus::Running);
    assert_eq!(
        order(&stage, "model").iter().filter(|plan| **plan == undisturbed).count(),
        1,
        "it was not handed over again"
    );
}
