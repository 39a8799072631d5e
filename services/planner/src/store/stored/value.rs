//! Values of columns.

use jiff::Timestamp;
use phoenix_domain::OrchestratorError;
use serde::{Serialize, de::DeserializeOwned};

use crate::store::{error::JournalError, record};

pub(in crate::store) fn micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

/// JSON text of a value. Keys are strings and numbers are JSON numbers, so this does not fail.
pub(in crate::store) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

pub(in crate::store) fn damaged(column: &str, value: impl std::fmt::Display) -> JournalError {
    JournalError::Damaged(format!("{column} holds `{value}`"))
}

pub(in crate::store) fn parse<T: std::str::FromStr>(column: &str, text: &str) -> Result<T, JournalError> {
    text.parse().map_err(|_| damaged(column, text))
}

/// The message names the column and the problem, not the text: that belongs to a caller.
pub(in crate::store) fn unreadable(column: &str, problem: &impl std::fmt::Display) -> JournalError {
    JournalError::Damaged(format!("{column} {problem}"))
}

/// The message names the column and the position, not the text: that belongs to a caller.
pub(in crate::store) fn from_json<T: DeserializeOwned>(column: &str, text: &str) -> Result<T, JournalError> {
    let wrong = |error: serde_json::Error| {
        JournalError::Damaged(format!(
            "{column} holds other JSON than is expected from character {} on",
            error.column()
        ))
    };
    serde_json::from_str(text).map_err(wrong)
}

pub(in crate::store) fn stored_error(text: Option<&str>) -> Result<Option<OrchestratorError>, JournalError> {
    text.map(record::read_error).transpose().map_err(|problem| unreadable("error", &problem))
}

pub(in crate::store) fn time(micros: i64) -> Result<Timestamp, JournalError> {
    Timestamp::from_microsecond(micros).map_err(|_| damaged("time", micros))
}
