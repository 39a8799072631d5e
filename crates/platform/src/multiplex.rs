//! Many calls to one peer on one stream.
//!
//! ```text
//! MultiplexClient::call ──▶ SendQueue ──▶ ExchangeRequest{frames} ──▶ Exchange ──▶ a task per call ──▶ Handler::call
//!      ResponseStream   ◀── OpenCalls ◀── ExchangeResponse{frames} ◀── SendQueue ◀──────────────────────┘
//! ```
//!
//! An HTTP/2 stream per call costs both sides headers to encode and decode, a flow-control window, a body and several
//! wake-ups. For thousands of short calls per second to one peer that is most of the cost of a call, so those calls are
//! frames on a stream that stays open, and frames that are ready at the same time share a batch.
//!
//! The semantics of a call are unchanged: the same context is sent, dropping the [`ResponseStream`] cancels the call, and a
//! broken connection fails it. A slow reader delays only its own response: each call has a [`credit`], and a stream
//! whose peer does not read takes no further calls. Without an open stream, and with a peer that does not implement it, a call
//! has an HTTP/2 stream of its own. The deadline is sent but not enforced here: a caller with a time limit drops the response.

mod call_receiver;
mod client;
mod credit;
mod limits;
mod response_stream;
mod send_queue;
mod server;
mod shared_stream;

pub(crate) use self::server::service;
pub use self::{
    client::MultiplexClient,
    response_stream::ResponseStream,
    server::{Handler, ResponseSender},
};

#[cfg(test)]
mod tests;
