//! The clock of an open loop.
//!
//! The runtime's timer counts milliseconds and would add up to one to every latency, more than a warm chat takes. A
//! thread that parks until the next turn is exact to some 50 µs and costs nothing in between.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

/// Releases turns at their time until dropped.
#[derive(Debug)]
pub(crate) struct Pacer {
    released: Arc<Semaphore>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pacer {
    /// Releases turn `n` of `turns` at `start + n · gap`, then one more for each of `connections`, which learn from it
    /// that it is over.
    pub(crate) fn start(start: Instant, gap: Duration, turns: u64, connections: usize) -> io::Result<Self> {
        let released = Arc::new(Semaphore::new(0));
        let stopped = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new().name("pacer".into()).spawn({
            let (released, stopped) = (Arc::clone(&released), Arc::clone(&stopped));
            move || {
                for turn in 0..turns {
                    if !park_until(due(start, gap, turn), &stopped) {
                        return;
                    }
                    released.add_permits(1);
                }
                released.add_permits(connections);
            }
        })?;
        Ok(Self { released, stopped, thread: Some(thread) })
    }

    /// Waits until a turn is released, and takes it.
    pub(crate) async fn turn(&self) {
        // The semaphore is never closed.
        if let Ok(permit) = self.released.acquire().await {
            permit.forget();
        }
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// Waits until `when`; false when stopped before.
fn park_until(when: Instant, stopped: &AtomicBool) -> bool {
    loop {
        if stopped.load(Ordering::Acquire) {
            return false;
        }
        let left = when.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        thread::park_timeout(left);
    }
}

/// When turn number `turn` is due. Multiplied in nanoseconds, so that the error of a rounded gap stays below 1 ns per
/// turn.
pub(crate) fn due(start: Instant, gap: Duration, turn: u64) -> Instant {
    let offset = gap.as_nanos().saturating_mul(u128::from(turn));
    start + Duration::from_nanos(u64::try_from(offset).unwrap_or(u64::MAX))
}
