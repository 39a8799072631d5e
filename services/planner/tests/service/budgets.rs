//! Budgets of plans, agents and providers.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use phoenix_domain::{
    AgentSpec, OrchestratorError, OrchestratorErrorCode as Code,
    action::ActionResult,
    budget::{Each, Limits, Scope},
    json::Object,
    retry::RetryPolicy,
};
use phoenix_planner::{
    PlannerConfig,
    store::{self, Call, Charge, TaskRef},
};
use phoenix_proto::{
    common::Budget,
    planner::{
        BudgetState, CancelPlanRequest, ListBudgetsRequest, PlanAndExecuteRequest, PlanAndExecuteResponse,
        PlanStatus,
    },
};
use tokio::sync::Semaphore;

use crate::support::{
    ALL_PEERS, FakeExecutor, FakeHealth, Script, TestPlanner, error_of, eventually, started, status_of,
    succeeded,
};

/// At most so many calls.
fn calls(limit: u64) -> Limits {
    Limits::new([None, None, Some(limit), None])
}

/// A planner with a budget for the agent `model`.
async fn limited(limits: Limits) -> TestPlanner {
    with(|config| {
        config.budgets.agents.insert("model".parse().unwrap(), limits);
    })
    .await
}

async fn with(change: impl FnOnce(&mut PlannerConfig)) -> TestPlanner {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    TestPlanner::configured(dir, FakeExecutor::default(), FakeHealth::default(), ALL_PEERS, change).await
}

async fn chat_within(
    planner: &TestPlanner,
    budget: Budget,
) -> Result<PlanAndExecuteResponse, OrchestratorError> {
    let request =
        PlanAndExecuteRequest { message: "hello".into(), budget: Some(budget), ..Default::default() };
    let answer = planner.client.clone().plan_and_execute(request).await;
    answer.map(tonic::Response::into_inner).map_err(|status| phoenix_proto::error_from_status(&status))
}

async fn budgets(planner: &TestPlanner, plan_id: &str) -> Vec<BudgetState> {
    let request = ListBudgetsRequest { plan_id: plan_id.into() };
    planner.client.clone().list_budgets(request).await.unwrap().into_inner().budgets
}

/// Calls used and reserved of the only budget.
async fn state(planner: &TestPlanner) -> (u64, u64) {
    let states = budgets(planner, "").await;
    let [state] = &states[..] else { panic!("{states:?}") };
    (state.used.unwrap().calls, state.reserved.unwrap().calls)
}

fn executed(planner: &TestPlanner) -> usize {
    planner.executor.log.lock().unwrap().calls.len()
}

#[tokio::test]
async fn parallel_chats_make_exactly_the_calls_of_the_budget() {
    let planner = limited(calls(5)).await;
    let leave = Arc::new(Semaphore::new(0));
    planner.script("model", Script::Waits(Arc::clone(&leave)));
    let chats = futures_util::future::join_all((0..20).map(|_| planner.chat("hello")));
    let release = async {
        eventually(async || executed(&planner) == 5).await;
        assert_eq!(state(&planner).await, (0, 5));
        leave.add_permits(20);
    };
    let (answers, ()) = tokio::join!(chats, release);
    let refused: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
    assert_eq!((executed(&planner), refused.len()), (5, 15));
    for error in refused {
        assert_eq!(error.code, Code::BudgetExhausted);
        assert_eq!((&*error.details["budget"], &*error.details["limit"]), ("agent/model", "max_calls"));
        assert_eq!(error.details["limit_value"], "5");
        assert!(error.details["resets_at"].parse::<Timestamp>().unwrap() > Timestamp::now());
        assert_eq!(error.retry_after, None);
    }
    assert_eq!(state(&planner).await, (5, 0));
    planner.chat("show my notes").await.expect("another agent has no budget");
}

#[tokio::test]
async fn planners_share_the_budget_of_an_agent() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let planner = async || {
        let (executor, health) = (FakeExecutor::default(), FakeHealth::default());
        TestPlanner::configured(Arc::clone(&dir), executor, health, ALL_PEERS, |config| {
            config.budgets.agents.insert("model".parse().unwrap(), calls(7));
        })
        .await
    };
    let (one, two) = (planner().await, planner().await);
    let chats = (0..20).map(|n| if n % 2 == 0 { one.chat("hello") } else { two.chat("hello") });
    let answers = futures_util::future::join_all(chats).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 7);
    assert_eq!(executed(&one) + executed(&two), 7);
    assert_eq!(state(&two).await, (7, 0));
}

