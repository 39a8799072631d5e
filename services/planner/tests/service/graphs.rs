//! Plans with several tasks.

use std::{sync::Arc, time::Duration};

use crate::support::{
    ALL_PEERS, FakeExecutor, FakeHealth, Peers, Script, TestPlanner, answers, error_of, eventually, finished,
    graph, started, status_of, task,
};
use phoenix_domain::{CorrelationId, OrchestratorError, OrchestratorErrorCode as Code};
use phoenix_platform::RequestContext;
use phoenix_proto::planner::{
    CancelPlanRequest, PlanAndExecuteRequest, PlanStatus, TaskStatus, WatchPlanRequest,
};
use sqlx::{Connection, SqliteConnection};
use tokio_util::sync::CancellationToken;

pub(crate) async fn submit(
    planner: &TestPlanner,
    request: PlanAndExecuteRequest,
) -> Result<String, OrchestratorError> {
    let context = RequestContext::new(CorrelationId::generate());
    let answer = planner.client.clone().submit_plan(context.request(request)).await;
    answer
        .map(|response| response.into_inner().plan_id)
        .map_err(|status| phoenix_proto::error_from_status(&status))
}

#[tokio::test]
async fn outputs_flow_along_the_graph() {
    let planner = TestPlanner::new().await;
    planner.script("git_agent", Script::Says(answers("2 files")));
    let request = graph(vec![
        task("status", "git_agent", "{}", &[]),
        task("note", "notes", r#"{"content": "Today: {{tasks.status.output}}"}"#, &[]),
    ]);
    let plan = planner.ended(&submit(&planner, request).await.unwrap()).await;
    assert_eq!((status_of(&plan), plan.output.as_deref()), (PlanStatus::Succeeded, Some("ok")));
    let log = planner.executor.log.lock().unwrap();
    let payloads: Vec<_> = log.calls.iter().map(|call| (&*call.agent, &*call.payload_json)).collect();
    assert_eq!(payloads, [("git_agent", "{}"), ("notes", r#"{"content":"Today: 2 files"}"#)]);
}

#[tokio::test]
async fn independent_tasks_run_concurrently() {
    let planner = TestPlanner::new().await;
    planner.script("model", Script::Hangs);
    let tasks = (0..8).map(|n| task(&format!("t{n}"), "model", "{}", &[])).collect();
    let plan_id = submit(&planner, graph(tasks)).await.unwrap();
    eventually(async || planner.executor.log.lock().unwrap().calls.len() == 8).await;
    let cancel =
        CancelPlanRequest { plan_id: plan_id.clone(), reason: "enough".into(), ..Default::default() };
    planner.client.clone().cancel_plan(cancel.clone()).await.unwrap();
    let plan = planner.plan(&plan_id).await;
    assert_eq!((status_of(&plan), error_of(&plan).message.as_str()), (PlanStatus::Cancelled, "enough"));
    assert!(plan.tasks.iter().all(|task| task.status() == TaskStatus::Cancelled), "{:?}", plan.tasks);
    eventually(async || planner.executor.log.lock().unwrap().abandoned == 8).await;
    let again = planner.client.clone().cancel_plan(cancel).await.unwrap_err();
    assert_eq!(again.code(), tonic::Code::AlreadyExists);
}

#[tokio::test]
async fn cancel_after_the_end_is_a_conflict() {
    let planner = TestPlanner::new().await;
    let when = CancellationToken::new();
    planner.script("model", Script::SaysLater(when.clone(), answers("done")));
    let plan_id = submit(&planner, graph(vec![task("a", "model", "{}", &[])])).await.unwrap();
    eventually(async || planner.plan(&plan_id).await.status() == PlanStatus::Running).await;
    // The plan has ended, and the journal cannot commit that yet.
    let mut other = SqliteConnection::connect(&planner.database_url).await.unwrap();
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    when.cancel();
    eventually(async || planner.executor.log.lock().unwrap().abandoned == 1).await;
    let mut client = planner.client.clone();
    let cancel =
        CancelPlanRequest { plan_id: plan_id.clone(), reason: "too late".into(), ..Default::default() };
    let mut cancelled = Box::pin(client.cancel_plan(cancel));
    let early = tokio::time::timeout(Duration::from_millis(200), &mut cancelled).await;
    assert!(early.is_err(), "no answer before the plan's end is durable");
    lock.rollback().await.unwrap();
    let refused = phoenix_proto::error_from_status(&cancelled.await.unwrap_err());
    assert_eq!(refused.code, Code::Conflict, "{refused}");
    assert_eq!(status_of(&planner.ended(&plan_id).await), PlanStatus::Succeeded);
}

#[tokio::test]
async fn failed_task_fails_its_plan_unless_it_continues() {
    let planner = TestPlanner::new().await;
    let error = OrchestratorError::new(Code::ExecutionFailed, "no");
    planner.script("git_agent", Script::Says(vec![started(1), finished(1, Err(error))]));
    let mut tasks =
        vec![task("a", "git_agent", "{}", &[]), task("b", "notes", r#"{"x": "{{tasks.a.output}}"}"#, &[])];
    let failed = planner.ended(&submit(&planner, graph(tasks.clone())).await.unwrap()).await;
    assert_eq!((status_of(&failed), error_of(&failed).message.as_str()), (PlanStatus::Failed, "no"));
    let ends: Vec<_> = failed.tasks.iter().map(|task| task.status()).collect();
    assert_eq!(ends, [TaskStatus::DeadLettered, TaskStatus::Cancelled]);

    tasks[0].continue_on_failure = true;
    let survived = planner.ended(&submit(&planner, graph(tasks)).await.unwrap()).await;
    assert_eq!(status_of(&survived), PlanStatus::Succeeded);
    let last = planner.executor.log.lock().unwrap().calls.last().unwrap().payload_json.clone();
    assert_eq!(last, r#"{"x":null}"#);
}

#[tokio::test]
async fn invalid_graph_is_rejected_and_dry_run_returns_waves() {
    let planner = TestPlanner::new().await;
    let cycle = graph(vec![task("a", "model", "{}", &["b"]), task("b", "model", "{}", &["a"])]);
    let error = submit(&planner, cycle).await.unwrap_err();
    assert_eq!((error.code, error.details["key"].as_str()), (Code::PlanningFailed, "a"));
    let order = graph(vec![
        task("b", "model", "{}", &["a"]),
        task("a", "model", "{}", &[]),
        task("c", "model", "{}", &[]),
    ]);
    let waves = planner.client.clone().dry_run_plan(order).await.unwrap().into_inner().waves;
    let waves: Vec<_> = waves.into_iter().map(|wave| wave.keys).collect();
    assert_eq!(waves, [vec!["a", "c"], vec!["b"]]);
    assert!(planner.executor.log.lock().unwrap().calls.is_empty());
}

#[tokio::test]
async fn event_stream_resumes_without_loss_or_repeat() {
    let planner = TestPlanner::new().await;
    let plan_id = submit(&planner, graph(vec![task("a", "model", "{}", &[])])).await.unwrap();
    let watch = async |after_position| {
        let request = WatchPlanRequest {
            plan_id: plan_id.clone(),
            after_position,
            with_output: false,
            ..Default::default()
        };
        let mut stream = planner.client.clone().watch_plan(request).await.unwrap().into_inner();
        let mut events = Vec::new();
        while let Some(event) = stream.message().await.unwrap() {
            events.push((event.position, event.kind, event.task_key));
        }
        events
    };
    let all = watch(0).await;
    let kinds: Vec<_> = all.iter().map(|(_, kind, key)| (kind.as_str(), key.as_str())).collect();
    let expected = [
        ("plan_accepted", ""),
        ("task_dispatched", "a"),
        ("attempt_started", "a"),
        ("attempt_ended", "a"),
        ("task_ended", "a"),
        ("plan_ended", ""),
    ];
    assert_eq!(kinds, expected);
    assert!(all.windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert_eq!(watch(all[2].0).await, all[3..], "from the middle: the rest");
}

#[tokio::test]
async fn disconnect_during_submission_leaves_one_running_plan() {
    let planner = TestPlanner::new().await;
    let context = RequestContext::new(CorrelationId::generate());
    let request = PlanAndExecuteRequest {
        idempotency_key: "key-1".into(),
        idempotency_digest: "d1".into(),
        ..graph(vec![task("a", "model", "{}", &[])])
    };
    let send = async || {
        let answer = planner.client.clone().submit_plan(context.request(request.clone())).await;
        answer.map_err(|status| phoenix_proto::error_from_status(&status).code)
    };
    let mut other = SqliteConnection::connect(&planner.database_url).await.unwrap();
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let moment = Duration::from_millis(200);
    assert!(tokio::time::timeout(moment, send()).await.is_err(), "it is not accepted before it is durable");
    // The planner has seen the disconnect when it accepts the next call of the same connection.
    assert_eq!(send().await.unwrap_err(), Code::Conflict, "the first may still become a plan");
    lock.rollback().await.unwrap();
    eventually(async || send().await.is_ok()).await;
    let plans = planner.plans_of(context.correlation_id).await;
    assert_eq!(plans.len(), 1, "{plans:?}");
    assert_eq!(status_of(&planner.ended(&plans[0].plan_id).await), PlanStatus::Succeeded);
}

#[tokio::test]
async fn async_plan_waits_for_its_executor() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let plan_id = {
        let peers = Peers { executor: false, health: true };
        let mut planner =
            TestPlanner::on(dir.clone(), FakeExecutor::default(), FakeHealth::default(), peers).await;
        let plan_id = submit(&planner, graph(vec![task("a", "model", "{}", &[])])).await.unwrap();
        eventually(async || status_of(&planner.plan(&plan_id).await) == PlanStatus::Running).await;
        planner.stop().await;
        plan_id
    };
    let planner = TestPlanner::on(dir, FakeExecutor::default(), FakeHealth::default(), ALL_PEERS).await;
    assert_eq!(
        status_of(&planner.ended(&plan_id).await),
        PlanStatus::Succeeded,
        "taken over by the next planner"
    );
}

#[tokio::test]
async fn unreadable_plan_does_not_block_recovery_of_others() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let peers = Peers { executor: false, health: true };
    let mut planner =
        TestPlanner::on(dir.clone(), FakeExecutor::default(), FakeHealth::default(), peers).await;
    let mut plan_ids = Vec::new();
    for _ in 0..3 {
        let plan_id = submit(&planner, graph(vec![task("a", "model", "{}", &[])])).await.unwrap();
        eventually(async || status_of(&planner.plan(&plan_id).await) == PlanStatus::Running).await;
        plan_ids.push(plan_id);
    }
    planner.stop().await;
    let mut file = SqliteConnection::connect(&planner.database_url).await.unwrap();
    let damage = sqlx::query("UPDATE tasks SET payload = 'no JSON' WHERE plan_id = ?").bind(&plan_ids[1]);
    damage.execute(&mut file).await.unwrap();
    let planner = TestPlanner::on(dir, FakeExecutor::default(), FakeHealth::default(), ALL_PEERS).await;
    for plan_id in [&plan_ids[0], &plan_ids[2]] {
        assert_eq!(status_of(&planner.ended(plan_id).await), PlanStatus::Succeeded);
    }
}

#[tokio::test]
async fn plan_deadline_ends_the_plan() {
    let planner = TestPlanner::new().await;
    planner.script("model", Script::Hangs);
    let request = PlanAndExecuteRequest { deadline_ms: 200, ..graph(vec![task("a", "model", "{}", &[])]) };
    let plan = planner.ended(&submit(&planner, request).await.unwrap()).await;
    assert_eq!((status_of(&plan), error_of(&plan).code.as_str()), (PlanStatus::Failed, "timeout"));
    assert!(plan.deadline_at.is_some());
}
