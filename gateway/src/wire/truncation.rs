//! Texts of which a response holds a part.

use serde::Serialize;
use utoipa::ToSchema;

/// Whether a text of a response is truncated.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Truncation {
    /// Whether the text beside it is truncated.
    truncated: bool,
    /// Size of the whole text in bytes, when it is truncated.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    size: Option<u64>,
    /// Path of the whole text, when it is truncated.
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
}

impl Truncation {
    /// Truncation of a text whose whole has `size` bytes; 0 when the text is not truncated. `link` is the path of the whole.
    pub(crate) fn of(size: u64, link: impl FnOnce() -> String) -> Self {
        let truncated = size > 0;
        Self { truncated, size: truncated.then_some(size), link: truncated.then(link) }
    }
}

/// Path of the whole output of a task.
pub(crate) fn output_path(plan_id: &str, key: &str) -> String {
    format!("/api/v1/plans/{plan_id}/tasks/{key}/output")
}

/// Path of the whole stderr tail of an attempt.
pub(crate) fn stderr_path(plan_id: &str, key: &str, attempt: u32) -> String {
    format!("/api/v1/plans/{plan_id}/tasks/{key}/attempts/{attempt}/stderr")
}
