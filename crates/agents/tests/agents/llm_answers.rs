//! The request to each provider and the interpretation of its response. The bodies are those of the documentation.

use phoenix_agents::{ActionResult, Agent, llm::LlmRouter};
use phoenix_domain::{
    json::Json,
    llm::{DefaultProvider, LlmSettings, ProviderKind, Secret},
};
use serde_json::{Value, json};

use crate::{
    provider::{Provider, RecordedRequest, Reply},
    request,
};

pub(crate) const KEY: &str = "sk-test-4f9d2c7a1b";

/// Settings that name `kind` at `base_url`, with a key.
pub(crate) fn settings(kind: ProviderKind, base_url: String) -> LlmSettings {
    let mut settings =
        LlmSettings { default_provider: DefaultProvider::Named(kind), ..LlmSettings::default() };
    let section = settings.section_mut(kind);
    section.api_key = Some(Secret::from(KEY.to_owned()));
    section.base_url = Some(base_url);
    section.model_name = Some("model-1".into());
    settings
}

/// Sends a chat to `kind` with a system prompt and a context; returns the answer and the request that the provider got.
fn ask(kind: ProviderKind, path: &str, reply: &Value) -> (ActionResult, RecordedRequest) {
    let provider = Provider::answering(200, reply.to_string());
    let settings =
        LlmSettings { system_prompt: Some("Be brief.".into()), ..settings(kind, provider.url(path)) };
    let mut request = request("chat", json!({"message": "Hello!"}));
    request.context = "It is Monday.".into();
    let result = LlmRouter::new(settings).handle(&request).unwrap();
    (result, provider.only_request())
}

#[test]
fn openai_request_and_response_are_translated() {
    let reply = json!({
        "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT", "object": "chat.completion", "created": 1_741_569_952,
        "model": "gpt-4.1-2025-04-14",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello! How can I assist you today?",
            "refusal": null, "annotations": []}, "logprobs": null, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29},
    });
    for (kind, limit) in [
        (ProviderKind::OpenAi, "max_completion_tokens"),
        (ProviderKind::Grok, "max_completion_tokens"),
        (ProviderKind::OpenRouter, "max_tokens"),
        (ProviderKind::LmStudio, "max_tokens"),
    ] {
        let (result, asked) = ask(kind, "/v1/", &reply);
        assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/v1/chat/completions"));
        assert_eq!(asked.header("authorization"), Some(&*format!("Bearer {KEY}")));
        assert_eq!(asked.header("content-type"), Some("application/json"));
        let messages = json!([
            {"role": "system", "content": "Be brief.\n\nIt is Monday."},
            {"role": "user", "content": "Hello!"},
        ]);
        assert_eq!(asked.body, json!({"model": "model-1", "messages": messages, limit: 4096}));
        assert_eq!(result.data, "Hello! How can I assist you today?");
        let mut metadata = result.metadata;
        let cost = metadata.shift_remove("cost_usd");
        assert!(metadata.shift_remove("call_ms").is_some());
        assert_eq!(cost, (kind == ProviderKind::OpenAi).then(|| json!(0.000_118).into()));
        assert_eq!(
            Json::Object(metadata),
            json!({"provider": kind.as_str(), "model": "gpt-4.1-2025-04-14", "finish_reason": "stop",
                "requested_model": "model-1", "usage": {"input_tokens": 19, "output_tokens": 10}})
        );
    }
}

#[test]
fn anthropic_request_and_response_are_translated() {
    let reply = json!({
        "id": "msg_013Zva2CMHLNnXjNJJKqJ2EF", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5-20250929",
        "content": [{"type": "thinking", "thinking": "hm", "signature": "x"}, {"type": "text", "text": "Hi! "},
            {"type": "text", "text": "My name is Claude."}],
        "stop_reason": "end_turn", "stop_sequence": null, "usage": {"input_tokens": 2095, "output_tokens": 503},
    });
    let (result, asked) = ask(ProviderKind::Anthropic, "/v1", &reply);
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/v1/messages"));
    assert_eq!(asked.header("x-api-key"), Some(KEY));
    assert_eq!(asked.header("anthropic-version"), Some("2023-06-01"));
    assert_eq!(asked.header("authorization"), None);
    assert_eq!(
        asked.body,
        json!({"model": "model-1", "max_tokens": 4096, "system": "Be brief.\n\nIt is Monday.",
            "messages": [{"role": "user", "content": "Hello!"}]})
    );
    assert_eq!(result.data, "Hi! My name is Claude.");
    assert_eq!(result.metadata["finish_reason"], "end_turn");
    assert_eq!(result.metadata["usage"], json!({"input_tokens": 2095, "output_tokens": 503}));
}

