//! One instance of a service among several: its connection, its load, and whether it takes calls.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::DropGuard;
use tonic::{Status, transport::Channel};

use super::{addresses::PeerAddress, status::was_sent};
use crate::propagation::SendContextService;

/// Consecutive failures of established calls after which a peer is ejected.
const MAX_FAILURES: u32 = 3;

/// Time of the first ejection, which doubles while calls fail.
const FIRST_EJECTION: Duration = Duration::from_millis(250);

/// Longest ejection.
const LONGEST_EJECTION: Duration = Duration::from_secs(10);

/// One instance of a service.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Identifier, unique in its set and never reused.
    pub(crate) id: u64,
    pub(super) address: PeerAddress,
    pub(super) channel: SendContextService<Channel>,
    pub(super) state: Arc<PeerState>,
    /// Ends the watch of the peer's health.
    pub(super) _stop: DropGuard,
}

/// Load and admission of a peer.
#[derive(Debug)]
pub(super) struct PeerState {
    in_flight: AtomicUsize,
    /// Whether the peer reports SERVING over an open connection.
    serving: AtomicBool,
    /// Consecutive failures of calls.
    failures: AtomicU32,
    /// End of the ejection, in milliseconds since `created`.
    ejected_until: AtomicU64,
    created: Instant,
}

impl Peer {
    /// Whether calls may be sent to the peer while others are admitted, too.
    pub(super) fn is_admitted(&self) -> bool {
        self.state.is_admitted()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.state.in_flight.load(Ordering::Relaxed)
    }
}

impl PeerState {
    pub(super) fn new() -> Self {
        Self {
            in_flight: AtomicUsize::new(0),
            serving: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            created: Instant::now(),
        }
    }

    /// Sets whether the peer reports SERVING. Returns whether that is a change.
    pub(super) fn set_serving(&self, serving: bool) -> bool {
        self.serving.swap(serving, Ordering::AcqRel) != serving
    }

    fn is_admitted(&self) -> bool {
        self.serving.load(Ordering::Acquire) && self.age_ms() >= self.ejected_until.load(Ordering::Acquire)
    }

    fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// Records a call that the connection failed. Ejects the peer at once if it cannot be connected to, else after
    /// [`MAX_FAILURES`] in a row.
    fn failed(&self, is_connected: bool) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let ejections = if is_connected { failures / MAX_FAILURES } else { failures };
        if ejections > 0 {
            let longer = 1_u32 << (ejections - 1).min(16);
            let pause = FIRST_EJECTION.saturating_mul(longer).min(LONGEST_EJECTION);
            let until = self.age_ms() + u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            self.ejected_until.fetch_max(until, Ordering::AcqRel);
        }
    }

    fn age_ms(&self) -> u64 {
        u64::try_from(self.created.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A call to a peer, in flight until it is dropped.
#[derive(Debug)]
pub(crate) struct PeerCall(Arc<Peer>);

impl PeerCall {
    pub(crate) fn start(peer: &Arc<Peer>) -> Self {
        peer.state.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(peer))
    }

    /// Records that the peer has answered.
    pub(crate) fn answered(&self) {
        self.0.state.succeeded();
    }

    /// Records the status of a call that has failed: an answer of the peer, or a failure of its connection.
    pub(crate) fn failed(&self, status: &Status) {
        if std::error::Error::source(status).is_some() {
            self.0.state.failed(was_sent(status));
        } else {
            self.0.state.succeeded();
        }
    }

    /// Records that the connection failed the call, before the call was sent unless `was_sent`.
    pub(super) fn broke(&self, was_sent: bool) {
        self.0.state.failed(was_sent);
    }
}

impl Drop for PeerCall {
    fn drop(&mut self) {
        self.0.state.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_is_ejected_sooner_without_a_connection() {
        let state = PeerState::new();
        assert!(!state.is_admitted(), "its health is unknown");
        assert!(state.set_serving(true) && !state.set_serving(true));
        for _ in 1..MAX_FAILURES {
            state.failed(true);
            assert!(state.is_admitted());
        }
        state.failed(true);
        assert!(!state.is_admitted());

        let state = PeerState::new();
        state.set_serving(true);
        state.failed(false);
        assert!(!state.is_admitted());
        let first = state.ejected_until.load(Ordering::Relaxed);
        state.failed(false);
        assert!(state.ejected_until.load(Ordering::Relaxed) >= first + 200, "a longer ejection");
        for _ in 0..100 {
            state.failed(false);
        }
        let longest = u64::try_from(LONGEST_EJECTION.as_millis()).unwrap();
        assert!(state.ejected_until.load(Ordering::Relaxed) <= state.age_ms() + longest);
    }
}
