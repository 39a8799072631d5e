//! Mode `workers`: processes that stay alive and serve one request after the other: one line in, chunks and one
//! answer out.
//!
//! A task with a run permit takes the worker that became idle last, or starts one: there are never more workers than
//! permits. A request costs a write and a read; nothing else runs on its behalf. Each worker has a [`watcher`], a task that
//! starts it and then sleeps until the worker exits, is retired or writes to standard error.
//!
//! A worker takes requests once it has begun to read: it receives the first byte that every request has, and is ready when
//! that byte has left the pipe. A request whose deadline passes earlier fails, and the worker continues to start.
//!
//! A worker is reused only after a response that leaves no doubt about the meaning of its next line. In every other case
//! (deadline, broken output, a caller that left) it is retired: that costs one start and affects no other request. A
//! request of which a worker has read no byte before it exits moves to another worker.

mod descendants;
mod pool;
mod watcher;
mod worker;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::BoxFuture;
use phoenix_domain::action::ActionResult;

use self::{
    pool::Pool,
    worker::{KillNow, wait_for_exit},
};
use super::{
    attempt::{AgentRunner, Attempt},
    crash_backoff::CrashBackoff,
    exchange::{CompleteOn, ExchangeEnd},
};
use crate::{
    cleanup::Cleanup,
    failure::AttemptFailure,
    metrics::{AgentMetrics, GaugeGuard},
    process::Program,
    redact::Redactor,
};

/// Runs one agent in this mode.
pub(crate) struct Workers {
    pool: Arc<Pool>,
}

impl Workers {
    /// Workers of `program` that have `start_timeout` to begin to read.
    pub(crate) fn new(
        program: Program,
        start_timeout: Duration,
        redactor: Arc<Redactor>,
        crashes: CrashBackoff,
        metrics: &AgentMetrics,
        cleanup: Cleanup,
    ) -> Self {
        Self { pool: Arc::new(Pool::new(program, start_timeout, redactor, crashes, metrics, cleanup)) }
    }

    async fn run_attempt(&self, attempt: &mut Attempt<'_>) -> Result<ActionResult, AttemptFailure> {
        loop {
            let mut worker = self.pool.acquire(attempt, watcher::start_worker).await?;
            let _busy = GaugeGuard::increment(&self.pool.busy);
            attempt.report_start(Some(worker.pid));
            worker.descendants.begin_request();
            let request = attempt.request_line();
            let exit = wait_for_exit(&mut worker.exit);
            let end = worker.exchange.run(&request, CompleteOn::Line, attempt, exit).await;
            let was_used = worker.has_answered.load(Ordering::Relaxed);
            if was_used && !matches!(end, ExchangeEnd::TimedOut) && worker.exchange.request_is_unread() {
                // The worker was exiting, or wrote more about the previous request. It never saw this one.
                continue;
            }
            let result = worker.exchange.interpret(&end, attempt, &self.pool.redactor);
            let has_answered = match &result {
                Ok(_) => true,
                Err(failure) => failure.response_code.is_some(),
            };
            worker.descendants.end_request();
            match end {
                ExchangeEnd::Answered if has_answered => self.pool.release(worker),
                // Nothing it writes from here on can be attributed to a request.
                _ => drop(worker.retire.send(KillNow)),
            }
            return result;
        }
    }
}

impl AgentRunner for Workers {
    fn run<'a>(
        &'a self,
        attempt: &'a mut Attempt<'_>,
    ) -> BoxFuture<'a, Result<ActionResult, AttemptFailure>> {
        Box::pin(self.run_attempt(attempt))
    }
}
