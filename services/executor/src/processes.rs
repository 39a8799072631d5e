//! Information about processes from `/proc`. On systems without it, no process is ever found.
//!
//! The children of a process are listed under each of its threads. Kernels without these lists
//! (`CONFIG_PROC_CHILDREN`) are asked for the parent of every process instead.

use std::{
    collections::VecDeque,
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    sync::LazyLock,
};

use nix::unistd::Pid;

/// The environment variable that carries an agent process's marker.
pub(crate) const MARKER_VARIABLE: &str = "PHOENIX_EXECUTOR";

/// Whether the kernel lists the children of a thread.
static LISTS_CHILDREN: LazyLock<bool> = LazyLock::new(|| Path::new("/proc/thread-self/children").exists());

/// Links of a `task` directory with one entry: its own two, and one for the task.
const LINKS_OF_ONE_TASK: u64 = 3;

/// Most readings of a list that changes all the time.
const MAX_READINGS: u32 = 8;

/// A process, distinguished from a later one with the same id by its start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProcessId {
    pub(crate) pid: Pid,
    /// In clock ticks since boot.
    started: u64,
}

/// State of a process that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) id: ProcessId,
    pub(crate) parent: Pid,
    pub(crate) group: Pid,
    /// Whether it has exited and was not reaped.
    pub(crate) is_zombie: bool,
}

impl ProcessId {
    /// Whether it is running.
    pub(crate) fn is_alive(self) -> bool {
        status(self.pid).is_some_and(|status| status.id == self && !status.is_zombie)
    }
}

/// The status of `pid` (`proc_pid_stat(5)`).
pub(crate) fn status(pid: Pid) -> Option<Status> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let is_zombie = matches!(fields.next()?, "Z" | "X");
    let mut id = || fields.next()?.parse().ok().map(Pid::from_raw);
    let (parent, group) = (id()?, id()?);
    let started = fields.nth(16)?.parse().ok()?;
    Some(Status { id: ProcessId { pid, started }, parent, group, is_zombie })
}

/// Every process of the system.
pub(crate) fn all() -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().map(Pid::from_raw)).collect()
}

/// The children of `parent`. A child that exits while a list is read, or a thread that leaves its children to another, may hide
/// some. So the lists are read until two readings agree.
pub(crate) fn children(parent: Pid) -> Vec<Pid> {
    let mut found = listed_children(parent);
    for _ in 0..MAX_READINGS {
        let again = listed_children(parent);
        if again == found {
            break;
        }
        found = again;
    }
    found
}

/// The children of all threads of `parent`, in ascending order.
fn listed_children(parent: Pid) -> Vec<Pid> {
    let mut children = read_children(parent);
    children.sort_unstable();
    children.dedup();
    children
}

fn read_children(parent: Pid) -> Vec<Pid> {
    if !*LISTS_CHILDREN {
        return all().into_iter().filter(|&pid| status(pid).is_some_and(|s| s.parent == parent)).collect();
    }
    let Ok(tasks) = fs::read_dir(format!("/proc/{parent}/task")) else { return Vec::new() };
    let lists = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    lists.flat_map(|list| pids(&list)).collect()
}

/// The children of `root`, their children, and so on.
pub(crate) fn descendants(root: Pid) -> Vec<Pid> {
    let (mut found, mut queue) = (Vec::new(), VecDeque::from([root]));
    while let Some(parent) = queue.pop_front() {
        for child in children(parent) {
            // The tree changes during the walk, and ids are reused.
            if child != root && !found.contains(&child) {
                found.push(child);
                queue.push_back(child);
            }
        }
    }
    found
}

/// The value of [`MARKER_VARIABLE`] in the environment that `pid` was started with, if it is readable.
pub(crate) fn marker_of(pid: Pid) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = environment
        .split(|&byte| byte == 0)
        .find_map(|variable| variable.strip_prefix(MARKER_VARIABLE.as_bytes())?.strip_prefix(b"="))?;
    String::from_utf8(value.to_vec()).ok()
}

fn pids(list: &str) -> Vec<Pid> {
    list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok().map(Pid::from_raw)).collect()
}

/// Cheap repeated check whether a process may have children: two reads of open files. Workers are checked before and
/// after each request.
#[derive(Debug)]
pub(crate) struct ChildProbe {
    /// The `task` directory, and the children of the first task.
    files: Option<(File, File)>,
}

impl ChildProbe {
    pub(crate) fn new(pid: Pid) -> Self {
        let open = |path: String| File::open(path).ok();
        let files = open(format!("/proc/{pid}/task")).zip(open(format!("/proc/{pid}/task/{pid}/children")));
        Self { files }
    }

    /// False only if it has one thread and no child.
    pub(crate) fn may_have_children(&self) -> bool {
        let Some((tasks, children)) = &self.files else { return true };
        let has_one_task = tasks.metadata().is_ok_and(|metadata| metadata.nlink() == LINKS_OF_ONE_TASK);
        !has_one_task || !matches!(children.read_at(&mut [0], 0), Ok(0))
    }
}

/// Counter of all processes and threads that were ever started, as far as `/proc` shows it: the last assigned id.
#[derive(Debug)]
pub(crate) struct ForkCounter(Option<File>);

/// A reading of [`ForkCounter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ForkCount([u8; 24], usize);

impl ForkCounter {
    pub(crate) fn new() -> Self {
        Self(File::open("/proc/sys/kernel/ns_last_pid").ok())
    }

    /// The current reading, if available. While it is unchanged, no process was started.
    pub(crate) fn now(&self) -> Option<ForkCount> {
        let mut digits = [0; 24];
        let read = self.0.as_ref()?.read_at(&mut digits, 0).ok()?;
        Some(ForkCount(digits, read))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A shell with a child, and a grandchild that left the session; returns once both run.
    fn family() -> Child {
        let mut shell = Command::new("sh")
            .args(["-c", "sh -c 'env -i setsid sleep 600 & echo; wait' & wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        shell.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        shell
    }

    #[test]
    fn descendants_are_found_in_any_session_and_environment() {
        let mut shell = family();
        let root = Pid::from_raw(shell.id().cast_signed());
        let found = descendants(root);
        assert_eq!(found.len(), 2, "{found:?}");
        let (child, grandchild) = (status(found[0]).unwrap(), status(found[1]).unwrap());
        assert_eq!((child.parent, grandchild.parent), (root, found[0]));
        assert!(children(Pid::this()).contains(&root));
        assert!(ChildProbe::new(root).may_have_children());
        for pid in found.into_iter().chain([root]) {
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        }
        shell.wait().unwrap();
        assert_eq!(status(root), None);
        let begun = std::time::Instant::now();
        while grandchild.id.is_alive() {
            assert!(begun.elapsed().as_secs() < 30, "it was killed");
            std::thread::yield_now();
        }
    }

    #[test]
    fn child_probe_is_false_without_children_and_threads() {
        let mut sleep = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = Pid::from_raw(sleep.id().cast_signed());
        assert_eq!((children(pid), ChildProbe::new(pid).may_have_children()), (vec![], false));
        let id = status(pid).unwrap().id;
        assert!(id.is_alive());
        sleep.kill().unwrap();
        sleep.wait().unwrap();
        assert!(!id.is_alive() && ChildProbe::new(pid).may_have_children(), "the process is gone");
    }
}
