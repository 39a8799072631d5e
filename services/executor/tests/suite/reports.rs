//! What the health service is told, and that nothing waits for it.

use std::time::{Duration, Instant};

use phoenix_domain::{AgentSpec, CorrelationId, OrchestratorErrorCode};
use phoenix_platform::RequestContext;
use phoenix_proto::{executor::ExecuteTaskRequest, health_v1::Outcome};

use crate::sandbox::{PATIENCE, Sandbox, agent, quick_retries};

#[tokio::test]
async fn every_attempt_is_reported_and_the_end_carries_the_agents_health() {
    let folder = tempfile::tempdir().unwrap();
    let notes = folder.path().join("notes");
    let behaviour = ["fail-until", notes.to_str().unwrap(), "3"];
    let sandbox = Sandbox::start(AgentSpec { retry: quick_retries(), ..agent(&behaviour) }).await;
    let request = ExecuteTaskRequest { probe_lease: "a lease".into(), ..sandbox.request() };
    let told = sandbox.run_request(request).await.unwrap();
    let none = String::new;
    let expected =
        [(Outcome::Failure, none()), (Outcome::Failure, none()), (Outcome::Success, "a lease".into())];
    assert_eq!(sandbox.health.reports(), expected, "the lease goes with the last");
    let health = told.finished.health.unwrap();
    assert_eq!((health.agent_id.as_str(), health.revision), ("test_agent", 3));
    sandbox.stop().await;
}

#[tokio::test]
async fn a_callers_mistake_says_nothing_about_the_agent() {
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
        let told = sandbox.run().await;
        assert!(told.failed.is_empty() && told.finished.health.is_none());
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn a_frozen_health_service_slows_only_the_first_and_is_noticed_when_it_is_back() {
    let sandbox = Sandbox::start(agent(&["answer"])).await;
    sandbox.health.freeze(true);
    assert!(sandbox.run().await.finished.health.is_none());
    sandbox.health.freeze(false);
    let begun = Instant::now();
    while sandbox.run().await.finished.health.is_none() {
        assert!(begun.elapsed() < PATIENCE, "reports go out again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn timeout_is_evidence_only_when_the_limit_is_the_agents_own() {
    for (own_ms, callers_ms, outcome) in [(200, 60_000, Outcome::Failure), (60_000, 200, Outcome::Neutral)] {
        // An agent that says itself that it lacks the time is treated like one that is ended.
        for behaviour in [&["hang"][..], &["refuse", "504"]] {
            let spec = AgentSpec { timeout: Duration::from_millis(own_ms), ..agent(behaviour) };
            let sandbox = Sandbox::start(spec).await;
            let deadline = Instant::now() + Duration::from_millis(callers_ms);
            let caller = RequestContext::new(CorrelationId::generate()).with_deadline(deadline);
            let told = sandbox.run_in(&caller, sandbox.request()).await.unwrap();
            assert_eq!(told.error().code, OrchestratorErrorCode::Timeout);
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
