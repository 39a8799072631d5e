//! Conversations in the shape of every provider: roles, tools, images, options.

use phoenix_agents::{ActionError, Agent, llm::LlmRouter};
use phoenix_domain::llm::ProviderKind::{self, Anthropic, Gemini, Ollama, OpenAi};
use serde_json::{Value, json};

use crate::{llm_answers::settings, llm_streams::stream, provider::Provider, request};

/// The body that `kind` gets for this payload.
fn sent(kind: ProviderKind, payload: Value) -> Result<Value, ActionError> {
    let reply = match kind {
        Anthropic => json!({"content": "ok"}),
        Gemini => json!({"candidates": [{"content": {"parts": [{"text": "ok"}]}}]}),
        Ollama => json!({"message": {"content": "ok"}}),
        _ => json!({"choices": [{"message": {"content": "ok"}}]}),
    };
    let provider = Provider::answering(200, reply.to_string());
    let mut request = request("chat", payload);
    request.context = "user: earlier".into();
    LlmRouter::new(settings(kind, provider.url(""))).handle(&request)?;
    Ok(provider.only_request().body)
}

fn conversation() -> Value {
    let call = |id: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": "weather", "arguments": arguments}});
    json!({
        "message": "And in Rome?",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "See"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}}]},
            {"role": "assistant", "content": null, "tool_calls": [call("a", "{\"city\":\"Oslo\"}"), call("b", "{\"city\":\"Bern\"}")]},
            {"role": "tool", "tool_call_id": "a", "content": "rain"},
            {"role": "tool", "tool_call_id": "b", "content": "{\"sky\":\"sun\"}"},
            {"role": "user", "content": "And in Rome?"},
        ],
        "options": {
            "temperature": 0.5, "max_tokens": 100, "stop": "END", "seed": 7, "tool_choice": "required",
            "parallel_tool_calls": false, "stream": true, "n": 1, "model": "x",
            "tools": [{"type": "function", "function": {"name": "weather", "description": "W",
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}],
        },
    })
}

#[test]
fn openai_conversation_passes_through() {
    let payload = conversation();
    let body = sent(OpenAi, payload.clone()).unwrap();
    assert_eq!(body["messages"], payload["messages"]);
    assert_eq!((&body["model"], &body["max_completion_tokens"]), (&json!("model-1"), &json!(100)));
    for name in ["temperature", "stop", "seed", "tools", "tool_choice", "parallel_tool_calls"] {
        assert_eq!(body[name], payload["options"][name], "{name}");
    }
    for name in ["stream", "n", "max_tokens", "stream_options"] {
        assert!(body.get(name).is_none(), "{name}");
    }
}

#[test]
fn anthropic_conversation_is_translated() {
    let body = sent(Anthropic, conversation()).unwrap();
    let image =
        json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}});
    let used = |id: &str, city: &str| json!({"type": "tool_use", "id": id, "name": "weather", "input": {"city": city}});
    let result = |id: &str, text: &str| json!({"type": "tool_result", "tool_use_id": id, "content": text});
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    assert_eq!(
        body,
        json!({
            "model": "model-1", "max_tokens": 100, "system": "Be brief.", "temperature": 0.5, "stop_sequences": ["END"],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "See"}, image]},
                {"role": "assistant", "content": [used("a", "Oslo"), used("b", "Bern")]},
                {"role": "user", "content": [result("a", "rain"), result("b", "{\"sky\":\"sun\"}"),
                    {"type": "text", "text": "And in Rome?"}]},
            ],
            "tools": [{"name": "weather", "description": "W", "input_schema": schema}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
        })
    );
}

#[test]
fn members_of_anthropic_reach_anthropic_and_no_strict_server() {
    let mark = json!({"type": "ephemeral"});
    let thought = json!({"type": "thinking", "thinking": "hm", "signature": "s"});
    let call = json!({"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let payload = json!({
        "message": "x",
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Be brief.", "cache_control": mark}]},
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": null, "thinking_blocks": [thought], "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "a", "content": "no", "is_error": true},
        ],
        "options": {
            "max_tokens": 4000, "top_k": 5, "thinking": {"type": "enabled", "budget_tokens": 31_999},
            "tools": [{"type": "function", "function": {"name": "f"}, "cache_control": mark}],
        },
    });
    let body = sent(Anthropic, payload.clone()).unwrap();
    assert_eq!(body["system"], json!([{"type": "text", "text": "Be brief.", "cache_control": mark}]));
    assert_eq!(body["tools"][0]["cache_control"], mark);
    assert_eq!(body["messages"][1]["content"][0], thought);
    assert_eq!(body["messages"][2]["content"][0]["is_error"], true);
    assert_eq!((&body["top_k"], &body["thinking"]["budget_tokens"]), (&json!(5), &json!(2000)));

    let body = sent(OpenAi, payload).unwrap();
    let text = body.to_string();
    for name in ["cache_control", "thinking", "is_error", "top_k"] {
        assert!(!text.contains(name), "{name}: {text}");
    }
}

