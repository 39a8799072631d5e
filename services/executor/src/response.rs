//! Reads the response line of an agent.
//!
//! The result is passed on unaltered; secrets are removed from the messages of failures only.

mod line_text;

pub(crate) use self::line_text::without_byte_order_mark;

use std::time::Duration;

use phoenix_domain::{
    FailureClass,
    action::{API_VERSION, ActionRequest, ActionResponse, ActionResult, ActionStatus},
    json::{Object, replace_lone_surrogates},
    limits::{MAX_DEPTH, MAX_OUTPUT_TYPE_BYTES},
    usage::ModelCall,
};

use crate::{
    failure::{AttemptFailure, truncate_message},
    redact::Redactor,
};

/// Nesting levels around the data: the response and its result.
const LEVELS_AROUND_DATA: usize = 2;

/// Parses `line` as the response to `request`.
///
/// # Errors
/// `backend_failure` for a line that is no response to this request; the class of its code for an error response.
pub(crate) fn read(
    line: &[u8],
    request: &ActionRequest,
    redactor: &Redactor,
) -> Result<ActionResult, AttemptFailure> {
    let line = std::str::from_utf8(line).map_err(|_| broken("wrote a line that is not UTF-8"))?;
    let line = without_byte_order_mark(line);
    if line.trim().is_empty() {
        return Err(broken("wrote an empty line instead of an answer"));
    }
    let line = replace_lone_surrogates(line);
    let response: ActionResponse = serde_json::from_str(&line)
        .map_err(|problem| parse_failure(&line, &redactor.clean(problem.to_string())))?;
    let ActionResponse {
        request_id,
        api_version,
        status,
        code,
        result,
        error,
        retry_after_ms,
        metadata,
        plan_id,
        task_id,
        correlation_id,
    } = response;
    if api_version != API_VERSION {
        return Err(broken(format!("answered with another api_version than `{API_VERSION}`")));
    }
    for (field, is_echoed) in [
        ("request_id", request_id == request.request_id),
        ("plan_id", plan_id == request.plan_id),
        ("task_id", task_id == request.task_id),
        ("correlation_id", correlation_id == request.correlation_id),
    ] {
        if !is_echoed {
            return Err(broken(format!("answered another request: `{field}` is not the one of the request")));
        }
    }
    match (status, result) {
        (ActionStatus::Success, Some(result)) => within_limits(result),
        (ActionStatus::Success, None) => Err(broken("answered with status success, but without a result")),
        (ActionStatus::Error, _) => Err(AttemptFailure {
            retry_after: retry_after_ms.map(Duration::from_millis),
            model_calls: model_calls(&metadata, redactor),
            ..error_response(code, &redactor.clean(error.unwrap_or_default()))
        }),
    }
}

/// A result whose type has a length that every view of its plan can show.
fn within_limits(result: ActionResult) -> Result<ActionResult, AttemptFailure> {
    let found = result.output_type.len();
    if found > MAX_OUTPUT_TYPE_BYTES {
        return Err(broken(format!(
            "answered with an `output_type` of {found} bytes; at most {MAX_OUTPUT_TYPE_BYTES} are allowed"
        )));
    }
    Ok(result)
}

/// The calls of models before an error response, without secrets in their names.
fn model_calls(metadata: &Object, redactor: &Redactor) -> Vec<ModelCall> {
    let clean = |call: ModelCall| ModelCall {
        provider: redactor.clean(call.provider).into_owned(),
        model: redactor.clean(call.model).into_owned(),
        ..call
    };
    ModelCall::in_metadata(metadata).into_iter().map(clean).collect()
}

/// The failure behind a response with status `error`.
fn error_response(code: u16, error: &str) -> AttemptFailure {
    let description = match truncate_message(error) {
        empty if empty.is_empty() => format!("answered with code {code} and no explanation"),
        error => format!("answered: {error}"),
    };
    let failure = AttemptFailure::new(FailureClass::of_response_code(code), description);
    AttemptFailure { response_code: Some(code), ..failure }
}

/// The failure behind a line that is no response because of `problem`. Frequent mistakes get a message of their own.
fn parse_failure(line: &str, problem: &str) -> AttemptFailure {
    let depth = line_text::depth(line).saturating_sub(LEVELS_AROUND_DATA);
    if depth > MAX_DEPTH {
        return broken(format!(
            "answered with a result that is nested {depth} levels deep; at most {MAX_DEPTH} are allowed"
        ));
    }
    let problem = match line_text::number_outside_json(line) {
        Some(number) => format!("`{number}` is not JSON; write null or a string instead"),
        None => truncate_message(problem),
    };
    broken(format!("wrote a line that is not an action response: {problem}"))
}

