//! Lists of agents, and invalid requests.

use phoenix_domain::{OrchestratorErrorCode, health::Outcome};
use phoenix_health::HealthConfig;
use phoenix_proto::{
    error_from_status,
    health_v1::{self, AcquireProbeRequest, GetAgentHealthRequest, ReportOutcomeRequest},
};

use crate::{
    executor::FakeExecutor,
    harness::{LIMIT, LONG, Place, Service, agent, config, now},
};

#[tokio::test]
async fn list_contains_exactly_the_configured_agents_by_name() {
    for place in Place::each().await {
        let service = Service::start([agent("c", LONG), agent("a", LONG), agent("b", LONG)], &place).await;
        service.ended("b", Outcome::Failure).await;
        let names: Vec<_> = service.list().await.into_iter().map(|health| health.agent.to_string()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        service.stop().await;

        let service = Service::start([agent("a", LONG)], &place).await;
        let names: Vec<_> = service.list().await.into_iter().map(|health| health.agent.to_string()).collect();
        assert_eq!(names, ["a"]);
        service.stop().await;
    }
}

#[tokio::test]
async fn agents_follow_the_catalog_of_the_executor() {
    let (place, executor) = (Place::file(), FakeExecutor::start([agent("a", LONG)]));
    let config = HealthConfig { executor_url: executor.url.clone(), ..config([], place.url()) };
    let service = Service::start_with(config).await;
    service.ended("a", Outcome::Failure).await;
    executor.offer([agent("a", LONG), agent("b", LONG)]);
    service.ended("b", Outcome::Failure).await;
    let failures: Vec<_> = service.list().await.iter().map(|health| health.consecutive_failures).collect();
    assert_eq!(failures, [1, 1]);
    executor.offer([agent("b", LONG), agent("c", LONG)]);
    service.get("c").await.unwrap();
    assert_eq!(service.get("a").await.unwrap().consecutive_failures, 1, "known for the grace period");
    service.stop().await;
}

#[tokio::test]
async fn service_without_an_executor_is_unavailable() {
    let place = Place::file();
    let config = HealthConfig { executor_url: FakeExecutor::absent(), ..config([], place.url()) };
    let service = Service::spawn(config).await;
    let named = async {
        loop {
            let error = service.get("a").await.unwrap_err();
            assert_eq!(error.code, OrchestratorErrorCode::Unavailable, "{error}");
            // Before, its own server starts.
            if error.message.starts_with("no executor has been reached since") {
                break;
            }
        }
    };
    tokio::time::timeout(LIMIT, named).await.expect("the cause is named");
    service.stop().await;
}

#[tokio::test]
async fn unknown_agent_is_not_found_and_named() {
    let place = Place::file();
    let service = Service::start([agent("a", LONG)], &place).await;
    let errors = [
        service.get("unknown").await.unwrap_err(),
        service.report("unknown", Outcome::Success, now(), "").await.unwrap_err(),
        service.probe("unknown", 0).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.code, OrchestratorErrorCode::NotFound);
        assert_eq!(error.message, "unknown agent `unknown`; configured agents: a");
        assert_eq!(error.details["agent"], "unknown");
    }
    service.stop().await;
}

#[tokio::test]
async fn invalid_field_is_named() {
    let place = Place::file();
    let service = Service::start([agent("a", LONG)], &place).await;
    let good = ReportOutcomeRequest {
        agent_id: "a".into(),
        outcome: health_v1::Outcome::Success.into(),
        ended_at: Some(phoenix_proto::to_timestamp(now())),
        ..ReportOutcomeRequest::default()
    };
    let mut no_time = phoenix_proto::to_timestamp(now());
    no_time.seconds = i64::MAX;
    let reports = [
        ("agent_id", ReportOutcomeRequest { agent_id: String::new(), ..good.clone() }),
        ("agent_id", ReportOutcomeRequest { agent_id: "no agent".into(), ..good.clone() }),
        ("outcome", ReportOutcomeRequest { outcome: 0, ..good.clone() }),
        ("outcome", ReportOutcomeRequest { outcome: 99, ..good.clone() }),
        ("ended_at", ReportOutcomeRequest { ended_at: None, ..good.clone() }),
        ("ended_at", ReportOutcomeRequest { ended_at: Some(no_time), ..good.clone() }),
        ("sent_at", ReportOutcomeRequest { sent_at: Some(no_time), ..good.clone() }),
        ("probe_lease", ReportOutcomeRequest { probe_lease: "mine".into(), ..good.clone() }),
        ("task_id", ReportOutcomeRequest { task_id: "seven".into(), ..good.clone() }),
    ];
    let mut client = service.client.clone();
    for (field, request) in reports {
        let status = client.report_outcome(request).await.unwrap_err();
        assert_names(field, &status);
    }
    let get = GetAgentHealthRequest { agent_id: "-rf".into() };
    assert_names("agent_id", &client.get_agent_health(get).await.unwrap_err());
    let probe = AcquireProbeRequest { agent_id: "a".into(), lease_ms: u64::MAX };
    assert_names("lease_ms", &client.acquire_probe(probe).await.unwrap_err());
    assert_eq!(service.get("a").await.unwrap().revision, 0, "no request changed anything");
    service.stop().await;
}

fn assert_names(field: &str, status: &tonic::Status) {
    let error = error_from_status(status);
    assert_eq!(error.code, OrchestratorErrorCode::ValidationFailed, "{field}: {error}");
    assert_eq!(error.details["field"], field);
    assert!(error.message.starts_with(&format!("`{field}` ")), "{error}");
}
