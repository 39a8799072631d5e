//! Mode `workers`: processes that are kept alive. One line in, one line out, and again.
//!
//! A task that has a place takes the worker that was idle last, or starts one: there are never more workers than places.
//! A request costs a write and a read; nothing else runs on its behalf. Each worker has a watcher, a task that sleeps
//! until the worker ends or is dismissed, so that a worker that dies while idle is gone from the pool at once.
//!
//! A worker is used again only after an answer that leaves no doubt about what its next line will mean. In any other
//! case (deadline, broken output, a caller that left) it is dismissed: it costs one start, and no other request.

mod crashes;

use std::{
    io,
    process::ExitStatus,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use futures_util::future::BoxFuture;
use metrics::{Counter, Gauge};
use phoenix_domain::action::ActionResult;
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use super::{
    AgentRunner, Call,
    conversation::{Conversation, End, Until},
};
use crate::{
    cleanup::Cleanup,
    failure::AttemptFailure,
    metrics::{AgentMeters, Held},
    process::{AgentProcess, Group, Program},
    redact::Redactor,
};
pub(crate) use crashes::Crashes;

/// Runs one agent in this mode.
pub(crate) struct Workers {
    pool: Arc<Pool>,
    redactor: Arc<Redactor>,
}

struct Pool {
    program: Program,
    idle: Mutex<Vec<Worker>>,
    crashes: Crashes,
    /// Workers that have ended and were not replaced yet.
    vacancies: Arc<AtomicUsize>,
    busy: Gauge,
    restarts: Counter,
    cleanup: Cleanup,
}

/// A process that can be asked. Dropping it dismisses it: SIGTERM, and SIGKILL a little later.
struct Worker {
    pid: u32,
    conversation: Conversation,
    exit: watch::Receiver<Option<ExitStatus>>,
    /// Whether it ever answered; known to its watcher.
    has_answered: Arc<AtomicBool>,
    dismissal: oneshot::Sender<AtOnce>,
    _employed: Employed,
}

/// Dismisses a worker without SIGTERM.
struct AtOnce;

/// A place in the pool that a worker fills; vacant when this is dropped, whatever became of the worker.
struct Employed(Arc<AtomicUsize>);

impl Drop for Employed {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Workers {
    pub(crate) fn new(
        program: Program,
        redactor: Arc<Redactor>,
        crashes: Crashes,
        meters: &AgentMeters,
        cleanup: Cleanup,
    ) -> Self {
        let (busy, restarts) = (meters.busy.clone(), meters.restarts.clone());
        let (idle, vacancies) = (Mutex::default(), Arc::default());
        let pool = Pool { program, idle, crashes, vacancies, busy, restarts, cleanup };
        Self { pool: Arc::new(pool), redactor }
    }

    async fn attempt(&self, call: &mut Call<'_>) -> Result<ActionResult, AttemptFailure> {
        let mut worker = match self.pool.take_idle() {
            Some(worker) => worker,
            None => Pool::start(&self.pool, call.deadline).await?,
        };
        let _busy = Held::of(&self.pool.busy);
        call.started(Some(worker.pid));
        let request = call.line();
        let exit = ended(&mut worker.exit);
        let end = worker.conversation.hold(&request, Until::Line, call.deadline, exit).await;
        let verdict = worker.conversation.judge(&end, call, &self.redactor);
        let has_answered = match &verdict {
            Ok(_) => true,
            Err(failure) => failure.response_code.is_some(),
        };
        match end {
            End::Answered if has_answered => self.pool.give_back(worker),
            // It has nothing more to say that anyone could understand.
            _ => drop(worker.dismissal.send(AtOnce)),
        }
        verdict
    }
}

impl AgentRunner for Workers {
    fn run<'a>(&'a self, call: &'a mut Call<'_>) -> BoxFuture<'a, Result<ActionResult, AttemptFailure>> {
        Box::pin(self.attempt(call))
    }
}

impl Pool {
    /// The worker that was used last, which is most likely still in the processor's caches.
    fn take_idle(&self) -> Option<Worker> {
        loop {
            let mut worker = self.lock().pop()?;
            if worker.conversation.renew() {
                return Some(worker);
            }
        }
    }

    fn give_back(&self, worker: Worker) {
        worker.has_answered.store(true, Ordering::Relaxed);
        if worker.conversation.can_go_on() {
            let mut idle = self.lock();
            // Its watcher writes first and looks for it here afterwards; one of both sees the other.
            if worker.exit.borrow().is_none() {
                idle.push(worker);
            }
        }
    }

    /// Starts a worker, not before the crashes of earlier ones allow it.
    async fn start(pool: &Arc<Self>, deadline: Instant) -> Result<Worker, AttemptFailure> {
        pool.crashes.pause(deadline).await?;
        let process = pool.program.spawn(None).map_err(|error| AttemptFailure::not_started(&error))?;
        let AgentProcess { pid, stdin, stdout, stderr, group } = process;
        let one_less = |vacant: usize| vacant.checked_sub(1);
        if pool.vacancies.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
            pool.restarts.increment(1);
        }
        let (exit_sender, exit) = watch::channel(None);
        let (dismissal, dismissed) = oneshot::channel();
        let has_answered = Arc::new(AtomicBool::new(false));
        let watcher = Watcher {
            pool: Arc::clone(pool),
            pid,
            group,
            exit: exit_sender,
            has_answered: Arc::clone(&has_answered),
        };
        pool.cleanup.spawn(watcher.watch(dismissed));
        Ok(Worker {
            pid,
            conversation: Conversation::new(stdin, stdout, stderr),
            exit,
            has_answered,
            dismissal,
            _employed: Employed(Arc::clone(&pool.vacancies)),
        })
    }

    fn forget(&self, pid: u32) {
        let gone: Vec<Worker> = self.lock().extract_if(.., |worker| worker.pid == pid).collect();
        drop(gone);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Worker>> {
        // Nothing panics while the list is locked.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for the end of a worker.
struct Watcher {
    pool: Arc<Pool>,
    pid: u32,
    group: Group,
    exit: watch::Sender<Option<ExitStatus>>,
    has_answered: Arc<AtomicBool>,
}

impl Watcher {
    async fn watch(mut self, mut dismissed: oneshot::Receiver<AtOnce>) {
        let mut proof = std::pin::pin!(tokio::time::sleep(crashes::PROOF_OF_STABILITY));
        let mut proven = false;
        let ended = loop {
            tokio::select! {
                biased;
                status = self.group.wait() => break status.ok(),
                order = &mut dismissed => {
                    if order.is_ok() {
                        self.group.kill();
                    }
                    return;
                }
                () = self.pool.cleanup.hurry() => {
                    self.pool.forget(self.pid);
                    return;
                }
                () = &mut proof, if !proven => {
                    proven = true;
                    self.pool.crashes.none_for_long();
                }
            }
        };
        self.exit.send_replace(ended);
        self.pool.forget(self.pid);
        // Some programs leave after a number of requests, to be started afresh.
        let left_in_order =
            ended.is_some_and(|status| status.success()) && self.has_answered.load(Ordering::Relaxed);
        if !left_in_order {
            self.pool.crashes.another(proven);
        }
    }
}

/// Waits until the watcher says that the worker has ended.
async fn ended(exit: &mut watch::Receiver<Option<ExitStatus>>) -> io::Result<ExitStatus> {
    let status = exit.wait_for(Option::is_some).await.ok().and_then(|status| *status);
    status.ok_or_else(|| io::Error::other("nobody watches it any more"))
}
