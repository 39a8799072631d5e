//! Recovery of plans whose planner is gone, and cancels through another planner.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use phoenix_domain::{AgentSpec, OrchestratorErrorCode as Code, plan::Plan};
use phoenix_planner::store::{self, Entry, Store, TakeoverScope, TaskRef};
use phoenix_proto::planner::{
    CancelPlanRequest, ListDeadLettersRequest, PlanStatus as Status, TaskStatus as Task,
};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::support::{
    ALL_PEERS, FakeExecutor, FakeHealth, PATIENCE, Script, TestPlanner, batch, catalog, error_of, eventually,
    graph, new_plan, status_of, task,
};

/// A cancel must hold within 2 s; twice that, for a loaded machine.
const CANCELLED_WITHIN: Duration = Duration::from_secs(4);

async fn journal(dir: &Path) -> Arc<dyn Store> {
    store::open(&url(dir)).await.unwrap()
}

fn url(dir: &Path) -> String {
    format!("sqlite://{}", dir.join("planner.db").display())
}

fn folder() -> Arc<tempfile::TempDir> {
    Arc::new(tempfile::tempdir().unwrap())
}

/// A plan of `planner` whose first task is dispatched.
async fn running(store: &dyn Store, planner: &str, agents: &[&str]) -> Plan {
    let mut plan = new_plan(Timestamp::now(), agents);
    for ordinal in 1..plan.tasks.len() {
        plan.tasks[ordinal].spec.depends_on = vec![format!("t{}", ordinal - 1)];
    }
    let task = TaskRef { plan_id: plan.plan_id, ordinal: 0 };
    let entries = [
        Entry::PlanAccepted { trace: None, plan: Arc::new(plan.clone()) },
        Entry::TaskDispatched { task, at: Timestamp::now() },
    ];
    store.append(&batch(planner), &[entries.as_slice().into()]).await.unwrap();
    plan
}

async fn on(dir: &Arc<tempfile::TempDir>) -> TestPlanner {
    TestPlanner::on(Arc::clone(dir), FakeExecutor::default(), FakeHealth::default(), ALL_PEERS).await
}

async fn knowing_py(dir: &Arc<tempfile::TempDir>) -> TestPlanner {
    let py = AgentSpec::new("py".parse().unwrap(), Vec::new());
    let executor = FakeExecutor::offering(catalog().iter().cloned().chain([py]));
    TestPlanner::on(Arc::clone(dir), executor, FakeHealth::default(), ALL_PEERS).await
}

fn cancel(plan_id: &str) -> CancelPlanRequest {
    CancelPlanRequest { plan_id: plan_id.into(), reason: "enough".into(), ..Default::default() }
}

#[tokio::test]
async fn plan_that_killed_five_planners_is_failed_and_dead_lettered() {
    let dir = folder();
    let store = journal(dir.path()).await;
    store.register("planner 0").await.unwrap();
    let suspect = running(&*store, "planner 0", &["model", "notes"]).await;
    let unreadable = running(&*store, "planner 0", &["model", "notes"]).await;
    let task = TaskRef { plan_id: unreadable.plan_id, ordinal: 0 };
    let started = Entry::AttemptStarted { task, number: 1, at: Timestamp::now(), worker: "w".into() };
    store.append(&batch("planner 0"), &[[started].into()]).await.unwrap();
    let mut bystander = None;
    for n in 1..5 {
        let dead = store.planners().await.unwrap();
        let next = format!("planner {n}");
        store.register(&next).await.unwrap();
        let taken = store.take_over(&next, &dead, &TakeoverScope::default(), Timestamp::now()).await.unwrap();
        let crashes = taken.plans.iter().find(|plan| plan.plan_id == suspect.plan_id).unwrap().crashes;
        assert_eq!(crashes, n);
        if n == 2 {
            bystander = Some(running(&*store, &next, &["git_agent"]).await);
        }
    }
    store.flush().await.unwrap();
    store.close().await;
    let mut file = SqliteConnection::connect(&url(dir.path())).await.unwrap();
    // Reading it killed a planner, too.
    let read = format!("UPDATE plans SET crashes = 5 WHERE plan_id = '{}'", unreadable.plan_id);
    sqlx::raw_sql(AssertSqlSafe(read)).execute(&mut file).await.unwrap();

    let planner = on(&dir).await;
    let plan = planner.ended(&suspect.plan_id.to_string()).await;
    assert_eq!((status_of(&plan), error_of(&plan).code.as_str()), (Status::Failed, "execution_failed"));
    assert_eq!(error_of(&plan).details["planner_crashes"], "5");
    let tasks: Vec<_> = plan.tasks.iter().map(|task| task.status()).collect();
    assert_eq!(tasks, [Task::DeadLettered, Task::Cancelled]);
    let unread = planner.ended(&unreadable.plan_id.to_string()).await;
    assert_eq!((status_of(&unread), &*error_of(&unread).details["planner_crashes"]), (Status::Failed, "6"));
    let tasks: Vec<_> = unread.tasks.iter().map(|task| task.status()).collect();
    assert_eq!(tasks, [Task::DeadLettered, Task::Cancelled]);
    assert!(unread.tasks[0].attempts[0].ended_at.is_some(), "{unread:?}");
    let bystander = bystander.unwrap().plan_id.to_string();
    assert_eq!(
        status_of(&planner.ended(&bystander).await),
        Status::Succeeded,
        "it was present at three crashes only"
    );
    let letters = planner.client.clone().list_dead_letters(ListDeadLettersRequest::default()).await.unwrap();
    let letters = letters.into_inner().dead_letters;
    assert_eq!(letters.len(), 2, "{letters:?}");
    let log = planner.executor.log.lock().unwrap();
    assert!(log.calls.iter().all(|call| call.plan_id == bystander), "the others are not run again");
}

