//! Rates, decisions of operators, and the history of circuits.

use std::time::Duration;

use phoenix_domain::{
    AgentSpec, OrchestratorError, OrchestratorErrorCode, TaskId,
    health::{BreakerPolicy, HealthState, Outcome},
};
use phoenix_proto::{
    HealthSnapshot, error_from_status,
    health_v1::{
        self, CircuitDetails, GetAgentHealthRequest, IsolateAgentRequest, ReportOutcomeRequest,
        RestoreAgentRequest,
    },
    timestamp, to_timestamp,
};

use crate::harness::{LONG, Place, Service, agent, decode, now};

/// An agent that is judged by the last ten calls.
fn judged(name: &str) -> AgentSpec {
    let breaker = BreakerPolicy {
        failure_threshold: 5,
        failure_percent: 50,
        min_calls: 10,
        window_calls: 10,
        window: LONG,
        slow_call: Duration::from_secs(5),
        ..BreakerPolicy::default()
    };
    AgentSpec { breaker, ..agent(name, LONG) }
}

async fn ended(
    service: &Service,
    name: &str,
    outcome: Outcome,
    took_ms: u64,
    earlier: u32,
) -> HealthSnapshot {
    let request = ReportOutcomeRequest {
        agent_id: name.into(),
        outcome: health_v1::Outcome::from(outcome).into(),
        ended_at: Some(to_timestamp(now())),
        task_id: TaskId::generate().to_string(),
        took_ms,
        earlier_successes: earlier,
        ..ReportOutcomeRequest::default()
    };
    service.send(request).await.unwrap()
}

async fn circuit(service: &Service, name: &str) -> CircuitDetails {
    let request = GetAgentHealthRequest { agent_id: name.into() };
    service.client.clone().get_agent_health(request).await.unwrap().into_inner().circuit.unwrap()
}

/// Causes of the changes, the newest first.
fn causes(circuit: &CircuitDetails) -> Vec<&str> {
    assert!(circuit.has_transitions);
    circuit.transitions.iter().map(|change| change.cause.as_str()).collect()
}

async fn isolate(
    service: &Service,
    name: &str,
    actor: &str,
    reason: &str,
) -> Result<HealthSnapshot, OrchestratorError> {
    let request = IsolateAgentRequest { agent_id: name.into(), actor: actor.into(), reason: reason.into() };
    let answer = service.client.clone().isolate_agent(request).await;
    answer.map(|answer| decode(answer.into_inner().health)).map_err(|status| error_from_status(&status))
}

async fn restore(service: &Service, name: &str, actor: &str, reason: &str) -> HealthSnapshot {
    let request = RestoreAgentRequest { agent_id: name.into(), actor: actor.into(), reason: reason.into() };
    decode(service.client.clone().restore_agent(request).await.unwrap().into_inner().health)
}

#[tokio::test]
async fn rates_open_the_circuit_also_across_a_restart() {
    for place in Place::each().await {
        let service = Service::start([judged("failing"), judged("slow")], &place).await;
        // Successes that are reported together count one by one.
        ended(&service, "failing", Outcome::Failure, 0, 5).await;
        for _ in 0..3 {
            ended(&service, "failing", Outcome::Success, 0, 0).await;
            ended(&service, "failing", Outcome::Failure, 0, 0).await;
        }
        for _ in 0..9 {
            ended(&service, "slow", Outcome::Success, 5000, 0).await;
        }
        assert_eq!(circuit(&service, "failing").await.state, "closed", "the window forgets what is older");
        service.stop().await;

        let service = Service::start([judged("failing"), judged("slow")], &place).await;
        let failing = ended(&service, "failing", Outcome::Failure, 7, 0).await;
        assert_eq!((failing.state, failing.consecutive_failures), (HealthState::Unhealthy, 2));
        assert_eq!(failing.standing.unwrap().reason, "5 of 10 calls failed (50 %)");
        let slow = ended(&service, "slow", Outcome::Success, 6000, 0).await;
        assert_eq!((slow.state, slow.consecutive_failures), (HealthState::Unhealthy, 0));
        assert_eq!(slow.standing.unwrap().reason, "10 of 10 calls took 5 s or longer (100 %)");
        for (name, cause) in [("failing", "failure_rate"), ("slow", "slow_calls")] {
            let circuit = circuit(&service, name).await;
            assert_eq!((circuit.state.as_str(), causes(&circuit)), ("open", vec![cause]));
            let until = timestamp("next_probe_at", circuit.next_probe_at).unwrap();
            assert_eq!(until, service.get(name).await.unwrap().circuit_open_until);
            let evidence = circuit.transitions[0].evidence.clone().unwrap();
            assert_eq!((evidence.calls, evidence.tasks >= 5), (10, true));
            assert_eq!(timestamp("open_until", evidence.open_until).unwrap(), until);
            assert!(evidence.task_id.parse::<TaskId>().is_ok());
        }
        service.stop().await;
    }
}

