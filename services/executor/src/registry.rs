//! The processes that the executor started itself, by process id.
//!
//! The executor's process adopts the orphans of its agents ([`crate::reaper`]). A child without a record here counts as
//! such an orphan, so a start and its registration are one step for everything that looks for orphans.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use nix::unistd::Pid;
use parking_lot::{Mutex, MutexGuard, RwLock, RwLockWriteGuard};
use tokio::{
    process::{Child, Command},
    sync::Notify,
};

use crate::processes::ProcessId;

/// The registered processes.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    /// Read-locked during a start, in which a process exists before its id is known.
    starting: RwLock<()>,
    numbers: AtomicU64,
    processes: Mutex<HashMap<Pid, Arc<ProcessRecord>>>,
    attempts_ended: AtomicU64,
    changed: Notify,
}

/// State of one registered process.
#[derive(Debug)]
pub(crate) struct ProcessRecord {
    number: u64,
    /// Whether the process may collect the model settings ([`crate::settings_socket`]).
    collects_settings: bool,
    /// Number of requests of a worker that began plus those that ended: odd while one is under way.
    steps: AtomicU64,
    /// Orphans that a worker left before its first request. They stay for as long as the worker lives.
    retained: Mutex<Vec<ProcessId>>,
}

/// A registered process. Dropping it ends its attempt: from then on its orphans are unused.
#[derive(Debug)]
pub(crate) struct RegisteredProcess {
    registry: Arc<Registry>,
    pid: Pid,
    record: Arc<ProcessRecord>,
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
        collects_settings: bool,
        command: &mut Command,
    ) -> io::Result<(Child, RegisteredProcess)> {
        let _starting = self.starting.read();
        let child = command.spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::other("the process has no id"))?;
        let pid = Pid::from_raw(pid.cast_signed());
        let record = Arc::new(ProcessRecord {
            number,
            collects_settings,
            steps: AtomicU64::new(1),
            retained: Mutex::default(),
        });
        self.lock().insert(pid, Arc::clone(&record));
        Ok((child, RegisteredProcess { registry: Arc::clone(self), pid, record }))
    }

    /// Waits for every start under way, and lets none begin while the guard is held.
    pub(crate) fn pause_starts(&self) -> RwLockWriteGuard<'_, ()> {
        self.starting.write()
    }

    /// The record of `pid`, if the executor started it and its attempt has not ended.
    pub(crate) fn record_of(&self, pid: Pid) -> Option<Arc<ProcessRecord>> {
        self.lock().get(&pid).cloned()
    }

    /// The record of the process `number`, if its attempt has not ended.
    pub(crate) fn record(&self, number: u64) -> Option<Arc<ProcessRecord>> {
        self.lock().values().find(|record| record.number == number).cloned()
    }

    /// Counts the end of an attempt, and wakes the reaper.
    pub(crate) fn record_attempt_end(&self) {
        self.attempts_ended.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_one();
    }

    /// Number of attempts that have ended.
    pub(crate) fn attempts_ended(&self) -> u64 {
        self.attempts_ended.load(Ordering::Acquire)
    }

    /// Waits until an attempt ends.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Pid, Arc<ProcessRecord>>> {
        self.processes.lock()
    }
}

impl RegisteredProcess {
    pub(crate) const fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) const fn record(&self) -> &Arc<ProcessRecord> {
        &self.record
    }
}

impl Drop for RegisteredProcess {
    fn drop(&mut self) {
        let mut processes = self.registry.lock();
        if processes.get(&self.pid).is_some_and(|record| Arc::ptr_eq(record, &self.record)) {
            processes.remove(&self.pid);
        }
        drop(processes);
        self.registry.record_attempt_end();
    }
}

impl ProcessRecord {
    /// Number of the process, unique for the lifetime of the executor.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    pub(crate) const fn collects_settings(&self) -> bool {
        self.collects_settings
    }

    /// Current step: odd while a request is under way. A process that serves one request is always at step 1.
    pub(crate) fn step(&self) -> u64 {
        self.steps.load(Ordering::Acquire)
    }

    /// Marks a worker as ready for its first request. `orphans` stay for as long as it lives.
    pub(crate) fn mark_ready(&self, orphans: Vec<ProcessId>) {
        *self.retained.lock() = orphans;
        self.advance();
    }

    /// Begins or ends a request.
    pub(crate) fn advance(&self) {
        self.steps.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether `orphan` stays for as long as the worker lives.
    pub(crate) fn retains(&self, orphan: ProcessId) -> bool {
        self.retained.lock().contains(&orphan)
    }
}
