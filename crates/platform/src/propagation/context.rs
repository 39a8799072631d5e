//! The context of a request.

use std::time::{Duration, Instant};

use phoenix_domain::CorrelationId;

use super::{cancel_reason::CancelReason, trace::TraceContext};

/// What a service keeps of the time that its caller allows, at most: it gives up before its caller does, so its more specific
/// error message is returned.
const MARGIN: Duration = Duration::from_millis(100);

/// Facts that travel with a request from process to process.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// Identifier of the request in logs, traces and the journal.
    pub correlation_id: CorrelationId,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
    /// Trace of the request.
    pub trace: TraceContext,
    /// Why the caller cancels, if it says so first.
    pub cancel_reason: CancelReason,
}

impl RequestContext {
    /// A context in a new trace.
    #[must_use]
    pub fn new(correlation_id: CorrelationId) -> Self {
        Self::in_trace(correlation_id, TraceContext::generate())
    }

    /// A context in `trace`.
    #[must_use]
    pub fn in_trace(correlation_id: CorrelationId, trace: TraceContext) -> Self {
        Self { correlation_id, deadline: None, trace, cancel_reason: CancelReason::default() }
    }

    /// Sets the deadline.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Sets the trace.
    #[must_use]
    pub fn with_trace(mut self, trace: TraceContext) -> Self {
        self.trace = trace;
        self
    }

    /// The context that [`ServeContext`](super::ServeContext) attached to `request`.
    #[must_use]
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        // Absent only when a service is called without the platform's server, as in unit tests.
        request.extensions().get().cloned().unwrap_or_else(|| Self::new(CorrelationId::generate()))
    }

    /// The cancel reason of the connection that `request` came over.
    pub(crate) fn cancel_reason_of<T>(request: &tonic::Request<T>) -> CancelReason {
        request.extensions().get().cloned().unwrap_or_default()
    }

    /// A gRPC request to the next process under this context.
    pub fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.extensions_mut().insert(self.clone());
        request
    }

    /// The time until the deadline, if there is one.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// The `traceparent` for peers without gRPC (agents): that of the current span where spans are exported, else the one that
    /// came with the request.
    #[must_use]
    pub fn traceparent(&self) -> String {
        self.trace.traceparent()
    }
}

/// The deadline of a service whose caller waits for `remaining`.
pub(super) fn service_deadline(remaining: Duration) -> Option<Instant> {
    Instant::now().checked_add(remaining - MARGIN.min(remaining / 10))
}
