//! The span in which a request is served.

use tonic::Code;
use tracing::{Span, field::Empty};

use super::context::RequestContext;
use crate::{
    rpc_metrics::code_name,
    semconv,
    spans::{Attribute, describe},
};

/// The span in which a request is served. Log lines inside it carry `correlation_id` and `trace_id`.
#[must_use]
pub fn correlation_span(operation: &str, context: &RequestContext) -> Span {
    span_of("server", operation, context)
}

/// The span of work that no caller waits for.
#[must_use]
pub fn background_span(operation: &str, context: &RequestContext) -> Span {
    span_of("internal", operation, context)
}

/// The span in which a call of a gRPC method is served.
pub(crate) fn rpc_span(path: &str, context: &RequestContext) -> Span {
    let method = path.trim_start_matches('/');
    let span = correlation_span(method, context);
    describe(&span, || {
        [
            Attribute::new(semconv::RPC_SYSTEM_NAME, "grpc"),
            Attribute::new(semconv::RPC_METHOD, method.to_owned()),
        ]
    });
    span
}

fn span_of(kind: &str, operation: &str, context: &RequestContext) -> Span {
    let span = tracing::info_span!(
        "request",
        otel.name = operation,
        otel.kind = kind,
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
    describe(span, || [Attribute::new(semconv::ERROR_TYPE, code.to_owned())]);
}

/// Records the status of a served call in its span, which has failed if `code` is a failure of this side, not a rejection of the
/// request.
pub(crate) fn mark_status(span: &Span, code: Code) {
    use Code::{Aborted, DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
    let name = || code_name(code).to_ascii_uppercase();
    describe(span, || [Attribute::new(semconv::RPC_RESPONSE_STATUS_CODE, name())]);
    if matches!(
        code,
        Aborted | DataLoss | DeadlineExceeded | Internal | Unavailable | Unimplemented | Unknown
    ) {
        mark_failed(span, code_name(code));
    }
}
