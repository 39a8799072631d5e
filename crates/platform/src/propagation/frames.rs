//! The context of a call on a shared stream, as fields of its first frame.

use std::time::Duration;

use bytes::Bytes;
use phoenix_domain::CorrelationId;
use phoenix_proto::{InvalidField, common::CallStart};
use uuid::Uuid;

use super::{
    context::{RequestContext, service_deadline},
    trace::TraceContext,
};

impl RequestContext {
    /// The first frame of a call of `method` under this context.
    pub(crate) fn start_call(&self, method: &str, message: Bytes) -> CallStart {
        let (traceparent, tracestate) = self.trace.texts();
        CallStart {
            method: method.into(),
            correlation_id: self.correlation_id.as_uuid().as_bytes().to_vec(),
            traceparent,
            tracestate,
            timeout_us: self.remaining().map(|left| u64::try_from(left.as_micros()).unwrap_or(u64::MAX)),
            message,
            credit: None,
        }
    }

    /// The method, the context and the request message of a call.
    ///
    /// # Errors
    /// When the correlation id is not a UUID.
    pub(crate) fn of_call(start: CallStart) -> Result<(String, Self, Bytes), InvalidField> {
        let CallStart { method, correlation_id, traceparent, tracestate, timeout_us, message, credit: _ } =
            start;
        let correlation_id = match &*correlation_id {
            [] => CorrelationId::generate(),
            bytes => Uuid::from_slice(bytes)
                .map_err(|_| InvalidField::new("correlation_id", "must be the 16 bytes of a UUID"))?
                .into(),
        };
        let deadline = timeout_us.and_then(|left| service_deadline(Duration::from_micros(left)));
        let trace = TraceContext::of_texts(traceparent, tracestate).unwrap_or_else(TraceContext::generate);
        Ok((method, Self { deadline, ..Self::in_trace(correlation_id, trace) }, message))
    }
}
