//! Any JSON value passes through the agent unchanged: to the provider and back, in every API, at once and in a stream.

use std::sync::{Arc, Mutex};

use phoenix_agents::{ActionRequest, llm::LlmRouter, serve};
use phoenix_domain::{
    conversation::NO_OBJECT,
    json::{Json, Object},
    llm::ProviderKind::{self, Anthropic, Gemini, Ollama, OpenAi, OpenRouter},
    object,
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::json;

use crate::{llm_answers::settings, provider::Provider, request};

const KINDS: [ProviderKind; 5] = [OpenAi, OpenRouter, Anthropic, Gemini, Ollama];

/// Cases of a property that asks every provider twice.
const CASES: u32 = 40;

const NUMBER: &str = "-?(0|[1-9][0-9]{0,60})(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?";

/// JSON with numbers of any form and length, any strings, and names that libraries use for themselves.
fn any_json() -> impl Strategy<Value = String> {
    let text = |text: String| serde_json::to_string(&text).unwrap();
    let name = prop_oneof![
        Just(r#""$serde_json::private::RawValue""#.to_owned()),
        Just(r#""$serde_json::private::Number""#.to_owned()),
        Just(r#""index""#.to_owned()),
        any::<String>().prop_map(text),
    ];
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        Just("1.10".to_owned()),
        Just("1e400".to_owned()),
        Just("-0".to_owned()),
        NUMBER,
        name.clone(),
    ];
    leaf.prop_recursive(5, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::hash_map(name.clone(), inner, 0..6).prop_map(|members| {
                let members: Vec<_> = members.iter().map(|(name, value)| format!("{name}:{value}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

/// A value as deep as the inputs of a task may be, with what is around it in a request.
fn deep() -> String {
    let levels = 48;
    format!("{}18446744073709551617{}", "[".repeat(levels), "]".repeat(levels))
}

fn parse(text: &str) -> Json {
    Json::parse_stored(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A provider whose answer can be changed, and its agent's settings.
struct Upstream {
    kind: ProviderKind,
    provider: Provider,
    answer: Arc<Mutex<String>>,
}

impl Upstream {
    fn of(kind: ProviderKind) -> Self {
        let answer = Arc::new(Mutex::new(String::new()));
        let next = answer.clone();
        let provider = Provider::with(move |_| Some((200, next.lock().unwrap().clone())));
        Self { kind, provider, answer }
    }

    /// What the agent writes about `payload` when the provider answers with `body`: the lines before the answer, and the answer.
    fn ask(&self, payload: Object, is_streamed: bool, body: String) -> (Vec<Json>, Json) {
        *self.answer.lock().unwrap() = body;
        let mut request: ActionRequest = request("chat", json!({}));
        request.payload = payload;
        request.meta.stream = is_streamed;
        let agent = LlmRouter::new(settings(self.kind, self.provider.url("")));
        let mut written = Vec::new();
        serve(agent, serde_json::to_vec(&request).unwrap().as_slice(), &mut written).unwrap();
        let mut lines: Vec<Json> = String::from_utf8(written).unwrap().lines().map(parse).collect();
        let answer = lines.pop().unwrap();
        assert_eq!(answer["status"], "success", "{answer}");
        (lines, answer["result"].clone())
    }

    /// The body of the last request.
    fn asked(&self) -> Json {
        parse(&self.provider.asked().last().unwrap().text)
    }
}

/// Runs `test` with each provider, at once and in a stream, for many values.
fn for_all(strategy: &impl Strategy<Value = (String, String)>, test: impl Fn(&Upstream, bool, &str, &str)) {
    let upstreams = KINDS.map(Upstream::of);
    let mut runner = TestRunner::new(Config { cases: CASES, ..Config::default() });
    let run = runner.run(strategy, |(value, other)| {
        for upstream in &upstreams {
            for is_streamed in [false, true] {
                test(upstream, is_streamed, &value, &other);
            }
        }
        Ok(())
    });
    run.unwrap_or_else(|error| panic!("{error}"));
    for upstream in &upstreams {
        test(upstream, false, &deep(), "1e400");
        test(upstream, true, &deep(), "1e400");
    }
}

/// An answer without anything odd.
fn plain_answer(kind: ProviderKind, is_streamed: bool) -> String {
    match (kind, is_streamed) {
        (Anthropic, false) => json!({"content": "ok", "stop_reason": "end_turn"}).to_string(),
        (Anthropic, true) => sse(&[
            r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"ok"}}"#.into(),
            r#"{"type":"message_stop"}"#.into(),
        ]),
        (Gemini, false) => gemini(r#"{"text":"ok"}"#),
        (Gemini, true) => sse(&[gemini(r#"{"text":"ok"}"#)]),
        (Ollama, _) => json!({"message": {"content": "ok"}, "done": true, "done_reason": "stop"}).to_string(),
        (_, false) => json!({"choices": [{"message": {"content": "ok"}}]}).to_string(),
        (_, true) => sse(&[r#"{"choices":[{"delta":{"content":"ok"},"finish_reason":"stop"}]}"#.into()]),
    }
}

fn sse(events: &[String]) -> String {
    events.iter().map(|event| format!("data: {event}\n\n")).collect()
}

fn gemini(part: &str) -> String {
    format!(r#"{{"candidates":[{{"content":{{"parts":[{part}]}},"finishReason":"STOP"}}]}}"#)
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

#[test]
fn any_value_of_a_request_reaches_every_provider() {
    for_all(&(any_json(), NUMBER.prop_map(|text: String| text)), |upstream, is_streamed, value, number| {
        let object = format!(r#"{{"v":{value},"properties":{{"p":{value}}}}}"#);
        let payload = format!(
            r#"{{"message":"m","messages":[
                {{"role":"user","content":"m","extra":{value}}},
                {{"role":"assistant","content":null,"tool_calls":[
                    {{"id":"c","type":"function","function":{{"name":"f","arguments":{arguments}}}}}]}},
                {{"role":"tool","tool_call_id":"c","content":{arguments}}}],
              "options":{{"temperature":{number},"seed":{number},"extra":[{value}],
                "tools":[{{"type":"function","function":{{"name":"f","parameters":{object},"strict":true}}}}]}}}}"#,
            arguments = quoted(&object),
        );
        let payload = Object::parse(&payload).unwrap();
        upstream.ask(payload.clone(), is_streamed, plain_answer(upstream.kind, is_streamed));
        let (body, object, options) = (upstream.asked(), parse(&object), &payload["options"]);
        let number = parse(number);
        match upstream.kind {
            Anthropic => {
                assert_eq!(body["tools"][0]["input_schema"], object);
                assert_eq!(body["messages"][1]["content"][0]["input"], object);
                assert_eq!(body["messages"][2]["content"][0]["content"], payload["messages"][2]["content"]);
                assert_eq!(body["temperature"], number);
            }
            Gemini => {
                assert_eq!(body["tools"][0]["functionDeclarations"][0]["parametersJsonSchema"], object);
                assert_eq!(body["contents"][1]["parts"][0]["functionCall"]["args"], object);
                assert_eq!(body["contents"][2]["parts"][0]["functionResponse"]["response"], object);
                assert_eq!(body["generationConfig"]["temperature"], number);
                assert_eq!(body["generationConfig"]["seed"], number);
            }
            Ollama => {
                assert_eq!(body["tools"], options["tools"]);
                assert_eq!(body["messages"][1]["tool_calls"][0]["function"]["arguments"], object);
                assert_eq!(body["messages"][2]["content"], payload["messages"][2]["content"]);
                assert_eq!(body["options"]["seed"], number);
            }
            _ => {
                assert_eq!(body["messages"], payload["messages"]);
                for name in ["tools", "extra", "temperature", "seed"] {
                    assert_eq!(body[name], options[name], "{name}");
                }
            }
        }
    });
}

#[test]
fn any_schema_of_an_answer_reaches_every_provider() {
    for_all(&(any_json(), any_json()), |upstream, is_streamed, value, other| {
        let schema = format!(r#"{{"type":"object","properties":{{"a":{value}}},"enum":[{other}]}}"#);
        let payload = format!(
            r#"{{"message":"m","options":{{"response_format":{{"type":"json_schema","json_schema":{{"name":"n","schema":{schema}}}}}}}}}"#
        );
        let payload = Object::parse(&payload).unwrap();
        upstream.ask(payload.clone(), is_streamed, plain_answer(upstream.kind, is_streamed));
        let (body, schema) = (upstream.asked(), parse(&schema));
        match upstream.kind {
            Anthropic => assert_eq!(body["tools"][0]["input_schema"], schema),
            Gemini => assert_eq!(body["generationConfig"]["responseJsonSchema"], schema),
            Ollama => assert_eq!(body["format"], schema),
            _ => assert_eq!(body["response_format"], payload["options"]["response_format"]),
        }
    });
}

/// An answer that calls a tool with the arguments `object`, cut anywhere in a stream. Some APIs have `value` beside it.
fn calling(kind: ProviderKind, is_streamed: bool, object: &str, value: &str) -> String {
    let pieces = |text: &str| {
        let middle = text.floor_char_boundary(text.len() / 2);
        [quoted(&text[..middle]), quoted(&text[middle..])]
    };
    let [first, second] = pieces(object);
    match (kind, is_streamed) {
        (Anthropic, false) => format!(
            r#"{{"content":[{{"type":"redacted_thinking","data":{value}}},
                {{"type":"tool_use","id":"c","name":"f","input":{object}}}],"stop_reason":"tool_use"}}"#
        ),
        (Anthropic, true) => sse(&[
            format!(
                r#"{{"type":"content_block_start","content_block":{{"type":"redacted_thinking","data":{value}}}}}"#
            ),
            r#"{"type":"content_block_stop"}"#.into(),
            r#"{"type":"content_block_start","content_block":{"type":"tool_use","id":"c","name":"f","input":{}}}"#
                .into(),
            format!(
                r#"{{"type":"content_block_delta","delta":{{"type":"input_json_delta","partial_json":{first}}}}}"#
            ),
            format!(
                r#"{{"type":"content_block_delta","delta":{{"type":"input_json_delta","partial_json":{second}}}}}"#
            ),
            r#"{"type":"content_block_stop"}"#.into(),
            r#"{"type":"message_delta","delta":{"stop_reason":"tool_use"}}"#.into(),
            r#"{"type":"message_stop"}"#.into(),
        ]),
        (Gemini, _) => {
            let whole = gemini(&format!(r#"{{"functionCall":{{"id":"c","name":"f","args":{object}}}}}"#));
            if is_streamed { sse(&[whole]) } else { whole }
        }
        (Ollama, _) => format!(
            r#"{{"message":{{"content":"","tool_calls":[{{"id":"c","function":{{"name":"f","arguments":{object}}}}}]}},"done":true,"done_reason":"stop"}}"#
        ),
        (_, false) => format!(
            r#"{{"choices":[{{"message":{{"content":null,"extra":[{value}],"tool_calls":[
                {{"id":"c","type":"function","function":{{"name":"f","arguments":{}}}}}]}},"finish_reason":"tool_calls"}}]}}"#,
            quoted(object)
        ),
        (_, true) => sse(&[
            format!(
                r#"{{"choices":[{{"delta":{{"extra":[{value}],"tool_calls":[
                {{"index":0,"id":"c","type":"function","function":{{"name":"f","arguments":{first}}}}}]}}}}]}}"#
            )
            .replace('\n', " "),
            format!(
                r#"{{"choices":[{{"delta":{{"tool_calls":[{{"index":0,"function":{{"arguments":{second}}}}}]}},"finish_reason":"tool_calls"}}]}}"#
            ),
        ]),
    }
}

