//! The ways of running an agent, behind one trait.

mod conversation;
mod oneshot;
mod stderr;
mod workers;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use phoenix_domain::action::{ActionRequest, ActionResult};
use tokio::time::Instant;

pub(crate) use oneshot::Oneshot;
pub(crate) use workers::{Crashes, Workers};

use crate::{
    failure::AttemptFailure,
    task::{Events, TaskEvent},
};

/// One attempt: what is asked, and until when.
pub(crate) struct Call<'a> {
    /// The request, but for the time left, which [`Self::line`] fills in.
    pub(crate) request: &'a mut ActionRequest,
    /// How long it may take.
    pub(crate) limit: Duration,
    /// The moment at which it is over.
    pub(crate) deadline: Instant,
    events: &'a Events,
    started_at: Timestamp,
    told: AtomicBool,
}

/// Runs attempts of one agent. Dropping the future of [`Self::run`] cancels the attempt: its process, if it is of no
/// other use, is ended in the background.
pub(crate) trait AgentRunner: Send + Sync {
    /// Makes one attempt. Ends at the call's deadline at the latest.
    fn run<'a>(&'a self, call: &'a mut Call<'_>) -> BoxFuture<'a, Result<ActionResult, AttemptFailure>>;
}

impl<'a> Call<'a> {
    pub(crate) fn new(request: &'a mut ActionRequest, limit: Duration, events: &'a Events) -> Self {
        Self {
            request,
            limit,
            deadline: Instant::now() + limit,
            events,
            started_at: Timestamp::now(),
            told: AtomicBool::new(false),
        }
    }

    /// The request as one line, with the time that is left now.
    pub(crate) fn line(&mut self) -> Vec<u8> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        self.request.meta.deadline_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        // A map with string keys has no value that can't be written.
        let mut line = serde_json::to_vec(&self.request).unwrap_or_default();
        line.push(b'\n');
        line
    }

    /// Tells the caller, once, that the attempt began in the process `pid`; `None` when there is none to run it.
    pub(crate) fn started(&self, pid: Option<u32>) {
        if !self.told.swap(true, Ordering::Relaxed) {
            self.events.push(TaskEvent::AttemptStarted {
                attempt: self.request.meta.attempt,
                started_at: self.started_at,
                worker: pid.map(|pid| format!("pid {pid}")).unwrap_or_default(),
            });
        }
    }
}
