//! Features of the kernel, and limits of the process.

use std::{fs, path::Path};

use nix::sys::{
    prctl::set_child_subreaper,
    resource::{Resource, getrlimit},
};

use super::finding::Finding;

const CHECK: &str = "kernel";

/// Files and connections that a busy executor needs.
const MIN_DESCRIPTORS: u64 = 4_096;

/// Memory below which a stack with its agents is likely to be killed.
const MIN_MEMORY_BYTES: u64 = 512 * 1024 * 1024;

/// First kernel with `pidfd_open`.
const PIDFD: (u32, u32) = (5, 3);

pub(super) fn features() -> Vec<Finding> {
    vec![subreaper(), pidfd(), cgroup(), descriptors()]
}

fn subreaper() -> Finding {
    // For this process only, which starts no other.
    match set_child_subreaper(true) {
        Ok(()) => Finding::ok(CHECK, "a process can be a subreaper"),
        Err(error) => Finding::error(
            CHECK,
            format!(
                "PR_SET_CHILD_SUBREAPER is refused ({error}): the executor cannot kill what its agents leave behind"
            ),
            "allow the system call prctl in the profile of the container",
        ),
    }
}

fn pidfd() -> Finding {
    let release = read("/proc/sys/kernel/osrelease");
    match version(&release) {
        Some(version) if version >= PIDFD => {
            Finding::ok(CHECK, format!("Linux {} with pidfd", release.trim()))
        }
        _ => Finding::warning(
            CHECK,
            format!(
                "Linux `{}` has no pidfd: the exit of a process is learned from a signal",
                release.trim()
            ),
            "use Linux 5.3 or newer",
        ),
    }
}

/// Major and minor version of a kernel.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn cgroup() -> Finding {
    let root = Path::new("/sys/fs/cgroup");
    if !root.join("cgroup.controllers").exists() {
        return Finding::ok(CHECK, "no limit of memory is read: cgroup v2 is not mounted");
    }
    let own = read("/proc/self/cgroup");
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let limit = read(root.join(own).join("memory.max")).trim().parse::<u64>();
    match limit {
        Ok(limit) if limit < MIN_MEMORY_BYTES => Finding::warning(
            CHECK,
            format!("the cgroup limits memory to {} MiB", limit >> 20),
            "allow 512 MiB or more, and what the agents need",
        ),
        Ok(limit) => Finding::ok(CHECK, format!("cgroup v2 with {} MiB of memory", limit >> 20)),
        Err(_) => Finding::ok(CHECK, "cgroup v2 without a limit of memory"),
    }
}

fn descriptors() -> Finding {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) if hard < MIN_DESCRIPTORS => Finding::warning(
            CHECK,
            format!("a process may open {hard} files and connections"),
            format!(
                "raise the hard limit to {MIN_DESCRIPTORS} or more: `ulimit -Hn`, or LimitNOFILE of the unit"
            ),
        ),
        Ok((_, hard)) => Finding::ok(CHECK, format!("{hard} open files and connections")),
        Err(error) => Finding::warning(
            CHECK,
            format!("the limit of open files is unknown: {error}"),
            "see `ulimit -Hn`",
        ),
    }
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_read_from_a_release() {
        assert_eq!(version("6.8.0-31-generic\n"), Some((6, 8)));
        assert_eq!(version("5.10"), Some((5, 10)));
        assert!(version("5.10") > Some(PIDFD) && version("4.19.1") < Some(PIDFD));
        assert_eq!(version("unknown"), None);
    }
}
