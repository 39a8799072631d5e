//! The API that clients of OpenAI speak.

use std::time::Duration;

use http::{Method, StatusCode};
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode as Code, health::HealthState};
use phoenix_proto::planner::WatchPlanResponse;
use serde_json::{Value, json};

use crate::support::{Answer, FakePlanner, Reply, Stack, Watch, agent, plans};

const COMPLETIONS: &str = "/v1/chat/completions";
const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

fn body(model: &str, more: &Value) -> Value {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": "git status"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

async fn complete(stack: &Stack, model: &str, more: &Value) -> Answer {
    stack.http.post(COMPLETIONS, &body(model, more)).await
}

#[tokio::test]
async fn completion_is_a_plan_with_an_answer_in_openai_shape() {
    let stack = Stack::start().await;
    let metadata = json!({
        "provider": "openai", "model": "m", "usage": {"input_tokens": 1, "output_tokens": 2},
    });
    stack.planner.reply(Reply::Result("clean".into(), metadata.to_string()));
    let more =
        json!({"temperature": 0.5, "tools": [{"type": "function"}], "user": "me", "new_member": {"x": [1]}});
    let answer = complete(&stack, "phoenix", &more).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(
        answer.json(),
        json!({
            "id": format!("chatcmpl-{}", FakePlanner::PLAN), "object": "chat.completion", "created": 1_720_784_608,
            "model": "openai/m",
            "choices": [{
                "index": 0, "message": {"role": "assistant", "content": "clean", "refusal": null}, "logprobs": null,
                "finish_reason": "stop",
            }],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        })
    );
    assert_eq!(answer.header("x-phoenix-plan-id"), FakePlanner::PLAN);
    assert!(!answer.header("x-correlation-id").is_empty());
    let request = stack.planner.seen().remove(0).request;
    let chat: Value = serde_json::from_str(&request.chat_json).unwrap();
    assert_eq!(chat, json!({"messages": body("", &json!({}))["messages"], "options": more}));
    assert_eq!((request.agent, request.message.as_str()), (None, ""));
}

#[tokio::test]
async fn model_selects_routing_an_agent_or_a_model_of_a_provider() {
    let stack = Stack::start().await;
    for (model, agent, sent) in [
        ("phoenix", None, None),
        ("git_agent", Some("git_agent"), None),
        ("ollama/llama3.2:1b", Some("llm_router_agent"), Some("ollama/llama3.2:1b")),
    ] {
        assert_eq!(complete(&stack, model, &json!({})).await.status, StatusCode::OK, "{model}");
        let request = stack.planner.seen().pop().unwrap().request;
        let chat: Value = serde_json::from_str(&request.chat_json).unwrap();
        assert_eq!(
            (request.agent.as_deref(), chat.get("model").and_then(Value::as_str)),
            (agent, sent),
            "{model}"
        );
    }
}

/// Status, `error.type`, `error.code`, `error.param`, and `x-should-retry`.
fn told(answer: &Answer) -> (u16, String, String, Value, String) {
    let error = answer.json()["error"].clone();
    assert_eq!(error.as_object().unwrap().len(), 4, "{error}");
    assert!(!error["message"].as_str().unwrap().is_empty());
    let text = |name: &str| error[name].as_str().unwrap().to_owned();
    let retry = answer.header("x-should-retry").to_owned();
    (answer.status.as_u16(), text("type"), text("code"), error["param"].clone(), retry)
}

#[tokio::test]
async fn invalid_completion_is_refused_in_openai_shape() {
    let stack = Stack::start().await;
    for (sent, status, code, param) in [
        (json!({}), 400, "validation_failed", json!("messages")),
        (body("phoenix", &json!({"n": 2})), 400, "validation_failed", json!("n")),
        (body("phoenix", &json!({"stream": 1})), 400, "validation_failed", json!("stream")),
        (
            body("phoenix", &json!({"messages": [{"role": "x"}]})),
            400,
            "validation_failed",
            json!("messages[0].role"),
        ),
        (body("gpt 4", &json!({})), 404, "model_not_found", json!("model")),
    ] {
        let answer = stack.http.post(COMPLETIONS, &sent).await;
        let expected = (status, "invalid_request_error".into(), code.into(), param, "false".into());
        assert_eq!(told(&answer), expected, "{sent}");
        assert_eq!(answer.header("content-type"), "application/json");
    }
    let answer = stack.http.send(Method::POST, COMPLETIONS, JSON, "[1]").await;
    assert_eq!(told(&answer).0, 400);
    for path in ["/v1/embeddings", "/v1"] {
        let answer = stack.http.post(path, &json!({})).await;
        assert_eq!(told(&answer).0, 404, "{path}");
    }
    assert_eq!(told(&stack.http.get(COMPLETIONS).await).0, 405);
    assert!(stack.planner.seen().is_empty());
}

#[tokio::test]
async fn failed_completion_says_whether_a_retry_helps() {
    let stack = Stack::start().await;
    for (code, kind, retry, wait) in [
        (Code::Cancelled, "invalid_request_error", "false", ""),
        (Code::ExecutionFailed, "server_error", "false", ""),
        (Code::Internal, "server_error", "false", ""),
        (Code::Timeout, "server_error", "", ""),
        (Code::Overloaded, "rate_limit_error", "", "3"),
        (Code::AgentUnavailable, "server_error", "", "3"),
        (Code::Conflict, "invalid_request_error", "", "3"),
    ] {
        let error = OrchestratorError::new(code, "why").with_retry_after(Duration::from_millis(2_500));
        for more in [json!({}), json!({"stream": true})] {
            stack.planner.fail(error.clone().with_detail("plan_id", FakePlanner::PLAN));
            let answer = complete(&stack, "phoenix", &more).await;
            let expected = (code.http_status(), kind.into(), code.as_str().into(), Value::Null, retry.into());
            assert_eq!(told(&answer), expected);
            assert_eq!(
                (answer.header("retry-after"), answer.header("x-phoenix-plan-id")),
                (wait, FakePlanner::PLAN)
            );
        }
    }
    let unknown = OrchestratorError::new(Code::PlanningFailed, "unknown agent").with_detail("field", "agent");
    stack.planner.fail(unknown);
    let answer = complete(&stack, "gpt-4o", &json!({})).await;
    assert_eq!(told(&answer).2, "model_not_found");
    assert!(answer.text.contains("gpt-4o") && answer.text.contains("/v1/models"), "{}", answer.text);
}

#[tokio::test]
async fn token_is_required_and_its_absence_told_in_openai_shape() {
    let stack =
        Stack::start_with(|config| config.api_token = Some("a-token-of-the-test".to_owned().into())).await;
    for (method, path) in
        [(Method::POST, COMPLETIONS), (Method::GET, "/v1/models"), (Method::GET, "/v1/models/x")]
    {
        let answer = stack.http.send(method, path, JSON, "{}").await;
        assert_eq!(told(&answer).2, "invalid_api_key", "{path}");
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    }
    let headers = [("content-type", "application/json"), ("authorization", "Bearer a-token-of-the-test")];
    let answer =
        stack.http.send(Method::POST, COMPLETIONS, &headers, body("phoenix", &json!({})).to_string()).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn models_are_phoenix_the_agents_and_those_of_the_providers() {
    let stack = Stack::start().await;
    stack.health.set([agent("git_agent", HealthState::Healthy, 0, None)]);
    let list = stack.http.get("/v1/models").await.json();
    assert_eq!(list["object"], "list");
    let ids: Vec<_> =
        list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["phoenix", "git_agent", "ollama/llama3.2:1b"]);
    for path in ["/v1/models/ollama/llama3.2:1b", "/v1/models/ollama%2Fllama3.2%3A1b"] {
        let model = stack.http.get(path).await;
        assert_eq!(
            model.json(),
            json!({"id": "ollama/llama3.2:1b", "object": "model", "created": 0, "owned_by": "ollama"}),
            "{path}"
        );
    }
    let missing = stack.http.get("/v1/models/gpt-0").await;
    assert_eq!((told(&missing).0, told(&missing).2.as_str()), (404, "model_not_found"));
}

/// The data of every event of a stream.
async fn data(stack: &Stack, more: &Value) -> (Answer, Vec<String>) {
    let answer = complete(stack, "phoenix", more).await;
    let events = answer.text.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
    let data = events.map(str::to_owned).collect();
    (answer, data)
}

#[tokio::test]
async fn streamed_completion_ends_with_done() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::succeeded("On branch main"));
    let (answer, data) = data(&stack, &json!({"stream": true})).await;
    assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, "text/event-stream"));
    assert_eq!(
        (answer.header("x-phoenix-plan-id"), answer.header("x-accel-buffering")),
        (FakePlanner::PLAN, "no")
    );
    let (done, chunks) = data.split_last().unwrap();
    assert_eq!(done, "[DONE]");
    let deltas: Vec<_> = chunks
        .iter()
        .map(|chunk| serde_json::from_str::<Value>(chunk).unwrap()["choices"][0].clone())
        .map(|choice| (choice["delta"].clone(), choice["finish_reason"].clone()))
        .collect();
    assert_eq!(
        deltas,
        [
            (json!({"role": "assistant", "content": ""}), json!(null)),
            (json!({"content": "On branch main"}), json!(null)),
            (json!({}), json!("stop")),
        ]
    );
}

