//! OpenAI's Responses API.

use http::{Method, StatusCode};
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode as Code};
use phoenix_proto::planner::{PlanStatus, WatchPlanResponse};
use serde_json::{Value, json};

use crate::support::{Answer, FakePlanner, Reply, Stack, Watch, plans};

const RESPONSES: &str = "/v1/responses";

fn body(more: &Value) -> Value {
    let mut body = json!({"model": "phoenix", "input": "git status"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

async fn create(stack: &Stack, more: &Value) -> Answer {
    stack.http.post(RESPONSES, &body(more)).await
}

fn id() -> String {
    format!("resp_{}", FakePlanner::PLAN)
}

#[tokio::test]
async fn response_is_a_plan_with_items_of_its_answer() {
    let stack = Stack::start().await;
    let call = json!({"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let metadata = json!({
        "provider": "openai", "model": "m", "message": {"tool_calls": [call], "reasoning_content": "hm"},
        "usage": {"input_tokens": 3, "output_tokens": 2, "cached_input_tokens": 1, "reasoning_tokens": 1},
    });
    stack.planner.reply(Reply::Result("clean".into(), metadata.to_string()));
    let more = json!({"instructions": "be brief", "temperature": 0.5, "metadata": {"a": "b"}, "max_output_tokens": 9});
    let answer = create(&stack, &more).await;
    assert_eq!((answer.status, answer.header("x-phoenix-plan-id")), (StatusCode::OK, FakePlanner::PLAN));
    let response = answer.json();
    assert_eq!((&response["id"], &response["object"]), (&json!(id()), &json!("response")));
    assert_eq!((&response["status"], &response["model"]), (&json!("completed"), &json!("openai/m")));
    assert_eq!(
        response["output"],
        json!([
            {
                "id": format!("rs_{}_0", FakePlanner::PLAN), "type": "reasoning", "summary": [],
                "content": [{"type": "reasoning_text", "text": "hm"}], "encrypted_content": null, "status": "completed",
            },
            {
                "id": format!("msg_{}_1", FakePlanner::PLAN), "type": "message", "status": "completed", "role": "assistant",
                "content": [{"type": "output_text", "text": "clean", "annotations": [], "logprobs": []}],
            },
            {
                "id": format!("fc_{}_2", FakePlanner::PLAN), "type": "function_call", "status": "completed", "arguments": "{}",
                "call_id": "a", "name": "f",
            },
        ])
    );
    assert_eq!(
        response["usage"],
        json!({
            "input_tokens": 3, "input_tokens_details": {"cached_tokens": 1}, "output_tokens": 2,
            "output_tokens_details": {"reasoning_tokens": 1}, "total_tokens": 5,
        })
    );
    for (name, value) in more.as_object().unwrap() {
        assert_eq!(&response[name], value, "{name}");
    }
    let request = stack.planner.seen().remove(0).request;
    let chat: Value = serde_json::from_str(&request.chat_json).unwrap();
    assert_eq!(
        chat,
        json!({
            "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "git status"}],
            "options": {"temperature": 0.5, "max_completion_tokens": 9},
        })
    );
}

#[tokio::test]
async fn answer_that_is_cut_off_is_incomplete() {
    let stack = Stack::start().await;
    stack.planner.reply(Reply::Partial("half".into(), "length"));
    let response = create(&stack, &json!({})).await.json();
    assert_eq!(response["status"], "incomplete");
    assert_eq!(response["incomplete_details"], json!({"reason": "max_output_tokens"}));
}

#[tokio::test]
async fn invalid_response_is_refused_in_openai_shape() {
    let stack = Stack::start().await;
    for (more, status, param) in [
        (json!({"input": null}), 400, "input"),
        (json!({"input": [{"type": "item_reference", "id": "x"}]}), 400, "input[0].type"),
        (json!({"previous_response_id": "resp_1"}), 400, "previous_response_id"),
        (json!({"conversation": "conv_1"}), 400, "conversation"),
        (json!({"background": "yes"}), 400, "background"),
        (json!({"model": "gpt 4"}), 404, "model"),
    ] {
        let answer = create(&stack, &more).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["error"]["param"]),
            (status, &json!(param)),
            "{more}"
        );
        assert_eq!(answer.header("x-should-retry"), "false");
    }
    assert!(stack.planner.seen().is_empty());
}

#[tokio::test]
async fn response_in_the_background_is_read_and_cancelled_by_its_id() {
    let stack = Stack::start().await;
    let path = format!("{RESPONSES}/{}", id());
    let absent = stack.http.get(&path).await;
    assert_eq!((absent.status.as_u16(), &absent.json()["error"]["code"]), (404, &json!("not_found")));
    let queued = create(&stack, &json!({"background": true})).await.json();
    assert_eq!(
        (&queued["id"], &queued["status"], &queued["background"]),
        (&json!(id()), &json!("queued"), &json!(true))
    );

    stack.planner.keep(plans::running());
    assert_eq!(stack.http.get(&path).await.json()["status"], "in_progress");
    stack.planner.keep(plans::succeeded("clean"));
    let whole = stack.http.get(&path).await.json();
    assert_eq!(
        (&whole["status"], &whole["output"][0]["content"][0]["text"]),
        (&json!("completed"), &json!("clean"))
    );
    let cancelled = stack.http.post(&format!("{path}/cancel"), &json!({})).await.json();
    assert_eq!(cancelled["status"], "completed", "a response that has ended stays as it is");
    stack.planner.keep(plans::failed("boom"));
    let failed = stack.http.get(&path).await.json();
    assert_eq!((&failed["status"], &failed["error"]["code"]), (&json!("failed"), &json!("execution_failed")));

    stack.planner.keep(plans::running());
    let cancelled = stack.http.send(Method::POST, &format!("{path}/cancel"), &[], "").await;
    assert_eq!((cancelled.status.as_u16(), &cancelled.json()["status"]), (200, &json!("cancelled")));
    assert_eq!(stack.planner.cancelled(), 1);
}

#[tokio::test]
async fn plan_that_is_no_chat_is_no_response() {
    let stack = Stack::start().await;
    let mut plan = plans::running();
    plan.tasks[0].action = "git_status".into();
    stack.planner.keep(plan.clone());
    let path = format!("{RESPONSES}/{}", id());
    assert_eq!(stack.http.get(&path).await.status, StatusCode::NOT_FOUND);
    assert_eq!(stack.http.post(&format!("{path}/cancel"), &json!({})).await.status, StatusCode::NOT_FOUND);
    assert_eq!(plan.status(), PlanStatus::Running);
    for id in ["x", "resp_x", FakePlanner::PLAN] {
        assert_eq!(stack.http.get(&format!("{RESPONSES}/{id}")).await.status, StatusCode::NOT_FOUND, "{id}");
    }
}

/// The data of every event of a stream: its name is its type, and its number follows that of the event before.
fn events(answer: &Answer) -> Vec<Value> {
    let event = |text: &str| {
        let (name, data) = text.strip_prefix("event: ")?.split_once("\ndata: ")?;
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["type"], name);
        Some(data)
    };
    let events: Vec<_> = answer.text.split("\n\n").filter_map(event).collect();
    let numbers: Vec<_> = events.iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    events
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap().trim_start_matches("response.")).collect()
}