#[test]
fn document_reaches_providers_that_read_it() {
    let payload = json!({"message": "x", "messages": [{"role": "user", "content": [
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"}},
    ]}]});
    let source = json!({"type": "base64", "media_type": "application/pdf", "data": "JVBE"});
    assert_eq!(
        sent(Anthropic, payload.clone()).unwrap()["messages"][0]["content"],
        json!([{"type": "document", "source": source}])
    );
    assert_eq!(
        sent(Gemini, payload.clone()).unwrap()["contents"][0]["parts"],
        json!([{"inlineData": {"mimeType": "application/pdf", "data": "JVBE"}}])
    );
    let refused = sent(Ollama, payload).unwrap_err();
    assert!(refused.message.contains("has a document"), "{}", refused.message);
}

#[test]
fn gemini_conversation_is_translated() {
    let body = sent(Gemini, conversation()).unwrap();
    let call = |city: &str| json!({"functionCall": {"name": "weather", "args": {"city": city}}});
    let result = |response: Value| json!({"functionResponse": {"name": "weather", "response": response}});
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    assert_eq!(
        body,
        json!({
            "systemInstruction": {"parts": [{"text": "Be brief."}]},
            "contents": [
                {"role": "user", "parts": [{"text": "See"}, {"inlineData": {"mimeType": "image/png", "data": "iVBO"}}]},
                {"role": "model", "parts": [call("Oslo"), call("Bern")]},
                {"role": "user", "parts": [result(json!({"result": "rain"})), result(json!({"sky": "sun"})),
                    {"text": "And in Rome?"}]},
            ],
            "generationConfig": {"maxOutputTokens": 100, "temperature": 0.5, "seed": 7, "stopSequences": ["END"]},
            "tools": [{"functionDeclarations": [{"name": "weather", "description": "W", "parametersJsonSchema": schema}]}],
            "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
        })
    );
}

#[test]
fn ollama_conversation_is_translated() {
    let payload = conversation();
    let body = sent(Ollama, payload.clone()).unwrap();
    let call = |city: &str| json!({"function": {"name": "weather", "arguments": {"city": city}}});
    assert_eq!(
        body,
        json!({
            "model": "model-1", "stream": false, "tools": payload["options"]["tools"],
            "options": {"num_predict": 100, "temperature": 0.5, "seed": 7, "stop": ["END"]},
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "See", "images": ["iVBO"]},
                {"role": "assistant", "content": "", "tool_calls": [call("Oslo"), call("Bern")]},
                {"role": "tool", "content": "rain", "tool_name": "weather"},
                {"role": "tool", "content": "{\"sky\":\"sun\"}", "tool_name": "weather"},
                {"role": "user", "content": "And in Rome?"},
            ],
        })
    );
}

#[test]
fn structured_output_is_asked_for_in_each_api() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    let payload = json!({"message": "m", "options": {"response_format": format}});
    assert_eq!(sent(OpenAi, payload.clone()).unwrap()["response_format"], format);
    assert_eq!(sent(Ollama, payload.clone()).unwrap()["format"], schema);
    let config = &sent(Gemini, payload.clone()).unwrap()["generationConfig"];
    assert_eq!(
        (&config["responseMimeType"], &config["responseJsonSchema"]),
        (&json!("application/json"), &schema)
    );
    let body = sent(Anthropic, payload).unwrap();
    assert_eq!((&body["tools"][0]["input_schema"], &body["tool_choice"]["type"]), (&schema, &json!("tool")));

    let called = json!({"content": [{"type": "tool_use", "id": "t", "name": "answer", "input": {"a": 1}}], "stop_reason": "tool_use"});
    let provider = Provider::answering(200, called.to_string());
    let payload = json!({"message": "m", "options": {"response_format": format}});
    let result =
        LlmRouter::new(settings(Anthropic, provider.url(""))).handle(&request("chat", payload)).unwrap();
    assert_eq!(
        (result.to_text().as_str(), &result.metadata["finish_reason"]),
        ("{\"a\":1}", &"end_turn".into())
    );
    assert!(result.metadata.get("message").is_none());
}

