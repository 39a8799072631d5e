//! Fallbacks before an answer begins, names of models, and providers under a name of one's own.

use phoenix_agents::{ActionError, ActionResult, Agent, llm::LlmRouter};
use phoenix_domain::{
    llm::{LlmSettings, ProviderKind, ProviderSettings, Secret},
    usage::{ModelCall, Money},
};
use serde_json::{Value, json};

use crate::{
    llm_answers::{KEY, settings},
    llm_streams::{stream, stream_of_attempt},
    provider::{Provider, Reply},
    request,
};

fn openai_answer(text: &str) -> String {
    json!({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).to_string()
}

fn own(base_url: String) -> ProviderSettings {
    ProviderSettings {
        base_url: Some(base_url),
        model_name: Some("lab-model".into()),
        api_key: Some(Secret::from("key-of-the-lab".to_owned())),
        ..ProviderSettings::default()
    }
}

/// Settings that name OpenAI, with the server `lab` and a local Ollama as fallbacks.
fn chain(openai: &Provider, lab: &Provider, ollama: &Provider) -> LlmSettings {
    let mut settings = settings(ProviderKind::OpenAi, openai.url("/v1"));
    settings.providers.insert("lab".into(), own(lab.url("/v1")));
    settings.ollama.base_url = Some(ollama.url(""));
    settings.fallback = vec!["lab/other-model".into(), "ollama/qwen3".into()];
    settings
}

fn chat(settings: LlmSettings, payload: Value) -> Result<ActionResult, ActionError> {
    LlmRouter::new(settings).handle(&request("chat", payload))
}

fn ollama() -> Provider {
    Provider::answering(
        200,
        json!({"message": {"content": "local"}, "done": true, "done_reason": "stop"}).to_string(),
    )
}

#[test]
fn fallback_answers_when_the_chosen_model_fails() {
    for (status, body) in [
        (500, "{}"),
        (429, "{}"),
        (401, "{}"),
        (404, r#"{"error":"no such model"}"#),
        (200, "<html>"),
        (200, r#"{"error":{"message":"M","code":503}}"#),
    ] {
        let (openai, lab) =
            (Provider::answering(status, body), Provider::answering(200, openai_answer("lab")));
        let result = chat(chain(&openai, &lab, &ollama()), json!({"message": "m"})).unwrap();
        assert_eq!(result.to_text(), "lab", "{status}");
        assert_eq!(result.metadata["provider"], "lab");
        assert_eq!(result.metadata["fallback_from"], json!(["openai/model-1"]));
        let asked = lab.only_request();
        assert_eq!(asked.body["model"], "other-model");
        assert_eq!(asked.header("authorization"), Some("Bearer key-of-the-lab"));
    }
}

#[test]
fn provider_that_is_down_is_passed_over() {
    let (openai, lab) = (Provider::answering(503, "{}"), Provider::answering(200, openai_answer("lab")));
    let mut agent = LlmRouter::new(chain(&openai, &lab, &ollama()));
    for n in 1..=5 {
        let result = agent.handle(&request("chat", json!({"message": "m"}))).unwrap();
        assert_eq!(result.to_text(), "lab");
        assert_eq!(result.metadata["fallback_from"], json!(["openai/model-1"]));
        assert_eq!(openai.asked().len(), n.min(3), "three failures are enough");
    }
    // A chat that names the model gets it, or its failure.
    let named = agent.handle(&request("chat", json!({"message": "m", "model": "openai/model-1"})));
    assert_eq!((named.is_err(), openai.asked().len()), (true, 4));
}

/// An answer that ended in an error after it was paid for.
fn paid_failure() -> Provider {
    let body = json!({
        "model": "gpt-4o-mini",
        "choices": [{"message": {"content": "half"}, "finish_reason": "error"}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 10},
    });
    Provider::answering(200, body.to_string())
}

#[test]
fn failed_calls_report_what_they_used() {
    let lab = Provider::answering(200, openai_answer("lab"));
    let result = chat(chain(&paid_failure(), &lab, &ollama()), json!({"message": "m"})).unwrap();
    let calls = ModelCall::in_metadata(&result.metadata);
    let [call] = &calls[..] else { panic!("{calls:?}") };
    assert_eq!((&*call.provider, &*call.model, call.tokens.total()), ("openai", "gpt-4o-mini", 1010));
    assert!(call.cost.is_some_and(|cost| cost > Money::ZERO));

    let (openai, lab, local) = (paid_failure(), paid_failure(), Provider::answering(500, "{}"));
    let error = chat(chain(&openai, &lab, &local), json!({"message": "m"})).unwrap_err();
    let used: Vec<_> = error
        .model_calls
        .iter()
        .map(|call| (&*call.provider, call.tokens.input, call.cost.is_some()))
        .collect();
    assert_eq!(used, [("openai", 1000, true), ("lab", 1000, false)]);
}

#[test]
fn fallbacks_are_asked_in_their_order_until_the_last() {
    let failing = || Provider::answering(503, "{}");
    let (openai, lab, local) = (failing(), failing(), ollama());
    let result = chat(chain(&openai, &lab, &local), json!({"message": "m"})).unwrap();
    assert_eq!(result.to_text(), "local");
    assert_eq!(result.metadata["fallback_from"], json!(["openai/model-1", "lab/other-model"]));
    assert_eq!(local.only_request().body["model"], "qwen3");

    let error = chat(chain(&failing(), &failing(), &Provider::answering(500, "{}")), json!({"message": "m"}))
        .unwrap_err();
    assert_eq!(error.code, 503);
    assert_eq!(
        error.message,
        "ollama failed (500); before it failed openai/model-1: openai failed (503); lab/other-model: lab failed (503)"
    );
}

#[test]
fn wrong_request_and_named_model_have_no_fallback() {
    for (status, code) in [(400, 400), (413, 413), (422, 422)] {
        let (openai, lab) =
            (Provider::answering(status, "{}"), Provider::answering(200, openai_answer("lab")));
        let error = chat(chain(&openai, &lab, &ollama()), json!({"message": "m"})).unwrap_err();
        assert_eq!((error.code, lab.asked().len()), (code, 0));
    }
    let (openai, lab) = (Provider::answering(500, "{}"), Provider::answering(200, openai_answer("lab")));
    let payload = json!({"message": "m", "model": "openai/gpt-y"});
    assert_eq!(chat(chain(&openai, &lab, &ollama()), payload).unwrap_err().code, 503);
    assert_eq!((openai.only_request().body["model"].clone(), lab.asked().len()), (json!("gpt-y"), 0));
}

#[test]
fn fallback_happens_before_the_first_token_only() {
    let event = |delta: Value| format!("data: {}\n\n", json!({"choices": [{"delta": delta}]}));
    let done = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    let lab = || Provider::answering(200, event(json!({"content": "lab"})) + done);
    // Only the role arrived: the answer has not begun.
    for before in [String::new(), event(json!({"role": "assistant", "content": ""}))] {
        let openai = Provider::answering(200, before + "data: {\"error\":{\"message\":\"M\"}}\n\n");
        let (chunks, answer) = stream(chain(&openai, &lab(), &ollama()), json!({"message": "m"}), 30_000);
        let result = answer.result.unwrap();
        assert_eq!((result.to_text().as_str(), chunks.len()), ("lab", 1));
        assert_eq!(result.metadata["fallback_from"], json!(["openai/model-1"]));
    }
    let (openai, lab) = (Provider::answering(200, event(json!({"content": "half"}))), lab());
    let (chunks, answer) = stream(chain(&openai, &lab, &ollama()), json!({"message": "m"}), 30_000);
    assert_eq!((answer.code, chunks.len(), lab.asked().len()), (502, 1, 0));
}

/// A stream with the text `half` that ends with this event, or without an end.
fn broken(end: &str) -> Provider {
    let half = json!({"choices": [{"delta": {"content": "half"}}]});
    Provider::answering(200, format!("data: {half}\n\n{end}"))
}

#[test]
fn broken_answer_begins_anew_with_the_next_model_if_allowed() {
    let limited = "data: {\"error\":{\"message\":\"M\",\"code\":429}}\n\n";
    let allowed = |by_chat: Option<bool>, by_settings: bool, attempt: u32| {
        let (openai, lab, local) = (broken(limited), broken(""), ollama());
        let mut settings = chain(&openai, &lab, &local);
        settings.fallback_after_output = by_settings;
        let options =
            by_chat.map_or_else(|| json!({}), |allowed| json!({"fallback_after_output": allowed, "seed": 1}));
        let (_, answer) =
            stream_of_attempt(attempt, settings, json!({"message": "m", "options": options}), 30_000);
        let asked = [&openai, &lab, &local].map(|provider| provider.asked().len());
        let asked_for =
            [&openai, &lab, &local].iter().flat_map(|provider| provider.asked()).collect::<Vec<_>>();
        assert!(
            asked_for.iter().all(|asked| asked.body.get("fallback_after_output").is_none()),
            "{asked_for:?}"
        );
        (asked, answer.code, answer.error.unwrap_or_default())
    };
    let next = |model: &str| format!("; the next attempt begins with {model}");
    for (by_chat, by_settings) in [(Some(true), false), (None, true)] {
        let (asked, code, error) = allowed(by_chat, by_settings, 1);
        assert_eq!((asked, code), ([1, 0, 0], 503), "a rate limit is repeated, too");
        assert!(error.ends_with(&next("lab/other-model")), "{error}");
        let (asked, code, error) = allowed(by_chat, by_settings, 2);
        assert_eq!((asked, code), ([0, 1, 0], 502));
        assert!(error.ends_with(&next("ollama/qwen3")), "{error}");
        assert_eq!(allowed(by_chat, by_settings, 3), ([0, 0, 1], 0, String::new()));
        assert_eq!(allowed(by_chat, by_settings, 4).0, [1, 0, 0]);
    }
    for (by_chat, by_settings) in [(Some(false), true), (None, false)] {
        for attempt in [1, 2] {
            let (asked, code, error) = allowed(by_chat, by_settings, attempt);
            assert_eq!((asked, code), ([1, 0, 0], 429));
            assert!(error.ends_with(": M"), "{error}");
        }
    }
}

#[test]
fn permission_to_begin_anew_is_checked_and_needs_a_chain() {
    let payload = |allowed: Value| json!({"message": "m", "options": {"fallback_after_output": allowed}});
    let (openai, lab, local) = (broken(""), broken(""), ollama());
    let error = chat(chain(&openai, &lab, &local), payload("yes".into())).unwrap_err();
    assert_eq!((error.code, openai.asked().len()), (400, 0));
    assert_eq!(error.message, "`payload.options.fallback_after_output` must be true or false");
    // A model that the chat names is asked again, whichever attempt it is.
    let mut named = payload(true.into());
    named["model"] = "openai/gpt-y".into();
    let (_, answer) = stream_of_attempt(2, chain(&openai, &lab, &local), named, 30_000);
    assert_eq!((answer.code, openai.asked().len(), lab.asked().len()), (502, 1, 0));
    // Without a stream there is no half answer: every attempt begins with the chosen model.
    let mut second = request("chat", payload(true.into()));
    second.meta.attempt = 2;
    let result = LlmRouter::new(chain(&Provider::answering(200, openai_answer("openai")), &lab, &local))
        .handle(&second);
    assert_eq!(result.unwrap().to_text(), "openai");
}

#[test]
fn silent_model_leaves_time_for_its_fallbacks() {
    let silent = Provider::with(|_| None::<Reply>);
    let lab = Provider::answering(200, openai_answer("lab"));
    let mut request = request("chat", json!({"message": "m"}));
    request.meta.deadline_ms = 6000;
    let result = LlmRouter::new(chain(&silent, &lab, &ollama())).handle(&request).unwrap();
    assert_eq!(result.to_text(), "lab");
}

#[test]
fn model_of_a_chat_selects_provider_and_model() {
    let named = |payload: Value| {
        let openai = Provider::answering(200, openai_answer("openai"));
        let lab = Provider::answering(200, openai_answer("lab"));
        let local = ollama();
        let result = chat(chain(&openai, &lab, &local), payload).unwrap();
        let asked = [openai.asked(), lab.asked(), local.asked()].concat();
        (result.to_text(), asked[0].body["model"].as_str().unwrap().to_owned())
    };
    for (model, text, asked) in [
        ("lab/org/model:7b", "lab", "org/model:7b"),
        ("lab", "lab", "lab-model"),
        ("ollama/phi4", "local", "phi4"),
        ("gpt-z", "openai", "gpt-z"),
        ("meta-llama/llama-4", "openai", "meta-llama/llama-4"),
        ("phoenix", "openai", "model-1"),
        ("test_agent", "openai", "model-1"),
    ] {
        assert_eq!(named(json!({"message": "m", "model": model})), (text.into(), asked.into()), "{model}");
    }
    let keyless =
        chat(LlmSettings::default(), json!({"message": "m", "model": "anthropic/claude-x"})).unwrap_err();
    assert_eq!(keyless.code, 424);
    assert!(keyless.message.contains("ANTHROPIC_API_KEY"), "{keyless}");
}

#[test]
fn own_provider_is_named_in_its_failures() {
    let refusing = Provider::with(|_| {
        Some(
            Reply::from((401, format!(r#"{{"error":"bad key-of-the-lab and {KEY}"}}"#)))
                .with_header("x-request-id", "req_7"),
        )
    });
    let mut settings = LlmSettings::default();
    settings.providers.insert(
        "lab".into(),
        ProviderSettings { api_key: Some(Secret::from(KEY.to_owned())), ..own(refusing.url("/v1")) },
    );
    let error = chat(settings, json!({"message": "m", "model": "lab"})).unwrap_err();
    assert_eq!(
        error.message,
        "lab rejected its API key (401, request req_7): bad key-of-the-lab and [redacted]; check llm.providers.lab.api_key"
    );
}

#[test]
fn request_id_of_the_provider_is_in_its_errors() {
    for (status, header, value, says) in [
        (500, "x-request-id", "req_123", "openai failed (500, request req_123)"),
        (400, "request-id", "req_a-b", "openai rejected the request (400, request req_a-b)"),
        (500, "x-request-id", "no id at all", "openai failed (500)"),
    ] {
        let provider = Provider::with(move |_| Some(Reply::from((status, "{}")).with_header(header, value)));
        let error =
            chat(settings(ProviderKind::OpenAi, provider.url("")), json!({"message": "m"})).unwrap_err();
        assert_eq!(error.message, says);
    }
}