fn broken(description: impl Into<String>) -> AttemptFailure {
    AttemptFailure::new(FailureClass::BackendFailure, description)
}

#[cfg(test)]
mod tests {
    use phoenix_domain::{
        CorrelationId, PlanId, TaskId,
        action::{ActionMeta, CHAT_ACTION},
        llm::LlmSettings,
    };
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;

    fn request() -> ActionRequest {
        ActionRequest {
            request_id: Uuid::new_v4(),
            api_version: API_VERSION.into(),
            tool: "a".parse().unwrap(),
            action: CHAT_ACTION.into(),
            context: String::new(),
            plan_id: PlanId::generate(),
            task_id: TaskId::generate(),
            correlation_id: CorrelationId::generate(),
            payload: phoenix_domain::json::Object::new(),
            meta: ActionMeta {
                traceparent: None,
                attempt: 1,
                deadline_ms: 1,
                idempotency_key: "k".into(),
                stream: false,
            },
        }
    }

    const KEY: &str = "sk-0123456789abcdef";

    fn redactor(key: &str) -> Redactor {
        let mut llm = LlmSettings::default();
        llm.openai.api_key = Some(key.to_owned().into());
        Redactor::new(&llm)
    }

    fn answer_with(key: &str, change: impl Fn(&mut Value)) -> Result<ActionResult, AttemptFailure> {
        let request = request();
        let response = ActionResponse::success(&request, ActionResult::text(format!("the key is {KEY}")));
        let mut line = serde_json::to_value(response).unwrap();
        change(&mut line);
        read(line.to_string().as_bytes(), &request, &redactor(key))
    }

    fn answer(change: impl Fn(&mut Value)) -> Result<ActionResult, AttemptFailure> {
        answer_with(KEY, change)
    }

    /// The data of a response whose line contains `data` verbatim.
    fn data_written_as(data: &str) -> Result<ActionResult, AttemptFailure> {
        let request = request();
        let response = ActionResponse::success(&request, ActionResult::text("DATA"));
        let line = serde_json::to_string(&response).unwrap().replace("\"DATA\"", data);
        read(line.as_bytes(), &request, &Redactor::default())
    }

    #[test]
    fn result_with_a_secret_is_passed_on_unaltered() {
        assert_eq!(answer(|_| ()).unwrap().to_text(), format!("the key is {KEY}"));
        let unknown_fields = answer(|line| line["took_ms"] = json!(3));
        assert!(unknown_fields.is_ok(), "unknown fields are ignored");
    }

