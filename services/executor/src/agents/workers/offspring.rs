//! What a worker starts for a request is ended with the request; what it had before stays.

use std::sync::Arc;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    process::Origin,
    processes::{self, ChildWatch, ProcessId, StartCounter, Starts},
    registry::Work,
};

/// So often is looked for processes that were started meanwhile. What is stopped starts none.
const MAX_LOOKS: u32 = 16;

/// The processes that a worker has started.
pub(super) struct Offspring {
    worker: Pid,
    work: Arc<Work>,
    origin: Origin,
    watch: ChildWatch,
    counter: StartCounter,
    /// The state of the counter at the last look.
    looked_at: Option<Starts>,
    /// Processes that belong to no request.
    own: Vec<ProcessId>,
}

impl Offspring {
    /// Those of a worker that has just started.
    pub(super) fn of(worker: Pid, work: Arc<Work>, origin: Origin) -> Self {
        let (watch, counter) = (ChildWatch::of(worker), StartCounter::new());
        Self { worker, work, origin, watch, counter, looked_at: None, own: Vec::new() }
    }

    /// The worker is ready: what it has started is its own.
    pub(super) fn ready(&mut self) {
        let number = self.work.number();
        let is_own = |pid: &Pid| {
            let marker = processes::marker_of(*pid);
            marker.and_then(|marker| self.origin.marker.number_in(&marker)) == Some(number)
        };
        let adopted = processes::children(Pid::this()).into_iter();
        let orphans = adopted.filter(|&pid| pid != self.worker).filter(is_own);
        self.work.ready_with(orphans.filter_map(|pid| Some(processes::status(pid)?.id)).collect());
    }

    /// A request is about to be handed over.
    pub(super) fn begin_request(&mut self) {
        if self.may_have_grown() {
            self.own = self.present();
        }
        self.work.next_step();
    }

    /// The request has ended. Ends what was started since it began.
    pub(super) fn end_request(&mut self) {
        self.work.next_step();
        if !self.may_have_grown() {
            return;
        }
        let mut new = Vec::new();
        for _ in 0..MAX_LOOKS {
            let found = self.present().into_iter().filter(|id| !self.own.contains(id) && !new.contains(id));
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
        // What has left the worker is the reaper's.
        self.origin.registry.attempt_ended();
    }

    /// Whether any process was started on this system since this was asked last.
    fn may_have_grown(&mut self) -> bool {
        let now = self.counter.now();
        let is_known = now.is_some() && now == self.looked_at;
        self.looked_at = now;
        !is_known
    }

    fn present(&self) -> Vec<ProcessId> {
        if !self.watch.may_have_children() {
            return Vec::new();
        }
        let below = processes::descendants(self.worker).into_iter();
        below.filter_map(|pid| Some(processes::status(pid).filter(|s| !s.is_zombie)?.id)).collect()
    }
}
