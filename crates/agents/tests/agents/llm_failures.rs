//! Translation of provider failures into errors, without keys.

use std::{io::Read, net::TcpListener, thread};

use phoenix_agents::{ActionError, Agent, llm::LlmRouter};
use phoenix_domain::{
    FailureClass,
    llm::{LlmSettings, ProviderKind},
};
use serde_json::json;

use crate::{
    llm_answers::{KEY, settings},
    provider::{Provider, Reply},
    request,
};

fn failure(settings: LlmSettings) -> ActionError {
    LlmRouter::new(settings).handle(&request("chat", json!({"message": "m"}))).unwrap_err()
}

fn answered(kind: ProviderKind, status: u16, body: &str) -> ActionError {
    let provider = Provider::answering(status, body);
    failure(settings(kind, provider.url("")))
}

#[test]
fn provider_statuses_map_to_codes() {
    let body = r#"{"error":{"message":"so it is"}}"#;
    for (status, code, class) in [
        (400, 400, FailureClass::InvalidRequest),
        (404, 404, FailureClass::InvalidRequest),
        (413, 413, FailureClass::InvalidRequest),
        (422, 422, FailureClass::InvalidRequest),
        (401, 424, FailureClass::InvalidRequest),
        (402, 424, FailureClass::InvalidRequest),
        (403, 403, FailureClass::InvalidRequest),
        (405, 424, FailureClass::InvalidRequest),
        (302, 424, FailureClass::InvalidRequest),
        (408, 504, FailureClass::Timeout),
        (504, 504, FailureClass::Timeout),
        (429, 429, FailureClass::InvalidRequest),
        (500, 503, FailureClass::BackendFailure),
        (529, 503, FailureClass::BackendFailure),
    ] {
        let error = answered(ProviderKind::Anthropic, status, body);
        assert_eq!(error.code, code, "{status}: {error}");
        assert_eq!(FailureClass::of_response_code(error.code), class, "{status}");
        assert!(error.message.contains("anthropic"), "{error}");
    }
    assert!(answered(ProviderKind::OpenAi, 404, body).message.ends_with(": so it is"));
    assert!(answered(ProviderKind::OpenAi, 401, body).message.contains("OPENAI_API_KEY"));
}

#[test]
fn provider_message_is_found_and_truncated() {
    for body in [
        r#"{"error":{"message":"model\n\u0007 not found"}}"#,
        r#"{"error":"model not found"}"#,
        r#"[{"error":{"code":404,"message":"model not found"}}]"#,
        r#"{"message":"model not found"}"#,
    ] {
        assert!(answered(ProviderKind::Ollama, 404, body).message.ends_with(": model not found"), "{body}");
    }
    let long = json!({"error": {"message": "x ".repeat(10_000)}}).to_string();
    assert!(answered(ProviderKind::OpenAi, 400, &long).message.len() < 400);
    assert_eq!(answered(ProviderKind::OpenAi, 400, "<html>").message, "openai rejected the request (400)");
}

#[test]
fn key_rejection_is_known_by_status_or_member() {
    let words = r#"{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT"}}"#;
    let error = answered(ProviderKind::Gemini, 400, words);
    assert_eq!(error.code, 400);
    assert_eq!(
        error.message,
        "gemini rejected the request (400): API key not valid. Please pass a valid API key."
    );
    let member =
        r#"{"error":{"code":400,"message":"API key not valid.","details":[{"reason":"API_KEY_INVALID"}]}}"#;
    let error = answered(ProviderKind::Gemini, 400, member);
    assert_eq!(error.code, 424);
    assert!(
        error.message.contains("API key not valid.; check llm.gemini.api_key or GEMINI_API_KEY"),
        "{error}"
    );
    let moderation =
        r#"{"error":{"code":403,"message":"Your input was flagged","metadata":{"reasons":["x"]}}}"#;
    let error = answered(ProviderKind::OpenRouter, 403, moderation);
    assert_eq!(error.code, 403);
    assert_eq!(error.message, "openrouter rejected the request (403): Your input was flagged");
}

#[test]
fn no_failure_contains_the_key() {
    let echoes = |text: String| {
        [
            json!({"error": {"message": text}}).to_string(),
            json!({"error": text}).to_string(),
            json!({"error": {"code": 400, "message": text}}).to_string(),
            json!({"choices": [], "error": {"code": 400, "message": text}}).to_string(),
            json!({"choices": [{"message": {"content": text}, "finish_reason": text}], "model": text})
                .to_string(),
            json!({"content": [{"type": "text", "text": text}], "stop_reason": text, "model": text})
                .to_string(),
            json!({"promptFeedback": {"blockReason": text}}).to_string(),
            json!({"candidates": [{"finishReason": text}]}).to_string(),
            json!({"message": {"content": text}, "model": text}).to_string(),
            text,
        ]
    };
    let said =
        [format!("bad token {KEY}, sorry"), format!("bad token {}***, or …{}", &KEY[..10], &KEY[10..])];
    for &kind in ProviderKind::ALL {
        for status in [200, 302, 400, 401, 403, 404, 422, 429, 500, 503] {
            for body in said.iter().cloned().flat_map(echoes) {
                let provider = Provider::answering(status, body.clone());
                let answer = LlmRouter::new(settings(kind, provider.url("")))
                    .handle(&request("chat", json!({"message": "m"})));
                let Err(error) = answer else {
                    assert_eq!(status, 200, "{kind} {body}");
                    continue;
                };
                let failed = format!("{error:?}");
                assert!(!failed.contains(&KEY[..8]), "{kind} {status} {body}: {failed}");
                assert!(!failed.contains(&KEY[10..]), "{kind} {status} {body}: {failed}");
            }
        }
    }
    let agent = LlmRouter::new(settings(ProviderKind::OpenAi, "http://127.0.0.1:1".into()));
    assert!(!format!("{agent:?}").contains(KEY));
}

