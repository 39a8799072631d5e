//! One attempt of a task, and the trait of everything that can make one.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use phoenix_domain::{
    ActionLimits,
    action::{ActionRequest, ActionResult, Chunk, ProgressReport},
};
use tokio::time::Instant;

use crate::{
    failure::AttemptFailure,
    task::{EventQueue, TaskEvent},
};

/// One attempt: the request and its deadline.
pub(crate) struct Attempt<'a> {
    /// The request, except for the remaining time, which [`Self::request_line`] fills in.
    pub(crate) request: &'a mut ActionRequest,
    /// Time that the attempt may take.
    pub(crate) limit: Duration,
    /// Moment at which that time is over.
    pub(crate) deadline: Instant,
    /// Whether attempts of the task were made in an earlier dispatch, whose end is not known.
    pub(crate) follows_lost_dispatch: bool,
    events: &'a EventQueue,
    started_at: Timestamp,
    start_reported: AtomicBool,
}

/// Runs attempts of one agent. Dropping the future of [`Self::run`] cancels the attempt; a process that cannot be used
/// again is ended in the background.
pub(crate) trait AgentRunner: Send + Sync {
    /// Makes one attempt. Returns at the attempt's deadline at the latest.
    fn run<'a>(&'a self, attempt: &'a mut Attempt<'_>)
    -> BoxFuture<'a, Result<ActionResult, AttemptFailure>>;

    /// Limits of `action` that differ from those of the agent.
    fn limits_of(&self, _action: &str) -> ActionLimits {
        ActionLimits::default()
    }
}

impl<'a> Attempt<'a> {
    pub(crate) fn new(request: &'a mut ActionRequest, limit: Duration, events: &'a EventQueue) -> Self {
        Self {
            request,
            limit,
            deadline: Instant::now() + limit,
            follows_lost_dispatch: false,
            events,
            started_at: Timestamp::now(),
            start_reported: AtomicBool::new(false),
        }
    }

    /// The request as one line, with the time that remains now.
    pub(crate) fn request_line(&mut self) -> Vec<u8> {
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        self.request.meta.deadline_ms = u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX);
        // Serialization cannot fail: every key of the request is a string.
        let mut line = serde_json::to_vec(&self.request).unwrap_or_default();
        line.push(b'\n');
        line
    }

    /// Queues a chunk for the caller, if it wants chunks.
    pub(crate) fn push_chunk(&self, chunk: Chunk) {
        if self.request.meta.stream {
            self.events.push_chunk(self.request.meta.attempt, chunk);
        }
    }

    /// Queues a progress report for the caller, if it wants one.
    pub(crate) fn push_progress(&self, report: ProgressReport) {
        if self.request.meta.stream {
            self.events.push_progress(self.request.meta.attempt, report);
        }
    }

    /// Waits until the caller has read enough of the chunks.
    pub(crate) async fn output_capacity(&self) {
        poll_fn(|cx| self.events.poll_capacity(cx)).await;
    }

    /// Queues the event that the attempt started in process `pid`, once; `None` stands for an attempt without a process.
    pub(crate) fn report_start(&self, pid: Option<u32>) {
        if !self.start_reported.swap(true, Ordering::Relaxed) {
            self.events.push(TaskEvent::AttemptStarted {
                attempt: self.request.meta.attempt,
                started_at: self.started_at,
                worker: pid.map(|pid| format!("pid {pid}")).unwrap_or_default(),
            });
        }
    }
}
