//! State of one open connection.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::propagation::CancelReason;

/// State of one open connection.
#[derive(Debug, Default)]
pub(super) struct ConnectionState {
    /// A complete request head or HTTP/2 preface has arrived.
    has_sent: AtomicBool,
    /// The peer reads more slowly than responses are written.
    is_write_blocked: AtomicBool,
    calls: AtomicUsize,
    /// Calls whose request has not arrived completely and whose response has not begun.
    arriving: AtomicUsize,
    changed: Notify,
    /// Why the peer cancels its calls, once it has said so.
    pub(super) cancel_reason: CancelReason,
    close: CancellationToken,
}

impl ConnectionState {
    pub(super) fn has_sent(&self) -> bool {
        self.has_sent.load(Ordering::Acquire)
    }

    pub(super) fn set_sent(&self) {
        self.has_sent.store(true, Ordering::Release);
    }

    pub(super) fn set_write_blocked(&self, blocked: bool) {
        self.is_write_blocked.store(blocked, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub(super) fn calls(&self) -> usize {
        self.calls.load(Ordering::Acquire)
    }

    /// Whether a request has begun to arrive whose response is not sent completely.
    pub(super) fn has_calls(&self) -> bool {
        self.calls() > 0 || self.is_write_blocked.load(Ordering::Acquire)
    }

    /// Whether a call is in flight, that is with a request that has arrived.
    pub(super) fn is_busy(&self) -> bool {
        self.calls() > self.arriving.load(Ordering::Acquire) || self.is_write_blocked.load(Ordering::Acquire)
    }

    pub(super) fn start_call(&self, is_arriving: bool) {
        self.calls.fetch_add(1, Ordering::AcqRel);
        if is_arriving {
            self.arriving.fetch_add(1, Ordering::AcqRel);
        }
    }

    pub(super) fn end_arrival(&self) {
        self.arriving.fetch_sub(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    pub(super) fn end_call(&self) {
        self.calls.fetch_sub(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    /// Waits until `condition` is true.
    pub(super) async fn until(&self, condition: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            if condition(self) {
                return;
            }
            changed.await;
        }
    }

    /// Requests that the connection is closed.
    pub(super) fn close(&self) {
        self.close.cancel();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.close.is_cancelled()
    }

    /// Waits for [`close`](Self::close).
    pub(super) async fn closed(&self) {
        self.close.cancelled().await;
    }
}
