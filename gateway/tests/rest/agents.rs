//! Health of agents.

use http::{Method, StatusCode};
use phoenix_domain::health::HealthState;
use serde_json::json;

use crate::support::{Http, Stack, agent, config, serve_gateway, unused_addr};

#[tokio::test]
async fn list_of_agents_has_every_agent_with_utc_times() {
    let stack = Stack::start().await;
    assert_eq!(stack.http.get("/api/v1/agents").await.json(), json!([]));
    stack.health.set([
        agent("echo_agent", HealthState::Healthy, 0, None),
        agent("git_agent", HealthState::Unhealthy, 3, Some("2026-01-31T12:01:00.25Z".parse().unwrap())),
    ]);
    let answer = stack.http.get("/api/v1/agents").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(
        answer.json(),
        json!([
            {
                "agent_id": "echo_agent", "health": "healthy", "consecutive_failures": 0, "last_failure_at": null,
                "last_success_at": null, "circuit_open_until": null,
            },
            {
                "agent_id": "git_agent", "health": "unhealthy", "consecutive_failures": 3,
                "last_failure_at": "2026-01-31T12:00:00Z", "last_success_at": null,
                "circuit_open_until": "2026-01-31T12:01:00.25Z",
            },
        ])
    );
}

#[tokio::test]
async fn agent_has_its_actions_and_an_unknown_one_is_named() {
    let stack = Stack::start().await;
    stack.health.set([agent("git_agent", HealthState::Healthy, 0, None)]);
    let answer = stack.http.get("/api/v1/agents/git_agent").await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(
        answer.json(),
        json!({
            "agent_id": "git_agent", "health": "healthy", "consecutive_failures": 0, "last_failure_at": null,
            "last_success_at": null, "circuit_open_until": null, "state": "closed", "reason": null, "since": null,
            "isolated_by": null, "next_probe_at": null, "transitions": [], "workers": [], "last_stderr": null, "description": "An agent of the test",
            "actions": [
                {"name": "any", "description": "Does any", "input_schema": null, "timeout_ms": null, "max_attempts": null},
                {"name": "strict", "description": "Does strict", "input_schema": {"required": ["path"]}, "timeout_ms": 1500, "max_attempts": 2},
            ],
            "mcp_listing": {
                "resources": [
                    {"uri": "note:///1", "name": "notes", "description": "Notes", "mime_type": "text/plain", "template": false},
                    {"uri": "note:///{id}", "name": "notes", "description": "Notes", "mime_type": null, "template": true},
                ],
                "prompts": [{
                    "name": "greet", "description": "Greets",
                    "arguments": [{"name": "who", "description": "Whom", "required": true}],
                }],
                "truncated": true,
            },
        })
    );
    let unknown = stack.http.get("/api/v1/agents/unknown").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert_eq!(unknown.json()["detail"], "unknown agent `unknown`; configured agents: git_agent");
    let invalid = stack.http.get("/api/v1/agents/-rf").await;
    assert_eq!(
        (invalid.status, &invalid.json()["code"]),
        (StatusCode::BAD_REQUEST, &"validation_failed".into())
    );
    let header = [("x-correlation-id", "42")];
    let refused = stack.http.send(Method::GET, "/api/v1/agents/git_agent", &header, "").await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{refused:?}");
    stack.health.hang();
    assert_eq!(stack.http.get("/api/v1/agents/git_agent").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn agent_is_isolated_and_restored_with_a_reason() {
    let stack = Stack::start().await;
    stack.health.set([agent("git_agent", HealthState::Healthy, 0, None)]);
    let body = json!({"reason": "it deletes files", "actor": "alice"});
    let isolated = stack.http.post("/api/v1/agents/git_agent:isolate", &body).await;
    assert_eq!(isolated.status, StatusCode::OK, "{isolated:?}");
    let isolated = isolated.json();
    let at = "2026-01-31T12:00:00Z";
    for (member, value) in [
        ("health", json!("unhealthy")),
        ("circuit_open_until", json!(null)),
        ("state", json!("isolated")),
        ("reason", json!("it deletes files")),
        ("since", json!(at)),
        ("isolated_by", json!("alice")),
        ("next_probe_at", json!(null)),
    ] {
        assert_eq!(isolated[member], value, "{member}");
    }
    let evidence = json!({
        "consecutive_failures": 0, "calls": 0, "failed_calls": 0, "slow_calls": 0, "tasks": 0, "took_ms": 0,
        "task_id": null, "open_until": null,
    });
    let change = json!({
        "at": at, "from": "closed", "to": "isolated", "cause": "isolated", "reason": "it deletes files",
        "actor": "alice", "evidence": evidence,
    });
    assert_eq!(isolated["transitions"], json!([change]));
    assert_eq!(stack.http.get("/api/v1/agents/git_agent").await.json(), isolated);

    let restored =
        stack.http.post("/api/v1/agents/git_agent:restore", &json!({"reason": "repaired"})).await.json();
    assert_eq!((&restored["state"], &restored["isolated_by"]), (&json!("closed"), &json!(null)));
    assert_eq!(
        (&restored["reason"], &restored["transitions"][0]["actor"]),
        (&json!("repaired"), &json!("api"))
    );

    let long = "x".repeat(1025);
    for (path, body, status, field) in [
        ("git_agent:isolate", json!({}), StatusCode::BAD_REQUEST, "reason"),
        ("git_agent:isolate", json!({"reason": " "}), StatusCode::BAD_REQUEST, "reason"),
        ("git_agent:isolate", json!({"reason": long}), StatusCode::BAD_REQUEST, "reason"),
        ("git_agent:restore", json!({"reason": "x", "actor": "\n"}), StatusCode::BAD_REQUEST, "actor"),
        ("git_agent:restore", json!({"reason": "x", "who": "me"}), StatusCode::BAD_REQUEST, "who"),
        ("-rf:isolate", json!({"reason": "x"}), StatusCode::BAD_REQUEST, "agent_id"),
        ("unknown:isolate", json!({"reason": "x"}), StatusCode::NOT_FOUND, "unknown"),
        ("git_agent:destroy", json!({"reason": "x"}), StatusCode::NOT_FOUND, ""),
    ] {
        let refused = stack.http.post(&format!("/api/v1/agents/{path}"), &body).await;
        assert_eq!(refused.status, status, "{path}: {refused:?}");
        assert!(refused.json()["detail"].as_str().unwrap().contains(field), "{path}: {refused:?}");
    }
    assert_eq!(
        stack.http.get("/api/v1/agents/git_agent:isolate").await.status,
        StatusCode::METHOD_NOT_ALLOWED
    );
}

#[tokio::test]
async fn health_service_down_fails_the_list_and_not_chats() {
    let stack = Stack::start().await;
    stack.health.hang();
    let frozen = stack.http.get("/api/v1/agents").await;
    let url = format!("http://{}", unused_addr().await);
    let alone = serve_gateway(config(&url, &url, &url)).await;
    let down = Http::new(alone.addr).get("/api/v1/agents").await;
    for answer in [frozen, down] {
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
        assert_eq!(answer.header("retry-after"), "1");
        assert_eq!(answer.header("content-type"), "application/problem+json");
        let problem = answer.json();
        assert_eq!((&problem["code"], &problem["status"]), (&"unavailable".into(), &503.into()));
        assert_eq!(problem["correlation_id"], answer.header("x-correlation-id"));
        assert!(problem["detail"].as_str().unwrap().starts_with("the health service"), "{problem}");
    }
    let chat = stack.http.post("/api/v1/chat", &json!({"message": "hi"})).await;
    assert_eq!(chat.status, StatusCode::OK);
}
