//! The context of a request across processes: correlation id, W3C trace context, deadline.
//!
//! [`ServeContext`] reads the context from a call's metadata, [`SendContext`] writes it into the next call's. Both directions
//! are in [`headers`] for calls with metadata and in [`frames`] for calls on a shared stream, and are tested as a round trip.
//! Handlers see a [`RequestContext`] and never touch metadata: `RequestContext::of(&request)` for incoming requests,
//! `context.request(message)` for outgoing ones.

mod cancel_reason;
mod context;
mod forwarded;
mod frames;
mod headers;
mod send;
mod serve;
mod span;
mod trace;
mod traced_body;

pub(crate) use self::span::{mark_status, rpc_span};
pub use self::{
    cancel_reason::CancelReason,
    context::RequestContext,
    forwarded::ForwardedTo,
    headers::{CORRELATION_HEADER, correlation_header_value, correlation_id},
    send::{SendContext, SendContextService},
    serve::{ServeContext, ServeContextFuture, ServeContextService},
    span::{background_span, correlation_span, mark_failed},
    trace::TraceContext,
    traced_body::{BodyEnd, TracedBody},
};

#[cfg(test)]
mod tests;