#[test]
fn any_value_of_an_answer_comes_back_from_every_provider() {
    for_all(&(any_json(), any_json()), |upstream, is_streamed, value, other| {
        let kind = upstream.kind;
        let object = format!(r#"{{"v":{value}}}"#);
        let payload = object! {"message": "m"};
        let (chunks, result) = upstream.ask(payload, is_streamed, calling(kind, is_streamed, &object, other));
        let message = &result["metadata"]["message"];
        assert_eq!(message["tool_calls"][0]["function"]["arguments"], *object, "{kind} {is_streamed}");
        let beside = |message: &Json| match kind {
            Anthropic => message["thinking_blocks"][0]["data"].clone(),
            OpenAi | OpenRouter => message["extra"][0].clone(),
            _ => parse(other),
        };
        assert_eq!(beside(message), parse(other), "{kind} {is_streamed}");
        if !is_streamed {
            return;
        }
        let calls =
            chunks.iter().flat_map(|chunk| chunk["delta"]["tool_calls"].as_array().unwrap_or_default());
        let said: String =
            calls.filter_map(|call| call["function"]["arguments"].as_str().map(str::to_owned)).collect();
        assert_eq!(said, object, "{kind}");
        let first = &chunks.first().unwrap()["delta"];
        assert_eq!(beside(first), parse(other), "{kind}: {chunks:?}");
    });
}

#[test]
fn structured_answer_is_the_text_that_the_model_wrote() {
    let format = r#"{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"object"}}}"#;
    let payload = format!(r#"{{"message":"m","options":{{"response_format":{format}}}}}"#);
    let payload = Object::parse(&payload).unwrap();
    let upstream = Upstream::of(Anthropic);
    let mut runner = TestRunner::new(Config { cases: CASES, ..Config::default() });
    let run = runner.run(&any_json(), |value| {
        let object = format!(r#"{{"v":{value}}}"#);
        for is_streamed in [false, true] {
            let body =
                calling(Anthropic, is_streamed, &object, "1").replace(r#""name":"f""#, r#""name":"answer""#);
            let (_, result) = upstream.ask(payload.clone(), is_streamed, body);
            prop_assert_eq!(&result["data"], &Json::from(object.as_str()));
        }
        Ok(())
    });
    run.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn input_of_a_streamed_call_may_be_at_its_beginning() {
    let upstream = Upstream::of(Anthropic);
    for (start, expected) in
        [("{}", "{}"), (r#"{"n":18446744073709551617}"#, r#"{"n":18446744073709551617}"#), ("null", "{}")]
    {
        let body = sse(&[
            format!(
                r#"{{"type":"content_block_start","content_block":{{"type":"tool_use","id":"c","name":"f","input":{start}}}}}"#
            ),
            r#"{"type":"content_block_stop"}"#.into(),
            r#"{"type":"message_delta","delta":{"stop_reason":"tool_use"}}"#.into(),
            r#"{"type":"message_stop"}"#.into(),
        ]);
        let (_, result) = upstream.ask(object! {"message": "m"}, true, body);
        let call = &result["metadata"]["message"]["tool_calls"][0];
        assert_eq!(call["function"]["arguments"], expected, "{start}");
    }
}

#[test]
fn arguments_that_are_no_object_are_not_lost() {
    for broken in ["{\"a\":", "[1.10]", "no json", r#"{"a":"\ud83d"}"#] {
        let payload = format!(
            r#"{{"message":"m","messages":[{{"role":"user","content":"m"}},{{"role":"assistant","content":null,"tool_calls":[
                {{"id":"c","type":"function","function":{{"name":"f","arguments":{}}}}}]}},
                {{"role":"tool","tool_call_id":"c","content":"your arguments are no JSON object"}}]}}"#,
            quoted(broken)
        );
        let payload = Object::parse(&payload).unwrap();
        for kind in KINDS {
            let upstream = Upstream::of(kind);
            upstream.ask(payload.clone(), false, plain_answer(kind, false));
            let body = upstream.asked();
            let (sent, whole) = match kind {
                Anthropic => (&body["messages"][1]["content"][0]["input"], false),
                Gemini => (&body["contents"][1]["parts"][0]["functionCall"]["args"], false),
                Ollama => (&body["messages"][1]["tool_calls"][0]["function"]["arguments"], false),
                _ => (&body["messages"][1]["tool_calls"][0]["function"]["arguments"], true),
            };
            let sent = if whole { sent } else { &sent[NO_OBJECT] };
            assert_eq!(*sent, *broken, "{kind}");
        }
    }
}
