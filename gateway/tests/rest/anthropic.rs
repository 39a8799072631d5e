//! The API that clients of Anthropic speak.

use std::time::Duration;

use http::{Method, StatusCode};
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode as Code};
use phoenix_proto::planner::WatchPlanResponse;
use serde_json::{Value, json};

use crate::support::{Answer, FakePlanner, Reply, Stack, Watch, plans};

const MESSAGES: &str = "/v1/messages";
const JSON: &[(&str, &str)] = &[("content-type", "application/json"), ("anthropic-version", "2023-06-01")];

fn body(model: &str, more: &Value) -> Value {
    let mut body =
        json!({"model": model, "max_tokens": 64, "messages": [{"role": "user", "content": "git status"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

async fn send(stack: &Stack, model: &str, more: &Value) -> Answer {
    stack.http.send(Method::POST, MESSAGES, JSON, body(model, more).to_string()).await
}

/// Status, `error.type`, `error.code` and `x-should-retry` of a failure, whose id is in body and header.
fn told(answer: &Answer) -> (u16, String, String, String) {
    let body = answer.json();
    assert_eq!((&body["type"], &body["request_id"]), (&json!("error"), &json!(answer.header("request-id"))));
    assert_eq!(answer.header("request-id"), answer.header("x-correlation-id"));
    let text = |name: &str| body["error"][name].as_str().unwrap().to_owned();
    assert!(!text("message").is_empty());
    (answer.status.as_u16(), text("type"), text("code"), answer.header("x-should-retry").to_owned())
}

#[tokio::test]
async fn message_is_a_plan_with_an_answer_in_anthropic_shape() {
    let stack = Stack::start().await;
    let metadata = json!({
        "provider": "anthropic", "model": "m", "usage": {"input_tokens": 1, "output_tokens": 2},
    });
    stack.planner.reply(Reply::Result("clean".into(), metadata.to_string()));
    let answer =
        send(&stack, "phoenix", &json!({"system": "be brief", "stop_sequences": ["END"], "new": 1})).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(
        answer.json(),
        json!({
            "id": format!("msg_{}", FakePlanner::PLAN), "type": "message", "role": "assistant", "model": "anthropic/m",
            "content": [{"type": "text", "text": "clean"}], "stop_reason": "end_turn", "stop_sequence": null,
            "usage": {
                "input_tokens": 1, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 2,
            },
        })
    );
    assert_eq!(answer.header("x-phoenix-plan-id"), FakePlanner::PLAN);
    assert_eq!(answer.header("request-id"), answer.header("x-correlation-id"));
    let request = stack.planner.seen().remove(0).request;
    let chat: Value = serde_json::from_str(&request.chat_json).unwrap();
    assert_eq!(
        chat,
        json!({
            "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "git status"}],
            "options": {"max_tokens": 64, "stop": ["END"], "new": 1},
        })
    );
}

#[tokio::test]
async fn plain_name_that_no_agent_has_is_a_model() {
    let stack =
        Stack::start_with(|config| config.models = vec!["anthropic/claude-sonnet-5-5".to_owned()]).await;
    let unknown = OrchestratorError::new(Code::PlanningFailed, "unknown agent").with_detail("field", "agent");
    stack.planner.reply(Reply::Unless("llm_router_agent", unknown));
    let answer = send(&stack, "claude-opus-5", &json!({})).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let tried = stack.planner.seen();
    let agents: Vec<_> = tried.iter().map(|seen| seen.request.agent.clone().unwrap()).collect();
    assert_eq!(agents, ["claude-opus-5", "llm_router_agent"]);
    let chat: Value = serde_json::from_str(&tried[1].request.chat_json).unwrap();
    assert_eq!(chat["model"], "anthropic/claude-opus-5");
    let answer = send(&stack, "mistral-9", &json!({})).await;
    assert_eq!(told(&answer), (404, "not_found_error".into(), "not_found".into(), "false".into()));
}

#[tokio::test]
async fn invalid_message_is_refused_in_anthropic_shape() {
    let stack = Stack::start().await;
    for (sent, status, kind) in [
        (json!({}), 400, "invalid_request_error"),
        (body("phoenix", &json!({"max_tokens": 0})), 400, "invalid_request_error"),
        (
            body("phoenix", &json!({"tools": [{"type": "bash_20250124", "name": "bash"}]})),
            400,
            "invalid_request_error",
        ),
        (
            body("phoenix", &json!({"messages": [{"role": "user", "content": " "}]})),
            400,
            "invalid_request_error",
        ),
        (body("gpt 4", &json!({})), 404, "not_found_error"),
    ] {
        let answer = stack.http.send(Method::POST, MESSAGES, JSON, sent.to_string()).await;
        let (found, found_kind, _, retry) = told(&answer);
        assert_eq!((found, found_kind.as_str(), retry.as_str()), (status, kind, "false"), "{sent}");
        assert_eq!(answer.header("content-type"), "application/json");
    }
    assert_eq!(told(&stack.http.post("/v1/messages/batches", &json!({})).await).0, 404);
    assert_eq!(told(&stack.http.get(MESSAGES).await).0, 405);
    assert_eq!(told(&stack.http.send(Method::POST, MESSAGES, JSON, "x").await).1, "invalid_request_error");
    let large = "x".repeat(4 * 1024 * 1024);
    let large = body("phoenix", &json!({ "system": large })).to_string();
    assert_eq!(told(&stack.http.send(Method::POST, MESSAGES, JSON, large).await).1, "request_too_large");
    assert!(stack.planner.seen().is_empty());
}

#[tokio::test]
async fn failed_message_has_a_type_and_says_whether_a_retry_helps() {
    let stack = Stack::start().await;
    for (code, kind, retry, wait) in [
        (Code::Cancelled, "invalid_request_error", "false", ""),
        (Code::ExecutionFailed, "api_error", "false", ""),
        (Code::Internal, "api_error", "false", ""),
        (Code::Timeout, "timeout_error", "", ""),
        (Code::Overloaded, "rate_limit_error", "", "3"),
        (Code::AgentUnavailable, "overloaded_error", "", "3"),
    ] {
        let error = OrchestratorError::new(code, "why").with_retry_after(Duration::from_millis(2_500));
        for more in [json!({}), json!({"stream": true})] {
            stack.planner.fail(error.clone().with_detail("plan_id", FakePlanner::PLAN));
            let answer = send(&stack, "phoenix", &more).await;
            assert_eq!(told(&answer), (code.http_status(), kind.into(), code.as_str().into(), retry.into()));
            assert_eq!(
                (answer.header("retry-after"), answer.header("x-phoenix-plan-id")),
                (wait, FakePlanner::PLAN)
            );
        }
    }
}

#[tokio::test]
async fn token_is_accepted_as_an_api_key() {
    let stack =
        Stack::start_with(|config| config.api_token = Some("a-token-of-the-test".to_owned().into())).await;
    for (headers, status) in [
        (&[][..], 401),
        (&[("x-api-key", "other")], 401),
        (&[("x-api-key", "a-token-of-the-test")], 200),
        (&[("authorization", "Bearer a-token-of-the-test")], 200),
    ] {
        let headers = [JSON, headers].concat();
        let answer =
            stack.http.send(Method::POST, MESSAGES, &headers, body("phoenix", &json!({})).to_string()).await;
        assert_eq!(answer.status.as_u16(), status, "{headers:?}");
        if status == 401 {
            assert_eq!(told(&answer).1, "authentication_error");
        }
    }
}

#[tokio::test]
async fn repeated_message_with_a_key_is_sent_under_that_key() {
    let stack = Stack::start().await;
    let headers = [JSON, &[("idempotency-key", "k-1")]].concat();
    for _ in 0..2 {
        stack.http.send(Method::POST, MESSAGES, &headers, body("phoenix", &json!({})).to_string()).await;
    }
    let seen = stack.planner.seen();
    let keys: Vec<_> = seen.iter().map(|seen| seen.request.idempotency_key.as_str()).collect();
    assert_eq!(keys, ["k-1", "k-1"]);
    assert_eq!(seen[0].request.idempotency_digest, seen[1].request.idempotency_digest);
}

/// Name and data of every event of a stream.
fn events(answer: &Answer) -> Vec<(String, Value)> {
    let event = |text: &str| {
        let (name, data) = text.strip_prefix("event: ")?.split_once("\ndata: ")?;
        Some((name.to_owned(), serde_json::from_str(data).unwrap()))
    };
    answer.text.split("\n\n").filter_map(event).collect()
}

/// What the task of a chat says before it ends.
fn says(kind: &str, data: &Value) -> WatchPlanResponse {
    WatchPlanResponse { task_key: "chat".into(), ..plans::event(0, kind, data) }
}

#[tokio::test]
async fn streamed_message_sends_parts_as_the_agent_says_them() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::succeeded("On branch main"));
    let mut said = vec![
        says("output", &json!({"attempt": 1, "offset": 0, "text": "On "})),
        says("output", &json!({"attempt": 1, "offset": 3, "text": "branch main"})),
    ];
    said.extend(plans::whole());
    stack.planner.watches([Watch::Ends(said)]);
    let answer = send(&stack, "phoenix", &json!({"stream": true})).await;
    assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, "text/event-stream"));
    assert_eq!(answer.header("x-phoenix-plan-id"), FakePlanner::PLAN);
    let events = events(&answer);
    let names: Vec<_> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
    );
    assert_eq!(events[3].1["delta"], json!({"type": "text_delta", "text": "branch main"}));
    assert_eq!(events[5].1["delta"]["stop_reason"], "end_turn");
}