#[tokio::test]
async fn streamed_completion_that_fails_early_has_a_status() {
    let stack = Stack::start().await;
    let error = phoenix_proto::common::Error {
        code: "execution_failed".into(),
        message: "boom".into(),
        ..Default::default()
    };
    stack.planner.keep(phoenix_proto::planner::Plan { error: Some(error), ..plans::succeeded("") });
    let answer = complete(&stack, "phoenix", &json!({"stream": true})).await;
    assert_eq!((told(&answer).0, answer.header("x-phoenix-plan-id")), (502, FakePlanner::PLAN));
}

#[tokio::test]
async fn caller_that_leaves_a_streamed_completion_cancels_its_plan() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::running());
    let request = body("phoenix", &json!({"stream": true})).to_string();
    let http = stack.http.clone();
    let call = tokio::spawn(async move { http.send(Method::POST, COMPLETIONS, JSON, request).await });
    stack.planner.is_watched(1).await;
    call.abort();
    stack.planner.has_lost(1).await;
}

#[tokio::test]
async fn streamed_completion_outlasts_the_time_limit_of_requests() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::succeeded("On branch main"));
    for more in [json!({"stream": true}), json!({})] {
        complete(&stack, "phoenix", &more).await;
    }
    let limited: Vec<_> = stack.planner.seen().iter().map(|seen| seen.context.deadline.is_some()).collect();
    assert_eq!(limited, [false, true]);
}

