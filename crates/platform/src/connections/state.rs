//! What is known of one open connection.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::propagation::CancelReason;

/// What is known of one open connection.
#[derive(Debug, Default)]
pub(super) struct State {
    /// A complete request head or HTTP/2 preface has arrived.
    has_spoken: AtomicBool,
    /// The peer reads more slowly than answers are written.
    is_write_blocked: AtomicBool,
    calls: AtomicUsize,
    /// Those of the calls whose request has not arrived as a whole while nothing of the answer has been sent.
    arriving: AtomicUsize,
    changed: Notify,
    /// Why the peer leaves its calls, once it has said so.
    pub(super) cancel_reason: CancelReason,
    close: CancellationToken,
}

impl State {
    pub(super) fn has_spoken(&self) -> bool {
        self.has_spoken.load(Ordering::Acquire)
    }

    pub(super) fn spoke(&self) {
        self.has_spoken.store(true, Ordering::Release);
    }

    pub(super) fn set_write_blocked(&self, blocked: bool) {
        self.is_write_blocked.store(blocked, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub(super) fn calls(&self) -> usize {
        self.calls.load(Ordering::Acquire)
    }

    /// Whether a request has begun to arrive whose answer has not been sent.
    pub(super) fn has_calls(&self) -> bool {
        self.calls() > 0 || self.is_write_blocked.load(Ordering::Acquire)
    }

    /// Whether a call is in flight.
    pub(super) fn is_busy(&self) -> bool {
        self.calls() > self.arriving.load(Ordering::Acquire) || self.is_write_blocked.load(Ordering::Acquire)
    }

    pub(super) fn call_began(&self, is_arriving: bool) {
        self.calls.fetch_add(1, Ordering::AcqRel);
        if is_arriving {
            self.arriving.fetch_add(1, Ordering::AcqRel);
        }
    }

    pub(super) fn request_arrived(&self) {
        self.arriving.fetch_sub(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    pub(super) fn call_ended(&self) {
        self.calls.fetch_sub(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    /// Waits until `condition` holds.
    pub(super) async fn until(&self, condition: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            if condition(self) {
                return;
            }
            changed.await;
        }
    }

    /// Has the connection closed, whatever happens on it.
    pub(super) fn close(&self) {
        self.close.cancel();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.close.is_cancelled()
    }

    /// Waits until the connection is to be closed.
    pub(super) async fn closed(&self) {
        self.close.cancelled().await;
    }
}
