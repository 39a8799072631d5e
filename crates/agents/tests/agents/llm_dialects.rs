//! Deviations of servers from a provider's API, and rejections that are no failure of the agent.

use std::time::Duration;

use phoenix_agents::{ActionError, ActionResult, Agent, llm::LlmRouter};
use phoenix_domain::llm::ProviderKind::{
    self, Anthropic, Gemini, Grok, LmStudio, Ollama, OpenAi, OpenRouter,
};
use serde_json::{Value, json};

use crate::{
    llm_answers::{KEY, settings},
    provider::{Provider, Reply},
    request,
};

fn chat(kind: ProviderKind, provider: &Provider) -> Result<ActionResult, ActionError> {
    LlmRouter::new(settings(kind, provider.url(""))).handle(&request("chat", json!({"message": "m"})))
}

fn answer(kind: ProviderKind, body: impl Into<String>) -> Result<ActionResult, ActionError> {
    chat(kind, &Provider::answering(200, body))
}

/// The metadata without the time of the call, which may be there.
fn metadata(result: &ActionResult) -> Value {
    let mut metadata = serde_json::to_value(&result.metadata).unwrap();
    metadata.as_object_mut().unwrap().remove("call_ms");
    metadata
}

fn openai(content: &Value) -> Value {
    json!({"choices": [{"message": {"content": content}, "finish_reason": "stop"}]})
}

#[test]
fn content_in_parts_is_joined_for_every_provider() {
    for (kind, body) in [
        (OpenAi, openai(&json!([{"type": "text", "text": "hi"}]))),
        (OpenAi, openai(&json!([{"type": "thinking", "text": "hm"}, {"type": "text", "text": "h"}, "i"]))),
        (OpenAi, openai(&json!({"type": "text", "text": "hi"}))),
        (Grok, openai(&json!([{"type": "output_text", "text": "hi"}]))),
        (LmStudio, json!({"choices": [{"text": "hi"}]})),
        (OpenRouter, json!({"choices": [{"message": {"content": null, "refusal": "hi"}}]})),
        (Anthropic, json!({"content": "hi"})),
        (Anthropic, json!({"content": [{"type": "thinking", "thinking": "hm"}, {"text": "hi"}]})),
        (
            Gemini,
            json!({"candidates": [{"content": {"parts": [{"text": "hm", "thought": true}, {"text": "hi"}]}}]}),
        ),
        (Ollama, json!({"message": {"content": [{"type": "text", "text": "hi"}]}})),
    ] {
        assert_eq!(answer(kind, body.to_string()).unwrap().to_text(), "hi", "{kind} {body}");
    }
}

#[test]
fn members_beside_the_text_may_have_any_type_or_be_absent() {
    let odd = [json!(3.5), json!(-1), json!("3"), json!(null), json!(true), json!([1]), json!({"a": [null]})];
    for odd in odd {
        for (kind, mut body, members) in [
            (
                OpenAi,
                openai(&json!("hi")),
                &["/usage", "/model", "/choices/0/finish_reason", "/id", "/error"][..],
            ),
            (Anthropic, json!({"content": [{"text": "hi"}]}), &["/usage", "/model", "/stop_reason"]),
            (
                Gemini,
                json!({"candidates": [{"content": {"parts": [{"text": "hi"}]}}]}),
                &["/usageMetadata", "/modelVersion", "/candidates/0/finishReason", "/promptFeedback"],
            ),
            (
                Ollama,
                json!({"message": {"content": "hi"}}),
                &["/prompt_eval_count", "/eval_count", "/model", "/done_reason"],
            ),
        ] {
            for member in members {
                let (parent, name) = member.rsplit_once('/').unwrap();
                body.pointer_mut(parent).unwrap()[name] = odd.clone();
            }
            let result = answer(kind, body.to_string()).unwrap_or_else(|error| panic!("{body}: {error}"));
            assert_eq!(result.to_text(), "hi", "{body}");
            assert!(metadata(&result).get("usage").is_none(), "{body}");
        }
    }
    let body = json!({"choices": [{"message": {"content": "hi"}}], "usage": {"prompt_tokens": 3.5}});
    assert_eq!(
        metadata(&answer(OpenAi, body.to_string()).unwrap()),
        json!({"provider": "openai", "model": "model-1"})
    );
}

