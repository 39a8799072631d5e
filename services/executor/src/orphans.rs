//! Finds and kills the processes of an executor that is gone.
//!
//! While the executor runs, its process adopts the processes that leave their agent ([`crate::reaper`]). Afterwards its
//! agents are known by a marker in their environment, which is inherited, and by the process tree: every process below one
//! that carries the marker belongs to the executor, regardless of its own environment.
//!
//! An executor proves that it runs by a lock on a file that is named after it. A process id would be no proof: in another
//! pid namespace it names another process, or none. Without such a file, no process is killed.

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    fcntl::OFlag,
    sys::signal::{Signal, kill, killpg},
    unistd::{Pid, geteuid, getpgid},
};
use uuid::Uuid;

use crate::processes::{self, ProcessId};

/// Pause between two scans. A killed process needs a moment to exit.
const SCAN_PAUSE: Duration = Duration::from_millis(20);

/// Longest series of scans. A process that is blocked in the kernel does not exit.
const MAX_SCANS: u32 = 250;

/// Scans of the process tree before the kill: a process that is not stopped yet may start more.
const MAX_TREE_SCANS: u32 = 16;

/// Prefix and suffix of lock file names.
const LOCK_NAME: (&str, &str) = ("phoenix-executor-", ".lock");

/// Name of one executor: `<uuid>:<pid>`. Its processes carry `<uuid>:<number>:<pid>`, with a number of their own. The
/// process id is for operators, and for executors of earlier versions, which look for it at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Marker {
    executor: Uuid,
    pid: u32,
}

impl Marker {
    /// A marker for this process.
    pub(crate) fn new() -> Self {
        Self { executor: Uuid::new_v4(), pid: std::process::id() }
    }

    /// The marker that the process with this number carries.
    pub(crate) fn of_process(&self, number: u64) -> String {
        format!("{}:{number}:{}", self.executor, self.pid)
    }

    /// The number of the process that carries `carried`, if it is one of this executor.
    pub(crate) fn number_in(&self, carried: &str) -> Option<u64> {
        let mut parts = carried.split(':');
        let is_ours = parts.next()? == self.executor.to_string();
        let number = parts.next()?;
        // A marker of two parts is the executor's own: the second part is its process id.
        (is_ours && parts.next().is_some()).then(|| number.parse().ok())?
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.executor, self.pid)
    }
}

/// Proof that an executor runs: a lock that the kernel releases when its process ends.
#[derive(Debug)]
#[must_use]
pub(crate) struct ExecutorLock {
    path: PathBuf,
    /// Locked for as long as it is open.
    _locked: File,
}

impl ExecutorLock {
    /// Takes the lock of `marker`'s executor, in the directory for temporary files.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(crate) fn acquire(marker: &Marker) -> io::Result<Self> {
        let path = lock_file(&std::env::temp_dir(), marker.executor);
        // Locked before it gets its final name, so that no other executor can lock it first.
        let temporary = path.with_extension("new");
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let locked = file.try_lock().map_err(io::Error::from).and_then(|()| fs::rename(&temporary, &path));
        if let Err(error) = locked {
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        Ok(Self { path, _locked: file })
    }
}

impl Drop for ExecutorLock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn lock_file(directory: &Path, executor: Uuid) -> PathBuf {
    let (prefix, suffix) = LOCK_NAME;
    directory.join(format!("{prefix}{executor}{suffix}"))
}

/// Kills every process of executors that are provably gone. Returns how many.
pub(crate) fn kill_orphans() -> usize {
    let mut killed = 0;
    for lock in stale_locks(&std::env::temp_dir()) {
        let (prefix, suffix) = LOCK_NAME;
        let name = lock.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(executor) = name.strip_prefix(prefix).and_then(|name| name.strip_suffix(suffix)) {
            killed += kill_marked(executor, &[], 1);
        }
    }
    killed
}

/// Locks that their executors released without removing the file. They are held, and removed when dropped.
fn stale_locks(directory: &Path) -> Vec<ExecutorLock> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let stale = |entry: io::Result<fs::DirEntry>| {
        let (prefix, suffix) = LOCK_NAME;
        let path = entry.ok()?.path();
        let name = path.file_name()?.to_str()?.strip_prefix(prefix)?.strip_suffix(suffix)?;
        name.parse::<Uuid>().ok()?;
        let nofollow = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = OpenOptions::new().write(true).custom_flags(nofollow.bits()).open(&path).ok()?;
        let is_own =
            file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.uid() == geteuid().as_raw());
        (is_own && file.try_lock().is_ok()).then(|| ExecutorLock { path, _locked: file })
    };
    entries.filter_map(stale).collect()
}

/// Kills every process that carries a marker of the executor that `marker` names, those of `also` that still run, and
/// everything they started, until `clean_scans` scans in a row have found none. A process that is being started shows its
/// marker only after `exec`, so one scan is not enough while a start may be under way. Returns how many it killed.
pub(crate) fn kill_marked(marker: &str, also: &[ProcessId], clean_scans: u32) -> usize {
    let (mut killed, mut clean) = (BTreeSet::new(), 0);
    for _ in 0..MAX_SCANS {
        let found = freeze(|| roots(marker, also));
        clean = if found.is_empty() { clean + 1 } else { 0 };
        if clean >= clean_scans {
            break;
        }
        kill_all(&found);
        killed.extend(found);
        pause();
    }
    killed.len()
}