#[tokio::test]
async fn images_may_make_a_completion_larger_than_other_requests() {
    let stack = Stack::start().await;
    let image = |bytes: usize| {
        let url = format!("data:image/png;base64,{}", "A".repeat(bytes));
        json!({"messages": [{"role": "user", "content": [
            {"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": url}},
        ]}]})
    };
    assert_eq!(complete(&stack, "phoenix", &image(2_000_000)).await.status, StatusCode::OK);
    let refused = complete(&stack, "phoenix", &image(2_200_000)).await;
    assert_eq!((told(&refused).0, told(&refused).3), (400, json!("messages")), "{}", refused.text);
    assert_eq!(told(&complete(&stack, "phoenix", &image(3_200_000)).await).0, 413);
}

/// What the task of a chat says before it ends.
fn says(kind: &str, data: &Value) -> WatchPlanResponse {
    WatchPlanResponse { task_key: "chat".into(), ..plans::event(0, kind, data) }
}

#[tokio::test]
async fn streamed_completion_sends_parts_as_the_agent_says_them() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::succeeded("On branch main"));
    let mut events = vec![
        says("progress", &json!({"attempt": 1, "message": "reads"})),
        says("output", &json!({"attempt": 1, "offset": 0, "text": "On "})),
        says("output", &json!({"attempt": 1, "offset": 3, "text": "branch main"})),
    ];
    events.extend(plans::whole());
    stack.planner.watches([Watch::Ends(events)]);
    let (_, data) = data(&stack, &json!({"stream": true})).await;
    let chunks = data.iter().filter_map(|data| serde_json::from_str::<Value>(data).ok());
    let texts: Vec<_> = chunks.map(|chunk| chunk["choices"][0]["delta"]["content"].clone()).collect();
    assert_eq!(texts, [json!(""), json!("On "), json!("branch main"), json!(null)]);
    assert_eq!(data.last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn streamed_completion_breaks_off_when_another_attempt_begins() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::running());
    stack.planner.watches([Watch::Stays(vec![
        says("output", &json!({"attempt": 1, "offset": 0, "text": "On "})),
        says("output_reset", &json!({"attempt": 2})),
    ])]);
    let (answer, data) = data(&stack, &json!({"stream": true})).await;
    assert_eq!(answer.status, StatusCode::OK);
    let last: Value = serde_json::from_str(data.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "execution_failed", "{data:?}");
    assert_eq!(data.len(), 3, "{data:?}");
    stack.planner.has_lost(1).await;
}