#[tokio::test]
async fn isolated_agent_refuses_probes_until_it_is_restored() {
    for place in Place::each().await {
        let service = Service::start([agent("a", LONG)], &place).await;
        service.open_long_ago("a").await;
        assert!(service.probe("a", 0).await.unwrap().granted);
        let isolated = isolate(&service, "a", "alice", "it deletes files").await.unwrap();
        assert_eq!((isolated.state, isolated.circuit_open_until), (HealthState::Unhealthy, None));
        assert_eq!(isolate(&service, "a", "alice", "it deletes files").await.unwrap(), isolated);
        service.stop().await;

        let service = Service::start([agent("a", LONG)], &place).await;
        assert_eq!(service.get("a").await.unwrap(), isolated);
        service.ended("a", Outcome::Success).await;
        let refused = service.probe("a", 0).await.unwrap();
        assert!(!refused.granted && refused.refused_until.is_none(), "{refused:?}");
        let isolation = decode(refused.health).isolation.unwrap();
        assert_eq!((isolation.actor.as_str(), isolation.reason.as_str()), ("alice", "it deletes files"));
        let shown = circuit(&service, "a").await;
        assert_eq!((shown.state.as_str(), shown.next_probe_at), ("isolated", None));

        let restored = restore(&service, "a", "bob", "repaired").await;
        assert_eq!((restored.state, restored.isolation), (HealthState::Healthy, None));
        assert_eq!(restore(&service, "a", "bob", "again").await.revision, restored.revision, "nothing to do");
        let shown = circuit(&service, "a").await;
        assert_eq!(shown.state, "closed");
        assert_eq!(causes(&shown), ["restored", "isolated", "probe_started", "consecutive_failures"]);
        assert_eq!(
            (shown.transitions[0].actor.as_str(), shown.transitions[0].reason.as_str()),
            ("bob", "repaired")
        );
        assert_eq!(
            (shown.transitions[1].from.as_str(), shown.transitions[1].to.as_str()),
            ("half_open", "isolated")
        );
        service.stop().await;
    }
}

#[tokio::test]
async fn invalid_decision_names_its_field() {
    let place = Place::file();
    let service = Service::start([agent("a", LONG)], &place).await;
    let long = "x".repeat(1025);
    for (name, actor, reason, field) in [
        ("a", " ", "x", "actor"),
        ("a", "x", "", "reason"),
        ("a", "x", &long, "reason"),
        ("-", "x", "x", "agent_id"),
    ] {
        let error = isolate(&service, name, actor, reason).await.unwrap_err();
        assert_eq!(
            (error.code, error.details["field"].as_str()),
            (OrchestratorErrorCode::ValidationFailed, field)
        );
    }
    let unknown = isolate(&service, "unknown", "x", "x").await.unwrap_err();
    assert_eq!(unknown.code, OrchestratorErrorCode::NotFound);
    service.stop().await;
}

#[tokio::test]
async fn history_keeps_the_newest_changes() {
    for place in Place::each().await {
        let service = Service::start([agent("a", LONG), agent("b", LONG)], &place).await;
        isolate(&service, "b", "alice", "stays").await.unwrap();
        for n in 0..60 {
            isolate(&service, "a", "alice", &format!("number {n}")).await.unwrap();
            restore(&service, "a", "bob", "done").await;
        }
        let shown = circuit(&service, "a").await;
        assert_eq!((shown.transitions.len(), shown.transitions[1].reason.as_str()), (20, "number 59"));
        service.stop().await;
        assert_eq!(place.count("circuit_transitions", "a").await, 100);
        assert_eq!(place.count("circuit_transitions", "b").await, 1);
    }
}
