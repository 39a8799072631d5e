//! Ends and reaps the orphans of agents.
//!
//! The executor's process is a subreaper (`PR_SET_CHILD_SUBREAPER`): a process whose parent exits becomes its child, in any
//! session and with any environment. Such an orphan belongs to the attempt or worker whose number is in its environment, or
//! in whose process group it is. When that attempt has ended, the orphan is killed together with everything it started.
//!
//! An orphan without parent, group and environment cannot be attributed. It most likely became an orphan when its attempt
//! ended: it is killed when the next attempt ends, or at once if one has ended since the last scan. A worker keeps the
//! orphans it had before its first request; those of a request are killed when the request ends.
//!
//! A scan runs after a child exits or an attempt ends, and at most every [`SCAN_INTERVAL`], so attempts do not wait for it.
//! A scan that finds something to end is followed by a purge: scans without a pause, until two in a row find nothing. A
//! process that forks and exits faster than the scan interval is never the same process in two scans; the purge stops
//! whichever process of such a chain it meets before that one can exit.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

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

/// Shortest time between two scans that find nothing.
const SCAN_INTERVAL: Duration = Duration::from_millis(50);

/// Time between two scans while a worker has orphans that may belong to its current request.
const RECHECK_INTERVAL: Duration = Duration::from_millis(200);

/// Consecutive scans that must find nothing: a list of children that changes while it is read may omit one.
const CLEAN_SCANS: u32 = 2;

/// Longest purge. Processes that are blocked in the kernel do not die in time.
const PURGE_LIMIT: Duration = Duration::from_secs(1);

/// Longest purge at the end of the executor.
const FINAL_PURGE_LIMIT: Duration = Duration::from_secs(5);

/// Scans for descendants of an orphan. A stopped process starts none, so the scans converge.
const MAX_TREE_SCANS: u32 = 16;

/// Makes this process the parent of every orphan below it, until the process ends.
#[cfg(target_os = "linux")]
pub(crate) fn adopt_orphans() -> nix::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)
}

/// Not supported on this system.
#[cfg(not(target_os = "linux"))]
pub(crate) fn adopt_orphans() -> nix::Result<()> {
    Err(nix::errno::Errno::ENOSYS)
}

/// Runs in the background until it is finished.
pub(crate) struct Reaper {
    scanner: OrphanScanner,
    task: AbortOnDropHandle<()>,
}

/// State between scans.
#[derive(Clone)]
struct OrphanScanner {
    registry: Arc<Registry>,
    marker: Marker,
    /// Orphans of the last scan, with the number of attempts that had ended before each was first seen.
    first_seen: BTreeMap<Pid, u64>,
    /// Number of attempts that had ended at the last scan.
    attempts_ended: u64,
    /// Orphans of workers that are in use, with the worker's step when each was first seen.
    pending: BTreeMap<ProcessId, u64>,
    /// Orphans that the last scan killed. They can start nothing any more.
    dying: BTreeSet<ProcessId>,
    /// Whether orphans that cannot be attributed are killed.
    purging: bool,
}

impl Reaper {
    /// Adopts orphans from now on, if the system supports it.
    pub(crate) fn start(registry: Arc<Registry>, marker: Marker) -> Option<Self> {
        let exits = adopt_orphans().map_err(Into::into).and_then(|()| signal(SignalKind::child()));
        let mut exits = match exits {
            Ok(exits) => exits,
            Err(error) => {
                tracing::warn!(%error, "cannot adopt orphans; processes that leave their agent end with the executor");
                return None;
            }
        };
        let scanner = OrphanScanner {
            registry,
            marker,
            first_seen: BTreeMap::new(),
            attempts_ended: 0,
            pending: BTreeMap::new(),
            dying: BTreeSet::new(),
            purging: false,
        };
        let mut working = scanner.clone();
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = working.registry.changed() => {}
                    _ = exits.recv() => {}
                    () = tokio::time::sleep(RECHECK_INTERVAL), if !working.pending.is_empty() => {}
                }
                let mut clean = 0;
                while clean < CLEAN_SCANS {
                    tokio::time::sleep(SCAN_INTERVAL).await;
                    clean = if working.scan() { clean + 1 } else { 0 };
                    if clean == 0 {
                        let Some(purged) = working.purge(PURGE_LIMIT).await else { return };
                        working = purged;
                    }
                }
            }
        });
        Some(Self { scanner, task: AbortOnDropHandle::new(task) })
    }

    /// Ends every orphan. Must be called when no agent is in use any more.
    pub(crate) async fn finish(self) {
        let Self { scanner, task } = self;
        drop(task);
        let _ = scanner.purge(FINAL_PURGE_LIMIT).await;
    }
}

