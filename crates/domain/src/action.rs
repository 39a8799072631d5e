//! The contract with an agent: one [`ActionRequest`] per line on its stdin, one [`ActionResponse`] per line on its
//! stdout. `docs/agents.md` is the same contract in prose.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use crate::{
    agent::AgentName,
    ids::{CorrelationId, PlanId, TaskId},
    json::{Json, Object},
    llm::FinishReason,
};

/// The version of this contract.
pub const API_VERSION: &str = "v1";

/// The action of a chat: `payload.message` holds what the person wrote.
pub const CHAT_ACTION: &str = "chat";

/// The code of an agent whose limit, or the limit of a service it depends on, is used up for now. The task ends with
/// `overloaded` and [`ActionResponse::retry_after_ms`].
pub const RATE_LIMITED: u16 = 429;

/// The code of an agent that a service it depends on refuses for a reason that another attempt does not change, such as a
/// wrong key. The task ends with `execution_failed`.
pub const DEPENDENCY_REFUSED: u16 = 424;

/// The longest reason for the end of an answer that is passed on.
const MAX_REASON_CHARS: usize = 64;

/// What an agent is asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActionRequest {
    /// New for every attempt; the response must echo it.
    pub request_id: Uuid,
    /// [`API_VERSION`].
    pub api_version: String,
    /// The agent's configured name.
    pub tool: AgentName,
    /// What to do: `chat`, `git_status`, …
    pub action: String,
    /// What the caller wants the agent to know beside the input; may be empty.
    #[serde(default, deserialize_with = "null_is_absent")]
    pub context: String,
    /// The plan this task belongs to.
    pub plan_id: PlanId,
    /// The task.
    pub task_id: TaskId,
    /// The request's name in every log.
    pub correlation_id: CorrelationId,
    /// The input, always a JSON object.
    #[serde(default, deserialize_with = "null_is_absent")]
    pub payload: Object,
    /// Facts about the call itself.
    #[serde(rename = "_meta")]
    pub meta: ActionMeta,
}

/// Facts about the call, as opposed to its input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionMeta {
    /// W3C trace context of the attempt's span.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// Milliseconds the agent has before it is killed.
    pub deadline_ms: u64,
    /// The same for every attempt of a task: what an agent with side effects deduplicates by.
    pub idempotency_key: String,
}

/// What an agent answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActionResponse {
    /// Echo of [`ActionRequest::request_id`]; checked.
    pub request_id: Uuid,
    /// [`API_VERSION`].
    pub api_version: String,
    /// Whether it worked.
    pub status: ActionStatus,
    /// 0 on success, else like an HTTP status: 4xx is the caller's mistake, 501 an unknown action, 504 a timeout,
    /// [`RATE_LIMITED`] and [`DEPENDENCY_REFUSED`] what they say.
    pub code: u16,
    /// The answer, on success.
    #[serde(default)]
    pub result: Option<ActionResult>,
    /// One sentence, on error.
    #[serde(default)]
    pub error: Option<String>,
    /// Of an error with code 429: milliseconds after which the same request may succeed.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole_millis")]
    pub retry_after_ms: Option<u64>,
    /// Echo.
    pub plan_id: PlanId,
    /// Echo.
    pub task_id: TaskId,
    /// Echo.
    pub correlation_id: CorrelationId,
}

/// [`ActionResponse::status`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActionStatus {
    /// `result` holds the answer.
    Success,
    /// `code` and `error` say what went wrong.
    Error,
}

/// The answer of a successful action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActionResult {
    /// How to read `data`: `text`, `json`, `markdown`, or the agent's own word.
    pub output_type: String,
    /// The answer itself.
    pub data: Json,
    /// Facts about the answer: model, tokens, exit code …
    #[serde(default, deserialize_with = "null_is_absent")]
    pub metadata: Object,
}

