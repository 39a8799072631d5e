//! Limits how many worker processes start at the same time.
//!
//! A start is mostly work for the processor: an interpreter loads its modules. Many starts at once finish together and
//! late, and take the processor from everything else on the machine. A few at a time finish one after the other, and the
//! first worker that is ready can serve several of the requests for which the others would have been started.

use std::{num::NonZero, sync::Arc, thread::available_parallelism, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Fewest slots, for machines with one or two processors.
const MIN_SLOTS: usize = 4;

/// Slots for each processor.
const SLOTS_PER_PROCESSOR: usize = 2;

/// Longest time that one start holds its slot, so that processes which wait for something while they start do not hold
/// up those of other agents.
const SLOT_LIMIT: Duration = Duration::from_millis(500);

/// The slots of an executor. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct StartSlots {
    free: Arc<Semaphore>,
    limit: Duration,
}

/// The right to start a process. It ends when it is dropped, and after the limit of its slots.
#[derive(Debug)]
pub(crate) struct StartSlot {
    _released: DropGuard,
}

impl StartSlots {
    /// As many slots as the processors of this machine can use.
    pub(crate) fn of_this_machine() -> Self {
        let processors = available_parallelism().map_or(1, NonZero::get);
        Self::new((SLOTS_PER_PROCESSOR * processors).max(MIN_SLOTS), SLOT_LIMIT)
    }

    fn new(count: usize, limit: Duration) -> Self {
        Self { free: Arc::new(Semaphore::new(count)), limit }
    }

    /// Waits for a slot, in the order of arrival.
    pub(crate) async fn acquire(&self) -> StartSlot {
        // The semaphore is never closed; a start without a permit is better than none.
        let permit = Arc::clone(&self.free).acquire_owned().await.ok();
        let released = CancellationToken::new();
        tokio::spawn(hold(permit, released.clone(), self.limit));
        StartSlot { _released: released.drop_guard() }
    }
}

async fn hold(permit: Option<OwnedSemaphorePermit>, released: CancellationToken, limit: Duration) {
    let _ = timeout(limit, released.cancelled()).await;
    drop(permit);
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn dropped_slot_goes_to_the_next_in_the_queue() {
        let slots = StartSlots::new(1, Duration::from_secs(600));
        let first = slots.acquire().await;
        let mut second = Box::pin(slots.acquire());
        let mut third = Box::pin(slots.acquire());
        assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
        drop(first);
        let _second = second.await;
        assert!(third.now_or_never().is_none(), "one slot, one start");
    }

    #[tokio::test]
    async fn slow_start_gives_its_slot_up_at_the_limit() {
        let limit = Duration::from_millis(50);
        let slots = StartSlots::new(1, limit);
        let begun = Instant::now();
        let _slow = slots.acquire().await;
        let _next = slots.acquire().await;
        assert!(begun.elapsed() >= limit);
    }
}
