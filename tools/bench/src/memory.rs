//! What processes hold in memory.

use std::fs;

use serde::Serialize;

use crate::failure::{Doing, Result};

/// Memory of several processes together, in bytes.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Memory {
    /// How many processes.
    pub(crate) processes: usize,
    /// Resident; what they share counts once for each.
    pub(crate) rss_bytes: u64,
    /// Resident; what they share counts once.
    pub(crate) pss_bytes: u64,
}

/// The memory of the children of the process `parent`.
pub(crate) fn of_children(parent: u32) -> Result<Memory> {
    let mut memory = Memory { processes: 0, rss_bytes: 0, pss_bytes: 0 };
    for entry in fs::read_dir("/proc").doing("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // A process may end while we look.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        if parent_in(&stat) != Some(parent) {
            continue;
        }
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).doing("smaps_rollup")?;
        memory.processes += 1;
        memory.rss_bytes += kilobytes(&rollup, "Rss:") * 1024;
        memory.pss_bytes += kilobytes(&rollup, "Pss:") * 1024;
    }
    Ok(memory)
}

/// The parent in a line of `/proc/PID/stat`: `PID (NAME) STATE PARENT …`, where the name may be anything.
fn parent_in(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}

fn kilobytes(rollup: &str, key: &str) -> u64 {
    let line = rollup.lines().find_map(|line| line.strip_prefix(key));
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
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(memory.processes >= 1);
        assert!(memory.rss_bytes >= memory.pss_bytes && memory.rss_bytes > 0);
    }
}
