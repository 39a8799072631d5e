//! The planner through its own server, between scripted peers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::support::{
    ALL_PEERS, FakeExecutor, FakeHealth, Peers, Script, TestPlanner, answers, error_of, eventually, failed,
    finished, isolated, started, status_of, unhealthy,
};
use jiff::Timestamp;
use phoenix_domain::{CorrelationId, OrchestratorError, OrchestratorErrorCode as Code};
use phoenix_platform::RequestContext;
use phoenix_proto::{
    common::{AgentHealth, Usage},
    planner::{PlanStatus, TaskStatus},
    to_timestamp,
};
use sqlx::{Connection, SqliteConnection};

#[tokio::test]
async fn chat_is_routed_run_and_journaled() {
    let planner = TestPlanner::new().await;
    planner.script("git_agent", Script::Says(answers("clean")));
    let context = RequestContext::new(CorrelationId::generate());
    let answer = planner.send(context.clone(), "show me the Git Status", None).await.unwrap();
    assert_eq!((answer.output.as_str(), answer.agent.as_str()), ("clean", "git_agent"));

    let plan = planner.plan(&answer.plan_id).await;
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
    assert_eq!(planner.plans_of(context.correlation_id).await.len(), 1);

    let log = planner.executor.log.lock().unwrap();
    let [call] = &log.calls[..] else { panic!("one call, not {:?}", log.calls) };
    assert_eq!(log.correlation_ids, [context.correlation_id]);
    assert_eq!(call.payload_json, r#"{"message":"show me the Git Status"}"#);
    assert_eq!((call.context.as_str(), call.first_attempt), ("the context", 1));
    assert_eq!(call.task_id, task.task_id);
}

#[tokio::test]
async fn invalid_request_names_its_field_and_runs_nothing() {
    let planner = TestPlanner::new().await;
    let long = "x".repeat(40_000);
    for (message, agent, code, field) in [
        ("", None, Code::ValidationFailed, "message"),
        ("  \n", None, Code::ValidationFailed, "message"),
        (&*long, None, Code::ValidationFailed, "message"),
        ("hi", Some("../sh"), Code::ValidationFailed, "agent"),
        ("hi", Some("missing"), Code::PlanningFailed, "agent"),
    ] {
        let context = RequestContext::new(CorrelationId::generate());
        let error = planner.send(context, message, agent).await.unwrap_err();
        assert_eq!((error.code, error.details["field"].as_str()), (code, field), "{error}");
    }
    assert!(planner.executor.log.lock().unwrap().calls.is_empty());
}

#[tokio::test]
async fn every_attempt_is_journaled_with_its_failure() {
    let planner = TestPlanner::new().await;
    let error =
        OrchestratorError::new(Code::ExecutionFailed, "agent `model` failed").with_detail("stderr", "boom");
    let says =
        vec![started(1), failed(1, Some(5)), started(2), failed(2, None), finished(2, Err(error.clone()))];
    planner.script("model", Script::Says(says));
    let answer = planner.chat("hello").await.unwrap_err();
    assert_eq!((answer.code, answer.message.as_str()), (error.code, error.message.as_str()));
    let plan = planner.plan(&answer.details["plan_id"]).await;
    assert_eq!(status_of(&plan), PlanStatus::Failed);
    assert_eq!(error_of(&plan).details["stderr"], "boom");
    assert_eq!(plan.tasks[0].status(), TaskStatus::DeadLettered);
    let attempts: Vec<_> =
        plan.tasks[0].attempts.iter().map(|a| (a.number, a.outcome.as_str(), &*a.stderr_tail)).collect();
    assert_eq!(attempts, [(1, "failed", "boom"), (2, "failed", "boom")]);
    let tokens = |usage: &Usage| usage.tokens.map(|tokens| tokens.input + tokens.output);
    let used: Vec<_> = plan.tasks[0].attempts.iter().map(|a| tokens(a.usage.as_ref().unwrap())).collect();
    assert_eq!(used, [Some(12), Some(12)]);
    let sum = plan.usage.unwrap();
    assert_eq!((sum.calls, tokens(&sum), sum.cost_nanos), (2, Some(24), Some(10)));
}

#[tokio::test]
async fn unhealthy_agent_fails_fast_until_its_deadline() {
    let health = FakeHealth::default();
    health.agents.lock().unwrap().push(unhealthy("model", Timestamp::now() + Duration::from_secs(60)));
    let planner = TestPlanner::with(FakeExecutor::default(), health, ALL_PEERS).await;
    let error = planner.chat("hello").await.unwrap_err();
    assert_eq!(error.code, Code::AgentUnavailable);
    assert_eq!(error.details["agent"], "model");
    let wait = error.retry_after.unwrap();
    assert!(wait > Duration::from_secs(50) && wait <= Duration::from_secs(60), "{wait:?}");
    assert!(planner.executor.log.lock().unwrap().calls.is_empty(), "no process was started");
    let plan = planner.plan(&error.details["plan_id"]).await;
    assert_eq!((status_of(&plan), plan.tasks[0].status()), (PlanStatus::Failed, TaskStatus::DeadLettered));
    planner.chat("show my notes").await.expect("another agent is not affected");
}

#[tokio::test]
async fn isolated_agent_stays_refused_without_the_health_service() {
    let health = FakeHealth::default();
    let open = unhealthy("notes", Timestamp::now() + Duration::from_secs(60));
    health.agents.lock().unwrap().extend([isolated("model"), open]);
    let planner = TestPlanner::with(FakeExecutor::default(), health.clone(), ALL_PEERS).await;
    let refused = async || {
        let error = planner.chat("hello").await.unwrap_err();
        assert_eq!(error.code, Code::AgentUnavailable);
        assert!(error.message.starts_with("agent `model` was isolated by alice at "), "{error}");
        assert_eq!(error.details["reason"], "it deletes files");
        assert!(error.retry_after.is_some());
    };
    refused().await;
    assert_eq!(planner.chat("show my notes").await.unwrap_err().code, Code::AgentUnavailable);
    health.gone.cancel();
    eventually(async || planner.chat("show my notes").await.is_ok()).await;
    refused().await;
    assert_eq!(*health.probes_granted.lock().unwrap(), 0, "no probe ends an isolation");
}

#[tokio::test]
async fn circuit_deadline_is_bounded_by_cooldown_under_clock_skew() {
    let health = FakeHealth::default();
    // On the health service's clock, an hour ahead, the agent failed just now and its circuit stays open for 200 ms.
    let failed_at = Timestamp::now() + Duration::from_secs(3600);
    let cooldown = Duration::from_millis(200);
    let last_failure_at = Some(to_timestamp(failed_at));
    let health_of_model = AgentHealth { last_failure_at, ..unhealthy("model", failed_at + cooldown) };
    health.agents.lock().unwrap().push(health_of_model);
    let planner = TestPlanner::with(FakeExecutor::default(), health, ALL_PEERS).await;
    eventually(async || match planner.chat("hello").await {
        Ok(_) => true,
        Err(error) => {
            assert!(error.retry_after.unwrap() <= cooldown, "{error:?}");
            false
        }
    })
    .await;
    let leases: Vec<_> =
        planner.executor.log.lock().unwrap().calls.iter().map(|call| call.probe_lease.clone()).collect();
    assert_eq!(leases, ["lease-1"], "the health service decides who tries it");
}

#[tokio::test]
async fn one_probe_runs_after_the_circuit_deadline() {
    let health = FakeHealth::default();
    health.agents.lock().unwrap().push(unhealthy("model", Timestamp::now()));
    let planner = TestPlanner::with(FakeExecutor::default(), health, ALL_PEERS).await;
    planner.chat("first").await.unwrap();
    let refused = planner.chat("second").await.unwrap_err();
    assert_eq!(refused.code, Code::AgentUnavailable);
    let leases: Vec<_> =
        planner.executor.log.lock().unwrap().calls.iter().map(|call| call.probe_lease.clone()).collect();
    assert_eq!(leases, ["lease-1"]);
}

#[tokio::test]
async fn chat_runs_without_the_health_service() {
    let peers = Peers { executor: true, health: false };
    let planner = TestPlanner::with(FakeExecutor::default(), FakeHealth::default(), peers).await;
    eventually(async || planner.chat("hello").await.is_ok()).await;
}

#[tokio::test]
async fn chat_without_executor_fails_at_once_with_retry_after() {
    let peers = Peers { executor: false, health: true };
    let planner = TestPlanner::with(FakeExecutor::default(), FakeHealth::default(), peers).await;
    let asked = Instant::now();
    let error = planner.chat("hello").await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.retry_after.is_some());
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert_eq!(status_of(&planner.plan(&error.details["plan_id"]).await), PlanStatus::Failed);
}

