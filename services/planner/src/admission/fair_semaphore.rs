//! A semaphore whose waiters are served by priority.
//!
//! Acquiring a free permit is one short lock. A waiter sleeps until it is called: a released permit passes directly to the
//! waiter with the lowest priority value, so a later caller cannot overtake it.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use metrics::Gauge;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use crate::admission::priority::Priority;

/// A number of permits, and the waiters for them.
#[derive(Debug)]
pub(crate) struct FairSemaphore {
    state: Mutex<State>,
    waiting: Gauge,
}

#[derive(Debug)]
struct State {
    /// Number of permits.
    limit: i64,
    /// Free permits; negative while permits beyond the limit are held.
    free: i64,
    /// Waiters by priority. Empty while a permit is free.
    waiters: BTreeMap<Priority, oneshot::Sender<()>>,
    rate: RateEstimate,
    is_closed: bool,
}

/// A permit. Dropping it passes it to the next waiter.
#[derive(Debug)]
pub struct Permit(Arc<FairSemaphore>);

/// A queued request for a permit. Resolves to the permit; dropping it leaves the queue.
#[derive(Debug)]
pub struct Waiter {
    semaphore: Arc<FairSemaphore>,
    priority: Priority,
    state: WaiterState,
}

#[derive(Debug)]
enum WaiterState {
    /// A permit was free at once, or the semaphore was closed.
    Done(Result<(), Closed>),
    Queued(oneshot::Receiver<()>),
    Left,
}

/// The queue of a semaphore at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Queue {
    /// Number of waiters.
    pub(crate) waiters: usize,
    /// Time until a new waiter would receive a permit.
    pub(crate) estimated_wait: Duration,
}

/// The semaphore gives out no more permits: the planner shuts down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

impl FairSemaphore {
    /// A semaphore with `permits` permits. `waiting` shows the number of waiters.
    pub(crate) fn new(permits: u32, waiting: Gauge) -> Arc<Self> {
        let (waiters, rate) = (BTreeMap::new(), RateEstimate::default());
        let limit = permits.into();
        let state = State { limit, free: limit, waiters, rate, is_closed: false };
        Arc::new(Self { state: Mutex::new(state), waiting })
    }

    /// Changes the number of permits. Additional ones pass to waiters; while more are held than there are now, released ones
    /// are not given out again.
    pub(crate) fn set_permits(&self, permits: u32) {
        let mut state = self.lock();
        let limit = i64::from(permits);
        state.free += limit - state.limit;
        state.limit = limit;
        while state.free > 0
            && let Some((_, call)) = state.waiters.pop_first()
        {
            state.free -= 1;
            // A queued waiter listens: it leaves the queue before it drops its receiver.
            let _ = call.send(());
        }
    }

