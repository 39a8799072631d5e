//! Chats.

use std::time::Duration;

use http::{Method, StatusCode};
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode, limits::MAX_MESSAGE_BYTES};
use serde_json::json;

use crate::support::{FakePlanner, Reply, Stack};

const ID: &str = "4f9d3c1e-7a55-4d0a-9d2b-0c7f5f0c2f11";
const OTHER_ID: &str = "6a2c9f0e-3b7d-4c55-8f10-2d4e6a8c0b1f";

#[tokio::test]
async fn chat_is_forwarded_and_its_output_returned() {
    let stack = Stack::start().await;
    stack.planner.reply(Reply::Output("On branch main\n".into()));
    let chat = json!({
        "message": "git status", "context": "be brief", "agent": "git_agent", "api_version": "v1",
        "correlation_id": ID,
    });
    let answer = stack.http.post("/api/v1/chat", &chat).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(
        answer.json(),
        json!({
            "api_version": "v1", "correlation_id": ID, "status": "success", "plan_id": FakePlanner::PLAN,
            "output": "On branch main\n", "error": null,
        })
    );
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("cache-control"), "no-store");

    let seen = stack.planner.seen().remove(0);
    assert_eq!((seen.request.message.as_str(), seen.request.context.as_str()), ("git status", "be brief"));
    assert_eq!(seen.request.agent.as_deref(), Some("git_agent"));
    let left = seen.context.remaining().expect("the planner knows how long it has");
    assert!(left > Duration::from_secs(5) && left < Duration::from_secs(30), "{left:?}");
}

#[tokio::test]
async fn finish_reason_is_present_only_for_incomplete_output() {
    let stack = Stack::start().await;
    stack.planner.reply(Reply::Partial("half an ans".into(), "length"));
    let answer = stack.http.post("/api/v1/chat", &json!({"message": "m"})).await.json();
    assert_eq!((&answer["output"], &answer["finish_reason"]), (&json!("half an ans"), &json!("length")));
    stack.planner.reply(Reply::Output("whole".into()));
    let answer = stack.http.post("/api/v1/chat", &json!({"message": "m"})).await.json();
    assert!(answer.get("finish_reason").is_none(), "{answer}");
}

#[tokio::test]
async fn correlation_id_of_body_overrides_header_on_every_hop() {
    let stack = Stack::start().await;
    let upper = ID.to_uppercase();
    for (header, body, expected) in [
        (Some(OTHER_ID), Some(ID), Some(ID)),
        (Some(OTHER_ID), None, Some(OTHER_ID)),
        (None, Some(upper.as_str()), Some(ID)),
        (None, None, None),
    ] {
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(header.map(|id| ("x-correlation-id", id)));
        let chat = json!({"message": "hi", "correlation_id": body});
        let answer = stack.http.send(Method::POST, "/api/v1/chat", &headers, chat.to_string()).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let told = answer.json()["correlation_id"].as_str().unwrap().to_owned();
        assert_eq!(answer.header("x-correlation-id"), told);
        assert_eq!(stack.planner.seen().pop().unwrap().id().to_string(), told);
        if let Some(expected) = expected {
            assert_eq!(told, expected);
        }
    }
}

#[tokio::test]
async fn error_response_carries_valid_correlation_id_of_caller() {
    let stack = Stack::start().await;
    for body in [
        json!({"correlation_id": ID}),
        json!({"message": 5, "correlation_id": ID}),
        json!({"message": "hi", "correlation_id": ID, "api_version": "v2"}),
        json!({"message": "hi", "correlation_id": ID, "extra": {"deep": [1, 2]}}),
        json!({"message": " ", "correlation_id": ID}),
    ] {
        let answer = stack.http.post("/api/v1/chat", &body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(
            (answer.header("x-correlation-id"), &answer.json()["correlation_id"]),
            (ID, &ID.into()),
            "{body}"
        );
    }
    let headers = [("content-type", "text/plain"), ("x-correlation-id", ID)];
    for (method, path) in [
        (Method::POST, "/api/v1/chat"),
        (Method::GET, "/api/v1/chat"),
        (Method::GET, "/nowhere"),
        (Method::DELETE, "/health"),
    ] {
        let answer = stack.http.send(method.clone(), path, &headers, "x").await;
        assert!(answer.status.is_client_error(), "{answer:?}");
        assert_eq!(
            (answer.header("x-correlation-id"), &answer.json()["correlation_id"]),
            (ID, &ID.into()),
            "{path}"
        );
    }
    assert!(stack.planner.seen().is_empty(), "nothing was planned");
}

#[tokio::test]
async fn legacy_response_has_two_fields_and_status_of_the_table() {
    let stack = Stack::start().await;
    let answer = stack.http.post("/api/chat", &json!({"message": "hi", "context": "c"})).await;
    assert_eq!(
        (answer.status, answer.json()),
        (StatusCode::OK, json!({"status": "success", "output": "done"}))
    );
    assert_eq!(stack.planner.seen()[0].id().to_string(), answer.header("x-correlation-id"));

    stack.planner.fail(
        OrchestratorError::new(OrchestratorErrorCode::AgentUnavailable, "`echo_agent` is unhealthy")
            .with_retry_after(Duration::from_millis(1_200)),
    );
    let answer = stack.http.post("/api/chat", &json!({"message": "hi"})).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.json(), json!({"status": "error", "output": "`echo_agent` is unhealthy"}));
    assert_eq!(answer.header("retry-after"), "2");
}

