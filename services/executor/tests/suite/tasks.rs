//! Tasks: retries, queues, cancels, deadlines.

use std::time::{Duration, Instant};

use phoenix_domain::{
    AgentSpec, CorrelationId, FailureClass, OrchestratorErrorCode, TaskId, rejections::is_of_replaced_call,
    retry::RetryPolicy,
};
use phoenix_platform::RequestContext;
use phoenix_proto::{error_from_status, executor::ExecuteTaskRequest, health_v1::Outcome};
use serde_json::Value;
use tokio::time::timeout;

use crate::sandbox::{Sandbox, TIMEOUT, TaskOutcome, agent, processes, quick_retries, until};

#[tokio::test]
async fn retry_keeps_the_key_and_gets_a_new_request_id() {
    let folder = tempfile::tempdir().unwrap();
    let notes = folder.path().join("notes");
    let mut spec = agent(&["fail-until", notes.to_str().unwrap(), "3"]);
    spec.retry = quick_retries();
    let sandbox = Sandbox::start(spec).await;
    let outcome = sandbox.run().await;

    assert_eq!(outcome.finished.attempts, 3);
    let attempts: Vec<_> = outcome.started.iter().map(|started| started.attempt).collect();
    assert_eq!(attempts, [1, 2, 3]);
    let failed: Vec<_> =
        outcome.failed.iter().map(|failed| (failed.attempt, failed.stderr_tail.as_str())).collect();
    assert_eq!(failed, [(1, "failure 1"), (2, "failure 2")]);
    assert!(outcome.failed.iter().all(|failed| failed.retry_in_ms.is_some_and(|pause| pause <= 20)));

    let requests = std::fs::read_to_string(notes).unwrap();
    let requests: Vec<Value> = requests.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (number, request) in (1..).zip(&requests) {
        assert_eq!(request["_meta"]["attempt"], number);
        assert_eq!(request["_meta"]["idempotency_key"], "the key");
    }
    assert_ne!(requests[0]["request_id"], requests[1]["request_id"]);
    assert_ne!(requests[1]["request_id"], requests[2]["request_id"]);
    sandbox.stop().await;
}

#[tokio::test]
async fn attempts_end_with_the_policy_or_a_final_failure() {
    for (behaviour, first_attempt, made, all) in [
        (&["exit", "1"][..], 0, 3, 3),
        (&["exit", "1"], 3, 1, 3),
        // A resumed task gets at least one attempt.
        (&["exit", "1"], 7, 1, 7),
        (&["refuse", "400"], 0, 1, 1),
        (&["refuse", "501"], 0, 1, 1),
    ] {
        let sandbox = Sandbox::start(AgentSpec { retry: quick_retries(), ..agent(behaviour) }).await;
        let request = ExecuteTaskRequest { first_attempt, ..sandbox.request() };
        let outcome = sandbox.run_request(request).await.unwrap();
        assert_eq!((outcome.failed.len(), outcome.finished.attempts), (made, all), "{behaviour:?}");
        assert_eq!(outcome.error().details["attempts"], all.to_string());
        sandbox.stop().await;
    }
}

#[tokio::test]
async fn skipped_numbers_do_not_count_as_attempts() {
    for (earlier, numbers) in [(0, &[16, 17, 18][..]), (1, &[16, 17]), (7, &[16]), (99, &[16])] {
        let sandbox = Sandbox::start(AgentSpec { retry: quick_retries(), ..agent(&["exit", "1"]) }).await;
        let request =
            ExecuteTaskRequest { first_attempt: 16, earlier_attempts: Some(earlier), ..sandbox.request() };
        let outcome = sandbox.run_request(request).await.unwrap();
        assert_eq!(
            outcome.failed.iter().map(|failed| failed.attempt).collect::<Vec<_>>(),
            numbers,
            "{earlier}"
        );
        let made = earlier.min(15) + u32::try_from(numbers.len()).unwrap();
        assert_eq!(
            (outcome.finished.attempts, &*outcome.error().details["attempts"]),
            (made, &*made.to_string())
        );
        sandbox.stop().await;
    }
}

