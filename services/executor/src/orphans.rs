//! Finds the processes of an executor that is gone, and ends them.
//!
//! While the executor lives, its process adopts what leaves an agent ([`crate::reaper`]). Afterwards its agents are known
//! by a marker in their environment, which is inherited, and by what they started: the tree below a process that carries
//! the marker is its executor's too, whatever its members did to their environment.
//!
//! An executor proves that it lives by a lock on a file that is named after it. Its process id would not do: in another
//! pid namespace it means another process, or none. Where there is no such file, nothing is ended.

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

/// Between two scans. A process needs a moment to die.
const PAUSE: Duration = Duration::from_millis(20);

/// A process that is stuck in the kernel can't be waited for.
const MAX_SCANS: u32 = 250;

/// So often what is about to be ended is looked for anew, since what is not stopped yet may start more.
const MAX_STOPS: u32 = 16;

/// How the names of lock files begin and end.
const LOCK_NAME: (&str, &str) = ("phoenix-executor-", ".lock");

/// The name of one executor: `<uuid>:<pid>`. Its processes carry `<uuid>:<number>:<pid>`, with a number of their own. The
/// process id is for people, and for executors of earlier versions, which look for it at the end.
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

    /// What the process with this number carries.
    pub(crate) fn of_process(&self, number: u64) -> String {
        format!("{}:{number}:{}", self.executor, self.pid)
    }

    /// The number of the process that carries `carried`, if it is one of this executor.
    pub(crate) fn number_in(&self, carried: &str) -> Option<u64> {
        let mut parts = carried.split(':');
        let is_ours = parts.next()? == self.executor.to_string();
        let number = parts.next()?;
        // Of two parts the second is the process id.
        (is_ours && parts.next().is_some()).then(|| number.parse().ok())?
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.executor, self.pid)
    }
}

/// Proof that an executor lives: a lock that the kernel gives up when its process ends.
#[derive(Debug)]
#[must_use]
pub(crate) struct Presence {
    path: PathBuf,
    /// Locked for as long as it is open.
    _locked: File,
}

impl Presence {
    /// Takes the lock of `marker`'s executor, in the folder for temporary files.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(crate) fn establish(marker: &Marker) -> io::Result<Self> {
        let path = lock_file(&std::env::temp_dir(), marker.executor);
        // Locked before it has its name, so that another executor can't lock it first.
        let unnamed = path.with_extension("new");
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unnamed)?;
        let locked = file.try_lock().map_err(io::Error::from).and_then(|()| fs::rename(&unnamed, &path));
        if let Err(error) = locked {
            let _ = fs::remove_file(&unnamed);
            return Err(error);
        }
        Ok(Self { path, _locked: file })
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn lock_file(folder: &Path, executor: Uuid) -> PathBuf {
    let (prefix, suffix) = LOCK_NAME;
    folder.join(format!("{prefix}{executor}{suffix}"))
}

/// Ends every process of executors that are provably gone. Answers how many it ended.
pub(crate) fn kill_orphans() -> usize {
    let gone = gone_executors(&std::env::temp_dir());
    let mut killed = 0;
    for presence in gone {
        let (prefix, suffix) = LOCK_NAME;
        let name = presence.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(executor) = name.strip_prefix(prefix).and_then(|name| name.strip_suffix(suffix)) {
            killed += kill_marked(executor, &[], 1);
        }
    }
    killed
}

/// The locks of executors that gave them up without removing them. They are held, and removed when dropped.
fn gone_executors(folder: &Path) -> Vec<Presence> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let gone = |entry: io::Result<fs::DirEntry>| {
        let (prefix, suffix) = LOCK_NAME;
        let path = entry.ok()?.path();
        let name = path.file_name()?.to_str()?.strip_prefix(prefix)?.strip_suffix(suffix)?;
        name.parse::<Uuid>().ok()?;
        let nofollow = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = OpenOptions::new().write(true).custom_flags(nofollow.bits()).open(&path).ok()?;
        let is_ours = file.metadata().is_ok_and(|facts| facts.is_file() && facts.uid() == geteuid().as_raw());
        (is_ours && file.try_lock().is_ok()).then(|| Presence { path, _locked: file })
    };
    entries.filter_map(gone).collect()
}