#[tokio::test]
async fn executor_rejection_reaches_the_caller() {
    let planner = TestPlanner::new().await;
    let refused = OrchestratorError::new(Code::PlanningFailed, "no such agent here");
    planner.script("model", Script::Refuses(refused.clone()));
    let error = planner.chat("hello").await.unwrap_err();
    assert_eq!((error.code, error.message), (refused.code, refused.message));
}

#[tokio::test]
async fn lost_executor_leaves_no_open_attempt() {
    let planner = TestPlanner::new().await;
    planner.script("model", Script::Breaks);
    let error = planner.chat("hello").await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    let plan = planner.plan(&error.details["plan_id"]).await;
    assert!(plan.tasks[0].attempts.iter().all(|attempt| attempt.outcome == "cancelled"), "{:?}", plan.tasks);
    assert!(planner.executor.log.lock().unwrap().calls.len() > 1, "it was dispatched again");
}

#[tokio::test]
async fn callers_deadline_ends_the_plan() {
    let planner = TestPlanner::new().await;
    planner.script("model", Script::Hangs);
    let mut limit = Duration::from_millis(300);
    // The deadline counts from the call, so on a busy machine it may pass before the task is dispatched: then the next call has
    // more time.
    let context = loop {
        let context = RequestContext::new(CorrelationId::generate());
        let limited = context.clone().with_deadline(Instant::now() + limit);
        let error = planner.send(limited, "hello", None).await.unwrap_err();
        assert_eq!(error.code, Code::Timeout);
        if !planner.executor.log.lock().unwrap().calls.is_empty() {
            break context;
        }
        limit *= 2;
    };
    eventually(async || planner.executor.log.lock().unwrap().abandoned == 1).await;
    // The caller's own clock may have ended the call first.
    let plan = planner.ended(&planner.plans_of(context.correlation_id).await[0].plan_id).await;
    assert_eq!((status_of(&plan), error_of(&plan).code.as_str()), (PlanStatus::Failed, "timeout"));
}

