//! Work that outlives its request: ending processes, reporting cancelled tasks.
//!
//! [`Cleanup`] owns it; [`Cleanup::finish`] waits for all of it when the executor stops.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

/// Spawns such work. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Cleanup {
    tracker: TaskTracker,
    runtime: Handle,
    stop: CancellationToken,
}

impl Cleanup {
    /// Must be called inside a tokio runtime; `stop` is cancelled when the executor stops.
    pub(crate) fn new(stop: CancellationToken) -> Self {
        Self { tracker: TaskTracker::new(), runtime: Handle::current(), stop }
    }

    /// Runs `work` in the background. May be called from any destructor: without a runtime, `work` is dropped.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn_on(work, &self.runtime);
    }

    /// A token for which [`Self::finish`] waits.
    pub(crate) fn token(&self) -> TaskTrackerToken {
        self.tracker.token()
    }

    /// Resolves when the executor stops and grace periods are over.
    pub(crate) async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Waits for the end of all work, at most for `limit`; false when some is left.
    pub(crate) async fn finish(&self, limit: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}