/// Ends every process that carries a marker of the executor that `marker` names, those of `also` that still run, and all they started, until
/// that many scans in a row have found none. One that is being started shows its marker only from some moment on, so one
/// scan is not enough while that may be. Answers how many it ended.
pub(crate) fn kill_marked(marker: &str, also: &[ProcessId], clean_scans: u32) -> usize {
    let (mut killed, mut clean) = (BTreeSet::new(), 0);
    for _ in 0..MAX_SCANS {
        let found = stop(|| roots(marker, also));
        clean = if found.is_empty() { clean + 1 } else { 0 };
        if clean >= clean_scans {
            break;
        }
        end(&found);
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

/// Stops what `roots` finds and everything below it, until there is no more: what is stopped starts nothing. A child of one
/// that was killed first would lose the parent by which it is found.
fn stop(roots: impl Fn() -> Vec<Pid>) -> BTreeSet<Pid> {
    let mut stopped = BTreeSet::new();
    for _ in 0..MAX_STOPS {
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

fn end(processes: &BTreeSet<Pid>) {
    for &pid in processes {
        // What is in a group that an agent leads was started by it. Not every group is an agent's: a process that is being
        // started is still in that of the executor.
        if getpgid(Some(pid)) == Ok(pid) {
            let _ = killpg(pid, Signal::SIGKILL);
        }
        let _ = kill(pid, Signal::SIGKILL);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "runs where there is no runtime, or on a thread that may block"
)]
fn pause() {
    std::thread::sleep(PAUSE);
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

    /// Clean scans after which nothing is about to show its marker.
    const SURE: u32 = 3;

    /// A marked shell with two children in sessions of their own, of which one has no environment; ready once it says so.
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

    /// Waits for the end of processes that were killed.
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
    fn all_that_carry_the_marker_end_with_their_children_and_no_other() {
        let (marker, other) = (Marker::new(), Marker::new());
        let (mut agent, children) = marked(&marker.of_process(7));
        let (mut others, others_children) = marked(&other.of_process(7));
        assert!(kill_marked(&marker.to_string(), &[], SURE) >= 1);
        agent.wait().unwrap();
        await_end(&children);
        assert!(others.try_wait().unwrap().is_none() && others_children.iter().copied().all(is_alive));
        assert!(
            kill_marked(&other.executor.to_string(), &[], SURE) >= 1,
            "by the name of the executor alone"
        );
        others.wait().unwrap();
        await_end(&others_children);
    }

    #[test]
    fn number_of_a_process_is_read_from_its_own_executors_marker_only() {
        let (marker, other) = (Marker::new(), Marker::new());
        assert_eq!(marker.number_in(&marker.of_process(12)), Some(12));
        assert_eq!(marker.number_in(&marker.to_string()), None);
        assert_eq!(other.number_in(&marker.of_process(12)), None);
    }

    #[test]
    fn only_an_executor_that_gave_up_its_lock_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let lock = |executor| {
            let path = lock_file(folder.path(), executor);
            let file = File::create(&path).unwrap();
            file.try_lock().unwrap();
            Presence { path, _locked: file }
        };
        let (living, gone) = (lock(Uuid::new_v4()), lock(Uuid::new_v4()));
        let path = gone.path.clone();
        // As after SIGKILL: the lock is given up, and the file stays.
        gone._locked.unlock().unwrap();
        let found: Vec<_> = gone_executors(folder.path()).iter().map(|gone| gone.path.clone()).collect();
        assert_eq!(found, std::slice::from_ref(&path));
        assert!(!path.exists(), "it is tidied up");
        assert!(living.path.exists());
    }
}