impl OrphanScanner {
    /// Scans on a thread of its own until [`CLEAN_SCANS`] in a row find nothing, at most for `limit`. `None` when the
    /// runtime has stopped.
    async fn purge(mut self, limit: Duration) -> Option<Self> {
        let purge = tokio::task::spawn_blocking(move || {
            self.purging = true;
            let (deadline, mut clean) = (Instant::now() + limit, 0);
            while clean < CLEAN_SCANS && Instant::now() < deadline {
                clean = if self.scan() { clean + 1 } else { 0 };
            }
            // The next scan continues a purge that had to give up.
            self.purging = clean < CLEAN_SCANS;
            self
        });
        purge.await.ok()
    }

    /// Ends orphans that are not in use, and reaps those that have exited. Returns whether there was nothing to do.
    fn scan(&mut self) -> bool {
        let ended = self.registry.attempts_ended();
        let ended_before = std::mem::replace(&mut self.attempts_ended, ended);
        let registry = Arc::clone(&self.registry);
        let unregistered = || {
            let children = processes::children(Pid::this());
            children.into_iter().filter(|&pid| registry.record_of(pid).is_none()).collect::<Vec<_>>()
        };
        let mut orphans = if self.purging { Vec::new() } else { unregistered() };
        if self.purging || !orphans.is_empty() {
            // Without a start under way, every child that has no record is an orphan.
            let _paused = registry.pause_starts();
            if self.purging {
                orphans = unregistered();
                // Stopped before anything else, so that it can neither fork nor exit.
                for &pid in &orphans {
                    let _ = kill(pid, Signal::SIGSTOP);
                }
            } else {
                orphans.retain(|&pid| registry.record_of(pid).is_none());
            }
        }
        let known = std::mem::take(&mut self.first_seen);
        self.first_seen =
            orphans.iter().map(|&pid| (pid, known.get(&pid).copied().unwrap_or(ended_before))).collect();
        let pending = std::mem::take(&mut self.pending);
        let dying = std::mem::take(&mut self.dying);
        let (mut killed, mut reaped) = (false, false);
        for status in orphans.into_iter().filter_map(processes::status) {
            if status.parent != Pid::this() {
                continue;
            }
            if status.is_zombie {
                // By its id, because the exits of agents are awaited elsewhere.
                reaped |= waitpid(status.id.pid, Some(WaitPidFlag::WNOHANG)).is_ok();
            } else if self.is_in_use(&status, &pending) {
                if self.purging {
                    let _ = kill(status.id.pid, Signal::SIGCONT);
                }
            } else if kill_tree(status.id.pid) {
                killed |= !dying.contains(&status.id);
                self.dying.insert(status.id);
            }
        }
        // Orphans that exited between two scans may be links of a chain of which the newest was not there yet.
        let may_be_chain = reaped && (self.purging || ended != ended_before);
        !killed && !may_be_chain
    }

    /// Whether the attempt or worker of `orphan` may still use it.
    fn is_in_use(&mut self, orphan: &Status, pending: &BTreeMap<ProcessId, u64>) -> bool {
        let owner = processes::marker_of(orphan.id.pid).and_then(|marker| self.marker.number_in(&marker));
        let record = match owner {
            Some(number) => self.registry.record(number),
            None => match self.registry.record_of(orphan.group) {
                Some(record) => Some(record),
                None => {
                    let first_seen = self.first_seen.get(&orphan.id.pid);
                    return !self.purging && first_seen == Some(&self.attempts_ended);
                }
            },
        };
        let Some(record) = record else { return false };
        if record.retains(orphan.id) {
            return true;
        }
        let step = record.step();
        let first_step = pending.get(&orphan.id).copied().unwrap_or(step);
        let is_under_way = step % 2 == 1 && first_step == step;
        if is_under_way {
            self.pending.insert(orphan.id, first_step);
        }
        is_under_way
    }
}

/// Kills a process and everything it started; false when that is not permitted. All are stopped first: the child of a
/// process that is killed first would lose the parent by which it is found.
fn kill_tree(orphan: Pid) -> bool {
    let _ = kill(orphan, Signal::SIGSTOP);
    let mut below = Vec::new();
    for _ in 0..MAX_TREE_SCANS {
        let new = processes::descendants(orphan).into_iter().filter(|pid| !below.contains(pid));
        let new: Vec<_> = new.collect();
        if new.is_empty() {
            break;
        }
        for &pid in &new {
            let _ = kill(pid, Signal::SIGSTOP);
        }
        below.extend(new);
    }
    for pid in below {
        let _ = kill(pid, Signal::SIGKILL);
    }
    kill(orphan, Signal::SIGKILL).is_ok()
}
