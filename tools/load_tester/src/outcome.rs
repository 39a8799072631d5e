//! How one request ended.

use std::borrow::Cow;

use http::StatusCode;
use phoenix_domain::OrchestratorErrorCode;
use serde::Deserialize;

/// Outcome of one request: the HTTP status, if there was an answer, and a code from a closed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Outcome {
    /// The HTTP status; `None` when no whole answer came.
    pub status: Option<u16>,
    /// `success`, a code of the orchestrator's error table, or one of this file's.
    pub code: &'static str,
}

/// As much of a `ChatResponseV1` (or of a problem document) as counting needs.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    status: Option<Word<'a>>,
    #[serde(borrow)]
    code: Option<Word<'a>>,
    #[serde(borrow)]
    error: Option<ErrorPart<'a>>,
    /// Kind of an answer of OpenAI's API.
    #[serde(borrow)]
    object: Option<Word<'a>>,
}

#[derive(Deserialize)]
struct ErrorPart<'a> {
    #[serde(borrow)]
    code: Option<Word<'a>>,
}

/// Something that is a word in our answers and may be anything in those of others, such as a proxy's.
#[derive(Deserialize)]
#[serde(untagged)]
enum Word<'a> {
    Text(#[serde(borrow)] Cow<'a, str>),
    Other(serde::de::IgnoredAny),
}

impl Outcome {
    /// The chat was answered.
    pub const SUCCESS: &'static str = "success";
    /// No answer came in time, counted from when the request was due.
    pub const TIMEOUT: Self = Self { status: None, code: "client_timeout" };
    /// No connection could be made.
    pub const CONNECT_FAILED: Self = Self { status: None, code: "connect_failed" };
    /// The connection broke before the answer was complete.
    pub const CONNECTION_LOST: Self = Self { status: None, code: "connection_lost" };

    /// Reads an answer.
    pub(crate) fn of(status: StatusCode, body: &[u8]) -> Self {
        let answer = serde_json::from_slice::<Answer<'_>>(body).ok();
        let code = match answer {
            Some(answer) if status.is_success() && answer.is_whole() => Self::SUCCESS,
            Some(Answer { error: Some(error), .. }) => known(error.code.text()),
            Some(Answer { code, .. }) => known(code.text()),
            None => "not_json",
        };
        Self { status: Some(status.as_u16()), code }
    }

    /// Whether it is what the caller wanted.
    #[must_use]
    pub fn is_success(self) -> bool {
        self.code == Self::SUCCESS
    }
}

impl Answer<'_> {
    fn is_whole(&self) -> bool {
        let is_completion = self.object.text() == Some("chat.completion") && self.error.is_none();
        self.status.text() == Some("success") || is_completion
    }
}

trait Text {
    fn text(&self) -> Option<&str>;
}

impl Text for Option<Word<'_>> {
    fn text(&self) -> Option<&str> {
        match self {
            Some(Word::Text(text)) => Some(text),
            Some(Word::Other(_)) | None => None,
        }
    }
}

fn known(code: Option<&str>) -> &'static str {
    code.and_then(OrchestratorErrorCode::from_name).map_or("other", OrchestratorErrorCode::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_distinguished_by_status_and_code() {
        for (status, body, code) in [
            (200, r#"{"status":"success","output":"a\"b"}"#, "success"),
            (200, r#"{"status":"error","error":{"code":"timeout"}}"#, "timeout"),
            (200, r#"{"output":"hi"}"#, "other"),
            (
                503,
                r#"{"status":"error","error":{"code":"agent_unavailable","details":{}}}"#,
                "agent_unavailable",
            ),
            (503, r#"{"status":"success"}"#, "other"),
            (200, r#"{"id":"c","object":"chat.completion","choices":[]}"#, "success"),
            (200, r#"{"object":"chat.completion","error":{"code":"overloaded"}}"#, "overloaded"),
            (429, r#"{"object":"chat.completion"}"#, "other"),
            (404, r#"{"status":404,"code":"not_found"}"#, "not_found"),
            (502, r#"{"error":{"code":"made up by a proxy"}}"#, "other"),
            (502, "<html>", "not_json"),
        ] {
            let outcome = Outcome::of(StatusCode::from_u16(status).unwrap(), body.as_bytes());
            assert_eq!(outcome, Outcome { status: Some(status), code }, "{body}");
        }
    }
}
