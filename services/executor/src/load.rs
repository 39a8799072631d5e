//! Load of the agents, for readers of the catalog.
//!
//! Every change raises a signal. While the signal is raised, the load is published, at most once per [`INTERVAL`]; an idle
//! executor publishes nothing.

use std::{sync::Arc, time::Duration};

use phoenix_proto::executor::AgentLoad;
use tokio::sync::{Notify, watch};

/// Shortest time between two publications.
const INTERVAL: Duration = Duration::from_millis(250);

/// Signal that the load of an agent has changed. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct LoadSignal(Arc<Notify>);

/// A part of the load. Raises the signal when it begins and when it ends.
#[derive(Debug)]
pub(crate) struct LoadGuard(LoadSignal);

impl LoadSignal {
    /// Raises the signal.
    pub(crate) fn raise(&self) {
        self.0.notify_one();
    }

    /// A part of the load that begins now.
    pub(crate) fn guard(&self) -> LoadGuard {
        self.raise();
        LoadGuard(self.clone())
    }

    /// Publishes the load to `published` after each change.
    pub(crate) async fn publish(
        self,
        load: impl Fn() -> Vec<AgentLoad>,
        published: watch::Sender<Vec<AgentLoad>>,
    ) {
        loop {
            self.0.notified().await;
            let load = load();
            published.send_if_modified(|last| {
                let changed = *last != load;
                *last = load;
                changed
            });
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

impl LoadGuard {
    /// Raises the signal: this part of the load has changed.
    pub(crate) fn raise(&self) {
        self.0.raise();
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.raise();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::Instant,
    };

    use super::*;

    #[tokio::test]
    async fn many_changes_are_coalesced_and_the_last_one_is_published() {
        let (signal, running) = (LoadSignal::default(), Arc::new(AtomicU32::new(0)));
        let (published, mut reader) = watch::channel(Vec::new());
        let source = Arc::clone(&running);
        let load =
            move || vec![AgentLoad { running: source.load(Ordering::Relaxed), ..AgentLoad::default() }];
        let publisher = tokio::spawn(signal.clone().publish(load, published));
        let started = Instant::now();
        for _ in 0..3 {
            while !reader.has_changed().unwrap() {
                running.fetch_add(1, Ordering::Relaxed);
                signal.raise();
                tokio::task::yield_now().await;
            }
            reader.borrow_and_update();
        }
        assert!(started.elapsed() >= 2 * INTERVAL, "{:?}", started.elapsed());
        running.fetch_add(1, Ordering::Relaxed);
        signal.raise();
        let last = running.load(Ordering::Relaxed);
        reader.wait_for(|loads| loads.first().is_some_and(|load| load.running == last)).await.unwrap();
        publisher.abort();
    }
}
