//! Work that must be finished although nobody waits for it any more: ending processes, reporting cancelled tasks.
//!
//! It is owned: [`Cleanup::finish`] waits for all of it when the executor ends.

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
    /// To be called inside a tokio runtime; `stop` says that the executor ends.
    pub(crate) fn new(stop: CancellationToken) -> Self {
        Self { tracker: TaskTracker::new(), runtime: Handle::current(), stop }
    }

    /// Goes on with `work`. May be called from a destructor anywhere: when the runtime is gone, `work` is dropped.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn_on(work, &self.runtime);
    }

    /// Something that [`Self::finish`] waits for.
    pub(crate) fn token(&self) -> TaskTrackerToken {
        self.tracker.token()
    }

    /// Ends when there is no time left for grace.
    pub(crate) async fn hurry(&self) {
        self.stop.cancelled().await;
    }

    /// Waits for the end of all work, at most for `limit`; false when something is left.
    pub(crate) async fn finish(&self, limit: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}
