//! The planner through its own server, between scripted peers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::support::{
    ALL_PEERS, FakeExecutor, FakeHealth, Peers, Script, TestPlanner, answers, error_of, eventually, failed,
    finished, started, status_of, unhealthy,
};
use jiff::Timestamp;
use phoenix_domain::{CorrelationId, OrchestratorError, OrchestratorErrorCode as Code};
use phoenix_platform::RequestContext;
use phoenix_proto::{
    common::AgentHealth,
    planner::{PlanStatus, TaskStatus},
    to_timestamp,
};
use sqlx::{Connection, SqliteConnection};

#[tokio::test]
async fn a_chat_is_routed_run_and_journalled() {
    let stage = TestPlanner::new().await;
    stage.script("git_agent", Script::Says(answers("clean")));
    let context = RequestContext::new(CorrelationId::generate());
    let answer = stage.send(context.clone(), "show me the Git Status", None).await.unwrap();
    assert_eq!((answer.output.as_str(), answer.agent.as_str()), ("clean", "git_agent"));

    let plan = stage.plan(&answer.plan_id).await;
    assert_eq!(status_of(&plan), PlanStatus::Succeeded);
    assert_eq!(plan.correlation_id, context.correlation_id.to_string());
    assert_eq!(plan.output.as_deref(), Some("clean"));
    let [task] = &plan.tasks[..] else { panic!("one task, not {:?}", plan.tasks) };
    assert_eq!(
        (task.agent.as_str(), task.action.as_str(), task.status()),
        ("git_agent", "chat", TaskStatus::Succeeded)
    );
    let [attempt] = &task.attempts[..] else { panic!("one attempt, not {:?}", task.attempts) };
    assert_eq!((attempt.outcome.as_str(), attempt.worker.as_str()), ("succeeded", "pid 1"));
    assert_eq!(stage.plans_of(context.correlation_id).await.len(), 1);

    let log = stage.executor.log.lock().unwrap();
    let [call] = &log.calls[..] else { panic!("one call, not {:?}", log.calls) };
    assert_eq!(log.correlation_ids, [context.correlation_id]);
    assert_eq!(call.payload_json, r#"{"message":"show me the Git Status"}"#);
    assert_eq!((call.context.as_str(), call.first_attempt), ("the context", 1));
    assert_eq!(call.task_id, task.task_id);
}

#[tokio::test]
async fn what_the_caller_got_wrong_is_named_and_nothing_runs() {
    let stage = TestPlanner::new().await;
    let long = "x".repeat(40_000);
    for (message, agent, code, field) in [
        ("", None, Code::ValidationFailed, "message"),
        ("  \n", None, Code::ValidationFailed, "message"),
        (&*long, None, Code::ValidationFailed, "message"),
        ("hi", Some("../sh"), Code::ValidationFailed, "agent"),
        ("hi", Some("nobody"), Code::PlanningFailed, "agent"),
    ] {
        let context = RequestContext::new(CorrelationId::generate());
        let error = stage.send(context, message, agent).await.unwrap_err();
        assert_eq!((error.code, error.details["field"].as_str()), (code, field), "{error}");
    }
    assert!(stage.executor.log.lock().unwrap().calls.is_empty());
}

#[tokio::test]
async fn every_attempt_is_in_the_journal_with_its_failure() {
    let stage = TestPlanner::new().await;
    let error =
        OrchestratorError::new(Code::ExecutionFailed, "agent `model` failed").with_detail("stderr", "boom");
    let says =
        vec![started(1), failed(1, Some(5)), started(2), failed(2, None), finished(2, Err(error.clone()))];
    stage.script("model", Script::Says(says));
    let answer = stage.chat("hello").await.unwrap_err();
    assert_eq!((answer.code, answer.message.as_str()), (error.code, error.message.as_str()));
    let plan = stage.plan(&answer.details["plan_id"]).await;
    assert_eq!(status_of(&plan), PlanStatus::Failed);
    assert_eq!(error_of(&plan).details["stderr"], "boom");
    assert_eq!(plan.tasks[0].status(), TaskStatus::DeadLettered);
    let attempts: Vec<_> =
        plan.tasks[0].attempts.iter().map(|a| (a.number, a.outcome.as_str(), &*a.stderr_tail)).collect();
    assert_eq!(attempts, [(1, "failed", "boom"), (2, "failed", "boom")]);
}

#[tokio::test]
async fn an_unhealthy_agent_fails_fast_until_its_deadline() {
    let health = FakeHealth::default();
    health.agents.lock().unwrap().push(unhealthy("model", Timestamp::now() + Duration::from_secs(60)));
    let stage = TestPlanner::with(FakeExecutor::default(), health, ALL_PEERS).await;
    let error = stage.chat("hello").await.unwrap_err();
    assert_eq!(error.code, Code::AgentUnavailable);
    assert_eq!(error.details["agent"], "model");
    let wait = error.retry_after.unwrap();
    assert!(wait > Duration::from_secs(50) && wait <= Duration::from_secs(60), "{wait:?}");
    assert!(stage.executor.log.lock().unwrap().calls.is_empty(), "no process was started");
    let plan = stage.plan(&error.details["plan_id"]).await;
    assert_eq!((status_of(&plan), plan.tasks[0].status()), (PlanStatus::Failed, TaskStatus::DeadLettered));
    stage.chat("show my notes").await.expect("another agent is not concerned");
}

#[tokio::test]
async fn a_deadline_of_another_clock_counts_for_as_long_as_the_circuit_stays_open_after_a_failure() {
    let health = FakeHealth::default();
    // By the health service's clock, which is an hour ahead, the agent failed just now and is left alone for 200 ms.
    let failed_at = Timestamp::now() + Duration::from_secs(3600);
    let cooldown = Duration::from_millis(200);
    let last_failure_at = Some(to_timestamp(failed_at));
    let health_of_model = AgentHealth { last_failure_at, ..unhealthy("model", failed_at + cooldown) };
    health.agents.lock().unwrap().push(health_of_model);
    let stage = TestPlanner::with(FakeExecutor::default(), health, ALL_PEERS).await;
    eventually(async || match stage.chat("hello").await {
        Ok(_) => true,
        Err(error) => {
            assert!(error.retry_after.unwrap() <= cooldown, "{error:?}");
            false
        }
    })
    .await;
    let leases: Vec<_> =
        stage.executor.log.lock().unwrap().calls.iter().map(|call| call.probe_lease.clone()).collect();
    assert_eq!(leases, ["lease-1"], "the health service decides who tries it");
}

#[tokio::test]
async fn after_the_deadline_one_probe_goes() {
    let health = FakeHealth::default();
    health.agents.lock().unwrap().push(unhealthy("model", Timestamp::now()));
    let stage = TestPlanner::with(FakeExecutor::default(), health, ALL_PEERS).await;
    stage.chat("first").await.unwrap();
    let refused = stage.chat("second").await.unwrap_err();
    assert_eq!(refused.code, Code::AgentUnavailable);
    let leases: Vec<_> =
        stage.executor.log.lock().unwrap().calls.iter().map(|call| call.probe_lease.clone()).collect();
    assert_eq!(leases, ["lease-1"]);
}

#[tokio::test]
async fn without_the_health_service_chats_run() {
    let peers = Peers { executor: true, health: false };
    let stage = TestPlanner::with(FakeExecutor::default(), FakeHealth::default(), peers).await;
    eventually(async || stage.chat("hello").await.is_ok()).await;
}

#[tokio::test]
async fn without_the_executor_the_answer_comes_at_once_and_says_when_to_retry() {
    let peers = Peers { executor: false, health: true };
    let stage = TestPlanner::with(FakeExecutor::default(), FakeHealth::default(), peers).await;
    let asked = Instant::now();
    let error = stage.chat("hello").await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.retry_after.is_some());
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert_eq!(status_of(&stage.plan(&error.details["plan_id"]).await), PlanStatus::Failed);
}

