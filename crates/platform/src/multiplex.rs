//! Many calls to one peer on one stream.
//!
//! ```text
//! MultiplexClient::call ──▶ SendQueue ──▶ ExchangeRequest{frames} ──▶ drive ──▶ a task per call ──▶ Handler::call
//!  ResponseStream  ◀── open calls ◀── ExchangeResponse{frames} ◀── SendQueue ◀──────────────────────┘
//! ```
//!
//! A stream of HTTP/2 for each call costs both sides headers to encode and to read, a flow-control window, a body and a
//! handful of wake-ups. Where thousands of short calls a second go to one peer that is most of what a call costs, so
//! those are frames on a stream that is kept open, and frames that are ready together travel together.
//!
//! For the caller nothing changes: the same context goes along, dropping [`ResponseStream`] cancels the call, a connection that
//! breaks fails it like any other. A caller that reads slowly slows down its own answer and no other: each call has a
//! [credit](credit), and a stream that its peer does not read takes no more calls. While the stream is not open, and with a peer that has none, calls are made by
//! themselves. Deadlines are told and not enforced here: whoever waits with a limit drops what it waited for.

mod client;
mod credit;
mod send_queue;
mod server;

pub(crate) use self::server::service;
pub use self::{
    client::{MultiplexClient, ResponseStream},
    server::{Handler, ResponseSender},
};

use crate::server::MAX_MESSAGE_BYTES;

/// How much travels together, if no message alone is larger. A larger request is a call by itself, since what shares a
/// stream waits for what is before it.
const SHARED_BYTES: usize = 64 * 1024;

/// The largest batch: one message that is as large as a message may be, in its frame.
const MAX_BATCH_BYTES: usize = MAX_MESSAGE_BYTES + 1024;

#[cfg(test)]
mod tests;