#[tokio::test]
async fn streamed_message_that_breaks_off_ends_with_an_error_event() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::running());
    stack.planner.watches([Watch::Stays(vec![
        says("output", &json!({"attempt": 1, "offset": 0, "text": "On "})),
        says("output_reset", &json!({"attempt": 2})),
    ])]);
    let answer = send(&stack, "phoenix", &json!({"stream": true})).await;
    let (name, data) = events(&answer).pop().unwrap();
    assert_eq!((name.as_str(), &data["error"]["type"]), ("error", &json!("api_error")), "{data}");
    assert_eq!(data["request_id"], answer.header("request-id"));
    stack.planner.has_lost(1).await;
}

#[tokio::test]
async fn tokens_are_estimated_without_a_plan() {
    let stack = Stack::start().await;
    let sent = json!({"model": "phoenix", "messages": [{"role": "user", "content": "x".repeat(300)}]});
    let answer = stack.http.post("/v1/messages/count_tokens", &sent).await;
    assert_eq!((answer.status, answer.json()), (StatusCode::OK, json!({"input_tokens": 104})));
    let refused = stack.http.post("/v1/messages/count_tokens", &json!({"model": "phoenix"})).await;
    assert_eq!(told(&refused).1, "invalid_request_error");
    assert!(stack.planner.seen().is_empty());
}
