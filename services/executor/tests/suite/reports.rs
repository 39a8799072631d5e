//! Reports to the health service, which no task waits for.

use std::time::{Duration, Instant};

use phoenix_domain::{AgentSpec, CorrelationId, OrchestratorErrorCode};
use phoenix_platform::RequestContext;
use phoenix_proto::{executor::ExecuteTaskRequest, health_v1::Outcome};

use crate::sandbox::{Sandbox, TIMEOUT, agent, quick_retries};

#[tokio::test]
async fn every_attempt_is_reported_and_the_end_carries_health() {
    let folder = tempfile::tempdir().unwrap();
    let notes = folder.path().join("notes");
    let behaviour = ["fail-until", notes.to_str().unwrap(), "3"];
    let sandbox = Sandbox::start(AgentSpec { retry: quick_retries(), ..agent(&behaviour) }).await;
    let request = ExecuteTaskRequest { probe_lease: "a lease".into(), ..sandbox.request() };
    let task = sandbox.run_request(request).await.unwrap();
    let none = String::new;
    let expected =
        [(Outcome::Failure, none()), (Outcome::Failure, none()), (Outcome::Success, "a lease".into())];
    assert_eq!(sandbox.health.reports(), expected, "the last report carries the lease");
    let health = task.finished.health.unwrap();
    assert_eq!((health.agent_id.as_str(), health.revision), ("test_agent", 3));
    sandbox.stop().await;
}

#[tokio::test]
async fn invalid_request_is_a_neutral_outcome() {
    for (code, outcome) in [("400", Outcome::Neutral), ("501", Outcome::Neutral), ("500", Outcome::Failure)] {
        let sandbox = Sandbox::start(agent(&["refuse", code])).await;
        sandbox.run().await;
        assert_eq!(sandbox.health.reports(), [(outcome, String::new())], "{code}");
        sandbox.stop().await;
    }
}

#[tokio::test]
async fn agents_run_while_the_health_service_is_down() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nowhere = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let sandbox = Sandbox::start_with(agent(&["answer"]), |config| config.health_url = nowhere).await;
    for _ in 0..3 {
        let task = sandbox.run().await;
        assert!(task.failed.is_empty() && task.finished.health.is_none());
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn frozen_health_service_delays_one_report_then_recovers() {
    let sandbox = Sandbox::start(agent(&["answer"])).await;
    sandbox.health.freeze(true);
    assert!(sandbox.run().await.finished.health.is_none());
    sandbox.health.freeze(false);
    let begun = Instant::now();
    while sandbox.run().await.finished.health.is_none() {
        assert!(begun.elapsed() < TIMEOUT, "reports are sent again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn timeout_counts_only_under_the_agents_own_limit() {
    for (own_ms, callers_ms, outcome) in [(200, 60_000, Outcome::Failure), (60_000, 200, Outcome::Neutral)] {
        // An agent that reports its own timeout counts like one that is killed.
        for behaviour in [&["hang"][..], &["refuse", "504"]] {
            let spec = AgentSpec { timeout: Duration::from_millis(own_ms), ..agent(behaviour) };
            let sandbox = Sandbox::start(spec).await;
            let deadline = Instant::now() + Duration::from_millis(callers_ms);
            let caller = RequestContext::new(CorrelationId::generate()).with_deadline(deadline);
            let task = sandbox.run_in(&caller, sandbox.request()).await.unwrap();
            assert_eq!(task.error().code, OrchestratorErrorCode::Timeout);
            assert_eq!(sandbox.health.reports(), [(outcome, String::new())], "{behaviour:?} {own_ms}");
            sandbox.stop().await;
        }
    }
}

#[tokio::test]
async fn every_report_names_its_task() {
    let spec = AgentSpec { retry: quick_retries(), ..agent(&["refuse", "500"]) };
    let sandbox = Sandbox::start(spec).await;
    let request = sandbox.request();
    let task_id = request.task_id.clone();
    sandbox.run_request(request).await.unwrap();
    assert_eq!(sandbox.health.tasks(), [task_id.clone(), task_id.clone(), task_id]);
    sandbox.stop().await;
}
