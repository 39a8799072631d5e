//! Fuzz targets: functions of bytes that panic when a parser breaks an invariant, and return whether the parser accepted the
//! bytes. `fuzz/README.md` describes their use.
#![allow(clippy::panic, reason = "a broken invariant is reported by a panic")]

use http::{HeaderMap, HeaderValue};
use phoenix_domain::{
    CorrelationId, PlanId, TaskId,
    action::{API_VERSION, ActionMeta, ActionRequest, CHAT_ACTION},
    json::{Json, Object},
    limits::{MAX_DEPTH, MAX_FILLED_INPUT_BYTES},
    template::{self, Referent},
};
use phoenix_platform::{config::PhoenixConfig, propagation::TraceContext};
use uuid::Uuid;

/// A fuzz target.
pub type Target = fn(&[u8]) -> bool;

/// Every target by name, which is the name of its corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("agent_line", agent_line),
    ("configuration", configuration),
    ("journal_record", journal_record),
    ("template", template),
    ("traceparent", traceparent),
];

/// Value of an environment variable, which no error message may contain.
const SECRET: &str = "sk-live-0123456789";

/// Parses the response line of an agent. An accepted result survives serialization.
pub fn agent_line(data: &[u8]) -> bool {
    let Some(request) = request() else { return false };
    let Ok(result) = phoenix_executor::parse_response_line(data, &request) else { return false };
    let text = serde_json::to_string(&result).unwrap_or_else(|error| panic!("{error}: {result:?}"));
    match serde_json::from_str(&text) {
        Ok(again) => assert_eq!(result, again),
        Err(error) => panic!("{error}: {text}"),
    }
    true
}

/// The request that the corpus responds to.
fn request() -> Option<ActionRequest> {
    let id = Uuid::from_u128(0x0190_a6c1_5b0e_7cc3_9d6e_0a1b_2c3d_4e5f);
    Some(ActionRequest {
        request_id: id,
        api_version: API_VERSION.into(),
        tool: "echo_agent".parse().ok()?,
        action: CHAT_ACTION.into(),
        context: String::new(),
        plan_id: PlanId::from(id),
        task_id: TaskId::from(id),
        correlation_id: CorrelationId::from(id),
        payload: Object::new(),
        meta: ActionMeta {
            traceparent: None,
            attempt: 1,
            deadline_ms: 30_000,
            idempotency_key: id.to_string(),
            stream: false,
        },
    })
}

/// Renders a task's input. The result is within the limits, and its computed size is its size.
pub fn template(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Ok(input) = Object::parse(text) else { return false };
    let pointers = template::pointers(&input);
    let references = template::references(&input);
    if let Ok(references) = &references {
        assert_eq!(references.is_empty(), pointers.is_empty(), "{input}");
    }
    let output = Json::parse(r#"{"items":[1,{"name":"\"{{tasks.a.output}}\""}],"text":"é","n":-0.5e9}"#);
    let output = output.unwrap_or_default();
    let texts = [
        ("json", Json::String(r#" {"items":[1,{"name":"é\""}],"n":-0.5e9} "#.into())),
        ("prose", Json::String("Here are the items: [1]".into())),
    ];
    let target = |key: &str| match texts.iter().find(|(name, _)| *name == key) {
        Some((_, text)) => Referent::Answer(text),
        None if key == "failed" => Referent::Failed,
        None => Referent::Answer(&output),
    };
    let Ok(rendered) = template::render(&input, &target) else { return false };
    assert!(references.is_ok(), "{input}");
    let text = rendered.to_string();
    assert_eq!(rendered.text_len(), text.len(), "{text}");
    assert!(text.len() <= MAX_FILLED_INPUT_BYTES && rendered.depth() <= MAX_DEPTH, "{text}");
    true
}

/// Parses a `traceparent`. An accepted trace id is valid.
pub fn traceparent(data: &[u8]) -> bool {
    let Ok(value) = HeaderValue::from_bytes(data) else { return false };
    let headers = HeaderMap::from_iter([(http::HeaderName::from_static("traceparent"), value)]);
    let Some(trace) = TraceContext::of(&headers) else { return false };
    let id = trace.trace_id();
    let is_hexadecimal = id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    assert!(id.len() == 32 && is_hexadecimal && id.bytes().any(|byte| byte != b'0'), "{id}");
    true
}

/// Reads journal records. A readable record is written and read again as the same record.
pub fn journal_record(data: &[u8]) -> bool {
    let records = phoenix_planner::store::rewrite_records(data);
    for record in &records {
        assert_eq!(phoenix_planner::store::rewrite_records(record.as_bytes()), [record.as_str()]);
    }
    !records.is_empty()
}

/// Parses `phoenix.toml`. No error message contains the value of an environment variable.
pub fn configuration(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    // A schema may be a path, and a device may never end.
    if text.contains("/dev") || text.contains("/proc") {
        return false;
    }
    let env = |name: &str| (name == "SECRET").then(|| SECRET.to_owned());
    let Err(problems) = PhoenixConfig::parse(text, "phoenix", &env) else { return true };
    let message = problems.to_string();
    assert!(!message.contains(SECRET), "{message}");
    false
}