#[tokio::test]
async fn refusals_of_the_executor_pass_through() {
    let stage = TestPlanner::new().await;
    let refused = OrchestratorError::new(Code::PlanningFailed, "no such agent here");
    stage.script("model", Script::Refuses(refused.clone()));
    let error = stage.chat("hello").await.unwrap_err();
    assert_eq!((error.code, error.message), (refused.code, refused.message));
}

#[tokio::test]
async fn an_executor_that_stops_in_the_middle_leaves_no_open_attempt() {
    let stage = TestPlanner::new().await;
    stage.script("model", Script::Breaks);
    let error = stage.chat("hello").await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    let plan = stage.plan(&error.details["plan_id"]).await;
    assert!(plan.tasks[0].attempts.iter().all(|attempt| attempt.outcome == "cancelled"), "{:?}", plan.tasks);
    assert!(stage.executor.log.lock().unwrap().calls.len() > 1, "it was handed over again");
}

#[tokio::test]
async fn the_callers_deadline_ends_the_plan() {
    let stage = TestPlanner::new().await;
    stage.script("model", Script::Hangs);
    let context = RequestContext::new(CorrelationId::generate());
    let limited = context.clone().with_deadline(Instant::now() + Duration::from_millis(300));
    let error = stage.send(limited, "hello", None).await.unwrap_err();
    assert_eq!(error.code, Code::Timeout);
    eventually(async || stage.executor.log.lock().unwrap().abandoned == 1).await;
    // The caller's own clock may have ended the call first.
    let plan = stage.ended(&stage.plans_of(context.correlation_id).await[0].plan_id).await;
    assert_eq!((status_of(&plan), error_of(&plan).code.as_str()), (PlanStatus::Failed, "timeout"));
}

