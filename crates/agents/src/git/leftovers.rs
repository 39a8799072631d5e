//! What a git that was ended leaves behind: processes of its filters, and its lock files.
//!
//! Both are found in `/proc`. Where there is none, nothing is found and nothing is removed.

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

/// Every process that a git started carries this variable with the identifier of its run.
pub(super) const RUN_VARIABLE: &str = "PHOENIX_GIT_RUN";

/// Between two looks at the processes. A process needs a moment to die.
const PAUSE: Duration = Duration::from_millis(5);
/// A process that is stuck in the kernel can't be waited for.
const MAX_LOOKS: u32 = 40;

/// A process, with its start, since the number alone may pass to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pid: Pid,
    started: u64,
}

/// A lock file that a process of ours held open when it was seen.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// The living processes below `root`, and itself.
pub(super) fn family(root: Pid) -> Vec<Process> {
    let all: Vec<(Process, Pid)> = pids().filter_map(about).collect();
    let mut family: Vec<Process> =
        all.iter().map(|(process, _)| *process).filter(|process| process.pid == root).collect();
    let mut looked_at = 0;
    while let Some(parent) = family.get(looked_at).map(|process| process.pid) {
        family.extend(all.iter().filter(|(_, its)| *its == parent).map(|(process, _)| *process));
        looked_at += 1;
    }
    family
}

/// The lock files that these processes hold open. Only git has files of that name open, and it opens them to create them.
pub(super) fn locks(family: &[Process]) -> Vec<Lock> {
    let files = |process: &Process| fs::read_dir(format!("/proc/{}/fd", process.pid)).into_iter().flatten();
    family
        .iter()
        .flat_map(files)
        .filter_map(|entry| {
            let descriptor = entry.ok()?.path();
            let path = fs::read_link(&descriptor).ok()?;
            path.extension().filter(|extension| *extension == "lock")?;
            let about = fs::metadata(&descriptor).ok()?;
            Some(Lock { path, device: about.dev(), inode: about.ino() })
        })
        .collect()
}

/// Removes those of `locks` that are still the files that were seen. Another git may have made a new one by that name.
pub(super) fn remove(locks: &[Lock]) {
    for lock in locks.iter().filter(|lock| lock.is_at(&lock.path)) {
        // Whatever prevents it, the next git reports the lock.
        let _ = fs::remove_file(&lock.path);
    }
}

impl Lock {
    fn is_at(&self, path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok_and(|file| (file.dev(), file.ino()) == (self.device, self.inode))
    }
}

/// Kills the processes of `family`, and all that carry the mark of the run, until none is left.
#[expect(clippy::disallowed_methods, reason = "an agent has no runtime")]
pub(super) fn kill_all(family: &[Process], run: &str) {
    for _ in 0..MAX_LOOKS {
        let alive: Vec<Pid> = pids()
            .filter_map(about)
            .map(|(process, _)| process)
            .filter(|process| family.contains(process) || is_marked(process.pid, run))
            .map(|process| process.pid)
            .collect();
        if alive.is_empty() {
            return;
        }
        for pid in alive {
            // It may be gone by now.
            let _ = kill(pid, Signal::SIGKILL);
        }
        std::thread::sleep(PAUSE);
    }
}

fn pids() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().map(Pid::from_raw))
}

/// A living process and its parent (`proc_pid_stat(5)`, fields 3, 4 and 22).
fn about(pid: Pid) -> Option<(Process, Pid)> {
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

fn is_marked(pid: Pid, run: &str) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let mark = |variable: &[u8]| {
        variable.strip_prefix(RUN_VARIABLE.as_bytes()).and_then(|rest| rest.strip_prefix(b"="))
            == Some(run.as_bytes())
    };
    environment.split(|byte| *byte == 0).any(mark)
}
