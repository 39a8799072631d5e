//! How much of an answer may be on its way before its caller has read some.

use std::sync::atomic::{AtomicI64, Ordering};

use tokio::sync::Notify;

/// What a call's messages may take before the caller has read any of them. The message that uses it up is sent as a whole, so a
/// caller holds this much and one message at most.
pub(super) const CALL_CREDIT: u64 = 1024 * 1024;

/// What a message takes: its bytes, and what it costs to keep it.
pub(super) const fn cost(message_bytes: usize) -> u64 {
    message_bytes as u64 + 64
}

/// What is left of a call's credit, on the side of the callee.
#[derive(Debug)]
pub(super) struct Credit {
    left: AtomicI64,
    granted: Notify,
}

impl Credit {
    /// The credit that a call begins with. A caller that names none counts nothing either.
    pub(super) fn new(initial: Option<u64>) -> Self {
        let left = initial.map_or(i64::MAX, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        Self { left: AtomicI64::new(left), granted: Notify::new() }
    }

    /// Takes a message's cost, once there is any credit. For one taker at a time.
    pub(super) async fn take(&self, cost: u64) {
        loop {
            let granted = self.granted.notified();
            if self.left.load(Ordering::Acquire) > 0 {
                self.add(i64::try_from(cost).unwrap_or(i64::MAX).saturating_neg());
                return;
            }
            granted.await;
        }
    }

    /// The caller has read so much.
    pub(super) fn grant(&self, bytes: u64) {
        self.add(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.granted.notify_waiters();
    }

    fn add(&self, bytes: i64) {
        let _ = self
            .left
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| Some(left.saturating_add(bytes)));
    }
}