#[tokio::test]
async fn a_caller_that_goes_away_cancels_its_plan() {
    let stage = TestPlanner::new().await;
    stage.script("model", Script::Hangs);
    let context = RequestContext::new(CorrelationId::generate());
    let call = stage.send(context.clone(), "hello", None);
    tokio::select! {
        _ = call => panic!("the agent hangs"),
        () = eventually(async || !stage.executor.log.lock().unwrap().calls.is_empty()) => {}
    }
    eventually(async || stage.executor.log.lock().unwrap().abandoned == 1).await;
    eventually(async || {
        let plans = stage.plans_of(context.correlation_id).await;
        plans.iter().any(|plan| status_of(plan) == PlanStatus::Cancelled)
    })
    .await;
}

#[tokio::test]
async fn on_shutdown_the_plan_in_flight_ends_and_its_caller_is_answered() {
    let mut stage = TestPlanner::new().await;
    stage.script("model", Script::Hangs);
    let context = RequestContext::new(CorrelationId::generate());
    let limited = context.clone().with_deadline(Instant::now() + Duration::from_secs(1));
    let mut client = stage.client.clone();
    let request =
        phoenix_proto::planner::PlanAndExecuteRequest { message: "hello".into(), ..Default::default() };
    let call = tokio::spawn(async move { client.plan_and_execute(limited.request(request)).await });
    eventually(async || !stage.executor.log.lock().unwrap().calls.is_empty()).await;
    stage.stop().await;
    let status = call.await.unwrap().unwrap_err();
    assert_eq!(phoenix_proto::error_from_status(&status).code, Code::Timeout, "the agent had its time");
}

#[tokio::test]
async fn plans_left_open_by_a_killed_planner_are_run_on_by_the_next() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let context = RequestContext::new(CorrelationId::generate());
    {
        let stage =
            TestPlanner::on(dir.clone(), FakeExecutor::default(), FakeHealth::default(), ALL_PEERS).await;
        stage.script("model", Script::Hangs);
        let call = stage.send(context.clone(), "hello", None);
        tokio::select! {
            _ = call => panic!("the agent hangs"),
            () = eventually(async || {
                let plans = stage.plans_of(context.correlation_id).await;
                plans.iter().any(|plan| status_of(plan) == PlanStatus::Running)
            }) => {}
        }
        // What a SIGKILL leaves: the file as it is in this moment.
        for file in ["planner.db", "planner.db-wal"] {
            std::fs::copy(dir.path().join(file), dir.path().join(format!("killed-{file}"))).unwrap();
        }
    }
    let later = Arc::new(tempfile::tempdir().unwrap());
    for file in ["planner.db", "planner.db-wal"] {
        std::fs::copy(dir.path().join(format!("killed-{file}")), later.path().join(file)).unwrap();
    }
    let stage = TestPlanner::on(later, FakeExecutor::default(), FakeHealth::default(), ALL_PEERS).await;
    // Above every number that the first planner may have used without the journal knowing.
    let next = 101;
    stage.script("model", Script::Says(vec![started(next), finished(1, Ok("at last"))]));
    eventually(async || status_of(&stage.plans_of(context.correlation_id).await[0]) == PlanStatus::Succeeded)
        .await;
    let plan = stage.plan(&stage.plans_of(context.correlation_id).await[0].plan_id).await;
    assert_eq!(plan.output.as_deref(), Some("at last"));
    let attempts: Vec<_> = plan.tasks[0].attempts.iter().map(|a| (a.number, a.outcome.as_str())).collect();
    assert_eq!(attempts, [(1, "cancelled"), (next, "succeeded")]);
    let log = stage.executor.log.lock().unwrap();
    assert_eq!((log.calls[0].first_attempt, &log.calls[0].idempotency_key), (next, &plan.tasks[0].task_id));
    assert_eq!(log.correlation_ids, [context.correlation_id], "the same request, told on");
}

