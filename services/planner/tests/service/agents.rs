//! Agents that executors offer: unknown before the first catalog, kept for a grace period, changed without a restart.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use phoenix_domain::{AgentSpec, OrchestratorErrorCode as Code};
use phoenix_planner::PlannerConfig;
use phoenix_proto::planner::{ListPlansRequest, Plan, PlanAndExecuteRequest, PlanStatus, TaskStatus};

use crate::{
    graphs::submit,
    support::{
        ALL_PEERS, FakeExecutor, FakeHealth, Script, TestPlanner, answers, catalog, error_of, eventually,
        graph, status_of, task,
    },
};

/// Grace period of these tests.
const GRACE: Duration = Duration::from_secs(1);

/// A planner with a short grace period.
async fn impatient() -> TestPlanner {
    configured(|config| config.agent_grace = GRACE).await
}

async fn configured(change: impl FnOnce(&mut PlannerConfig)) -> TestPlanner {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    TestPlanner::configured(dir, FakeExecutor::default(), FakeHealth::default(), ALL_PEERS, change).await
}

fn agent(name: &str) -> AgentSpec {
    AgentSpec::new(name.parse().unwrap(), Vec::new())
}

fn chat(agent: &str) -> PlanAndExecuteRequest {
    PlanAndExecuteRequest { message: "hello".into(), agent: Some(agent.into()), ..Default::default() }
}

/// Waits until the planner has lost its executor.
async fn lose_executor(planner: &TestPlanner) {
    planner.executor.leave();
    eventually(async || !planner.is_serving().await).await;
}

fn assert_dead_lettered(plan: &Plan, agent: &str) {
    let error = error_of(plan);
    assert_eq!(
        (status_of(plan), error.code.as_str()),
        (PlanStatus::Failed, "agent_unavailable"),
        "{error:?}"
    );
    let expected = format!("agent `{agent}` has not been offered by any executor for {} s", GRACE.as_secs());
    assert!(error.message.starts_with(&expected), "{error:?}");
    assert_eq!(plan.tasks[0].status(), TaskStatus::DeadLettered);
}

#[tokio::test]
async fn request_before_the_first_catalog_is_unavailable() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let planner = TestPlanner::unreached(dir).await;
    let waiting = planner.chat("hello").await.unwrap_err();
    let asynchronous = submit(&planner, chat("model")).await.unwrap_err();
    for error in [waiting, asynchronous] {
        assert_eq!(error.code, Code::Unavailable, "{error}");
        assert!(error.retry_after.is_some() && !error.details.contains_key("plan_id"), "{error:?}");
        assert!(error.message.contains("EXECUTOR_URL"), "{error}");
    }
    assert!(!planner.is_serving().await);
    let plans = planner.client.clone().list_plans(ListPlansRequest::default()).await.unwrap();
    assert!(plans.into_inner().plans.is_empty());
}

#[tokio::test]
async fn waiting_task_is_dead_lettered_when_its_agent_stays_away() {
    let planner = impatient().await;
    lose_executor(&planner).await;
    let lost = Instant::now();
    let plan_id = submit(&planner, chat("model")).await.unwrap();
    eventually(async || status_of(&planner.plan(&plan_id).await) == PlanStatus::Running).await;
    let plan = planner.ended(&plan_id).await;
    assert!(lost.elapsed() > GRACE / 2, "{:?}", lost.elapsed());
    assert_dead_lettered(&plan, "model");
    let refused = planner.chat("hello").await.unwrap_err();
    assert_eq!(refused.code, Code::PlanningFailed, "a new request names the missing agent: {refused}");
}

#[tokio::test]
async fn plans_that_queue_for_an_agent_end_with_it() {
    let planner = impatient().await;
    planner.script("single", Script::Hangs);
    planner
        .executor
        .offer([AgentSpec { max_concurrency: 1, max_queue: 0, ..agent("single") }, agent("model")]);
    let mut plan_ids = Vec::new();
    for _ in 0..8 {
        plan_ids.push(submit(&planner, chat("single")).await.unwrap());
    }
    let both = graph(vec![task("a", "single", "{}", &[]), task("b", "model", "{}", &["a"])]);
    plan_ids.push(submit(&planner, both).await.unwrap());
    planner.executor.offer([agent("model")]);
    for plan_id in &plan_ids[1..] {
        assert_dead_lettered(&planner.ended(plan_id).await, "single");
    }
    assert!(planner.is_serving().await, "the executor is still there");
    assert_eq!(planner.chat("hello").await.unwrap().output, "ok");
}

#[tokio::test]
async fn plan_continues_when_its_executor_returns_in_time() {
    let planner = configured(|_| {}).await;
    lose_executor(&planner).await;
    let plan_id = submit(&planner, chat("model")).await.unwrap();
    eventually(async || status_of(&planner.plan(&plan_id).await) == PlanStatus::Running).await;
    planner.executor.serve(Some(&planner.executor_url)).await;
    let plan = planner.ended(&plan_id).await;
    assert_eq!((status_of(&plan), plan.output.as_deref()), (PlanStatus::Succeeded, Some("ok")));
    eventually(async || planner.is_serving().await).await;
}

#[tokio::test]
async fn agent_missing_from_a_new_executor_goes_after_the_grace() {
    let planner = impatient().await;
    lose_executor(&planner).await;
    let plan_id = submit(&planner, chat("model")).await.unwrap();
    planner.executor.offer([agent("notes")]);
    planner.executor.serve(Some(&planner.executor_url)).await;
    assert_dead_lettered(&planner.ended(&plan_id).await, "model");
}

#[tokio::test]
async fn change_of_capacity_takes_effect_without_a_restart() {
    let planner = TestPlanner::new().await;
    planner.script("single", Script::Hangs);
    submit(&planner, chat("single")).await.unwrap();
    let waiting = submit(&planner, chat("single")).await.unwrap();
    let calls = || planner.executor.log.lock().unwrap().calls.len();
    eventually(async || calls() == 1).await;
    let ask = async || planner.client.clone().plan_and_execute(chat("single")).await;
    let refused = phoenix_proto::error_from_status(&ask().await.unwrap_err());
    assert_eq!(refused.code, Code::Overloaded, "{refused}");
    let offer = |max_concurrency| {
        let agents = catalog().iter().cloned().collect::<Vec<_>>();
        planner.executor.offer(agents.into_iter().map(|spec| match spec.name.as_str() {
            "single" => AgentSpec { max_concurrency, ..spec },
            _ => spec,
        }));
    };
    offer(3);
    eventually(async || calls() == 2).await;
    eventually(async || status_of(&planner.plan(&waiting).await) == PlanStatus::Running).await;
    planner.script("single", Script::Says(answers("third")));
    assert_eq!(ask().await.unwrap().into_inner().output, "third");
    offer(1);
    eventually(async || ask().await.is_err()).await;
}

#[tokio::test]
async fn agent_is_known_as_soon_as_it_is_offered() {
    let planner = TestPlanner::new().await;
    let ask = async || planner.client.clone().plan_and_execute(chat("late")).await;
    let unknown = phoenix_proto::error_from_status(&ask().await.unwrap_err());
    assert_eq!(unknown.code, Code::PlanningFailed);
    assert!(unknown.message.starts_with("unknown agent `late`; configured agents: git_agent, "), "{unknown}");
    planner.executor.offer(catalog().iter().cloned().chain([agent("late")]));
    eventually(async || ask().await.is_ok()).await;
}