#[tokio::test]
async fn plan_of_unknown_agent_is_left_to_a_planner_that_knows_it() {
    let dir = folder();
    let store = journal(dir.path()).await;
    store.register("earlier").await.unwrap();
    let plan = running(&*store, "earlier", &["py", "model"]).await;
    let plan_id = plan.plan_id.to_string();
    // An orderly shutdown, as after SIGTERM.
    store.release("earlier").await.unwrap();
    store.close().await;

    let ignorant = on(&dir).await;
    ignorant.chat("it works, and has looked for plans").await.unwrap();
    assert_eq!(status_of(&ignorant.plan(&plan_id).await), Status::Running, "it is not ended");
    let knowing = knowing_py(&dir).await;
    assert_eq!(status_of(&knowing.ended(&plan_id).await), Status::Succeeded);
    assert!(knowing.executor.log.lock().unwrap().calls.iter().any(|call| call.agent == "py"));
    assert!(ignorant.executor.log.lock().unwrap().calls.iter().all(|call| call.plan_id != plan_id));
}

#[tokio::test]
async fn plan_of_unknown_agent_fails_after_the_grace() {
    let dir = folder();
    let store = journal(dir.path()).await;
    store.register("earlier").await.unwrap();
    let plan = running(&*store, "earlier", &["py"]).await;
    store.release("earlier").await.unwrap();
    store.close().await;
    let started = Instant::now();
    let (grace, executor) = (Duration::from_secs(2), FakeExecutor::default());
    let planner = TestPlanner::configured(dir, executor, FakeHealth::default(), ALL_PEERS, |config| {
        config.takeover_grace = grace;
    })
    .await;
    let plan = planner.ended(&plan.plan_id.to_string()).await;
    assert!(started.elapsed() >= grace, "{:?}", started.elapsed());
    assert_eq!((status_of(&plan), error_of(&plan).code.as_str()), (Status::Failed, "planning_failed"));
    assert!(error_of(&plan).message.contains("py"), "{plan:?}");
}

#[tokio::test]
async fn ended_task_of_unknown_agent_does_not_hold_its_plan() {
    let dir = folder();
    let store = journal(dir.path()).await;
    store.register("earlier").await.unwrap();
    let plan = running(&*store, "earlier", &["py", "model"]).await;
    let ended = Entry::TaskEnded {
        task: TaskRef { plan_id: plan.plan_id, ordinal: 0 },
        status: phoenix_domain::plan::TaskStatus::Succeeded,
        at: Timestamp::now(),
        result: Ok(phoenix_domain::action::ActionResult::text("done")),
    };
    store.append(&batch("earlier"), &[[ended].as_slice().into()]).await.unwrap();
    store.release("earlier").await.unwrap();
    store.close().await;
    let planner = on(&dir).await;
    assert_eq!(status_of(&planner.ended(&plan.plan_id.to_string()).await), Status::Succeeded);
}

