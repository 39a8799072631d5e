//! The agent protocol: one [`ActionRequest`] per line on stdin, one [`ActionResponse`] per line on stdout, after any number of
//! [`OutputLine`]s. `docs/agents.md` describes the protocol in prose.

mod output;

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use uuid::Uuid;

use crate::{
    agent_name::AgentName,
    ids::{CorrelationId, PlanId, TaskId},
    json::{Json, Object},
    llm::FinishReason,
};

pub use self::output::{Chunk, InvalidLine, LineKind, OutputLine, ProgressReport};

/// Version of the protocol.
pub const API_VERSION: &str = "v1";

/// Action of a chat: `payload.message` is the message.
pub const CHAT_ACTION: &str = "chat";

/// Error code of an exhausted rate limit, of the agent or of a service it depends on. The task ends with `overloaded` and [`ActionResponse::retry_after_ms`].
pub const RATE_LIMITED: u16 = 429;

/// Error code of a permanent rejection by a service that the agent depends on, such as for a wrong key. The task ends with
/// `execution_failed`.
pub const DEPENDENCY_REFUSED: u16 = 424;

/// Length limit of a finish reason.
const MAX_REASON_CHARS: usize = 64;

/// Request to an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActionRequest {
    /// Identifier of the attempt, which the response must echo.
    pub request_id: Uuid,
    /// [`API_VERSION`].
    pub api_version: String,
    /// Configured name of the agent.
    pub tool: AgentName,
    /// Action: `chat`, `git_status`, …
    pub action: String,
    /// Context from the caller in addition to the input; may be empty.
    #[serde(default, deserialize_with = "null_is_absent")]
    pub context: String,
    /// Identifier of the plan of the task.
    pub plan_id: PlanId,
    /// Identifier of the task.
    pub task_id: TaskId,
    /// Correlation id of the request.
    pub correlation_id: CorrelationId,
    /// Input.
    #[serde(default, deserialize_with = "null_is_absent")]
    pub payload: Object,
    /// Metadata of the attempt.
    #[serde(rename = "_meta")]
    pub meta: ActionMeta,
}

/// Metadata of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionMeta {
    /// W3C trace context of the attempt's span.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Time limit of the attempt in milliseconds, after which the agent is killed.
    pub deadline_ms: u64,
    /// Idempotency key: the same for every attempt of a task. Agents with side effects deduplicate by it.
    pub idempotency_key: String,
    /// Whether chunks of the result are welcome before the answer. An agent may always ignore it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
}

/// Response of an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActionResponse {
    /// Echo of [`ActionRequest::request_id`], which is verified.
    pub request_id: Uuid,
    /// [`API_VERSION`].
    pub api_version: String,
    /// Success or error.
    pub status: ActionStatus,
    /// 0 on success, else an error code like an HTTP status: 4xx for an invalid request, 501 for an unknown action, 504 for a
    /// timeout, [`RATE_LIMITED`], [`DEPENDENCY_REFUSED`].
    #[serde(deserialize_with = "whole_code")]
    pub code: u16,
    /// Result of a success.
    #[serde(default)]
    pub result: Option<ActionResult>,
    /// Message of an error, one sentence.
    #[serde(default)]
    pub error: Option<String>,
    /// With code 429: time in milliseconds after which the same request may succeed.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole_millis")]
    pub retry_after_ms: Option<u64>,
    /// With an error: what the agent used before it, in the members of a result's metadata: `provider`, `model`, `usage`,
    /// `cost_usd`, `failed_calls`.
    #[serde(default, skip_serializing_if = "has_no_members", deserialize_with = "members")]
    pub metadata: Object,
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
    /// `result` is set.
    Success,
    /// `code` and `error` are set.
    Error,
}

/// Result of a successful action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActionResult {
    /// Type of `data`: `text`, `json`, `markdown`, or a type of the agent's own.
    pub output_type: String,
    /// The result itself.
    pub data: Json,
    /// Metadata of the result: model, tokens, exit code, …
    #[serde(default, deserialize_with = "null_is_absent")]
    pub metadata: Object,
}

impl ActionResult {
    /// A plain-text result.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self { output_type: "text".into(), data: Json::String(text.into()), metadata: Object::new() }
    }

    /// The result for display: a string as it is, any other value as JSON.
    #[must_use]
    pub fn to_text(&self) -> String {
        self.data.to_text()
    }

    /// Finish reason of an incomplete result, from its metadata ([`finish_reason`]).
    #[must_use]
    pub fn finish_reason(&self) -> Option<String> {
        finish_reason(&self.metadata)
    }
}

