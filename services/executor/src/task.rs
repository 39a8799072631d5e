//! A task and the stream of its events.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, future::BoxFuture};
use jiff::Timestamp;
use parking_lot::Mutex;
use phoenix_domain::{AgentName, OrchestratorError, PlanId, TaskId, action::ActionResult};
use phoenix_platform::RequestContext;
use phoenix_proto::HealthSnapshot;

use crate::{
    cleanup::Cleanup,
    failure::AttemptFailure,
    running::{CancelHandle, CancelReason},
};

/// A task to run.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) caller: RequestContext,
    pub(crate) plan_id: PlanId,
    pub(crate) task_id: TaskId,
    pub(crate) agent: AgentName,
    pub(crate) action: String,
    pub(crate) context: String,
    pub(crate) payload: phoenix_domain::json::Object,
    pub(crate) idempotency_key: String,
    /// Number of the first attempt: 1, or more for a resumed task.
    pub(crate) first_attempt: u32,
    /// Number of attempts made before; less than `first_attempt`.
    pub(crate) earlier_attempts: u32,
    /// Lease of the probe that the task is; empty when it is none.
    pub(crate) probe_lease: String,
}

/// An event of a task.
#[derive(Debug)]
pub(crate) enum TaskEvent {
    /// An attempt started.
    AttemptStarted { attempt: u32, started_at: Timestamp, worker: String },
    /// An attempt failed; another follows after `retry_in`.
    AttemptFailed { attempt: u32, ended_at: Timestamp, failure: AttemptFailure, retry_in: Option<Duration> },
    /// The task ended.
    Finished {
        attempts: u32,
        ended_at: Timestamp,
        result: Result<ActionResult, OrchestratorError>,
        health: Option<HealthSnapshot>,
    },
    /// The executor stops before the task ends. The task may be sent again.
    Interrupted(OrchestratorError),
}

/// Events between the run of a task and its stream, which are polled together.
#[derive(Debug, Clone, Default)]
pub(crate) struct EventQueue(Arc<Mutex<VecDeque<TaskEvent>>>);

impl EventQueue {
    pub(crate) fn push(&self, event: TaskEvent) {
        self.0.lock().push_back(event);
    }

    fn pop(&self) -> Option<TaskEvent> {
        self.0.lock().pop_front()
    }
}

/// The events of one task. Polling the stream runs the task: there is no task switch between an agent's response and the
/// wire. Dropping it before its end cancels the run, which then ends in the background.
pub(crate) struct TaskStream {
    run: Option<BoxFuture<'static, ()>>,
    events: EventQueue,
    cancel: CancelHandle,
    cleanup: Cleanup,
}

impl TaskStream {
    pub(crate) fn new(
        run: impl Future<Output = ()> + Send + 'static,
        events: EventQueue,
        cancel: CancelHandle,
        cleanup: Cleanup,
    ) -> Self {
        Self { run: Some(Box::pin(run)), events, cancel, cleanup }
    }
}

impl Stream for TaskStream {
    type Item = TaskEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<TaskEvent>> {
        let this = &mut *self;
        if let Some(event) = this.events.pop() {
            return Poll::Ready(Some(event));
        }
        let Some(run) = &mut this.run else { return Poll::Ready(None) };
        let ended = run.as_mut().poll(cx).is_ready();
        if ended {
            this.run = None;
        }
        match this.events.pop() {
            None if !ended => Poll::Pending,
            event => Poll::Ready(event),
        }
    }
}

impl Drop for TaskStream {
    fn drop(&mut self) {
        if let Some(run) = self.run.take() {
            self.cancel.cancel(CancelReason::CallerLeft);
            self.cleanup.spawn(run);
        }
    }
}