#[tokio::test]
async fn disconnect_cancels_the_plan() {
    let planner = TestPlanner::new().await;
    planner.script("model", Script::Hangs);
    let context = RequestContext::new(CorrelationId::generate());
    let call = planner.send(context.clone(), "hello", None);
    tokio::select! {
        _ = call => panic!("the agent hangs"),
        () = eventually(async || !planner.executor.log.lock().unwrap().calls.is_empty()) => {}
    }
    eventually(async || planner.executor.log.lock().unwrap().abandoned == 1).await;
    eventually(async || {
        let plans = planner.plans_of(context.correlation_id).await;
        plans.iter().any(|plan| status_of(plan) == PlanStatus::Cancelled)
    })
    .await;
}

#[tokio::test]
async fn shutdown_waits_for_the_plan_in_flight() {
    let mut planner = TestPlanner::new().await;
    planner.script("model", Script::Hangs);
    let context = RequestContext::new(CorrelationId::generate());
    let limited = context.clone().with_deadline(Instant::now() + Duration::from_secs(1));
    let mut client = planner.client.clone();
    let request =
        phoenix_proto::planner::PlanAndExecuteRequest { message: "hello".into(), ..Default::default() };
    let call = tokio::spawn(async move { client.plan_and_execute(limited.request(request)).await });
    eventually(async || !planner.executor.log.lock().unwrap().calls.is_empty()).await;
    planner.stop().await;
    let status = call.await.unwrap().unwrap_err();
    assert_eq!(phoenix_proto::error_from_status(&status).code, Code::Timeout, "the agent had its time");
}