#[tokio::test]
async fn every_attempt_of_a_task_is_a_call() {
    let retry = RetryPolicy {
        max_attempts: 3,
        initial_backoff: Duration::from_millis(1),
        max_backoff: Duration::from_millis(1),
    };
    let model = AgentSpec { retry, ..AgentSpec::new("model".parse().unwrap(), Vec::new()) };
    for (limit, attempts, code) in [(9, 3, Code::ExecutionFailed), (2, 2, Code::BudgetExhausted)] {
        let (dir, executor) =
            (Arc::new(tempfile::tempdir().unwrap()), FakeExecutor::offering([model.clone()]));
        let planner = TestPlanner::configured(dir, executor, FakeHealth::default(), ALL_PEERS, |config| {
            config.budgets.agents.insert(model.name.clone(), calls(limit));
        })
        .await;
        let error = OrchestratorError::new(Code::ExecutionFailed, "no")
            .with_detail("error_class", "backend_failure")
            .with_detail("response_code", 500);
        planner.script("model", Script::Fails(error));
        let error = planner.chat("hello").await.unwrap_err();
        assert_eq!(error.code, code, "{error}");
        let plan = planner.plan(&error.details["plan_id"]).await;
        let outcomes: Vec<_> = plan.tasks[0].attempts.iter().map(|a| (a.number, &*a.outcome)).collect();
        assert_eq!(outcomes, (1..=attempts).map(|number| (number, "failed")).collect::<Vec<_>>());
        assert!(planner.executor.log.lock().unwrap().calls.iter().all(|call| call.reserved_attempts == 1));
        let states = budgets(&planner, "").await;
        let used = states[0].used.unwrap();
        assert_eq!((used.calls, used.tokens), (attempts.into(), 12 * u64::from(attempts)));
        assert_eq!(states[0].reserved.unwrap().calls, 0);
    }
}

#[tokio::test]
async fn budget_of_a_request_counts_tokens_and_cost() {
    let planner = TestPlanner::new().await;
    let metadata = r#"{"provider":"openai","usage":{"input_tokens":30,"output_tokens":12},"cost_usd":0.02}"#;
    let output = ActionResult { metadata: Object::parse(metadata).unwrap(), ..ActionResult::text("hi") };
    planner.script("model", Script::Says(vec![started(1), succeeded(1, &output)]));
    let budget = Budget { max_cost_nanos: Some(500_000_000), max_tokens: Some(100_000), ..Budget::default() };
    let answer = chat_within(&planner, budget).await.unwrap();
    let plan = planner.plan(&answer.plan_id).await;
    assert_eq!(plan.budget, Some(budget));
    let states = budgets(&planner, &answer.plan_id).await;
    let [state] = &states[..] else { panic!("{states:?}") };
    let used = state.used.unwrap();
    assert_eq!((used.cost_nanos, used.tokens, used.calls), (20_000_000, 42, 1));
    assert_eq!((&*state.scope, state.reserved.unwrap().calls, state.resets_at), ("plan", 0, None));
    let error = chat_within(&planner, Budget { max_tokens: Some(0), ..Budget::default() }).await.unwrap_err();
    assert_eq!((error.code, &*error.details["limit"]), (Code::BudgetExhausted, "max_tokens"));
    let failed = planner.plan(&error.details["plan_id"]).await;
    assert_eq!(
        (status_of(&failed), error_of(&failed).code.as_str()),
        (PlanStatus::Failed, "budget_exhausted")
    );
}

#[tokio::test]
async fn default_budget_applies_to_what_a_request_leaves_out() {
    let planner = with(|config| config.budgets.plan = calls(0)).await;
    assert_eq!(planner.chat("hello").await.unwrap_err().code, Code::BudgetExhausted);
    chat_within(&planner, Budget { max_calls: Some(1), ..Budget::default() }).await.unwrap();
    let error = chat_within(&planner, Budget { max_tokens: Some(1), ..Budget::default() }).await.unwrap_err();
    assert_eq!(error.details["limit"], "max_calls");
}

