//! Streamed answers of every provider: pieces as they come, and an end that is one.

use std::{
    io::Write,
    net::TcpStream,
    sync::mpsc::{self, Receiver, Sender},
    time::Duration,
};

use phoenix_agents::{ActionResponse, llm::LlmRouter, serve};
use phoenix_domain::{
    FailureClass,
    llm::{
        LlmSettings,
        ProviderKind::{self, Anthropic, Gemini, Ollama, OpenAi},
    },
    usage::ModelCall,
};
use serde_json::{Value, json};

use crate::{
    llm_answers::settings,
    llm_connections::{Server, accept, read_request},
    provider::Provider,
    request,
};

/// The lines before the answer, and the answer, of a chat that welcomes chunks.
pub(crate) fn stream(
    settings: LlmSettings,
    payload: Value,
    deadline_ms: u64,
) -> (Vec<Value>, ActionResponse) {
    stream_of_attempt(1, settings, payload, deadline_ms)
}

/// The same of a later attempt.
pub(crate) fn stream_of_attempt(
    attempt: u32,
    settings: LlmSettings,
    payload: Value,
    deadline_ms: u64,
) -> (Vec<Value>, ActionResponse) {
    let mut request = request("chat", payload);
    request.meta.attempt = attempt;
    request.meta.stream = true;
    request.meta.deadline_ms = deadline_ms;
    let mut written = Vec::new();
    serve(LlmRouter::new(settings), serde_json::to_vec(&request).unwrap().as_slice(), &mut written).unwrap();
    let text = String::from_utf8(written).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let answer = lines.pop().unwrap();
    assert!(lines.iter().all(|line| line["type"] == "chunk" && line["request_id"] == answer["request_id"]));
    (lines, serde_json::from_value(answer).unwrap())
}

/// The text of chunks.
fn text(chunks: &[Value]) -> String {
    chunks.iter().map(|chunk| chunk["data"].as_str().unwrap()).collect()
}

/// Chunks and answer of a stream with this body.
fn answer(kind: ProviderKind, body: impl Into<String>) -> (Vec<Value>, ActionResponse) {
    let provider = Provider::answering(200, body);
    stream(settings(kind, provider.url("/v1")), json!({"message": "m"}), 30_000)
}

#[test]
fn broken_stream_reports_the_tokens_of_its_beginning() {
    let start = json!({"type": "message_start", "message": {"model": "claude-haiku-4-5", "usage":
        {"input_tokens": 100, "output_tokens": 1}}});
    let piece =
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "half"}});
    let (_, answer) = answer(Anthropic, sse(&[start, piece]));
    let calls = ModelCall::in_metadata(&answer.metadata);
    let [call] = &calls[..] else { panic!("{answer:?}") };
    assert_eq!((&*call.provider, call.tokens.input, call.tokens.output), ("anthropic", 100, 1));
}

/// The events as server-sent events.
fn sse(events: &[Value]) -> String {
    events.iter().map(|event| format!("data: {event}\n\n")).collect()
}