#[test]
fn tool_calls_of_an_answer_are_in_its_message() {
    let call = json!({"id": "t", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}});
    for (kind, reply) in [
        (
            OpenAi,
            json!({"choices": [{"message": {"content": null, "tool_calls": [call]}, "finish_reason": "tool_calls"}]}),
        ),
        (
            Anthropic,
            json!({"content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}], "stop_reason": "tool_use"}),
        ),
        (
            Gemini,
            json!({"candidates": [{"content": {"parts": [{"functionCall": {"id": "t", "name": "f", "args": {"a": 1}}}]},
            "finishReason": "STOP"}]}),
        ),
        (
            Ollama,
            json!({"message": {"content": "", "tool_calls": [{"id": "t", "function": {"name": "f", "arguments": {"a": 1}}}]},
            "done_reason": "stop"}),
        ),
    ] {
        let provider = Provider::answering(200, reply.to_string());
        let result = LlmRouter::new(settings(kind, provider.url("")))
            .handle(&request("chat", json!({"message": "m"})))
            .unwrap();
        assert_eq!(
            result.metadata["message"],
            json!({"role": "assistant", "content": null, "tool_calls": [call]}),
            "{kind}"
        );
        assert_eq!(result.metadata["finish_reason"], "tool_calls", "{kind}");
        assert_eq!(result.to_text(), "", "{kind}");
    }
}

#[test]
fn tool_calls_of_a_stream_are_joined() {
    let delta = |delta: Value| json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}]});
    let call = |call: Value| delta(json!({"tool_calls": [call]}));
    let named = |index: u64, id: &str, name: &str| {
        call(
            json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}}),
        )
    };
    let rest = |index: u64, part: &str| call(json!({"index": index, "function": {"arguments": part}}));
    let events = [
        delta(json!({"role": "assistant", "content": null})),
        named(0, "t1", "f"),
        rest(0, "{\"a\""),
        rest(0, ":1}"),
        named(1, "t2", "g"),
        rest(1, "{}"),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
    ];
    let body: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    let provider = Provider::answering(200, body + "data: [DONE]\n\n");
    let (chunks, answer) = stream(settings(OpenAi, provider.url("")), json!({"message": "m"}), 30_000);
    let deltas = chunks.iter().filter(|chunk| chunk["delta"]["tool_calls"].is_array());
    assert_eq!(deltas.count(), 5, "each piece comes as the provider sent it: {chunks:?}");
    let result = answer.result.unwrap();
    assert_eq!(result.metadata["finish_reason"], "tool_calls");
    let function = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    let calls = json!([function("t1", "f", "{\"a\":1}"), function("t2", "g", "{}")]);
    assert_eq!(
        result.metadata["message"],
        json!({"role": "assistant", "content": null, "tool_calls": calls})
    );
}

#[test]
fn options_without_an_equivalent_are_named_in_the_metadata() {
    let provider = Provider::answering(200, json!({"content": "ok"}).to_string());
    let payload = json!({"message": "m", "options": {"seed": 1, "top_p": 0.9, "logprobs": true}});
    let result =
        LlmRouter::new(settings(Anthropic, provider.url(""))).handle(&request("chat", payload)).unwrap();
    assert_eq!(result.metadata["ignored_options"], json!(["logprobs", "seed"]));
}

#[test]
fn invalid_conversation_names_its_field() {
    for (payload, says) in [
        (json!({"messages": []}), "`payload.messages` must be"),
        (json!({"messages": "hi"}), "`payload.messages` must be"),
        (
            json!({"messages": [{"role": "user", "content": "a"}, 3]}),
            "`payload.messages[1]` must be an object",
        ),
        (json!({"messages": [{"role": "robot", "content": "a"}]}), "`payload.messages[0].role` is `robot`"),
        (json!({"messages": [{"role": "user", "content": 3}]}), "`payload.messages[0].content` must be"),
        (json!({"model": 3}), "`payload.model` must be a string"),
        (json!({"options": []}), "`payload.options` must be an object"),
    ] {
        let mut payload = payload;
        payload["message"] = "m".into();
        let error = sent(OpenAi, payload).unwrap_err();
        assert_eq!(error.code, 400);
        assert!(error.message.starts_with(says), "{error}");
    }
    let image = |url: &str| {
        json!({"message": "m", "messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": url}}]}]})
    };
    for kind in [Gemini, Ollama] {
        let error = sent(kind, image("https://example.com/a.png")).unwrap_err();
        assert_eq!(error.code, 400);
        assert!(error.message.contains("images as `data:image/"), "{error}");
    }
    let audio = json!({"message": "m", "messages": [{"role": "user", "content": [{"type": "input_audio"}]}]});
    assert!(
        sent(Anthropic, audio)
            .unwrap_err()
            .message
            .contains("`messages[0].content[0]` has the type `input_audio`")
    );
    assert!(
        sent(Anthropic, image("data:text/plain;base64,QQ==")).unwrap_err().message.contains("data:image/")
    );
}

#[test]
fn limit_of_a_chat_is_bounded_by_the_settings() {
    for (options, limit) in [
        (json!({"max_tokens": 100}), 100),
        (json!({"max_completion_tokens": 50, "max_tokens": 100}), 50),
        (json!({"max_tokens": 1_000_000}), 4096),
        (json!({"max_tokens": 0}), 4096),
        (json!({}), 4096),
    ] {
        let body = sent(OpenAi, json!({"message": "m", "options": options})).unwrap();
        assert_eq!(body["max_completion_tokens"], limit, "{options}");
    }
}
