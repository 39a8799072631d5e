//! A plan that is kept whole: the one task that it had, with its attempts, as a JSON document. What is read are the rows that
//! the tables would hold instead.

use phoenix_domain::{TaskId, json::Object};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::{
    super::record::{AnswerV1, ErrorV1},
    stored::{AttemptRow, TaskRow},
};

/// As it is written.
#[derive(Debug, Serialize)]
pub(super) struct Document<'a> {
    pub(super) task: EndedTask<'a>,
    pub(super) attempts: Vec<EndedAttempt<'a>>,
}

#[derive(Debug, Serialize)]
pub(super) struct EndedTask<'a> {
    pub(super) task_id: TaskId,
    pub(super) key: &'a str,
    pub(super) agent: &'a str,
    pub(super) action: &'a str,
    pub(super) payload: &'a Object,
    pub(super) depends_on: &'a [String],
    pub(super) on_failure: &'a str,
    pub(super) status: &'a str,
    pub(super) queued_at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dispatched_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ended_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) output: Option<AnswerV1>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<ErrorV1>,
}

#[derive(Debug, Serialize)]
pub(super) struct EndedAttempt<'a> {
    pub(super) number: u32,
    pub(super) started_at: i64,
    pub(super) worker: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ended_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) outcome: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error_class: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stderr_tail: Option<&'a str>,
}

/// As it is read.
#[derive(Deserialize)]
pub(super) struct StoredDocument {
    pub(super) task: TaskRow,
    pub(super) attempts: Vec<AttemptRow>,
}

/// JSON inside a document, as text.
pub(super) fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Box::<RawValue>::deserialize(from).map(|value| value.get().to_owned())
}

/// The same where there may be none.
pub(super) fn optional_text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let value = Option::<Box<RawValue>>::deserialize(from)?;
    Ok(value.map(|value| value.get().to_owned()))
}
