//! The workers of one agent, and who waits for one.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use metrics::{Counter, Gauge};
use phoenix_domain::FailureClass;
use tokio::{sync::oneshot, time::timeout_at};

use super::{Crashes, Worker};
use crate::{
    agents::Call, cleanup::Cleanup, failure::AttemptFailure, metrics::AgentMeters, process::Program,
    redact::Redactor,
};

/// The workers of one agent.
pub(super) struct Pool {
    pub(super) program: Program,
    /// How long a worker may take until it reads.
    pub(super) start_limit: Duration,
    pub(super) redactor: Arc<Redactor>,
    pub(super) crashes: Crashes,
    /// Workers that have ended and were not replaced yet.
    pub(super) vacancies: Arc<AtomicUsize>,
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
    /// The worker that was used last, which is most likely still in the processor's caches. One that ended or said
    /// something since its last answer is let go.
    fn take_idle(&mut self) -> Option<Worker> {
        loop {
            let mut worker = self.idle.pop()?;
            if worker.conversation.renew() {
                return Some(worker);
            }
        }
    }
}

/// A turn among those who wait for a worker. A worker that comes for one that has left goes to the next.
struct Turn {
    pool: Arc<Pool>,
    worker: oneshot::Receiver<Result<Worker, AttemptFailure>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.worker.close();
        if let Ok(Ok(worker)) = self.worker.try_recv() {
            self.pool.offer(Ok(worker));
        }
    }
}

impl Pool {
    pub(super) fn new(
        program: Program,
        start_limit: Duration,
        redactor: Arc<Redactor>,
        crashes: Crashes,
        meters: &AgentMeters,
        cleanup: Cleanup,
    ) -> Self {
        let (busy, restarts) = (meters.busy.clone(), meters.restarts.clone());
        let (vacancies, state) = (Arc::default(), Mutex::default());
        Self { program, start_limit, redactor, crashes, vacancies, busy, restarts, cleanup, state }
    }

    /// An idle worker, or the next that is ready.
    pub(super) async fn take(self: &Arc<Self>, call: &Call<'_>) -> Result<Worker, AttemptFailure> {
        if let Some(worker) = self.lock().take_idle() {
            return Ok(worker);
        }
        let mut turn = self.wait(call)?;
        match timeout_at(call.deadline, &mut turn.worker).await {
            Ok(Ok(worker)) => worker,
            Ok(Err(_)) => {
                Err(AttemptFailure::new(FailureClass::Io, "is not started any more").neutral_if(true))
            }
            Err(_) => Err(AttemptFailure::still_starting(call.limit)),
        }
    }

    /// A turn, with as many starts under way as there are turns.
    fn wait(self: &Arc<Self>, call: &Call<'_>) -> Result<Turn, AttemptFailure> {
        let (sender, worker) = oneshot::channel();
        let mut state = self.lock();
        // A worker may have come back a moment ago.
        if let Some(idle) = state.take_idle() {
            let _ = sender.send(Ok(idle));
            return Ok(Turn { pool: Arc::clone(self), worker });
        }
        state.waiting.retain(|waiting| !waiting.is_closed());
        if state.starting <= state.waiting.len() {
            self.crashes.check(call.deadline)?;
            state.starting += 1;
            self.cleanup.spawn(Arc::clone(self).start());
        }
        state.waiting.push_back(sender);
        Ok(Turn { pool: Arc::clone(self), worker })
    }

    /// A start has ended, with a worker that reads or with a failure.
    pub(super) fn started(&self, outcome: Result<Worker, AttemptFailure>) {
        let mut state = self.lock();
        state.starting = state.starting.saturating_sub(1);
        drop(state);
        self.offer(outcome);
    }

    /// Takes back a worker that has answered.
    pub(super) fn give_back(&self, mut worker: Worker) {
        worker.has_answered.store(true, Ordering::Relaxed);
        if worker.conversation.can_go_on() {
            worker.conversation.forget();
            self.offer(Ok(worker));
        }
    }

    /// Hands a worker, or the failure of a start, to the first who waits.
    fn offer(&self, mut outcome: Result<Worker, AttemptFailure>) {
        let mut state = self.lock();
        while let Some(waiting) = state.waiting.pop_front() {
            match waiting.send(outcome) {
                Ok(()) => return,
                Err(returned) => outcome = returned,
            }
        }
        // Its watcher writes first and looks for it here afterwards; one of both sees the other.
        if let Ok(worker) = outcome
            && worker.exit.borrow().is_none()
        {
            state.idle.push(worker);
        }
    }

    /// Lets go of a worker that has ended.
    pub(super) fn forget(&self, pid: u32) {
        let gone: Vec<Worker> = self.lock().idle.extract_if(.., |worker| worker.pid == pid).collect();
        // Not while the list is locked.
        drop(gone);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lists are locked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