#[test]
fn odd_numbers_and_nesting_beside_the_text_lose_no_answer() {
    let deep = format!("{}{}", "[".repeat(300), "]".repeat(300));
    for odd in ["1e400", "-1e999", "-0", "123456789012345678901234567890", "0.1e-999", &deep, r#""\ud83d""#] {
        for (kind, body) in [
            (
                OpenAi,
                format!(
                    r#"{{"id":{odd},"choices":[{{"message":{{"content":"hi"}},"logprobs":{odd}}}],"usage":{{"prompt_tokens":{odd}}}}}"#
                ),
            ),
            (Anthropic, format!(r#"{{"content":[{{"text":"hi"}}],"usage":{{"input_tokens":{odd}}}}}"#)),
            (
                Gemini,
                format!(
                    r#"{{"candidates":[{{"content":{{"parts":[{{"text":"hi"}}]}},"avgLogprobs":{odd}}}]}}"#
                ),
            ),
            (
                Ollama,
                format!(r#"{{"message":{{"content":"hi"}},"total_duration":{odd},"eval_count":{odd}}}"#),
            ),
        ] {
            let result =
                answer(kind, body.as_str()).unwrap_or_else(|error| panic!("{kind} {odd:.40}: {error}"));
            assert_eq!(result.to_text(), "hi", "{kind} {odd:.40}");
        }
    }
}

#[test]
fn byte_order_mark_before_an_answer_is_ignored() {
    let body = openai(&json!("hi"));
    assert_eq!(answer(OpenAi, format!("\u{feff}{body}")).unwrap().to_text(), "hi");
    let refusing = Provider::answering(422, "\u{feff}{\"detail\":\"D\"}");
    assert!(chat(OpenAi, &refusing).unwrap_err().message.ends_with(": D"));
}

#[test]
fn lone_surrogate_becomes_a_replacement_character() {
    let body = r#"{"choices":[{"message":{"content":"a\ud83d"}}]}"#;
    assert_eq!(answer(OpenAi, body).unwrap().to_text(), "a\u{fffd}");
}

#[test]
fn answer_that_contains_the_key_is_unaltered() {
    for text in ["keys begin with sk-test-, nothing else", KEY, "sk-test-4f9d in a text 2c7a1b"] {
        let body = json!({"choices": [{"message": {"content": text}, "finish_reason": text}], "model": text});
        let result = answer(OpenAi, body.to_string()).unwrap();
        assert_eq!(result.to_text(), text);
        assert_eq!(
            metadata(&result),
            json!({"provider": "openai", "model": text, "requested_model": "model-1", "finish_reason": text})
        );
    }
    let refusing =
        Provider::answering(400, json!({"error": {"message": format!("a={KEY}&b=2")}}).to_string());
    assert!(chat(OpenAi, &refusing).unwrap_err().message.ends_with(": a=[redacted]&b=2"));
}

#[test]
fn error_under_status_200_is_handled_as_its_own_status() {
    for (kind, body, code, says) in [
        (OpenAi, json!({"choices": null, "error": {"message": "M", "code": 429}}), 429, ": M"),
        (OpenAi, json!({"error": {"message": "M", "code": "rate_limit_exceeded"}}), 429, ": M"),
        (OpenAi, json!({"choices": [], "error": {"message": "M", "code": "400"}}), 400, ": M"),
        (OpenAi, json!({"object": "error", "message": "M", "code": 404}), 404, ": M"),
        (LmStudio, json!({"error": "M"}), 503, "(502): M"),
        (
            OpenRouter,
            json!({"choices": [{"message": {"content": "half"}, "finish_reason": "error",
                "error": {"code": 503, "message": "M"}}]}),
            503,
            ": M",
        ),
        (
            Anthropic,
            json!({"type": "error", "error": {"type": "overloaded_error", "message": "M"}}),
            503,
            "(529): M",
        ),
        (
            Gemini,
            json!([{"error": {"code": 403, "message": "M", "status": "PERMISSION_DENIED"}}]),
            403,
            ": M",
        ),
        (Ollama, json!({"error": "M"}), 503, ": M"),
    ] {
        let error = answer(kind, body.to_string()).unwrap_err();
        assert_eq!(error.code, code, "{body}: {error}");
        assert!(error.message.ends_with(says), "{body}: {error}");
    }
    for nothing in [json!(null), json!({}), json!(""), json!(false)] {
        let mut body = openai(&json!("hi"));
        body["error"] = nothing;
        assert_eq!(answer(OpenAi, body.to_string()).unwrap().to_text(), "hi", "{body}");
    }
}

#[test]
fn declined_prompt_is_a_400_with_the_reason() {
    let declined = json!({"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]});
    for (kind, body, reason) in [
        (OpenAi, declined, "content_filter"),
        (Anthropic, json!({"content": [], "stop_reason": "refusal"}), "refusal"),
        (Gemini, json!({"candidates": [{"finishReason": "SAFETY"}]}), "SAFETY"),
        (
            Gemini,
            json!({"candidates": [{"content": {"role": "model"}, "finishReason": "RECITATION"}]}),
            "RECITATION",
        ),
        (Gemini, json!({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}), "PROHIBITED_CONTENT"),
    ] {
        let error = answer(kind, body.to_string()).unwrap_err();
        let expected = format!("{kind} declined to answer this message: {reason}");
        assert_eq!((error.code, error.message), (400, expected), "{body}");
    }
    let partial =
        json!({"candidates": [{"content": {"parts": [{"text": "half"}]}, "finishReason": "SAFETY"}]});
    assert_eq!(metadata(&answer(Gemini, partial.to_string()).unwrap())["finish_reason"], "SAFETY");
}

#[test]
fn answer_of_reasoning_alone_is_a_400_naming_max_tokens() {
    for (kind, body) in [
        (
            OpenAi,
            json!({"choices": [{"message": {"content": "", "reasoning_content": "hm"}, "finish_reason": "length"}]}),
        ),
        (
            OpenRouter,
            json!({"choices": [{"message": {"content": null, "reasoning": "hm"}, "finish_reason": "length"}]}),
        ),
        (
            Anthropic,
            json!({"content": [{"type": "thinking", "thinking": "hm"}], "stop_reason": "max_tokens"}),
        ),
        (
            Gemini,
            json!({"candidates": [{"content": {"parts": [{"text": "hm", "thought": true}]}, "finishReason": "MAX_TOKENS"}]}),
        ),
        (Ollama, json!({"message": {"content": "", "thinking": "hm"}, "done_reason": "length"})),
    ] {
        let error = answer(kind, body.to_string()).unwrap_err();
        let expected =
            format!("{kind} reached llm.max_tokens before it wrote an answer; raise llm.max_tokens");
        assert_eq!((error.code, error.message), (400, expected), "{body}");
    }
}

#[test]
fn provider_messages_are_passed_on_in_every_format() {
    for (status, body, message) in [
        (422, r#"{"detail":"D"}"#, "openai rejected the request (422): D"),
        (
            422,
            r#"{"detail":[{"loc":["body","model"],"msg":"field required"}]}"#,
            "openai rejected the request (422): body.model: field required",
        ),
        (
            400,
            "the plain HTTP request was sent to an HTTPS port\n",
            "openai rejected the request (400): the plain HTTP request was sent to an HTTPS port",
        ),
        (
            400,
            r#"{"error":{"message":"mind your API key"}}"#,
            "openai rejected the request (400): mind your API key",
        ),
        (403, r#"{"message":"not from there"}"#, "openai rejected the request (403): not from there"),
        (
            401,
            r#"{"error":{"message":"expired"}}"#,
            "openai rejected its API key (401): expired; check llm.openai.api_key or OPENAI_API_KEY",
        ),
        (
            402,
            r#"{"error":{"message":"no credit"}}"#,
            "openai requires the account's balance to be settled (402): no credit",
        ),
        (404, "", "openai rejected the request (404); check llm.openai.base_url"),
        (500, "<html>", "openai failed (500)"),
    ] {
        let error = chat(OpenAi, &Provider::answering(status, body)).unwrap_err();
        assert_eq!(error.message, message);
    }
}

#[test]
fn retry_after_of_a_429_is_read_in_every_format() {
    let body = r#"{"error":{"message":"slow down"}}"#;
    for (status, name, value, millis) in [
        (429, "retry-after", "30", Some(30_000)),
        (429, "retry-after", "0.5", Some(500)),
        (429, "retry-after-ms", "1500", Some(1500)),
        (429, "retry-after", "Wed, 21 Oct 2015 07:28:00 GMT", Some(0)),
        (429, "retry-after", "later", None),
        (503, "retry-after", "60", Some(60_000)),
        (529, "retry-after", "60", Some(60_000)),
    ] {
        let provider = Provider::with(move |_| Some(Reply::from((status, body)).with_header(name, value)));
        let error = chat(OpenAi, &provider).unwrap_err();
        assert_eq!(error.code, 429, "{error}");
        assert_eq!(error.retry_after, millis.map(Duration::from_millis), "{name}: {value}");
        assert!(error.message.ends_with(": slow down"), "{error}");
        provider.only_request();
    }
    let google =
        json!({"error": {"code": 429, "message": "M", "details": [{"retryDelay": "7s"}]}}).to_string();
    let error = chat(Gemini, &Provider::answering(429, google)).unwrap_err();
    assert_eq!(error.retry_after, Some(Duration::from_secs(7)));
}
