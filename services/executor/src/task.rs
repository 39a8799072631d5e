//! A task and the stream of its events.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::{Stream, future::BoxFuture};
use jiff::Timestamp;
use parking_lot::Mutex;
use phoenix_domain::{
    AgentName, OrchestratorError, PlanId, TaskId,
    action::{ActionResult, Chunk, ProgressReport},
    limits::MAX_OUTPUT_LINE_BYTES,
};
use phoenix_platform::RequestContext;
use phoenix_proto::HealthSnapshot;

use crate::{
    cleanup::Cleanup,
    failure::AttemptFailure,
    running::{CancelHandle, CancelReason},
};

/// Bytes of queued chunks beyond which the agent is not read.
const OUTPUT_CAPACITY: usize = 64 * 1024;

/// Approximate overhead of a queued chunk in bytes.
const CHUNK_OVERHEAD: usize = 64;

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
    /// Highest number of an attempt.
    pub(crate) last_attempt: u32,
    /// Lease of the probe that the task is; empty when it is none.
    pub(crate) probe_lease: String,
    /// Whether the caller wants chunks and progress reports.
    pub(crate) with_output: bool,
}

/// An event of a task.
#[derive(Debug)]
pub(crate) enum TaskEvent {
    /// An attempt started.
    AttemptStarted { attempt: u32, started_at: Timestamp, worker: String },
    /// An attempt failed; another follows after `retry_in`.
    AttemptFailed { attempt: u32, ended_at: Timestamp, failure: AttemptFailure, retry_in: Option<Duration> },
    /// A running attempt has a part of the result.
    Output { attempt: u32, chunk: Chunk },
    /// A running attempt reports its progress.
    Progress { attempt: u32, report: ProgressReport },
    /// The task ended.
    Finished {
        attempts: u32,
        ended_at: Timestamp,
        result: Result<ActionResult, OrchestratorError>,
        health: Option<Box<HealthSnapshot>>,
    },
    /// The executor stops before the task ends. The task may be sent again.
    Interrupted(OrchestratorError),
}

/// Events between the run of a task and its stream, which are polled together.
#[derive(Debug, Clone, Default)]
pub(crate) struct EventQueue(Arc<Mutex<Queued>>);

#[derive(Debug, Default)]
struct Queued {
    events: VecDeque<TaskEvent>,
    /// Bytes of the queued chunks.
    output_bytes: usize,
    /// The run, while it waits for capacity.
    blocked: Option<Waker>,
}

impl EventQueue {
    pub(crate) fn push(&self, event: TaskEvent) {
        self.0.lock().events.push_back(event);
    }

    /// Queues a chunk. Chunks of text that wait for the stream are joined, so that a slow caller gets fewer messages.
    pub(crate) fn push_chunk(&self, attempt: u32, chunk: Chunk) {
        let queue = &mut *self.0.lock();
        if let Some(TaskEvent::Output { attempt: last, chunk: Chunk { data, delta: None } }) =
            queue.events.back_mut()
            && *last == attempt
            && chunk.delta.is_none()
            && data.len() + chunk.data.len() <= MAX_OUTPUT_LINE_BYTES
        {
            data.push_str(&chunk.data);
            queue.output_bytes += chunk.data.len();
            return;
        }
        queue.output_bytes += cost(&chunk);
        queue.events.push_back(TaskEvent::Output { attempt, chunk });
    }

    /// Queues a progress report, in place of one that waits for the stream.
    pub(crate) fn push_progress(&self, attempt: u32, report: ProgressReport) {
        let queue = &mut *self.0.lock();
        if matches!(queue.events.back(), Some(TaskEvent::Progress { attempt: last, .. }) if *last == attempt)
        {
            queue.events.pop_back();
        }
        queue.events.push_back(TaskEvent::Progress { attempt, report });
    }

    /// Ready when further chunks may be queued.
    pub(crate) fn poll_capacity(&self, cx: &Context<'_>) -> Poll<()> {
        let mut queue = self.0.lock();
        if queue.output_bytes <= OUTPUT_CAPACITY {
            return Poll::Ready(());
        }
        queue.blocked = Some(cx.waker().clone());
        Poll::Pending
    }

    fn pop(&self) -> Option<TaskEvent> {
        let queue = &mut *self.0.lock();
        let event = queue.events.pop_front();
        if let Some(TaskEvent::Output { chunk, .. }) = &event {
            queue.output_bytes -= cost(chunk);
            if queue.output_bytes <= OUTPUT_CAPACITY {
                queue.blocked.take().into_iter().for_each(Waker::wake);
            }
        }
        event
    }
}

fn cost(chunk: &Chunk) -> usize {
    chunk.size() + CHUNK_OVERHEAD
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

    /// Polls the run without taking an event from the stream: a slow caller delays neither deadlines nor a cancellation.
    /// Returns whether the run has ended.
    pub(crate) fn poll_run(&mut self, cx: &mut Context<'_>) -> bool {
        if self.run.as_mut().is_some_and(|run| run.as_mut().poll(cx).is_ready()) {
            self.run = None;
        }
        self.run.is_none()
    }
}

impl Stream for TaskStream {
    type Item = TaskEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<TaskEvent>> {
        let this = &mut *self;
        if let Some(event) = this.events.pop() {
            return Poll::Ready(Some(event));
        }
        let ended = this.poll_run(cx);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn text(data: &str) -> Chunk {
        Chunk { data: data.into(), delta: None }
    }

    #[test]
    fn waiting_chunks_are_joined_and_deltas_are_not() {
        let queue = EventQueue::default();
        for chunk in [text("a"), text("b"), Chunk { delta: Some(Default::default()), ..text("c") }, text("d")]
        {
            queue.push_chunk(1, chunk);
        }
        queue.push_chunk(2, text("e"));
        let mut found = Vec::new();
        while let Some(TaskEvent::Output { attempt, chunk }) = queue.pop() {
            found.push((attempt, chunk.data));
        }
        assert_eq!(found, [(1, "ab"), (1, "c"), (1, "d"), (2, "e")].map(|(n, text)| (n, text.to_owned())));
        assert_eq!(queue.0.lock().output_bytes, 0);
    }

    #[test]
    fn full_queue_wakes_the_run_when_it_is_read() {
        let queue = EventQueue::default();
        let cx = Context::from_waker(Waker::noop());
        assert!(queue.poll_capacity(&cx).is_ready());
        for _ in 0..3 {
            queue.push_chunk(1, text(&"x".repeat(MAX_OUTPUT_LINE_BYTES)));
        }
        for _ in 0..2 {
            assert!(queue.poll_capacity(&cx).is_pending());
            queue.pop();
        }
        assert!(queue.0.lock().blocked.is_none() || queue.poll_capacity(&cx).is_pending());
        queue.pop();
        assert!(queue.poll_capacity(&cx).is_ready() && queue.0.lock().blocked.is_none());
    }

    #[test]
    fn newest_progress_report_replaces_the_waiting_one() {
        let queue = EventQueue::default();
        for done in [1.0, 2.0] {
            queue.push_progress(1, ProgressReport { progress: Some(done), ..ProgressReport::default() });
        }
        let Some(TaskEvent::Progress { report, .. }) = queue.pop() else { panic!("no report") };
        assert_eq!((report.progress, queue.pop().is_none()), (Some(2.0), true));
    }
}
