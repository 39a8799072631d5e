//! The life of a worker, from its start to its end: one task per worker, which sleeps most of the time.

use std::{
    io,
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

use super::{Employed, Pool, Worker, crashes, offspring::Offspring};
use crate::{
    agents::{conversation::Conversation, stderr::Stderr},
    failure::{AttemptFailure, seconds},
    process::{AgentProcess, Group},
};

/// Dismisses a worker without SIGTERM.
pub(super) struct AtOnce;

/// How often is looked whether a worker has begun to read, at first and later on.
const LOOKS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// Watches one worker.
pub(super) struct Watcher {
    pool: Arc<Pool>,
    pid: u32,
    group: Group,
    stderr: Stderr,
    stderr_open: bool,
    exit: watch::Sender<Option<ExitStatus>>,
    has_answered: Arc<AtomicBool>,
    dismissed: oneshot::Receiver<AtOnce>,
}

/// How a start went.
enum Started {
    /// It has begun to read its input.
    Ready,
    /// It ended instead.
    Exited(Option<ExitStatus>),
    /// It took too long.
    TooSlow,
    /// The executor ends.
    Stopping,
}

impl Pool {
    /// Starts a worker, not before the crashes of earlier ones allow it, and watches it until its end. It takes requests
    /// from the moment on that it reads: before that, none is handed to it that it may never see.
    pub(super) async fn start(self: Arc<Self>) {
        tokio::select! {
            () = self.crashes.pause() => {}
            () = self.cleanup.hurry() => return,
        }
        let process = match self.program.spawn(None) {
            Ok(process) => process,
            Err(error) => return self.started(Err(AttemptFailure::not_started(&error))),
        };
        let one_less = |vacant: usize| vacant.checked_sub(1);
        if self.vacancies.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
            self.restarts.increment(1);
        }
        let (watcher, worker) = Watcher::of(&self, process);
        watcher.run(worker).await;
    }
}

impl Watcher {
    fn of(pool: &Arc<Pool>, process: AgentProcess) -> (Self, Worker) {
        let AgentProcess { pid, stdin, stdout, stderr, group, work } = process;
        let (exit_sender, exit) = watch::channel(None);
        let (dismissal, dismissed) = oneshot::channel();
        let has_answered = Arc::new(AtomicBool::new(false));
        let stderr = Stderr::new(stderr);
        let worker = Worker {
            pid,
            conversation: Conversation::with_worker(stdin, stdout, stderr.clone()),
            offspring: Offspring::of(Pid::from_raw(pid.cast_signed()), work, pool.program.origin().clone()),
            exit,
            has_answered: Arc::clone(&has_answered),
            dismissal,
            _employed: Employed(Arc::clone(&pool.vacancies)),
        };
        let pool = Arc::clone(pool);
        let watcher =
            Self { pool, pid, group, stderr, stderr_open: true, exit: exit_sender, has_answered, dismissed };
        (watcher, worker)
    }

    async fn run(mut self, mut worker: Worker) {
        let begun = Instant::now();
        worker.conversation.open();
        match self.await_start(&worker, begun + self.pool.start_limit).await {
            Started::Ready => {
                worker.offspring.ready();
                self.pool.started(Ok(worker));
                self.watch(begun).await;
            }
            Started::Exited(status) => {
                self.pool.crashes.another(false);
                let failure = match status {
                    Some(status) if !status.success() => AttemptFailure::exited(status),
                    _ => AttemptFailure::new(FailureClass::Io, "exited before it had read a request"),
                };
                self.pool.started(Err(failure.with_stderr(self.stderr.text(&self.pool.redactor))));
            }
            Started::TooSlow => {
                self.pool.crashes.another(false);
                let limit = seconds(self.pool.start_limit);
                let failure = AttemptFailure::new(FailureClass::Io, format!("did not start within {limit}"));
                self.pool.started(Err(failure.with_stderr(self.stderr.text(&self.pool.redactor))));
                self.group.kill();
            }
            Started::Stopping => {}
        }
    }

    async fn await_start(&mut self, worker: &Worker, limit: Instant) -> Started {
        let (mut pause, slowest) = LOOKS;
        let mut look_at = Instant::now() + pause;
        loop {
            tokio::select! {
                biased;
                status = self.group.wait() => return Started::Exited(status.ok()),
                () = self.pool.cleanup.hurry() => return Started::Stopping,
                () = sleep_until(look_at) => {
                    if worker.conversation.is_open() {
                        return Started::Ready;
                    }
                    if look_at >= limit {
                        return Started::TooSlow;
                    }
                    pause = (pause + pause / 8).min(slowest);
                    look_at = (Instant::now() + pause).min(limit);
                }
                more = self.stderr.read(), if self.stderr_open => self.stderr_open = more,
            }
        }
    }

    async fn watch(mut self, begun: Instant) {
        let mut proof = std::pin::pin!(sleep_until(begun + crashes::PROOF_OF_STABILITY));
        let mut proven = false;
        let ended = loop {
            tokio::select! {
                biased;
                status = self.group.wait() => break status.ok(),
                order = &mut self.dismissed => {
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
                more = self.stderr.read(), if self.stderr_open => self.stderr_open = more,
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
pub(super) async fn ended(exit: &mut watch::Receiver<Option<ExitStatus>>) -> io::Result<ExitStatus> {
    let status = exit.wait_for(Option::is_some).await.ok().and_then(|status| *status);
    status.ok_or_else(|| io::Error::other("nobody watches it any more"))
}