fn ndjson(lines: &[Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn piece(delta: Value) -> Value {
    json!({"id": "c", "object": "chat.completion.chunk", "model": "gpt-x",
        "choices": [{"index": 0, "delta": delta, "finish_reason": null}], "usage": null})
}

fn finish(reason: &str) -> Value {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
}

/// The metadata without the time of the call, which may be there.
fn metadata(answer: &ActionResponse) -> Value {
    let result = answer.result.as_ref().unwrap_or_else(|| panic!("{answer:?}"));
    let mut metadata = serde_json::to_value(&result.metadata).unwrap();
    metadata.as_object_mut().unwrap().remove("call_ms");
    metadata
}

#[test]
fn openai_stream_is_passed_on_and_summed_up() {
    let events = [
        piece(json!({"role": "assistant", "content": ""})),
        piece(json!({"reasoning_content": "hm"})),
        piece(json!({"content": "Hé"})),
        piece(json!({"content": "llo"})),
        finish("stop"),
        json!({"choices": [], "usage": {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29,
            "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 6}}}),
    ];
    let body = format!(": PROCESSING\n\n{}data: [DONE]\n\n", sse(&events));
    let provider = Provider::answering(200, body);
    let (chunks, answer) = stream(settings(OpenAi, provider.url("/v1")), json!({"message": "m"}), 30_000);
    let asked = provider.only_request();
    assert_eq!(
        (&asked.body["stream"], &asked.body["stream_options"]),
        (&json!(true), &json!({"include_usage": true}))
    );
    assert_eq!(text(&chunks), "Héllo");
    assert_eq!(chunks[0]["delta"], json!({"reasoning_content": "hm"}));
    assert_eq!(chunks[1]["delta"], Value::Null);
    assert_eq!(answer.result.as_ref().unwrap().data, "Héllo");
    assert_eq!(
        metadata(&answer),
        json!({"provider": "openai", "model": "gpt-x", "requested_model": "model-1", "finish_reason": "stop",
            "usage": {"input_tokens": 19, "output_tokens": 10, "cached_input_tokens": 4, "reasoning_tokens": 6},
            "message": {"role": "assistant", "content": "Héllo", "reasoning_content": "hm"}})
    );
}

#[test]
fn anthropic_stream_is_translated() {
    let events = [
        json!({"type": "message_start", "message": {"model": "claude-haiku-4-5", "usage":
            {"input_tokens": 100, "cache_read_input_tokens": 900, "output_tokens": 1}}}),
        json!({"type": "ping"}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "s"}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Hi"}}),
        json!({"type": "content_block_stop", "index": 1}),
        json!({"type": "content_block_start", "index": 2, "content_block":
            {"type": "tool_use", "id": "t1", "name": "f", "input": {}}}),
        json!({"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": "{\"a\""}}),
        json!({"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": ":1}"}}),
        json!({"type": "content_block_stop", "index": 2}),
        json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 50}}),
        json!({"type": "message_stop"}),
    ];
    let (chunks, answer) = answer(Anthropic, sse(&events));
    assert_eq!(text(&chunks), "Hi");
    let call = json!({"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}});
    let message = json!({"role": "assistant", "content": "Hi", "reasoning_content": "hm",
        "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}], "tool_calls": [call]});
    let metadata = metadata(&answer);
    assert_eq!(metadata["message"], message);
    assert_eq!(metadata["finish_reason"], "tool_calls");
    assert_eq!(
        metadata["usage"],
        json!({"input_tokens": 1000, "output_tokens": 50, "cached_input_tokens": 900})
    );
    // 100 at 1, 900 at 0.1 and 50 at 5 dollars per million.
    assert_eq!(metadata["cost_usd"], json!(0.00044));
    let deltas: Vec<_> = chunks.iter().filter(|chunk| chunk["delta"]["tool_calls"].is_array()).collect();
    assert_eq!(deltas.len(), 3);
    assert!(deltas.iter().all(|chunk| chunk["delta"]["tool_calls"][0]["index"] == 0));
}

#[test]
fn gemini_stream_is_translated() {
    let part = |part: Value| {
        json!({"candidates": [{"content": {"role": "model", "parts": [part]}}],
        "usageMetadata": {"promptTokenCount": 8, "candidatesTokenCount": 1}, "modelVersion": "gemini-x"})
    };
    let mut last = part(json!({"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "s"}));
    last["candidates"][0]["finishReason"] = "STOP".into();
    last["usageMetadata"] =
        json!({"promptTokenCount": 8, "candidatesTokenCount": 5, "thoughtsTokenCount": 7});
    let events = [part(json!({"text": "hm", "thought": true})), part(json!({"text": "Hi"})), last];
    let provider = Provider::answering(200, sse(&events));
    let (chunks, answer) = stream(settings(Gemini, provider.url("/v1beta")), json!({"message": "m"}), 30_000);
    assert_eq!(provider.only_request().path, "/v1beta/models/model-1:streamGenerateContent?alt=sse");
    assert_eq!(text(&chunks), "Hi");
    let metadata = metadata(&answer);
    assert_eq!(metadata["usage"], json!({"input_tokens": 8, "output_tokens": 12, "reasoning_tokens": 7}));
    assert_eq!(metadata["finish_reason"], "tool_calls");
    let call = &metadata["message"]["tool_calls"][0];
    assert_eq!(call["function"], json!({"name": "f", "arguments": "{\"a\":1}"}));
    assert_eq!(call["extra_content"], json!({"google": {"thought_signature": "s"}}));
}

#[test]
fn ollama_stream_is_translated() {
    let lines = [
        json!({"model": "qwen3", "message": {"role": "assistant", "content": "", "thinking": "hm"}, "done": false}),
        json!({"model": "qwen3", "message": {"role": "assistant", "content": "Hi"}, "done": false}),
        json!({"model": "qwen3", "message": {"content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
            "done": false}),
        json!({"model": "qwen3", "message": {"content": ""}, "done": true, "done_reason": "stop",
            "prompt_eval_count": 26, "eval_count": 298}),
    ];
    let (chunks, answer) = answer(Ollama, ndjson(&lines));
    assert_eq!(text(&chunks), "Hi");
    let metadata = metadata(&answer);
    assert_eq!(metadata["usage"], json!({"input_tokens": 26, "output_tokens": 298}));
    assert_eq!(
        metadata["message"]["tool_calls"][0]["function"],
        json!({"name": "f", "arguments": "{\"a\":1}"})
    );
    assert!(metadata.get("cost_usd").is_none(), "a local model has no price");
}

#[test]
fn stream_without_an_end_is_a_backend_failure() {
    let (_, half) = ("", "data: {\"choices\":[{\"delta\":{\"content\":\"x");
    for (kind, body) in [
        (OpenAi, sse(&[piece(json!({"content": "half"}))])),
        (OpenAi, sse(&[piece(json!({"content": "half"}))]) + half),
        (OpenAi, String::new()),
        (OpenAi, ": nothing but a comment\n\n".into()),
        (
            Anthropic,
            sse(&[json!({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "half"}})]),
        ),
        (Gemini, sse(&[json!({"candidates": [{"content": {"parts": [{"text": "half"}]}}]})])),
        (Ollama, ndjson(&[json!({"message": {"content": "half"}, "done": false})])),
        (Ollama, "{\"message\":{\"content\":\"half\"},\"done\":tr".into()),
    ] {
        let (_, answer) = answer(kind, body.clone());
        assert_eq!(answer.code, 502, "{kind} {body}: {answer:?}");
        assert_eq!(FailureClass::of_response_code(answer.code), FailureClass::BackendFailure);
        assert!(answer.error.unwrap().contains("ended without a finish reason"), "{kind} {body}");
    }
}

#[test]
fn error_inside_a_stream_has_its_own_status() {
    let begun = piece(json!({"content": "half"}));
    for (kind, body, code, says) in [
        (OpenAi, sse(&[begun.clone(), json!({"error": {"message": "M", "code": 429}})]), 429, ": M"),
        (
            OpenAi,
            sse(&[
                begun,
                json!({"error": {"message": "M", "code": 502}, "choices": [{"delta": {"content": ""},
                "finish_reason": "error"}]}),
            ]),
            503,
            ": M",
        ),
        (OpenAi, "event: error\ndata: {\"message\":\"M\"}\n\n".into(), 503, ": M"),
        (
            Anthropic,
            sse(&[json!({"type": "error", "error": {"type": "overloaded_error", "message": "M"}})]),
            503,
            "(529): M",
        ),
        (
            Gemini,
            sse(&[json!({"error": {"code": 503, "message": "M", "status": "UNAVAILABLE"}})]),
            503,
            ": M",
        ),
        (Gemini, sse(&[json!({"promptFeedback": {"blockReason": "SAFETY"}})]), 400, "SAFETY"),
        (Ollama, ndjson(&[json!({"error": "M"})]), 503, ": M"),
    ] {
        let (_, answer) = answer(kind, body.clone());
        assert_eq!(answer.code, code, "{kind} {body}: {answer:?}");
        let error = answer.error.unwrap();
        assert!(error.ends_with(says), "{kind} {body}: {error}");
    }
}

#[test]
fn garbage_in_a_stream_is_a_backend_failure() {
    for (kind, body) in [
        (OpenAi, "data: {not json\n\n".to_owned()),
        (OpenAi, "<html>a proxy's page</html>".into()),
        (OpenAi, "data: [1]\n\n".into()),
        (Anthropic, sse(&[json!({"no": "type"})])),
        (Gemini, "data: 3\n\n".into()),
        (Ollama, "no json\n".into()),
        (Ollama, "{}\n".into()),
    ] {
        let (chunks, answer) = answer(kind, body.clone());
        assert_eq!((answer.code, chunks.len()), (502, 0), "{kind} {body}: {answer:?}");
        assert!(answer.error.unwrap().contains("does not match its API"), "{kind} {body}");
    }
}

#[test]
fn answer_of_a_server_that_does_not_stream_is_accepted() {
    let whole = json!({"choices": [{"message": {"content": "whole"}, "finish_reason": "stop"}]});
    let (chunks, answer) = answer(OpenAi, whole.to_string());
    assert_eq!((text(&chunks).as_str(), answer.code), ("whole", 0));
    let refused = json!({"error": {"message": "M", "code": 404}});
    let (chunks, answer) = self::answer(OpenAi, refused.to_string());
    assert_eq!((chunks.len(), answer.code), (0, 404));
}

#[test]
fn outcome_without_text_is_the_same_as_without_a_stream() {
    for (reason, says) in [
        ("length", "reached llm.max_tokens"),
        ("content_filter", "declined to answer"),
        ("stop", "returned no text (finish reason: stop)"),
    ] {
        let (_, answer) = answer(OpenAi, sse(&[finish(reason)]));
        assert_eq!(answer.code, 400);
        let error = answer.error.unwrap();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn event_of_fifty_megabytes_is_not_read_to_its_end() {
    for kind in [OpenAi, Ollama] {
        let (_, answer) = answer(kind, format!("data: {}", "x".repeat(50 * 1024 * 1024)));
        assert_eq!(answer.code, 502);
        assert!(answer.error.unwrap().contains("exceeds 8388608 bytes"));
    }
}

/// A provider that sends `first`, and the rest when the test says so, or never.
fn slow(first: String) -> (Server, Sender<String>) {
    let (more, rest): (_, Receiver<String>) = mpsc::channel();
    let server = Server::run(move |listener| {
        let mut connection = accept(listener);
        read_request(&mut connection);
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
        connection.write_all(head.as_bytes()).unwrap();
        send(&mut connection, &first);
        for part in rest {
            send(&mut connection, &part);
        }
    });
    (server, more)
}

fn send(connection: &mut TcpStream, text: &str) {
    // The agent may have given up.
    let _ = connection.write_all(text.as_bytes()).and_then(|()| connection.flush());
}

#[test]
fn late_first_token_and_a_stall_are_timeouts() {
    for (first, first_token, stall, says) in [
        (": ping\n\n".to_owned(), 1, 60, "did not begin its answer within 1.0 s"),
        (
            sse(&[piece(json!({"content": "half"}))]),
            60,
            1,
            "sent nothing for 1.0 s in the middle of its answer",
        ),
    ] {
        let (server, more) = slow(first);
        let mut settings = settings(OpenAi, server.url.clone());
        settings.openai.first_token_timeout_secs = std::num::NonZeroU32::new(first_token);
        settings.openai.stall_timeout_secs = std::num::NonZeroU32::new(stall);
        let (_, answer) = stream(settings, json!({"message": "m"}), 60_000);
        assert_eq!(answer.code, 504, "{answer:?}");
        let error = answer.error.unwrap();
        assert!(error.contains(says) && error.contains("raise llm.openai."), "{error}");
        drop(more);
        server.end();
    }
}

#[test]
fn deadline_bounds_a_stream_that_never_ends() {
    let (server, more) = slow(sse(&[piece(json!({"content": "a"}))]));
    let pings = std::thread::spawn(move || {
        while more.send(": ping\n\n".into()).is_ok() {
            std::thread::park_timeout(Duration::from_millis(20));
        }
    });
    let (chunks, answer) = stream(settings(OpenAi, server.url.clone()), json!({"message": "m"}), 500);
    assert_eq!((answer.code, text(&chunks).as_str()), (504, "a"), "{answer:?}");
    assert!(answer.error.unwrap().contains("did not answer within"));
    drop(server);
    drop(pings);
}

#[test]
fn stall_after_the_finish_reason_is_a_success() {
    let (server, more) = slow(sse(&[piece(json!({"content": "whole"})), finish("stop")]));
    let (_, answer) = stream(settings(OpenAi, server.url.clone()), json!({"message": "m"}), 60_000);
    assert_eq!(answer.code, 0, "{answer:?}");
    drop(more);
    server.end();
}

#[test]
fn connection_lost_in_the_middle_is_a_failure() {
    let server = Server::run(|listener| {
        let mut connection = accept(listener);
        read_request(&mut connection);
        let body = sse(&[piece(json!({"content": "half"}))]);
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n";
        connection.write_all((head.to_owned() + &body).as_bytes()).unwrap();
    });
    let (chunks, answer) = stream(settings(OpenAi, server.url.clone()), json!({"message": "m"}), 30_000);
    assert_eq!((answer.code, text(&chunks).as_str()), (503, "half"), "{answer:?}");
    server.end();
}
