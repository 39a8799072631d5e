//! A task as it comes in, and the stream of what happens to it.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, future::BoxFuture};
use jiff::Timestamp;
use phoenix_domain::{AgentName, OrchestratorError, PlanId, TaskId, action::ActionResult};
use phoenix_platform::RequestContext;
use phoenix_proto::HealthSnapshot;

use crate::{
    cleanup::Cleanup,
    failure::AttemptFailure,
    running::{Cancel, CancelReason},
};

/// What is to be done.
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
    /// 1, or more when the task is resumed.
    pub(crate) first_attempt: u32,
    /// Attempts that were made before; fewer than `first_attempt`.
    pub(crate) earlier_attempts: u32,
    /// The lease under which an unhealthy agent is tried; empty when it is not.
    pub(crate) probe_lease: String,
}

/// What happens to it.
#[derive(Debug)]
pub(crate) enum TaskEvent {
    /// An attempt began.
    AttemptStarted { attempt: u32, started_at: Timestamp, worker: String },
    /// An attempt failed; another follows after `retry_in`.
    AttemptFailed { attempt: u32, ended_at: Timestamp, failure: AttemptFailure, retry_in: Option<Duration> },
    /// The end.
    Finished {
        attempts: u32,
        ended_at: Timestamp,
        result: Result<ActionResult, OrchestratorError>,
        health: Option<HealthSnapshot>,
    },
    /// The executor ends before the task does. It says nothing about the task, which may be sent again.
    Interrupted(OrchestratorError),
}

/// Events on their way from the run of a task to its stream, which are polled together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Events(Arc<Mutex<VecDeque<TaskEvent>>>);

impl Events {
    pub(crate) fn push(&self, event: TaskEvent) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(event);
    }

    fn pop(&self) -> Option<TaskEvent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// The events of one task. The stream is what drives the run: there is no task switch between an agent's answer and the
/// wire. Dropping it before its end cancels the run, which then ends in the background.
pub(crate) struct TaskStream {
    run: Option<BoxFuture<'static, ()>>,
    events: Events,
    cancel: Cancel,
    cleanup: Cleanup,
}

impl TaskStream {
    pub(crate) fn new(
        run: impl Future<Output = ()> + Send + 'static,
        events: Events,
        cancel: Cancel,
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
