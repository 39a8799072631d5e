use phoenix_proto::planner::PlanAndExecuteResponse;
use serde_json::{Value, json};

use phoenix_domain::OrchestratorErrorCode;

use super::*;

const PLAN: &str = "0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e5f";

fn writer() -> MessageWriter {
    MessageWriter::new(PLAN.parse().unwrap(), "phoenix".into())
}

fn answer(metadata: &Value, output: &str) -> Answer {
    let response = PlanAndExecuteResponse {
        output: output.into(),
        metadata_json: metadata.to_string(),
        ..Default::default()
    };
    Answer::of(PLAN.parse().unwrap(), response)
}

/// The data of events, whose names are their types.
fn data(frames: &[Frame]) -> Vec<Value> {
    let data = frames.iter().map(|frame| (frame.name, serde_json::from_str::<Value>(&frame.data).unwrap()));
    data.map(|(name, data)| {
        assert_eq!(name, data["type"].as_str());
        data
    })
    .collect()
}

/// Types of events, with their block's index and the type of what they carry.
fn outline(frames: &[Frame]) -> Vec<String> {
    let line = |event: &Value| {
        let kind = event["type"].as_str().unwrap().trim_start_matches("content_block_").to_owned();
        let of = [&event["content_block"], &event["delta"]].map(|of| of["type"].as_str().unwrap_or_default());
        format!("{kind} {} {}", event["index"], of.concat()).replace("null", "").trim().to_owned()
    };
    data(frames).iter().map(line).collect()
}

#[test]
fn whole_answer_is_a_message_of_finished_blocks() {
    let metadata = json!({
        "usage": {"input_tokens": 3, "output_tokens": 5},
        "message": {"reasoning_content": "hm", "tool_calls": [
            {"id": "a", "function": {"name": "f", "arguments": "{}"}}, {"id": "b", "function": {"name": "g", "arguments": "{}"}},
        ]},
    });
    let frames = writer().finish(&answer(&metadata, "hi"));
    assert_eq!(
        outline(&frames),
        [
            "message_start",
            "start 0 thinking",
            "delta 0 thinking_delta",
            "stop 0",
            "start 1 text",
            "delta 1 text_delta",
            "stop 1",
            "start 2 tool_use",
            "delta 2 input_json_delta",
            "stop 2",
            "start 3 tool_use",
            "delta 3 input_json_delta",
            "stop 3",
            "message_delta",
            "message_stop",
        ]
    );
    let events = data(&frames);
    assert_eq!(events[0]["message"]["id"], format!("msg_{PLAN}"));
    assert_eq!(events[7]["content_block"], json!({"type": "tool_use", "id": "a", "name": "f", "input": {}}));
    assert_eq!(events[13]["delta"], json!({"stop_reason": "tool_use", "stop_sequence": null}));
    assert_eq!(
        (&events[13]["usage"]["input_tokens"], &events[13]["usage"]["output_tokens"]),
        (&json!(3), &json!(5))
    );
}

#[test]
fn parts_are_written_as_they_come_and_not_again_at_the_end() {
    let mut writer = writer();
    let mut frames = Vec::new();
    assert!(writer.part("", Some(r#"{"role":"assistant","content":null}"#)).unwrap().is_empty());
    assert!(!writer.has_started());
    for (text, delta) in [
        ("", Some(r#"{"reasoning_content":"h"}"#)),
        ("", Some(r#"{"reasoning_content":"m"}"#)),
        ("", Some(r#"{"thinking_blocks":[{"type":"thinking","thinking":"hm","signature":"s"}]}"#)),
        ("", Some(r#"{"thinking_blocks":[{"type":"redacted_thinking","data":"x"}]}"#)),
        ("o", None),
        ("k", Some(r#"{"content":"k"}"#)),
        ("", Some(r#"{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":""}}]}"#)),
        ("", Some(r#"{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}"#)),
        ("", Some(r#"{"tool_calls":[{"index":1,"id":"b","function":{"name":"g","arguments":"{}"}}]}"#)),
    ] {
        frames.extend(writer.part(text, delta).unwrap());
    }
    let metadata = json!({"message": {"reasoning_content": "hm", "tool_calls": [{"id": "a"}, {"id": "b"}]}});
    frames.extend(writer.finish(&answer(&metadata, "ok")));
    assert_eq!(
        outline(&frames),
        [
            "message_start",
            "start 0 thinking",
            "delta 0 thinking_delta",
            "delta 0 thinking_delta",
            "delta 0 signature_delta",
            "stop 0",
            "start 1 redacted_thinking",
            "stop 1",
            "start 2 text",
            "delta 2 text_delta",
            "delta 2 text_delta",
            "stop 2",
            "start 3 tool_use",
            "delta 3 input_json_delta",
            "stop 3",
            "start 4 tool_use",
            "delta 4 input_json_delta",
            "stop 4",
            "message_delta",
            "message_stop",
        ]
    );
}

#[test]
fn call_that_is_continued_after_another_one_is_an_error() {
    let mut writer = writer();
    let calls =
        |index: u64| format!(r#"{{"tool_calls":[{{"index":{index},"function":{{"arguments":"1"}}}}]}}"#);
    assert!(writer.part("", Some(&calls(0))).is_ok() && writer.part("", Some(&calls(1))).is_ok());
    assert_eq!(writer.part("", Some(&calls(0))).unwrap_err().code, OrchestratorErrorCode::ExecutionFailed);
}

#[test]
fn failure_is_an_error_event() {
    let error = OrchestratorError::new(OrchestratorErrorCode::Unavailable, "why");
    let id = CorrelationId::generate();
    let frames = writer().fail(StatusCode::SERVICE_UNAVAILABLE, error, id);
    assert_eq!(
        data(&frames),
        [json!({
            "type": "error", "error": {"type": "overloaded_error", "message": "why", "code": "unavailable"},
            "request_id": id.to_string(),
        })]
    );
}
