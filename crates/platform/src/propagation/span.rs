//! The span in which a request is served.

use tonic::Code;
use tracing::{Span, field::Empty};

use super::context::RequestContext;
use crate::rpc_metrics::code_name;

/// The span in which a request is served. Log lines inside it carry `correlation_id` and `trace_id`.
#[must_use]
pub fn correlation_span(operation: &str, context: &RequestContext) -> Span {
    let span = tracing::info_span!(
        "request",
        otel.name = operation,
        otel.kind = "server",
        otel.status_description = Empty,
        correlation_id = %context.correlation_id,
        trace_id = Empty
    );
    context.trace.begin(&span);
    span
}

/// Sets the status of `span` to ERROR in its trace. `code` is the name of an error code or class, never a message, which may
/// quote a caller or an agent. The span must have the field `otel.status_description`.
pub fn mark_failed(span: &Span, code: &str) {
    // A description alone makes the status an error.
    span.record("otel.status_description", code);
}

/// Marks the span of a served call as failed if `code` is a failure of this side, not a rejection of the request.
pub(crate) fn mark_status(span: &Span, code: Code) {
    use Code::{Aborted, DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
    if matches!(
        code,
        Aborted | DataLoss | DeadlineExceeded | Internal | Unavailable | Unimplemented | Unknown
    ) {
        mark_failed(span, code_name(code));
    }
}
