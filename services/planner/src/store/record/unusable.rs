//! Reasons why a record cannot be used.

use phoenix_domain::json::JsonError;

/// Reason why this version cannot use a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unusable {
    /// A newer version wrote the record.
    #[error("holds something that only a newer version knows: {0}")]
    Unknown(String),
    /// The record is malformed.
    #[error("{0}")]
    Damaged(String),
}

impl From<JsonError> for Unusable {
    fn from(error: JsonError) -> Self {
        Self::Damaged(format!("holds JSON that {error}"))
    }
}