#[tokio::test]
async fn attempts_end_with_the_reserved_numbers() {
    for (reserved, numbers) in [(0, &[16, 17, 18][..]), (1, &[16]), (2, &[16, 17]), (9, &[16, 17, 18])] {
        let sandbox = Sandbox::start(AgentSpec { retry: quick_retries(), ..agent(&["exit", "1"]) }).await;
        let request = ExecuteTaskRequest {
            first_attempt: 16,
            earlier_attempts: Some(0),
            reserved_attempts: reserved,
            ..sandbox.request()
        };
        let outcome = sandbox.run_request(request).await.unwrap();
        let made: Vec<_> = outcome.failed.iter().map(|failed| failed.attempt).collect();
        assert_eq!(made, numbers, "{reserved} reserved");
        assert_eq!(outcome.error().code, OrchestratorErrorCode::ExecutionFailed);
        sandbox.stop().await;
    }
}

#[tokio::test]
async fn attempts_and_pauses_end_at_the_callers_deadline() {
    let slow_retries =
        RetryPolicy { max_attempts: 9, initial_backoff: TIMEOUT * 9, max_backoff: TIMEOUT * 9 };
    for (behaviour, says, code, reported) in [
        ("hang", "did not answer within", OrchestratorErrorCode::Timeout, Outcome::Neutral),
        (
            "garbage",
            "no time is left for another attempt",
            OrchestratorErrorCode::ExecutionFailed,
            Outcome::Failure,
        ),
    ] {
        let sandbox = Sandbox::start(AgentSpec { retry: slow_retries, ..agent(&[behaviour]) }).await;
        let limit = if behaviour == "hang" { Duration::from_millis(500) } else { TIMEOUT };
        let begun = Instant::now();
        let context = RequestContext::new(CorrelationId::generate()).with_deadline(begun + limit);
        let outcome = sandbox.run_in(&context, sandbox.request()).await.unwrap();
        let error = outcome.error();
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(says), "{error}");
        assert_eq!(sandbox.health.reports(), [(reported, String::new())], "{behaviour}");
        assert!(begun.elapsed() < TIMEOUT);
        sandbox.no_process_left().await;
        sandbox.stop().await;
    }
}

