//! Flow control of one call: bytes of its response that may be in flight before the caller reads.

use std::sync::atomic::{AtomicI64, Ordering};

use tokio::sync::Notify;

/// Initial credit of a call in bytes. The message that exhausts the credit is sent completely, so a caller buffers at most
/// this much and one message.
pub(super) const CALL_CREDIT: u64 = 1024 * 1024;

/// Credit that a message takes: its bytes and a fixed overhead.
pub(super) const fn cost(message_bytes: usize) -> u64 {
    message_bytes as u64 + 64
}

/// Remaining credit of a call, on the server side.
#[derive(Debug)]
pub(super) struct Credit {
    remaining: AtomicI64,
    granted: Notify,
}

impl Credit {
    /// The initial credit. Unlimited for a caller that sends none, and so grants none.
    pub(super) fn new(initial: Option<u64>) -> Self {
        let remaining = initial.map_or(i64::MAX, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        Self { remaining: AtomicI64::new(remaining), granted: Notify::new() }
    }

    /// Takes the cost of a message once there is any credit. For one caller at a time.
    pub(super) async fn take(&self, cost: u64) {
        loop {
            let granted = self.granted.notified();
            if self.remaining.load(Ordering::Acquire) > 0 {
                self.add(i64::try_from(cost).unwrap_or(i64::MAX).saturating_neg());
                return;
            }
            granted.await;
        }
    }

    /// Adds credit for `bytes` that the caller has read.
    pub(super) fn grant(&self, bytes: u64) {
        self.add(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.granted.notify_waiters();
    }

    fn add(&self, bytes: i64) {
        let _ = self.remaining.fetch_update(Ordering::AcqRel, Ordering::Acquire, |remaining| {
            Some(remaining.saturating_add(bytes))
        });
    }
}
