//! Reads the line that an agent answered with.

use std::time::Duration;

use phoenix_domain::{
    FailureClass,
    action::{API_VERSION, ActionRequest, ActionResponse, ActionResult, ActionStatus},
};

use crate::{
    failure::{AttemptFailure, sentence},
    redact::Redactor,
};

/// The answer on `line` to `request`.
///
/// # Errors
/// `backend_failure` for a line that is no answer to this request, and whatever class an answer that says "error" has.
pub(crate) fn read(
    line: &[u8],
    request: &ActionRequest,
    redactor: &Redactor,
) -> Result<ActionResult, AttemptFailure> {
    let line = std::str::from_utf8(line).map_err(|_| broken("wrote a line that is not UTF-8"))?;
    if line.trim().is_empty() {
        return Err(broken("wrote an empty line instead of an answer"));
    }
    let response: ActionResponse = serde_json::from_str(&redactor.clean(line)).map_err(|problem| {
        let problem = sentence(&problem.to_string());
        broken(format!("wrote a line that is not an action response: {problem}"))
    })?;
    let ActionResponse {
        request_id,
        api_version,
        status,
        code,
        result,
        error,
        retry_after_ms,
        plan_id,
        task_id,
        correlation_id,
    } = response;
    if api_version != API_VERSION {
        return Err(broken(format!("answered with another api_version than `{API_VERSION}`")));
    }
    for (field, echoed) in [
        ("request_id", request_id == request.request_id),
        ("plan_id", plan_id == request.plan_id),
        ("task_id", task_id == request.task_id),
        ("correlation_id", correlation_id == request.correlation_id),
    ] {
        if !echoed {
            return Err(broken(format!("answered another request: `{field}` is not the one it was given")));
        }
    }
    match (status, result) {
        (ActionStatus::Success, Some(result)) => Ok(result),
        (ActionStatus::Success, None) => Err(broken("said it succeeded, but gave no result")),
        (ActionStatus::Error, _) => Err(AttemptFailure {
            retry_after: retry_after_ms.map(Duration::from_millis),
            ..said_no(code, error.as_deref().unwrap_or_default())
        }),
    }
}

/// The agent answered that it could not.
fn said_no(code: u16, error: &str) -> AttemptFailure {
    let deed = match sentence(error) {
        nothing if nothing.is_empty() => format!("answered with code {code} and no explanation"),
        error => format!("answered: {error}"),
    };
    let failure = AttemptFailure::new(FailureClass::of_response_code(code), deed);
    AttemptFailure { response_code: Some(code), ..failure }
}

fn broken(deed: impl Into<String>) -> AttemptFailure {
    AttemptFailure::new(FailureClass::BackendFailure, deed)
}

#[cfg(test)]
mod tests {
    use phoenix_domain::{
        CorrelationId, PlanId, TaskId,
        action::{ActionMeta, CHAT_ACTION},
        llm::LlmSettings,
    };
    use serde_json::{Map, Value, json};
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
            payload: Map::new(),
            meta: ActionMeta { traceparent: None, attempt: 1, deadline_ms: 1, idempotency_key: "k".into() },
        }
    }

    fn answer(change: impl Fn(&mut Value)) -> Result<ActionResult, AttemptFailure> {
        let request = request();
        let response = ActionResponse::success(&request, ActionResult::text("the key is sk-secret"));
        let mut line = serde_json::to_value(response).unwrap();
        change(&mut line);
        let mut llm = LlmSettings::default();
        llm.openai.api_key = Some("sk-secret".to_owned().into());
        read(line.to_string().as_bytes(), &request, &Redactor::new(&llm))
    }

    #[test]
    fn an_answer_is_read_and_rid_of_secrets() {
        assert_eq!(answer(|_| ()).unwrap().to_text(), "the key is [redacted]");
        let unknown_fields = answer(|line| line["took_ms"] = json!(3));
        assert!(unknown_fields.is_ok(), "agents may say more than they must");
    }

    #[test]
    fn a_line_that_answers_something_else_is_a_backend_failure_that_says_why() {
        let other = || json!(Uuid::new_v4());
        for (field, value, says) in [
            ("request_id", other(), "`request_id` is not"),
            ("plan_id", other(), "`plan_id` is not"),
            ("task_id", other(), "`task_id` is not"),
            ("correlation_id", other(), "`correlation_id` is not"),
            ("api_version", json!("v9"), "another api_version"),
            ("result", Value::Null, "gave no result"),
            ("status", json!("perhaps"), "unknown variant `perhaps`"),
        ] {
            let failure = answer(|line| line[field] = value.clone()).unwrap_err();
            assert_eq!(failure.class, FailureClass::BackendFailure, "{field}");
            assert!(failure.deed.contains(says), "{field}: {}", failure.deed);
        }
    }

    #[test]
    fn lines_that_are_no_response_are_told_apart() {
        let redactor = Redactor::default();
        for (line, expected) in [
            (&b"\xff\xfe"[..], "not UTF-8"),
            (b" \r", "empty line"),
            (b"Traceback (most recent call last)", "not an action response"),
            (b"{\"request_id\":", "not an action response"),
            (b"[]", "not an action response"),
        ] {
            let failure = read(line, &request(), &redactor).unwrap_err();
            assert!(failure.deed.contains(expected), "{}", failure.deed);
        }
    }

    #[test]
    fn an_error_keeps_its_code_and_a_bounded_part_of_its_sentence() {
        let failure = answer(|line| {
            line["status"] = json!("error");
            line["code"] = json!(404);
            line["error"] = json!(format!("no sk-secret here {}", "x".repeat(2000)));
        })
        .unwrap_err();
        assert_eq!((failure.class, failure.response_code), (FailureClass::InvalidRequest, Some(404)));
        assert!(failure.deed.starts_with("answered: no [redacted] here") && failure.deed.len() < 600);
    }
}