#[tokio::test]
async fn unfinished_plans_of_killed_planner_are_recovered() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let context = RequestContext::new(CorrelationId::generate());
    {
        let planner =
            TestPlanner::on(dir.clone(), FakeExecutor::default(), FakeHealth::default(), ALL_PEERS).await;
        planner.script("model", Script::Hangs);
        let call = planner.send(context.clone(), "hello", None);
        tokio::select! {
            _ = call => panic!("the agent hangs"),
            () = eventually(async || {
                let plans = planner.plans_of(context.correlation_id).await;
                plans.iter().any(|plan| status_of(plan) == PlanStatus::Running)
            }) => {}
        }
        // As after a SIGKILL: the file in its current state.
        for file in ["planner.db", "planner.db-wal"] {
            std::fs::copy(dir.path().join(file), dir.path().join(format!("killed-{file}"))).unwrap();
        }
    }
    let later = Arc::new(tempfile::tempdir().unwrap());
    for file in ["planner.db", "planner.db-wal"] {
        std::fs::copy(dir.path().join(format!("killed-{file}")), later.path().join(file)).unwrap();
    }
    let planner = TestPlanner::on(later, FakeExecutor::default(), FakeHealth::default(), ALL_PEERS).await;
    // Above every number that the first planner may have used without a journal entry.
    let next = 101;
    planner.script("model", Script::Says(vec![started(next), finished(1, Ok("at last"))]));
    eventually(async || {
        status_of(&planner.plans_of(context.correlation_id).await[0]) == PlanStatus::Succeeded
    })
    .await;
    let plan = planner.plan(&planner.plans_of(context.correlation_id).await[0].plan_id).await;
    assert_eq!(plan.output.as_deref(), Some("at last"));
    let attempts: Vec<_> = plan.tasks[0].attempts.iter().map(|a| (a.number, a.outcome.as_str())).collect();
    assert_eq!(attempts, [(1, "cancelled"), (next, "succeeded")]);
    let log = planner.executor.log.lock().unwrap();
    assert_eq!((log.calls[0].first_attempt, &log.calls[0].idempotency_key), (next, &plan.tasks[0].task_id));
    assert_eq!(log.correlation_ids, [context.correlation_id], "the same request");
}

#[tokio::test]
async fn fenced_planner_writes_nothing() {
    let mut planner = TestPlanner::new().await;
    planner.chat("before").await.unwrap();
    let mut file = SqliteConnection::connect(&planner.database_url).await.unwrap();
    sqlx::query("DELETE FROM planners").execute(&mut file).await.unwrap();
    let error = planner.chat("after").await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable, "{error}");
    let served = tokio::time::timeout(crate::support::PATIENCE, planner.server.take().unwrap())
        .await
        .unwrap()
        .unwrap();
    assert!(served.is_err(), "the server ends with an error, so that a supervisor starts another");
    let store = phoenix_planner::store::open(&planner.database_url).await.unwrap();
    let all = phoenix_planner::store::PlanFilter { limit: 10, ..Default::default() };
    assert_eq!(store.plans(&all).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn unwritable_journal_rejects_plans_and_recovers() {
    let planner = TestPlanner::new().await;
    planner.chat("before").await.unwrap();
    let mut other = SqliteConnection::connect(&planner.database_url).await.unwrap();
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let error = planner.chat("while locked").await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable, "{error}");
    assert!(error.retry_after.is_some());
    assert!(!error.message.contains("sqlite") && !error.message.contains('/'), "{error}");
    lock.rollback().await.unwrap();
    eventually(async || planner.chat("after").await.is_ok()).await;
}

#[tokio::test]
async fn journal_of_newer_version_is_rejected() {
    let mut planner = TestPlanner::new().await;
    planner.stop().await;
    let mut file = SqliteConnection::connect(&planner.database_url).await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'from the future', TRUE, x'00', 0)",
    )
    .execute(&mut file)
    .await
    .unwrap();
    let readiness = phoenix_platform::readiness::Readiness::needing(&[]);
    let error = phoenix_planner::journal::Journal::open(&planner.database_url, readiness).await.unwrap_err();
    assert!(error.to_string().contains("9999"), "{error}");
}

#[tokio::test]
async fn plan_listing_is_paged_newest_first_and_filtered() {
    let planner = TestPlanner::new().await;
    for n in 0..5 {
        planner.chat(&format!("hello {n}")).await.unwrap();
    }
    planner.script("notes", Script::Breaks);
    planner.chat("notes").await.unwrap_err();
    let mut client = planner.client.clone();
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
