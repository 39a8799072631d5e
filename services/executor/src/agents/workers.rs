//! Mode `workers`: processes that are kept alive. One line in, one line out, and again.
//!
//! A task that has a place takes the worker that was idle last, or starts one: there are never more workers than places.
//! A request costs a write and a read; nothing else runs on its behalf. Each worker has a watcher
//! ([`watcher`]), a task that starts it and then sleeps until the worker ends, is dismissed or writes to standard error.
//!
//! A worker takes requests when it has begun to read: it is given the first byte that every request has, and is ready when
//! that is gone from the pipe. A request whose time is over before that fails, and the worker goes on starting.
//!
//! A worker is used again only after an answer that leaves no doubt about what its next line will mean. In any other
//! case (deadline, broken output, a caller that left) it is dismissed: it costs one start, and no other request. A request
//! of which a worker has not read a byte before it left goes to another one.

mod crashes;
mod offspring;
mod pool;
mod watcher;

use std::{
    process::ExitStatus,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use phoenix_domain::action::ActionResult;
use tokio::sync::{oneshot, watch};

use self::{
    offspring::Offspring,
    pool::Pool,
    watcher::{AtOnce, ended},
};
use super::{
    AgentRunner, Call,
    conversation::{Conversation, End, Until},
};
use crate::{
    cleanup::Cleanup,
    failure::AttemptFailure,
    metrics::{AgentMeters, Held},
    process::Program,
    redact::Redactor,
};
pub(crate) use crashes::Crashes;

/// Runs one agent in this mode.
pub(crate) struct Workers {
    pool: Arc<Pool>,
}

/// A process that can be asked. Dropping it dismisses it: SIGTERM, and SIGKILL a little later.
struct Worker {
    pid: u32,
    conversation: Conversation,
    offspring: Offspring,
    exit: watch::Receiver<Option<ExitStatus>>,
    /// Whether it ever answered; known to its watcher.
    has_answered: Arc<AtomicBool>,
    dismissal: oneshot::Sender<AtOnce>,
    _employed: Employed,
}

/// A place in the pool that a worker fills; vacant when this is dropped, whatever became of the worker.
struct Employed(Arc<AtomicUsize>);

impl Drop for Employed {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// Workers of `program` that have `start_limit` to begin to read.
    pub(crate) fn new(
        program: Program,
        start_limit: Duration,
        redactor: Arc<Redactor>,
        crashes: Crashes,
        meters: &AgentMeters,
        cleanup: Cleanup,
    ) -> Self {
        Self { pool: Arc::new(Pool::new(program, start_limit, redactor, crashes, meters, cleanup)) }
    }

    async fn attempt(&self, call: &mut Call<'_>) -> Result<ActionResult, AttemptFailure> {
        loop {
            let mut worker = self.pool.take(call).await?;
            let _busy = Held::of(&self.pool.busy);
            call.started(Some(worker.pid));
            worker.offspring.begin_request();
            let request = call.line();
            let exit = ended(&mut worker.exit);
            let end = worker.conversation.hold(&request, Until::Line, call.deadline, exit).await;
            let is_used = worker.has_answered.load(Ordering::Relaxed);
            if is_used && !matches!(end, End::TimedOut) && worker.conversation.was_not_read() {
                // It was leaving, or had more to say about the request before: this one it never saw.
                continue;
            }
            let verdict = worker.conversation.judge(&end, call, &self.pool.redactor);
            let has_answered = match &verdict {
                Ok(_) => true,
                Err(failure) => failure.response_code.is_some(),
            };
            worker.offspring.end_request();
            match end {
                End::Answered if has_answered => self.pool.give_back(worker),
                // It has nothing more to say that anyone could understand.
                _ => drop(worker.dismissal.send(AtOnce)),
            }
            return verdict;
        }
    }
}

impl AgentRunner for Workers {
    fn run<'a>(&'a self, call: &'a mut Call<'_>) -> BoxFuture<'a, Result<ActionResult, AttemptFailure>> {
        Box::pin(self.attempt(call))
    }
}
