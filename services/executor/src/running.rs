//! The running tasks by id, so that any caller can cancel one.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use parking_lot::{Mutex, MutexGuard};
use phoenix_domain::TaskId;
use tokio_util::sync::CancellationToken;

/// Reason of a cancellation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CancelReason {
    /// The caller dropped the stream of its events.
    CallerLeft,
    /// `CancelTask` was called.
    Requested,
    /// The task was sent again; the newer call runs it.
    Superseded,
    /// The executor is stopping.
    Stopping,
}

impl CancelReason {
    /// Name in logs.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::CallerLeft => "caller_left",
            Self::Requested => "requested",
            Self::Superseded => "superseded",
            Self::Stopping => "stopping",
        }
    }
}

/// Cancels one task. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct CancelHandle {
    token: CancellationToken,
    reason: Arc<OnceLock<CancelReason>>,
}

impl CancelHandle {
    /// Cancels the task. The first reason counts.
    pub(crate) fn cancel(&self, reason: CancelReason) {
        let _ = self.reason.set(reason);
        self.token.cancel();
    }

    /// Resolves when the task is cancelled.
    pub(crate) async fn cancelled(&self) -> CancelReason {
        self.token.cancelled().await;
        // A cancellation without a reason is that of all tasks.
        *self.reason.get().unwrap_or(&CancelReason::Stopping)
    }
}

/// Every task that runs here.
#[derive(Debug)]
pub(crate) struct RunningTasks {
    stop: CancellationToken,
    tasks: Mutex<HashMap<TaskId, CancelHandle>>,
}

/// Keeps a task registered.
pub(crate) struct Registration {
    list: Arc<RunningTasks>,
    task: TaskId,
    pub(crate) cancel: CancelHandle,
}

impl RunningTasks {
    /// An empty list; `stop` cancels every task on it.
    pub(crate) fn new(stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self { stop, tasks: Mutex::default() })
    }

    /// Registers `task`. An earlier run of it is cancelled: after a crash of the caller, or when another planner took
    /// over, only the newest run may continue.
    pub(crate) fn register(self: &Arc<Self>, task: TaskId) -> Registration {
        let cancel = CancelHandle { token: self.stop.child_token(), reason: Arc::default() };
        if let Some(earlier) = self.lock().insert(task, cancel.clone()) {
            earlier.cancel(CancelReason::Superseded);
        }
        Registration { list: Arc::clone(self), task, cancel }
    }

    /// Cancels `task`; false when it does not run here.
    pub(crate) fn cancel(&self, task: TaskId) -> bool {
        let cancel = self.lock().get(&task).cloned();
        cancel.is_some_and(|cancel| {
            cancel.cancel(CancelReason::Requested);
            true
        })
    }

    /// Number of running tasks.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TaskId, CancelHandle>> {
        self.tasks.lock()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut tasks = self.list.lock();
        // A newer run of the same task stays registered.
        if tasks.get(&self.task).is_some_and(|cancel| Arc::ptr_eq(&cancel.reason, &self.cancel.reason)) {
            tasks.remove(&self.task);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn newest_run_of_a_task_stays_registered() {
        let running = RunningTasks::new(CancellationToken::new());
        let task = TaskId::generate();
        let older = running.register(task);
        let newer = running.register(task);
        assert_eq!(older.cancel.cancelled().now_or_never(), Some(CancelReason::Superseded));
        drop(older);
        assert!(running.cancel(task));
        assert_eq!(newer.cancel.cancelled().now_or_never(), Some(CancelReason::Requested));
        drop(newer);
        assert!(!running.cancel(task));
    }

    #[test]
    fn stop_cancels_every_task() {
        let stop = CancellationToken::new();
        let running = RunningTasks::new(stop.clone());
        let registration = running.register(TaskId::generate());
        assert_eq!(registration.cancel.cancelled().now_or_never(), None);
        stop.cancel();
        assert_eq!(registration.cancel.cancelled().now_or_never(), Some(CancelReason::Stopping));
    }
}
