//! The life of a worker from its start to its exit: one task per worker, which sleeps most of the time.

use std::{
    process::ExitStatus,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::unistd::Pid;
use phoenix_domain::FailureClass;
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep_until},
};

use super::{
    descendants::Descendants,
    pool::Pool,
    worker::{KillNow, PoolSlot, Worker},
};
use crate::{
    agents::{crash_backoff::STABLE_AFTER, exchange::Exchange, stderr::Stderr},
    failure::{AttemptFailure, format_duration},
    process::{AgentProcess, ProcessGroup},
    start_slots::StartSlot,
};

/// First and longest interval of the check whether a worker has begun to read.
const POLL_INTERVALS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// Watches one worker.
struct Watcher {
    pool: Arc<Pool>,
    pid: u32,
    group: ProcessGroup,
    stderr: Stderr,
    stderr_open: bool,
    exit: watch::Sender<Option<ExitStatus>>,
    has_answered: Arc<AtomicBool>,
    retired: oneshot::Receiver<KillNow>,
}

/// Outcome of a start.
enum StartOutcome {
    /// The worker has begun to read its input.
    Ready,
    /// The worker exited instead.
    Exited(Option<ExitStatus>),
    /// The worker exceeded its start timeout.
    TooSlow,
    /// The executor is stopping.
    Stopping,
}

/// Starts a worker of `pool` as soon as the crash backoff and the start slots allow it, and watches it until its exit. The worker takes
/// requests from the moment it reads, so no request is handed to a process that may never see it.
pub(super) async fn start_worker(pool: Arc<Pool>) {
    tokio::select! {
        () = pool.crashes.wait() => {}
        () = pool.cleanup.stopping() => return,
    }
    let slot = tokio::select! {
        slot = pool.program.start_slot() => slot,
        () = pool.cleanup.stopping() => return,
    };
    if !pool.still_needs_start() {
        return;
    }
    let process = match pool.program.spawn(None) {
        Ok(process) => process,
        Err(error) => return pool.finish_start(Err(AttemptFailure::not_started(&error))),
    };
    let one_less = |due: usize| due.checked_sub(1);
    if pool.replacements_due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
        pool.restarts.increment(1);
    }
    let (watcher, worker) = Watcher::new(&pool, process);
    watcher.run(worker, slot).await;
}

impl Watcher {
    fn new(pool: &Arc<Pool>, process: AgentProcess) -> (Self, Worker) {
        let AgentProcess { pid, stdin, stdout, stderr, group, record } = process;
        let (exit_sender, exit) = watch::channel(None);
        let (retire, retired) = oneshot::channel();
        let has_answered = Arc::new(AtomicBool::new(false));
        let stderr = Stderr::new(stderr);
        let identity = pool.program.identity().clone();
        let worker = Worker {
            pid,
            exchange: Exchange::for_worker(stdin, stdout, stderr.clone()),
            descendants: Descendants::new(Pid::from_raw(pid.cast_signed()), record, identity),
            exit,
            has_answered: Arc::clone(&has_answered),
            retire,
            _slot: PoolSlot(Arc::clone(&pool.replacements_due)),
        };
        let pool = Arc::clone(pool);
        let watcher =
            Self { pool, pid, group, stderr, stderr_open: true, exit: exit_sender, has_answered, retired };
        (watcher, worker)
    }

    async fn run(mut self, mut worker: Worker, slot: StartSlot) {
        let started_at = Instant::now();
        worker.exchange.write_opening();
        let outcome = self.wait_for_start(&worker, started_at + self.pool.start_timeout).await;
        drop(slot);
        match outcome {
            StartOutcome::Ready => {
                worker.descendants.mark_ready();
                self.pool.finish_start(Ok(worker));
                self.watch(started_at).await;
            }
            StartOutcome::Exited(status) => {
                self.pool.crashes.record_crash(false);
                let failure = match status {
                    Some(status) if !status.success() => AttemptFailure::exited(status),
                    _ => AttemptFailure::new(FailureClass::Io, "exited before it had read a request"),
                };
                self.fail_start(failure);
            }
            StartOutcome::TooSlow => {
                self.pool.crashes.record_crash(false);
                let limit = format_duration(self.pool.start_timeout);
                let description = format!("did not start within {limit}");
                self.fail_start(AttemptFailure::new(FailureClass::Io, description));
                self.group.kill();
            }
            StartOutcome::Stopping => {}
        }
    }

    fn fail_start(&self, failure: AttemptFailure) {
        self.pool.finish_start(Err(failure.with_stderr(self.stderr.text(&self.pool.redactor))));
    }

    async fn wait_for_start(&mut self, worker: &Worker, limit: Instant) -> StartOutcome {
        let (mut interval, longest) = POLL_INTERVALS;
        let mut next_poll = Instant::now() + interval;
        loop {
            tokio::select! {
                biased;
                status = self.group.wait() => return StartOutcome::Exited(status.ok()),
                () = self.pool.cleanup.stopping() => return StartOutcome::Stopping,
                () = sleep_until(next_poll) => {
                    if worker.exchange.opening_is_read() {
                        return StartOutcome::Ready;
                    }
                    if next_poll >= limit {
                        return StartOutcome::TooSlow;
                    }
                    interval = (interval + interval / 8).min(longest);
                    next_poll = (Instant::now() + interval).min(limit);
                }
                more = self.stderr.read(), if self.stderr_open => self.stderr_open = more,
            }
        }
    }

    async fn watch(mut self, started_at: Instant) {
        let mut stable_at = std::pin::pin!(sleep_until(started_at + STABLE_AFTER));
        let mut is_stable = false;
        let status = loop {
            tokio::select! {
                biased;
                status = self.group.wait() => break status.ok(),
                order = &mut self.retired => {
                    if order.is_ok() {
                        self.group.kill();
                    }
                    return;
                }
                () = self.pool.cleanup.stopping() => {
                    self.pool.remove(self.pid);
                    return;
                }
                () = &mut stable_at, if !is_stable => {
                    is_stable = true;
                    self.pool.crashes.reset();
                }
                more = self.stderr.read(), if self.stderr_open => self.stderr_open = more,
            }
        };
        self.exit.send_replace(status);
        self.pool.remove(self.pid);
        // Some programs exit after a number of requests on purpose.
        let exited_in_order =
            status.is_some_and(|status| status.success()) && self.has_answered.load(Ordering::Relaxed);
        if !exited_in_order {
            self.pool.crashes.record_crash(is_stable);
        }
    }
}
