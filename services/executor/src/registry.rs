//! The processes that the executor started itself, by id.
//!
//! The executor's process adopts what its agents leave behind ([`crate::reaper`]). A child that is not registered here is
//! such an orphan, so a process is registered before anything can take it for one.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use nix::unistd::Pid;
use tokio::{
    process::{Child, Command},
    sync::Notify,
};

use crate::processes::ProcessId;

/// The registered processes.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    /// Held while a process is being started: it exists for a moment before its id is known.
    starting: RwLock<()>,
    numbers: AtomicU64,
    processes: Mutex<HashMap<Pid, Arc<Work>>>,
    /// Attempts that have ended.
    ends: AtomicU64,
    changed: Notify,
}

/// What a registered process works on.
#[derive(Debug)]
pub(crate) struct Work {
    number: u64,
    /// Requests that began and that ended, of a worker: odd while one is under way.
    steps: AtomicU64,
    /// Orphans of a worker that it left before its first request. They are its own for as long as it lives.
    kept: Mutex<Vec<ProcessId>>,
}

/// A registered process. Dropping it says that its work is over, and what it left behind is of no use.
#[derive(Debug)]
pub(crate) struct Registered {
    registry: Arc<Registry>,
    pid: Pid,
    work: Arc<Work>,
}

impl Registry {
    /// A number that no other process of this executor has.
    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Starts `command` as the process `number`.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(crate) fn spawn(
        self: &Arc<Self>,
        number: u64,
        command: &mut Command,
    ) -> io::Result<(Child, Registered)> {
        let _starting = self.starting.read().unwrap_or_else(PoisonError::into_inner);
        let child = command.spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::other("a process without a number"))?;
        let pid = Pid::from_raw(pid.cast_signed());
        let work = Arc::new(Work { number, steps: AtomicU64::new(1), kept: Mutex::default() });
        self.lock().insert(pid, Arc::clone(&work));
        Ok((child, Registered { registry: Arc::clone(self), pid, work }))
    }

    /// Waits until every process that is being started is registered.
    pub(crate) fn settle(&self) {
        drop(self.starting.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// The work of `pid`, if the executor started it and it is still of use.
    pub(crate) fn work_of(&self, pid: Pid) -> Option<Arc<Work>> {
        self.lock().get(&pid).cloned()
    }

    /// The work of the process `number`, if it is still of use.
    pub(crate) fn work(&self, number: u64) -> Option<Arc<Work>> {
        self.lock().values().find(|work| work.number == number).cloned()
    }

    /// An attempt has ended: what it left behind is to be looked for.
    pub(crate) fn attempt_ended(&self) {
        self.ends.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_one();
    }

    /// How many attempts have ended.
    pub(crate) fn ends(&self) -> u64 {
        self.ends.load(Ordering::Acquire)
    }

    /// Waits until orphans are to be looked for.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Pid, Arc<Work>>> {
        // Nothing panics while the map is locked.
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registered {
    pub(crate) const fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) const fn work(&self) -> &Arc<Work> {
        &self.work
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut processes = self.registry.lock();
        if processes.get(&self.pid).is_some_and(|work| Arc::ptr_eq(work, &self.work)) {
            processes.remove(&self.pid);
        }
        drop(processes);
        self.registry.attempt_ended();
    }
}

impl Work {
    /// What tells this process from every other of the executor, also in time.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// How far it is: odd while a request is under way, which for a process of one request is always.
    pub(crate) fn step(&self) -> u64 {
        self.steps.load(Ordering::Acquire)
    }

    /// A worker is ready for its first request, and has `orphans`.
    pub(crate) fn ready_with(&self, orphans: Vec<ProcessId>) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = orphans;
        self.next_step();
    }

    /// A request begins, or ends.
    pub(crate) fn next_step(&self) {
        self.steps.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether `orphan` is the worker's for as long as it lives.
    pub(crate) fn keeps(&self, orphan: ProcessId) -> bool {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).contains(&orphan)
    }
}