#[tokio::test]
async fn full_queue_rejects_and_a_dropped_task_frees_capacity() {
    let spec = AgentSpec { max_concurrency: 1, max_queue: 1, ..agent(&["hang"]) };
    let sandbox = Sandbox::start(spec).await;
    let _running = sandbox.start_running(sandbox.request()).await;
    let context = RequestContext::new(CorrelationId::generate());
    let waiting = sandbox.start_task(&context, sandbox.request()).await.unwrap();

    let request = ExecuteTaskRequest { probe_lease: "a lease".into(), ..sandbox.request() };
    let refused = sandbox.start_task(&context, request).await.unwrap_err();
    let error = error_from_status(&refused);
    assert_eq!(error.code, OrchestratorErrorCode::Overloaded);
    assert_eq!(error.retry_after, Some(Duration::from_secs(1)));
    assert_eq!(processes(&sandbox.tag).len(), 1, "no process was started");
    until("the lease is returned", || {
        sandbox.health.reports().contains(&(Outcome::Neutral, "a lease".into()))
    })
    .await;

    drop(waiting);
    let begun = Instant::now();
    // The server notices the drop a moment later.
    while let Err(status) = sandbox.start_task(&context, sandbox.request()).await {
        assert_eq!(error_from_status(&status).code, OrchestratorErrorCode::Overloaded);
        assert!(begun.elapsed() < TIMEOUT);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn queued_task_fails_at_its_deadline() {
    let sandbox = Sandbox::start(AgentSpec { max_concurrency: 1, ..agent(&["hang"]) }).await;
    let _running = sandbox.start_running(sandbox.request()).await;
    let context = RequestContext::new(CorrelationId::generate())
        .with_deadline(Instant::now() + Duration::from_millis(300));
    let outcome = sandbox.run_in(&context, sandbox.request()).await.unwrap();
    assert_eq!((outcome.started.len(), outcome.finished.attempts), (0, 0));
    assert_eq!(outcome.error().code, OrchestratorErrorCode::Timeout);
}

#[tokio::test]
async fn caller_that_leaves_cancels_even_without_sigterm_handling() {
    for behaviour in ["hang", "ignore-sigterm", "hang-with-children"] {
        let sandbox = Sandbox::start(agent(&[behaviour])).await;
        let events = sandbox.start_running(sandbox.request()).await;
        drop(events);
        until("the cancel is reported", || sandbox.health.reports() == [(Outcome::Neutral, String::new())])
            .await;
        until("the process group is gone", || {
            // The process that left the group ends with the executor.
            processes(&sandbox.tag).len() <= usize::from(behaviour == "hang-with-children")
        })
        .await;
        sandbox.stop().await;
    }
}

#[tokio::test]
async fn task_is_cancelled_by_its_id() {
    let sandbox = Sandbox::start(agent(&["hang"])).await;
    let request = sandbox.request();
    let task_id = request.task_id.clone();
    let events = sandbox.start_running(request).await;
    sandbox.cancel(&task_id).await.unwrap();
    let outcome = TaskOutcome::collect(events).await.unwrap();
    assert_eq!(outcome.error().code, OrchestratorErrorCode::Cancelled);
    assert_eq!((outcome.finished.attempts, outcome.failed.len()), (1, 0));
    assert_eq!(sandbox.health.reports(), [(Outcome::Neutral, String::new())]);
    sandbox.no_process_left().await;

    let unknown = sandbox.cancel(&task_id).await.unwrap_err();
    assert_eq!(error_from_status(&unknown).code, OrchestratorErrorCode::NotFound);
    let malformed = sandbox.cancel("seven").await.unwrap_err();
    assert_eq!(error_from_status(&malformed).details["field"], "task_id");
    sandbox.stop().await;
}

#[tokio::test]
async fn task_sent_again_runs_only_under_its_newest_call() {
    let sandbox = Sandbox::start(agent(&["hang"])).await;
    let request = sandbox.request();
    let older = sandbox.start_running(request.clone()).await;
    let newer = sandbox.start_running(ExecuteTaskRequest { first_attempt: 2, ..request }).await;
    let replaced = error_from_status(&TaskOutcome::collect(older).await.unwrap_err());
    // So that a planner which owns the plan sends the task again.
    assert_eq!(replaced.code, OrchestratorErrorCode::Unavailable);
    assert!(is_of_replaced_call(&replaced), "{replaced:?}");
    until("one process is left", || processes(&sandbox.tag).len() == 1).await;
    drop(newer);
    sandbox.no_process_left().await;
    sandbox.stop().await;
}

#[tokio::test]
async fn invalid_request_is_rejected_with_its_field() {
    let sandbox = Sandbox::start(agent(&["answer"])).await;
    let good = sandbox.request();
    let with = |change: fn(&mut ExecuteTaskRequest)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    for (field, request) in [
        ("plan_id", with(|request| request.plan_id = "x".into())),
        ("task_id", with(|request| request.task_id.clear())),
        ("agent", with(|request| request.agent = "-rf".into())),
        ("action", with(|request| request.action.clear())),
        ("payload_json", with(|request| request.payload_json = "[]".into())),
        ("idempotency_key", with(|request| request.idempotency_key.clear())),
        ("agent", with(|request| request.agent = "no_such_agent".into())),
    ] {
        let error = error_from_status(&sandbox.run_request(request).await.unwrap_err());
        assert_eq!(error.details["field"], field, "{error}");
        let expected = if error.details.contains_key("agent") {
            OrchestratorErrorCode::PlanningFailed
        } else {
            OrchestratorErrorCode::ValidationFailed
        };
        assert_eq!(error.code, expected, "{error}");
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn concurrent_tasks_share_the_capacity_and_all_end() {
    let sandbox = Sandbox::start(AgentSpec { max_concurrency: 3, ..agent(&["answer"]) }).await;
    let mut pids = Vec::new();
    let tasks: Vec<_> = (0..24).map(|_| sandbox.run()).collect();
    for outcome in futures_util::future::join_all(tasks).await {
        pids.push(outcome.data()["pid"].as_u64().unwrap());
    }
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 24, "each task has a process");
    sandbox.stop().await;
}

#[tokio::test]
async fn task_id_is_free_again_after_the_task() {
    let sandbox = Sandbox::start(agent(&["answer"])).await;
    let request = ExecuteTaskRequest { task_id: TaskId::generate().to_string(), ..sandbox.request() };
    for _ in 0..2 {
        let outcome = timeout(TIMEOUT, sandbox.run_request(request.clone())).await.unwrap().unwrap();
        assert!(outcome.failed.is_empty(), "{:?}", FailureClass::ALL);
    }
    sandbox.stop().await;
}