#[test]
fn placeholder_key_is_not_redacted() {
    let with_key = |provider: &Provider| {
        let mut settings = settings(ProviderKind::LmStudio, provider.url(""));
        settings.lmstudio.api_key = Some("lm-studio".to_owned().into());
        LlmRouter::new(settings).handle(&request("chat", json!({"message": "m"})))
    };
    let refusing = Provider::answering(400, r#"{"error":"lm-studio has no such model"}"#);
    assert!(with_key(&refusing).unwrap_err().message.ends_with(": lm-studio has no such model"));
    let answering = Provider::answering(200, r#"{"choices":[{"message":{"content":"use lm-studio"}}]}"#);
    assert_eq!(with_key(&answering).unwrap().to_text(), "use lm-studio");
}

#[test]
fn redirect_is_not_followed() {
    let other = Provider::answering(200, r#"{"choices":[{"message":{"content":"stolen"}}]}"#);
    let target = other.url("/v1/chat/completions");
    let provider =
        Provider::with(move |_| Some(Reply::from((307, "")).with_header("location", target.clone())));
    let error = failure(settings(ProviderKind::OpenAi, provider.url("")));
    assert_eq!(error.code, 424);
    assert!(other.asked().is_empty());
}

#[test]
fn success_without_an_answer_is_an_error() {
    for (kind, body, code) in [
        (ProviderKind::OpenAi, "<html>not found</html>", 502),
        (ProviderKind::OpenAi, "{}", 502),
        (ProviderKind::OpenAi, r#"{"choices":[{"message":{"content":null},"finish_reason":"stop"}]}"#, 400),
        (ProviderKind::OpenRouter, r#"{"error":{"code":429,"message":"slow down"}}"#, 429),
        (ProviderKind::Anthropic, r#"{"content":[],"stop_reason":"refusal"}"#, 400),
        (ProviderKind::Gemini, r#"{"promptFeedback":{"blockReason":"SAFETY"}}"#, 400),
        (ProviderKind::Gemini, r#"{"candidates":[{"finishReason":"OTHER"}]}"#, 400),
        (ProviderKind::Ollama, r#"{"message":{}}"#, 502),
    ] {
        assert_eq!(answered(kind, 200, body).code, code, "{kind} {body}");
    }
    let empty = answered(ProviderKind::Gemini, 200, r#"{"candidates":[{"finishReason":"OTHER"}]}"#);
    assert!(empty.message.ends_with("(finish reason: OTHER)"), "{empty}");
}

#[test]
fn endless_response_is_not_read_to_its_end() {
    let error = answered(ProviderKind::OpenAi, 200, &" ".repeat(9 * 1024 * 1024));
    assert_eq!(error.code, 502);
    assert!(error.message.contains("exceeds 8388608 bytes"), "{error}");
}

#[test]
fn silent_provider_times_out_before_the_deadline() {
    let silent = Provider::with(|_| None::<Reply>);
    let mut request = request("chat", json!({"message": "m"}));
    request.meta.deadline_ms = 200;
    let error = LlmRouter::new(settings(ProviderKind::Grok, silent.url(""))).handle(&request).unwrap_err();
    assert_eq!(error.code, 504);
    assert_eq!(
        error.message,
        "grok did not answer within 0.2 s; if the model needs longer, raise timeout_secs of [agents.test_agent], or the \
         caller's deadline if that is shorter"
    );
}

#[test]
fn unreachable_provider_may_be_retried() {
    let error = failure(settings(ProviderKind::LmStudio, "http://127.0.0.1:1/v1".into()));
    assert_eq!(error.code, 503);
    assert!(error.message.contains("llm.lmstudio.base_url"), "{error}");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let _ = connection.read(&mut [0; 64]).unwrap();
    });
    assert_eq!(failure(settings(ProviderKind::OpenAi, url)).code, 503);
    server.join().unwrap();
}

#[test]
fn unusable_setting_is_named() {
    let mut settings = settings(ProviderKind::OpenAi, "not a url".into());
    let error = failure(settings.clone());
    assert_eq!((error.code, error.message.as_str()), (424, "llm.openai.base_url is not a valid URL"));

    settings.openai.base_url = Some("http://127.0.0.1:1".into());
    settings.openai.api_key = Some("two\nlines".to_owned().into());
    assert!(failure(settings.clone()).message.contains("cannot be sent"));

    settings.openai = Default::default();
    let error = failure(settings);
    assert_eq!(error.code, 424);
    assert!(error.message.contains("has no API key") && error.message.contains("OPENAI_API_KEY"), "{error}");
}

#[test]
fn only_chats_with_a_message_are_accepted() {
    let mut agent = LlmRouter::new(LlmSettings::default());
    assert_eq!(crate::code(&mut agent, "summon", json!({})), 501);
    assert_eq!(crate::code(&mut agent, "chat", json!({})), 400);
}