/// Finish reason of an incomplete result, from its metadata: `length`, `content_filter`, or the agent's own word. `None` for a
/// complete result, and without metadata.
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
    /// A success response to `request`.
    #[must_use]
    pub fn success(request: &ActionRequest, result: ActionResult) -> Self {
        Self::answer(request, ActionStatus::Success, 0, Some(result), None)
    }

    /// An error response to `request`.
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
            metadata: Object::new(),
            plan_id: request.plan_id,
            task_id: request.task_id,
            correlation_id: request.correlation_id,
        }
    }
}

/// Deserializes a code, in any notation of a whole number: some languages write `404.0`.
fn whole_code<'de, D: Deserializer<'de>>(from: D) -> Result<u16, D::Error> {
    let number = f64::deserialize(from)?;
    if number.fract() != 0.0 || !(0.0..=f64::from(u16::MAX)).contains(&number) {
        return Err(D::Error::custom(format_args!(
            "`code` must be a whole number from 0 to 65535, not {number}"
        )));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole and within range")]
    Ok(number as u16)
}

/// Deserializes a number of milliseconds, integral or not, since languages write numbers differently.
fn whole_millis<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let Some(millis) = Option::<f64>::deserialize(from)? else { return Ok(None) };
    let time = Duration::try_from_secs_f64(millis / 1000.0).ok();
    Ok(time.and_then(|time| u64::try_from(time.as_micros().div_ceil(1000)).ok()))
}

fn has_no_members(object: &Object) -> bool {
    object.is_empty()
}

/// Deserializes an object; any other value is absent.
fn members<'de, D: Deserializer<'de>>(from: D) -> Result<Object, D::Error> {
    Ok(Json::deserialize(from)?.try_into().unwrap_or_default())
}

/// Deserializes `null` as the default.
fn null_is_absent<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Class of a failed attempt, which decides about retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The agent rejected the request (4xx). Not retried; does not count against the agent.
    InvalidRequest,
    /// The agent does not know the action (501). Not retried; does not count against the agent.
    ActionNotSupported,
    /// No response in time (504, or killed at the deadline). Retried.
    Timeout,
    /// The process could not be started, or its pipes failed. Retried.
    Io,
    /// Any other failure, including invalid output. Retried.
    BackendFailure,
}

impl FailureClass {
    /// Every class.
    pub const ALL: &'static [Self] =
        &[Self::InvalidRequest, Self::ActionNotSupported, Self::Timeout, Self::Io, Self::BackendFailure];

    /// The class of an error code in a response.
    #[must_use]
    pub const fn of_response_code(code: u16) -> Self {
        match code {
            400..=499 => Self::InvalidRequest,
            501 => Self::ActionNotSupported,
            504 => Self::Timeout,
            _ => Self::BackendFailure,
        }
    }

    /// Whether the attempt is retried.
    #[must_use]
    pub const fn is_retried(self) -> bool {
        matches!(self, Self::Timeout | Self::Io | Self::BackendFailure)
    }

    /// Whether the failure counts against the agent's health. An invalid request does not: an agent that rejects a request or an
    /// action is healthy.
    #[must_use]
    pub const fn counts_against_agent(self) -> bool {
        !matches!(self, Self::InvalidRequest | Self::ActionNotSupported)
    }

    /// Name in the journal, metrics and responses.
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
    fn response_codes_map_to_documented_classes() {
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
    fn finish_reason_is_returned_unless_it_is_stop() {
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
    fn retry_after_ms_is_rounded_up_and_null_is_absent() {
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
    fn code_is_read_in_any_notation_of_a_whole_number() {
        let id = Uuid::new_v4();
        let read = |code: &str| {
            let line = format!(
                r#"{{"request_id":"{id}","api_version":"v1","status":"error","code":{code},"error":"no","plan_id":
                "{id}","task_id":"{id}","correlation_id":"{id}"}}"#
            );
            serde_json::from_str::<ActionResponse>(&line).map(|response| response.code)
        };
        for (written, code) in [
            ("0", 0),
            ("0.0", 0),
            ("-0", 0),
            ("404", 404),
            ("404.0", 404),
            ("4.04e2", 404),
            ("65535", u16::MAX),
        ] {
            assert_eq!(read(written).unwrap(), code, "{written}");
        }
        for written in ["-1", "0.5", "404.5", "65536", "1e300", "123456789012345678901234567890"] {
            let problem = read(written).unwrap_err().to_string();
            assert!(
                problem.contains("`code` must be a whole number from 0 to 65535"),
                "{written}: {problem}"
            );
        }
        for written in ["null", "\"404\"", "true", "[404]"] {
            assert!(read(written).is_err(), "{written}");
        }
    }

    #[test]
    fn request_line_round_trips() {
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
        assert_eq!((without.context.as_str(), without.payload.is_empty()), ("", true), "null is the default");
        let answer = ActionResponse::failure(&request, 404, "no such path");
        assert_eq!(answer.request_id, request.request_id);
        assert_eq!(serde_json::to_value(&answer).unwrap()["status"], "error");
    }
}
