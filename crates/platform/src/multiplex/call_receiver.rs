//! Receiving side of one call on a shared stream.

use std::{
    collections::VecDeque,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tonic::Status;

/// Messages and end of one call, as far as they have been received.
#[derive(Debug, Default)]
pub(super) struct CallReceiver(Mutex<Received>);

#[derive(Debug, Default)]
struct Received {
    messages: VecDeque<Bytes>,
    end: Option<Result<(), Status>>,
    waiting: Option<Waker>,
}

impl CallReceiver {
    /// Adds a message. Returns the waker of the task that waits for it.
    pub(super) fn push(&self, message: Bytes) -> Option<Waker> {
        let mut received = self.0.lock();
        received.messages.push_back(message);
        received.waiting.take()
    }

    /// Ends the call. Returns the waker of the task that waits for it.
    pub(super) fn end(&self, result: Result<(), Status>) -> Option<Waker> {
        let mut received = self.0.lock();
        received.end = Some(result);
        received.waiting.take()
    }

    /// Polls for the next message; `None` at the end.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        let mut received = self.0.lock();
        if let Some(message) = received.messages.pop_front() {
            return Poll::Ready(Ok(Some(message)));
        }
        match &received.end {
            Some(Ok(())) => Poll::Ready(Ok(None)),
            Some(Err(status)) => Poll::Ready(Err(status.clone())),
            None => {
                received.waiting = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
