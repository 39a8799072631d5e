//! How many tasks of one agent run and wait: places that are given out in the order of arrival.

use std::{sync::Arc, time::Instant};

use metrics::Gauge;
use phoenix_platform::record_histogram;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::{AgentMeters, Held, QUEUE_SECONDS};

/// The places of one agent.
pub(crate) struct Places {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    running_gauge: Gauge,
    waiting_gauge: Gauge,
}

/// A right to run now, or to wait for it. Dropping it gives the right up.
pub(crate) struct Ticket {
    arrived: Instant,
    running_gauge: Gauge,
    state: State,
}

enum State {
    Running(OwnedSemaphorePermit),
    Waiting { running: Arc<Semaphore>, _place_in_queue: OwnedSemaphorePermit, _held: Held },
}

/// The right to run, until it is dropped.
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
    _held: Held,
}

impl Places {
    /// Room for `running` tasks that run and `waiting` that wait.
    pub(crate) fn new(running: u32, waiting: u32, meters: &AgentMeters) -> Self {
        let semaphore = |places: u32| Arc::new(Semaphore::new(places as usize));
        Self {
            running: semaphore(running),
            waiting: semaphore(waiting),
            running_gauge: meters.running.clone(),
            waiting_gauge: meters.queued.clone(),
        }
    }

    /// A ticket, unless as many wait as may.
    pub(crate) fn enter(&self) -> Option<Ticket> {
        let state = if let Ok(permit) = Arc::clone(&self.running).try_acquire_owned() {
            State::Running(permit)
        } else {
            State::Waiting {
                running: Arc::clone(&self.running),
                _place_in_queue: Arc::clone(&self.waiting).try_acquire_owned().ok()?,
                _held: Held::of(&self.waiting_gauge),
            }
        };
        Some(Ticket { arrived: Instant::now(), running_gauge: self.running_gauge.clone(), state })
    }
}

impl Ticket {
    /// Waits until it is this ticket's turn. `None` only when the places are no more.
    pub(crate) async fn place(self) -> Option<Place> {
        let permit = match self.state {
            State::Running(permit) => permit,
            // The place in the queue is held until there is one among the running.
            State::Waiting { running, _place_in_queue, _held } => running.acquire_owned().await.ok()?,
        };
        record_histogram(&QUEUE_SECONDS, self.arrived.elapsed().as_secs_f64());
        Some(Place { _permit: permit, _held: Held::of(&self.running_gauge) })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn places(running: u32, waiting: u32) -> Places {
        Places::new(running, waiting, &AgentMeters::new(&"a".parse().unwrap(), running))
    }

    #[tokio::test]
    async fn places_go_to_those_who_wait_in_the_order_of_arrival() {
        let places = places(1, 2);
        let running = places.enter().unwrap().place().await.unwrap();
        let mut first = Box::pin(places.enter().unwrap().place());
        let mut second = Box::pin(places.enter().unwrap().place());
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        assert!(places.enter().is_none(), "two wait already");
        drop(running);
        assert!(second.as_mut().now_or_never().is_none(), "it is not its turn");
        let running = first.await.unwrap();
        drop(running);
        second.await.unwrap();
    }

    #[tokio::test]
    async fn who_leaves_the_queue_makes_room() {
        let places = places(1, 1);
        let _running = places.enter().unwrap();
        let waiting = places.enter().unwrap();
        assert!(places.enter().is_none());
        drop(waiting);
        assert!(places.enter().is_some());
    }
}