#[tokio::test]
async fn cancelled_call_counts_as_it_was_reserved() {
    let planner = limited(Limits::new([None, Some(1_000_000), Some(3), None])).await;
    planner.script("model", Script::Hangs);
    let request = PlanAndExecuteRequest { message: "hello".into(), ..Default::default() };
    let plan_id = planner.client.clone().submit_plan(request).await.unwrap().into_inner().plan_id;
    eventually(async || {
        executed(&planner) == 1 && !planner.plan(&plan_id).await.tasks[0].attempts.is_empty()
    })
    .await;
    let cancel =
        CancelPlanRequest { plan_id: plan_id.clone(), reason: "enough".into(), ..Default::default() };
    planner.client.clone().cancel_plan(cancel).await.unwrap();
    let states = budgets(&planner, "").await;
    let used = states[0].used.unwrap();
    assert!(used.tokens > 4096, "the answer that was expected, and the input: {used:?}");
    assert_eq!((used.calls, states[0].reserved.unwrap().calls), (1, 0));
}

#[tokio::test]
async fn call_ends_when_its_time_is_used_up() {
    let planner = TestPlanner::new().await;
    planner.script("model", Script::Hangs);
    let error =
        chat_within(&planner, Budget { max_wall_ms: Some(300), ..Budget::default() }).await.unwrap_err();
    assert_eq!((error.code, &*error.details["limit"]), (Code::BudgetExhausted, "max_wall_ms"));
    let states = budgets(&planner, &error.details["plan_id"]).await;
    assert!(states[0].used.unwrap().wall_ms >= 300 && states[0].reserved.unwrap().wall_ms == 0);
    eventually(async || planner.executor.log.lock().unwrap().abandoned == 1).await;
}

#[tokio::test]
async fn call_of_a_killed_planner_is_counted_and_made_again() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let url = format!("sqlite://{}", dir.path().join("planner.db").display());
    let store = store::open(&url).await.unwrap();
    store.register("dead").await.unwrap();
    // As a planner leaves it that dies between the reservation and the settlement.
    let plan = crate::support::new_plan(Timestamp::now(), &["model"]);
    let task = TaskRef { plan_id: plan.plan_id, ordinal: 0 };
    let entries = [store::Entry::PlanAccepted { trace: None, plan: Arc::new(plan.clone()) }];
    store.append(&crate::support::batch("dead"), &[entries.as_slice().into()]).await.unwrap();
    let account = Scope::Agent("model".parse().unwrap()).account(Timestamp::now());
    let charges = [Charge { account, limits: calls(2), wanted: Each::new([0, 0, 1, 0]) }];
    store.reserve("dead", Call { task, number: 1 }, &charges, Timestamp::now()).await.unwrap();
    store.close().await;
    let (executor, health) = (FakeExecutor::default(), FakeHealth::default());
    let planner = TestPlanner::configured(dir, executor, health, ALL_PEERS, |config| {
        config.budgets.agents.insert("model".parse().unwrap(), calls(2));
    })
    .await;
    let ended = planner.ended(&plan.plan_id.to_string()).await;
    assert_eq!(status_of(&ended), PlanStatus::Succeeded);
    assert_eq!(state(&planner).await, (2, 0));
    assert_eq!(planner.chat("hello").await.unwrap_err().code, Code::BudgetExhausted);
}

#[tokio::test]
async fn provider_that_answers_is_counted() {
    let model =
        AgentSpec { provider: Some("openai".into()), ..AgentSpec::new("model".parse().unwrap(), Vec::new()) };
    let (dir, executor) = (Arc::new(tempfile::tempdir().unwrap()), FakeExecutor::offering([model]));
    let planner = TestPlanner::configured(dir, executor, FakeHealth::default(), ALL_PEERS, |config| {
        config.budgets.providers.insert("anthropic".into(), calls(9));
        config.budgets.providers.insert("openai".into(), calls(0));
    })
    .await;
    let refused = planner.chat("hello").await.unwrap_err();
    assert_eq!((refused.code, &*refused.details["budget"]), (Code::BudgetExhausted, "provider/openai"));
    let metadata = r#"{"provider":"anthropic","usage":{"input_tokens":30,"output_tokens":12}}"#;
    let output = ActionResult { metadata: Object::parse(metadata).unwrap(), ..ActionResult::text("hi") };
    planner.script("model", Script::Says(vec![started(1), succeeded(1, &output)]));
    let request = PlanAndExecuteRequest {
        message: "hello".into(),
        chat_json: r#"{"model":"anthropic/claude"}"#.into(),
        ..Default::default()
    };
    planner.client.clone().plan_and_execute(request).await.unwrap();
    let used: Vec<_> = budgets(&planner, "")
        .await
        .into_iter()
        .map(|state| (state.name, state.used.unwrap().calls))
        .collect();
    assert_eq!(used, [("anthropic".to_owned(), 1), ("openai".to_owned(), 0)]);
}