/// What the task of a chat says before it ends.
fn says(kind: &str, data: &Value) -> WatchPlanResponse {
    WatchPlanResponse { task_key: "chat".into(), ..plans::event(0, kind, data) }
}

#[tokio::test]
async fn streamed_response_has_numbered_events_of_its_items() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::succeeded("On branch main"));
    let call = json!({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}]});
    let mut said = vec![
        says("output", &json!({"attempt": 1, "offset": 0, "text": "", "delta": {"reasoning_content": "hm"}})),
        says("output", &json!({"attempt": 1, "offset": 100, "text": "On "})),
        says("output", &json!({"attempt": 1, "offset": 103, "text": "branch main"})),
        says("output", &json!({"attempt": 1, "offset": 114, "text": "", "delta": call})),
    ];
    said.extend(plans::whole());
    stack.planner.watches([Watch::Ends(said)]);
    let answer = create(&stack, &json!({"stream": true})).await;
    assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, "text/event-stream"));
    let events = events(&answer);
    assert_eq!(
        kinds(&events),
        [
            "created",
            "in_progress",
            "output_item.added",
            "content_part.added",
            "reasoning_text.delta",
            "reasoning_text.done",
            "content_part.done",
            "output_item.done",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
            "completed",
        ]
    );
    let output = &events[19]["response"]["output"];
    assert_eq!(
        (&output[1]["content"][0]["text"], &output[2]["call_id"]),
        (&json!("On branch main"), &json!("a"))
    );
    assert_eq!(
        (&events[0]["response"]["status"], &events[19]["response"]["status"]),
        (&json!("in_progress"), &json!("completed"))
    );
}

#[tokio::test]
async fn streamed_response_that_breaks_off_ends_as_failed() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::running());
    stack.planner.watches([Watch::Stays(vec![
        says("output", &json!({"attempt": 1, "offset": 0, "text": "On "})),
        says("output_reset", &json!({"attempt": 2})),
    ])]);
    let answer = create(&stack, &json!({"stream": true})).await;
    let events = events(&answer);
    assert_eq!(kinds(&events)[events.len() - 3..], ["output_item.done", "error", "failed"]);
    let response = &events.last().unwrap()["response"];
    assert_eq!(
        (&response["status"], &response["output"][0]["status"]),
        (&json!("failed"), &json!("incomplete"))
    );
    assert_eq!(response["error"]["code"], "execution_failed");
    stack.planner.has_lost(1).await;
}

#[tokio::test]
async fn stream_in_the_background_continues_without_its_caller() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::succeeded("clean"));
    let answer = create(&stack, &json!({"stream": true, "background": true})).await;
    assert_eq!(events(&answer).last().unwrap()["response"]["background"], true);
    assert!(stack.planner.seen().remove(0).request.continue_on_disconnect);
}

#[tokio::test]
async fn response_that_fails_before_it_begins_has_a_status() {
    let stack = Stack::start().await;
    stack.planner.fail(OrchestratorError::new(Code::Overloaded, "why"));
    for more in [json!({}), json!({"stream": true}), json!({"background": true})] {
        let answer = create(&stack, &more).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["error"]["type"]),
            (429, &json!("rate_limit_error")),
            "{more}"
        );
    }
}