impl ActionResult {
    /// An answer in plain text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self { output_type: "text".into(), data: Json::String(text.into()), metadata: Object::new() }
    }

    /// The answer as a person reads it: text as it is, anything else as JSON.
    #[must_use]
    pub fn to_text(&self) -> String {
        self.data.to_text()
    }

    /// Why the answer is not complete, as [`finish_reason`] reads it from the metadata.
    #[must_use]
    pub fn finish_reason(&self) -> Option<String> {
        finish_reason(&self.metadata)
    }
}

/// Why an answer is not complete, by its metadata: `length`, `content_filter`, or the word of whoever wrote it. `None` when
/// it is complete, or nothing says otherwise.
#[must_use]
pub fn finish_reason(metadata: &Object) -> Option<String> {
    let word = metadata.get("finish_reason")?.as_str()?.trim();
    match FinishReason::of(word) {
        Some(FinishReason::Stop) => None,
        Some(reason) => Some(reason.as_str().into()),
        None => Some(word.chars().take(MAX_REASON_CHARS).collect()),
    }
}

impl ActionResponse {
    /// The answer to `request` that says it worked.
    #[must_use]
    pub fn success(request: &ActionRequest, result: ActionResult) -> Self {
        Self::answer(request, ActionStatus::Success, 0, Some(result), None)
    }

    /// The answer to `request` that says why it did not.
    #[must_use]
    pub fn failure(request: &ActionRequest, code: u16, error: impl Into<String>) -> Self {
        Self::answer(request, ActionStatus::Error, code, None, Some(error.into()))
    }

    fn answer(
        request: &ActionRequest,
        status: ActionStatus,
        code: u16,
        result: Option<ActionResult>,
        error: Option<String>,
    ) -> Self {
        Self {
            request_id: request.request_id,
            api_version: API_VERSION.into(),
            status,
            code,
            result,
            error,
            retry_after_ms: None,
            plan_id: request.plan_id,
            task_id: request.task_id,
            correlation_id: request.correlation_id,
        }
    }
}

/// A number of milliseconds, whole or not, as agents in any language write it.
fn whole_millis<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let Some(millis) = Option::<f64>::deserialize(from)? else { return Ok(None) };
    let time = Duration::try_from_secs_f64(millis / 1000.0).ok();
    Ok(time.and_then(|time| u64::try_from(time.as_micros().div_ceil(1000)).ok()))
}

/// `null` means the same as an absent member.
fn null_is_absent<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Why an attempt failed, in the five classes that decide about retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The agent says the request is wrong (4xx). Final; no fault of the agent's.
    InvalidRequest,
    /// The agent does not know the action (501). Final; no fault of the agent's.
    ActionNotSupported,
    /// No answer in time (504, or killed at the deadline). Retried.
    Timeout,
    /// The process could not be started or spoken to. Retried.
    Io,
    /// Anything else, invalid output included. Retried.
    BackendFailure,
}

impl FailureClass {
    /// Every class.
    pub const ALL: &'static [Self] =
        &[Self::InvalidRequest, Self::ActionNotSupported, Self::Timeout, Self::Io, Self::BackendFailure];

    /// The class of an error code that an agent answered.
    #[must_use]
    pub const fn of_response_code(code: u16) -> Self {
        match code {
            400..=499 => Self::InvalidRequest,
            501 => Self::ActionNotSupported,
            504 => Self::Timeout,
            _ => Self::BackendFailure,
        }
    }

    /// Whether another attempt may help.
    #[must_use]
    pub const fn is_retried(self) -> bool {
        matches!(self, Self::Timeout | Self::Io | Self::BackendFailure)
    }

    /// Whether the failure speaks against the agent's health. A caller's mistake does not: an agent that says "this
    /// request is wrong" or "I do not know this action" is working.
    #[must_use]
    pub const fn counts_against_agent(self) -> bool {
        !matches!(self, Self::InvalidRequest | Self::ActionNotSupported)
    }

