//! Conversion between [`OrchestratorError`] and gRPC status.
//!
//! The code is sent as `google.rpc.ErrorInfo` (`reason` is the name of the code, `metadata` the details), the retry delay as
//! `google.rpc.RetryInfo`; gRPC tools show both.

use std::{collections::BTreeMap, time::Duration};

use phoenix_domain::{OrchestratorError, OrchestratorErrorCode};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::common;

const DOMAIN: &str = "phoenix";

/// Size limit of a detail in bytes. A status is sent in HTTP/2 trailers, which peers limit to a few KiB; the complete stderr
/// tail is in the journal.
const MAX_DETAIL_BYTES: usize = 4096;

/// The status for `error`.
#[must_use]
pub fn status_from_error(error: &OrchestratorError) -> Status {
    let metadata = error.details.iter().map(|(key, value)| (key.clone(), tail(value).into()));
    let mut details = ErrorDetails::with_error_info(
        error.code.as_str(),
        DOMAIN,
        metadata.collect::<std::collections::HashMap<String, String>>(),
    );
    if let Some(after) = error.retry_after {
        details.set_retry_info(Some(after));
    }
    Status::with_error_details(Code::from_i32(error.code.grpc_code()), error.message.clone(), details)
}

/// The error in `status`. A status of another origin (a broken connection, a proxy) is mapped by its gRPC code.
#[must_use]
pub fn error_from_status(status: &Status) -> OrchestratorError {
    let retry_after = status.get_details_retry_info().and_then(|info| info.retry_delay);
    let known = status
        .get_details_error_info()
        .filter(|info| info.domain == DOMAIN)
        .and_then(|info| OrchestratorErrorCode::from_name(&info.reason).map(|code| (code, info.metadata)));
    match known {
        Some((code, metadata)) => OrchestratorError {
            code,
            message: status.message().into(),
            details: metadata.into_iter().collect(),
            retry_after,
        },
        // Timers of tonic report CANCELLED with this text.
        None if status.code() == Code::Cancelled && status.message() == "Timeout expired" => {
            OrchestratorError::new(OrchestratorErrorCode::Timeout, "the call did not end within its deadline")
        }
        None => OrchestratorError {
            code: OrchestratorErrorCode::from_grpc_code(status.code() as i32),
            message: status.message().into(),
            details: BTreeMap::new(),
            retry_after,
        },
    }
}

impl From<OrchestratorError> for common::Error {
    fn from(OrchestratorError { code, message, details, retry_after }: OrchestratorError) -> Self {
        Self {
            code: code.as_str().into(),
            message,
            details: details.into_iter().collect(),
            retry_after_ms: retry_after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

impl From<common::Error> for OrchestratorError {
    /// An unknown code of a newer peer becomes `internal`, with its message.
    fn from(common::Error { code, message, details, retry_after_ms }: common::Error) -> Self {
        Self {
            code: OrchestratorErrorCode::from_name(&code).unwrap_or(OrchestratorErrorCode::Internal),
            message,
            details: details.into_iter().collect(),
            retry_after: retry_after_ms.map(Duration::from_millis),
        }
    }
}

/// The last [`MAX_DETAIL_BYTES`] of `text`, cut at a character boundary.
fn tail(text: &str) -> &str {
    let start = text.len().saturating_sub(MAX_DETAIL_BYTES);
    let start = (start..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(start);
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_codes_round_trip_through_status_and_message() {
        for &code in OrchestratorErrorCode::ALL {
            let error = OrchestratorError::new(code, "why")
                .with_detail("agent", "git_agent")
                .with_retry_after(Duration::from_millis(1500));
            let status = status_from_error(&error);
            assert_eq!(status.code() as i32, code.grpc_code());
            assert_eq!(error_from_status(&status), error);
            assert_eq!(OrchestratorError::from(common::Error::from(error.clone())), error);
        }
    }

    #[test]
    fn status_of_a_broken_connection_is_mapped_by_its_code() {
        let error = error_from_status(&Status::unavailable("tcp connect error"));
        assert_eq!(error.code, OrchestratorErrorCode::Unavailable);
        let error = error_from_status(&Status::cancelled("Timeout expired"));
        assert_eq!(error.code, OrchestratorErrorCode::Timeout);
    }

    #[test]
    fn long_detail_keeps_its_end() {
        let error =
            OrchestratorError::internal("x").with_detail("stderr", format!("{}äend", "ö".repeat(9_000)));
        let back = error_from_status(&status_from_error(&error));
        assert!(back.details["stderr"].ends_with("äend") && back.details["stderr"].len() <= MAX_DETAIL_BYTES);
    }
}