#[test]
fn gemini_request_and_response_are_translated() {
    let reply = json!({
        "candidates": [{"content": {"role": "model", "parts": [{"text": "let me think", "thought": true},
            {"text": "Hello there"}]}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {"promptTokenCount": 8, "candidatesTokenCount": 2, "totalTokenCount": 10},
        "modelVersion": "gemini-2.5-flash",
    });
    let (result, asked) = ask(ProviderKind::Gemini, "/v1beta", &reply);
    assert_eq!(
        (asked.method.as_str(), asked.path.as_str()),
        ("POST", "/v1beta/models/model-1:generateContent")
    );
    assert_eq!(asked.header("x-goog-api-key"), Some(KEY));
    assert_eq!(
        asked.body,
        json!({"contents": [{"role": "user", "parts": [{"text": "Hello!"}]}],
            "systemInstruction": {"parts": [{"text": "Be brief.\n\nIt is Monday."}]},
            "generationConfig": {"maxOutputTokens": 4096}})
    );
    assert_eq!(result.data, "Hello there");
    assert_eq!(result.metadata["model"], "gemini-2.5-flash");
    assert_eq!(result.metadata["usage"], json!({"input_tokens": 8, "output_tokens": 2}));
}

#[test]
fn ollama_request_and_response_are_translated() {
    let reply = json!({
        "model": "llama3.2", "created_at": "2023-12-12T14:13:43.416799Z",
        "message": {"role": "assistant", "content": "Hello! How are you today?"}, "done": true, "done_reason": "stop",
        "total_duration": 5_191_566_416_u64, "prompt_eval_count": 26, "eval_count": 298,
    });
    let (result, asked) = ask(ProviderKind::Ollama, "", &reply);
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/api/chat"));
    assert_eq!(asked.body["stream"], false);
    assert_eq!(asked.body["options"], json!({"num_predict": 4096}));
    assert_eq!(asked.body["messages"][1], json!({"role": "user", "content": "Hello!"}));
    assert_eq!(result.data, "Hello! How are you today?");
    assert_eq!(result.metadata["usage"], json!({"input_tokens": 26, "output_tokens": 298}));
}

#[test]
fn absent_instructions_and_key_are_not_sent() {
    let reply = json!({"choices": [{"message": {"content": "ok"}}]}).to_string();
    let provider = Provider::answering(200, reply);
    let mut settings = settings(ProviderKind::OpenAi, provider.url("/v1"));
    settings.openai.api_key = None;
    let result = LlmRouter::new(settings).handle(&request("chat", json!({"message": "m"}))).unwrap();
    let asked = provider.only_request();
    assert_eq!(asked.header("authorization"), None);
    assert_eq!(asked.body["messages"], json!([{"role": "user", "content": "m"}]));
    let mut metadata = result.metadata;
    assert!(metadata.shift_remove("call_ms").is_some());
    assert_eq!(Json::Object(metadata), json!({"provider": "openai", "model": "model-1"}));
}

#[test]
fn one_agent_answers_many_chats() {
    let provider = Provider::answering(200, json!({"choices": [{"message": {"content": "ok"}}]}).to_string());
    let mut agent = LlmRouter::new(settings(ProviderKind::OpenAi, provider.url("/v1")));
    for _ in 0..3 {
        assert_eq!(crate::text(&mut agent, "chat", json!({"message": "m"})), "ok");
    }
    assert_eq!(provider.asked().len(), 3);
}

/// An Ollama server with these models.
fn ollama(models: &[&str]) -> Provider {
    let tags =
        json!({"models": models.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()}).to_string();
    Provider::with(move |asked| {
        let chat = || json!({"model": asked.body["model"], "message": {"content": "local"}}).to_string();
        Some((200, if asked.path == "/api/tags" { tags.clone() } else { chat() }))
    })
}

/// Settings with only the address of an Ollama server.
fn auto(base_url: String) -> LlmSettings {
    let mut settings = LlmSettings::default();
    settings.ollama.base_url = Some(base_url);
    settings
}

#[test]
fn auto_prefers_a_key_to_a_running_ollama() {
    let local = ollama(&["llama3.2:latest"]);
    let remote =
        Provider::answering(200, json!({"content": [{"type": "text", "text": "remote"}]}).to_string());
    let mut settings = auto(local.url(""));
    settings.anthropic.api_key = Some(Secret::from(KEY.to_owned()));
    settings.anthropic.base_url = Some(remote.url("/v1"));
    let result = LlmRouter::new(settings).handle(&request("chat", json!({"message": "m"}))).unwrap();
    assert_eq!((result.data, &result.metadata["provider"]), (json!("remote").into(), &"anthropic".into()));
    assert!(local.asked().is_empty());
}

#[test]
fn auto_uses_a_model_that_a_running_ollama_has() {
    for (models, configured, used) in [
        (&["qwen3:8b", "llama3.2:latest"][..], None, "llama3.2"),
        (&["qwen3:8b", "phi4:latest"][..], None, "qwen3:8b"),
        (&["qwen3:8b"][..], Some("phi4"), "phi4"),
    ] {
        let local = ollama(models);
        let mut settings = auto(local.url(""));
        settings.ollama.model_name = configured.map(str::to_owned);
        let result = LlmRouter::new(settings).handle(&request("chat", json!({"message": "m"}))).unwrap();
        assert_eq!((result.to_text().as_str(), &result.metadata["model"]), ("local", &used.into()));
        let first = if configured.is_some() { "POST" } else { "GET" };
        assert_eq!(local.asked()[0].method.as_str(), first);
    }
}

#[test]
fn offline_answer_lists_what_works_without_a_model() {
    let settings = LlmSettings { default_provider: DefaultProvider::Offline, ..LlmSettings::default() };
    let result = LlmRouter::new(settings).handle(&request("chat", json!({"message": "m"}))).unwrap();
    let answer = result.to_text();
    assert!(answer.starts_with("[offline] No language model is configured"), "{answer}");
    for expected in ["OPENAI_API_KEY", "git_agent", "obsidian_agent", "echo_agent"] {
        assert!(answer.contains(expected), "{expected} is missing in: {answer}");
    }
    assert_eq!(
        serde_json::to_value(&result.metadata).unwrap(),
        json!({"provider": "offline", "model": "none"})
    );
}

#[test]
fn configured_ollama_answers_or_its_failure_does() {
    // A server that is starting takes half a second.
    let slow = Provider::with(|asked| {
        let tags = json!({"models": [{"name": "llama3.2:latest"}], "message": {"content": "local"}});
        let delay = if asked.path == "/api/tags" { 500 } else { 0 };
        Some(Reply::from((200, tags.to_string())).after(std::time::Duration::from_millis(delay)))
    });
    let chat = |settings| LlmRouter::new(settings).handle(&request("chat", json!({"message": "m"})));
    assert_eq!(chat(auto(slow.url(""))).unwrap().to_text(), "local");

    let named = Provider::answering(200, json!({"message": {"content": "named"}}).to_string());
    let mut settings = auto(named.url("/v1/"));
    settings.ollama.model_name = Some("qwen3".into());
    assert_eq!(chat(settings).unwrap().to_text(), "named");
    assert_eq!(named.only_request().path, "/api/chat", "a configured model needs no lookup");

    let (empty, strange) = (ollama(&[]), Provider::answering(200, "<html>"));
    let broken = Provider::answering(500, r#"{"error":"out of memory"}"#);
    for (url, code, says) in [
        ("http://127.0.0.1:1".into(), 503, "cannot connect to"),
        (empty.url(""), 424, "`ollama pull llama3.2`"),
        (strange.url("/api"), 502, "does not match its API"),
        (broken.url(""), 503, "out of memory"),
    ] {
        let error = chat(auto(url)).unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(says), "{error}");
    }
    let silent = Provider::with(|_| None::<Reply>);
    let mut request = request("chat", json!({"message": "m"}));
    request.meta.deadline_ms = 200;
    assert_eq!(LlmRouter::new(auto(silent.url(""))).handle(&request).unwrap_err().code, 504);
}
