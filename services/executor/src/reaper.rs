//! Ends and reaps what agents leave behind.
//!
//! The executor's process is a subreaper (`PR_SET_CHILD_SUBREAPER`): a process whose parent ends becomes its child, in
//! whatever session and with whatever environment. Such an orphan belongs to the attempt or worker whose number is in its
//! environment, or in whose process group it is. When that is over, or there is none, the orphan is killed together with
//! all it started. A process that left its parent, its group and its environment belongs to no attempt that can be named. It
//! became an orphan when its parent ended, most likely with the attempt: it is killed when the next attempt ends, or did
//! since the last look. A worker keeps the orphans it had before its first request; those of a request are killed
//! when that has ended.
//!
//! Orphans are looked for whenever a child or an attempt ends, and at most every [`PAUSE`]: an attempt pays nothing for it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    orphans::Marker,
    processes::{self, ProcessId, Status},
    registry::Registry,
};

/// Between two looks. A process needs a moment to die, and a start to be registered.
const PAUSE: Duration = Duration::from_millis(50);

/// Between two looks while a worker has orphans that may be those of its present request.
const RECHECK: Duration = Duration::from_millis(200);

/// Looks in a row that must find nothing new: a list of children that changes while it is read may hide one.
const CLEAN_LOOKS: u32 = 2;

/// A process that is stuck in the kernel can't be waited for.
const LAST_LOOKS: u32 = 100;

/// Makes this process the parent of every orphan below it. Reverting it is not needed: it ends with the process.
#[cfg(target_os = "linux")]
pub(crate) fn adopt_orphans() -> nix::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)
}

/// Not on this system.
#[cfg(not(target_os = "linux"))]
pub(crate) fn adopt_orphans() -> nix::Result<()> {
    Err(nix::errno::Errno::ENOSYS)
}

/// Runs in the background until it is finished.
pub(crate) struct Reaper {
    looks: Looks,
    task: AbortOnDropHandle<()>,
}

/// One look after the other.
#[derive(Clone)]
struct Looks {
    registry: Arc<Registry>,
    marker: Marker,
    /// Children that were unknown at the last look, with the attempts that had ended before they were first seen.
    unknown: BTreeMap<Pid, u64>,
    /// The attempts that had ended at the last look.
    ends: u64,
    /// No agent is in use any more.
    is_last: bool,
    /// Orphans of workers that are in use, with the worker's step when they were first seen.
    waiting: BTreeMap<ProcessId, u64>,
}

impl Reaper {
    /// Adopts orphans from now on, if the system lets it.
    pub(crate) fn start(registry: Arc<Registry>, marker: Marker) -> Option<Self> {
        let exits = adopt_orphans().map_err(Into::into).and_then(|()| signal(SignalKind::child()));
        let mut exits = match exits {
            Ok(exits) => exits,
            Err(error) => {
                tracing::warn!(%error, "processes that leave their agent are ended only with the executor");
                return None;
            }
        };
        let (unknown, waiting) = (BTreeMap::new(), BTreeMap::new());
        let looks = Looks { registry, marker, unknown, ends: 0, is_last: false, waiting };
        let mut working = looks.clone();
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = working.registry.changed() => {}
                    _ = exits.recv() => {}
                    () = tokio::time::sleep(RECHECK), if !working.waiting.is_empty() => {}
                }
                let mut clean = 0;
                while clean < CLEAN_LOOKS {
                    tokio::time::sleep(PAUSE).await;
                    clean = if working.look() { clean + 1 } else { 0 };
                }
            }
        });
        Some(Self { looks, task: AbortOnDropHandle::new(task) })
    }

    /// Ends whatever is left. To be called when no agent is in use any more.
    pub(crate) async fn finish(self) {
        let Self { mut looks, task } = self;
        drop(task);
        looks.is_last = true;
        let mut clean = 0;
        for _ in 0..LAST_LOOKS {
            clean = if looks.look() { clean + 1 } else { 0 };
            if clean >= CLEAN_LOOKS {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Looks {
    /// Deals with orphans; true when there was nothing new and nothing to do.
    fn look(&mut self) -> bool {
        let ends = self.registry.ends();
        let ended_before = std::mem::replace(&mut self.ends, ends);
        let children = processes::children(Pid::this()).into_iter().filter(|&pid| !self.knows(pid));
        let unknown = children.map(|pid| (pid, *self.unknown.get(&pid).unwrap_or(&ended_before))).collect();
        let before = std::mem::replace(&mut self.unknown, unknown);
        // What was unknown twice is an orphan, unless it is being started.
        let mut orphans: Vec<_> =
            self.unknown.keys().filter(|pid| before.contains_key(pid)).copied().collect();
        let mut is_clean = orphans.len() == self.unknown.len();
        if !orphans.is_empty() {
            self.registry.settle();
            orphans.retain(|&pid| !self.knows(pid));
        }
        let waiting = std::mem::take(&mut self.waiting);
        for status in orphans.into_iter().filter_map(processes::status) {
            if status.parent != Pid::this() {
                continue;
            }
            if status.is_zombie {
                // By its id: the exits of agents are awaited elsewhere.
                let _ = waitpid(status.id.pid, Some(WaitPidFlag::WNOHANG));
            } else if !self.is_in_use(&status, &waiting) && end(status.id.pid) {
                is_clean = false;
            }
        }
        is_clean
    }

    fn knows(&self, pid: Pid) -> bool {
        self.registry.work_of(pid).is_some()
    }

    /// Whether `orphan` may be of use to the attempt or the worker that it comes from.
    fn is_in_use(&mut self, orphan: &Status, waiting: &BTreeMap<ProcessId, u64>) -> bool {
        let owner = processes::marker_of(orphan.id.pid).and_then(|marker| self.marker.number_in(&marker));
        let work = match owner {
            Some(number) => self.registry.work(number),
            None => match self.registry.work_of(orphan.group) {
                Some(work) => Some(work),
                None => return !self.is_last && self.unknown.get(&orphan.id.pid) == Some(&self.ends),
            },
        };
        let Some(work) = work else { return false };
        if work.keeps(orphan.id) {
            return true;
        }
        let step = work.step();
        let first_seen = waiting.get(&orphan.id).copied().unwrap_or(step);
        let is_under_way = step % 2 == 1 && first_seen == step;
        if is_under_way {
            self.waiting.insert(orphan.id, first_seen);
        }
        is_under_way
    }
}

/// Kills a process and what it started; false when that is not permitted. What it starts meanwhile is the next look's.
fn end(orphan: Pid) -> bool {
    for pid in processes::descendants(orphan) {
        let _ = kill(pid, Signal::SIGKILL);
    }
    kill(orphan, Signal::SIGKILL).is_ok()
}
