//! Lines that an agent may write before its answer: parts of the result as they come into being, and its progress.

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, IgnoredAny},
};
use uuid::Uuid;

use crate::json::{Json, Object, replace_lone_surrogates};

/// A part of a result, sent before the result is complete.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Chunk {
    /// Text that follows the text of the chunks before; may be empty.
    #[serde(default)]
    pub data: String,
    /// The same part in the shape of OpenAI's `choices[].delta`, for tool calls and reasoning. Phoenix passes it on unread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<Object>,
}

/// How far an action has come. Only the newest report counts.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ProgressReport {
    /// Present activity, one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Amount of work that is done, in a unit of the agent.
    #[serde(default, deserialize_with = "number", skip_serializing_if = "Option::is_none")]
    pub progress: Option<f64>,
    /// Amount of work in all, in the same unit.
    #[serde(default, deserialize_with = "number", skip_serializing_if = "Option::is_none")]
    pub total: Option<f64>,
}

/// The nearest float of a number, also of one beyond the range of floats.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    match Option::<Json>::deserialize(from)? {
        None | Some(Json::Null) => Ok(None),
        Some(number) => number.as_f64().map(Some).ok_or_else(|| D::Error::custom("must be a number")),
    }
}

/// A line before the answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum OutputLine {
    /// A chunk.
    Chunk {
        /// Echo of the request's `request_id`, which is verified.
        request_id: Uuid,
        /// The chunk.
        #[serde(flatten)]
        chunk: Chunk,
    },
    /// A progress report.
    Progress {
        /// Echo of the request's `request_id`, which is verified.
        request_id: Uuid,
        /// The report.
        #[serde(flatten)]
        report: ProgressReport,
    },
}

/// Meaning of a complete line of an agent's output.
#[derive(Debug, Clone, PartialEq)]
pub enum LineKind {
    /// The answer, or garbage in its place: a line without `type`, or with `status`.
    Answer,
    /// A chunk of the result.
    Chunk(Chunk),
    /// A progress report.
    Progress(ProgressReport),
    /// A line of a later version of the protocol.
    Unknown,
}

/// Reason why a line before the answer is invalid, as the predicate of a sentence about the agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLine {
    /// The line belongs to another request.
    #[error("wrote a line of type `{0}` for another request: `request_id` is not the one of the request")]
    OtherRequest(String),
    /// The line has a `type`, but not the members that belong to it.
    #[error("wrote an invalid line of type `{kind}`: {problem}")]
    Malformed {
        /// Type of the line.
        kind: String,
        /// Problem.
        problem: String,
    },
}

/// Longest type that an error quotes, in characters.
const MAX_QUOTED_TYPE: usize = 64;

#[derive(Deserialize)]
struct Header {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    request_id: Option<Uuid>,
    #[serde(default)]
    status: Option<IgnoredAny>,
}

impl LineKind {
    /// The meaning of `line` in the exchange about `request_id`. A line without the word `type` in quotes is not parsed: an
    /// agent that never streams costs a search.
    ///
    /// # Errors
    /// When the line has a `type` and is invalid.
    pub fn of(line: &str, request_id: Uuid) -> Result<Self, InvalidLine> {
        if !line.contains("\"type\"") {
            return Ok(Self::Answer);
        }
        let line = &*replace_lone_surrogates(line);
        // Garbage in place of the answer is reported by the reader of answers.
        let Ok(Header { kind: Some(kind), request_id: echoed, status: None }) = serde_json::from_str(line)
        else {
            return Ok(Self::Answer);
        };
        if echoed != Some(request_id) {
            return Err(InvalidLine::OtherRequest(kind.chars().take(MAX_QUOTED_TYPE).collect()));
        }
        let malformed = |problem: serde_json::Error| InvalidLine::Malformed {
            kind: kind.clone(),
            problem: problem.to_string(),
        };
        match kind.as_str() {
            "chunk" => serde_json::from_str(line).map(Self::Chunk).map_err(malformed),
            "progress" => serde_json::from_str(line).map(Self::Progress).map_err(malformed),
            _ => Ok(Self::Unknown),
        }
    }
}

impl Chunk {
    /// Size of the text and the delta together, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.data.len() + self.delta.as_ref().map_or(0, Object::text_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(line: &str, request_id: Uuid) -> Result<LineKind, InvalidLine> {
        LineKind::of(&line.replace("ID", &request_id.to_string()), request_id)
    }

    #[test]
    fn output_lines_round_trip() {
        let request_id = Uuid::new_v4();
        let delta = Object::parse(r#"{"tool_calls":[{"index":0}]}"#).unwrap();
        for chunk in [
            Chunk { data: "über\n".into(), delta: None },
            Chunk { data: String::new(), delta: Some(delta.clone()) },
        ] {
            let line = OutputLine::Chunk { request_id, chunk: chunk.clone() };
            let line = serde_json::to_string(&line).unwrap();
            assert_eq!(LineKind::of(&line, request_id), Ok(LineKind::Chunk(chunk)), "{line}");
        }
        let report = ProgressReport { message: Some("reads".into()), progress: Some(3.0), total: Some(10.0) };
        let line = OutputLine::Progress { request_id, report: report.clone() };
        let line = serde_json::to_string(&line).unwrap();
        assert_eq!(LineKind::of(&line, request_id), Ok(LineKind::Progress(report)), "{line}");
        assert_eq!(Chunk { data: "ab".into(), delta: Some(delta.clone()) }.size(), 2 + delta.text_len());
    }

    #[test]
    fn line_without_type_or_with_status_is_the_answer() {
        let id = Uuid::new_v4();
        for line in [
            r#"{"request_id":"ID","status":"success"}"#,
            r#"{"type":"response","request_id":"ID","status":"success"}"#,
            r#"{"request_id":"ID","result":{"data":{"type":"chunk"}}}"#,
            r#"{"type":null,"request_id":"ID"}"#,
            r#"{"type":"chunk""#,
            r#"{"type":7,"request_id":"ID"}"#,
            "Traceback",
            "",
        ] {
            assert_eq!(kind(line, id), Ok(LineKind::Answer), "{line}");
        }
    }

    #[test]
    fn unknown_type_of_this_request_is_known_as_such() {
        let id = Uuid::new_v4();
        assert_eq!(kind(r#"{"type":"usage","request_id":"ID","n":1}"#, id), Ok(LineKind::Unknown));
        let other = r#"{"type":"usage","request_id":"0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e5f"}"#;
        assert_eq!(kind(other, id), Err(InvalidLine::OtherRequest("usage".into())));
        assert_eq!(
            kind(r#"{"type":"chunk","data":"x"}"#, id),
            Err(InvalidLine::OtherRequest("chunk".into()))
        );
    }

    #[test]
    fn progress_beyond_the_range_of_floats_is_the_largest_one() {
        let id = Uuid::new_v4();
        let line =
            r#"{"type":"progress","request_id":"ID","progress":12345678901234567890123,"total":1e400}"#;
        let report = ProgressReport {
            message: None,
            progress: Some(12_345_678_901_234_567_890_123.0),
            total: Some(f64::MAX),
        };
        assert_eq!(kind(line, id), Ok(LineKind::Progress(report)));
    }

    #[test]
    fn malformed_chunk_names_its_problem() {
        let id = Uuid::new_v4();
        for (line, problem) in [
            (r#"{"type":"chunk","request_id":"ID","data":7}"#, "expected a string"),
            (r#"{"type":"chunk","request_id":"ID","delta":[]}"#, "object"),
            (r#"{"type":"progress","request_id":"ID","progress":"3"}"#, "must be a number"),
        ] {
            let error = kind(line, id).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }
}