fn roots(marker: &str, also: &[ProcessId]) -> Vec<Pid> {
    let own = Pid::this();
    let executor = |marker: &str| marker.split(':').next().map(str::to_owned);
    let wanted = executor(marker);
    let is_marked = |pid: &Pid| {
        let carried = processes::marker_of(*pid);
        carried.is_some_and(|carried| executor(&carried) == wanted)
    };
    let marked = processes::all().into_iter().filter(|pid| *pid != own).filter(is_marked);
    marked.chain(also.iter().filter(|id| id.is_alive()).map(|id| id.pid)).collect()
}

/// Stops the processes that `roots` finds and everything below them, until there are no more: a stopped process starts
/// none. The child of a process that is killed first would lose the parent by which it is found.
fn freeze(roots: impl Fn() -> Vec<Pid>) -> BTreeSet<Pid> {
    let mut stopped = BTreeSet::new();
    for _ in 0..MAX_TREE_SCANS {
        let roots = roots();
        let below: Vec<_> = roots.iter().flat_map(|&root| processes::descendants(root)).collect();
        let new: Vec<_> = roots.into_iter().chain(below).filter(|pid| stopped.insert(*pid)).collect();
        if new.is_empty() {
            break;
        }
        for pid in new {
            let _ = kill(pid, Signal::SIGSTOP);
        }
    }
    stopped
}

fn kill_all(processes: &BTreeSet<Pid>) {
    for &pid in processes {
        // An agent leads its own group and has started every member. A process that is being started is still in the
        // executor's group, which must not be killed.
        if getpgid(Some(pid)) == Ok(pid) {
            let _ = killpg(pid, Signal::SIGKILL);
        }
        let _ = kill(pid, Signal::SIGKILL);
    }
}

#[expect(clippy::disallowed_methods, reason = "runs without a runtime, or on a thread that may block")]
fn pause() {
    std::thread::sleep(SCAN_PAUSE);
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        os::unix::process::CommandExt,
        process::{Child, Command, Stdio},
    };

    use super::*;
    use crate::processes::MARKER_VARIABLE;

    /// Clean scans after which no process can be about to show its marker.
    const CLEAN_SCANS: u32 = 3;

    /// A marked shell with two children in their own sessions, one of them without an environment; returns once both run.
    fn marked(marker: &str) -> (Child, Vec<Pid>) {
        let mut child = Command::new("sh")
            .args(["-c", "setsid sleep 600 & env -i setsid sleep 600 & echo; exec sleep 600"])
            .env(MARKER_VARIABLE, marker)
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let children = processes::children(Pid::from_raw(child.id().cast_signed()));
        assert_eq!(children.len(), 2);
        (child, children)
    }

    fn is_alive(pid: Pid) -> bool {
        processes::status(pid).is_some_and(|status| !status.is_zombie)
    }

    /// Waits for the exit of processes that were killed.
    fn await_end(processes: &[Pid]) {
        for _ in 0..MAX_SCANS {
            if !processes.iter().copied().any(is_alive) {
                return;
            }
            pause();
        }
        panic!("they live: {processes:?}");
    }

    #[test]
    fn marked_processes_end_with_their_children_and_no_other() {
        let (marker, other) = (Marker::new(), Marker::new());
        let (mut agent, children) = marked(&marker.of_process(7));
        let (mut others, others_children) = marked(&other.of_process(7));
        assert!(kill_marked(&marker.to_string(), &[], CLEAN_SCANS) >= 1);
        agent.wait().unwrap();
        await_end(&children);
        assert!(others.try_wait().unwrap().is_none() && others_children.iter().copied().all(is_alive));
        assert!(
            kill_marked(&other.executor.to_string(), &[], CLEAN_SCANS) >= 1,
            "the executor's id alone names it too"
        );
        others.wait().unwrap();
        await_end(&others_children);
    }

    #[test]
    fn process_number_is_read_only_from_a_marker_of_its_executor() {
        let (marker, other) = (Marker::new(), Marker::new());
        assert_eq!(marker.number_in(&marker.of_process(12)), Some(12));
        assert_eq!(marker.number_in(&marker.to_string()), None);
        assert_eq!(other.number_in(&marker.of_process(12)), None);
    }

    #[test]
    fn executor_is_gone_only_if_its_lock_was_released() {
        let folder = tempfile::tempdir().unwrap();
        let lock = |executor| {
            let path = lock_file(folder.path(), executor);
            let file = File::create(&path).unwrap();
            file.try_lock().unwrap();
            ExecutorLock { path, _locked: file }
        };
        let (living, gone) = (lock(Uuid::new_v4()), lock(Uuid::new_v4()));
        let path = gone.path.clone();
        // As after SIGKILL: the lock is released, and the file stays.
        gone._locked.unlock().unwrap();
        let found: Vec<_> = stale_locks(folder.path()).iter().map(|gone| gone.path.clone()).collect();
        assert_eq!(found, std::slice::from_ref(&path));
        assert!(!path.exists(), "the stale file is removed");
        assert!(living.path.exists());
    }
}