#[tokio::test]
async fn planner_error_keeps_code_details_and_plan_id() {
    let stack = Stack::start().await;
    for &code in OrchestratorErrorCode::ALL {
        stack.planner.fail(
            OrchestratorError::new(code, "why")
                .with_detail("plan_id", FakePlanner::PLAN)
                .with_detail("stderr", "boom\n")
                .with_retry_after(Duration::from_millis(2_500)),
        );
        let answer = stack.http.post("/api/v1/chat", &json!({"message": "hi"})).await;
        assert_eq!(answer.status.as_u16(), code.http_status(), "{code}");
        let mut body = answer.json();
        assert_eq!(body["correlation_id"].take(), answer.header("x-correlation-id"));
        assert_eq!(
            body,
            json!({
                "api_version": "v1", "correlation_id": null, "status": "error", "plan_id": FakePlanner::PLAN,
                "output": null,
                "error": {"code": code.as_str(), "message": "why", "details": {"stderr": "boom\n"}},
            })
        );
        // A budget that is used up stays so for a day.
        let is_final = code == OrchestratorErrorCode::BudgetExhausted;
        let waits = matches!(answer.status.as_u16(), 429 | 503) || code == OrchestratorErrorCode::Conflict;
        assert_eq!(answer.header("retry-after"), if waits && !is_final { "3" } else { "" }, "{code}");
        assert_eq!(answer.header("x-should-retry"), if is_final { "false" } else { "" }, "{code}");
    }
}

#[tokio::test]
async fn message_at_the_limit_is_accepted_and_one_byte_more_is_not() {
    let stack = Stack::start().await;
    let longest = "ä".repeat(MAX_MESSAGE_BYTES / 2);
    let answer = stack.http.post("/api/v1/chat", &json!({"message": longest})).await;
    assert_eq!(answer.status, StatusCode::OK);
    let answer = stack.http.post("/api/v1/chat", &json!({"message": format!("{longest}x")})).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(answer.json()["error"]["details"]["field"], "message");
    assert_eq!(stack.planner.seen().len(), 1);
}

#[tokio::test]
async fn conversation_is_forwarded_as_it_was_sent() {
    let stack = Stack::start().await;
    let messages = json!([
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "me"},
    ]);
    let chat =
        json!({"messages": messages, "model": "ollama/a:b", "options": {"seed": 7}, "agent": "git_agent"});
    let answer = stack.http.post("/api/v1/chat", &chat).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let request = stack.planner.seen().remove(0).request;
    assert_eq!((request.message.as_str(), request.context.as_str()), ("", ""), "the planner derives them");
    let sent: serde_json::Value = serde_json::from_str(&request.chat_json).unwrap();
    assert_eq!(sent, json!({"messages": messages, "model": "ollama/a:b", "options": {"seed": 7}}));
}

#[tokio::test]
async fn invalid_conversation_names_its_field() {
    let stack = Stack::start().await;
    let messages = json!([{"role": "user", "content": "hi"}]);
    for (chat, field) in [
        (json!({"messages": messages, "message": "hi"}), "message"),
        (json!({"messages": messages, "context": "c"}), "context"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": [{"role": "user", "content": 5}]}), "messages[0].content"),
        (json!({"message": "hi", "model": 5}), "model"),
        (json!({"message": "hi", "options": []}), "options"),
        (json!({"messages": null}), "message"),
    ] {
        let answer = stack.http.post("/api/v1/chat", &chat).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{chat}");
        assert_eq!(answer.json()["error"]["details"]["field"], field, "{chat}");
    }
    assert!(stack.planner.seen().is_empty());
}

#[tokio::test]
async fn idempotency_key_covers_the_conversation() {
    let stack = Stack::start().await;
    let chat = |model: &str, text: &str| {
        json!({"messages": [{"role": "user", "content": text}], "model": model, "options": {"seed": 7}})
            .to_string()
    };
    let headers = [("content-type", "application/json"), ("idempotency-key", "k")];
    for body in [
        chat("a", "hi"),
        chat("a", "hi"),
        chat("b", "hi"),
        chat("a", "ho"),
        chat("a", "hi").replace('7', "8"),
    ] {
        stack.http.send(Method::POST, "/api/v1/chat", &headers, body).await;
    }
    let seen = stack.planner.seen().into_iter().map(|seen| seen.request.idempotency_digest);
    let digests: Vec<_> = seen.collect();
    assert_eq!(digests[0], digests[1]);
    let distinct: std::collections::BTreeSet<_> = digests.iter().collect();
    assert_eq!(distinct.len(), 4, "{digests:?}");
}
