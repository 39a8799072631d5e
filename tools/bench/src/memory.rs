//! Memory of processes.

use std::fs;

use serde::Serialize;

use crate::failure::{Doing, Result};

/// Memory of several processes together, in bytes.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Memory {
    /// Number of processes.
    pub(crate) processes: usize,
    /// Resident; what they share counts once for each.
    pub(crate) rss_bytes: u64,
    /// Resident; what they share counts once.
    pub(crate) pss_bytes: u64,
}

/// The memory of the children of the process `parent`.
pub(crate) fn of_children(parent: u32) -> Result<Memory> {
    let mut memory = Memory { processes: 0, rss_bytes: 0, pss_bytes: 0 };
    for pid in children(parent)? {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).doing("smaps_rollup")?;
        memory.processes += 1;
        memory.rss_bytes += kilobytes(&rollup, "Rss:") * 1024;
        memory.pss_bytes += kilobytes(&rollup, "Pss:") * 1024;
    }
    Ok(memory)
}

/// Peak resident memory of the process `pid` in bytes.
pub(crate) fn peak(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).doing("/proc/PID/status")?;
    Ok(kilobytes(&status, "VmHWM:") * 1024)
}

/// The child of the process `parent` whose first argument is `word`.
pub(crate) fn child_of(parent: u32, word: &str) -> Option<u32> {
    children(parent).ok()?.into_iter().find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(word.as_bytes())
    })
}

/// The children of the process `parent`.
pub(crate) fn children(parent: u32) -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc").doing("/proc")?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    // A process may end meanwhile.
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| parent_in(&stat) == Some(parent))
    };
    Ok(pids.filter(is_child).collect())
}

/// The parent in a line of `/proc/PID/stat`: `PID (NAME) STATE PARENT …`, where the name may be anything.
fn parent_in(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}

fn kilobytes(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_by_their_documented_form() {
        assert_eq!(parent_in("7 (a) b) S 41 7 7 0"), Some(41));
        assert_eq!(parent_in("nonsense"), None);
        let rollup = "55d-7ff ---p 0 00:00 0 [rollup]\nRss:    1234 kB\nPss:     567 kB\nPss_Dirty: 1 kB\n";
        assert_eq!((kilobytes(rollup, "Rss:"), kilobytes(rollup, "Pss:")), (1234, 567));
    }

    #[test]
    fn a_child_is_found_and_weighed() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let memory = of_children(std::process::id()).unwrap();
        let found = child_of(std::process::id(), "30");
        let peak = peak(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(memory.processes >= 1);
        assert!(memory.rss_bytes >= memory.pss_bytes && memory.rss_bytes > 0);
        assert_eq!(found, Some(child.id()));
        assert!(peak.unwrap() > 0);
    }
}
