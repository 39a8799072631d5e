//! Processes that a worker starts. Those started for a request end with the request; those started before the first
//! request stay.

use std::sync::Arc;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    process::ExecutorIdentity,
    processes::{self, ChildProbe, ForkCount, ForkCounter, ProcessId},
    registry::ProcessRecord,
};

/// Scans for processes that were started meanwhile. A stopped process starts none, so the scans converge.
const MAX_SCANS: u32 = 16;

/// The processes that a worker has started.
pub(super) struct Descendants {
    worker: Pid,
    record: Arc<ProcessRecord>,
    identity: ExecutorIdentity,
    children: ChildProbe,
    forks: ForkCounter,
    /// State of the counter at the last scan.
    last_forks: Option<ForkCount>,
    /// Processes that belong to no request.
    retained: Vec<ProcessId>,
}

impl Descendants {
    /// Descendants of a worker that has just started.
    pub(super) fn new(worker: Pid, record: Arc<ProcessRecord>, identity: ExecutorIdentity) -> Self {
        let (children, forks) = (ChildProbe::new(worker), ForkCounter::new());
        Self { worker, record, identity, children, forks, last_forks: None, retained: Vec::new() }
    }

    /// Marks the worker as ready: the processes it has started so far belong to no request.
    pub(super) fn mark_ready(&mut self) {
        let number = self.record.number();
        let belongs_here = |pid: &Pid| {
            let marker = processes::marker_of(*pid);
            marker.and_then(|marker| self.identity.marker.number_in(&marker)) == Some(number)
        };
        let adopted = processes::children(Pid::this()).into_iter();
        let orphans = adopted.filter(|&pid| pid != self.worker).filter(belongs_here);
        self.record.mark_ready(orphans.filter_map(|pid| Some(processes::status(pid)?.id)).collect());
    }

    /// Prepares for a request that is about to be written.
    pub(super) fn begin_request(&mut self) {
        if self.may_have_changed() {
            self.retained = self.current();
        }
        self.record.advance();
    }

    /// Ends the processes that were started since the request began.
    pub(super) fn end_request(&mut self) {
        self.record.advance();
        if !self.may_have_changed() {
            return;
        }
        let mut new = Vec::new();
        for _ in 0..MAX_SCANS {
            let found = self.current().into_iter();
            let found = found.filter(|id| !self.retained.contains(id) && !new.contains(id));
            let found: Vec<_> = found.collect();
            if found.is_empty() {
                break;
            }
            for id in &found {
                let _ = kill(id.pid, Signal::SIGSTOP);
            }
            new.extend(found);
        }
        for id in new {
            let _ = kill(id.pid, Signal::SIGKILL);
        }
        // The reaper ends the processes that are no longer below the worker.
        self.identity.registry.record_attempt_end();
    }

    /// Whether any process was started on this system since the last call.
    fn may_have_changed(&mut self) -> bool {
        let now = self.forks.now();
        let is_unchanged = now.is_some() && now == self.last_forks;
        self.last_forks = now;
        !is_unchanged
    }

    fn current(&self) -> Vec<ProcessId> {
        if !self.children.may_have_children() {
            return Vec::new();
        }
        let below = processes::descendants(self.worker).into_iter();
        below.filter_map(|pid| Some(processes::status(pid).filter(|s| !s.is_zombie)?.id)).collect()
    }
}
