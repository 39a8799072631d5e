//! What running tasks say before they end, each part once, whichever planner repeats it.
//!
//! Output is not journaled. A stream that is opened again begins with what was said so far, and another planner does not know
//! what was said before. Every reader that opens streams again passes what it receives through [`SeenOutput`].

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::InvalidField;

/// Output of a running task. It is not journaled: the result of the task is what counts.
#[derive(Debug)]
pub enum LiveOutput {
    /// A part of the result.
    Output {
        /// Key of the task.
        task_key: String,
        /// The part.
        part: OutputPart,
    },
    /// A new attempt has begun: what the task has said before is void.
    Reset {
        /// Key of the task.
        task_key: String,
        /// Number of the new attempt.
        attempt: u32,
    },
    /// The newest progress report.
    Progress {
        /// Key of the task.
        task_key: String,
        /// Attempt, message, and work done of the work in all, as a JSON object.
        report: Box<RawValue>,
    },
}

/// A part of a result.
#[derive(Debug, Serialize, Deserialize)]
pub struct OutputPart {
    /// Number of the attempt.
    pub attempt: u32,
    /// Bytes of texts and deltas of the attempt before this part.
    pub offset: u64,
    /// Text that follows the text before; may be empty.
    pub text: String,
    /// The same part in the shape of OpenAI's `choices[].delta`, if the agent sends deltas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<Box<RawValue>>,
}

/// What was passed on of a plan's output so far, by task.
#[derive(Debug, Default)]
pub struct SeenOutput(HashMap<String, Said>);

#[derive(Debug, Clone, Copy, Default)]
struct Said {
    attempt: u32,
    /// Bytes of texts and deltas.
    end: u64,
}

#[derive(Serialize, Deserialize)]
struct OfAttempt {
    attempt: u32,
}

impl LiveOutput {
    /// Kind, task and facts of the event that a reader gets.
    #[must_use]
    pub fn into_parts(self) -> (&'static str, String, Box<RawValue>) {
        // Numbers, strings and JSON can always be written.
        let facts = |facts: serde_json::Result<_>| facts.unwrap_or_else(|_| RawValue::NULL.to_owned());
        match self {
            Self::Output { task_key, part } => ("output", task_key, facts(to_raw_value(&part))),
            Self::Reset { task_key, attempt } => {
                ("output_reset", task_key, facts(to_raw_value(&OfAttempt { attempt })))
            }
            Self::Progress { task_key, report } => ("progress", task_key, report),
        }
    }
}

impl SeenOutput {
    /// What to pass on of output that was received: an event of this kind (`output`, `output_reset`, `progress`) with these facts.
    ///
    /// # Errors
    /// When the planner violates the contract.
    pub fn receive(
        &mut self,
        kind: &str,
        task_key: String,
        data_json: String,
    ) -> Result<impl Iterator<Item = LiveOutput> + use<>, InvalidField> {
        let invalid = |problem: serde_json::Error| InvalidField::new("data_json", problem);
        let OfAttempt { attempt } = serde_json::from_str(&data_json).map_err(invalid)?;
        let reset = self.begin(&task_key, attempt);
        let said = self.0.entry(task_key.clone()).or_default();
        let news = match kind {
            _ if attempt < said.attempt => None,
            "output" => {
                let part = serde_json::from_str(&data_json).map_err(invalid)?;
                said.news(part).map(|part| LiveOutput::Output { task_key, part })
            }
            "progress" => {
                let report = RawValue::from_string(data_json).map_err(invalid)?;
                Some(LiveOutput::Progress { task_key, report })
            }
            // A reset is known by its attempt; other kinds are those of a later planner.
            _ => None,
        };
        Ok(reset.into_iter().chain(news))
    }

    /// What to pass on when an attempt begins, as the journal or its output shows.
    fn begin(&mut self, task_key: &str, attempt: u32) -> Option<LiveOutput> {
        let said = self.0.get_mut(task_key).filter(|said| said.attempt < attempt)?;
        let had_said = said.end > 0;
        *said = Said { attempt, end: 0 };
        had_said.then(|| LiveOutput::Reset { task_key: task_key.to_owned(), attempt })
    }

