//! The workers of one agent, and the attempts that wait for one.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use metrics::{Counter, Gauge};
use parking_lot::{Mutex, MutexGuard};
use phoenix_domain::FailureClass;
use tokio::{sync::oneshot, time::timeout_at};

use super::worker::Worker;
use crate::{
    agents::{attempt::Attempt, crash_backoff::CrashBackoff},
    cleanup::Cleanup,
    failure::AttemptFailure,
    metrics::AgentMetrics,
    process::Program,
    redact::Redactor,
};

/// The workers of one agent.
pub(super) struct Pool {
    pub(super) program: Program,
    /// Time that a worker may take until it reads.
    pub(super) start_timeout: Duration,
    pub(super) redactor: Arc<Redactor>,
    pub(super) crashes: CrashBackoff,
    /// Workers that have ended and were not replaced yet.
    pub(super) replacements_due: Arc<AtomicUsize>,
    pub(super) busy: Gauge,
    pub(super) restarts: Counter,
    pub(super) cleanup: Cleanup,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: Vec<Worker>,
    waiting: VecDeque<oneshot::Sender<Result<Worker, AttemptFailure>>>,
    /// Workers that are being started.
    starting: usize,
}

impl State {
    /// Takes the worker that was used last, which is most likely still in the processor's caches. Retires workers that
    /// exited or wrote output since their last response.
    fn pop_idle(&mut self) -> Option<Worker> {
        loop {
            let mut worker = self.idle.pop()?;
            if worker.exchange.is_quiet() {
                return Some(worker);
            }
        }
    }
}

/// An attempt in the queue for a worker. A worker that arrives after the attempt has left goes to the next in the queue.
struct Waiter {
    pool: Arc<Pool>,
    worker: oneshot::Receiver<Result<Worker, AttemptFailure>>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.worker.close();
        if let Ok(Ok(worker)) = self.worker.try_recv() {
            self.pool.hand_out(Ok(worker));
        }
    }
}

impl Pool {
    pub(super) fn new(
        program: Program,
        start_timeout: Duration,
        redactor: Arc<Redactor>,
        crashes: CrashBackoff,
        metrics: &AgentMetrics,
        cleanup: Cleanup,
    ) -> Self {
        let (busy, restarts) = (metrics.busy.clone(), metrics.restarts.clone());
        let (replacements_due, state) = (Arc::default(), Mutex::default());
        Self { program, start_timeout, redactor, crashes, replacements_due, busy, restarts, cleanup, state }
    }

    /// Returns an idle worker, or the next that is ready. Calls `start` for a worker that has to be started.
    pub(super) async fn acquire<F: Future<Output = ()> + Send + 'static>(
        self: &Arc<Self>,
        attempt: &Attempt<'_>,
        start: impl FnOnce(Arc<Self>) -> F,
    ) -> Result<Worker, AttemptFailure> {
        if let Some(worker) = self.lock().pop_idle() {
            return Ok(worker);
        }
        let mut waiter = self.enqueue(attempt, start)?;
        match timeout_at(attempt.deadline, &mut waiter.worker).await {
            Ok(Ok(worker)) => worker,
            Ok(Err(_)) => {
                let description = "was not started: the executor is shutting down";
                Err(AttemptFailure::new(FailureClass::Io, description).neutral_if(true))
            }
            Err(_) => Err(AttemptFailure::still_starting(attempt.limit)),
        }
    }

    /// Queues an attempt. There are always as many starts under way as attempts in the queue.
    fn enqueue<F: Future<Output = ()> + Send + 'static>(
        self: &Arc<Self>,
        attempt: &Attempt<'_>,
        start: impl FnOnce(Arc<Self>) -> F,
    ) -> Result<Waiter, AttemptFailure> {
        let (sender, worker) = oneshot::channel();
        let mut state = self.lock();
        // A worker may have been released since the first look.
        if let Some(idle) = state.pop_idle() {
            let _ = sender.send(Ok(idle));
            return Ok(Waiter { pool: Arc::clone(self), worker });
        }
        state.waiting.retain(|waiting| !waiting.is_closed());
        if state.starting <= state.waiting.len() {
            self.crashes.check(attempt.deadline)?;
            state.starting += 1;
            self.cleanup.spawn(start(Arc::clone(self)));
        }
        state.waiting.push_back(sender);
        Ok(Waiter { pool: Arc::clone(self), worker })
    }

    /// Whether a start that is due would have a request, or makes the pool's only worker. Otherwise the start is over: the
    /// requests that it was meant for have another worker by now, or have left.
    pub(super) fn still_needs_start(&self) -> bool {
        let mut state = self.lock();
        state.waiting.retain(|waiting| !waiting.is_closed());
        let is_needed =
            state.starting <= state.waiting.len() || (state.starting == 1 && state.idle.is_empty());
        if !is_needed {
            state.starting -= 1;
        }
        is_needed
    }

    /// Ends a start, with a worker that reads or with a failure.
    pub(super) fn finish_start(&self, outcome: Result<Worker, AttemptFailure>) {
        let mut state = self.lock();
        state.starting = state.starting.saturating_sub(1);
        drop(state);
        self.hand_out(outcome);
    }

    /// Takes back a worker that has answered.
    pub(super) fn release(&self, mut worker: Worker) {
        worker.has_answered.store(true, Ordering::Relaxed);
        if worker.exchange.is_reusable() {
            worker.exchange.reset();
            self.hand_out(Ok(worker));
        }
    }

    /// Gives a worker, or the failure of a start, to the first attempt in the queue.
    fn hand_out(&self, mut outcome: Result<Worker, AttemptFailure>) {
        let mut state = self.lock();
        while let Some(waiting) = state.waiting.pop_front() {
            match waiting.send(outcome) {
                Ok(()) => return,
                Err(returned) => outcome = returned,
            }
        }
        // The watcher publishes the exit first and removes the worker from the idle list afterwards, so either this check
        // sees the exit or the removal sees the worker.
        if let Ok(worker) = outcome
            && worker.exit.borrow().is_none()
        {
            state.idle.push(worker);
        }
    }

    /// Removes a worker that has exited from the idle list.
    pub(super) fn remove(&self, pid: u32) {
        let gone: Vec<Worker> = self.lock().idle.extract_if(.., |worker| worker.pid == pid).collect();
        // Dropped after the lock is released.
        drop(gone);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}
