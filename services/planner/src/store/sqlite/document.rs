//! Document of a compacted plan: its task and attempts as JSON, with the names of the columns that they replace.

use phoenix_domain::{TaskId, json::Object};
use serde::Serialize;

use crate::store::record::{AnswerV1, CallV1, ErrorV1};

/// The document, to be written.
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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) model_calls: Vec<CallV1>,
}