#[tokio::test]
async fn a_planner_that_was_taken_for_dead_writes_nothing_more() {
    let mut stage = TestPlanner::new().await;
    stage.chat("before").await.unwrap();
    let mut file = SqliteConnection::connect(&stage.database_url).await.unwrap();
    sqlx::query("DELETE FROM planners").execute(&mut file).await.unwrap();
    let error = stage.chat("after").await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable, "{error}");
    let served =
        tokio::time::timeout(crate::support::PATIENCE, stage.server.take().unwrap()).await.unwrap().unwrap();
    assert!(served.is_err(), "the server ends with an error, so that a supervisor starts another");
    let store = phoenix_planner::store::open(&stage.database_url).await.unwrap();
    let all = phoenix_planner::store::PlanFilter { limit: 10, ..Default::default() };
    assert_eq!(store.plans(&all).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn a_journal_that_cannot_be_written_refuses_plans_and_recovers_by_itself() {
    let stage = TestPlanner::new().await;
    stage.chat("before").await.unwrap();
    let mut other = SqliteConnection::connect(&stage.database_url).await.unwrap();
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let error = stage.chat("while locked").await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable, "{error}");
    assert!(error.retry_after.is_some());
    assert!(!error.message.contains("sqlite") && !error.message.contains('/'), "{error}");
    lock.rollback().await.unwrap();
    eventually(async || stage.chat("after").await.is_ok()).await;
}

#[tokio::test]
async fn a_journal_of_a_newer_version_is_refused() {
    let mut stage = TestPlanner::new().await;
    stage.stop().await;
    let mut file = SqliteConnection::connect(&stage.database_url).await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'from the future', TRUE, x'00', 0)",
    )
    .execute(&mut file)
    .await
    .unwrap();
    let readiness = phoenix_platform::readiness::Readiness::needing(&[]);
    let error = phoenix_planner::journal::Journal::open(&stage.database_url, readiness).await.unwrap_err();
    assert!(error.to_string().contains("9999"), "{error}");
}

#[tokio::test]
async fn listings_are_paged_newest_first_and_filtered() {
    let stage = TestPlanner::new().await;
    for n in 0..5 {
        stage.chat(&format!("hello {n}")).await.unwrap();
    }
    stage.script("notes", Script::Breaks);
    stage.chat("notes").await.unwrap_err();
    let mut client = stage.client.clone();
    let mut request = phoenix_proto::planner::ListPlansRequest { page_size: 2, ..Default::default() };
    let mut seen = Vec::new();
    loop {
        let page = client.list_plans(request.clone()).await.unwrap().into_inner();
        seen.extend(page.plans.into_iter().map(|plan| plan.plan_id));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen.len(), 6);
    assert!(seen.windows(2).all(|pair| pair[0] > pair[1]), "newest first, none twice: {seen:?}");
    let failed =
        phoenix_proto::planner::ListPlansRequest { status: PlanStatus::Failed.into(), ..Default::default() };
    assert_eq!(client.list_plans(failed).await.unwrap().into_inner().plans.len(), 1);
    let bad = phoenix_proto::planner::ListPlansRequest { page_size: 9999, ..Default::default() };
    assert_eq!(client.list_plans(bad).await.unwrap_err().code(), tonic::Code::InvalidArgument);
}