    /// The name in journals, metrics and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::ActionNotSupported => "action_not_supported",
            Self::Timeout => "timeout",
            Self::Io => "io",
            Self::BackendFailure => "backend_failure",
        }
    }

    /// The class with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|class| class.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn response_codes_fall_into_the_documented_classes() {
        for (code, class) in [
            (400, FailureClass::InvalidRequest),
            (404, FailureClass::InvalidRequest),
            (499, FailureClass::InvalidRequest),
            (500, FailureClass::BackendFailure),
            (501, FailureClass::ActionNotSupported),
            (503, FailureClass::BackendFailure),
            (504, FailureClass::Timeout),
            (0, FailureClass::BackendFailure),
        ] {
            assert_eq!(FailureClass::of_response_code(code), class, "{code}");
        }
        for &class in FailureClass::ALL {
            assert_eq!(FailureClass::from_name(class.as_str()), Some(class));
        }
    }

    #[test]
    fn finish_reason_is_passed_on_unless_it_is_stop() {
        let long = "x".repeat(1000);
        for (word, reason) in [
            (Json::from("stop"), None),
            ("end_turn".into(), None),
            ("length".into(), Some("length")),
            ("MAX_TOKENS".into(), Some("length")),
            ("SAFETY".into(), Some("content_filter")),
            ("tool_calls".into(), Some("tool_calls")),
            (long.as_str().into(), Some(&long[..64])),
            (Json::Null, None),
            (Json::Bool(true), None),
        ] {
            let mut result = ActionResult::text("half");
            result.metadata.insert("finish_reason".into(), word);
            assert_eq!(result.finish_reason().as_deref(), reason);
        }
        assert_eq!(ActionResult::text("whole").finish_reason(), None);
    }

    #[test]
    fn retry_after_ms_of_any_number_is_whole_and_null_is_absent() {
        let request_id = Uuid::new_v4();
        for (member, millis) in [
            ("", None),
            (r#","retry_after_ms":null"#, None),
            (r#","retry_after_ms":30000"#, Some(30_000)),
            (r#","retry_after_ms":1500.25"#, Some(1501)),
            (r#","retry_after_ms":-1"#, None),
            (r#","retry_after_ms":1e300"#, None),
        ] {
            let line = format!(
                r#"{{"request_id":"{request_id}","api_version":"v1","status":"error","code":429,"error":"wait","plan_id":
                "{request_id}","task_id":"{request_id}","correlation_id":"{request_id}"{member}}}"#
            );
            let response: ActionResponse = serde_json::from_str(&line).unwrap();
            assert_eq!(response.retry_after_ms, millis, "{member}");
            let written = serde_json::to_value(&response).unwrap();
            assert_eq!(written.get("retry_after_ms").and_then(Value::as_u64), millis, "{member}");
        }
    }

    #[test]
    fn a_line_of_the_contract_reads_back_as_it_was_written() {
        let line = r#"{"request_id":"0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e5f","api_version":"v1","tool":"git_agent",
            "action":"git_status","context":"","plan_id":"0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e50",
            "task_id":"0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e51","correlation_id":"0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e52",
            "payload":{"path":"."},"_meta":{"attempt":1,"deadline_ms":30000,"idempotency_key":"k"}}"#;
        let request: ActionRequest = serde_json::from_str(line).unwrap();
        let again = serde_json::to_string(&request).unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(line).unwrap(),
            serde_json::from_str::<Value>(&again).unwrap()
        );
        let nulls = line.replace(r#""context":"""#, r#""context":null"#).replace(r#"{"path":"."}"#, "null");
        let without: ActionRequest = serde_json::from_str(&nulls).unwrap();
        assert_eq!((without.context.as_str(), without.payload.is_empty()), ("", true), "null is left out");
        let answer = ActionResponse::failure(&request, 404, "no such path");
        assert_eq!(answer.request_id, request.request_id);
        assert_eq!(serde_json::to_value(&answer).unwrap()["status"], "error");
    }
}
