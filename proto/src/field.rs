//! Conversions of single fields: presence, identifiers, times. Errors name the field.

use std::str::FromStr;

use jiff::Timestamp;
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode};

/// Error of an invalid field in a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {problem}")]
pub struct InvalidField {
    /// Name of the field in the .proto file.
    pub field: &'static str,
    /// Problem, such as "must be a UUID".
    pub problem: String,
}

impl InvalidField {
    /// A problem of `field`.
    #[must_use]
    pub fn new(field: &'static str, problem: impl ToString) -> Self {
        Self { field, problem: problem.to_string() }
    }
}

impl From<InvalidField> for OrchestratorError {
    fn from(InvalidField { field, problem }: InvalidField) -> Self {
        Self::new(OrchestratorErrorCode::ValidationFailed, format!("`{field}` {problem}"))
            .with_detail("field", field)
    }
}

impl From<InvalidField> for tonic::Status {
    fn from(invalid: InvalidField) -> Self {
        crate::status_from_error(&invalid.into())
    }
}

/// A required field.
///
/// # Errors
/// When it is missing.
pub fn required<T>(field: &'static str, value: Option<T>) -> Result<T, InvalidField> {
    value.ok_or_else(|| InvalidField::new(field, "is missing"))
}

/// Parses a required text field, such as a UUID or an agent name.
///
/// # Errors
/// When it is empty or not valid.
pub fn id<T: FromStr<Err: ToString>>(field: &'static str, text: &str) -> Result<T, InvalidField> {
    if text.is_empty() {
        return Err(InvalidField::new(field, "is missing"));
    }
    text.parse().map_err(|problem: T::Err| InvalidField::new(field, problem))
}

/// As [`id`], for a field that may be empty.
///
/// # Errors
/// When it is neither empty nor valid.
pub fn optional<T: FromStr<Err: ToString>>(
    field: &'static str,
    text: &str,
) -> Result<Option<T>, InvalidField> {
    if text.is_empty() { Ok(None) } else { id(field, text).map(Some) }
}

/// Converts a time to the wire type.
#[must_use]
pub fn to_timestamp(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() }
}

/// Converts an optional time from the wire type.
///
/// # Errors
/// When it is out of range.
pub fn timestamp(
    field: &'static str,
    time: Option<prost_types::Timestamp>,
) -> Result<Option<Timestamp>, InvalidField> {
    time.map(|prost_types::Timestamp { seconds, nanos }| Timestamp::new(seconds, nanos))
        .transpose()
        .map_err(|_| InvalidField::new(field, "is not a time"))
}

/// As [`timestamp`], for a required field.
///
/// # Errors
/// When it is missing or out of range.
pub fn required_timestamp(
    field: &'static str,
    time: Option<prost_types::Timestamp>,
) -> Result<Timestamp, InvalidField> {
    required(field, timestamp(field, time)?)
}