    /// Acquires a permit, if one is free.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        self.lock().try_acquire().then(|| Permit(Arc::clone(self)))
    }

    /// Acquires a permit whether one is free or not.
    pub(crate) fn acquire_over_limit(self: &Arc<Self>) -> Permit {
        self.lock().free -= 1;
        Permit(Arc::clone(self))
    }

    /// Queues for a permit. Priorities of concurrent waiters are distinct.
    pub(crate) fn acquire(self: &Arc<Self>, priority: Priority) -> Waiter {
        let mut state = self.lock();
        let waiter_state = if state.try_acquire() {
            WaiterState::Done(Ok(()))
        } else if state.is_closed {
            WaiterState::Done(Err(Closed))
        } else {
            let (call, called) = oneshot::channel();
            state.waiters.insert(priority, call);
            self.waiting.increment(1.0);
            WaiterState::Queued(called)
        };
        drop(state);
        Waiter { semaphore: Arc::clone(self), priority, state: waiter_state }
    }

    /// The number of waiters, and the wait that a new one can expect.
    pub(crate) fn queue(&self) -> Queue {
        let state = self.lock();
        let waiters = state.waiters.len();
        Queue { waiters, estimated_wait: state.rate.estimated_wait(waiters, Instant::now()) }
    }

    /// Rejects all waiters, and gives out no more permits.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.waiters.clear();
    }

    fn release(&self) {
        let mut state = self.lock();
        if state.free <= 0 {
            state.rate.released(Instant::now());
        }
        // While permits beyond the limit are held, this one is not available to waiters.
        let next = if state.free < 0 { None } else { state.waiters.pop_first() };
        match next {
            // A queued waiter listens: it leaves the queue before it drops its receiver.
            Some((_, call)) => drop(call.send(())),
            None => state.free += 1,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    fn try_acquire(&mut self) -> bool {
        if self.free <= 0 || self.is_closed {
            return false;
        }
        self.free -= 1;
        if self.free == 0 {
            self.rate.exhausted(Instant::now());
        }
        true
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl Future for Waiter {
    type Output = Result<Permit, Closed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let called = match &mut self.state {
            WaiterState::Queued(called) => {
                let called = ready!(Pin::new(called).poll(cx)).map_err(|_| Closed);
                self.semaphore.waiting.decrement(1.0);
                called
            }
            WaiterState::Done(result) => *result,
            // Polled after completion.
            WaiterState::Left => return Poll::Pending,
        };
        self.state = WaiterState::Left;
        Poll::Ready(called.map(|()| Permit(Arc::clone(&self.semaphore))))
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let has_permit = match std::mem::replace(&mut self.state, WaiterState::Left) {
            WaiterState::Left => false,
            WaiterState::Done(result) => result.is_ok(),
            WaiterState::Queued(mut called) => {
                self.semaphore.waiting.decrement(1.0);
                // Called concurrently with this drop: the permit is released again below.
                self.semaphore.lock().waiters.remove(&self.priority).is_none() && called.try_recv().is_ok()
            }
        };
        if has_permit {
            self.semaphore.release();
        }
    }
}

/// The rate at which permits are released while none is free.
#[derive(Debug, Default)]
struct RateEstimate {
    /// When the last permit was taken, or released since.
    last: Option<Instant>,
    /// Moving average of the time between two releases.
    mean: Option<Duration>,
}

impl RateEstimate {
    fn exhausted(&mut self, now: Instant) {
        self.last = Some(now);
    }

    fn released(&mut self, now: Instant) {
        let gap = self.last.map_or(Duration::ZERO, |last| now.duration_since(last));
        self.mean = Some(self.mean.map_or(gap, |mean| (mean * 7 + gap) / 8));
        self.last = Some(now);
    }

    /// Time until a waiter behind `queued` others receives a permit. When the last release is longer ago than the average
    /// gap, the next one is expected to take as long again.
    fn estimated_wait(&self, queued: usize, now: Instant) -> Duration {
        let idle = self.last.map_or(Duration::ZERO, |last| now.duration_since(last));
        let mean = self.mean.unwrap_or(idle);
        let queued = u32::try_from(queued).unwrap_or(u32::MAX);
        mean.max(idle).saturating_add(mean.saturating_mul(queued))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;
    use crate::admission::priority::PlanPriority;

    fn semaphore(permits: u32) -> Arc<FairSemaphore> {
        FairSemaphore::new(permits, Gauge::noop())
    }

    fn priority(plan: u64) -> Priority {
        PlanPriority::new(plan).task(0)
    }

    #[test]
    fn released_permit_passes_to_first_priority() {
        let semaphore = semaphore(1);
        let permit = semaphore.try_acquire().unwrap();
        let mut later = semaphore.acquire(priority(2));
        let mut earlier = semaphore.acquire(priority(1));
        assert!(semaphore.try_acquire().is_none());
        drop(permit);
        assert!(semaphore.try_acquire().is_none(), "the earlier waiter has it");
        assert!((&mut later).now_or_never().is_none());
        let permit = (&mut earlier).now_or_never().unwrap().unwrap();
        drop(permit);
        assert!(later.now_or_never().unwrap().is_ok());
        assert!(semaphore.try_acquire().is_some(), "it was released");
    }

    #[test]
    fn called_waiter_that_is_dropped_passes_the_permit_on() {
        let semaphore = semaphore(1);
        let permit = semaphore.try_acquire().unwrap();
        let (first, second) = (semaphore.acquire(priority(1)), semaphore.acquire(priority(2)));
        drop(permit);
        drop(first);
        assert!(second.now_or_never().unwrap().is_ok());
        assert!(semaphore.try_acquire().is_some());
    }

    #[test]
    fn permit_over_limit_is_not_given_out_again() {
        let semaphore = semaphore(1);
        let permits =
            [semaphore.acquire_over_limit(), semaphore.acquire_over_limit(), semaphore.acquire_over_limit()];
        let waiter = semaphore.acquire(priority(1));
        let [a, b, c] = permits;
        drop((a, b));
        assert!(semaphore.try_acquire().is_none());
        drop(c);
        assert!(waiter.now_or_never().unwrap().is_ok());
    }

    #[test]
    fn permits_that_are_added_pass_to_waiters_in_order() {
        let semaphore = semaphore(1);
        let held = semaphore.try_acquire().unwrap();
        let mut waiters: Vec<_> = (1..=3).map(|plan| semaphore.acquire(priority(plan))).collect();
        semaphore.set_permits(3);
        assert!((&mut waiters[2]).now_or_never().is_none(), "two were added");
        let more: Vec<_> = waiters.drain(..2).map(|waiter| waiter.now_or_never().unwrap().unwrap()).collect();
        drop(held);
        let last = waiters.remove(0).now_or_never().unwrap().unwrap();
        semaphore.set_permits(1);
        drop(more);
        assert!(semaphore.try_acquire().is_none(), "one permit is left, and held");
        drop(last);
        assert!(semaphore.try_acquire().is_some());
    }

    #[test]
    fn closed_semaphore_rejects_all_waiters() {
        let semaphore = semaphore(1);
        let permit = semaphore.try_acquire().unwrap();
        let waiter = semaphore.acquire(priority(1));
        semaphore.close();
        assert_eq!(waiter.now_or_never().unwrap().unwrap_err(), Closed);
        drop(permit);
        assert!(semaphore.try_acquire().is_none());
        assert_eq!(semaphore.acquire(priority(2)).now_or_never().unwrap().unwrap_err(), Closed);
    }

    #[test]
    fn estimated_wait_is_mean_gap_times_queue_length() {
        let (begin, second) = (Instant::now(), Duration::from_secs(1));
        let mut rate = RateEstimate::default();
        assert_eq!(rate.estimated_wait(5, begin), Duration::ZERO, "no data");
        rate.exhausted(begin);
        assert_eq!(rate.estimated_wait(0, begin + 3 * second), 3 * second, "no release for that long");
        for n in 1..=50 {
            rate.released(begin + n * second);
        }
        assert_eq!(rate.estimated_wait(0, begin + 50 * second), second);
        assert_eq!(rate.estimated_wait(9, begin + 50 * second), 10 * second);
        assert_eq!(rate.estimated_wait(9, begin + 70 * second), 29 * second, "the rate has dropped");
    }

    #[derive(Debug, Clone)]
    enum Step {
        TryAcquire,
        Queue,
        Release(prop::sample::Index),
        Leave(prop::sample::Index),
        Resize(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::TryAcquire),
            Just(Step::Queue),
            any::<prop::sample::Index>().prop_map(Step::Release),
            any::<prop::sample::Index>().prop_map(Step::Leave),
            (1..4_u32).prop_map(Step::Resize),
        ]
    }

    proptest! {
        #[test]
        fn permits_are_conserved_and_follow_priorities(
            permits in 1..4_u32,
            plans in Just((0..64_u64).collect::<Vec<_>>()).prop_shuffle(),
            steps in prop::collection::vec(step(), 0..64),
        ) {
            let (semaphore, mut permits) = (semaphore(permits), permits as usize);
            let mut plans = plans.into_iter();
            let mut held = Vec::new();
            let mut queue: Vec<(u64, Waiter)> = Vec::new();
            for step in steps {
                match step {
                    Step::TryAcquire => held.extend(semaphore.try_acquire()),
                    Step::Queue => {
                        if let Some(plan) = plans.next() {
                            queue.push((plan, semaphore.acquire(priority(plan))));
                        }
                    }
                    Step::Release(which) if !held.is_empty() => drop(held.swap_remove(which.index(held.len()))),
                    Step::Leave(which) if !queue.is_empty() => drop(queue.swap_remove(which.index(queue.len()))),
                    Step::Resize(to) => {
                        semaphore.set_permits(to);
                        // Permits beyond the limit stay with their holders.
                        permits = to as usize;
                    }
                    Step::Release(_) | Step::Leave(_) => {}
                }
                let before: BTreeSet<u64> = queue.iter().map(|(plan, _)| *plan).collect();
                let (held_before, mut called) = (held.len(), BTreeSet::new());
                queue.retain_mut(|(plan, waiter)| match waiter.now_or_never() {
                    Some(permit) => {
                        held.push(permit.unwrap());
                        called.insert(*plan);
                        false
                    }
                    None => true,
                });
                prop_assert_eq!(&called, &before.iter().copied().take(called.len()).collect());
                prop_assert!(held.len() <= permits.max(held_before));
                prop_assert!(queue.is_empty() || held.len() >= permits, "a permit is free and a waiter queued");
            }
            drop(queue);
            held.clear();
            let all: Vec<_> = std::iter::from_fn(|| semaphore.try_acquire()).collect();
            prop_assert_eq!(all.len(), permits);
        }
    }
}