    #[test]
    fn key_that_equals_contract_text_breaks_no_response() {
        for key in ["123456", "status", "result", "\"request_id\":", "api_version\":\"v1"] {
            let result = answer_with(key, |line| line["result"]["data"] = json!({ "n": 1_234_567 }));
            assert_eq!(result.unwrap().to_text(), r#"{"n":1234567}"#, "{key}");
        }
    }

    #[test]
    fn output_type_over_its_limit_fails_naming_limit_and_size() {
        let answer_of =
            |bytes: usize| answer(|line| line["result"]["output_type"] = json!("t".repeat(bytes)));
        assert!(answer_of(MAX_OUTPUT_TYPE_BYTES).is_ok());
        for bytes in [MAX_OUTPUT_TYPE_BYTES + 1, 7_000_000] {
            let failure = answer_of(bytes).unwrap_err();
            assert_eq!(failure.class, FailureClass::BackendFailure);
            let says = format!("an `output_type` of {bytes} bytes; at most 256 are allowed");
            assert!(failure.description.contains(&says), "{}", failure.description);
        }
    }

    #[test]
    fn null_metadata_is_absent_metadata() {
        let result = answer(|line| line["result"]["metadata"] = Value::Null).unwrap();
        assert!(result.metadata.is_empty());
    }

    #[test]
    fn lone_surrogates_become_replacement_characters() {
        for (written, text) in [
            (r#""a\ud83d""#, "a\u{fffd}"),
            (r#""a\uD83Db""#, "a\u{fffd}b"),
            (r#""\udc00\ud83d""#, "\u{fffd}\u{fffd}"),
            (r#""\ud83d\ud83d\ude00""#, "\u{fffd}\u{1f600}"),
            (r#""\ud83d\n""#, "\u{fffd}\n"),
            (r#""\\ud83d""#, r"\ud83d"),
            (r#""\ud83d\ude00""#, "\u{1f600}"),
        ] {
            assert_eq!(data_written_as(written).unwrap().to_text(), text, "{written}");
        }
    }

    #[test]
    fn result_over_the_depth_limit_fails_naming_limit_and_depth() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(data_written_as(&nested(MAX_DEPTH)).is_ok());
        for levels in [MAX_DEPTH + 1, 123, 124, 125, 128, 100_000] {
            let failure = data_written_as(&nested(levels)).unwrap_err();
            assert_eq!((failure.class, failure.response_code), (FailureClass::BackendFailure, None));
            let says = format!("nested {levels} levels deep; at most 64 are allowed");
            assert!(failure.description.contains(&says), "{}", failure.description);
        }
        let unused = answer(|line| line["debug"] = serde_json::from_str(&nested(100)).unwrap());
        assert!(unused.is_ok(), "fields outside the contract have no depth limit");
    }

    #[test]
    fn byte_order_mark_before_a_response_is_ignored() {
        let request = request();
        let response = ActionResponse::success(&request, ActionResult::text("hello"));
        let line = format!("\u{feff}{}", serde_json::to_string(&response).unwrap());
        assert_eq!(read(line.as_bytes(), &request, &Redactor::default()).unwrap().to_text(), "hello");
    }

    #[test]
    fn numbers_outside_json_are_named_in_the_failure() {
        for (written, named) in [
            ("NaN", "`NaN` is not JSON"),
            (r#"{"a":[1,Infinity]}"#, "`Infinity` is not JSON"),
            (r#"["NaN",-Infinity]"#, "`-Infinity` is not JSON"),
        ] {
            let failure = data_written_as(written).unwrap_err();
            assert!(failure.description.contains(named), "{written}: {}", failure.description);
        }
        let failure = data_written_as(r#"["NaN \" Infinity", oops]"#).unwrap_err();
        assert!(!failure.description.contains("NaN"), "strings are not searched: {}", failure.description);
    }

    #[test]
    fn response_to_another_request_names_the_wrong_field() {
        let other = || json!(Uuid::new_v4());
        for (field, value, says) in [
            ("request_id", other(), "`request_id` is not"),
            ("plan_id", other(), "`plan_id` is not"),
            ("task_id", other(), "`task_id` is not"),
            ("correlation_id", other(), "`correlation_id` is not"),
            ("api_version", json!("v9"), "another api_version"),
            ("result", Value::Null, "without a result"),
            ("status", json!("perhaps"), "unknown variant `perhaps`"),
        ] {
            let failure = answer(|line| line[field] = value.clone()).unwrap_err();
            assert_eq!(failure.class, FailureClass::BackendFailure, "{field}");
            assert!(failure.description.contains(says), "{field}: {}", failure.description);
        }
    }

    #[test]
    fn error_response_reports_what_was_used() {
        let failed = |metadata: Value| {
            let failure = answer(|line| {
                line["status"] = json!("error");
                line["code"] = json!(500);
                line["metadata"] = metadata.clone();
            });
            failure.unwrap_err().model_calls
        };
        let calls = failed(json!({"provider": KEY, "usage": {"input_tokens": 7}, "cost_usd": 0.25}));
        let [call] = &calls[..] else { panic!("{calls:?}") };
        assert_eq!((&*call.provider, call.tokens.input), ("[redacted]", 7));
        assert_eq!(call.cost.unwrap().to_string(), "0.25");
        for metadata in [json!(null), json!(3), json!([]), json!({})] {
            assert_eq!(failed(metadata), []);
        }
    }

    #[test]
    fn lines_that_are_no_response_have_distinct_failures() {
        let redactor = Redactor::default();
        for (line, expected) in [
            (&b"\xff\xfe"[..], "not UTF-8"),
            (b" \r", "empty line"),
            (b"Traceback (most recent call last)", "not an action response"),
            (b"{\"request_id\":", "not an action response"),
            (b"[]", "not an action response"),
        ] {
            let failure = read(line, &request(), &redactor).unwrap_err();
            assert!(failure.description.contains(expected), "{}", failure.description);
        }
    }

    #[test]
    fn error_response_keeps_code_and_truncated_message() {
        let failure = answer(|line| {
            line["status"] = json!("error");
            line["code"] = json!(404);
            line["error"] = json!(format!("no {KEY} here {}", "x".repeat(2000)));
        })
        .unwrap_err();
        assert_eq!((failure.class, failure.response_code), (FailureClass::InvalidRequest, Some(404)));
        assert!(
            failure.description.starts_with("answered: no [redacted] here")
                && failure.description.len() < 600
        );
    }
}
