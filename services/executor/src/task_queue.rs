//! Limits how many tasks of one agent run and wait. Permits are granted in the order of arrival.

use std::{sync::Arc, time::Instant};

use metrics::Gauge;
use phoenix_platform::record_histogram;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    load::{LoadGuard, LoadSignal},
    metrics::{AgentMetrics, GaugeGuard, QUEUE_SECONDS},
};

/// The queue of one agent.
pub(crate) struct TaskQueue {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    running_gauge: Gauge,
    waiting_gauge: Gauge,
    limits: Limits,
    changes: LoadSignal,
}

#[derive(Clone, Copy)]
struct Limits {
    running: u32,
    waiting: u32,
}

/// A position in the queue: a right to run now, or to wait for it. Dropping it leaves the queue.
pub(crate) struct QueueTicket {
    arrived: Instant,
    running_gauge: Gauge,
    state: State,
    /// Last, because it announces the end of the others.
    load: LoadGuard,
}

enum State {
    Running(OwnedSemaphorePermit),
    Waiting { running: Arc<Semaphore>, _waiting: OwnedSemaphorePermit, _gauge: GaugeGuard },
}

/// A permit to run, until it is dropped.
pub(crate) struct RunPermit {
    _permit: OwnedSemaphorePermit,
    _gauge: GaugeGuard,
    /// Last, because it announces the end of the others.
    _load: LoadGuard,
}

impl TaskQueue {
    /// A queue with capacity for `running` tasks that run and `waiting` that wait. It raises `changes` when its load changes.
    pub(crate) fn new(running: u32, waiting: u32, metrics: &AgentMetrics, changes: LoadSignal) -> Self {
        let semaphore = |permits: u32| Arc::new(Semaphore::new(permits as usize));
        Self {
            running: semaphore(running),
            waiting: semaphore(waiting),
            running_gauge: metrics.running.clone(),
            waiting_gauge: metrics.queued.clone(),
            limits: Limits { running, waiting },
            changes,
        }
    }

    /// Number of tasks that run, and of those that could still enter.
    pub(crate) fn load(&self) -> (u32, u32) {
        let free = |semaphore: &Semaphore| u32::try_from(semaphore.available_permits()).unwrap_or(u32::MAX);
        let (running, waiting) = (free(&self.running), free(&self.waiting));
        let free = running.saturating_add(waiting);
        (
            self.limits.running.saturating_sub(running),
            free.min(self.limits.running.saturating_add(self.limits.waiting)),
        )
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
        let (arrived, running_gauge) = (Instant::now(), self.running_gauge.clone());
        Some(QueueTicket { arrived, running_gauge, state, load: self.changes.guard() })
    }
}

impl QueueTicket {
    /// Waits for the permit to run. `None` only after the queue was closed.
    pub(crate) async fn permit(self) -> Option<RunPermit> {
        let Self { arrived, running_gauge, state, load } = self;
        let permit = match state {
            State::Running(permit) => permit,
            // The position in the queue is held until the permit is granted.
            State::Waiting { running, _waiting, _gauge } => running.acquire_owned().await.ok()?,
        };
        load.raise();
        record_histogram(&QUEUE_SECONDS, arrived.elapsed().as_secs_f64());
        Some(RunPermit { _permit: permit, _gauge: GaugeGuard::increment(&running_gauge), _load: load })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn queue(running: u32, waiting: u32) -> TaskQueue {
        let metrics = AgentMetrics::new(&"a".parse().unwrap(), running);
        TaskQueue::new(running, waiting, &metrics, LoadSignal::default())
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
        assert_eq!(queue.load(), (0, 2));
        let _running = queue.try_enter().unwrap();
        let waiting = queue.try_enter().unwrap();
        assert!(queue.try_enter().is_none());
        assert_eq!(queue.load(), (1, 0));
        drop(waiting);
        assert_eq!(queue.load(), (1, 1));
        assert!(queue.try_enter().is_some());
    }
}
