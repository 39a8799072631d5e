//! Budgets in requests and responses.

use http::{Method, StatusCode};
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode as Code};
use phoenix_proto::common::Budget;
use serde_json::{Value, json};

use crate::support::{FakePlanner, Stack, plans};

const CHAT: &str = "/api/v1/chat";

fn plan(budget: &Value) -> Value {
    json!({"tasks": [{"key": "a", "agent": "echo_agent", "input": {"message": "hi"}}], "budget": budget})
}

#[tokio::test]
async fn budgets_show_limits_and_what_is_used_of_them() {
    let stack = Stack::start().await;
    let all = stack.http.get("/api/v1/budgets").await.json();
    let limits = json!({"max_cost_usd": 2.5, "max_tokens": null, "max_calls": 10, "max_wall_ms": null});
    let of_agent = json!({
        "scope": "agent", "name": "echo_agent", "limits": limits,
        "used": {"cost_usd": 1.25, "tokens": 300, "calls": 4, "wall_ms": 1500},
        "reserved": {"cost_usd": 0.1, "tokens": 5000, "calls": 1, "wall_ms": 30000},
        "resets_at": "2026-02-01T00:00:00Z",
    });
    assert_eq!(all, json!({ "budgets": [of_agent] }));
    let path = format!("/api/v1/budgets?plan_id={}", FakePlanner::PLAN);
    let with_plan = stack.http.get(&path).await.json();
    assert_eq!(
        (&with_plan["budgets"][0]["scope"], &with_plan["budgets"][0]["resets_at"]),
        (&json!("plan"), &json!(null))
    );
    for query in ["plan_id=7", "agent=a"] {
        let refused = stack.http.get(&format!("/api/v1/budgets?{query}")).await;
        assert_eq!(
            (refused.status, &refused.json()["code"]),
            (StatusCode::BAD_REQUEST, &json!("validation_failed"))
        );
    }
    stack.planner.keep(plans::running());
    let plan = stack.http.get(&format!("/api/v1/plans/{}", FakePlanner::PLAN)).await.json();
    assert_eq!(plan["budget"], limits);
}

#[tokio::test]
async fn budget_of_a_request_reaches_the_planner_exactly() {
    let stack = Stack::start().await;
    let budget = json!({"max_cost_usd": 0.100000001, "max_calls": 3.0, "max_wall_ms": 0});
    let expected = Budget {
        max_cost_nanos: Some(100_000_001),
        max_tokens: None,
        max_calls: Some(3),
        max_wall_ms: Some(0),
    };
    for (path, body) in [(CHAT, json!({"message": "hi", "budget": budget})), ("/api/v1/plans", plan(&budget))]
    {
        stack.http.post(path, &body).await;
        assert_eq!(stack.planner.seen().pop().unwrap().request.budget, Some(expected), "{path}");
    }
    let zero = json!({"max_cost_usd": -0.0, "max_calls": -0.0});
    stack.http.post("/api/v1/plans", &plan(&zero)).await;
    let budget = stack.planner.seen().pop().unwrap().request.budget.unwrap();
    assert_eq!((budget.max_cost_nanos, budget.max_calls), (Some(0), Some(0)));
    for (wrong, named) in [
        (json!({"max_cost_usd": -1}), "budget"),
        (json!({"max_cost_usd": "1"}), "budget"),
        (json!({"max_cost_usd": 1e99}), "budget"),
        (json!({"max_calls": 1.5}), "budget"),
        (json!({"max_token": 1}), "max_token"),
        (json!([1]), "budget"),
    ] {
        for (path, body) in
            [(CHAT, json!({"message": "hi", "budget": wrong})), ("/api/v1/plans", plan(&wrong))]
        {
            let answer = stack.http.post(path, &body).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{wrong}: {answer:?}");
            assert!(answer.text.contains(named), "{wrong}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn header_limits_the_plan_of_a_client_of_a_model() {
    let stack = Stack::start().await;
    let messages = json!([{"role": "user", "content": "hi"}]);
    let send = async |path: &str, body: &Value, budgets: &[&str], key: &str| {
        let mut headers = vec![("content-type", "application/json"), ("idempotency-key", key)];
        headers.extend(budgets.iter().map(|budget| ("x-phoenix-budget", *budget)));
        stack.http.send(Method::POST, path, &headers, body.to_string()).await
    };
    let expected = Budget { max_cost_nanos: Some(50_000_000), max_calls: Some(2), ..Default::default() };
    let mut digests = Vec::new();
    for (path, body) in [
        ("/v1/chat/completions", json!({"model": "phoenix", "messages": messages})),
        ("/v1/messages", json!({"model": "phoenix", "messages": messages, "max_tokens": 9})),
        ("/v1/responses", json!({"model": "phoenix", "input": "hi"})),
        ("/v1/responses", json!({"model": "phoenix", "input": "hi", "background": true})),
    ] {
        let limits = r#"{"max_cost_usd": 0.05, "max_calls": 2}"#;
        for (budgets, expected) in [(&[limits][..], Some(expected)), (&[], None)] {
            let answer = send(path, &body, budgets, "k").await;
            assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
            let request = stack.planner.seen().pop().unwrap().request;
            assert_eq!(request.budget, expected, "{path}");
            digests.push(request.idempotency_digest);
        }
        for wrong in
            [&["{"][..], &["[]"], &["2"], &[r#"{"max_call": 1}"#], &[r#"{"max_calls": -1}"#], &["{}", "{}"]]
        {
            let answer = send(path, &body, wrong, "k").await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path} {wrong:?}: {}", answer.text);
            assert!(answer.text.contains("X-Phoenix-Budget"), "{wrong:?}: {}", answer.text);
        }
    }
    assert_eq!(stack.planner.seen().len(), 8);
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), 8, "a key belongs to a request with its budget");
}

#[tokio::test]
async fn exhausted_budget_is_a_429_that_no_client_repeats() {
    let stack = Stack::start().await;
    let error = OrchestratorError::new(Code::BudgetExhausted, "used up").with_detail("limit", "max_calls");
    stack.planner.fail(error);
    let completion = json!({"model": "phoenix", "messages": [{"role": "user", "content": "hi"}]});
    for (path, body) in [
        (CHAT, json!({"message": "hi"})),
        ("/api/v1/plans", plan(&json!({}))),
        ("/v1/chat/completions", completion),
    ] {
        let answer = stack.http.post(path, &body).await;
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{path}");
        assert_eq!((answer.header("x-should-retry"), answer.header("retry-after")), ("false", ""), "{path}");
        assert!(answer.text.contains("budget_exhausted"), "{answer:?}");
        if path.starts_with("/v1") {
            assert_eq!(answer.json()["error"]["type"], "insufficient_quota");
        }
    }
}
