//! Limits how many tasks of one agent run and wait. Permits are granted in the order of arrival.

use std::{sync::Arc, time::Instant};

use metrics::Gauge;
use phoenix_platform::record_histogram;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::{AgentMetrics, GaugeGuard, QUEUE_SECONDS};

/// The queue of one agent.
pub(crate) struct TaskQueue {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    running_gauge: Gauge,
    waiting_gauge: Gauge,
}

/// A position in the queue: a right to run now, or to wait for it. Dropping it leaves the queue.
pub(crate) struct QueueTicket {
    arrived: Instant,
    running_gauge: Gauge,
    state: State,
}

enum State {
    Running(OwnedSemaphorePermit),
    Waiting { running: Arc<Semaphore>, _waiting: OwnedSemaphorePermit, _gauge: GaugeGuard },
}

/// A permit to run, until it is dropped.
pub(crate) struct RunPermit {
    _permit: OwnedSemaphorePermit,
    _gauge: GaugeGuard,
}

impl TaskQueue {
    /// A queue with capacity for `running` tasks that run and `waiting` that wait.
    pub(crate) fn new(running: u32, waiting: u32, metrics: &AgentMetrics) -> Self {
        let semaphore = |permits: u32| Arc::new(Semaphore::new(permits as usize));
        Self {
            running: semaphore(running),
            waiting: semaphore(waiting),
            running_gauge: metrics.running.clone(),
            waiting_gauge: metrics.queued.clone(),
        }
    }

    /// Enters the queue; `None` when it is full.
    pub(crate) fn try_enter(&self) -> Option<QueueTicket> {
        let state = if let Ok(permit) = Arc::clone(&self.running).try_acquire_owned() {
            State::Running(permit)
        } else {
            State::Waiting {
                running: Arc::clone(&self.running),
                _waiting: Arc::clone(&self.waiting).try_acquire_owned().ok()?,
                _gauge: GaugeGuard::increment(&self.waiting_gauge),
            }
        };
        Some(QueueTicket { arrived: Instant::now(), running_gauge: self.running_gauge.clone(), state })
    }
}

impl QueueTicket {
    /// Waits for the permit to run. `None` only after the queue was closed.
    pub(crate) async fn permit(self) -> Option<RunPermit> {
        let permit = match self.state {
            State::Running(permit) => permit,
            // The position in the queue is held until the permit is granted.
            State::Waiting { running, _waiting, _gauge } => running.acquire_owned().await.ok()?,
        };
        record_histogram(&QUEUE_SECONDS, self.arrived.elapsed().as_secs_f64());
        Some(RunPermit { _permit: permit, _gauge: GaugeGuard::increment(&self.running_gauge) })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn queue(running: u32, waiting: u32) -> TaskQueue {
        TaskQueue::new(running, waiting, &AgentMetrics::new(&"a".parse().unwrap(), running))
    }

    #[tokio::test]
    async fn permits_are_granted_in_the_order_of_arrival() {
        let queue = queue(1, 2);
        let running = queue.try_enter().unwrap().permit().await.unwrap();
        let mut first = Box::pin(queue.try_enter().unwrap().permit());
        let mut second = Box::pin(queue.try_enter().unwrap().permit());
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        assert!(queue.try_enter().is_none(), "two wait already");
        drop(running);
        assert!(second.as_mut().now_or_never().is_none(), "the first goes first");
        let running = first.await.unwrap();
        drop(running);
        second.await.unwrap();
    }

    #[tokio::test]
    async fn ticket_that_is_dropped_frees_its_position() {
        let queue = queue(1, 1);
        let _running = queue.try_enter().unwrap();
        let waiting = queue.try_enter().unwrap();
        assert!(queue.try_enter().is_none());
        drop(waiting);
        assert!(queue.try_enter().is_some());
    }
}
