//! What a failed call means for its caller.

use std::{error::Error, time::Duration};

use phoenix_domain::{OrchestratorError, OrchestratorErrorCode};
use phoenix_proto::error_from_status;
use tonic::{Code, ConnectError, Status, TimeoutExpired};

/// Retry delay for callers of an unreachable service; long enough for a supervisor to restart it.
pub const UNREACHABLE_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The error for callers when a call to `peer` (such as "the executor") failed. Errors of the peer pass through; an unreachable
/// peer is `unavailable`, and the call may be repeated.
#[must_use]
pub fn call_error(peer: &str, status: &Status) -> OrchestratorError {
    // A status from the wire has details; a status that tonic created has a source, or neither.
    if !status.details().is_empty() {
        return error_from_status(status);
    }
    match status.code() {
        Code::DeadlineExceeded => too_late(peer),
        // tonic enforces `grpc-timeout` on both sides and reports it as a cancellation.
        Code::Cancelled if status.message() == TimeoutExpired(()).to_string() => too_late(peer),
        // A call that waits for a connection which breaks is reported as "cancelled", too.
        Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled
            if is_transport_failure(status) =>
        {
            OrchestratorError::new(
                OrchestratorErrorCode::Unavailable,
                format!("{peer} cannot be reached at the moment; try again shortly"),
            )
            .with_retry_after(UNREACHABLE_RETRY_AFTER)
        }
        Code::Unauthenticated => OrchestratorError::new(
            OrchestratorErrorCode::Unavailable,
            format!("{peer} refuses the service token of its caller; the services of one stack need the same token"),
        )
        .with_retry_after(UNREACHABLE_RETRY_AFTER),
        Code::Cancelled => {
            OrchestratorError::new(OrchestratorErrorCode::Cancelled, "the request was cancelled")
        }
        _ => OrchestratorError::internal(format!("{peer} answered in an unexpected way")),
    }
}

/// Whether the peer may have received a call that failed with `status`: an established connection broke.
#[must_use]
pub fn was_sent(status: &Status) -> bool {
    status.source().is_some_and(|source| !is_connect_failure(source))
}

/// Whether `error` or one of its causes is that no connection could be established, so that nothing was sent.
pub(super) fn is_connect_failure(error: &(dyn Error + 'static)) -> bool {
    has_cause::<ConnectError>(error)
}

/// Whether `error` is that the time limit of the call has passed.
pub(super) fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    has_cause::<TimeoutExpired>(error)
}

fn has_cause<E: Error + 'static>(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<E>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn too_late(peer: &str) -> OrchestratorError {
    OrchestratorError::new(OrchestratorErrorCode::Timeout, format!("{peer} did not answer in time"))
}

fn is_transport_failure(status: &Status) -> bool {
    status.code() == Code::Unavailable || status.source().is_some()
}