#[tokio::test]
async fn cancel_through_another_planner_holds_within_two_seconds() {
    let dir = folder();
    let (owner, other) = (on(&dir).await, on(&dir).await);
    owner.script("model", Script::Hangs);
    let request = graph(vec![task("a", "model", "{}", &[]), task("b", "model", "{}", &["a"])]);
    let plan_id = owner.client.clone().submit_plan(request).await.unwrap().into_inner().plan_id;
    eventually(async || owner.executor.log.lock().unwrap().calls.len() == 1).await;
    let asked = Instant::now();
    other.client.clone().cancel_plan(cancel(&plan_id)).await.unwrap();
    assert!(asked.elapsed() < CANCELLED_WITHIN, "{:?}", asked.elapsed());
    for planner in [&owner, &other] {
        let plan = planner.plan(&plan_id).await;
        assert_eq!((status_of(&plan), error_of(&plan).message.as_str()), (Status::Cancelled, "enough"));
    }
    eventually(async || owner.executor.log.lock().unwrap().abandoned == 1).await;
    let again = other.client.clone().cancel_plan(cancel(&plan_id)).await.unwrap_err();
    assert_eq!(phoenix_proto::error_from_status(&again).code, Code::Conflict);
    let unknown = cancel(&phoenix_domain::PlanId::generate().to_string());
    let unknown = other.client.clone().cancel_plan(unknown).await.unwrap_err();
    assert_eq!(phoenix_proto::error_from_status(&unknown).code, Code::NotFound);
    let mut file = SqliteConnection::connect(&url(dir.path())).await.unwrap();
    let done = async {
        let left = "SELECT count(*) FROM cancel_requests";
        while sqlx::query_scalar::<_, i64>(left).fetch_one(&mut file).await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, done).await.expect("finished requests are deleted");
}

#[tokio::test]
async fn cancel_of_plan_with_unknown_agent_holds() {
    let dir = folder();
    let store = journal(dir.path()).await;
    store.register("earlier").await.unwrap();
    let plan_id = running(&*store, "earlier", &["py"]).await.plan_id.to_string();
    store.release("earlier").await.unwrap();
    store.close().await;
    let planner = on(&dir).await;
    planner.client.clone().cancel_plan(cancel(&plan_id)).await.unwrap();
    let plan = planner.plan(&plan_id).await;
    assert_eq!((status_of(&plan), error_of(&plan).message.as_str()), (Status::Cancelled, "enough"));
}

#[tokio::test]
async fn journaled_cancel_survives_its_planners() {
    let dir = folder();
    let store = journal(dir.path()).await;
    store.register("earlier").await.unwrap();
    let plan = running(&*store, "earlier", &["model"]).await;
    store.request_cancel("earlier", plan.plan_id, "enough", Timestamp::now()).await.unwrap();
    // It dies: its lease expires.
    store.close().await;
    let planner = on(&dir).await;
    let plan = planner.ended(&plan.plan_id.to_string()).await;
    assert_eq!((status_of(&plan), error_of(&plan).message.as_str()), (Status::Cancelled, "enough"));
    assert!(planner.executor.log.lock().unwrap().calls.is_empty(), "it does not start again");
}

#[tokio::test]
async fn recovered_task_gets_unused_attempt_numbers() {
    let dir = folder();
    let store = journal(dir.path()).await;
    store.register("earlier").await.unwrap();
    // It may have dispatched the task without a journal entry.
    let plan = new_plan(Timestamp::now(), &["model"]);
    let accepted = Entry::PlanAccepted { trace: None, plan: Arc::new(plan.clone()) };
    store.append(&batch("earlier"), &[[accepted].as_slice().into()]).await.unwrap();
    store.close().await;
    let planner = on(&dir).await;
    planner.ended(&plan.plan_id.to_string()).await;
    let log = planner.executor.log.lock().unwrap();
    let retries = catalog().get(&"model".parse().unwrap()).unwrap().retry.max_attempts;
    assert!(log.calls[0].first_attempt > retries, "{:?}", log.calls);
    assert_eq!(log.calls[0].earlier_attempts, Some(0), "skipped numbers are no attempts");
}