    /// What to pass on before a journaled event of this kind with these facts.
    pub fn journaled(&mut self, kind: &str, task_key: &str, data_json: &str) -> Option<LiveOutput> {
        if self.0.is_empty() || kind != "attempt_started" {
            return None;
        }
        let OfAttempt { attempt } = serde_json::from_str(data_json).ok()?;
        self.begin(task_key, attempt)
    }
}

impl Said {
    /// What is new in a part.
    fn news(&mut self, mut part: OutputPart) -> Option<OutputPart> {
        self.attempt = part.attempt;
        let size = part.text.len() + part.delta.as_ref().map_or(0, |delta| delta.get().len());
        let end = part.offset + size as u64;
        if end <= self.end {
            return None;
        }
        if part.offset < self.end && part.delta.is_none() {
            let known = usize::try_from(self.end - part.offset).unwrap_or(usize::MAX);
            part.text = part.text.get(known..).unwrap_or_default().to_owned();
            part.offset = self.end;
        }
        self.end = end;
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    type Event = (&'static str, serde_json::Value);

    fn says(attempt: u32, offset: u64, text: &str) -> Event {
        ("output", json!({"attempt": attempt, "offset": offset, "text": text}))
    }

    fn passed_on(seen: &mut SeenOutput, (kind, data): Event) -> Vec<String> {
        let found = seen.receive(kind, "chat".into(), data.to_string()).unwrap();
        let shown = found.map(|output| match output {
            LiveOutput::Output { part, .. } => format!("{}@{}", part.text, part.offset),
            LiveOutput::Reset { attempt, .. } => format!("reset {attempt}"),
            LiveOutput::Progress { report, .. } => report.get().to_owned(),
        });
        shown.collect()
    }

    #[test]
    fn repeated_output_is_passed_on_once() {
        let mut seen = SeenOutput::default();
        assert_eq!(passed_on(&mut seen, says(1, 0, "one ")), ["one @0"]);
        assert_eq!(passed_on(&mut seen, says(1, 0, "one ")), [""; 0]);
        assert_eq!(passed_on(&mut seen, says(1, 0, "one two")), ["two@4"]);
        assert_eq!(passed_on(&mut seen, says(1, 9, "gap")), ["gap@9"]);
    }

    #[test]
    fn output_of_a_later_attempt_resets_earlier_output() {
        let mut seen = SeenOutput::default();
        passed_on(&mut seen, says(1, 0, "half"));
        assert_eq!(passed_on(&mut seen, says(101, 0, "whole")), ["reset 101", "whole@0"]);
        assert_eq!(passed_on(&mut seen, says(1, 0, "half")), [""; 0], "an earlier attempt is void");
        assert_eq!(passed_on(&mut seen, ("output_reset", json!({"attempt": 102}))), ["reset 102"]);
        assert_eq!(passed_on(&mut seen, ("output_reset", json!({"attempt": 102}))), [""; 0]);
        let started = r#"{"attempt": 103, "worker": "pid 1"}"#;
        assert!(seen.journaled("attempt_started", "chat", started).is_none(), "nothing was said");
        passed_on(&mut seen, says(103, 0, "x"));
        assert!(seen.journaled("attempt_started", "chat", started).is_none(), "the attempt that speaks");
        assert!(seen.journaled("attempt_started", "chat", r#"{"attempt": 104}"#).is_some());
    }

    #[test]
    fn output_that_is_no_json_is_an_error() {
        let mut seen = SeenOutput::default();
        assert!(seen.receive("output", "chat".into(), "{".into()).is_err());
        let progress = ("progress", json!({"attempt": 1, "progress": 2.0}));
        assert_eq!(passed_on(&mut seen, progress), [r#"{"attempt":1,"progress":2.0}"#]);
        assert_eq!(passed_on(&mut seen, ("later", json!({"attempt": 1}))), [""; 0]);
    }
}
