//! Cleanup after a git that was killed: processes of its filters, and its lock files.
//!
//! Both are found in `/proc`. On systems without it, nothing is found and nothing is removed.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Variable that every process of one git run carries, with the id of the run.
pub(super) const RUN_VARIABLE: &str = "PHOENIX_GIT_RUN";

/// Pause between two scans of the processes. A killed process needs a moment to exit.
const SCAN_PAUSE: Duration = Duration::from_millis(5);
/// Most scans. A process that is blocked in the kernel does not exit.
const MAX_SCANS: u32 = 40;

/// A process, identified by its id and start time, since ids are reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pid: Pid,
    started: u64,
}

/// A lock file that one of these processes held open.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// The running processes at and below `root`.
pub(super) fn process_tree(root: Pid) -> Vec<Process> {
    let all: Vec<(Process, Pid)> = pids().filter_map(status).collect();
    let mut tree: Vec<Process> =
        all.iter().map(|(process, _)| *process).filter(|process| process.pid == root).collect();
    let mut expanded = 0;
    while let Some(parent) = tree.get(expanded).map(|process| process.pid) {
        tree.extend(all.iter().filter(|(_, its)| *its == parent).map(|(process, _)| *process));
        expanded += 1;
    }
    tree
}

/// The lock files that these processes hold open. Only git opens files of that name, and it creates them by that.
pub(super) fn locks(processes: &[Process]) -> Vec<Lock> {
    let files = |process: &Process| fs::read_dir(format!("/proc/{}/fd", process.pid)).into_iter().flatten();
    processes
        .iter()
        .flat_map(files)
        .filter_map(|entry| {
            let descriptor = entry.ok()?.path();
            let path = fs::read_link(&descriptor).ok()?;
            path.extension().filter(|extension| *extension == "lock")?;
            let metadata = fs::metadata(&descriptor).ok()?;
            Some(Lock { path, device: metadata.dev(), inode: metadata.ino() })
        })
        .collect()
}

/// Removes those of `locks` that are still the same files. Another git may have created a new lock of that name.
pub(super) fn remove(locks: &[Lock]) {
    for lock in locks.iter().filter(|lock| lock.is_at(&lock.path)) {
        // A lock that cannot be removed is reported by the next git.
        let _ = fs::remove_file(&lock.path);
    }
}

impl Lock {
    fn is_at(&self, path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok_and(|file| (file.dev(), file.ino()) == (self.device, self.inode))
    }
}

/// Kills `processes`, and every process that carries the id of the run, until none is left.
#[expect(clippy::disallowed_methods, reason = "an agent has no runtime")]
pub(super) fn kill_all(processes: &[Process], run_id: &str) {
    for _ in 0..MAX_SCANS {
        let alive: Vec<Pid> = pids()
            .filter_map(status)
            .map(|(process, _)| process)
            .filter(|process| processes.contains(process) || belongs_to(process.pid, run_id))
            .map(|process| process.pid)
            .collect();
        if alive.is_empty() {
            return;
        }
        for pid in alive {
            // The process may have exited already.
            let _ = kill(pid, Signal::SIGKILL);
        }
        std::thread::sleep(SCAN_PAUSE);
    }
}

fn pids() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().map(Pid::from_raw))
}

/// A running process and its parent (`proc_pid_stat(5)`, fields 3, 4 and 22).
fn status(pid: Pid) -> Option<(Process, Pid)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    let parent = fields.next()?.parse().ok().map(Pid::from_raw)?;
    let started = fields.nth(17)?.parse().ok()?;
    Some((Process { pid, started }, parent))
}

fn belongs_to(pid: Pid, run_id: &str) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let has_id = |variable: &[u8]| {
        variable.strip_prefix(RUN_VARIABLE.as_bytes()).and_then(|rest| rest.strip_prefix(b"="))
            == Some(run_id.as_bytes())
    };
    environment.split(|byte| *byte == 0).any(has_id)
}
