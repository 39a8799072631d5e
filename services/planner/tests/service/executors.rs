//! Several executors: the choice among them, and the loss of one.

use std::sync::Arc;

use phoenix_domain::{AgentSpec, OrchestratorError, OrchestratorErrorCode as Code};
use phoenix_proto::{
    executor::ExecuteTaskRequest,
    planner::{PlanAndExecuteRequest, PlanStatus},
};
use tokio::sync::Semaphore;

use crate::{
    graphs::submit,
    support::{
        ALL_PEERS, FakeExecutor, FakeHealth, Script, TestPlanner, answers, catalog, eventually, status_of,
    },
};

fn chat(agent: &str) -> PlanAndExecuteRequest {
    PlanAndExecuteRequest { message: "hello".into(), agent: Some(agent.into()), ..Default::default() }
}

/// A planner with a first executor that offers everything, and a second one that offers `agents` and is known.
async fn with_second(agents: impl IntoIterator<Item = AgentSpec>) -> (TestPlanner, FakeExecutor) {
    let marker = AgentSpec::new("second".parse().unwrap(), Vec::new());
    let second = FakeExecutor::offering(agents.into_iter().chain([marker]));
    let url = second.serve(None).await;
    let (dir, first) = (Arc::new(tempfile::tempdir().unwrap()), FakeExecutor::default());
    let planner = TestPlanner::configured(dir, first, FakeHealth::default(), ALL_PEERS, |config| {
        config.executor_url = format!("{},{url}", config.executor_url);
    })
    .await;
    let is_known = async || planner.client.clone().dry_run_plan(chat("second")).await.is_ok();
    eventually(is_known).await;
    (planner, second)
}

fn everything() -> Vec<AgentSpec> {
    catalog().iter().cloned().collect()
}

fn script(executor: &FakeExecutor, agent: &str, script: Script) {
    executor.scripts.lock().unwrap().insert(agent.into(), script);
}

fn calls(executor: &FakeExecutor) -> Vec<ExecuteTaskRequest> {
    executor.log.lock().unwrap().calls.clone()
}

#[tokio::test]
async fn task_goes_to_the_executor_that_offers_its_agent() {
    let (planner, second) = with_second([]).await;
    for agent in ["second", "model", "second", "notes"] {
        planner.client.clone().plan_and_execute(chat(agent)).await.unwrap();
    }
    let agents = |executor| calls(executor).into_iter().map(|call| call.agent).collect::<Vec<_>>();
    assert_eq!(agents(&second), ["second", "second"]);
    assert_eq!(agents(&planner.executor), ["model", "notes"]);
    second.leave();
}

#[tokio::test]
async fn tasks_are_shared_and_capacities_add_up() {
    let (planner, second) = with_second(everything()).await;
    let leave = Arc::new(Semaphore::new(0));
    for executor in [&planner.executor, &second] {
        for agent in ["model", "single"] {
            script(executor, agent, Script::Waits(Arc::clone(&leave)));
        }
    }
    let mut plan_ids = Vec::new();
    for _ in 0..40 {
        plan_ids.push(submit(&planner, chat("model")).await.unwrap());
    }
    let count = |executor| calls(executor).len();
    eventually(async || count(&planner.executor) + count(&second) == 40).await;
    assert_eq!((count(&planner.executor), count(&second)), (20, 20));

    for _ in 0..2 {
        plan_ids.push(submit(&planner, chat("single")).await.unwrap());
    }
    eventually(async || count(&planner.executor) == 21 && count(&second) == 21).await;
    let refused = planner.client.clone().plan_and_execute(chat("single")).await.unwrap_err();
    assert_eq!(phoenix_proto::error_from_status(&refused).code, Code::Overloaded);
    leave.add_permits(plan_ids.len());
    for plan_id in &plan_ids {
        assert_eq!(status_of(&planner.ended(plan_id).await), PlanStatus::Succeeded);
    }
    second.leave();
}

#[tokio::test]
async fn task_of_a_broken_executor_continues_with_new_numbers() {
    let (planner, second) = with_second(everything()).await;
    script(&planner.executor, "model", Script::Breaks);
    script(&second, "model", Script::Says(answers("from the second")));
    let mut broken = 0;
    while broken < 3 {
        let answer = planner.chat("hello").await.unwrap();
        assert_eq!(answer.output, "from the second");
        broken = calls(&planner.executor).len();
    }
    let (first, second_calls) = (calls(&planner.executor), calls(&second));
    for call in first {
        let again = second_calls.iter().find(|again| again.task_id == call.task_id).unwrap();
        assert_eq!(again.idempotency_key, call.idempotency_key);
        assert!(again.first_attempt > call.first_attempt, "{again:?}");
    }
    second.leave();
}

#[tokio::test]
async fn full_executor_leads_to_another() {
    let (planner, second) = with_second(everything()).await;
    script(&planner.executor, "model", Script::Refuses(OrchestratorError::new(Code::Overloaded, "full")));
    while calls(&planner.executor).len() < 3 {
        assert_eq!(planner.chat("hello").await.unwrap().output, "ok");
    }
    assert!(!calls(&second).is_empty());
    second.leave();
}

#[tokio::test]
async fn executor_that_leaves_fails_no_chat_of_an_agent_of_another() {
    let (planner, second) = with_second(everything()).await;
    second.leave();
    for _ in 0..50 {
        assert_eq!(planner.chat("hello").await.unwrap().output, "ok");
    }
    assert!(planner.is_serving().await, "one executor is left");
    let error = planner.client.clone().plan_and_execute(chat("second")).await.unwrap_err();
    assert_eq!(phoenix_proto::error_from_status(&error).code, Code::Unavailable, "it may be back");
}

#[tokio::test]
async fn cancel_reaches_the_executor_that_runs_the_task() {
    let (planner, second) = with_second([]).await;
    script(&second, "second", Script::Hangs);
    let plan_id = submit(&planner, chat("second")).await.unwrap();
    eventually(async || calls(&second).len() == 1).await;
    let request = phoenix_proto::planner::CancelPlanRequest {
        plan_id: plan_id.clone(),
        reason: "enough".into(),
        ..Default::default()
    };
    planner.client.clone().cancel_plan(request).await.unwrap();
    eventually(async || second.log.lock().unwrap().abandoned == 1).await;
    assert_eq!(status_of(&planner.plan(&plan_id).await), PlanStatus::Cancelled);
    second.leave();
}
