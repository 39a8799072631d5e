//! Reading single fields: presence, ids, times. Every mistake names its field.

use std::str::FromStr;

use jiff::Timestamp;
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode};

/// A field of a message that a peer filled wrongly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {problem}")]
pub struct InvalidField {
    /// The field's name in the .proto file.
    pub field: &'static str,
    /// What is wrong with it, such as "must be a UUID".
    pub problem: String,
}

impl InvalidField {
    /// A mistake in `field`.
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

/// A field that must be there.
///
/// # Errors
/// When it is not.
pub fn required<T>(field: &'static str, value: Option<T>) -> Result<T, InvalidField> {
    value.ok_or_else(|| InvalidField::new(field, "is missing"))
}

/// A field that is text of a stricter kind: a UUID, an agent's name.
///
/// # Errors
/// When it is empty or of another kind.
pub fn id<T: FromStr<Err: ToString>>(field: &'static str, text: &str) -> Result<T, InvalidField> {
    if text.is_empty() {
        return Err(InvalidField::new(field, "is missing"));
    }
    text.parse().map_err(|problem: T::Err| InvalidField::new(field, problem))
}

/// As [`id`], for a field that may be empty.
///
/// # Errors
/// When it is neither empty nor of the kind asked for.
pub fn optional<T: FromStr<Err: ToString>>(
    field: &'static str,
    text: &str,
) -> Result<Option<T>, InvalidField> {
    if text.is_empty() { Ok(None) } else { id(field, text).map(Some) }
}

/// A time on the wire.
#[must_use]
pub fn to_timestamp(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() }
}

/// A time from the wire.
///
/// # Errors
/// When it lies outside the calendar.
pub fn timestamp(
    field: &'static str,
    time: Option<prost_types::Timestamp>,
) -> Result<Option<Timestamp>, InvalidField> {
    time.map(|prost_types::Timestamp { seconds, nanos }| Timestamp::new(seconds, nanos))
        .transpose()
        .map_err(|_| InvalidField::new(field, "is not a time"))
}

/// As [`timestamp`], for a field that must be there.
///
/// # Errors
/// When it is missing or lies outside the calendar.
pub fn required_timestamp(
    field: &'static str,
    time: Option<prost_types::Timestamp>,
) -> Result<Timestamp, InvalidField> {
    required(field, timestamp(field, time)?)
}
